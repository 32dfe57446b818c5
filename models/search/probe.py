"""A probe: a trained model whose tables are cut and rounded without training it again."""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace

import numpy as np
import numpy.typing as npt
import torch
from sklearn.metrics import roc_auc_score
from torch import Tensor

from ondevice.codecs import INTEGER_CODECS, Codec, ScaleAxis, quantise
from ondevice.features import FIRST_VOCABULARY_ID, OOV_ID
from ondevice.models.click_log import ClickLog
from ondevice.models.networks import ClickModel
from ondevice.models.search.design_sizes import DesignSizes
from ondevice.models.search.table_design import TableDesign
from ondevice.models.search.trial_data import TrialData

# Thresholds of a head grow by this factor, and a step must drop a twentieth of the rows.
COUNT_STEP = 1.5
LEAST_DROPPED = 0.05
# Validation rows that decide: differences between two cuts of one model are paired, so few do.
PROBE_ROWS = 50_000


@dataclass(frozen=True)
class Point:
    """Designs a probe has tried.

    Attributes:
        designs: of each field.
        axes: of each field, what the scales of its table belong to.
        bytes: planned.
        auc: of the probe on validation rows, cut and rounded, not trained again.
    """

    designs: dict[str, TableDesign]
    axes: dict[str, ScaleAxis | None]
    bytes: int
    auc: float

    def to_json(self) -> dict[str, object]:
        """A JSON-ready object."""
        tables = {name: asdict(item) for name, item in self.designs.items()}
        return {**self.__dict__, "designs": tables}


class Probe:
    """A trained model with one whole float table per field, and validation rows.

    Tables are rounded once in each codec, as a whole: a head's own scales may be a little better.

    Args:
        model: with vocabulary IDs (rows in the order of the sorted hashes), a "dnn".
        data: the prepared log.
        validation: encoded for that model.
        dim: width of its tables.
        sizes: what designs take.
    """

    def __init__(
        self,
        model: ClickModel,
        data: TrialData,
        validation: ClickLog,
        dim: int,
        sizes: DesignSizes,
    ) -> None:
        self.dim = dim
        self._sizes = sizes
        self._network = model.network
        rows = validation.take(np.arange(min(PROBE_ROWS, len(validation))))
        self._labels, self._weights = rows.labels, rows.weights
        self._counts = data.counts
        self._fields: dict[str, _RoundedTable] = {}
        for name in model.fields:
            table = model.embedding(name).weight.numpy(force=True)
            if name in data.numbers:
                self._fields[name] = _RoundedTable(table, rows.ids[name])
            else:
                order = np.argsort(np.argsort(data.values[name]))  # of rank r: its row, less two
                self._fields[name] = _RankedTable(table, rows.ids[name], order, data.counts[name])

    def start(self) -> dict[str, TableDesign]:
        """The first designs: all rows, in the widest of INTEGER_CODECS."""
        return {name: TableDesign(self.dim, INTEGER_CODECS[0]) for name in self._fields}

    @torch.no_grad()
    def auc(self, designs: Mapping[str, TableDesign]) -> float:
        """AUC on the validation rows with tables as in `designs`."""
        vectors = [item.vectors(designs[name]) for name, item in self._fields.items()]
        logits = self._network(torch.cat(vectors, -1)).squeeze(-1)
        return float(roc_auc_score(self._labels, logits.numpy(), sample_weight=self._weights))

    def point(self, designs: Mapping[str, TableDesign], auc: float) -> Point:
        """These designs with what they take."""
        axes = {name: self._axis(name, design.codec) for name, design in designs.items()}
        return Point(dict(designs), axes, self._sizes.total(designs, axes), auc)

    def table_bytes(self, name: str, design: TableDesign) -> int:
        """What one field takes, with scales as its whole table has them in this codec."""
        return self._sizes.of(name, design, self._axis(name, design.codec))

    def _axis(self, name: str, codec: Codec) -> ScaleAxis | None:
        return self._fields[name].rounded(codec)[1]

    def fewer_rows(self, name: str, design: TableDesign) -> TableDesign | None:
        """The next smaller head of a field, or None; the buckets of a number keep their rows."""
        if name not in self._counts:
            return None
        counts = self._counts[name]  # falling
        own_rows = design.rows_owned(len(counts))
        if not own_rows:
            return None
        least = int(counts[own_rows - 1])
        threshold = least + 1
        while True:
            head = int(np.searchsorted(-counts, -threshold, side="right"))
            if head <= own_rows * (1 - LEAST_DROPPED):
                return replace(design, head=head)
            threshold = max(threshold + 1, int(threshold * COUNT_STEP))

    def fewer_bits(self, design: TableDesign) -> TableDesign | None:
        """The same rows in the next narrower codec, or None."""
        place = INTEGER_CODECS.index(design.codec) + 1
        return replace(design, codec=INTEGER_CODECS[place]) if place < len(INTEGER_CODECS) else None

    def descend(self, smallest: int) -> Iterator[Point]:
        """Smaller and smaller designs, until `smallest` bytes are reached or nothing is left.

        Each step takes rows or bits from the field where a byte saved costs the least AUC
        (greedy; a field is measured again only when it looks best).
        """
        designs = self.start()
        point = self.point(designs, self.auc(designs))
        yield point
        # -inf: not measured since the designs changed
        queue: list[tuple[float, str, str, int, float]] = []
        stamp = 0

        def push(name: str, kind: str) -> None:
            heapq.heappush(queue, (-np.inf, name, kind, -1, 0.0))

        for name in designs:
            push(name, "bits")
            push(name, "rows")
        while queue and point.bytes > smallest:
            price, name, kind, measured, auc = heapq.heappop(queue)
            design = designs[name]
            after = self.fewer_bits(design) if kind == "bits" else self.fewer_rows(name, design)
            if after is None:
                continue
            if measured != stamp:
                auc = self.auc({**designs, name: after})
                saved = self.table_bytes(name, design) - self.table_bytes(name, after)
                price = (point.auc - auc) / max(saved, 1e-9)
                heapq.heappush(queue, (price, name, kind, stamp, auc))
                continue
            designs = {**designs, name: after}
            stamp += 1
            push(name, kind)
            point = self.point(designs, auc)
            yield point


