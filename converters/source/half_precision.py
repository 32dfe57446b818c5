"""Brings an .onnx file whose layers compute in 16 bits to float32, as all targets compute."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper

_HALVES = (TensorProto.FLOAT16, TensorProto.BFLOAT16)


def in_single_precision(proto: onnx.ModelProto) -> onnx.ModelProto:
    """A model with the same numbers, that are float32 now; the given one is not changed."""
    copy = onnx.ModelProto()
    copy.CopyFrom(proto)
    _widen(copy.graph)
    for function in copy.functions:
        _widen_nodes(function.node)
        del function.value_info[:]
    return copy


def _widen(graph: onnx.GraphProto) -> None:
    for tensor in graph.initializer:
        _widen_tensor(tensor)
    for value in (*graph.input, *graph.output):
        if value.type.tensor_type.elem_type in _HALVES:
            value.type.tensor_type.elem_type = TensorProto.FLOAT
    del graph.value_info[:]  # types of 16 bits; they are inferred anew
    _widen_nodes(graph.node)


def _widen_nodes(nodes: Iterable[onnx.NodeProto]) -> None:
    """Casts to 16 bits, constants of them, and what the branches of a node hold."""
    for node in nodes:
        for attribute in node.attribute:
            if attribute.name in ("to", "dtype") and attribute.i in _HALVES:
                attribute.i = TensorProto.FLOAT
            if attribute.HasField("t"):
                _widen_tensor(attribute.t)
            if attribute.HasField("g"):
                _widen(attribute.g)


def _widen_tensor(tensor: onnx.TensorProto) -> None:
    if tensor.data_type in _HALVES:
        array = numpy_helper.to_array(tensor).astype(np.float32)
        tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))
