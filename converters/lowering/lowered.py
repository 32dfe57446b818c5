"""Lower a captured graph to the few operators that the native and TFLite targets run."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
import onnx_ir.passes.common as passes

from ondevice.converters.graph import PackedModel
from ondevice.converters.lowering.batch_first.rewrite import batch_first
from ondevice.converters.lowering.builder import Lowering, Outputs, Rule
from ondevice.converters.lowering.einsum import einsum_terms
from ondevice.converters.lowering.free_sizes import reshape_target, sizes_at_run_time
from ondevice.converters.lowering.operands import (
    array_of,
    first_of,
    fixed,
    integers_of,
    operand,
    rank_of,
    shape_of,
)
from ondevice.converters.lowering.rules.trigonometry import TRIGONOMETRY
from ondevice.converters.lowering.rules.windows import WINDOWS, backwards
from ondevice.converters.lowering.symbolic_shapes import Size, integers, numbers
from ondevice.converters.lowering.unsupported import REASON
from ondevice.errors import UnsupportedError

Array = npt.NDArray[Any]
_FLOAT, _INT64 = ir.DataType.FLOAT, ir.DataType.INT64


def lowered(packed: PackedModel) -> PackedModel:
    """A model of the operators in docs/operators.md; the given one is not changed.

    Shape arithmetic is computed here, with the batch as a symbol, and leaves the graph.
    """
    packed = packed.cloned()
    model, graph = packed.model, packed.model.graph
    lookups = batch_first(graph, packed.lookups)
    passes.RemoveUnusedNodesPass()(model)
    for number, node in enumerate(list(graph)):
        rule = None if node.domain else RULES.get(node.op_type)
        if rule is None or not any(
            value.uses() or value.is_graph_output() for value in node.outputs
        ):
            continue
        made = Lowering(graph, node, f"lowered.{number}")
        try:
            outputs = rule(made, node)
        except UnsupportedError as error:
            node.metadata_props[REASON] = str(error)
            continue  # the node stays, and the target names it
        if outputs is None:
            continue
        outputs = [
            # a value of its own: the replaced one's name must not move to an existing value
            value if value is None or value.producer() in made.nodes else made.op("Identity", value)
            for value in outputs
        ]
        pairs = [
            (old, new) for old, new in zip(node.outputs, outputs, strict=True) if new is not None
        ]
        for old, new in pairs:
            new.shape, new.type = old.shape, old.type
        ir.convenience.replace_nodes_and_values(
            graph, node, [node], made.nodes, [a for a, _ in pairs], [b for _, b in pairs]
        )
    passes.RemoveUnusedNodesPass()(model)
    return PackedModel(model, lookups, packed.tables)


# Shapes


def _constant_integers(made: Lowering, node: ir.Node) -> Outputs | None:
    """Shape arithmetic whose result is known now."""
    output = node.outputs[0]
    if output.dtype not in (_INT64, ir.DataType.BOOL):
        return None
    found = numbers(output)
    if found is None or any(isinstance(item, str) for item in found.reshape(-1)):
        return None
    return [made.constant(found.astype(output.dtype.numpy()), output.dtype.numpy())]


def _reshape(made: Lowering, node: ir.Node) -> Outputs | None:
    if folded := _constant_integers(made, node):
        return folded
    sizes = integers(node.inputs[1])
    if sizes is None:  # a product of free sizes
        sizes = shape_of(node.outputs[0])
    own = shape_of(node.inputs[0])
    steps_first = len(own) > 1 and isinstance(own[0], int) and isinstance(own[1], str)
    if steps_first and sizes[:2] == own[:2]:
        # recurrent layers have their steps first: reshape with the rows in front
        rest = [int(size) for size in (own[0], *sizes[2:])]
        x = made.op("Reshape", _turned(made, node.inputs[0]), made.ints(-1, *rest))
        return [made.op("Transpose", x, perm=[1, 0, *range(2, len(sizes))])]
    if all(isinstance(size, int) for size in sizes) and array_of(node.inputs[1]) is not None:
        return None
    if all(s == -1 or (i < len(own) and own[i] == s) for i, s in _free(sizes)):
        # free sizes that stay where they are
        return [made.op("Reshape", first_of(node), made.ints(*(_zero_if_free(s) for s in sizes)))]
    return [made.op("Reshape", first_of(node), reshape_target(made, sizes))]


def _free(sizes: Sequence[Size]) -> list[tuple[int, Size]]:
    return [(i, size) for i, size in enumerate(sizes) if isinstance(size, str) or size == -1]


def _zero_if_free(size: Size) -> int:
    return 0 if isinstance(size, str) else size


def _expand(made: Lowering, node: ir.Node) -> Outputs | None:
    sizes = integers(node.inputs[1])
    if sizes is None:
        raise UnsupportedError("its shape is not constant")
    return [_expanded(made, first_of(node), sizes)]


def _expanded(made: Lowering, x: ir.Value, sizes: Sequence[Size]) -> ir.Value:
    own = shape_of(x)
    rank = max(len(own), len(sizes))
    one: Size = 1
    own = [one] * (rank - len(own)) + own
    wanted = [one] * (rank - len(sizes)) + list(sizes)
    if any(isinstance(size, str) for size in wanted[1:]) or (
        isinstance(wanted[0], str) and not _is_batch(made, wanted[0])
    ):
        if all(w in (1, o) for w, o in zip(wanted, own, strict=True)):
            return x if len(own) == rank_of(x) else made.op("Reshape", x, reshape_target(made, own))
        return made.op("Expand", x, sizes_at_run_time(made, wanted))
    target = [1 if isinstance(size, str) else size for size in wanted]
    fresh_rows = own[0] == 1 and _is_batch(made, wanted[0])
    if not fresh_rows and all(w in (1, o) for w, o in zip(target, own, strict=True)):
        return x if len(own) == rank_of(x) else made.op("Reshape", x, made.ints(0))
    if fresh_rows and rank_of(x) == 0:
        x = made.op("Reshape", x, made.ints(*[1] * rank))
    elif fresh_rows and rank_of(x) < rank:
        x = made.op("Unsqueeze", x, made.ints(*range(rank - rank_of(x))))
    if any(w not in (1, o) for w, o in zip(target, own, strict=True)):
        x = made.op("Expand", x, made.ints(*target))
    return made.op("ExpandRows", x, _rows(made)) if fresh_rows else x


def _is_batch(made: Lowering, size: Size) -> bool:
    return isinstance(size, str) and size == shape_of(_rows(made))[0]


def _rows(made: Lowering) -> ir.Value:
    """A value that has the request's rows."""
    return made.graph.inputs[0]


