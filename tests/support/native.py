"""Models of the native format built by hand, for tests of the native engine."""

from dataclasses import replace

import numpy as np

from ondevice.codecs import BITS, CODECS, INTEGER_CODECS, quantise
from ondevice.dense import pack_dense
from ondevice.features import FeatureSpec, Field
from ondevice.info import InputSpec, ModelInfo
from ondevice.odm import write_odm
from ondevice.plan import Node, Plan
from ondevice.records import pack_records
from ondevice.section_records import SectionedRecords, pack_sections
from ondevice.sections import Section, SectionedTable, parse_sections, quantise_sections
from ondevice.spec import (
    binary_code_spec,
    full_spec,
    hashing_spec,
    multi_hash_spec,
    quotient_remainder_spec,
)
from ondevice.trees import BRANCH, SCORE, VECTOR, links

NO_FEATURES = FeatureSpec()


def stored(table):
    """A quantised table, whole or in sections, as records; records as they are."""
    if isinstance(table, SectionedTable):
        return pack_sections(table)
    return table if isinstance(table, SectionedRecords) else pack_records(table)


def write_model(path, specs, tables, nodes, weights, outputs, *, shapes=None, features=NO_FEATURES):
    """A model whose input i of specs feeds a lookup with output "<name>.vector"."""
    lookups = tuple(
        Node("Lookup", (name,), (f"{name}.vector",), {}, name, spec) for name, spec in specs.items()
    )
    packed = {name: stored(table) for name, table in tables.items()}
    plan = Plan(
        inputs=tuple(specs),
        outputs=tuple(outputs),
        nodes=(*lookups, *nodes),
        weights=tuple(weights),
        tables={name: table.layout for name, table in packed.items()},
    )
    shapes = shapes or {}
    inputs = tuple(
        InputSpec(
            name,
            shapes.get(name, ("batch",)),
            spec.rows if spec.scheme == "full" and spec.oov_row is None else None,
        )
        for name, spec in specs.items()
    )
    info = ModelInfo(inputs=inputs, outputs=tuple(outputs), features=features)
    write_odm(path, plan, info, weights, packed)
    return path


# name, codec, dimensions, kept widths, bits of a width code
NARROW = (("a", "q4", 1, None, 0), ("b", "q2", 3, None, 0), ("c", "q4", 3, [0, 3], 1),
          ("d", "q2", 12, [0, 4, 8, 12], 2), ("e", "q4", 30, range(0, 31, 2), 4))  # fmt: skip


def write_narrow(path):
    """Full tables of 150 rows that share bytes, whole and cut, with width codes of every size."""
    rng = np.random.default_rng(0)
    specs, tables = {}, {}
    for name, codec, dim, kept, bits in NARROW:
        specs[name] = full_spec(150, dim)
        widths = None if kept is None else rng.choice(kept, 150)
        values = rng.normal(size=(150, dim)).astype(np.float32)
        tables[name] = quantise(values, codec, widths=widths, scale_axis="column")
        assert pack_records(tables[name]).layout.width_bits == bits
    write_model(path, specs, tables, [], {}, [f"{name}.vector" for name in specs])
    return tables


def random_table(spec, codec, rng, *, truncated, axis=None):
    """A quantised table of random values, with random kept widths when `truncated`."""
    values = rng.normal(size=(spec.rows, spec.row_dim)).astype(np.float32)
    widths = rng.integers(0, spec.row_dim + 1, spec.rows) if truncated else None
    axis = axis if codec in INTEGER_CODECS else None
    if axis == "levels" and BITS[codec] > 4:
        axis = "column"
    return quantise(values, codec, widths=widths, scale_axis=axis)


def random_sections(spec, rng, *, truncated):
    """A table of random values in two to five random sections; one row is a section too."""
    values = rng.normal(size=(spec.rows, spec.row_dim)).astype(np.float32)
    widths = rng.integers(0, spec.row_dim + 1, spec.rows) if truncated else None
    count = int(rng.integers(2, 1 + min(5, spec.rows)))
    cuts = np.sort(rng.choice(np.arange(1, spec.rows), count - 1, replace=False))
    sections = []
    for rows in np.diff([0, *cuts, spec.rows]).tolist():
        codec = str(rng.choice(CODECS))
        axes = [None] if codec not in INTEGER_CODECS else [None, "row", "column"]
        axes += ["levels"] * (BITS[codec] <= 4)
        width = int(rng.integers(1, spec.row_dim + 1))
        axis = axes[int(rng.integers(len(axes)))]
        sections.append(Section(rows, codec, width, axis))
    return quantise_sections(values, sections, widths=widths)


def write_hybrids(path):
    """Hashes, a head, a product and pooling in one small file."""
    specs = {
        "hash": hashing_spec(9, 2, padding_id=0, head=3),
        "code": binary_code_spec(4, code_bits=6, t=3, fuse="concat", padding_id=0, head=2),
        "product": quotient_remainder_spec(30, 2, remainders=5, fuse="mul", padding_id=1),
        "hashes": replace(multi_hash_spec(5, 3, fuse="mean", padding_id=0), pooling="mean"),
    }
    rng = np.random.default_rng(5)
    tables = {name: random_table(spec, "q8", rng, truncated=True) for name, spec in specs.items()}
    join = Node("Concat", tuple(f"{name}.vector" for name in specs), ("x",), {"axis": 1})
    shapes = {"hashes": ("batch", 3)}
    write_model(path, specs, tables, [join], {}, ["x"], shapes=shapes)
    ids = {name: np.array([1, 3, 4, -2]) for name in specs}
    ids["hashes"] = np.array([[1, 0, 5], [0, 0, 0], [-7, 2, 2**62], [4, 4, 4]])
    return ids


