"""Bits by frequency: which rows of a trained model's tables are worth 0, 1, 2, 3, 4 or 8 bits.

Rounding row r moves its value by some d; the training loss grows by about h_r * d^2 / 2, where h_r
is the row's Fisher information: the sum of p (1 - p) (d logit / d value)^2 over the impressions
that read it. Rows of about the same count are a class. Every class gets the bits that minimise
error + price * bits, never more than a class of more frequent values of its field, and the price
is the lowest whose bytes fit: reverse water-filling, over all fields at once.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch

from ondevice.codecs import BITS, Codec, ScaleAxis, quantise
from ondevice.errors import SpecError
from ondevice.features import FIRST_VOCABULARY_ID
from ondevice.models.click_log import ClickLog, Splits
from ondevice.models.networks import ClickModel, table_counts
from ondevice.models.search.sizing import planned_section_bytes
from ondevice.models.search.table_design import TableDesign
from ondevice.models.search.trial_data import TrialData
from ondevice.models.training.row_weights import undo_sampling

# What a class may be stored in, from the fewest bits on; None: no rows of its own.
CODECS: tuple[Codec, ...] = ("q1", "q2", "q3", "q4", "q8")
CHOICES: tuple[Codec | None, ...] = (None, *CODECS)
BATCH = 65_536
# A class ends where counts have grown by this factor, or after a share of all rows.
COUNT_STEP = 1.4
LARGEST_CLASS = 0.02
# The error of fewer rows says little: four values fit four levels exactly.
SMALLEST_CLASS = 256
# Rows that are read less often in validation than in training (by chance a value of one training
# click was seen once; another will be next time) count less: up to this many reads in training.
RARE = 32
# Sections of rows of few bits are cut into so many, each with levels of its own.
PARTS: dict[Codec, int] = {"q1": 4, "q2": 4}

Doubles = npt.NDArray[np.float64]


@dataclass(frozen=True)
class _RowClass:
    """Consecutive rows of a field: [start, stop), and the error of each of CHOICES.

    A row takes `row_bytes` in the map besides.
    """

    field: str
    start: int
    stop: int
    errors: tuple[float, ...]
    row_bytes: float = 0.0

    def bits(self, choice: int) -> float:
        """Bits of all rows, the map's among them."""
        codec = CHOICES[choice]
        if codec is None:
            return 0.0
        return (BITS[codec] + 8 * self.row_bytes) * (self.stop - self.start)


def plan_bits(
    model: ClickModel,
    splits: Splits,
    budget: float,
    owned: Mapping[str, int],
    row_bytes: Mapping[str, float] | None = None,
) -> dict[str, TableDesign]:
    """Designs of one dimension whose tables have at most `budget` bytes, by falling frequency.

    Args:
        model: trained, on frequency-ranked IDs, with whole tables of one dimension.
        splits: training says how much rows matter; validation how often rare values return.
        budget: bytes of all tables, levels included.
        owned: per field how many values own a row at most; fields of numbers keep all rows.
        row_bytes: per field what a value with a row takes besides, in the map that finds it; those
            bytes count. None for nothing.

    Returns:
        For each field a head and its sections; a head of 0 where no value is worth a bit.

    Raises:
        SpecError: a table of several dimensions, or a budget below the smallest tables.
    """
    for name in model.fields:
        if model.embedding(name).spec.dim != 1:
            raise SpecError(f"bits are planned for tables of one dimension; {name!r} has more")
    each = dict.fromkeys(model.fields, 0.0) | dict(row_bytes or {})
    classes = [
        item
        for name, matter in row_information(model, splits).items()
        for item in _classes(name, model, matter, splits, owned[name], each[name])
    ]
    low, high = 1e-12, 1e9  # prices of a bit; everything is too large at the first
    if _bytes(_choose(classes, high)) > budget:
        raise SpecError(
            f"a budget of {budget:.0f} bytes is below the {_bytes(_choose(classes, high))} of the "
            "smallest tables"
        )
    for _ in range(80):
        middle = float(np.sqrt(low * high))
        if _bytes(_choose(classes, middle)) <= budget:
            high = middle
        else:
            low = middle
    chosen = _filled(_choose(classes, high), _choose(classes, low), budget)
    chosen = _filled(chosen, _with_more_rows(chosen), budget)
    chosen = _filled(chosen, _with_more_bits(chosen), budget)
    return {name: _design(name, chosen) for name in model.fields}


