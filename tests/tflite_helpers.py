"""Packed models built by hand, with a plain reference that shares no code with the package."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir

from ondevice.codecs import QuantTable, quantise
from ondevice.converters.graph import DOMAIN, LOOKUP, PackedLookup, PackedModel
from ondevice.spec import LookupSpec

BATCHES = (1, 2, 17, 1024)
INT64 = np.iinfo(np.int64)


@dataclass
class Lookup:
    """One lookup of a hand-built model: spec, table settings, and the sequence axis, if any."""

    spec: LookupSpec
    codec: str = "q8"
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
    tables: dict[str, QuantTable] = field(default_factory=dict)


def make_table(lookup: Lookup, seed: int) -> QuantTable:
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
    tables: dict[str, QuantTable] = {}
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
        packed_lookups.append(PackedLookup(made, lookup.spec, table))
        part = made.outputs[0]
        if lookup.sequence is not None:
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
    vectors = node("Concat", parts, name="vectors", axis=1)
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
        if spec.padding_id is not None:
            pool += [spec.padding_id] * 3
        steps = lookup.sequence if isinstance(lookup.sequence, int) else sequence
        shape = (batch,) if lookup.sequence is None else (batch, steps)
        ids[name] = rng.choice(np.array(pool, dtype=np.int64), shape)
        flat = ids[name].reshape(-1)
        if flat.size >= len(pool):  # every extreme at least once
            flat[: len(pool)] = pool
    return ids


def reference_vector(spec: LookupSpec, values: np.ndarray, wanted: int) -> np.ndarray:
    """One vector by Python integers: no numpy bit operation, no shared code."""
    if spec.padding_id is not None and wanted == spec.padding_id:
        return np.zeros(spec.dim, np.float32)
    if spec.scheme == "full":
        row = wanted if 0 <= wanted < spec.rows else spec.oov_row
        assert row is not None
        return values[row]
    code = (wanted % 2**64) * spec.multiplier % 2**64 % 2**spec.code_bits
    rows = []
    for block in spec.blocks:
        row = block.offset
        for position in range(block.bits):
            row += 2**position * (code // 2 ** (block.start + position * block.stride) % 2)
        rows.append(values[row])
    if spec.fuse == "concat":
        return np.concatenate(rows)
    total = np.sum(np.array(rows, dtype=np.float64), axis=0)
    return (total / len(rows) if spec.fuse == "mean" else total).astype(np.float32)


def plain_values(table: QuantTable) -> np.ndarray:
    """The dequantised table, from the codec's definition."""
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
        parts.append(part if lookup.sequence is None else part.sum(axis=1))
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
