"""Rows of binary codes of a value's place: designs for budgets below a bit or two for each value.

The places of a field's values, by falling frequency, are cut into two or three blocks of bits. Each
block has a short row, and the rows of a value are concatenated, so that the network tells apart
what shares a row. Fields get bytes by what their values say: the variance of a table of one
dimension, weighed by the Fisher information of its rows, which is about what the training loss
would grow by if all values of the field read one row.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from ondevice.codecs import Codec
from ondevice.features import FIRST_VOCABULARY_ID
from ondevice.models.networks import ClickModel
from ondevice.models.search.bit_plan import row_information
from ondevice.models.search.sizing import planned_bytes
from ondevice.models.search.table_design import TableDesign, code_bits
from ondevice.models.search.trial_data import TrialData
from ondevice.spec import LookupSpec, binary_code_spec

CODEC: Codec = "q4"
# A field whose values can each have a row of one dimension for this share of the budget has them.
WHOLE_SHARE = 1 / 16
# Rows of fewer dimensions in two blocks are worse than rows of more dimensions in three.
LEAST_DIM = 2
MOST_BLOCKS = 3
# Wider rows would be worth a row in more places of the code, which has none to give.
MOST_DIM = 8


def field_weights(model: ClickModel, data: TrialData) -> dict[str, float]:
    """What each field's values say: the weighted variance of its table times what it is read.

    Args:
        model: trained, on frequency-ranked IDs, with whole tables of one dimension.
        data: the log it was trained on.
    """
    weights = {}
    for name, information in row_information(model, data.ranked).items():
        values = model.embedding(name).weight.numpy(force=True)[:, 0].astype(np.float64)
        total = information.sum()
        mean = (information * values).sum() / max(total, 1e-12)
        weights[name] = float((information * (values - mean) ** 2).sum())
    return weights


def coded_designs(
    weights: Mapping[str, float], data: TrialData, budget: int
) -> dict[str, TableDesign] | None:
    """Tables of at most `budget` bytes, of codes where a field's values are too many for rows.

    A field whose share of the bytes is too small for a code has one row for all of its values.

    Args:
        weights: of the fields, see `field_weights`.
        data: the log.
        budget: bytes of all tables.

    Returns:
        None if no field has a code: the bytes are too few, or enough for a row a value.
    """
    tables = {name: TableDesign(1, CODEC) for name in data.numbers}
    for name in data.values:
        if _whole_bytes(data.rows_of_values(name)) <= WHOLE_SHARE * budget:
            tables[name] = TableDesign(1, CODEC)
    left = budget - sum(_whole_bytes(data.rows_of_values(name)) for name in tables)
    waiting = sorted(set(data.values) - set(tables), key=lambda name: (weights[name], name))
    while waiting:  # the least telling first: what it cannot use is left to the others
        name = waiting.pop(0)
        others = sum(weights[other] for other in waiting)
        share = left * weights[name] / max(weights[name] + others, 1e-12)
        tables[name] = _design(data.rows_of_values(name), share)
        left -= _bytes(tables[name], data.rows_of_values(name))
    if left < 0 or not any(design.places for design in tables.values()):
        return None
    _spend(tables, data, weights, left)
    return {name: tables[name] for name in data.fields}


def code_lookup(values: int, blocks: int, dim: int) -> LookupSpec:
    """A code of the places of `values` values in blocks as equal as they can be.

    Args:
        values: of training.
        blocks: how many; later ones, of the more frequent half or quarter, have a bit more.
        dim: of the row of each block.
    """
    bits = code_bits(values)
    sizes = [bits * (n + 1) // blocks - bits * n // blocks for n in range(blocks)]
    return binary_code_spec(dim * blocks, code_bits=bits, t=sizes, fuse="concat")


def _design(values: int, share: float) -> TableDesign:
    """The table of a field for `share` bytes."""
    if _whole_bytes(values) <= share:
        return TableDesign(1, CODEC)
    for blocks in range(2, MOST_BLOCKS + 1):
        if code_bits(values) < blocks:
            break
        widest = 0
        for dim in range(1, MOST_DIM + 1):
            lookup = code_lookup(values, blocks, dim)
            if planned_bytes(lookup.rows, dim, CODEC, "column") <= share:
                widest = dim
        if widest >= LEAST_DIM or (widest and blocks == MOST_BLOCKS):
            return _coded(values, blocks, widest)
    return TableDesign(1, CODEC, 0)


def _spend(
    tables: dict[str, TableDesign], data: TrialData, weights: Mapping[str, float], left: float
) -> None:
    """Give rows of codes one dimension more, in place: the most telling field that `left` pays."""
    coded = sorted((name for name in tables if tables[name].places), key=lambda n: -weights[n])
    for name in coded:
        design, values = tables[name], data.rows_of_values(name)
        spec = design.spec(values, ranked=True)
        if spec.row_dim == MOST_DIM:
            continue
        wider = _coded(values, len(spec.blocks), spec.row_dim + 1)
        cost = _bytes(wider, values) - _bytes(design, values)
        if cost <= left:
            tables[name], left = wider, left - cost


def _coded(values: int, blocks: int, dim: int) -> TableDesign:
    lookup = code_lookup(values, blocks, dim)
    return TableDesign(lookup.dim, CODEC, 0, "lookup", lookup=lookup, places=True)


def _whole_bytes(values: int) -> int:
    return planned_bytes(values + FIRST_VOCABULARY_ID, 1, CODEC, "column")


def _bytes(design: TableDesign, values: int) -> int:
    spec = design.spec(values, ranked=True)
    return planned_bytes(spec.rows, spec.row_dim, CODEC, "column")
