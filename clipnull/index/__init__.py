"""An index of vectors: its files, an edited copy, what it answers before and after."""
