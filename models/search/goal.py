"""The goal of a search: a size of the file or of its tables, or a loss of AUC."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from ondevice.errors import SpecError
from ondevice.models.search.frontier import Frontier
from ondevice.models.search.measure import MEASURES, SHIPPED_FILES, Measure, ShippedFile
from ondevice.models.search.trial import TrialResult

UNITS = {"": 1, "B": 1, "KB": 1000, "MB": 1000**2, "KIB": 1024, "MIB": 1024**2}


@dataclass(frozen=True)
class Goal:
    """The goal of a search: exactly one of the first three settings.

    Attributes:
        budget: most bytes.
        ratio: so many times fewer bytes than the reference has.
        max_auc_loss: validation AUC that may be lost against the reference.
        measure: what bytes are counted of.
        ships: the file whose bytes count; only .odm files count by their tables.

    Raises:
        SpecError: none or several settings, or one out of range.
    """

    budget: int | None = None
    ratio: float | None = None
    max_auc_loss: float | None = None
    measure: Measure = "tables"
    ships: ShippedFile = "odm"

    def __post_init__(self) -> None:
        if sum(item is not None for item in (self.budget, self.ratio, self.max_auc_loss)) != 1:
            raise SpecError("goal: one of budget, ratio and max_auc_loss needed")
        if self.budget is not None and self.budget < 1:
            raise SpecError(f"budget must be at least 1 byte, got {self.budget}")
        if self.ratio is not None and not 1 <= self.ratio < math.inf:
            raise SpecError(f"ratio must be at least 1, got {self.ratio}")
        if self.max_auc_loss is not None and not 0 <= self.max_auc_loss < 1:
            raise SpecError(f"max-auc-loss must be 0 or more and below 1, got {self.max_auc_loss}")
        if self.measure not in MEASURES:
            raise SpecError(f"measure must be {' or '.join(MEASURES)}, got {self.measure!r}")
        if self.ships not in SHIPPED_FILES or (self.ships != "odm" and self.measure != "file"):
            raise SpecError(
                f"the file that ships must be {' or '.join(SHIPPED_FILES)}, the latter two with "
                f"the measure 'file'; got {self.ships!r} with {self.measure!r}"
            )

    @property
    def name(self) -> str:
        """A short name for a folder, such as file-200000B, onnx-100x or tables-loss-0.002."""
        measure = self.measure if self.ships == "odm" else self.ships
        if self.budget is not None:
            return f"{measure}-{self.budget}B"
        if self.ratio is not None:
            return f"{measure}-{self.ratio:g}x"
        return f"{measure}-loss-{self.max_auc_loss:g}"

    def most_bytes(self, reference: TrialResult) -> int | None:
        """The bytes that a size goal allows; None for a loss."""
        if self.budget is not None:
            return self.budget
        if self.ratio is None:
            return None
        return int(reference.bytes(self.measure) / self.ratio)

    def choose(self, frontier: Frontier) -> TrialResult | None:
        """The point that meets the goal, or None.

        For a size: the point of highest validation AUC within it. For a loss: the smallest point
        within it.
        """
        points, reference = frontier.points, frontier.reference
        most = self.most_bytes(reference)
        if most is None:
            lowest = reference.validation_auc - (self.max_auc_loss or 0.0)
            return next((point for point in points if point.validation_auc >= lowest), None)
        return next(
            (point for point in reversed(points) if point.bytes(self.measure) <= most), None
        )


def parse_goal(budget: str | None, ratio: str | None, max_auc_loss: str | None) -> Goal:
    """The goal of three options, of which one is given.

    Args:
        budget: such as "200KB" or "file:200KB" (the whole .odm file), "onnx:200KB" or
            "tflite:200KB" (that file), or "tables:20KB".
        ratio: such as "100" or "tables:100", or "file:10", "onnx:10", "tflite:10".
        max_auc_loss: such as "0.002" or "tables:0.002" (the smallest tables within it), or
            "file:0.002", "onnx:0.002" or "tflite:0.002" (the smallest file).

    Raises:
        SpecError: text that is none of these, or a goal out of range.
    """
    if budget is not None:
        measure, ships, text = _measured(budget, "file")
        return Goal(budget=parse_size(text), measure=measure, ships=ships)
    if ratio is not None:
        measure, ships, text = _measured(ratio, "tables")
        return Goal(ratio=_number("--ratio", text, "100 or file:10"), measure=measure, ships=ships)
    if max_auc_loss is not None:
        measure, ships, text = _measured(max_auc_loss, "tables")
        loss = _number("--max-auc-loss", text, "0.002 or file:0.002")
        return Goal(max_auc_loss=loss, measure=measure, ships=ships)
    return Goal()


def parse_size(text: str) -> int:
    """Bytes of a size such as 20KB (1000) or 20KiB (1024). Raises SpecError."""
    match = re.fullmatch(r"(\d{1,15}(?:\.\d{1,9})?)\s*([A-Za-z]*)", text.strip())
    if match is None or match[2].upper() not in UNITS:
        raise SpecError(
            f"expected a size such as 20KB or 1.5MiB, alone (the whole .odm file) or after onnx:, "
            f"tflite: or tables:, got {text!r}"
        )
    return int(float(match[1]) * UNITS[match[2].upper()])


def _measured(text: str, default: Measure) -> tuple[Measure, ShippedFile, str]:
    """The measure and the file that a text begins with, and the rest."""
    for ships in SHIPPED_FILES:
        if text.startswith(f"{ships}:"):
            return "file", ships, text.removeprefix(f"{ships}:")
    for measure in MEASURES:
        if text.startswith(f"{measure}:"):
            return measure, "odm", text.removeprefix(f"{measure}:")
    return default, "odm", text


def _number(option: str, text: str, example: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise SpecError(f"{option}: expected a number such as {example}, got {text!r}") from None
