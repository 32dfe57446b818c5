"""The table of lowering rules: for every ONNX operator that others express, the rule that does."""

from __future__ import annotations

from ondevice.converters.lowering.rule_tables import joined
from ondevice.converters.lowering.rules import (
    arithmetic,
    convolution,
    normalisation,
    products,
    recurrent,
    reductions,
    selection,
    shapes,
    trigonometry,
    windows,
)

RULES = joined(
    arithmetic.RULES,
    convolution.RULES,
    normalisation.RULES,
    products.RULES,
    recurrent.RULES,
    reductions.RULES,
    selection.RULES,
    shapes.RULES,
    trigonometry.RULES,
    windows.RULES,
)
