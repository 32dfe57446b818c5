"""The search for a small model: probes propose designs, trials of the most promising decide.

One whole model is trained for each of a few widths. Each is a probe: its tables are cut to fewer
rows and rounded to fewer bits, field by field, where a byte saved costs the least validation AUC.
Designs near the goal are then trained from the start, written and measured. All is kept in a
folder and nothing is random, so a stopped search continues and a repeated one ends the same.
"""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ondevice.atomic import atomic_path
from ondevice.codecs import ScaleAxis
from ondevice.errors import FileFormatError, SpecError
from ondevice.models.checkpoint import load_checkpoint
from ondevice.models.search.frontier import Frontier
from ondevice.models.search.probe import Point, Probe
from ondevice.models.search.run_trial import folder_of, run_trial
from ondevice.models.search.sizing import planned_bytes
from ondevice.models.search.table_design import HASH_BLOCKS, TableDesign, Tail
from ondevice.models.search.trial import Trial, TrialResult
from ondevice.models.search.trial_data import TrialData

# Widths of the probes. On long-tailed logs one dimension keeps nearly all AUC; the first is the
# reference's.
WIDTHS = (16, 4, 2, 1)
# Sizes tried for the curve once the goal is met, as times smaller than the reference.
CURVE = (10.0, 100.0, 1000.0, 30.0, 300.0)
# Share of a table's bytes that is given to a hashed tail where one is tried.
TAIL_SHARE = 0.1


@dataclass(frozen=True)
class Goal:
    """The goal of a search: exactly one of the three settings.

    Attributes:
        budget: most bytes of all tables.
        ratio: tables this many times smaller than the reference's.
        max_auc_loss: validation AUC that may be lost against the reference.

    Raises:
        SpecError: none or several settings, or one out of range.
    """

    budget: int | None = None
    ratio: float | None = None
    max_auc_loss: float | None = None

    def __post_init__(self) -> None:
        if sum(item is not None for item in (self.budget, self.ratio, self.max_auc_loss)) != 1:
            raise SpecError("goal: one of budget, ratio and max_auc_loss needed")
        if self.budget is not None and self.budget < 1:
            raise SpecError(f"budget must be at least 1 byte, got {self.budget}")
        if self.ratio is not None and not 1 <= self.ratio < math.inf:
            raise SpecError(f"ratio must be at least 1, got {self.ratio}")
        if self.max_auc_loss is not None and not 0 <= self.max_auc_loss < 1:
            raise SpecError(f"max-auc-loss must be 0 or more and below 1, got {self.max_auc_loss}")

    def most_bytes(self, reference: TrialResult) -> float | None:
        """The bytes that a size goal allows; None for a loss."""
        if self.budget is not None:
            return self.budget
        return None if self.ratio is None else reference.table_bytes / self.ratio

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
        return next((point for point in reversed(points) if point.table_bytes <= most), None)


