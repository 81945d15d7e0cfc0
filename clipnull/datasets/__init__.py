"""Labelled pictures from published layouts, tables and WebDataset archives, and their embeddings in shards."""
