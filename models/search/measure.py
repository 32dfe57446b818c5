"""What the bytes of a goal are counted of."""

from __future__ import annotations

from typing import Literal, get_args

# The whole .odm file, or its embedding tables only.
Measure = Literal["file", "tables"]
MEASURES: tuple[Measure, ...] = get_args(Measure)
