"""Measuring models: the report format, the processes that measure, and what shows the figures."""
