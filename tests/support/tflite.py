"""Packed models built by hand, with a plain reference that shares no code with the package."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir

from ondevice.codecs import QuantTable, quantise
from ondevice.converters.graph import DOMAIN, LOOKUP, PackedLookup, PackedModel
from ondevice.sections import SectionedTable, parse_sections, quantise_sections
from ondevice.spec import (
    LookupSpec,
    Residue,
    binary_code_spec,
    full_spec,
    hashing_spec,
    multi_hash_spec,
    quotient_remainder_spec,
)

MULTIPLIER = 0x9E3779B97F4A7C15
BATCHES = (1, 2, 17, 1024)
INT64 = np.iinfo(np.int64)


@dataclass
class Lookup:
    """One lookup of a hand-built model: spec, table settings, and the sequence axis, if any."""

    spec: LookupSpec
    codec: str = "q8"  # or the text of sections
    scale_axis: str | None = None
    widths: str = "whole"  # or "random", "descending", "one", "even"
    sequence: int | str | None = None
    table: str | None = None  # name of a table that an earlier lookup made
    ids: str | None = None  # name of an input that an earlier lookup made


@dataclass
class Built:
    packed: PackedModel
    lookups: list[Lookup]
    inputs: list[str]
    weights: dict[str, np.ndarray] = field(default_factory=dict)
    tables: dict[str, QuantTable | SectionedTable] = field(default_factory=dict)


def hybrid(head: int = 50, **settings: Any) -> Lookup:
    """A binary-code lookup whose first IDs own rows."""
    own = {key: settings.pop(key) for key in list(settings) if key in Lookup.__dataclass_fields__}
    settings = {"code_bits": 20, "t": 7, "dim": 8, **settings}
    return Lookup(binary_code_spec(head=head, **settings), **own)


def pooled(lookup: Lookup, pooling: Any, sequence: int | str = 5, **settings: Any) -> Lookup:
    """The same lookup with pooling over a sequence."""
    spec = replace(lookup.spec, pooling=pooling)
    return replace(lookup, spec=spec, sequence=sequence, **settings)


WIDE: dict[str, Any] = {"scale_axis": "column", "widths": "random"}

# Row schemes beside plain tables and binary codes, by name: run in ONNX Runtime and TFLite.
SCHEME_CASES: dict[str, list[Lookup]] = {
    "hash": [Lookup(hashing_spec(1000, 8, padding_id=0))],
    "hash_one_row": [Lookup(hashing_spec(1, 8), "f32")],
    "hash_mixed": [  # a multiplier, though no maker of specifications takes one here
        Lookup(LookupSpec("hash", 90, 8, residues=(Residue(90, multiplier=MULTIPLIER),)))
    ],
    "hash_plain_high": [Lookup(LookupSpec("hash", 90, 8, residues=(Residue(90, bits=31),)))],
    "hash_head": [Lookup(hashing_spec(97, 8, padding_id=0, head=50), "q4")],
    "hash_head_columns": [Lookup(hashing_spec(900, 8, head=500), "q8", **WIDE)],
    "multi_hash": [Lookup(multi_hash_spec(500, 8, hashes=3), "q8", widths="random")],
    "multi_hash_shared": [Lookup(multi_hash_spec(501, 8, hashes=4, shared=True, fuse="mean"))],
    "multi_hash_concat": [Lookup(multi_hash_spec(99, 8, fuse="concat", head=40), "q4")],
    "multi_hash_head": [Lookup(multi_hash_spec(99, 8, head=40, padding_id=7), "q8", **WIDE)],
    "multi_hash_head_mean": [Lookup(multi_hash_spec(99, 8, head=40, fuse="mean"), "q4", **WIDE)],
    "quotient": [Lookup(quotient_remainder_spec(10_000, 8, remainders=100), "q4")],
    "quotient_mul": [Lookup(quotient_remainder_spec(10_000, 8, remainders=90, fuse="mul"))],
    "quotient_mul_columns": [
        Lookup(quotient_remainder_spec(900, 8, remainders=30, fuse="mul"), "q8", **WIDE)
    ],
    "quotient_concat": [
        Lookup(quotient_remainder_spec(900, 8, remainders=7, fuse="concat", padding_id=-1))
    ],
    "quotient_large": [Lookup(quotient_remainder_spec(46340 * 46341, 4, remainders=46341), "q8")],
    "quotient_head": [Lookup(quotient_remainder_spec(900, 8, remainders=30, head=9), "f16")],
    "hybrid": [hybrid(padding_id=0)],
    "hybrid_columns": [hybrid(codec="q8", **WIDE)],
    "hybrid_truncated": [hybrid(head=900, codec="q4", scale_axis="row", widths="random")],
    "hybrid_mean": [hybrid(fuse="mean", multiplier=MULTIPLIER, codec="f32")],
    "hybrid_concat": [hybrid(t=10, fuse="concat", widths="random")],
    "hybrid_one_block": [hybrid(code_bits=9, t=9)],
    "pooled_sum": [pooled(hybrid(padding_id=0), "sum")],
    "pooled_mean": [pooled(Lookup(hashing_spec(99, 8, padding_id=0, head=9)), "mean")],
    "pooled_full": [pooled(Lookup(full_spec(50, 8, padding_id=0, oov_row=1)), "mean", "steps")],
    "pooled_shared": [
        Lookup(multi_hash_spec(99, 8, padding_id=0, head=40), "q8"),
        pooled(
            Lookup(multi_hash_spec(99, 8, padding_id=0, head=40), "q8"),
            "mean",
            table="table_0.weight",
        ),
    ],
    "merged_hashes": [
        Lookup(hashing_spec(100, 8, head=9)),
        Lookup(quotient_remainder_spec(900, 8, remainders=30)),
        Lookup(hashing_spec(77, 8)),
    ],
    "merged_multi_hashes": [
        Lookup(multi_hash_spec(100, 8, hashes=3, padding_id=0, head=9), "q8", **WIDE),
        Lookup(multi_hash_spec(60, 8, hashes=2, padding_id=5, head=70), "q8", **WIDE),
        Lookup(multi_hash_spec(60, 8, hashes=2, padding_id=5), "q8", **WIDE),
    ],
    "merged_hybrids": [
        hybrid(codec="q4", scale_axis="row", widths="random"),
        hybrid(head=3, code_bits=24, t=6, codec="q4", scale_axis="row", widths="random"),
        hybrid(head=0, code_bits=8, t=4, codec="q4", scale_axis="row", widths="random"),
    ],
    "levels_and_scales": [
        Lookup(full_spec(70, 3, oov_row=0), "q1", "levels"),
        Lookup(full_spec(71, 1), "q2", "levels"),
        Lookup(full_spec(70, 7, padding_id=0), "q3", "levels", widths="random"),
        Lookup(full_spec(70, 8), "q4", "levels"),
        Lookup(full_spec(75, 5), "q3", "column"),
        Lookup(full_spec(75, 9), "q3", "row", widths="random"),
        Lookup(full_spec(75, 12), "q1", "row"),
    ],
    "levels_of_hashes": [
        Lookup(hashing_spec(97, 5, padding_id=0, head=50), "q2", "levels"),
        Lookup(multi_hash_spec(99, 8, head=40, padding_id=7), "q1", "levels", widths="random"),
        Lookup(quotient_remainder_spec(900, 8, remainders=30, fuse="mul"), "q3", "levels"),
        hybrid(fuse="concat", t=10, codec="q4", scale_axis="levels"),
        pooled(hybrid(padding_id=0, codec="q3", scale_axis="levels"), "mean"),
    ],
    "sections_full": [
        Lookup(full_spec(500, 6, oov_row=1), "q8:10,q4x4:90,q3x3:100,q1x1"),
        Lookup(full_spec(300, 1), "f32:5,q3:100,q1"),
        Lookup(full_spec(40, 8, padding_id=0), "f16x4:5,f32:1,q2"),
        Lookup(full_spec(40, 8), "q8x2"),
        Lookup(full_spec(200, 16, oov_row=199), "q8:9,q4:40,q2", widths="random"),
    ],
    "sections_of_hashes": [
        Lookup(hashing_spec(97, 8, padding_id=0, head=50), "q8:50,q2x4"),
        Lookup(multi_hash_spec(500, 8, hashes=3, fuse="mean", head=40), "q4:30,q3:50,q1"),
        Lookup(multi_hash_spec(99, 8, fuse="concat", head=40), "q8:9,q1x3"),
        Lookup(quotient_remainder_spec(900, 8, remainders=30, fuse="mul"), "q8:20,q4"),
        hybrid(padding_id=0, codec="q8:50,q4x4", widths="random"),
        pooled(hybrid(padding_id=0, codec="q8:50,q3"), "mean", "steps"),
        pooled(Lookup(full_spec(50, 8, padding_id=0, oov_row=1), "q8:5,q1"), "sum"),
    ],
    "merged_means": [hybrid(fuse="mean"), hybrid(head=1, fuse="mean", multiplier=3)],
}


def make_table(lookup: Lookup, seed: int) -> QuantTable | SectionedTable:
    rng = np.random.default_rng(seed)
    rows, dim = lookup.spec.rows, lookup.spec.row_dim
    values = rng.normal(size=(rows, dim)).astype(np.float32)
    widths: Any = None
    if lookup.widths == "random":
        widths = rng.integers(0, dim + 1, rows)
    elif lookup.widths == "descending":
        widths = np.sort(rng.integers(0, dim + 1, rows))[::-1]
    elif lookup.widths == "one":
        widths = np.ones(rows, np.int64)
    elif lookup.widths == "even":
        widths = np.full(rows, dim // 2)
    if ":" in lookup.codec or "x" in lookup.codec:
        return quantise_sections(values, parse_sections(lookup.codec), widths=widths)
    axis = None if lookup.codec in ("f32", "f16") else lookup.scale_axis
    return quantise(values, lookup.codec, widths=widths, scale_axis=axis)  # type: ignore[arg-type]


def constant(graph_values: dict[str, ir.Value], name: str, array: np.ndarray) -> ir.Value:
    tensor = ir.tensor(array, name=name)
    value = ir.Value(
        name=name, type=ir.TensorType(tensor.dtype), shape=tensor.shape, const_value=tensor
    )
    graph_values[name] = value
    return value


def build(lookups: list[Lookup], seed: int = 0, hidden: int = 8) -> Built:
    """Lookups (summed over a sequence) -> Concat -> Gemm -> Relu -> Gemm -> Squeeze -> Sigmoid.

    The concatenated vectors are the second output, so that a test sees the lookups unblurred.
    """
    rng = np.random.default_rng(seed)
    tables: dict[str, QuantTable | SectionedTable] = {}
    initializers: dict[str, ir.Value] = {}
    inputs: dict[str, ir.Value] = {}
    nodes: list[ir.Node] = []
    packed_lookups, parts = [], []

    def node(op: str, values: list[ir.Value], name: str = "", **attributes: Any) -> ir.Value:
        made = ir.node(op, values, attributes=attributes, name=f"{op}_{len(nodes)}")
        made.outputs[0].name = name or f"value_{len(nodes)}"
        nodes.append(made)
        return made.outputs[0]

    for number, lookup in enumerate(lookups):
        name = lookup.ids or f"field_{number}"
        if name not in inputs:
            shape = ["batch"] if lookup.sequence is None else ["batch", lookup.sequence]
            inputs[name] = ir.Value(
                name=name, type=ir.TensorType(ir.DataType.INT64), shape=ir.Shape(shape)
            )
        table = lookup.table or f"table_{number}.weight"
        if table not in tables:
            tables[table] = make_table(lookup, seed + number)
        made = ir.Node(
            DOMAIN,
            LOOKUP,
            [inputs[name]],
            {"spec": ir.AttrString("spec", lookup.spec.to_json())},
            num_outputs=1,
            name=f"lookup_{number}",
        )
        made.outputs[0].name = f"vectors_{number}"
        nodes.append(made)
        packed_lookups.append(PackedLookup(made, (lookup.spec,), table))
        part = made.outputs[0]
        if lookup.sequence is not None and lookup.spec.pooling == "none":
            axes = constant(initializers, f"axes_{number}", np.array([1], np.int64))
            part = node("ReduceSum", [part, axes], keepdims=0)
        parts.append(part)
    width = sum(lookup.spec.dim for lookup in lookups)
    weights = {
        "w1": rng.normal(size=(hidden, width)).astype(np.float32) / np.float32(width**0.5),
        "b1": rng.normal(size=hidden).astype(np.float32),
        "w2": rng.normal(size=(hidden, 1)).astype(np.float32),
        "b2": rng.normal(size=1).astype(np.float32),
    }
    held = {key: constant(initializers, key, array) for key, array in weights.items()}
    vectors = node("Concat", parts, name="vectors", axis=-1)
    x = node("Gemm", [vectors, held["w1"], held["b1"]], transB=1)
    x = node("Relu", [x])
    x = node("Gemm", [x, held["w2"], held["b2"]])
    x = node("Squeeze", [x, constant(initializers, "last", np.array([-1], np.int64))])
    probability = node("Sigmoid", [x], name="probability")
    graph = ir.Graph(
        list(inputs.values()),
        [probability, vectors],
        nodes=nodes,
        initializers=list(initializers.values()),
        opset_imports={"": 21, DOMAIN: 1},
        name="main",
    )
    packed = PackedModel(ir.Model(graph, ir_version=10), tuple(packed_lookups), tables)
    return Built(packed, lookups, list(inputs), weights, tables)


def make_ids(built: Built, batch: int, seed: int, sequence: int = 3) -> dict[str, np.ndarray]:
    """IDs with the extremes in them, drawn from a pool small enough for a slow reference."""
    rng = np.random.default_rng(seed)
    ids = {}
    for number, lookup in enumerate(built.lookups):
        name = lookup.ids or f"field_{number}"
        spec = lookup.spec
        if spec.scheme == "full":
            pool = [*range(min(spec.rows, 60)), spec.rows - 1]
            if spec.oov_row is not None:
                pool += [-1, spec.rows, spec.rows + 1, 2**32, 2**32 + 1, INT64.min, INT64.max]
        else:
            pool = [0, 1, -1, INT64.min, INT64.max, 2**31, -(2**31), 2**32, 2**16, 255]
            pool += [int(i) for i in rng.integers(INT64.min, INT64.max, 90)]
            pool += [spec.head - 1, spec.head, *rng.integers(0, max(spec.head, 1), 20)]
        if spec.padding_id is not None:
            pool += [spec.padding_id] * 3
        steps = lookup.sequence if isinstance(lookup.sequence, int) else sequence
        shape = (batch,) if lookup.sequence is None else (batch, steps)
        ids[name] = rng.choice(np.array(pool, dtype=np.int64), shape)
        flat = ids[name].reshape(-1)
        if flat.size >= len(pool):  # every extreme at least once
            flat[: len(pool)] = pool
    return ids


def reference_rows(spec: LookupSpec, wanted: int) -> list[int]:
    """Rows of a binary code, a hash or a hybrid."""
    count = len(spec.blocks) + len(spec.residues)
    if 0 <= wanted < spec.head:
        return [count * wanted + c for c in range(count)] if spec.fuse == "concat" else [wanted]
    rows = []
    for residue in spec.residues:
        code = wanted * residue.multiplier % 2**64
        number = code // 2**33 if residue.bits == 31 else (code + 2**63) % 2**64 - 2**63
        rows.append(residue.offset + number % residue.modulus // residue.divisor)
    code = (wanted % 2**64) * spec.multiplier % 2**64 % 2**spec.code_bits
    for block in spec.blocks:
        row = block.offset
        for position in range(block.bits):
            row += 2**position * (code // 2 ** (block.start + position * block.stride) % 2)
        rows.append(row)
    return rows


def reference_vector(spec: LookupSpec, values: np.ndarray, wanted: int) -> np.ndarray:
    """One vector by Python integers: no numpy bit operation, no shared code."""
    if spec.padding_id is not None and wanted == spec.padding_id:
        return np.zeros(spec.dim, np.float32)
    if spec.scheme == "full":
        row = wanted if 0 <= wanted < spec.rows else spec.oov_row
        assert row is not None
        return values[row]
    rows = [values[row] for row in reference_rows(spec, wanted)]
    if spec.fuse == "concat":
        return np.concatenate(rows)
    if spec.fuse == "mul":
        return np.prod(np.array(rows, dtype=np.float64), axis=0).astype(np.float32)
    total = np.sum(np.array(rows, dtype=np.float64), axis=0)
    return (total / len(rows) if spec.fuse == "mean" else total).astype(np.float32)


def plain_values(table: QuantTable | SectionedTable) -> np.ndarray:
    """The dequantised table, from the codec's definition."""
    if isinstance(table, SectionedTable):
        whole = np.zeros((table.rows, table.dim), np.float32)
        start = 0
        for section in table.sections:
            stop = start + section.rows
            whole[start:stop, : section.dim] = plain_values(section)
            start = stop
        return whole
    if table.scales is not None and table.scales.ndim == 2:
        columns = zip(table.scales, table.values.T, strict=True)
        values = np.stack([book[code] for book, code in columns], axis=1)
        if table.widths is not None:
            values[np.arange(table.dim) >= table.widths[:, None]] = 0
        return values
    values = table.values.astype(np.float32)
    if table.scales is None:
        return values
    scales = table.scales.astype(np.float32)
    return values * (scales[:, None] if table.scales.dtype == np.float16 else scales[None, :])


