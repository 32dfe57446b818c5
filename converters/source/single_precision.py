"""Brings a float64 graph to float32, which is what every target computes with."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from ondevice.converters.source.double_integers import mark_exact_inputs
from ondevice.errors import UnsupportedError

_DOUBLE, _FLOAT = ir.DataType.DOUBLE, ir.DataType.FLOAT
_HALVES = (ir.DataType.FLOAT16, ir.DataType.BFLOAT16)


class HalfWeightsError(UnsupportedError):
    """Layers have weights of 16 bits."""


def single_precision(model: ir.Model) -> ir.Model:
    """A model whose float64 values are float32; the given one is not changed.

    Raises:
        HalfWeightsError: weights of 16 bits, whose rounding in torch no target repeats.
    """
    model = model.clone()
    graph = model.graph
    halves = [name for name, value in graph.initializers.items() if value.dtype in _HALVES]
    if halves:
        raise HalfWeightsError(
            f"weights of 16 bits ({', '.join(halves[:3])}): give module.float(), and choose how "
            "files store them: tables='f16', dense='f16'"
        )
    mark_exact_inputs(model)
    for name, value in graph.initializers.items():
        if value.dtype is _DOUBLE and value.const_value is not None:
            array = value.const_value.numpy().astype(np.float32)
            value.const_value = ir.tensor(array, name=name)
            value.type = ir.TensorType(_FLOAT)
    for value in (*graph.inputs, *(output for node in graph for output in node.outputs)):
        if value.dtype is _DOUBLE:
            value.type = ir.TensorType(_FLOAT)
    for node in graph:
        for key in ("to", "dtype"):
            if key in node.attributes and node.attributes.get_int(key) == int(_DOUBLE):
                node.attributes[key] = ir.AttrInt64(key, int(_FLOAT))
        tensor = node.attributes.get_tensor("value") if "value" in node.attributes else None
        if tensor is not None and tensor.dtype is _DOUBLE:
            fresh = ir.tensor(tensor.numpy().astype(np.float32))
            node.attributes["value"] = ir.AttrTensor("value", fresh)
    return model
