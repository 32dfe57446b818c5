"""The operators of the native plan in numpy, each as ONNX (opset 21) defines it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from ondevice.errors import InputError
from ondevice.trees import tree_ensemble

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


def _erf(x: Array) -> Array:
    """The error function to 1.2e-7: by its series in float64, whose terms are all positive."""
    size = np.minimum(np.abs(x).astype(np.float64), 4.0)  # beyond, 1 - erf is below 2e-8
    term = total = size * (2 / np.sqrt(np.pi)) * np.exp(-size * size)
    for n in range(1, 70):
        term = term * (2 * size * size / (2 * n + 1))
        total = total + term
    result: Array = np.copysign(total, x).astype(x.dtype)
    return result


def _softplus(x: Array) -> Array:
    return (np.maximum(x, 0) + np.log1p(np.exp(-np.abs(x)))).astype(x.dtype)


def _elu(inputs: list[Array], attributes: Attributes) -> Array:
    x, alpha = inputs[0], np.float32(attributes.get("alpha", 1.0))
    return np.where(x > 0, x, alpha * np.expm1(np.minimum(x, 0))).astype(x.dtype)


def _leaky_relu(inputs: list[Array], attributes: Attributes) -> Array:
    x = inputs[0]
    return np.where(x < 0, x * np.float32(attributes.get("alpha", 0.01)), x)


def _divide(left: Array, right: Array) -> Array:
    if left.dtype.kind != "i":
        return left / right
    if (right == 0).any():
        raise InputError("Div: an integer divided by zero")
    # ONNX truncates towards zero
    wrapped = left // right
    result: Array = wrapped + ((left % right != 0) & ((left < 0) != (right < 0)))
    return result


def _mod(inputs: list[Array], attributes: Attributes) -> Array:
    if inputs[0].dtype.kind == "i" and (inputs[1] == 0).any():
        raise InputError("Mod: an integer divided by zero")
    return np.fmod(*inputs[:2]) if attributes.get("fmod", 0) else np.mod(*inputs[:2])


def _cast(inputs: list[Array], attributes: Attributes) -> Array:
    x, to = inputs[0], CASTS[attributes["to"]]
    if to == np.int64 and x.dtype.kind == "f":
        # saturates where C leaves the result open; NaN becomes 0
        top = np.float32(2**63)
        inside = np.nan_to_num(np.where((x >= -top) & (x < top), x, 0)).astype(np.int64)
        limits = np.iinfo(np.int64)
        return np.where(x >= top, limits.max, np.where(x < -top, limits.min, inside))
    return x.astype(to)


# ONNX's numbers of data types; int32 is carried as int64, and a bool as one byte
CASTS: dict[int, type[np.generic]] = {1: np.float32, 6: np.int64, 7: np.int64, 9: np.bool_}


def _slice(inputs: list[Array], attributes: Attributes) -> Array:
    x, starts, ends = inputs[0], inputs[1].tolist(), inputs[2].tolist()
    axes = inputs[3].tolist() if len(inputs) > 3 else list(range(len(starts)))
    steps = inputs[4].tolist() if len(inputs) > 4 else [1] * len(starts)
    index = [slice(None)] * x.ndim
    for axis, start, end, step in zip(axes, starts, ends, steps, strict=True):
        size = x.shape[axis]
        # an end before the first element would otherwise count from the back
        last = None if step < 0 and end < -size else end
        index[axis] = slice(start, last, step)
    return x[tuple(index)]


def _expand(inputs: list[Array], attributes: Attributes) -> Array:
    shape = np.broadcast_shapes(inputs[0].shape, tuple(inputs[1].tolist()))
    return np.broadcast_to(inputs[0], shape)


def _shape(inputs: list[Array], attributes: Attributes) -> Array:
    part = slice(attributes.get("start", 0), attributes.get("end"))
    return np.array(inputs[0].shape[part], np.int64)


def _expand_rows(inputs: list[Array], attributes: Attributes) -> Array:
    rows = inputs[1].shape[0]
    return np.broadcast_to(inputs[0], (rows, *inputs[0].shape[1:]))


def _pad(inputs: list[Array], attributes: Attributes) -> Array:
    if attributes.get("mode", "constant") != "constant":
        raise ValueError("only constant padding")
    x, pads = inputs[0], inputs[1].tolist()
    value = inputs[2].item() if len(inputs) > 2 else 0
    pairs = list(zip(pads[: x.ndim], pads[x.ndim :], strict=True))
    padded = np.pad(x, [(max(a, 0), max(b, 0)) for a, b in pairs], constant_values=value)
    cut = zip(pairs, padded.shape, strict=True)  # what is below zero cuts off
    return padded[tuple(slice(max(-a, 0), size - max(-b, 0)) for (a, b), size in cut)]


def _checked(indices: Array, size: int) -> Array:
    if indices.size and (indices.min() < -size or indices.max() >= size):
        raise IndexError(f"an index is outside -{size}..{size - 1}")
    return np.where(indices < 0, indices + size, indices)


def _gather(inputs: list[Array], attributes: Attributes) -> Array:
    axis = attributes.get("axis", 0)
    return np.take(inputs[0], _checked(inputs[1], inputs[0].shape[axis]), axis=axis)


def _gather_elements(inputs: list[Array], attributes: Attributes) -> Array:
    axis = attributes.get("axis", 0)
    data, indices = inputs[0], _checked(inputs[1], inputs[0].shape[axis])
    cut = tuple(
        slice(None) if i == axis % data.ndim else slice(size)
        for i, size in enumerate(indices.shape)
    )
    return np.take_along_axis(data[cut], indices, axis=axis)


def _gather_nd(inputs: list[Array], attributes: Attributes) -> Array:
    data, indices = inputs
    batch, depth = attributes.get("batch_dims", 0), indices.shape[-1]
    flat = data.reshape(-1, *data.shape[batch:])
    tuples = indices.reshape(flat.shape[0], -1, depth)
    places = [_checked(tuples[..., i], flat.shape[1 + i]) for i in range(depth)]
    out = flat[(np.arange(flat.shape[0])[:, None], *places)]
    result: Array = out.reshape(*indices.shape[:-1], *data.shape[batch + depth :])
    return result


def _arg(largest: bool) -> Operator:
    def operator(inputs: list[Array], attributes: Attributes) -> Array:
        x, axis = inputs[0], attributes.get("axis", 0)
        choose = np.argmax if largest else np.argmin
        if attributes.get("select_last_index", 0):
            place = x.shape[axis] - 1 - choose(np.flip(x, axis), axis=axis, keepdims=True)
        else:
            place = choose(x, axis=axis, keepdims=True)
        keep = attributes.get("keepdims", 1)
        result: Array = (place if keep else place.squeeze(axis)).astype(np.int64)
        return result

    return operator


def _top_k_indices(inputs: list[Array], attributes: Attributes) -> Array:
    """Places of the k largest (or smallest) along an axis, ties by lower place, in order."""
    x, axis, k = inputs[0], attributes.get("axis", -1), attributes["k"]
    keys = x
    if attributes.get("largest", 1):  # the least integer has no opposite number
        keys = ~x if x.dtype.kind == "i" else -x
    order = np.argsort(keys, axis=axis, kind="stable")
    return np.take(order, np.arange(k), axis=axis).astype(np.int64)


def _cum_sum(inputs: list[Array], attributes: Attributes) -> Array:
    x, axis = inputs[0], int(inputs[1].item())
    x = np.flip(x, axis) if attributes.get("reverse", 0) else x
    out = np.cumsum(x, axis=axis, dtype=x.dtype)
    if attributes.get("exclusive", 0):
        out = out - x
    return np.flip(out, axis) if attributes.get("reverse", 0) else out


def _where(inputs: list[Array], attributes: Attributes) -> Array:
    return np.where(inputs[0] != 0, inputs[1], inputs[2])


def _logical(function: Callable[[Array, Array], Array]) -> Operator:
    return lambda inputs, attributes: function(inputs[0] != 0, inputs[1] != 0)


OPERATORS: dict[str, Operator] = {
    "Abs": _unary(np.abs),
    "Add": _binary(np.add),
    "And": _logical(np.logical_and),
    "ArgMax": _arg(largest=True),
    "ArgMin": _arg(largest=False),
    "Cast": _cast,
    "Ceil": _unary(np.ceil),
    "Concat": _concat,
    "CumSum": _cum_sum,
    "Div": _binary(_divide),
    "Elu": _elu,
    "Equal": _binary(np.equal),
    "Erf": _unary(_erf),
    "Exp": _unary(np.exp),
    "Expand": _expand,
    "ExpandRows": _expand_rows,
    "Flatten": _flatten,
    "Floor": _unary(np.floor),
    "Gather": _gather,
    "GatherElements": _gather_elements,
    "GatherND": _gather_nd,
    "Gemm": _gemm,
    "Greater": _binary(np.greater),
    "GreaterOrEqual": _binary(np.greater_equal),
    "Identity": _unary(lambda x: x),
    "LeakyRelu": _leaky_relu,
    "Less": _binary(np.less),
    "LessOrEqual": _binary(np.less_equal),
    "Log": _unary(np.log),
    "MatMul": _binary(np.matmul),
    "Max": _binary(np.maximum),
    "Min": _binary(np.minimum),
    "Mod": _mod,
    "Mul": _binary(np.multiply),
    "Neg": _unary(np.negative),
    "Not": _unary(lambda x: x == 0),
    "Or": _logical(np.logical_or),
    "PRelu": _binary(lambda x, slope: np.where(x < 0, x * slope, x)),
    "Pad": _pad,
    "Pow": _binary(np.power),
    "Reciprocal": _unary(lambda x: np.float32(1) / x),
    "ReduceMax": _reduce(np.max),
    "ReduceMean": _reduce(np.mean),
    "ReduceMin": _reduce(np.min),
    "ReduceProd": _reduce(np.prod),
    "ReduceSum": _reduce(np.sum),
    "Relu": _unary(lambda x: np.maximum(x, 0)),
    "Reshape": _reshape,
    "Round": _unary(np.rint),
    "Shape": _shape,
    "Sigmoid": _sigmoid,
    "Sign": _unary(np.sign),
    "Slice": _slice,
    "Softmax": _softmax,
    "Softplus": _unary(_softplus),
    "Sqrt": _unary(np.sqrt),
    "Squeeze": _squeeze,
    "Sub": _binary(np.subtract),
    "Tanh": _unary(np.tanh),
    "TopKIndices": _top_k_indices,
    "Transpose": _transpose,
    "TreeEnsemble": tree_ensemble,
    "Unsqueeze": _unsqueeze,
    "Where": _where,
    "Xor": _logical(np.logical_xor),
}


def apply(op: str, inputs: list[Array], attributes: Attributes) -> Array:
    """Run one operator.

    Raises:
        InputError: the arrays do not fit the operator (shapes of the request or of the file).
    """
    try:
        with np.errstate(all="ignore"):  # infinities and NaN are results, as in every runtime
            return OPERATORS[op](inputs, attributes)
    except (ValueError, IndexError, TypeError, KeyError, MemoryError, OverflowError) as error:
        shapes = ", ".join(str(list(array.shape)) for array in inputs)
        raise InputError(f"{op} of shapes {shapes}: {error}") from error
