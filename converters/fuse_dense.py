"""Fusion pass of the native target: matrix product, bias and ReLU become one Dense node."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from ondevice.dense import DENSE, MAX_FEATURES, MAX_UNITS, DenseCodec, pack_dense
from ondevice.plan import Node

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class _Layer:
    """A matrix product with a constant: x @ weight + bias."""

    weight: Array
    bias: Array | None


def fuse_dense(
    nodes: Sequence[Node], weights: Mapping[str, Array], outputs: Sequence[str], codec: DenseCodec
) -> tuple[list[Node], dict[str, Array]]:
    """Replace Gemm and MatMul with a constant weight by Dense nodes.

    An Add of a constant bias and a Relu that alone read the result join the node.

    Args:
        nodes: in execution order.
        weights: constants by name; not changed.
        outputs: names of the graph's outputs, which must stay.
        codec: how the weights are stored.

    Returns:
        The new nodes, and the constants they need: packed ones under "<output>.weight",
        "<output>.bias" and "<output>.scale".
    """
    readers: dict[str, list[Node]] = {}
    for node in nodes:
        for name in node.inputs:
            readers.setdefault(name, []).append(node)
    constants = dict(weights)
    dropped: set[str] = set()
    fused = []
    for node in nodes:
        if node.outputs[0] in dropped:
            continue
        layer = _layer(node, weights)
        if layer is None:
            fused.append(node)
            continue
        output, relu = node.outputs[0], False
        if layer.bias is None and (add := _only_reader(output, "Add", readers, outputs)):
            bias = _bias(add, output, weights, layer.weight.shape[1])
            if bias is not None:
                layer, output = replace(layer, bias=bias), add.outputs[0]
                dropped.add(output)
        if follower := _only_reader(output, "Relu", readers, outputs):
            output, relu = follower.outputs[0], True
            dropped.add(output)
        fused.append(_dense_node(node, layer, output, relu, codec, constants))
    used = {name for node in fused for name in node.inputs} | set(outputs)
    return fused, {name: array for name, array in constants.items() if name in used}


def _layer(node: Node, weights: Mapping[str, Array]) -> _Layer | None:
    if node.op not in ("Gemm", "MatMul") or node.inputs[0] in weights:
        return None
    weight = weights.get(node.inputs[1])
    if weight is None or weight.ndim != 2 or weight.dtype != np.float32:
        return None
    bias: Array | None = None
    if node.op == "Gemm":
        attributes = node.attributes
        if attributes.get("transA", 0) or attributes.get("alpha", 1.0) != 1.0:
            return None
        weight = weight.T if attributes.get("transB", 0) else weight
        if len(node.inputs) > 2 and node.inputs[2]:
            stored = weights.get(node.inputs[2])
            if stored is None or stored.size != weight.shape[1] or stored.shape[-1] != stored.size:
                return None
            if attributes.get("beta", 1.0) != 1.0:
                return None
            bias = stored.reshape(-1)
    if not (weight.shape[0] <= MAX_FEATURES and weight.shape[1] <= MAX_UNITS):
        return None
    return _Layer(weight, bias)


def _only_reader(
    name: str, op: str, readers: Mapping[str, list[Node]], outputs: Sequence[str]
) -> Node | None:
    found = readers.get(name, [])
    if len(found) != 1 or found[0].op != op or name in outputs:
        return None
    return found[0]


def _bias(add: Node, output: str, weights: Mapping[str, Array], units: int) -> Array | None:
    other = add.inputs[1] if add.inputs[0] == output else add.inputs[0]
    bias = weights.get(other)
    if bias is None or bias.shape != (units,) or bias.dtype != np.float32:
        return None
    return bias


def _dense_node(
    node: Node,
    layer: _Layer,
    output: str,
    relu: bool,
    codec: DenseCodec,
    constants: dict[str, Array],
) -> Node:
    packed = pack_dense(layer.weight, layer.bias, codec)
    arrays: dict[str, Array] = {"weight": packed.weight, "bias": packed.bias}
    if packed.scale is not None:
        arrays["scale"] = packed.scale
    names = []
    for part, array in arrays.items():
        name = f"{output}.{part}"
        while name in constants:
            name += "_packed"
        constants[name] = array
        names.append(name)
    features, units = layer.weight.shape
    return Node(
        DENSE,
        (node.inputs[0], *names),
        (output,),
        {"codec": codec, "features": features, "units": units, "relu": int(relu)},
    )