def write_described(path):
    """A lookup whose description refers to arrays: a vocabulary with two owners, boundaries."""
    rng = np.random.default_rng(6)
    known = np.unique(rng.integers(-(2**63), 2**63 - 1, 20))
    fields = (
        Field("word", "string", "vocabulary", 3, known),
        Field("words", "string", "vocabulary", 3, known, length=2, unknown="hash"),
        Field("price", "number", "bucket", boundaries=np.array([-0.5, 2.0, 1e40])),
    )
    spec = full_spec(len(known) + 2, 3, oov_row=1)
    table = random_table(spec, "q4", rng, truncated=False, axis="column")
    features = FeatureSpec(fields).with_short_hashes()
    write_model(path, {"word": spec}, {"word": table}, [], {}, ["word.vector"], features=features)


def write_sections(path):
    """Tables in sections of every scheme, with levels, scales and kept widths."""
    specs = {
        "full": full_spec(60, 5, oov_row=1),
        "code": binary_code_spec(4, code_bits=6, t=3, fuse="concat", padding_id=0, head=2),
        "hashes": replace(multi_hash_spec(9, 3, fuse="mean", padding_id=0), pooling="mean"),
    }
    texts = {
        "full": "f32:3,q8x4:7,q4:10,q3:10,q2x3:10,q1x1",
        "code": "q8:5,q2",
        "hashes": "q4:8,q1",
    }
    rng = np.random.default_rng(9)
    tables = {}
    for name, spec in specs.items():
        values = rng.normal(size=(spec.rows, spec.row_dim)).astype(np.float32)
        widths = rng.integers(0, 6, 60) if name == "full" else None
        tables[name] = quantise_sections(values, parse_sections(texts[name]), widths=widths)
    join = Node("Concat", tuple(f"{name}.vector" for name in specs), ("x",), {"axis": 1})
    shapes = {"hashes": ("batch", 3)}
    write_model(path, specs, tables, [join], {}, ["x"], shapes=shapes)
    ids = {name: np.array([1, 13, 44, -2]) for name in specs}
    ids["hashes"] = np.array([[1, 0, 5], [0, 0, 0], [-7, 2, 2**62], [4, 4, 4]])
    return ids


def dense_node(name, source, weight, bias, codec, weights, *, relu=False):
    """A Dense node called `name`; its packed arrays are added to `weights`."""
    packed = pack_dense(weight, bias, codec)
    parts = {"weight": packed.weight, "bias": packed.bias}
    if packed.scale is not None:
        parts["scale"] = packed.scale
    weights.update({f"{name}.{part}": array for part, array in parts.items()})
    attributes = {
        "codec": codec,
        "features": weight.shape[0],
        "units": weight.shape[1],
        "relu": int(relu),
    }
    return Node("Dense", (source, *(f"{name}.{part}" for part in parts)), (name,), attributes)


def random_ensemble(rng, *, features, trees, depth, targets, outcomes=None, limits=None):
    """The arrays of a `TreeEnsemble` of the native file by name.

    Args:
        rng: what draws them.
        features: how many the tests choose from.
        trees: how many.
        depth: most branches on a path.
        targets: of the scores.
        outcomes: of tests; None: any of the 16.
        limits: thresholds; None: quarters from -1 to 1.
    """
    limits = np.arange(-4, 5) / 4 if limits is None else limits
    kinds, places, indices, tests, thresholds, vectors, roots = ([] for _ in range(7))
    for _ in range(trees):
        start = len(kinds)
        roots.append(start)
        for lists in (kinds, places, indices, tests, thresholds):
            lists.append(0)
        waiting = [(start, 0)]
        while waiting:
            at, level = waiting.pop(0)
            if level < depth and rng.random() < 0.85:
                first = len(kinds)
                for lists in (kinds, places, indices, tests, thresholds):
                    lists += [0, 0]
                kinds[at], places[at], indices[at] = BRANCH, first, int(rng.integers(features))
                tests[at] = int(rng.integers(16)) if outcomes is None else int(rng.choice(outcomes))
                thresholds[at] = rng.choice(limits)
                waiting += [(first, level + 1), (first + 1, level + 1)]
            elif rng.random() < 0.5:
                kinds[at], indices[at] = SCORE, int(rng.integers(targets))
                thresholds[at] = rng.normal()
            else:
                kinds[at], places[at] = VECTOR, len(vectors)
                vectors.append(rng.normal(size=targets))
    return {
        "thresholds": np.array(thresholds, np.float32),
        "links": links(kinds, places, indices, tests),
        "roots": np.array(roots, np.int64),
        "vectors": np.array(vectors, np.float32).reshape(-1, targets),
    }
