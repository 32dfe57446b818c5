"""The table of lowering rules: for every ONNX operator that others express, the rule that does."""

from __future__ import annotations

from collections.abc import Mapping

from ondevice.converters.lowering.builder import Rule
from ondevice.converters.lowering.rules import (
    arithmetic,
    normalisation,
    products,
    recurrent,
    reductions,
    selection,
    shapes,
    trigonometry,
    windows,
)


def joined(*tables: Mapping[str, Rule]) -> dict[str, Rule]:
    """Tables of rules as one.

    Raises:
        ValueError: two of them have a rule for the same operator.
    """
    rules: dict[str, Rule] = {}
    for table in tables:
        if twice := sorted(rules.keys() & table.keys()):
            raise ValueError(f"two lowering rules for {', '.join(twice)}")
        rules.update(table)
    return rules


RULES = joined(
    arithmetic.RULES,
    normalisation.RULES,
    products.RULES,
    recurrent.RULES,
    reductions.RULES,
    selection.RULES,
    shapes.RULES,
    trigonometry.RULES,
    windows.RULES,
)
