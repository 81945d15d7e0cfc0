"""A vector index: its files, an edited copy, and a comparison of its answers before and after."""