def planned_for_raw_values(
    model: ClickModel, data: TrialData, budget: float, map_bytes: float = 0.0
) -> dict[str, TableDesign]:
    """What `plan_bits` plans, of a model whose IDs are those of raw values; numbers keep all rows.

    Args:
        model: trained on IDs of sorted vocabularies, with whole tables of one dimension.
        data: the log.
        budget: bytes of all tables, and of the map that finds the rows of values.
        map_bytes: of the map, for each value with a row.

    Raises:
        SpecError: see `plan_bits`.
    """
    ranked = by_rank(model, data)
    owned = {name: data.rows_of_values(name) for name in data.fields}
    row_bytes = dict.fromkeys(data.values, map_bytes)  # numbers are not among them
    designs = plan_bits(ranked, data.ranked, budget, owned, row_bytes)
    return designs | {name: replace(designs[name], head=None) for name in data.numbers}


def by_rank(model: ClickModel, data: TrialData) -> ClickModel:
    """A copy of a model of raw values, with whole tables, that reads frequency-ranked IDs.

    It answers for the log as it was sampled.
    """
    ranked = copy.deepcopy(model)
    undo_sampling(ranked, 1 / data.log.negative_sampling)  # the log is the sampled one
    for name, hashes in data.values.items():
        weight = ranked.embedding(name).weight
        ranks = torch.from_numpy(np.argsort(hashes)) + FIRST_VOCABULARY_ID
        with torch.no_grad():
            weight[ranks] = weight[FIRST_VOCABULARY_ID:].clone()
    return ranked


def row_information(model: ClickModel, splits: Splits) -> dict[str, Doubles]:
    """Fisher information float64 [rows] of every table of one dimension, of expected reads.

    That of training, times how much more or less often rows of the same training count are read
    in validation, for counts up to RARE.
    """
    train = splits.train
    total = {name: np.zeros(model.embedding(name).spec.rows) for name in model.fields}
    for start in range(0, len(train), BATCH):
        part = train.take(np.arange(start, min(start + BATCH, len(train))))
        for name, values in _squared_slopes(model, part).items():
            rows = model.embedding(name).rows(torch.from_numpy(part.ids[name]))[:, 0].numpy()
            total[name] += np.bincount(rows, values, len(total[name]))
    reads = table_counts(model, train)
    again = table_counts(model, splits.validation)
    share = len(train) / len(splits.validation)
    for name, information in total.items():
        for count in range(1, RARE + 1):
            rows = reads[name] == count
            if rows.any():
                information[rows] *= share * again[name][rows].sum() / (count * rows.sum())
    return total


def _squared_slopes(model: ClickModel, log: ClickLog) -> dict[str, Doubles]:
    """Of each row and field p (1 - p) (d logit / d value)^2, float64 [n]."""
    ids = {name: torch.from_numpy(values) for name, values in log.ids.items()}
    read = [model.embedding(name)(ids[name]).detach().requires_grad_() for name in model.fields]
    logits = model.network(torch.cat(read, -1)).squeeze(-1)
    slopes = torch.autograd.grad(logits.sum(), read)
    likely = torch.sigmoid(logits.detach())
    weight = likely * (1 - likely)
    if log.weights is not None:
        weight = weight * torch.from_numpy(log.weights)
    return {
        name: (weight * slope.squeeze(-1).square()).double().numpy()
        for name, slope in zip(model.fields, slopes, strict=True)
    }


def _classes(
    name: str,
    model: ClickModel,
    matter: Doubles,
    splits: Splits,
    owned: int,
    row_bytes: float,
) -> list[_RowClass]:
    """The classes of a field's table: the rows of IDs 0 and 1, then values by frequency.

    The errors of the first values' class contain those of IDs 0 and 1, stored like them.
    """
    values = model.embedding(name).weight.numpy(force=True)
    counts = table_counts(model, splits.train)[name]
    stop = min(len(values), owned + FIRST_VOCABULARY_ID)
    most = max(SMALLEST_CLASS, int(LARGEST_CLASS * stop))
    edges, start = [min(stop, FIRST_VOCABULARY_ID)], min(stop, FIRST_VOCABULARY_ID)
    while start < stop:
        least = counts[start] / COUNT_STEP
        end = start + int(np.searchsorted(-counts[start:stop], -least, side="left"))
        start = min(stop, max(start + SMALLEST_CLASS, end), start + most)
        edges.append(start)
    shared = np.average(values, weights=np.maximum(matter, 1e-12)[:, None], axis=0)
    classes = [_RowClass(name, 0, edges[0], (0.0,) * len(CHOICES))]
    for number, (start, end) in enumerate(itertools.pairwise(edges)):
        rows = slice(start if number else 0, end)
        errors = _errors(values[rows], matter[rows], float(shared[0]))
        classes.append(_RowClass(name, start, end, errors, row_bytes))
    return classes


