"""The operators of the native plan in numpy, each as ONNX (opset 21) defines it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from ondevice.errors import InputError

Array = npt.NDArray[Any]
Attributes = dict[str, Any]
Operator = Callable[[list[Array], Attributes], Array]


def _gemm(inputs: list[Array], attributes: Attributes) -> Array:
    left = inputs[0].T if attributes.get("transA", 0) else inputs[0]
    right = inputs[1].T if attributes.get("transB", 0) else inputs[1]
    out = left @ right
    if (alpha := attributes.get("alpha", 1.0)) != 1.0:
        out = out * np.float32(alpha)
    if len(inputs) > 2:
        beta = attributes.get("beta", 1.0)
        out = out + (inputs[2] if beta == 1.0 else inputs[2] * np.float32(beta))
    return out


def _sigmoid(inputs: list[Array], attributes: Attributes) -> Array:
    x = inputs[0]
    # exp of a negative number only: no overflow for any input
    small = np.exp(-np.abs(x))
    return np.where(x >= 0, 1 / (1 + small), small / (1 + small)).astype(x.dtype)


def _softmax(inputs: list[Array], attributes: Attributes) -> Array:
    axis = attributes.get("axis", -1)
    powers: Array = np.exp(inputs[0] - inputs[0].max(axis=axis, keepdims=True))
    out: Array = powers / powers.sum(axis=axis, keepdims=True)
    return out


def _concat(inputs: list[Array], attributes: Attributes) -> Array:
    return np.concatenate(inputs, axis=attributes["axis"])


def _reshape(inputs: list[Array], attributes: Attributes) -> Array:
    target = inputs[1].tolist()
    if not attributes.get("allowzero", 0):
        target = [inputs[0].shape[i] if size == 0 else size for i, size in enumerate(target)]
    return inputs[0].reshape(target)


def _flatten(inputs: list[Array], attributes: Attributes) -> Array:
    axis = attributes.get("axis", 1)
    return inputs[0].reshape(int(np.prod(inputs[0].shape[:axis])), -1)


def _squeeze(inputs: list[Array], attributes: Attributes) -> Array:
    if len(inputs) == 1:
        return inputs[0].squeeze()
    return inputs[0].squeeze(tuple(inputs[1].tolist()))


def _unsqueeze(inputs: list[Array], attributes: Attributes) -> Array:
    return np.expand_dims(inputs[0], tuple(inputs[1].tolist()))


def _transpose(inputs: list[Array], attributes: Attributes) -> Array:
    return inputs[0].transpose(attributes.get("perm"))


def _reduce(function: Callable[..., Array]) -> Operator:
    def operator(inputs: list[Array], attributes: Attributes) -> Array:
        axes = tuple(inputs[1].tolist()) if len(inputs) > 1 else ()
        if not axes and attributes.get("noop_with_empty_axes", 0):
            return inputs[0]
        keep = bool(attributes.get("keepdims", 1))
        return function(inputs[0], axis=axes or None, keepdims=keep)

    return operator


def _binary(function: Callable[[Array, Array], Array]) -> Operator:
    return lambda inputs, attributes: function(inputs[0], inputs[1])


def _unary(function: Callable[[Array], Array]) -> Operator:
    return lambda inputs, attributes: function(inputs[0])


OPERATORS: dict[str, Operator] = {
    "Add": _binary(np.add),
    "Concat": _concat,
    "Div": _binary(np.divide),
    "Flatten": _flatten,
    "Gemm": _gemm,
    "Identity": _unary(lambda x: x),
    "MatMul": _binary(np.matmul),
    "Mul": _binary(np.multiply),
    "ReduceMean": _reduce(np.mean),
    "ReduceSum": _reduce(np.sum),
    "Relu": _unary(lambda x: np.maximum(x, 0)),
    "Reshape": _reshape,
    "Sigmoid": _sigmoid,
    "Softmax": _softmax,
    "Squeeze": _squeeze,
    "Sub": _binary(np.subtract),
    "Tanh": _unary(np.tanh),
    "Transpose": _transpose,
    "Unsqueeze": _unsqueeze,
}


def apply(op: str, inputs: list[Array], attributes: Attributes) -> Array:
    """Run one operator.

    Raises:
        InputError: the arrays do not fit the operator (shapes of the request or of the file).
    """
    try:
        return OPERATORS[op](inputs, attributes)
    except (ValueError, IndexError, TypeError, KeyError, MemoryError) as error:
        shapes = ", ".join(str(list(array.shape)) for array in inputs)
        raise InputError(f"{op} of shapes {shapes}: {error}") from error
