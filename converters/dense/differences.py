"""Leave out differences in front of a dense layer that reads both of their operands too."""

from __future__ import annotations

import itertools

import numpy as np
import onnx_ir as ir

from ondevice.codecs import LARGEST_F16
from ondevice.converters.dense.concat_layer import ConcatLayer, layer_of_concat
from ondevice.converters.graph import PackedModel

# Weights of a difference over those of its operands, up to which sums lose 3 bits at most.
_LARGEST_RATIO = 8.0


def absorb_differences(packed: PackedModel) -> PackedModel:
    """Add the weights of differences to those of their operands, as in interest networks' layers.

    concat(a, b, a - b) @ [W_a; W_b; W_d] = concat(a, b) @ [W_a + W_d; W_b - W_d], where only this
    layer reads the Concat. A difference stays where its weights are much larger than those of its
    operands, since products with a and b would cancel, and where a sum of weights exceeds
    float16. `packed` is not changed.
    """
    packed = packed.cloned()
    graph = packed.model.graph
    for concat in list(graph):
        layer = layer_of_concat(concat)
        while layer is not None and (places := _difference(concat, layer)) is not None:
            difference = concat.inputs[places[0]]
            _leave_out(graph, concat, layer, *places)
            _remove_unread(graph, difference)
            layer = layer_of_concat(concat)
    return packed


def _remove_unread(graph: ir.Graph, value: ir.Value | None) -> None:
    """Remove what computes a value, if nothing reads it."""
    node = None if value is None else value.producer()
    if value is not None and node is not None and not value.uses() and not value.is_graph_output():
        graph.remove(node, safe=True)


def _difference(concat: ir.Node, layer: ConcatLayer) -> tuple[int, int, int] | None:
    """The places of a difference and of its operands among a Concat's inputs; None without one."""
    sources = [_source(value) for value in concat.inputs]
    starts = np.cumsum([0, *layer.widths])
    largest = [
        np.abs(layer.weight[first:stop]).max(initial=0.0)
        for first, stop in itertools.pairwise(starts)
    ]
    for place, source in enumerate(sources):
        node = None if source is None else source.producer()
        if node is None or node.op_type != "Sub" or node.domain:
            continue
        operands = [_source(value) for value in node.inputs]
        if not all(operand in sources for operand in operands):
            continue
        a, b = (sources.index(operand) for operand in operands)
        same = a != b and layer.widths[a] == layer.widths[b] == layer.widths[place]
        fits = largest[place] + max(largest[a], largest[b]) <= LARGEST_F16  # in every codec
        if same and fits and largest[place] <= _LARGEST_RATIO * min(largest[a], largest[b]):
            return place, a, b
    return None


def _source(value: ir.Value | None) -> ir.Value | None:
    """What an Expand repeats: a difference repeats its operands by itself."""
    node = None if value is None else value.producer()
    expands = node is not None and node.op_type == "Expand" and not node.domain
    return node.inputs[0] if node is not None and expands else value


def _leave_out(
    graph: ir.Graph, concat: ir.Node, layer: ConcatLayer, place: int, a: int, b: int
) -> None:
    """Take the difference at `place` out of a Concat; the layer gets other weights."""
    ends = np.cumsum(layer.widths)[:-1]
    blocks = [block.astype(np.float64) for block in np.split(layer.weight, ends)]
    blocks[a] += blocks[place]
    blocks[b] -= blocks[place]
    del blocks[place]
    weight = np.concatenate(blocks).astype(layer.weight.dtype)
    last = len(concat.inputs) - 1
    for i in range(place, last):
        concat.replace_input_with(i, concat.inputs[i + 1])
    concat.resize_inputs(last)
    output = concat.outputs[0]
    if output.shape is not None:
        leading = [size if isinstance(size, int) else str(size) for size in output.shape[:-1]]
        output.shape = ir.Shape([*leading, len(weight)])
    layer.with_weight(graph, weight, "differences")
