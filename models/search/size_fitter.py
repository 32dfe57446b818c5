"""Fits the designs of a probe to a size, by the bytes of written files where the file counts."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from ondevice.codecs import DenseCodec
from ondevice.errors import SpecError
from ondevice.features import FIRST_VOCABULARY_ID
from ondevice.models.checkpoint import load_checkpoint
from ondevice.models.networks import ClickModel
from ondevice.models.search.bit_plan import by_rank, planned_for_raw_values
from ondevice.models.search.design_sizes import LEAST_USE, Designs, DesignSizes
from ondevice.models.search.hashed_rows import OverlappingBlocks, hashed_designs
from ondevice.models.search.measure import RowMap
from ondevice.models.search.place_codes import coded_designs, field_weights
from ondevice.models.search.probe import Point
from ondevice.models.search.run_trial import FileSize, size_before_training
from ondevice.models.search.table_design import TableDesign
from ondevice.models.search.trial import Trial
from ondevice.models.search.trial_data import TrialData

# How often a size is corrected before training.
CORRECTIONS = 4
# Corrected sizes aim at this share of the most bytes, in the middle of LEAST_USE and all of them.
AIM = (1 + LEAST_USE) / 2
# Dimensions and form of rows that values share by their hashes; one dimension is worse at equal
# bytes.
HASHED_WIDTH = 4
CODES = OverlappingBlocks(None)
# Last epochs that train with rows of few bits as they will be stored.
ROUND_EPOCHS = 2
UNIT_BLOCK = 16  # a native file stores units in blocks of so many
# Shares of the hidden units with which networks are tried where the file counts.
HIDDEN_SHARES = (1.0, 0.5, 0.25, 0.125)


@dataclass(frozen=True)
class Network:
    """Hidden sizes of a network and the codec of its layers."""

    hidden: tuple[int, ...]
    dense: DenseCodec

    def __str__(self) -> str:
        units = "-".join(map(str, self.hidden)) or "no hidden units"
        return f"network {units} in {self.dense}"

    def weights(self, inputs: int) -> int:
        """How many weights it has for so many inputs."""
        sizes = (inputs, *self.hidden, 1)
        return sum(before * after for before, after in itertools.pairwise(sizes))


def networks(hidden: tuple[int, ...]) -> tuple[Network, ...]:
    """Networks from the given hidden sizes downwards, in whole blocks of units, in q8.

    The last one has no hidden units.
    """
    sizes: list[tuple[int, ...]] = []
    for share in HIDDEN_SHARES:
        units = tuple(
            min(size, max(UNIT_BLOCK, round(size * share / UNIT_BLOCK) * UNIT_BLOCK))
            for size in hidden
        )
        if units not in sizes:
            sizes.append(units)
    if () not in sizes:
        sizes.append(())
    return tuple(Network(units, "q8") for units in sizes)


@dataclass
class SizeFitter:
    """Trials of a probe's designs that use a size to the byte.

    Attributes:
        data: the log.
        folder: where trials are stored.
        base: settings that all trials share.
        sizes: what designs take with a vocabulary.
        header_bytes: of a file, what is no table, map or network; an estimate.
        estimates: fit by estimates of what a file takes beside tables and map, without writing one:
            for plans that are only named.
    """

    data: TrialData
    folder: Path
    base: Trial
    sizes: DesignSizes
    header_bytes: int
    estimates: bool = False
    _rest: dict[tuple[str, Network, RowMap], int] = field(default_factory=dict)

    def sizes_of(self, row_map: RowMap) -> DesignSizes:
        """What designs take with this map."""
        return replace(self.sizes, map=row_map)

    def promised(self, path: Sequence[Point], network: Network, most: int) -> float | None:
        """The AUC that a probe promises within `most` bytes, without training; None: nothing fits.

        The bytes of a file beside its tables and its map are an estimate.
        """
        rest = self.rest_of_file(path, network)
        return next((point.auc for point in path if point.bytes <= most - rest), None)

    def rest_of_file(self, path: Sequence[Point], network: Network) -> int:
        """About what counts beside tables and map."""
        if self.sizes.measure == "tables":
            return 0
        inputs = sum(design.dim for design in path[0].designs.values())
        return self.header_bytes + network.weights(inputs)

    def fitted(
        self,
        path: Sequence[Point],
        probe: str,
        network: Network,
        most: int,
        row_map: RowMap = "vocabulary",
    ) -> Trial | None:
        """The trial of a descent's first designs within `most` bytes; the rest pays for rows.

        Args:
            path: of the probe.
            probe: the folder name of the whole model behind it.
            network: of the trial.
            most: bytes, of what the sizes measure.
            row_map: how values find their rows.

        Returns:
            A trial that is trained from new; None if not even the last designs fit.
        """
        designs = [(point.designs, point.axes) for point in path]
        sizes = self.sizes_of(row_map)
        best, key = None, (probe, network, row_map)
        rest = self._rest.get(key, self.rest_of_file(path, network))
        if sizes.measure == "tables" or self.estimates:
            fitting = sizes.fitting(designs, most - rest)
            return None if fitting is None else self._trial(fitting[0], network, row_map)
        for _ in range(CORRECTIONS):
            fitting = sizes.fitting(designs, most - rest)
            if fitting is None and best is not None:
                break
            tables, axes = fitting or designs[-1]
            trial = self._trial(tables, network, row_map)
            size = self._size(trial, probe).file_bytes
            rest = size - sizes.total(tables, axes)
            if size <= most:
                best = trial
            if LEAST_USE * most <= size <= most or (fitting is None and size > most):
                break
        self._rest[key] = rest
        return best

    def _trial(self, tables: Designs, network: Network, row_map: RowMap) -> Trial:
        return replace(
            self.base, tables=tables, hidden=network.hidden, dense=network.dense, map=row_map
        )

    def with_bits_by_frequency(self, trial: Trial, probe: str, most: int) -> Trial | None:
        """The trial with the rows and bits that values get by their frequency (see `bit_plan`).

        Args:
            trial: of one dimension and vocabularies, within `most` bytes.
            probe: the folder name of the whole model behind it.
            most: bytes, of what the sizes measure.

        Returns:
            A trial that is trained from new, as given if only `estimates` are wanted; None if no
            tables are that small.
        """
        if self.estimates:
            return trial
        model = load_checkpoint(self.folder / probe / "checkpoint").model
        rounds = max(trial.round_epochs, ROUND_EPOCHS)
        if self.sizes.measure == "tables":
            tables = self._planned(model, most, 0.0)
            return None if tables is None else replace(trial, tables=tables, round_epochs=rounds)
        best, size = None, self._size(trial, probe)
        budget = most - (size.file_bytes - size.table_bytes - size.map_bytes)
        for _ in range(CORRECTIONS):
            tables = self._planned(model, budget, self.sizes.map_bytes)
            if tables is None:
                break
            planned = replace(trial, tables=tables, round_epochs=rounds)
            used = self._size(planned, probe).file_bytes
            if used <= most:
                best = planned
            if LEAST_USE * most <= used <= most:
                break
            budget += int(AIM * most) - used
        return best

    def coded(self, network: Network, probe: str, most: int) -> Trial | None:
        """A trial whose fields of many values share the rows of codes of the values' places.

        Args:
            network: of the trial.
            probe: the folder name of the whole model of one dimension.
            most: bytes of all tables.

        Returns:
            A trial that is trained from new; None if the tables may take a bit a value or more, or
            are too small for codes.
        """
        values = sum(self.data.rows_of_values(name) for name in self.data.values)
        if 8 * most >= values:
            return None
        model = load_checkpoint(self.folder / probe / "checkpoint").model
        weights = field_weights(by_rank(model, self.data), self.data)
        tables = coded_designs(weights, self.data, most)
        if tables is None:
            return None
        rounds = max(self.base.round_epochs, ROUND_EPOCHS)
        return replace(self._trial(tables, network, "vocabulary"), round_epochs=rounds)

    def hashed(self, network: Network, most: int) -> Trial | None:
        """A trial whose fields share the rows of binary codes of hashes, without vocabularies.

        Fields of few values have a row for each, and a vocabulary.

        Args:
            network: of the trial.
            most: bytes, of what the sizes measure.

        Returns:
            A trial that is trained from new; None if not even a few rows for each field fit.
        """
        if self.sizes.measure == "tables":
            tables = self._hashed_tables(most)
            return None if tables is None else self._trial(tables, network, "vocabulary")
        best, rest = None, self.header_bytes
        for _ in range(CORRECTIONS):
            tables = self._hashed_tables(most - rest)
            if tables is None:
                break
            trial = self._trial(tables, network, "vocabulary")
            if self.estimates:
                return trial
            used = size_before_training(self.data, trial, self.folder).file_bytes
            if used <= most:
                best = trial
            if LEAST_USE * most <= used <= most:
                break
            rest = used - self.sizes.total(tables, {}) + most - int(AIM * most)
        return best

    def _hashed_tables(self, budget: int) -> Designs | None:
        """Designs of values that share rows by their hashes, of about `budget` bytes with maps."""
        values = {name: self.data.rows_of_values(name) for name in self.data.values}
        numbers = {name: TableDesign(HASHED_WIDTH, "q4") for name in self.data.numbers}
        best: Designs | None = None
        low, high = 0, sum(values.values()) + FIRST_VOCABULARY_ID * len(values)
        while low < high:
            middle = (low + high + 1) // 2
            tables = hashed_designs(CODES, values, middle, HASHED_WIDTH, "q4")
            if tables is None:  # too few for all fields
                low = middle
            elif self.sizes.total(tables | numbers, {}) <= budget:
                best, low = tables | numbers, middle
            else:
                high = middle - 1
        return best

    def _planned(self, model: ClickModel, budget: int, map_bytes: float) -> Designs | None:
        """Tables with bits by frequency; None if not even the smallest are within the budget."""
        try:
            return planned_for_raw_values(model, self.data, budget, map_bytes)
        except SpecError:
            return None

    def _size(self, trial: Trial, probe: str) -> FileSize:
        """What a trial's file takes, written with the rows and units of the probe.

        With initial ones, if the network has other layers.
        """
        if len(trial.hidden) == len(self.base.hidden):
            pruned = trial.hidden != self.base.hidden
            trial = replace(trial, start=probe, pruned=pruned)
        return size_before_training(self.data, trial, self.folder)
