"""Writes .onnx: lookups as functions of standard operators, tables as external data."""
