"""Evaluates what a graph computes from constants: each result becomes a constant, computed once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnx_ir as ir
import onnx_ir.passes.common as passes
from onnx.reference import ReferenceEvaluator

Array = npt.NDArray[Any]

_RANDOM = {"Bernoulli", "Multinomial", "RandomNormal", "RandomNormalLike", "RandomUniform",
           "RandomUniformLike"}  # fmt: skip
# Results that are larger than what they come from stay computed: a file would store them.
_MOST_GROWTH = 2**20


def fold_constants(model: ir.Model) -> ir.Model:
    """A model without nodes that read only constants, whatever their size; the given one stays.

    Weights that are scaled, masked, normalised, dequantised, transposed or cut at every request
    become plain constants. Results keep the names that their nodes gave them.
    """
    model = model.clone()
    for node in list(model.graph):
        arrays = _constant_inputs(node)
        if arrays is None:
            continue
        results = evaluate(node, arrays, model.graph.opset_imports)
        if results is None or _grows(arrays, results):
            continue
        for value, array in zip(node.outputs, results, strict=True):
            if value.uses() or value.is_graph_output():
                fresh = constant(model.graph, str(value.name), array)
                ir.convenience.replace_all_uses_with(value, fresh, replace_graph_outputs=True)
        model.graph.remove(node, safe=True)
    passes.RemoveUnusedNodesPass()(model)
    return model


def constant(graph: ir.Graph, name: str, array: Array) -> ir.Value:
    """A new initializer of a graph; underscores are added to a name that is taken."""
    while name in graph.initializers:
        name += "_"
    tensor = ir.tensor(array, name=name)
    value = ir.Value(
        name=name,
        type=ir.TensorType(tensor.dtype),
        shape=ir.Shape(array.shape),
        const_value=tensor,
    )
    graph.register_initializer(value)
    return value


def evaluate(
    node: ir.Node,
    arrays: Sequence[Array | None],
    opsets: Mapping[str, int],
    axis: int | None = None,
) -> list[Array] | None:
    """What a node of standard ONNX computes from arrays, None for an input that is left out.

    Args:
        node: says what is computed; its inputs are not read.
        arrays: what is read in their place.
        opsets: versions of the operators by domain.
        axis: in the place of the node's.

    Returns None where it cannot be evaluated.
    """
    proto = ir.to_proto(node)
    if axis is not None:
        del proto.attribute[:]
        proto.attribute.append(onnx.helper.make_attribute("axis", axis))
    for place in range(len(proto.input)):
        proto.input[place] = f"input.{place}" if arrays[place] is not None else ""
    feeds = {f"input.{i}": array for i, array in enumerate(arrays) if array is not None}
    proto.output[:] = [f"output.{i}" for i in range(len(proto.output))]
    try:
        with np.errstate(all="ignore"):
            results = ReferenceEvaluator(proto, opsets=dict(opsets)).run(None, feeds)
    except Exception:  # its operators raise errors of every kind
        return None
    return [np.asarray(result) for result in results]


def origins(graph: ir.Graph) -> dict[str, str]:
    """By the name of every value computed from constants, the largest initializer among them."""
    origin: dict[ir.Value, ir.Value] = {item: item for item in graph.initializers.values()}
    for node in graph:
        read = [value for value in node.inputs if value is not None]
        if node.op_type != "Constant" and (not read or any(item not in origin for item in read)):
            continue
        largest = max((origin[item] for item in read), key=_size, default=None)
        for value in node.outputs:
            origin[value] = value if largest is None else largest
    return {str(value.name): str(source.name) for value, source in origin.items()}


def _size(value: ir.Value) -> int:
    return 0 if value.const_value is None else value.const_value.size


def _constant_inputs(node: ir.Node) -> list[Array | None] | None:
    """The arrays that a node reads; None where one is no constant, or the node is not evaluated."""
    if node.domain or node.op_type in _RANDOM or not any(node.inputs):
        return None
    if any(item.type in (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS)
           for item in node.attributes.values()):  # fmt: skip
        return None
    held = [None if value is None else value.const_value for value in node.inputs]
    if any(a is None and value is not None for a, value in zip(held, node.inputs, strict=True)):
        return None
    return [None if item is None else item.numpy() for item in held]


def _grows(arrays: Sequence[Array | None], results: Sequence[Array]) -> bool:
    before = sum(array.size for array in arrays if array is not None)
    return sum(array.size for array in results) > max(before, _MOST_GROWTH)
