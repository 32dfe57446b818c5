"""Tables of rules by operator, joined without two rules for one operator."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

Rule = TypeVar("Rule")


def joined(*tables: Mapping[str, Rule]) -> dict[str, Rule]:
    """Tables of rules as one.

    Raises:
        ValueError: two of them have a rule for the same operator.
    """
    rules: dict[str, Rule] = {}
    for table in tables:
        if repeated := sorted(rules.keys() & table.keys()):
            raise ValueError(f"two lowering rules for {', '.join(repeated)}")
        rules.update(table)
    return rules