def reference(built: Built, ids: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The outputs of a hand-built model."""
    parts = []
    for number, (lookup, packed) in enumerate(
        zip(built.lookups, built.packed.lookups, strict=True)
    ):
        values = plain_values(built.tables[packed.table])
        wanted = ids[lookup.ids or f"field_{number}"]
        distinct, places = np.unique(wanted, return_inverse=True)
        vectors = np.stack([reference_vector(lookup.spec, values, int(i)) for i in distinct])
        part = vectors[places.reshape(-1)].reshape(*wanted.shape, lookup.spec.dim)
        if lookup.sequence is not None:
            part = part.sum(axis=1)
        if lookup.spec.pooling == "mean":
            count = (wanted != lookup.spec.padding_id).sum(axis=1, keepdims=True)
            part = (part / np.maximum(count, 1)).astype(np.float32)
        parts.append(part)
    vectors = np.concatenate(parts, axis=1)
    w = built.weights
    hidden = np.maximum(vectors.astype(np.float64) @ w["w1"].T + w["b1"], 0)
    logits = (hidden @ w["w2"] + w["b2"])[:, 0]
    return {
        "probability": (1 / (1 + np.exp(-logits))).astype(np.float32),
        "vectors": vectors.astype(np.float32),
    }


def save_case(
    folder: Path, name: str, batches: list[tuple[dict[str, Any], dict[str, Any]]]
) -> None:
    """Inputs and expected outputs beside `name`.tflite, for tests in another environment."""
    arrays = {}
    for number, (ids, expected) in enumerate(batches):
        arrays |= {f"{number}/in/{key}": value for key, value in ids.items()}
        arrays |= {f"{number}/out/{key}": value for key, value in expected.items()}
    np.savez(folder / f"{name}.npz", **arrays)
