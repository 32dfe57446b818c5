"""Lowering rules of trigonometric functions, by operators that every target has."""

from __future__ import annotations

import math

import numpy as np
import onnx_ir as ir

from ondevice.converters.lowering.builder import Lowering, Outputs, Rule
from ondevice.converters.lowering.operands import first_of

# pi in three parts of few bits each: x - k * pi is exact to a float32 for |x| up to some thousands
_PI = (3.140625, 9.67502593994140625e-4, 1.509957990978376e-7)
# odd powers of x: sine on -pi/2..pi/2, arc tangent on -0.42..0.42, each to 1e-8
_SINE = [(-1) ** n / math.factorial(2 * n + 1) for n in range(7)]
_ARC = [(-1) ** n / (2 * n + 1) for n in range(9)]


def _odd(made: Lowering, x: ir.Value, series: list[float]) -> ir.Value:
    """A polynomial of odd powers, by Horner's rule."""
    square = made.op("Mul", x, x)
    total = made.constant(series[-1])
    for factor in series[-2::-1]:
        total = made.op("Add", made.op("Mul", total, square), made.constant(factor))
    return made.op("Mul", total, x)


def _sine(made: Lowering, x: ir.Value, half_turns: float = 0.0) -> ir.Value:
    """The sine of x + half_turns * pi."""
    turns = made.op("Mul", x, made.constant(1 / math.pi))
    shifted = made.op("Add", turns, made.constant(half_turns)) if half_turns else turns
    nearest = made.op("Floor", made.op("Add", shifted, made.constant(0.5)))
    taken = made.op("Sub", nearest, made.constant(half_turns)) if half_turns else nearest
    rest = x
    for part in _PI:
        rest = made.op("Sub", rest, made.op("Mul", taken, made.constant(part)))
    half = made.op("Floor", made.op("Mul", nearest, made.constant(0.5)))
    odd = made.op("Sub", nearest, made.op("Add", half, half))
    sign = made.op("Sub", made.constant(1), made.op("Add", odd, odd))
    return made.op("Mul", sign, _odd(made, rest, _SINE))


def _arc_tangent(made: Lowering, x: ir.Value) -> ir.Value:
    size = made.op("Abs", x)
    one = made.constant(1)
    beyond = made.op("Greater", size, one)
    inside = made.op("Where", beyond, made.op("Div", one, made.op("Max", size, one)), size)
    root = made.op("Sqrt", made.op("Add", made.op("Mul", inside, inside), one))
    halved = _odd(made, made.op("Div", inside, made.op("Add", root, one)), _ARC)
    angle = made.op("Add", halved, halved)
    turned = made.op("Sub", made.constant(math.pi / 2), angle)
    found = made.op("Where", beyond, turned, angle)
    negative = made.op("Less", x, made.constant(0))
    return made.op("Where", negative, made.op("Neg", found), found)


def _arc_sine(made: Lowering, x: ir.Value) -> ir.Value:
    """By the tangent of half the angle, which has no pole."""
    one = made.constant(1)
    rest = made.op("Max", made.op("Sub", one, made.op("Mul", x, x)), made.constant(0))
    half = _arc_tangent(made, made.op("Div", x, made.op("Add", one, made.op("Sqrt", rest))))
    return made.op("Add", half, half)


def _sin(made: Lowering, node: ir.Node) -> Outputs | None:
    return [_sine(made, first_of(node))]


def _cos(made: Lowering, node: ir.Node) -> Outputs | None:
    return [_sine(made, first_of(node), 0.5)]


def _tan(made: Lowering, node: ir.Node) -> Outputs | None:
    x = first_of(node)
    return [made.op("Div", _sine(made, x), _sine(made, x, 0.5))]


def _atan(made: Lowering, node: ir.Node) -> Outputs | None:
    return [_arc_tangent(made, first_of(node))]


def _asin(made: Lowering, node: ir.Node) -> Outputs | None:
    return [_arc_sine(made, first_of(node))]


def _acos(made: Lowering, node: ir.Node) -> Outputs | None:
    return [made.op("Sub", made.constant(np.pi / 2), _arc_sine(made, first_of(node)))]


def _hyperbolic(kind: str) -> Rule:
    def rule(made: Lowering, node: ir.Node) -> Outputs | None:
        up, down = made.op("Exp", first_of(node)), made.op("Exp", made.op("Neg", first_of(node)))
        return [made.op("Mul", made.op(kind, up, down), made.constant(0.5))]

    return rule


TRIGONOMETRY: dict[str, Rule] = {
    "Acos": _acos,
    "Asin": _asin,
    "Atan": _atan,
    "Cos": _cos,
    "Cosh": _hyperbolic("Add"),
    "Sin": _sin,
    "Sinh": _hyperbolic("Sub"),
    "Tan": _tan,
}
