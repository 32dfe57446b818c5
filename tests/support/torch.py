"""Small logs and independent plain-Python references for the tests of the torch side."""

import math

import numpy as np

from ondevice.features import FeatureSpec, Field
from ondevice.models import ClickLog

MASK = 2**64 - 1


def make_log(ids, labels):
    """A log of the given columns; every field is an integer ID already."""
    features = FeatureSpec(tuple(Field(name, "integer", "id") for name in ids))
    columns = {name: np.asarray(values, dtype=np.int64) for name, values in ids.items()}
    return ClickLog(features, columns, np.asarray(labels, dtype=np.float32))


def planted_log(count, seed, users=50, items=40):
    """Clicks follow a user's and an item's hidden taste, so a model can learn them.

    The best possible AUC is about 0.93; `pattern` is fixed, only the draws depend on the seed.
    """
    pattern = np.random.default_rng(7)
    user_taste, item_taste = pattern.normal(size=users), pattern.normal(size=items)
    draws = np.random.default_rng(seed)
    user, item = draws.integers(0, users, count), draws.integers(0, items, count)
    log_odds = 3 * (user_taste[user] + item_taste[item])
    clicks = draws.random(count) < 1 / (1 + np.exp(-log_odds))
    return make_log({"user": user + 2, "item": item + 2}, clicks)


def reference_rows(spec, number):
    """Rows that one ID (a Python integer) reads, bit by bit."""
    if 0 <= number < spec.head:
        count = spec.rows_per_id
        return [number * count + c for c in range(count)] if spec.fuse == "concat" else [number]
    rows = []
    for residue in spec.residues:
        value = number * residue.multiplier % 2**64 >> 33 if residue.bits == 31 else number
        rows.append(residue.offset + value % residue.modulus // residue.divisor)
    code = ((number & MASK) * spec.multiplier) & MASK
    for block in spec.blocks:
        value = 0
        for place in range(block.bits):
            bit = block.start + place * block.stride
            value += ((code >> bit) & 1) << place
        rows.append(block.offset + value)
    return rows


def reference_vector(spec, weight, number, widths=None):
    """The vector of one ID in float64, from a table given as nested lists."""
    if number == spec.padding_id:
        return [0.0] * spec.dim
    if spec.scheme == "full":
        rows = [number if 0 <= number < spec.rows else spec.oov_row]
    else:
        rows = reference_rows(spec, number)
    kept = [
        [value if widths is None or j < widths[row] else 0.0 for j, value in enumerate(weight[row])]
        for row in rows
    ]
    if spec.fuse == "concat":
        return [value for row in kept for value in row]
    if spec.fuse == "mul":
        return [math.prod(column) for column in zip(*kept, strict=True)]
    total = [sum(column) for column in zip(*kept, strict=True)]
    return [value / len(rows) for value in total] if spec.fuse == "mean" else total