@dataclass(frozen=True)
class Search:
    """One search.

    Attributes:
        data: the prepared log.
        goal: the size or the loss to reach.
        folder: where trials and probes are stored.
        base: settings that all trials share; its tables are replaced.
        widths: of the probes; the first is the reference's.
        trials: how many models are trained in all, probes among them.
    """

    data: TrialData
    goal: Goal
    folder: Path
    base: Trial
    widths: tuple[int, ...] = WIDTHS
    trials: int = 16

    def run(self, note: Callable[[str], None]) -> Iterator[TrialResult]:
        """Measured results one by one, the reference first.

        Args:
            note: told in a few words what comes next.
        """
        results: dict[str, TrialResult] = {}

        def measured(trial: Trial) -> Iterator[TrialResult]:
            key = folder_of(self.data, trial, self.folder).name
            if key not in results and len(results) < self.trials:
                note(f"trial {len(results) + 1} of at most {self.trials}")
                results[key] = run_trial(self.data, trial, self.folder, progress=False)
                yield results[key]

        paths: list[list[Point]] = []
        for width in self.widths[: self.trials]:
            yield from measured(self._whole(width))
            reference = next(iter(results.values()))
            note(f"rows and bits of {width} dimensions")
            paths.append(self._path(width, self._smallest(reference)))
        if self.goal.max_auc_loss is not None:
            plans: Iterator[Trial] = self._within_loss(paths, results, self.goal.max_auc_loss)
        else:
            plans = self._within_bytes(paths, results, self.goal.most_bytes(reference) or 0.0)
        for trial in itertools.chain(plans, self._curve(paths, reference)):
            yield from measured(trial)
            if len(results) >= self.trials:
                return

    def _whole(self, width: int) -> Trial:
        tables = {name: TableDesign(width, "f32") for name in self.data.fields}
        return replace(self.base, tables=tables, round_epochs=0)

    def _trial(self, designs: dict[str, TableDesign]) -> Trial:
        return replace(self.base, tables=designs)

    def _smallest(self, reference: TrialResult) -> int:
        """The bytes below which the search does not look."""
        most = self.goal.most_bytes(reference)
        return int(min(reference.table_bytes / max(CURVE), math.inf if most is None else most))

    def _path(self, width: int, smallest: int) -> list[Point]:
        """The descent of the probe of one width, read from its file if that exists."""
        trial_folder = folder_of(self.data, self._whole(width), self.folder)
        stored = trial_folder / f"descent-{smallest}.json"
        if stored.is_file():
            return _read_path(stored)
        model = load_checkpoint(trial_folder / "checkpoint").model
        splits = self.data.encoded(self._whole(width))
        path = list(Probe(model, self.data, splits.validation, width).descend(smallest))
        with atomic_path(stored) as temporary:
            text = json.dumps([point.to_json() for point in path])
            temporary.write_text(text + "\n", encoding="utf-8")
        return path

    def _within_bytes(
        self, paths: list[list[Point]], results: dict[str, TrialResult], most: float
    ) -> Iterator[Trial]:
        """Designs of at most `most` bytes, the best of each width first, then variants."""
        fitted = [point for path in paths if (point := self._fitted(path, most)) is not None]
        for point in sorted(fitted, key=lambda p: -p.auc)[:3]:
            yield self._trial(point.designs)
        within = [result for result in results.values() if result.table_bytes <= most]
        if within:
            best = max(within, key=lambda result: result.validation_auc)
            yield from self._tails(best)

    def _within_loss(
        self, paths: list[list[Point]], results: dict[str, TrialResult], loss: float
    ) -> Iterator[Trial]:
        """Bisection along the probes' frontier for the smallest model within a loss."""
        points = _proposals(paths)
        lowest = next(iter(results.values())).validation_auc - loss
        low, high = -1, len(points)  # the first fails, the second holds
        # where the probes think the limit is; each probe's own best stands for no loss
        top = max(point.auc for point in points)
        middle = next(i for i, point in enumerate(points) if point.auc >= top - loss)
        while high - low > 1:
            trial = self._trial(points[middle].designs)
            yield trial
            result = results.get(folder_of(self.data, trial, self.folder).name)
            if result is None:
                return
            if result.validation_auc >= lowest:
                high = middle
            else:
                low = middle
            middle = (low + high) // 2

    def _curve(self, paths: list[list[Point]], reference: TrialResult) -> Iterator[Trial]:
        """The best design near each size of the curve."""
        for ratio in CURVE:
            most = reference.table_bytes / ratio
            fitted = [point for path in paths if (point := self._fitted(path, most)) is not None]
            if fitted:
                yield self._trial(max(fitted, key=lambda point: point.auc).designs)

    def _fitted(self, path: list[Point], most: float) -> Point | None:
        """The first point within `most` bytes; the remaining bytes pay for rows of cut tables."""
        place = next((i for i, point in enumerate(path) if point.bytes <= most), None)
        if place is None:
            return None
        point = path[place]
        if place == 0:
            return point
        before = path[place - 1]
        last = next(n for n in point.designs if point.designs[n] != before.designs[n])
        designs = dict(point.designs)
        left = most - point.bytes - len(designs)  # every table ends on a whole byte
        for name in sorted(designs, key=lambda item: item != last):  # first the table cut last
            design = designs[name]
            each = point.row_bytes if name == last else _most_row_bytes(design)
            missing = self._values(name) - design.rows_owned(self._values(name))
            more = max(0, min(missing, int(left / each)))
            if more:
                designs[name] = replace(design, head=(design.head or 0) + more)
                left -= more * each
        return replace(point, designs=designs)

    def _tails(self, best: TrialResult) -> Iterator[Trial]:
        """The best design with a hashed tail in the largest cut table, paid for by its head."""
        tables = dict(best.trial.tables)
        cut = {
            name: design.head
            for name, design in tables.items()
            if design.head and design.head < self._values(name)
        }
        if not cut:
            return
        name = max(cut, key=lambda item: cut[item])
        design = tables[name]
        rows = design.rows_owned(self._values(name))
        tail = max(2 * HASH_BLOCKS, int(rows * TAIL_SHARE))
        t = max(1, int(math.log2(tail / HASH_BLOCKS)))
        kinds: tuple[tuple[Tail, int], ...] = (("binary_code", t), ("hash", tail))
        for kind, size in kinds:
            hashed = replace(design, head=max(1, rows - tail), tail=kind, size=size)
            yield self._trial({**tables, name: hashed})

    def _values(self, name: str) -> int:
        return self.data.rows_of_values(name)


def _most_row_bytes(design: TableDesign) -> float:
    """Bytes of a row, with a row scale if it has several dimensions."""
    axis: ScaleAxis = "row" if design.dim > 1 else "column"
    bytes_of_1, bytes_of_2 = (
        planned_bytes(rows, design.dim, design.codec, axis) for rows in (1, 2)
    )
    return bytes_of_2 - bytes_of_1


def _proposals(paths: list[list[Point]]) -> list[Point]:
    """The points of all probes that no other beats in bytes and AUC, by ascending bytes."""
    best: list[Point] = []
    for point in sorted(itertools.chain(*paths), key=lambda p: (p.bytes, -p.auc)):
        if not best or point.auc > best[-1].auc:
            best.append(point)
    return best


def _read_path(path: Path) -> list[Point]:
    try:
        items: list[dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))
        return [
            Point(
                {name: TableDesign(**design) for name, design in item["designs"].items()},
                int(item["bytes"]),
                float(item["auc"]),
                float(item["row_bytes"]),
            )
            for item in items
        ]
    except (OSError, ValueError, KeyError, TypeError, AttributeError, SpecError) as error:
        raise FileFormatError(f"{path}: not a stored descent: {error}") from error
