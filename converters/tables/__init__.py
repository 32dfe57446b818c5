"""Embedding tables: read from memory or files, cut and quantised a chunk of rows at a time."""