def _range(made: Lowering, node: ir.Node) -> Outputs | None:
    """0, 1, 2, ... up to a free size, as a running sum of ones."""
    if folded := _constant_integers(made, node):
        return folded
    bounds = [integers(value) for value in node.inputs]
    floats = [array_of(value) for value in (node.inputs[0], node.inputs[2])]
    start = bounds[0] if bounds[0] is not None else floats[0]
    step = bounds[2] if bounds[2] is not None else floats[1]
    stop = integers(_uncast(node.inputs[1]))
    if stop is None or not isinstance(stop[0], str) or start is None or step is None:
        raise UnsupportedError("its bounds are not constant")
    if np.any(np.asarray(start) != 0) or np.any(np.asarray(step) != 1):
        raise UnsupportedError("only 0, 1, 2, ... up to a free size")
    if _is_batch(made, stop[0]):
        raise UnsupportedError("the rows' numbers, other than to select from each row")
    ones = made.op("Expand", made.ints(1), sizes_at_run_time(made, stop))
    found = made.op("CumSum", ones, made.constant(0, np.int64), exclusive=1)
    dtype = node.outputs[0].dtype
    return [found if dtype in (_INT64, None) else made.op("Cast", found, to=int(dtype))]


def _uncast(value: ir.Value | None) -> ir.Value | None:
    node = None if value is None else value.producer()
    while node is not None and node.op_type == "Cast" and not node.domain:
        value = node.inputs[0]
        node = None if value is None else value.producer()
    return value


def _constant_of_shape(made: Lowering, node: ir.Node) -> Outputs | None:
    sizes = integers(node.inputs[0])
    if sizes is None:
        raise UnsupportedError("its shape is not constant")
    tensor = node.attributes.get_tensor("value")
    fill = np.zeros(1, np.float32) if tensor is None else np.asarray(tensor.numpy())
    if not any(isinstance(size, str) for size in sizes):
        return [made.constant(np.full([int(s) for s in sizes], fill[0]), fill.dtype)]
    start = made.constant(np.full([1] * len(sizes), fill[0]), fill.dtype)
    return [_expanded(made, start, sizes)]


def _tile(made: Lowering, node: ir.Node) -> Outputs | None:
    x, repeats, sizes = first_of(node), integers(node.inputs[1]), shape_of(node.inputs[0])
    if repeats is None:
        raise UnsupportedError("its repeats are not constant")
    once_a_row = sizes[0] == 1 and _is_batch(made, repeats[0])
    if once_a_row:
        repeats = [1, *repeats[1:]]
    if any(isinstance(times, str) for times in repeats) or (
        isinstance(sizes[0], str) and repeats[0] != 1
    ):
        raise UnsupportedError("it repeats rows")
    for axis, times in enumerate(repeats):
        if times != 1:
            x = made.op("Concat", *[x] * int(times), axis=axis)
    return [made.op("ExpandRows", x, _rows(made)) if once_a_row else x]


def _slice(made: Lowering, node: ir.Node) -> Outputs | None:
    return _constant_integers(made, node) or backwards(made, node)


