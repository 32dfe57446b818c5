"""Makes tensors of numbers the outputs of an .onnx file of a classifier.

Exporters give it two outputs: the label of the likeliest class, an integer or a text, and a list of
maps from each class to its probability. The tensor that the maps are made of stays, under the name
of the maps; the label, which is the class of its greatest number, is left out.
"""

from __future__ import annotations

import onnx
from onnx import helper

from ondevice.converters.source.ml.operands import ML

_CLASSIFIERS = ("TreeEnsembleClassifier", "LinearClassifier", "SVMClassifier")


def number_outputs(proto: onnx.ModelProto) -> onnx.ModelProto:
    """A model whose outputs are tensors of numbers where its ZipMaps and labels allow it.

    Args:
        proto: an .onnx file; it is not changed.

    Returns the same object where nothing is to be done.
    """
    if not any(node.domain == ML for node in proto.graph.node):
        return proto
    zipmaps = {node.output[0]: node for node in proto.graph.node if _is_zipmap(node)}
    labels = _labels(proto.graph)
    kept = [value for value in proto.graph.output if value.name not in labels]
    kept = kept if any(_is_score(value, zipmaps) for value in kept) else list(proto.graph.output)
    if len(kept) == len(proto.graph.output) and not zipmaps:
        return proto
    copy = onnx.ModelProto()
    copy.CopyFrom(proto)
    outputs = [_number_output(value, zipmaps) for value in kept]
    del copy.graph.output[:]
    copy.graph.output.extend(outputs)
    nodes = [_as_tensor(node) if _is_zipmap(node) else node for node in copy.graph.node]
    nodes = _needed(nodes, {value.name for value in outputs})
    del copy.graph.node[:]
    copy.graph.node.extend(nodes)
    return copy


def _is_zipmap(node: onnx.NodeProto) -> bool:
    return bool(node.op_type == "ZipMap" and node.domain == ML)


def _is_score(value: onnx.ValueInfoProto, zipmaps: dict[str, onnx.NodeProto]) -> bool:
    kind = value.type.tensor_type.elem_type
    return value.name in zipmaps or kind in (onnx.TensorProto.FLOAT, onnx.TensorProto.DOUBLE)


def _labels(graph: onnx.GraphProto) -> set[str]:
    """Names of integer and text outputs that are chosen by a classifier or by a greatest score."""
    chosen: set[str] = set()
    for node in graph.node:
        if node.op_type == "ArgMax" or (node.domain == ML and node.op_type in _CLASSIFIERS):
            chosen.add(node.output[0])
        elif chosen.intersection(node.input):
            chosen.update(node.output)
    kinds = (onnx.TensorProto.INT64, onnx.TensorProto.INT32, onnx.TensorProto.STRING)
    return {
        value.name
        for value in graph.output
        if value.name in chosen and value.type.tensor_type.elem_type in kinds
    }


def _number_output(
    value: onnx.ValueInfoProto, zipmaps: dict[str, onnx.NodeProto]
) -> onnx.ValueInfoProto:
    if value.name not in zipmaps:
        return value
    return helper.make_tensor_value_info(value.name, onnx.TensorProto.FLOAT, [None, None])


def _as_tensor(zipmap: onnx.NodeProto) -> onnx.NodeProto:
    return helper.make_node("Identity", zipmap.input[:1], zipmap.output[:1], name=zipmap.name)


def _needed(nodes: list[onnx.NodeProto], outputs: set[str]) -> list[onnx.NodeProto]:
    """The nodes that outputs depend on, in their order."""
    wanted, needed = set(outputs), []
    for node in reversed(nodes):
        if wanted.intersection(node.output):
            wanted.update(node.input)
            needed.append(node)
    return needed[::-1]
