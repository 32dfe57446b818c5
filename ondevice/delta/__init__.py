"""Differences of two model files: how they are computed, stored as .odd files, and applied."""
