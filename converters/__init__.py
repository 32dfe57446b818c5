"""Torch models to ONNX, TFLite and native files."""

from ondevice.errors import needs_extra

with needs_extra("ondevice.converters", "convert"):
    from ondevice.converters.convert import convert
    from ondevice.converters.verify.report import ConversionReport, TargetReport
    from ondevice.converters.verify.verification import Validation

__all__ = ["ConversionReport", "TargetReport", "Validation", "convert"]