class _RoundedTable:
    """The vectors that validation rows read from one table of whole rows, in any codec.

    Args:
        table: float32 [rows, dim].
        ids: int64 [n] of the validation rows.
    """

    def __init__(self, table: npt.NDArray[np.float32], ids: npt.NDArray[np.int64]) -> None:
        self._table, self._ids = table, ids
        self._rounded: dict[Codec, tuple[npt.NDArray[np.float32], ScaleAxis | None]] = {}

    def rounded(self, codec: Codec) -> tuple[npt.NDArray[np.float32], ScaleAxis | None]:
        """Vectors float32 [n, dim] of the whole table in a codec, and what its scales belong to."""
        if codec not in self._rounded:
            stored = quantise(self._table, codec)
            self._rounded[codec] = stored.dequantise()[self._ids], stored.scale_axis
        return self._rounded[codec]

    def vectors(self, design: TableDesign) -> Tensor:
        """Vectors float32 [n, dim]."""
        return torch.from_numpy(self.rounded(design.codec)[0])


class _RankedTable(_RoundedTable):
    """A table whose rarest values may lose their rows; they then read the mean of these.

    Args:
        table: float32 [2 + values, dim].
        ids: int64 [n] of the validation rows.
        order: int64 [values], of the value of each frequency rank its row, less two.
        counts: int64 [values], training counts by rank.
    """

    def __init__(
        self,
        table: npt.NDArray[np.float32],
        ids: npt.NDArray[np.int64],
        order: npt.NDArray[np.int64],
        counts: npt.NDArray[np.int64],
    ) -> None:
        super().__init__(table, ids)
        ranks = np.empty(len(table), dtype=np.int64)
        ranks[order + FIRST_VOCABULARY_ID] = np.arange(len(order))
        ranks[:FIRST_VOCABULARY_ID] = -1
        ranks[OOV_ID] = len(order)  # an unseen value is dropped first
        self._ranks = ranks[ids]
        # sums over the values behind each rank, for the mean of those that are dropped
        weighted = counts[:, None] * table[order + FIRST_VOCABULARY_ID].astype(np.float64)
        self._sums = np.cumsum(weighted[::-1], axis=0)[::-1]
        self._totals = np.cumsum(counts[::-1])[::-1]

    def vectors(self, design: TableDesign) -> Tensor:
        """Vectors float32 [n, dim]; a value without a row has the mean of all dropped rows."""
        vectors = self.rounded(design.codec)[0]
        own_rows = design.rows_owned(len(self._totals))
        if own_rows == len(self._totals):
            return torch.from_numpy(vectors)
        shared = (self._sums[own_rows] / self._totals[own_rows]).astype(np.float32)
        dropped = (self._ranks >= own_rows)[:, None]
        return torch.from_numpy(np.where(dropped, shared, vectors))
