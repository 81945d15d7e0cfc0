"""The course: execute, check and publish the notebooks."""
