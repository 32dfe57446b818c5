"""The elementwise operators in TFLite: results have the shape that their operands broadcast to."""

from __future__ import annotations

from functools import partial

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from ondevice.converters.targets.tflite.graph import GraphBuilder, Translate
from ondevice.converters.targets.tflite.integer_division import quotient, remainder
from ondevice.converters.targets.tflite.shapes import broadcast, elementwise
from ondevice.converters.targets.tflite.writer import Tensor
from ondevice.errors import UnsupportedError

_BOOL = np.dtype(np.bool_)


def _elementwise(opcode: str, *, dtype: type | None = None) -> Translate:
    """Translate a node to one TFLite operator; `dtype` of its result, by default its input's."""

    def translate(graph: GraphBuilder, node: ir.Node) -> Tensor:
        tensors = [graph.tensor(value) for value in node.inputs]
        return elementwise(graph.writer, opcode, *tensors, dtype=dtype)

    return translate


def number(graph: GraphBuilder, value: float, like: Tensor) -> Tensor:
    """A constant scalar of another tensor's dtype."""
    return graph.writer.constant(value, like.dtype)


def _logical(opcode: str) -> Translate:
    def translate(graph: GraphBuilder, node: ir.Node) -> Tensor:
        tensors = [graph.writer.cast(graph.tensor(value), _BOOL) for value in node.inputs]
        return elementwise(graph.writer, opcode, *tensors)

    return translate


def _where(graph: GraphBuilder, node: ir.Node) -> Tensor:
    test, yes, no = (graph.tensor(value) for value in node.inputs)
    shape = broadcast(test.shape, yes.shape, no.shape)
    return graph.writer.op("SELECT_V2", [test, yes, no], shape, yes.dtype)


def choose(graph: GraphBuilder, opcode: str, x: Tensor, yes: Tensor, no: Tensor) -> Tensor:
    """`yes` where x is LESS (or GREATER, the opcode) than zero, `no` elsewhere."""
    test = graph.writer.op(opcode, [x, number(graph, 0, x)], x.shape, _BOOL)
    return graph.writer.op("SELECT_V2", [test, yes, no], x.shape, x.dtype)


def _abs(graph: GraphBuilder, node: ir.Node) -> Tensor:
    x = graph.tensor(node.inputs[0])
    op = partial(elementwise, graph.writer)
    if x.dtype != np.int64:
        return op("ABS", x)
    return op("MAXIMUM", x, op("NEG", x))


def _sign(graph: GraphBuilder, node: ir.Node) -> Tensor:
    x = graph.tensor(node.inputs[0])
    positive = choose(graph, "GREATER", x, number(graph, 1, x), x)
    return choose(graph, "LESS", x, number(graph, -1, x), positive)


def _reciprocal(graph: GraphBuilder, node: ir.Node) -> Tensor:
    x = graph.tensor(node.inputs[0])
    return elementwise(graph.writer, "DIV", number(graph, 1, x), x)


def _softplus(graph: GraphBuilder, node: ir.Node) -> Tensor:
    x = graph.tensor(node.inputs[0])
    op = partial(elementwise, graph.writer)
    small = op("EXP", op("NEG", op("ABS", x)))
    rest = op("LOG", op("ADD", small, number(graph, 1, x)))
    return op("ADD", op("MAXIMUM", x, number(graph, 0, x)), rest)


def _erf(graph: GraphBuilder, node: ir.Node) -> Tensor:
    """Abramowitz and Stegun, formula 7.1.26: within 1.5e-7 of the error function."""
    x = graph.tensor(node.inputs[0])
    op = partial(elementwise, graph.writer)
    size = op("ABS", x)
    scaled = op("MUL", size, number(graph, 0.3275911, x))
    t = op("DIV", number(graph, 1, x), op("ADD", scaled, number(graph, 1, x)))
    total = number(graph, 1.061405429, x)
    for factor in (-1.453152027, 1.421413741, -0.284496736, 0.254829592):
        total = op("ADD", op("MUL", total, t), number(graph, factor, x))
    power = op("EXP", op("NEG", op("MUL", x, x)))
    tail = op("MUL", op("MUL", total, t), power)
    value = op("SUB", number(graph, 1, x), tail)
    return choose(graph, "LESS", x, op("NEG", value), value)


def _leaky_relu(graph: GraphBuilder, node: ir.Node) -> Tensor:
    x, alpha = graph.tensor(node.inputs[0]), node.attributes.get_float("alpha", 0.01)
    return graph.writer.op("LEAKY_RELU", [x], x.shape, x.dtype, alpha=alpha)