def _errors(values: npt.NDArray[np.float32], matter: Doubles, shared: float) -> tuple[float, ...]:
    """The weighted squared error, halved, of rows float32 [n, 1] in each of CHOICES."""
    errors = [float((matter * (values[:, 0] - shared) ** 2).sum()) / 2]
    weights = matter + max(float(matter.mean()), 1e-9) * 1e-6  # rows that nothing reads
    for codec in CODECS:
        axis: ScaleAxis = "column" if codec == "q8" else "levels"
        stored = quantise(values, codec, scale_axis=axis, counts=weights).dequantise()
        errors.append(float((matter * (values[:, 0] - stored[:, 0]) ** 2).sum()) / 2)
    return tuple(errors)


_Chosen = list[tuple[_RowClass, int]]


def _choose(classes: list[_RowClass], price: float) -> _Chosen:
    """The choice of each class at a price of a bit; bits never grow towards rarer values.

    Rows of IDs 0 and 1 have the codec of the most frequent values, or a bit: every table has rows.
    """
    chosen: _Chosen = []
    for _, group in itertools.groupby(classes, key=lambda item: item.field):
        first, *others = group
        limit, choices = len(CHOICES) - 1, []
        for item in others:
            costs = [
                error + price * item.bits(choice)
                for choice, error in enumerate(item.errors[: limit + 1])
            ]
            limit = int(np.argmin(costs))
            choices.append((item, limit))
        most = max([1, *(choice for _, choice in choices[:1])])
        chosen += [(first, most), *choices]
    return chosen


def _bytes(chosen: _Chosen) -> int:
    """Bytes of the tables, with levels or a scale for each section, as the native file has them.

    And of the map, where rows take bytes in it.
    """
    tables = sum(
        planned_section_bytes(_sections(name, chosen), 1)
        for name in dict.fromkeys(item.field for item, _ in chosen)
    )
    rows = (item.row_bytes * (item.stop - item.start) for item, choice in chosen if choice)
    return tables + round(sum(rows))


def _sections(name: str, chosen: _Chosen) -> list[tuple[int, Codec]]:
    """A field's sections: consecutive classes of one choice, in up to PARTS parts for few bits.

    Levels of few bits cost little, and rows of another frequency have other values.
    """
    runs: dict[Codec, list[int]] = {}
    for item, choice in chosen:
        codec = CHOICES[choice]
        if item.field == name and codec is not None:
            runs.setdefault(codec, []).append(item.stop - item.start)
    sections: list[tuple[int, Codec]] = []
    for codec, rows in runs.items():
        least = sum(rows) / PARTS.get(codec, 1)
        part = 0
        for place, count in enumerate(rows):
            part += count
            if part >= least or place == len(rows) - 1:
                sections.append((part, codec))
                part = 0
    return sections


def _filled(chosen: _Chosen, richer: _Chosen, budget: float) -> _Chosen:
    """The choice, with that of the next lower price as far as bytes remain.

    Of each field that is a number of its most frequent classes, and a part of the next one.
    """
    parts = [[pair] for pair in chosen]

    def fits(place: int, upgraded: _Chosen) -> bool:
        flat = [pair for other in (*parts[:place], upgraded, *parts[place + 1 :]) for pair in other]
        return _bytes(flat) <= budget

    ended = set()
    for place, (item, choice) in enumerate(richer):
        before = chosen[place][1]
        if choice <= before or item.field in ended:
            continue
        low, high = 0, item.stop - item.start  # the most rows that fit are in low..high
        while low < high:
            middle = (low + high + 1) // 2
            if fits(place, _split(item, middle, choice, before)):
                low = middle
            else:
                high = middle - 1
        parts[place] = _split(item, low, choice, before)
        if low < item.stop - item.start:
            ended.add(item.field)
    return [pair for part in parts for pair in part]


def _with_more_rows(chosen: _Chosen) -> _Chosen:
    """The choice, in which values without a row get one as the value before them has it."""
    richer: _Chosen = []
    for item, choice in chosen:
        richer.append((item, choice or (richer[-1][1] if item.start else 0)))
    return richer


def _with_more_bits(chosen: _Chosen) -> _Chosen:
    """The choice, in which all rows have the next wider codec."""
    widest = len(CHOICES) - 1
    return [(item, min(choice + 1, widest) if choice else 0) for item, choice in chosen]


def _split(item: _RowClass, rows: int, choice: int, rest: int) -> _Chosen:
    """A class whose first rows have one choice, the others another."""
    middle = item.start + rows
    halves = [(replace(item, stop=middle), choice), (replace(item, start=middle), rest)]
    return [pair for pair in halves if pair[0].stop > pair[0].start]


def _design(name: str, chosen: _Chosen) -> TableDesign:
    """One field's head and sections."""
    sections = tuple(_sections(name, chosen))
    head = max(0, sum(rows for rows, _ in sections) - FIRST_VOCABULARY_ID)
    return TableDesign(1, sections[0][1], head, sections=sections)
