"""Torch models to ONNX, TFLite and native files."""

from ondevice.converters.convert import ConversionReport, TargetReport, convert

__all__ = ["ConversionReport", "TargetReport", "convert"]
