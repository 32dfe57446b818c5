"""Torch and ONNX models to ONNX, TFLite and native files."""
