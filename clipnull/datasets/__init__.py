"""Labelled pictures: published layouts, tables, WebDataset; a data set embedded once, in shards."""
