"""What table designs take of a budget, and how they grow or shrink to use it to the byte."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from ondevice.codecs import ScaleAxis
from ondevice.models.search.measure import RETRIEVAL_FROM, Measure, RowMap
from ondevice.models.search.sizing import (
    MAP_BYTES,
    planned_bytes,
    planned_cell_bytes,
    planned_section_bytes,
)
from ondevice.models.search.table_design import TableDesign
from ondevice.models.search.trial_data import TrialData

# A design that uses less of its budget than this may get more rows.
LEAST_USE = 0.99

Designs = Mapping[str, TableDesign]
Axes = Mapping[str, ScaleAxis | None]


@dataclass(frozen=True)
class DesignSizes:
    """Bytes of designs on one log.

    Attributes:
        data: the log.
        measure: "tables": tables only; "file": with the map that finds values with rows.
        map_bytes: of the map, for each value with a row.
        map: how values find their rows; with "retrieval" tables are estimates.
    """

    data: TrialData
    measure: Measure = "tables"
    map_bytes: float = MAP_BYTES
    map: RowMap = "vocabulary"

    def of(self, name: str, design: TableDesign, axis: ScaleAxis | None) -> int:
        """Bytes of one field's table, and of its part of the map if that counts."""
        values = self.data.rows_of_values(name)
        owned = design.rows_owned(values)
        cells = design.tail == "shared" and name not in self.data.numbers
        if self.map == "retrieval" and cells and owned >= RETRIEVAL_FROM:
            return planned_cell_bytes(owned, design.dim, design.codec, axis)
        if design.sections:
            size = planned_section_bytes(design.section_rows(values), design.dim)
        else:
            spec = design.spec(values, ranked=False)
            axis = "column" if design.places else axis
            size = planned_bytes(spec.rows, spec.row_dim, design.codec, axis)
        if self.measure == "tables" or name in self.data.numbers:
            return size
        return size + round(self.map_bytes * design.values_mapped(values))

    def total(self, designs: Designs, axes: Axes) -> int:
        """Bytes of all fields."""
        return sum(self.of(name, design, axes.get(name)) for name, design in designs.items())

    def fitting(
        self, path: Sequence[tuple[Designs, Axes]], most: int
    ) -> tuple[Designs, Axes] | None:
        """The first designs of a descent within `most` bytes, and what the rest of them pays for.

        The last step is undone in part, by more rows in the table that it cut; then earlier steps,
        the last ones first, where they fit; then any table gets rows that it lacks. If over 1 %
        is left then, the designs before the last step lose their rarest values' rows instead.
        """
        place = next((i for i, item in enumerate(path) if self.total(*item) <= most), None)
        if place is None or place == 0:
            return None if place is None else path[0]
        designs, axes = dict(path[place][0]), dict(path[place][1])
        left = most - self.total(designs, axes)
        steps = [
            (next(n for n in after[0] if after[0][n] != before[0][n]), before)
            for before, after in itertools.pairwise(path[: place + 1])
        ]
        left -= self._add_rows([steps[-1][0]], designs, axes, left)
        for name, (old, old_axes) in reversed(steps):
            cost = self.of(name, old[name], old_axes[name]) - self.of(
                name, designs[name], axes[name]
            )
            wider = old[name].rows_owned(self._values(name)) >= designs[name].rows_owned(
                self._values(name)
            )
            if wider and 0 < cost <= left:
                designs[name], axes[name] = old[name], old_axes[name]
                left -= cost
        left -= self._add_rows(designs, designs, axes, left)
        if left > (1 - LEAST_USE) * most:  # half the bits of a table were more than needed
            before, old_axes = path[place - 1]
            cut = self.shrunk(before, old_axes, self.total(before, old_axes) - most)
            if cut is not None and most - self.total(cut, old_axes) < left:
                return cut, old_axes
        return designs, axes

    def grown(self, designs: Designs, axes: Axes, spare: int) -> dict[str, TableDesign]:
        """The designs with more rows, for at most `spare` bytes."""
        larger = dict(designs)
        self._add_rows(designs, larger, axes, spare)
        return larger

    def shrunk(self, designs: Designs, axes: Axes, excess: int) -> dict[str, TableDesign] | None:
        """The designs without the rows of the rarest values, at least `excess` bytes smaller.

        A value loses its row before every value that training reads more often, of whichever
        field. None where values have no rows left to lose.
        """
        target = self.total(designs, axes) - excess
        low, high = 0, max((int(c.max(initial=0)) for c in self.data.counts.values()), default=0)
        if self.total(self._rows_read(designs, high), axes) > target:
            return None
        while low < high:  # the fewest reads with which rows must go
            middle = (low + high) // 2
            fits = self.total(self._rows_read(designs, middle), axes) <= target
            low, high = (low, middle) if fits else (middle + 1, high)
        smaller = self._rows_read(designs, low)
        left = target - self.total(smaller, axes)
        for name, design in self._rows_read(designs, low - 1).items():
            left -= self._add_rows([name], smaller, axes, left, design.head)
        return smaller

    def _rows_read(self, designs: Designs, reads: int) -> dict[str, TableDesign]:
        """The designs without the rows of values that training reads at most `reads` times."""
        result = dict(designs)
        for name, counts in self.data.counts.items():
            rows = designs[name].rows_owned(self._values(name))
            # a tail of hashed rows begins behind the rows of values
            fewest = min(rows, 0 if designs[name].tail == "shared" else 1)
            head = max(fewest, int((counts[:rows] > reads).sum()))
            if head < rows:
                result[name] = designs[name].with_head(head)
        return result

    def _add_rows(
        self,
        names: Iterable[str],
        designs: dict[str, TableDesign],
        axes: Axes,
        left: int,
        most: int | None = None,
    ) -> int:
        """Give tables rows that they lack, in place, while `left` bytes last; the bytes used.

        Args:
            names: of the tables, in this order.
            designs: changed.
            axes: what their scales belong to.
            left: bytes that may be used.
            most: rows that a table may have; None for one of each value.
        """
        used = 0
        for name in list(names):
            values, design = self._values(name), designs[name]
            before = self.of(name, design, axes.get(name))
            low = design.rows_owned(values)
            if low == values or (design.tail != "shared" and not low):
                continue
            high = values if design.tail == "shared" else values - 1
            high = high if most is None else min(high, most)
            while low < high:
                middle = (low + high + 1) // 2
                size = self.of(name, design.with_head(middle), axes.get(name))
                low, high = (middle, high) if size - before <= left - used else (low, middle - 1)
            if low > design.rows_owned(values):
                designs[name] = design.with_head(low)
                used += self.of(name, designs[name], axes.get(name)) - before
        return used

    def _values(self, name: str) -> int:
        return self.data.rows_of_values(name)
