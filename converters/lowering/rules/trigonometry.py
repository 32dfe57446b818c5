"""Lowering rules of trigonometric functions, by operators that every target has."""

from __future__ import annotations

import math

import numpy as np
import onnx_ir as ir

from ondevice.converters.lowering.builder import NodeBuilder, Outputs, Rule
from ondevice.converters.lowering.operands import first_input

# pi in three parts of few bits each: x - k * pi is exact enough up to 2^15 half turns
_PI = (3.140625, 9.67502593994140625e-4, 1.509957990978376e-7)
# odd powers of x: sine on -pi/2..pi/2, arc tangent on -0.42..0.42, each to 1e-8
_SINE = [(-1) ** n / math.factorial(2 * n + 1) for n in range(7)]
_ARC = [(-1) ** n / (2 * n + 1) for n in range(9)]


def _odd(builder: NodeBuilder, x: ir.Value, series: list[float]) -> ir.Value:
    """A polynomial of odd powers, by Horner's rule."""
    square = builder.op("Mul", x, x)
    total = builder.constant(series[-1])
    for factor in series[-2::-1]:
        total = builder.op("Add", builder.op("Mul", total, square), builder.constant(factor))
    return builder.op("Mul", total, x)


def _sine(builder: NodeBuilder, x: ir.Value, half_turns: float = 0.0) -> ir.Value:
    """The sine of x + half_turns * pi."""
    turns = builder.op("Mul", x, builder.constant(1 / math.pi))
    shifted = builder.op("Add", turns, builder.constant(half_turns)) if half_turns else turns
    nearest = builder.op("Floor", builder.op("Add", shifted, builder.constant(0.5)))
    taken = builder.op("Sub", nearest, builder.constant(half_turns)) if half_turns else nearest
    rest = x
    for part in _PI:
        rest = builder.op("Sub", rest, builder.op("Mul", taken, builder.constant(part)))
    half = builder.op("Floor", builder.op("Mul", nearest, builder.constant(0.5)))
    odd = builder.op("Sub", nearest, builder.op("Add", half, half))
    sign = builder.op("Sub", builder.constant(1), builder.op("Add", odd, odd))
    return builder.op("Mul", sign, _odd(builder, rest, _SINE))


def _arc_tangent(builder: NodeBuilder, x: ir.Value) -> ir.Value:
    """By the reciprocal beyond 1, and by half the angle, for the series."""
    size = builder.op("Abs", x)
    unit = builder.constant(1)
    beyond = builder.op("Greater", size, unit)
    reciprocal = builder.op("Div", unit, builder.op("Max", size, unit))
    inside = builder.op("Where", beyond, reciprocal, size)
    root = builder.op("Sqrt", builder.op("Add", builder.op("Mul", inside, inside), unit))
    halved = _odd(builder, builder.op("Div", inside, builder.op("Add", root, unit)), _ARC)
    angle = builder.op("Add", halved, halved)
    reflected = builder.op("Sub", builder.constant(math.pi / 2), angle)
    magnitude = builder.op("Where", beyond, reflected, angle)
    negative = builder.op("Less", x, builder.constant(0))
    return builder.op("Where", negative, builder.op("Neg", magnitude), magnitude)


def _arc_sine(builder: NodeBuilder, x: ir.Value) -> ir.Value:
    """By the tangent of half the angle, which has no pole."""
    unit = builder.constant(1)
    rest = builder.op("Max", builder.op("Sub", unit, builder.op("Mul", x, x)), builder.constant(0))
    half = _arc_tangent(
        builder, builder.op("Div", x, builder.op("Add", unit, builder.op("Sqrt", rest)))
    )
    return builder.op("Add", half, half)


def _sin(builder: NodeBuilder, node: ir.Node) -> Outputs | None:
    return [_sine(builder, first_input(node))]


def _cos(builder: NodeBuilder, node: ir.Node) -> Outputs | None:
    return [_sine(builder, first_input(node), 0.5)]


def _tan(builder: NodeBuilder, node: ir.Node) -> Outputs | None:
    x = first_input(node)
    return [builder.op("Div", _sine(builder, x), _sine(builder, x, 0.5))]


def _atan(builder: NodeBuilder, node: ir.Node) -> Outputs | None:
    return [_arc_tangent(builder, first_input(node))]


def _asin(builder: NodeBuilder, node: ir.Node) -> Outputs | None:
    return [_arc_sine(builder, first_input(node))]


def _acos(builder: NodeBuilder, node: ir.Node) -> Outputs | None:
    return [builder.op("Sub", builder.constant(np.pi / 2), _arc_sine(builder, first_input(node)))]


def _hyperbolic(kind: str) -> Rule:
    def rule(builder: NodeBuilder, node: ir.Node) -> Outputs | None:
        up, down = (
            builder.op("Exp", first_input(node)),
            builder.op("Exp", builder.op("Neg", first_input(node))),
        )
        return [builder.op("Mul", builder.op(kind, up, down), builder.constant(0.5))]

    return rule


RULES: dict[str, Rule] = {
    "Acos": _acos,
    "Asin": _asin,
    "Atan": _atan,
    "Cos": _cos,
    "Cosh": _hyperbolic("Add"),
    "Sin": _sin,
    "Sinh": _hyperbolic("Sub"),
    "Tan": _tan,
}
