"""The search for a small model: probes propose designs, trials of the most promising decide.

One whole model is trained for each of a few widths. Each is a probe: its tables are cut to fewer
rows and rounded to fewer bits, field by field, where a byte saved costs the least validation AUC.
Designs near the goal are then trained from the start, written and measured; what is a little too
large or too small loses or gets rows and is refitted. Where the whole file counts, files without a
vocabulary and networks with fewer units are tried too. All is kept in a folder and nothing is
random, so a stopped search continues and a repeated one ends the same.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from ondevice.atomic import atomic_path
from ondevice.errors import PARSE_ERRORS, FileFormatError
from ondevice.inspection import file_parts
from ondevice.models.checkpoint import load_checkpoint
from ondevice.models.search.design_sizes import LEAST_USE, Designs, DesignSizes
from ondevice.models.search.goal import Goal
from ondevice.models.search.probe import Point, Probe
from ondevice.models.search.proposals import CURVES, Descent, Plan, Proposals
from ondevice.models.search.run_trial import (
    folder_of,
    run_trial,
    size_before_training,
    written_axes,
)
from ondevice.models.search.size_fitter import AIM, CORRECTIONS, SizeFitter, networks
from ondevice.models.search.table_design import TableDesign
from ondevice.models.search.trial import Trial, TrialResult
from ondevice.models.search.trial_data import TrialData

# Widths of the probes. On long-tailed logs one dimension keeps nearly all AUC; the first is the
# reference's.
WIDTHS = (16, 4, 2, 1)
# Tables and maps may have to be as small as this share of a file's budget.
TABLES_OF_FILE = 0.02
# A file of fewer bytes has FEW_VECTORS rows of test vectors, which take about 40 bytes each.
SMALL_FILE = 20_000
FEW_VECTORS = 8
# Plans that are named when the search ends before them.
PLANS_LEFT = 5


@dataclass
class Search:
    """One search.

    Attributes:
        data: the prepared log.
        goal: the size or the loss to reach.
        folder: where trials and probes are stored.
        base: settings that all trials share; its tables are replaced.
        widths: of the probes; the first is the reference's. Fewer, if they were more than half of
            all trials.
        trials: how many models are trained in all, probes among them; a model that was too large
            or too small and is refitted does not count.
        results: what was measured, in this order, by the name of the trial's folder.
        left: what the search would still try, in words, once it has ended.
    """

    data: TrialData
    goal: Goal
    folder: Path
    base: Trial
    widths: tuple[int, ...] = WIDTHS
    trials: int = 16
    results: dict[str, TrialResult] = field(default_factory=dict)
    left: list[str] = field(default_factory=list)
    _proposals: Proposals | None = None

    def __post_init__(self) -> None:
        self.base = replace(self.base, ships=self.goal.ships)

    def run(self, note: Callable[[str], None]) -> Iterator[TrialResult]:
        """Measured results one by one, the reference first.

        Args:
            note: told in a few words what comes next.
        """
        self.results.clear()
        self.left.clear()
        descents = []
        for width in self.widths[: max(1, (self.trials + 1) // 2)]:
            note(f"whole tables of {width} dimension{'s' if width > 1 else ''} a value")
            trial = self._whole(width)
            yield from self._measured(trial)
            descents.append(Descent(width, self._key(trial), self._path(width)))
        base = self._small_base()
        fitter = SizeFitter(self.data, self.folder, base, self._sizes, self._header_bytes(base))
        self._proposals = Proposals(self.goal, descents, self.results, fitter)
        for plan in self._proposals.plans():
            if self.trained >= self.trials and self._key(plan.trial) not in self.results:
                self.left.append(plan.what)
                if len(self.left) == PLANS_LEFT:
                    return
                continue
            note(plan.what)
            yield from self._carried_out(plan, note)
            # what follows is named and not trained: writing files to fit it would take a minute
            fitter.estimates = self.trained >= self.trials

    @property
    def reference(self) -> TrialResult:
        """The whole model of the first width."""
        return next(iter(self.results.values()))

    def least_bytes(self) -> int | None:
        """The fewest bytes that the probes reach; None before they are there."""
        return None if self._proposals is None else self._proposals.smallest()

    @property
    def trained(self) -> int:
        """How many models were trained, refits left out."""
        return sum(not item.trial.is_refit for item in self.results.values())

    @cached_property
    def _sizes(self) -> DesignSizes:
        """What designs take, with the map bytes of the reference for each value."""
        owned = sum(len(values) for values in self.data.values.values())
        each = self.reference.map_bytes / max(owned, 1)
        return DesignSizes(self.data, self.goal.measure, each)

    def _small_base(self) -> Trial:
        """The settings that trials share: a small file has fewer test vectors."""
        return replace(self.base, vectors=FEW_VECTORS) if self._is_small else self.base

    @property
    def _is_small(self) -> bool:
        """Whether the goal is a file in which test vectors of the usual number matter."""
        most = self.goal.most_bytes(self.reference)
        return self.goal.measure == "file" and most is not None and most < SMALL_FILE

    def _header_bytes(self, base: Trial) -> int:
        """Of the reference's file, what is no table, map, network or padding.

        Float tables of a large file begin at pages; what that leaves empty says nothing of a small
        file. For a small goal a file with hardly a row says it, in which this is most of the bytes.
        """
        if self._is_small:
            network = networks(base.hidden)[-1]
            tables = {
                name: TableDesign(1, "q2", None if name in self.data.numbers else 0)
                for name in self.data.fields
            }
            trial = replace(base, tables=tables, hidden=network.hidden, dense=network.dense)
            size = size_before_training(self.data, trial, self.folder)
            counted = size.table_bytes + size.map_bytes + network.weights(len(tables))
            return size.file_bytes - counted
        path = self.folder / self._key(self.reference.trial) / f"model.{self.goal.ships}"
        return self.reference.header_bytes - file_parts(path).padding

    def _key(self, trial: Trial) -> str:
        return folder_of(self.data, trial, self.folder).name

    def _measured(self, trial: Trial) -> Iterator[TrialResult]:
        key = self._key(trial)
        if key not in self.results:
            self.results[key] = run_trial(self.data, trial, self.folder, progress=False)
            yield self.results[key]

    def _carried_out(self, plan: Plan, note: Callable[[str], None]) -> Iterator[TrialResult]:
        """Measure a plan; while its file misses the plan's size, refit it with other rows."""
        trial = plan.trial
        yield from self._measured(trial)
        if plan.most is None:
            return
        for _ in range(CORRECTIONS):
            corrected = self._corrected(self.results[self._key(trial)], plan.most)
            if corrected is None:
                return
            note(f"{plan.what}: other rows, to fit the size")
            trial = corrected
            yield from self._measured(trial)

    def _corrected(self, result: TrialResult, most: int) -> Trial | None:
        """A trial that goes on from one too large or too small; None if it fits."""
        trial, size = result.trial, result.bytes(self.goal.measure)
        axes = written_axes(self.data, trial, self.folder)
        designs: Designs | None = None
        sizes = replace(self._sizes, map=trial.map)
        if size > most:
            # what else is in a file moves by some bytes with its rows, and every refit costs time
            aim = most if self.goal.measure == "tables" else int(AIM * most)
            designs = sizes.shrunk(trial.tables, axes, size - aim)
        elif size < LEAST_USE * most:
            designs = sizes.grown(trial.tables, axes, most - size)
        if designs is None or designs == trial.tables:
            return None
        rounds = trial.round_epochs if any(item.sections for item in designs.values()) else 0
        return replace(
            trial, tables=designs, start=self._key(trial), pruned=False, round_epochs=rounds
        )

    def _whole(self, width: int) -> Trial:
        tables = {name: TableDesign(width, "f32") for name in self.data.fields}
        return replace(self.base, tables=tables, round_epochs=0)

    def _smallest(self) -> int:
        """The bytes below which the search does not look."""
        most = self.goal.most_bytes(self.reference)
        curve = self._sizes.total(
            self.reference.trial.tables, dict.fromkeys(self.data.fields)
        ) / max(CURVES["tables"])
        share = TABLES_OF_FILE if self.goal.measure == "file" else 1.0
        return int(min(curve, math.inf if most is None else share * most))

    def _path(self, width: int) -> list[Point]:
        """The descent of the probe of one width, read from its file if that exists."""
        smallest = self._smallest()
        trial_folder = folder_of(self.data, self._whole(width), self.folder)
        stored = trial_folder / f"descent-{self.goal.measure}-{smallest}.json"
        if stored.is_file():
            return _read_path(stored)
        model = load_checkpoint(trial_folder / "checkpoint").model
        splits = self.data.encoded(self._whole(width))
        probe = Probe(model, self.data, splits.validation, width, self._sizes)
        path = list(probe.descend(smallest))
        with atomic_path(stored) as temporary:
            text = json.dumps([point.to_json() for point in path])
            temporary.write_text(text + "\n", encoding="utf-8")
        return path


def _read_path(path: Path) -> list[Point]:
    try:
        items: list[dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))
        return [
            Point(
                {name: TableDesign.from_json(data) for name, data in item["designs"].items()},
                dict(item["axes"]),
                int(item["bytes"]),
                float(item["auc"]),
            )
            for item in items
        ]
    except PARSE_ERRORS as error:
        raise FileFormatError(f"{path}: not a stored descent: {error}") from error
