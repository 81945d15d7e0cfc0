"""The course: what executes, checks and publishes the notebooks."""