def _split(made: Lowering, node: ir.Node) -> Outputs | None:
    axis = node.attributes.get_int("axis", 0)
    sizes = shape_of(node.inputs[0])
    whole = sizes[axis]
    if isinstance(whole, str):
        raise UnsupportedError("it splits rows")
    given = operand(node, 1)
    count = len(node.outputs)
    part = -(-whole // count)
    parts = (
        fixed(given) if given is not None else [part] * (count - 1) + [whole - part * (count - 1)]
    )
    outputs, start = [], 0
    for size in parts:
        outputs.append(made.slice(first_of(node), axis % len(sizes), start, start + size))
        start += size
    return outputs


def _transpose(made: Lowering, node: ir.Node) -> Outputs | None:
    """Two transposes in a row are one, or none."""
    before = _moved(node)
    if before is None:
        return None
    x, first = before
    perm = [first[i] for i in node.attributes.get_ints("perm", range(len(first))[::-1])]
    return [x if perm == list(range(len(perm))) else made.op("Transpose", x, perm=perm)]


def _order(transpose: ir.Node) -> list[int]:
    if "perm" in transpose.attributes:
        return list(transpose.attributes.get_ints("perm", []))
    return list(range(rank_of(first_of(transpose))))[::-1]


def _moved(node: ir.Node) -> tuple[ir.Value, list[int]] | None:
    """The source and order of a transpose that makes a node's first input."""
    made_by = first_of(node).producer()
    if made_by is None or made_by.op_type != "Transpose" or made_by.domain:
        return None
    source = first_of(made_by)
    return source, _order(made_by)


def _gather(made: Lowering, node: ir.Node) -> Outputs | None:
    """x[:, i] comes as transpose, selection, transpose back: select along the axis itself."""
    if folded := _constant_integers(made, node):
        return folded
    places = integers_of(node.inputs[1])
    if node.op_type == "GatherND" and places is None:
        return _gather_of_rows(made, node)
    before = _moved(node)
    if before is None or places is None:
        return None
    x, perm = before
    if node.op_type == "GatherND":
        if node.attributes.get_int("batch_dims", 0) or places.shape[-1] != 1:
            return None
        places, axis = places[..., 0], 0
    else:
        axis = node.attributes.get_int("axis", 0)
    if places.ndim != 1:
        return None
    chosen = made.op("Gather", x, made.constant(places, np.int64), axis=perm[axis])
    return [made.op("Transpose", chosen, perm=perm)]


def _gather_of_rows(made: Lowering, node: ir.Node) -> Outputs | None:
    """x[torch.arange(rows), places]: every row selects from itself."""
    joined = None if node.inputs[1] is None else node.inputs[1].producer()
    if (
        joined is None
        or joined.op_type != "Concat"
        or node.attributes.get_int("batch_dims", 0) != 0
    ):
        return None
    axis, rank = joined.attributes.get_int("axis", 0), rank_of(node.inputs[1])
    numbers_of_rows, *rest = joined.inputs
    if axis % rank != rank - 1 or not _is_row_number(numbers_of_rows):
        return None
    places = rest[0] if len(rest) == 1 else made.op("Concat", *rest, axis=-1)
    return [made.op("GatherND", first_of(node), places, batch_dims=1)]


def _is_row_number(value: ir.Value | None) -> bool:
    """Whether a value holds 0, 1, 2, ... for the rows of the request, along its first axis."""
    node = None if value is None else value.producer()
    while node is not None and node.op_type in (
        "Cast",
        "Expand",
        "Identity",
        "Reshape",
        "Unsqueeze",
    ):
        source = node.inputs[0]
        node = None if source is None else source.producer()
    if node is None or node.op_type != "Range":
        return False
    bounds = [integers(bound) for bound in node.inputs]
    rows = shape_of(value)[0]
    return bounds == [[0], [rows], [1]] and isinstance(rows, str)


def _scatter_nd(made: Lowering, node: ir.Node) -> Outputs | None:
    """x[:, 2:] = y, which comes as transpose, ScatterND of known places, transpose back."""
    places, updates = integers_of(node.inputs[1]), node.inputs[2]
    if places is None or places.ndim != 2 or places.shape[1] != 1 or updates is None:
        raise UnsupportedError("only known places along one axis")
    if node.attributes.get_string("reduction", "none") != "none":
        raise UnsupportedError("a reduction")
    before = _moved(node)
    x, perm = (
        before if before is not None else (first_of(node), list(range(rank_of(node.inputs[0]))))
    )
    size, axis = shape_of(node.inputs[0])[0], perm[0]
    if isinstance(size, str):
        raise UnsupportedError("it writes rows")
    moved = updates.producer()
    back = [perm.index(i) for i in range(len(perm))]
    if moved is not None and moved.op_type == "Transpose" and _order(moved) == perm:
        fresh = first_of(moved)
    else:
        fresh = made.op("Transpose", updates, perm=back) if back != perm or axis else updates
    source: list[int | None] = [None] * size
    for number, place in enumerate(places[:, 0].tolist()):
        source[place % size] = number
    parts: list[ir.Value] = []
    start = 0
    while start < size:  # runs of elements that stay, and of neighbours among the updates
        first, stop = source[start], start + 1
        while stop < size and source[stop] == (None if first is None else first + stop - start):
            stop += 1
        if first is None:
            parts.append(made.slice(x, axis, start, stop))
        else:
            parts.append(made.slice(fresh, axis, first, first + stop - start))
        start = stop
    joined = parts[0] if len(parts) == 1 else made.op("Concat", *parts, axis=axis)
    return [joined if before is None else made.op("Transpose", joined, perm=perm)]


# Arithmetic


def _clip(made: Lowering, node: ir.Node) -> Outputs | None:
    x = first_of(node)
    if (low := operand(node, 1)) is not None:
        x = made.op("Max", x, low)
    if (high := operand(node, 2)) is not None:
        x = made.op("Min", x, high)
    return [x]


def _chain(kind: str) -> Rule:
    def rule(made: Lowering, node: ir.Node) -> Outputs | None:
        if kind == node.op_type and len(node.inputs) == 2:
            return None
        x = first_of(node)
        for other in node.inputs[1:]:
            x = made.op(kind, x, other)
        return [x]

    return rule


def _pow(made: Lowering, node: ir.Node) -> Outputs | None:
    exponent = array_of(node.inputs[1])
    if exponent is None or exponent.size != 1 or exponent.ndim > rank_of(node.inputs[0]):
        return None
    x, power = first_of(node), float(exponent.reshape(-1)[0])
    if power == 2:
        return [made.op("Mul", x, x)]
    if power == 3:
        return [made.op("Mul", made.op("Mul", x, x), x)]
    if power == 0.5:
        return [made.op("Sqrt", x)]
    if exponent.dtype != np.float32 and x.dtype == _FLOAT:
        return [made.op("Pow", x, made.constant(power))]
    return None


def _gelu(made: Lowering, node: ir.Node) -> Outputs | None:
    x = first_of(node)
    half = made.op("Mul", x, made.constant(0.5))
    if node.attributes.get_string("approximate", "none") == "tanh":
        cubic = made.op("Mul", made.op("Mul", made.op("Mul", x, x), x), made.constant(0.044715))
        inner = made.op("Mul", made.op("Add", x, cubic), made.constant(math.sqrt(2 / math.pi)))
        bent = made.op("Tanh", inner)
    else:
        bent = made.op("Erf", made.op("Mul", x, made.constant(math.sqrt(0.5))))
    return [made.op("Mul", half, made.op("Add", bent, made.constant(1)))]


def _hard_sigmoid(made: Lowering, node: ir.Node) -> Outputs | None:
    swish = node.op_type == "HardSwish"
    alpha = 1 / 6 if swish else node.attributes.get_float("alpha", 0.2)
    beta = 0.5 if swish else node.attributes.get_float("beta", 0.5)
    x = first_of(node)
    line = made.op("Add", made.op("Mul", x, made.constant(alpha)), made.constant(beta))
    gate = made.op("Min", made.op("Max", line, made.constant(0)), made.constant(1))
    return [made.op("Mul", x, gate) if swish else gate]


def _selu(made: Lowering, node: ir.Node) -> Outputs | None:
    alpha = node.attributes.get_float("alpha", 1.67326319)
    gamma = node.attributes.get_float("gamma", 1.05070102)
    return [made.op("Mul", made.op("Elu", first_of(node), alpha=alpha), made.constant(gamma))]


def _celu(made: Lowering, node: ir.Node) -> Outputs | None:
    alpha = node.attributes.get_float("alpha", 1.0)
    bent = made.op("Elu", made.op("Div", first_of(node), made.constant(alpha)))
    return [made.op("Mul", bent, made.constant(alpha))]


def _swish(made: Lowering, node: ir.Node) -> Outputs | None:
    x = scaled = first_of(node)
    if (alpha := node.attributes.get_float("alpha", 1.0)) != 1.0:
        scaled = made.op("Mul", x, made.constant(alpha))
    return [made.op("Mul", x, made.op("Sigmoid", scaled))]


def _mish(made: Lowering, node: ir.Node) -> Outputs | None:
    return [made.op("Mul", first_of(node), made.op("Tanh", made.op("Softplus", first_of(node))))]


def _softsign(made: Lowering, node: ir.Node) -> Outputs | None:
    size = made.op("Add", made.op("Abs", first_of(node)), made.constant(1))
    return [made.op("Div", first_of(node), size)]


def _log_softmax(made: Lowering, node: ir.Node) -> Outputs | None:
    axis = made.ints(node.attributes.get_int("axis", -1))
    lower = made.op("Sub", first_of(node), made.op("ReduceMax", first_of(node), axis, keepdims=1))
    total = made.op("ReduceSum", made.op("Exp", lower), axis, keepdims=1)
    return [made.op("Sub", lower, made.op("Log", total))]


# Reductions


def _axes(node: ir.Node) -> list[int]:
    rank = rank_of(node.inputs[0])
    given = operand(node, 1)
    axes = list(node.attributes.get_ints("axes", [])) if given is None else fixed(given)
    if not axes and node.attributes.get_int("noop_with_empty_axes", 0) != 0:
        raise UnsupportedError("no axes")
    return sorted({axis % rank for axis in axes}) or list(range(rank))


def _reduced(made: Lowering, kind: str, x: ir.Value, node: ir.Node) -> ir.Value:
    """A reduction by runs of neighbouring axes, from the last."""
    keep, axes = node.attributes.get_int("keepdims", 1), _axes(node)
    runs: list[list[int]] = []
    for axis in axes:
        if runs and runs[-1][-1] == axis - 1:
            runs[-1].append(axis)
        else:
            runs.append([axis])
    for run in reversed(runs):
        x = made.op(kind, x, made.ints(*run), keepdims=keep)
    return x


def _reduce(made: Lowering, node: ir.Node) -> Outputs | None:
    axes = _axes(node)
    if axes == list(range(axes[0], axes[-1] + 1)) and array_of(operand(node, 1)) is not None:
        return None
    return [_reduced(made, node.op_type, first_of(node), node)]


def _norm(before: str | None, after: str | None) -> Rule:
    def rule(made: Lowering, node: ir.Node) -> Outputs | None:
        x = first_of(node)
        if before == "Square":
            x = made.op("Mul", x, x)
        elif before is not None:
            x = made.op(before, x)
        total = _reduced(made, "ReduceSum", x, node)
        return [total if after is None else made.op(after, total)]

    return rule


def _log_sum_exp(made: Lowering, node: ir.Node) -> Outputs | None:
    axes = made.ints(*_axes(node))
    largest = made.op("ReduceMax", first_of(node), axes, keepdims=1)
    total = made.op(
        "ReduceSum", made.op("Exp", made.op("Sub", first_of(node), largest)), axes, keepdims=1
    )
    out = made.op("Add", made.op("Log", total), largest)
    return [out if node.attributes.get_int("keepdims", 1) else made.op("Squeeze", out, axes)]


# Normalisations


def _batch_norm(made: Lowering, node: ir.Node) -> Outputs | None:
    held = [array_of(value) for value in node.inputs[1:5]]
    if any(item is None for item in held) or len(node.outputs) != 1:
        raise UnsupportedError("its parameters are not constant")
    scale, bias, mean, variance = (np.asarray(item, np.float64) for item in held)
    factor = scale / np.sqrt(variance + node.attributes.get_float("epsilon", 1e-5))
    shape = [-1] + [1] * (rank_of(node.inputs[0]) - 2)
    times = made.op("Mul", first_of(node), made.constant(factor.reshape(shape)))
    return [made.op("Add", times, made.constant((bias - mean * factor).reshape(shape)))]


def _normalised(made: Lowering, x: ir.Value, axes: ir.Value, epsilon: float) -> ir.Value:
    centred = made.op("Sub", x, made.op("ReduceMean", x, axes, keepdims=1))
    variance = made.op("ReduceMean", made.op("Mul", centred, centred), axes, keepdims=1)
    spread = made.op("Sqrt", made.op("Add", variance, made.constant(epsilon)))
    return made.op("Div", centred, spread)


def _layer_norm(made: Lowering, node: ir.Node) -> Outputs | None:
    rank = rank_of(node.inputs[0])
    axis = node.attributes.get_int("axis", -1) % rank
    axes = made.ints(*range(axis, rank))
    x = _normalised(made, first_of(node), axes, node.attributes.get_float("epsilon", 1e-5))
    x = made.op("Mul", x, node.inputs[1])
    if (bias := operand(node, 2)) is not None:
        x = made.op("Add", x, bias)
    return [x, *[None] * (len(node.outputs) - 1)]


def _instance_norm(made: Lowering, node: ir.Node) -> Outputs | None:
    rank, scale, bias = rank_of(node.inputs[0]), array_of(node.inputs[1]), array_of(node.inputs[2])
    if scale is None or bias is None:
        raise UnsupportedError("its parameters are not constant")
    axes = made.ints(*range(2, rank))
    shape = [-1] + [1] * (rank - 2)
    x = _normalised(made, first_of(node), axes, node.attributes.get_float("epsilon", 1e-5))
    x = made.op("Mul", x, made.constant(scale.reshape(shape)))
    return [made.op("Add", x, made.constant(bias.reshape(shape)))]


# Products


def _matmul(made: Lowering, node: ir.Node) -> Outputs | None:
    left, right = rank_of(node.inputs[0]), rank_of(node.inputs[1])
    a, b = node.inputs
    if left > 1 and right > 1:
        sizes = shape_of(a)
        if left == 2 and isinstance(sizes[0], str) and right > 2:  # rows would become columns
            raise UnsupportedError("it mixes rows")
        return None
    if left == 1:
        a = made.op("Unsqueeze", a, made.ints(0))
    if right == 1:
        b = made.op("Unsqueeze", b, made.ints(1))
    out = made.op("MatMul", a, b)
    gone = [-2] * (left == 1) + [-1] * (right == 1)
    return [made.op("Squeeze", out, made.ints(*gone))]


def _gemm(made: Lowering, node: ir.Node) -> Outputs | None:
    flags = node.attributes
    c = operand(node, 2)
    constant = array_of(node.inputs[1]) is not None and (c is None or array_of(c) is not None)
    if constant and not flags.get_int("transA", 0):
        return None
    a, b = node.inputs[:2]
    a = made.op("Transpose", a, perm=[1, 0]) if flags.get_int("transA", 0) else a
    b = made.op("Transpose", b, perm=[1, 0]) if flags.get_int("transB", 0) else b
    out = made.op("MatMul", a, b)
    if (alpha := flags.get_float("alpha", 1.0)) != 1.0:
        out = made.op("Mul", out, made.constant(alpha))
    if c is not None:
        beta = flags.get_float("beta", 1.0)
        out = made.op("Add", out, c if beta == 1.0 else made.op("Mul", c, made.constant(beta)))
    return [out]


def _einsum(made: Lowering, node: ir.Node) -> Outputs | None:
    """Products of operands, two at a time from the left."""
    values = list(node.inputs)
    equation = node.attributes.get_string("equation") or ""
    letters, out = einsum_terms(equation, [rank_of(value) for value in values])
    sizes: dict[str, Size] = {}
    for term, value in zip(letters, values, strict=True):
        for letter, size in zip(term, shape_of(value), strict=True):
            if sizes.setdefault(letter, size) != size:
                raise UnsupportedError(f"sizes that differ in {equation!r}")
    x, term = values[0], letters[0]
    if len(values) == 1:
        return [_summed(made, x, term, out)]
    for place in range(1, len(values)):
        later = "".join([out, *letters[place + 1 :]])
        both = dict.fromkeys(term + letters[place])
        kept = out if place == len(values) - 1 else "".join(c for c in both if c in later)
        x, term = _contracted(made, (x, term), (values[place], letters[place]), kept, sizes), kept
    return [x]


def _contracted(
    made: Lowering,
    first: tuple[ir.Value | None, str],
    second: tuple[ir.Value | None, str],
    out: str,
    sizes: dict[str, Size],
) -> ir.Value:
    """The product of two operands: [both, left, summed] x [both, summed, right]."""
    (_, a), (_, b) = first, second
    reduced = []
    for (value, term), other in ((first, b), (second, a)):
        kept = "".join(c for c in term if c in other + out)
        reduced.append((_summed(made, value, term, kept), kept))
    (x, a), (y, b) = reduced
    both = [c for c in out if c in a and c in b]
    summed = [c for c in a if c in b and c not in out]
    left = [c for c in out if c in a and c not in b]
    right = [c for c in out if c in b and c not in a]
    x = _ordered(made, x, a, [*both, *left, *summed])
    y = _ordered(made, y, b, [*both, *summed, *right])
    if not both and any(isinstance(sizes[c], str) for c in right):
        raise UnsupportedError("rows on the right alone")
    # without a shared axis the left ones stay as they are: rows must not join another axis
    lefts = [left] if both else [[c] for c in left]
    x = _merged(made, x, [sizes[c] for c in both], [*lefts, summed], sizes)
    y = _merged(made, y, [sizes[c] for c in both], [summed, right], sizes)
    product = made.op("MatMul", x, y)
    order = [*both, *left, *right]
    target = reshape_target(made, [sizes[c] for c in order])
    product = made.op("Reshape", product, target)
    return _ordered(made, product, "".join(order), list(out))


def _summed(made: Lowering, value: ir.Value | None, term: str, out: str) -> ir.Value:
    gone = [i for i, c in enumerate(term) if c not in out]
    x = value
    for axis in reversed(gone):
        x = made.op("ReduceSum", x, made.ints(axis), keepdims=0)
    if x is None:
        raise UnsupportedError("an input is left out")
    return _ordered(made, x, "".join(c for c in term if c in out), list(out))


def _ordered(made: Lowering, x: ir.Value | None, term: str, order: list[str]) -> ir.Value:
    if x is None:
        raise UnsupportedError("an input is left out")
    if list(term) == order:
        return x
    return made.op("Transpose", x, perm=[term.index(c) for c in order])


def _merged(
    made: Lowering,
    x: ir.Value,
    both: list[Size],
    groups: Sequence[Sequence[str]],
    sizes: dict[str, Size],
) -> ir.Value:
    """Reshape to [*both, product of the first group, product of the second]."""
    shape = list(both)
    for group in groups:
        free = [sizes[c] for c in group if isinstance(sizes[c], str)]
        alone = len(group) == 1 and free
        known = math.prod(int(sizes[c]) for c in group if not isinstance(sizes[c], str))
        shape.append(free[0] if alone else -1 if free else known)
    return made.op("Reshape", x, reshape_target(made, shape))


def _conv(made: Lowering, node: ir.Node) -> Outputs | None:
    """A convolution as one matrix product: windows [b, positions, taps * channels] x weights."""
    x, weight, bias = first_of(node), array_of(node.inputs[1]), array_of(operand(node, 2))
    sizes, attributes = shape_of(x), node.attributes
    if weight is None or (operand(node, 2) is not None and bias is None):
        raise UnsupportedError("its weights are not constant")
    if any(isinstance(size, str) for size in sizes[1:]):
        raise UnsupportedError("a free size beside the batch")
    space = weight.ndim - 2
    strides = list(attributes.get_ints("strides", [1] * space))
    dilations = list(attributes.get_ints("dilations", [1] * space))
    pads = _pads(node, [int(size) for size in sizes[2:]], weight.shape[2:], strides, dilations)
    groups = attributes.get_int("group", 1)
    extents = [int(s) + pads[i] + pads[i + space] for i, s in enumerate(sizes[2:])]
    if any(pads):
        full = [0, 0, *pads[:space], 0, 0, *pads[space:]]
        x = made.op("Pad", x, made.ints(*full), made.constant(0.0))
    counts = [
        (extents[i] - dilations[i] * (weight.shape[2 + i] - 1) - 1) // strides[i] + 1
        for i in range(space)
    ]
    windows = []
    for tap in np.ndindex(*weight.shape[2:]):
        part = x
        for i, at in enumerate(tap):
            start, step = at * dilations[i], strides[i]
            if counts[i] != extents[i] or step != 1:
                part = made.slice(part, 2 + i, start, start + (counts[i] - 1) * step + 1, step)
        windows.append(part)
    per_group, outs = weight.shape[1], weight.shape[0] // groups
    taps = math.prod(weight.shape[2:])
    results = []
    for group in range(groups):
        parts = windows
        if groups > 1:
            first = group * per_group
            parts = [made.slice(part, 1, first, first + per_group) for part in windows]
        joined = parts[0] if taps == 1 else made.op("Concat", *parts, axis=1)
        if space != 1:
            joined = made.op("Reshape", joined, made.ints(-1, taps * per_group, math.prod(counts)))
        rows = made.op("Transpose", joined, perm=[0, 2, 1])
        own = weight[group * outs : (group + 1) * outs].reshape(outs, per_group, taps)
        matrix = own.transpose(2, 1, 0).reshape(taps * per_group, outs)
        product = made.op("MatMul", rows, made.constant(matrix))
        if bias is not None:
            product = made.op(
                "Add", product, made.constant(bias[group * outs : (group + 1) * outs])
            )
        results.append(product)
    out = results[0] if groups == 1 else made.op("Concat", *results, axis=2)
    out = made.op("Transpose", out, perm=[0, 2, 1])
    if space != 1:
        out = made.op("Reshape", out, made.ints(-1, weight.shape[0], *counts))
    return [out]


def _pads(
    node: ir.Node,
    sizes: Sequence[int],
    taps: Sequence[int],
    strides: Sequence[int],
    dilations: Sequence[int],
) -> list[int]:
    kind = node.attributes.get_string("auto_pad", "NOTSET")
    if kind in ("NOTSET", "VALID"):
        return list(node.attributes.get_ints("pads", [0] * 2 * len(sizes)))
    before, after = [], []
    for size, tap, step, gap in zip(sizes, taps, strides, dilations, strict=True):
        total = max((-(-size // step) - 1) * step + gap * (tap - 1) + 1 - size, 0)
        less, more = total // 2, total - total // 2
        before.append(less if kind == "SAME_UPPER" else more)
        after.append(more if kind == "SAME_UPPER" else less)
    return before + after


# Selection and recurrence


def _top_k(made: Lowering, node: ir.Node) -> Outputs | None:
    (k,) = fixed(node.inputs[1])
    axis = node.attributes.get_int("axis", -1)
    largest = node.attributes.get_int("largest", 1)
    places = made.op("TopKIndices", first_of(node), axis=axis, k=k, largest=largest)
    return [made.op("GatherElements", first_of(node), places, axis=axis), places]


def _gru(made: Lowering, node: ir.Node) -> Outputs | None:
    """ONNX's GRU [steps, batch, features], one direction after the other, unrolled."""
    if operand(node, 4) is not None:
        raise UnsupportedError("a length for every row")
    return _recurrent(made, node, 3)


def _lstm(made: Lowering, node: ir.Node) -> Outputs | None:
    if operand(node, 4) is not None or operand(node, 7) is not None:
        raise UnsupportedError("peepholes, or a length for every row")
    return _recurrent(made, node, 4)


def _recurrent(made: Lowering, node: ir.Node, gates: int) -> Outputs | None:
    attributes, x = node.attributes, first_of(node)
    weights, recurrence, biases = (array_of(operand(node, i)) for i in (1, 2, 3))
    steps, hidden = shape_of(x)[0], attributes.get_int("hidden_size", 0)
    allowed = [["Sigmoid", "Tanh"], ["Sigmoid", "Tanh", "Tanh"]][gates == 4]
    listed = attributes.get_strings("activations", []) if "activations" in attributes else []
    if weights is None or recurrence is None or isinstance(steps, str):
        raise UnsupportedError("a fixed number of steps and constant weights are needed")
    directions = weights.shape[0]
    x = _turned(made, node.inputs[0])
    if (
        "clip" in attributes
        or attributes.get_int("layout", 0) != 0
        or list(listed)
        not in (
            [],
            allowed * directions,
        )
    ):
        raise UnsupportedError("clip, layout or other activations")
    if biases is None:
        biases = np.zeros((directions, 2 * gates * hidden), np.float32)
    linear = attributes.get_int("linear_before_reset", 0)
    backwards = attributes.get_string("direction", "forward")
    outputs, lasts, cells = [], [], []
    for d in range(directions):
        order = list(range(steps))
        if backwards == "reverse" or d == 1:
            order.reverse()
        bias = biases[d].reshape(2, gates * hidden)
        state = _initial(made, operand(node, 5), d, hidden)
        cell = _initial(made, operand(node, 6), d, hidden) if gates == 4 else None
        matrix = made.constant(weights[d].T)
        found: dict[int, ir.Value] = {}
        for step in order:
            now = made.op("Squeeze", made.slice(x, 1, step, step + 1), made.ints(1))
            inputs = made.op("Add", made.op("MatMul", now, matrix), made.constant(bias[0]))
            if cell is None:
                state = _gru_step(made, inputs, state, recurrence[d], bias[1], hidden, linear)
            else:
                state, cell = _lstm_step(made, inputs, state, cell, recurrence[d], bias[1], hidden)
            found[step] = state
        stacked = [made.op("Unsqueeze", found[i], made.ints(1)) for i in range(steps)]
        outputs.append(made.op("Unsqueeze", made.op("Concat", *stacked, axis=1), made.ints(2)))
        lasts.append(made.op("Unsqueeze", state, made.ints(1)))
        if cell is not None:
            cells.append(made.op("Unsqueeze", cell, made.ints(1)))
    # rows stay the first axis until the end: ONNX has the steps, or the directions, there
    results = [made.op("Transpose", _joined(made, outputs, 2), perm=[1, 2, 0, 3])]
    for kept in (lasts, cells) if cells else (lasts,):
        results.append(made.op("Transpose", _joined(made, kept, 1), perm=[1, 0, 2]))
    return results[: len(node.outputs)]


def _joined(made: Lowering, parts: list[ir.Value], axis: int) -> ir.Value:
    return parts[0] if len(parts) == 1 else made.op("Concat", *parts, axis=axis)


def _initial(made: Lowering, given: ir.Value | None, d: int, hidden: int) -> ir.Value:
    if given is None:
        return made.op("ExpandRows", made.constant(np.zeros((1, hidden))), _rows(made))
    if _is_zero(given):
        return _initial(made, None, d, hidden)
    return made.op("Squeeze", made.slice(_turned(made, given), 1, d, d + 1), made.ints(1))


# Operators that make zeros of zeros alone.
_KEEPING_ZERO = {
    "Expand", "ExpandRows", "Identity", "Reshape", "Slice", "Squeeze", "Transpose", "Unsqueeze",
}  # fmt: skip


def _is_zero(value: ir.Value | None) -> bool:
    """Whether a value is an expanded zero, or a part of one: torch's initial states."""
    node = None if value is None else value.producer()
    while node is not None and node.op_type in _KEEPING_ZERO:
        value = node.inputs[0]
        node = None if value is None else value.producer()
    array = array_of(value)
    return array is not None and not array.any()


def _turned(made: Lowering, value: ir.Value | None) -> ir.Value:
    """[b, a, ...] of [a, b, ...], without a second transpose where there is one already."""
    if value is None:
        raise UnsupportedError("an input is left out")
    rest = list(range(2, rank_of(value)))
    node = value.producer()
    if node is not None and node.op_type == "Transpose" and not node.domain:
        source = first_of(node)
        perm = _order(node)
        perm = [perm[1], perm[0], *perm[2:]]
        if perm == list(range(len(perm))):
            return source
        return made.op("Transpose", source, perm=perm)
    return made.op("Transpose", value, perm=[1, 0, *rest])


def _gru_step(
    made: Lowering, inputs: ir.Value, state: ir.Value, r: Array, bias: Array, n: int, linear: int
) -> ir.Value:
    def from_state(value: ir.Value, part: slice) -> ir.Value:
        product = made.op("MatMul", value, made.constant(r[part].T))
        return made.op("Add", product, made.constant(bias[part]))

    gates = made.op("Add", made.slice(inputs, 1, 0, 2 * n), from_state(state, slice(0, 2 * n)))
    gates = made.op("Sigmoid", gates)
    update, reset = made.slice(gates, 1, 0, n), made.slice(gates, 1, n, 2 * n)
    rest = slice(2 * n, 3 * n)
    if linear:
        remembered = made.op("Mul", reset, from_state(state, rest))
    else:
        remembered = from_state(made.op("Mul", reset, state), rest)
    fresh = made.op("Tanh", made.op("Add", made.slice(inputs, 1, 2 * n, 3 * n), remembered))
    return made.op("Add", fresh, made.op("Mul", update, made.op("Sub", state, fresh)))


def _lstm_step(
    made: Lowering, inputs: ir.Value, state: ir.Value, cell: ir.Value, r: Array, bias: Array, n: int
) -> tuple[ir.Value, ir.Value]:
    product = made.op("Add", made.op("MatMul", state, made.constant(r.T)), made.constant(bias))
    total = made.op("Add", inputs, product)
    gate = [made.slice(total, 1, i * n, (i + 1) * n) for i in range(4)]
    opened, emitted, forgotten = (made.op("Sigmoid", gate[i]) for i in (0, 1, 2))
    kept = made.op("Mul", forgotten, cell)
    cell = made.op("Add", kept, made.op("Mul", opened, made.op("Tanh", gate[3])))
    return made.op("Mul", emitted, made.op("Tanh", cell)), cell


def _is_nan(made: Lowering, node: ir.Node) -> Outputs | None:
    return [made.op("Not", made.op("Equal", first_of(node), first_of(node)))]


def _is_inf(made: Lowering, node: ir.Node) -> Outputs | None:
    flags = node.attributes
    if not flags.get_int("detect_negative", 1) or not flags.get_int("detect_positive", 1):
        raise UnsupportedError("one sign alone")
    return [made.op("Equal", made.op("Abs", first_of(node)), made.constant(np.inf))]


def _dropped(made: Lowering, node: ir.Node) -> Outputs | None:
    return [first_of(node), *[None] * (len(node.outputs) - 1)]


# Operators that are expressed by others. To add one, write its rule and name it here.
RULES: dict[str, Rule] = {
    **TRIGONOMETRY,
    **WINDOWS,
    "Add": _constant_integers,
    "BatchNormalization": _batch_norm,
    "Cast": _constant_integers,
    "Celu": _celu,
    "Clip": _clip,
    "Concat": _constant_integers,
    "ConstantOfShape": _constant_of_shape,
    "Conv": _conv,
    "Div": _constant_integers,
    "Dropout": _dropped,
    "Einsum": _einsum,
    "Expand": _expand,
    "GRU": _gru,
    "Gather": _gather,
    "GatherND": _gather,
    "Gelu": _gelu,
    "Gemm": _gemm,
    "HardSigmoid": _hard_sigmoid,
    "HardSwish": _hard_sigmoid,
    "IsInf": _is_inf,
    "IsNaN": _is_nan,
    "InstanceNormalization": _instance_norm,
    "LSTM": _lstm,
    "LayerNormalization": _layer_norm,
    "LogSoftmax": _log_softmax,
    "MatMul": _matmul,
    "Max": _chain("Max"),
    "Min": _chain("Min"),
    "Mish": _mish,
    "Mul": _constant_integers,
    "Pow": _pow,
    "ReduceL1": _norm("Abs", None),
    "ReduceL2": _norm("Square", "Sqrt"),
    "ReduceLogSum": _norm(None, "Log"),
    "ReduceLogSumExp": _log_sum_exp,
    "ReduceMax": _reduce,
    "ReduceMean": _reduce,
    "ReduceMin": _reduce,
    "ReduceProd": _reduce,
    "ReduceSum": _reduce,
    "ReduceSumSquare": _norm("Square", None),
    "Range": _range,
    "Reshape": _reshape,
    "ScatterND": _scatter_nd,
    "Selu": _selu,
    "Shape": _constant_integers,
    "Slice": _slice,
    "Softsign": _softsign,
    "Split": _split,
    "Squeeze": _constant_integers,
    "Sub": _constant_integers,
    "Sum": _chain("Add"),
    "Swish": _swish,
    "Tile": _tile,
    "TopK": _top_k,
    "Transpose": _transpose,
    "Unsqueeze": _constant_integers,
}
