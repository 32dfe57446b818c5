"""Lowering rules of elementwise operators: powers, activations, tests of single elements."""

from __future__ import annotations

import math

import numpy as np
import onnx_ir as ir

from ondevice.converters.lowering.builder import NodeBuilder, Outputs, Rule
from ondevice.converters.lowering.operands import (
    constant_array,
    first_input,
    optional_input,
    rank_of,
)
from ondevice.errors import UnsupportedError


def _clip(builder: NodeBuilder, node: ir.Node) -> Outputs | None:
    x = first_input(node)
    if (low := optional_input(node, 1)) is not None:
        x = builder.op("Max", x, low)
    if (high := optional_input(node, 2)) is not None:
        x = builder.op("Min", x, high)
    return [x]


def _chain(kind: str) -> Rule:
    """An operator of any number of inputs as operators of two."""

    def rule(builder: NodeBuilder, node: ir.Node) -> Outputs | None:
        if kind == node.op_type and len(node.inputs) == 2:
            return None
        x = first_input(node)
        for other in node.inputs[1:]:
            x = builder.op(kind, x, other)
        return [x]

    return rule


def _pow(builder: NodeBuilder, node: ir.Node) -> Outputs | None:
    exponent = constant_array(node.inputs[1])
    if exponent is None or exponent.size != 1 or exponent.ndim > rank_of(node.inputs[0]):
        return None
    x, power = first_input(node), float(exponent.reshape(-1)[0])
    if power == 2:
        return [builder.op("Mul", x, x)]
    if power == 3:
        return [builder.op("Mul", builder.op("Mul", x, x), x)]
    if power == 0.5:
        return [builder.op("Sqrt", x)]
    if exponent.dtype != np.float32 and x.dtype == ir.DataType.FLOAT:
        return [builder.op("Pow", x, builder.constant(power))]
    return None


def _gelu(builder: NodeBuilder, node: ir.Node) -> Outputs | None:
    x = first_input(node)
    half = builder.op("Mul", x, builder.constant(0.5))
    if node.attributes.get_string("approximate", "none") == "tanh":
        cube = builder.op("Mul", builder.op("Mul", x, x), x)
        total = builder.op("Add", x, builder.op("Mul", cube, builder.constant(0.044715)))
        scaled = builder.op("Mul", total, builder.constant(math.sqrt(2 / math.pi)))
        curve = builder.op("Tanh", scaled)
    else:
        curve = builder.op("Erf", builder.op("Mul", x, builder.constant(math.sqrt(0.5))))
    return [builder.op("Mul", half, builder.op("Add", curve, builder.constant(1)))]


def _hard_sigmoid(builder: NodeBuilder, node: ir.Node) -> Outputs | None:
    swish = node.op_type == "HardSwish"
    alpha = 1 / 6 if swish else node.attributes.get_float("alpha", 0.2)
    beta = 0.5 if swish else node.attributes.get_float("beta", 0.5)
    x = first_input(node)
    line = builder.op("Add", builder.op("Mul", x, builder.constant(alpha)), builder.constant(beta))
    gate = builder.op("Min", builder.op("Max", line, builder.constant(0)), builder.constant(1))
    return [builder.op("Mul", x, gate) if swish else gate]


def _selu(builder: NodeBuilder, node: ir.Node) -> Outputs | None:
    alpha = node.attributes.get_float("alpha", 1.67326319)
    gamma = node.attributes.get_float("gamma", 1.05070102)
    curve = builder.op("Elu", first_input(node), alpha=alpha)
    return [builder.op("Mul", curve, builder.constant(gamma))]


def _celu(builder: NodeBuilder, node: ir.Node) -> Outputs | None:
    alpha = node.attributes.get_float("alpha", 1.0)
    curve = builder.op("Elu", builder.op("Div", first_input(node), builder.constant(alpha)))
    return [builder.op("Mul", curve, builder.constant(alpha))]


def _swish(builder: NodeBuilder, node: ir.Node) -> Outputs | None:
    x = scaled = first_input(node)
    if (alpha := node.attributes.get_float("alpha", 1.0)) != 1.0:
        scaled = builder.op("Mul", x, builder.constant(alpha))
    return [builder.op("Mul", x, builder.op("Sigmoid", scaled))]


def _mish(builder: NodeBuilder, node: ir.Node) -> Outputs | None:
    gate = builder.op("Tanh", builder.op("Softplus", first_input(node)))
    return [builder.op("Mul", first_input(node), gate)]


def _softsign(builder: NodeBuilder, node: ir.Node) -> Outputs | None:
    divisor = builder.op("Add", builder.op("Abs", first_input(node)), builder.constant(1))
    return [builder.op("Div", first_input(node), divisor)]


def _is_nan(builder: NodeBuilder, node: ir.Node) -> Outputs | None:
    return [builder.op("Not", builder.op("Equal", first_input(node), first_input(node)))]


def _is_inf(builder: NodeBuilder, node: ir.Node) -> Outputs | None:
    flags = node.attributes
    if not flags.get_int("detect_negative", 1) or not flags.get_int("detect_positive", 1):
        raise UnsupportedError("it detects infinities of only one sign")
    return [builder.op("Equal", builder.op("Abs", first_input(node)), builder.constant(np.inf))]


def _dropout(builder: NodeBuilder, node: ir.Node) -> Outputs | None:
    return [first_input(node), *[None] * (len(node.outputs) - 1)]


RULES: dict[str, Rule] = {
    "Celu": _celu,
    "Clip": _clip,
    "Dropout": _dropout,
    "Gelu": _gelu,
    "HardSigmoid": _hard_sigmoid,
    "HardSwish": _hard_sigmoid,
    "IsInf": _is_inf,
    "IsNaN": _is_nan,
    "Max": _chain("Max"),
    "Min": _chain("Min"),
    "Mish": _mish,
    "Pow": _pow,
    "Selu": _selu,
    "Softsign": _softsign,
    "Sum": _chain("Add"),
    "Swish": _swish,
}