def _prelu(graph: GraphBuilder, node: ir.Node) -> Tensor:
    x, slope = (graph.tensor(value) for value in node.inputs)
    op = partial(elementwise, graph.writer)
    zero = number(graph, 0, x)
    below = op("MUL", op("MINIMUM", x, zero), slope)
    return op("ADD", op("MAXIMUM", x, zero), below)


def _elu(graph: GraphBuilder, node: ir.Node) -> Tensor:
    x, alpha = graph.tensor(node.inputs[0]), node.attributes.get_float("alpha", 1.0)
    op = partial(elementwise, graph.writer)
    powers = op("EXP", op("MINIMUM", x, number(graph, 0, x)))
    below = op("SUB", powers, number(graph, 1, x))
    return choose(graph, "GREATER", x, x, op("MUL", below, number(graph, alpha, x)))


def _constant_divisors(graph: GraphBuilder, node: ir.Node) -> npt.NDArray[np.int64]:
    divisors = graph.array(node.inputs[1])
    if divisors is None:
        raise UnsupportedError(
            "expected integers divided by a constant, got a number that is not constant"
        )
    return divisors.astype(np.int64)


def _mod(graph: GraphBuilder, node: ir.Node) -> Tensor:
    x, of_dividend = graph.tensor(node.inputs[0]), bool(node.attributes.get_int("fmod", 0))
    if x.dtype.kind == "i":
        return remainder(graph.writer, x, _constant_divisors(graph, node), of_dividend)
    if of_dividend:
        raise UnsupportedError(
            "expected integers, or a remainder with the sign of the divisor (fmod=0); got floats "
            "with fmod=1"
        )
    return _elementwise("FLOOR_MOD")(graph, node)


def _div(graph: GraphBuilder, node: ir.Node) -> Tensor:
    x, writer = graph.tensor(node.inputs[0]), graph.writer
    if x.dtype.kind != "i":
        return _elementwise("DIV")(graph, node)
    whole = quotient(writer, writer.cast(x, np.int64), _constant_divisors(graph, node))
    return writer.cast(whole, x.dtype)


def _pow(graph: GraphBuilder, node: ir.Node) -> Tensor:
    exponent = graph.array(node.inputs[1])
    if exponent is None or exponent.size != 1 or exponent.item() != 2:
        return _elementwise("POW")(graph, node)
    base = graph.tensor(node.inputs[0])  # a square is a product, as in factorisation machines
    return graph.writer.op("MUL", [base, base], base.shape, base.dtype)


def _relu(graph: GraphBuilder, node: ir.Node) -> Tensor:
    x = graph.tensor(node.inputs[0])
    if x.dtype.kind != "i":
        return graph.writer.op("RELU", [x], x.shape, x.dtype)
    zero = graph.writer.constant(0, x.dtype)
    return graph.writer.op("MAXIMUM", [x, zero], x.shape, x.dtype)


# One entry for each ONNX operator. To add one, write its function and name it here.
ELEMENTWISE: dict[str, Translate] = {
    "Abs": _abs,
    "Add": _elementwise("ADD"),
    "And": _logical("LOGICAL_AND"),
    "Ceil": _elementwise("CEIL"),
    "Div": _div,
    "Elu": _elu,
    "Equal": _elementwise("EQUAL", dtype=np.bool_),
    "Erf": _erf,
    "Exp": _elementwise("EXP"),
    "Floor": _elementwise("FLOOR"),
    "Greater": _elementwise("GREATER", dtype=np.bool_),
    "GreaterOrEqual": _elementwise("GREATER_EQUAL", dtype=np.bool_),
    "LeakyRelu": _leaky_relu,
    "Less": _elementwise("LESS", dtype=np.bool_),
    "LessOrEqual": _elementwise("LESS_EQUAL", dtype=np.bool_),
    "Log": _elementwise("LOG"),
    "Max": _elementwise("MAXIMUM"),
    "Min": _elementwise("MINIMUM"),
    "Mod": _mod,
    "Mul": _elementwise("MUL"),
    "Neg": _elementwise("NEG"),
    "Not": _logical("LOGICAL_NOT"),
    "Or": _logical("LOGICAL_OR"),
    "Pow": _pow,
    "PRelu": _prelu,
    "Reciprocal": _reciprocal,
    "Relu": _relu,
    "Round": _elementwise("ROUND"),
    "Sigmoid": _elementwise("LOGISTIC"),
    "Sign": _sign,
    "Softplus": _softplus,
    "Sqrt": _elementwise("SQRT"),
    "Sub": _elementwise("SUB"),
    "Tanh": _elementwise("TANH"),
    "Where": _where,
    "Xor": _elementwise("NOT_EQUAL", dtype=np.bool_),
}
