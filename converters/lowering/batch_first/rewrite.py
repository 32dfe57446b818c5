"""Lowering pass: the batch becomes the first axis of every value.

The native engine computes row by row, so a request's rows must be the first axis of every value.
Networks move them (attention over [steps, batch, dim]) or join them with others ([batch * heads,
steps, dim], or [batch * steps, dim] before a layer). Here such a value is kept in another shape,
batch first, with a note on which of its axes make up each axis of the original; operators then
work on that. Where one cannot, the original is restored for it.
"""

from __future__ import annotations

import math
import string
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import compress
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from ondevice.converters.graph import DOMAIN, LOOKUP, PackedLookup
from ondevice.converters.lowering.builder import NodeBuilder
from ondevice.converters.lowering.einsum import einsum_terms
from ondevice.converters.lowering.symbolic_shapes import Size, integers, numbers
from ondevice.errors import UnsupportedError

Array = npt.NDArray[Any]
Group = tuple[int, ...]

UNARY = {
    "Abs", "Cast", "Celu", "Ceil", "Clip", "Dropout", "Elu", "Erf", "Exp", "Floor", "Gelu",
    "HardSigmoid", "HardSwish", "Identity", "IsNaN", "LeakyRelu", "Log", "Mish", "Neg", "Not",
    "Reciprocal", "Relu", "Round", "Selu", "Sigmoid", "Sign", "Softplus", "Softsign", "Sqrt",
    "Swish", "Tanh",
}  # fmt: skip
ELEMENTWISE = {
    "Add", "And", "Div", "Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual", "Max", "Min",
    "Mod", "Mul", "Or", "PRelu", "Pow", "Sub", "Where", "Xor",
}  # fmt: skip
REDUCTIONS = {
    "ReduceL1", "ReduceL2", "ReduceLogSum", "ReduceLogSumExp", "ReduceMax", "ReduceMean",
    "ReduceMin", "ReduceProd", "ReduceSum", "ReduceSumSquare",
}  # fmt: skip


_FILLING = ("ConstantOfShape", "Expand")


class _CannotError(Exception):
    """An operator that works on the original shape alone."""


@dataclass(frozen=True)
class _Layout:
    """A value kept batch first.

    Attributes:
        value: what is kept; its first axis is the batch.
        sizes: its sizes.
        groups: for every axis of the original, the axes of `value` that it joins, in order; none
            for an axis of size 1.
    """

    value: ir.Value
    sizes: tuple[Size, ...]
    groups: tuple[Group, ...]

    @property
    def natural(self) -> bool:
        """Whether the value is the original."""
        return self.groups == tuple((i,) for i in range(len(self.sizes)))

    def single(self, axis: int) -> int:
        """The one axis, not the batch, that an axis of the original is."""
        group = self.groups[axis]
        if len(group) != 1 or group == (0,):
            raise _CannotError
        return group[0]


def batch_first(graph: ir.Graph, lookups: Sequence[PackedLookup]) -> tuple[PackedLookup, ...]:
    """Rewrite a graph in place; returns the lookups with their new nodes."""
    return _Pass(graph, lookups).run()


class _Pass:
    def __init__(self, graph: ir.Graph, lookups: Sequence[PackedLookup]) -> None:
        self.graph = graph
        self.lookups = {lookup.node: lookup for lookup in lookups}
        self.layouts: dict[ir.Value, _Layout] = {}
        self.turned: dict[ir.Value, _Layout] = {}  # layouts that the operator at hand begins
        self.made = NodeBuilder(graph, next(iter(graph)), "batch_first")
        shape = graph.inputs[0].shape
        self.batch = None if shape is None else str(shape[0])

    def run(self) -> tuple[PackedLookup, ...]:
        for number, node in enumerate(list(self.graph)):
            if node.op_type == "Shape" or not self._concerns(node):
                continue
            self.made = NodeBuilder(self.graph, node, f"batch_first.{number}")
            try:
                results = self._rewritten(node)
            except _CannotError:
                self.made.nodes.clear()
                self.turned.clear()
                self._restore_inputs(node)
            else:
                self._keep(node, results)
                self.layouts.update(self.turned)
                self.turned.clear()
        return tuple(self.lookups.values())

    def _concerns(self, node: ir.Node) -> bool:
        if any(value in self.layouts for value in node.inputs if value is not None):
            return True
        if node.op_type in _RULES and any(self._rows_axis(value) > 0 for value in node.inputs):
            return True  # what a recurrent layer returns
        if node.op_type in _FILLING and self._rows_axis(node.outputs[0]) > 0:
            return True  # a recurrent layer's first state
        if node.op_type == "Concat" and node.attributes.get_int("axis", 0) == 0:
            return all(self._natural(value) is not None for value in node.inputs)
        if node.op_type not in ("Transpose", "Reshape", "Unsqueeze") or node.domain:
            return False
        before, after = self._natural(node.inputs[0]), node.outputs[0].shape
        return before is not None and after is not None and str([*after, ""][0]) != self.batch

    def _keep(self, node: ir.Node, results: Sequence[_Layout]) -> None:
        pairs = []
        for output, layout in zip(node.outputs, results, strict=False):
            if layout.natural or output.is_graph_output():
                value = layout.value if layout.natural else self._original(layout, output)
                if value.producer() not in self.made.nodes:  # keeps a name of its own
                    value = self._emit("Identity", [value], layout.sizes, value.dtype)
                pairs.append((output, value))
            else:
                self.layouts[output] = layout
        # the node stays, perhaps without readers, until unused nodes are removed
        self.graph.insert_before(node, self.made.nodes)
        for old, new in pairs:
            new.shape, new.type = old.shape, old.type
            if old.is_graph_output():
                old.name, new.name = f"{old.name}.replaced", old.name
            ir.convenience.replace_all_uses_with(old, new, replace_graph_outputs=True)

    def _restore_inputs(self, node: ir.Node) -> None:
        for place, value in enumerate(node.inputs):
            if value is not None and value in self.layouts:
                node.replace_input_with(place, self._original(self.layouts[value], value))
        self.graph.insert_before(node, self.made.nodes)

    # Layouts

    def _natural(self, value: ir.Value | None) -> _Layout | None:
        if value is None or value.shape is None or value.const_value is not None:
            return None
        sizes = tuple(size if isinstance(size, int) else str(size) for size in value.shape)
        if not sizes or sizes[0] != self.batch:
            return None
        return _Layout(value, sizes, tuple((i,) for i in range(len(sizes))))

    def _rows_axis(self, value: ir.Value | None) -> int:
        """The axis of a value that is the batch; -1 where none is, or others are free too."""
        if value is None or value.shape is None or value.const_value is not None:
            return -1
        free = [i for i, size in enumerate(value.shape) if not isinstance(size, int)]
        return free[0] if len(free) == 1 and str(value.shape[free[0]]) == self.batch else -1

    def _of(self, value: ir.Value | None) -> _Layout:
        if value is None:
            raise _CannotError
        found = self.layouts.get(value) or self._natural(value) or self.turned.get(value)
        axis = self._rows_axis(value)
        if found is None and axis > 0 and value.shape is not None:
            sizes: list[Size] = [s if isinstance(s, int) else str(s) for s in value.shape]
            order = [axis, *(i for i in range(len(sizes)) if i != axis)]
            moved = [sizes[i] for i in order]
            first = self._emit("Transpose", [value], moved, value.dtype, perm=order)
            groups = tuple((order.index(i),) for i in range(len(sizes)))
            found = self.turned[value] = _Layout(first, tuple(moved), groups)
        if found is None:
            raise _CannotError
        return found

    def _emit(
        self,
        kind: str,
        inputs: Sequence[ir.Value | None],
        sizes: Sequence[Size],
        dtype: ir.DataType | None,
        **attributes: Any,
    ) -> ir.Value:
        out = self.made.op(kind, *inputs, **attributes)
        out.shape = ir.Shape(list(sizes))
        out.type = None if dtype is None else ir.TensorType(dtype)
        return out

    def _arranged(self, layout: _Layout, order: Sequence[int]) -> _Layout:
        """The same value with its axes in another order, the batch first."""
        if list(order) == list(range(len(order))):
            return layout
        if order[0] != 0:
            raise _CannotError
        sizes = [layout.sizes[i] for i in order]
        value = self._emit("Transpose", [layout.value], sizes, layout.value.dtype, perm=list(order))
        groups = tuple(tuple(list(order).index(i) for i in group) for group in layout.groups)
        return _Layout(value, tuple(sizes), groups)

    def _reshaped(self, value: ir.Value, sizes: Sequence[Size]) -> ir.Value:
        if any(isinstance(size, str) for size in sizes[1:]):
            raise _CannotError
        target = self.made.ints(-1, *(_known(size) for size in sizes[1:]))
        return self._emit("Reshape", [value, target], sizes, value.dtype)

    def _split_axes(self, layout: _Layout, parts: dict[int, list[int]]) -> _Layout:
        """Every axis in `parts` as several, of these sizes."""
        if not any(len(sizes) > 1 for sizes in parts.values()):
            return layout
        sizes: list[Size] = []
        places: list[list[int]] = []
        for axis, size in enumerate(layout.sizes):
            fresh = parts.get(axis, [size])
            places.append(list(range(len(sizes), len(sizes) + len(fresh))))
            sizes += fresh
        groups = tuple(tuple(j for i in group for j in places[i]) for group in layout.groups)
        return _Layout(self._reshaped(layout.value, sizes), tuple(sizes), groups)

    def _joined_last(self, layout: _Layout, axis: int) -> _Layout:
        """An axis of the original as the one last axis of the value."""
        group = layout.groups[axis]
        if not group or 0 in group:
            raise _CannotError
        rest = [i for i in range(len(layout.sizes)) if i not in group]
        layout = self._arranged(layout, [*rest, *group])
        if len(group) == 1:
            return layout
        sizes = (
            *layout.sizes[: len(rest)],
            math.prod(_known(layout.sizes[i]) for i in layout.groups[axis]),
        )
        groups = list(layout.groups)
        groups[axis] = (len(rest),)
        return _Layout(self._reshaped(layout.value, sizes), sizes, tuple(groups))

    def _joined_neighbours(self, layout: _Layout) -> _Layout:
        """Axes of the original as one where they lie side by side, the batch not among them."""
        for axis, group in enumerate(layout.groups):
            if len(group) < 2 or 0 in group or group != (*range(group[0], group[-1] + 1),):
                continue
            size = math.prod(_known(layout.sizes[i]) for i in group)
            sizes = (*layout.sizes[: group[0]], size, *layout.sizes[group[-1] + 1 :])
            gone = len(group) - 1
            groups = [tuple(i - gone * (i > group[-1]) for i in one) for one in layout.groups]
            groups[axis] = (group[0],)
            return self._joined_neighbours(
                _Layout(self._reshaped(layout.value, sizes), sizes, tuple(groups))
            )
        return layout

    def _original(self, layout: _Layout, like: ir.Value) -> ir.Value:
        layout = self._joined_neighbours(self._without_ones(layout, len(layout.groups)))
        empty = [axis for axis, group in enumerate(layout.groups) if not group]
        if empty and all(len(group) <= 1 for group in layout.groups):
            # with the ones put in here, the original is a transpose, which the next rule may undo
            count = len(layout.sizes)
            grown = (*layout.sizes, *[1] * len(empty))
            groups = tuple(
                group or (count + empty.index(axis),) for axis, group in enumerate(layout.groups)
            )
            layout = _Layout(self._reshaped(layout.value, grown), grown, groups)
        order = [i for group in layout.groups for i in group]
        order += [i for i in range(len(layout.sizes)) if i not in order]  # of size 1
        value, sizes = layout.value, [layout.sizes[i] for i in order]
        if order != list(range(len(order))):
            value = self._emit("Transpose", [value], sizes, value.dtype, perm=order)
        if any(len(group) != 1 for group in layout.groups) or len(order) != len(layout.groups):
            target = [
                -1 if 0 in group else math.prod(_known(layout.sizes[i]) for i in group)
                for group in layout.groups
            ]
            value = self._emit("Reshape", [value, self.made.ints(*target)], [], value.dtype)
        value.shape = like.shape
        return value

    # Operators

    def _rewritten(self, node: ir.Node) -> list[_Layout]:
        if node.domain == DOMAIN and node.op_type == LOOKUP:
            return [self._lookup(node)]
        rule = _RULES.get(node.op_type)
        if node.domain or rule is None:
            raise _CannotError
        return rule(self, node)

    def _lookup(self, node: ir.Node) -> _Layout:
        ids, lookup = self._of(node.inputs[0]), self.lookups[node]
        if lookup.spec.pooling != "none":
            raise _CannotError
        fresh = ir.Node(
            DOMAIN,
            LOOKUP,
            [ids.value],
            dict(node.attributes),
            num_outputs=1,
            name=f"{node.name}.batch_first",
            metadata_props=dict(node.metadata_props),
        )
        dim = lookup.spec.dim
        fresh.outputs[0].name = f"{node.name}.batch_first.value"
        fresh.outputs[0].dtype = ir.DataType.FLOAT
        fresh.outputs[0].shape = ir.Shape([*ids.sizes, dim])
        self.made.nodes.append(fresh)
        del self.lookups[node]
        self.lookups[fresh] = replace(lookup, node=fresh)
        return _Layout(fresh.outputs[0], (*ids.sizes, dim), (*ids.groups, (len(ids.sizes),)))

    def unary(self, node: ir.Node) -> list[_Layout]:
        x = self._of(node.inputs[0])
        attributes = {name: item.value for name, item in node.attributes.items()}
        inputs = [x.value, *node.inputs[1:]]
        out = self._emit(node.op_type, inputs, x.sizes, node.outputs[0].dtype, **attributes)
        return [replace(x, value=out)]

    def transpose(self, node: ir.Node) -> list[_Layout]:
        x = self._of(node.inputs[0])
        backwards = list(range(len(x.groups)))[::-1]
        perm = list(node.attributes.get_ints("perm", backwards))
        return [replace(x, groups=tuple(x.groups[i] for i in perm))]

    def reshape(self, node: ir.Node) -> list[_Layout]:
        x = self._of(node.inputs[0])
        target = integers(node.inputs[1])
        shape = node.outputs[0].shape
        if target is None and shape is not None:
            target = [size if isinstance(size, int) else str(size) for size in shape]
        if target is None:
            raise _CannotError
        wanted: list[Size] = []
        for place, size in enumerate(target):
            if size == 0:
                group = x.groups[place]
                free = any(isinstance(x.sizes[i], str) for i in group)
                size = -1 if free else math.prod(_known(x.sizes[i]) for i in group)
                size = self.batch if group == (0,) and self.batch else size
            wanted.append(size if size == self.batch or not isinstance(size, str) else -1)
        return [self._regrouped(x, wanted)]

    def _regrouped(self, x: _Layout, wanted: Sequence[Size]) -> _Layout:
        """Cut the row of axes anew, from both ends towards the size that is not known."""
        order = [i for group in x.groups for i in group]
        order += [i for i in range(len(x.sizes)) if i not in order]
        if any(isinstance(x.sizes[i], str) for i in order if i != 0):
            raise _CannotError
        atoms: list[tuple[int, Size]] = [(i, x.sizes[i]) for i in order]
        cuts: dict[int, list[int]] = {}
        unknown = [i for i, size in enumerate(wanted) if size == -1]
        if len(unknown) > 1:
            raise _CannotError
        middle = unknown[0] if unknown else len(wanted)
        left: list[list[tuple[int, Size]]] = [
            _taken(atoms, size, last=False, cuts=cuts) for size in wanted[:middle]
        ]
        right = [
            _taken(atoms, size, last=True, cuts=cuts) for size in reversed(wanted[middle + 1 :])
        ]
        groups = left + ([atoms] if unknown else []) + right[::-1]
        if not unknown and any(size != 1 for _, size in atoms):
            raise _CannotError
        # an axis that was cut has parts, numbered in order, wherever they went
        whole = self._split_axes(x, {axis: _sizes_of_parts(axis, groups) for axis in cuts})
        starts, at = {}, 0
        for axis in range(len(x.sizes)):
            starts[axis] = at
            at += len(_sizes_of_parts(axis, groups)) if axis in cuts else 1
        used: dict[int, int] = {}
        numbered: list[Group] = []
        for group in groups:
            places = []
            for axis, _ in group:
                places.append(starts[axis] + used.get(axis, 0))
                used[axis] = used.get(axis, 0) + 1
            numbered.append(tuple(places))
        return replace(whole, groups=tuple(numbered))

    def elementwise(self, node: ir.Node) -> list[_Layout]:
        return [self._combined(node.op_type, list(node.inputs), node.outputs[0].dtype, node)]

    def _combined(
        self,
        kind: str,
        operands: Sequence[ir.Value | Array | _Layout | None],
        dtype: ir.DataType | None,
        node: ir.Node | None = None,
    ) -> _Layout:
        arrays: dict[int, Array] = {}
        layouts: dict[int, _Layout] = {}
        for place, operand in enumerate(operands):
            if isinstance(operand, _Layout):
                layouts[place] = operand
                continue
            array = operand if isinstance(operand, np.ndarray) else _array(operand)
            if array is not None:
                arrays[place] = array
            elif isinstance(operand, ir.Value):
                layouts[place] = self._of(operand)
        rank = max(
            [len(one.groups) for one in layouts.values()] + [a.ndim for a in arrays.values()]
        )
        layouts = {
            place: replace(one, groups=((),) * (rank - len(one.groups)) + one.groups)
            for place, one in layouts.items()
        }
        layouts = self._refined(layouts)
        main = max(layouts, key=lambda place: len(layouts[place].sizes))
        # every axis of the result by (axis of the original, number inside it)
        keys = [_key(layouts[main], i) for i in range(len(layouts[main].sizes))]
        size_of = {key: layouts[main].sizes[i] for i, key in enumerate(keys)}
        for one in layouts.values():
            for i, size in enumerate(one.sizes):
                key = _key(one, i)
                if key not in size_of:
                    keys.append(key)
                    size_of[key] = size
        inputs: list[ir.Value | None] = []
        for place in range(len(operands)):
            if place in layouts:
                inputs.append(self._placed(layouts[place], keys))
            elif place in arrays:
                array = _constant_placed(arrays[place], keys, size_of, rank)
                inputs.append(self.made.constant(array, array.dtype))
            else:
                inputs.append(None)
        sizes = tuple(size_of[key] for key in keys)
        attributes = {name: item.value for name, item in node.attributes.items()} if node else {}
        out = self._emit(kind, inputs, sizes, dtype, **attributes)
        groups = tuple(
            tuple(keys.index(key) for key in sorted(k for k in keys if k[0] == axis))
            for axis in range(rank)
        )
        return _Layout(out, sizes, groups)

    def _placed(self, layout: _Layout, keys: Sequence[tuple[int, int]]) -> ir.Value:
        own = [_key(layout, i) for i in range(len(layout.sizes))]
        order = [own.index(key) for key in keys if key in own]
        layout = self._arranged(layout, order)
        if len(order) == len(keys):
            return layout.value
        found = iter(layout.sizes)
        sizes: list[Size] = [next(found) if key in own else 1 for key in keys]
        return self._reshaped(layout.value, sizes)

    def _refined(self, layouts: dict[int, _Layout], last: int | None = None) -> dict[int, _Layout]:
        """Cut axes (of the original, up to `last`) that operands must have alike."""
        rank = len(next(iter(layouts.values())).groups) if last is None else last
        layouts = {place: self._without_ones(one, rank) for place, one in layouts.items()}
        parts: dict[int, dict[int, list[int]]] = {place: {} for place in layouts}
        for axis in range(rank):
            groups = {
                place: [one.sizes[i] for i in one.groups[axis]]
                for place, one in layouts.items()
                if one.groups[axis]
            }
            if len({tuple(sizes) for sizes in groups.values()}) <= 1:
                continue
            if any(isinstance(size, str) for sizes in groups.values() for size in sizes):
                raise _CannotError
            ends = sorted(
                {
                    int(e)
                    for sizes in groups.values()
                    for e in np.cumprod([_known(s) for s in sizes[::-1]])
                }
            )
            for place, sizes in groups.items():
                inner = 1
                for i, size in zip(
                    reversed(layouts[place].groups[axis]), reversed(sizes), strict=True
                ):
                    bounds = [end for end in ends if inner < end <= inner * _known(size)]
                    cut, last = [], inner
                    for bound in bounds:
                        if bound % last:
                            raise _CannotError
                        cut.append(bound // last)
                        last = bound
                    if last != inner * _known(size):
                        raise _CannotError
                    parts[place][i] = cut[::-1]
                    inner = last
        return {place: self._split_axes(one, parts[place]) for place, one in layouts.items()}

    def _without_ones(self, layout: _Layout, rank: int) -> _Layout:
        """Without axes of size 1 inside the first `rank` axes of the original."""
        gone = {i for g in layout.groups[:rank] for i in g if i and layout.sizes[i] == 1}
        if not gone:
            return layout
        left = [i for i in range(len(layout.sizes)) if i not in gone]
        sizes = tuple(layout.sizes[i] for i in left)
        groups = tuple(tuple(left.index(i) for i in g if i not in gone) for g in layout.groups)
        return _Layout(self._reshaped(layout.value, sizes), sizes, groups)

    def _with_one(self, layout: _Layout, axis: int) -> _Layout:
        """With an axis behind the batch for an axis of the original that has none."""
        sizes = (layout.sizes[0], 1, *layout.sizes[1:])
        groups = [tuple(i + (i > 0) for i in group) for group in layout.groups]
        groups[axis] = (1, *groups[axis])
        return _Layout(self._reshaped(layout.value, sizes), sizes, tuple(groups))

    def softmax(self, node: ir.Node) -> list[_Layout]:
        x = self._of(node.inputs[0])
        axis = x.single(node.attributes.get_int("axis", -1) % len(x.groups))
        out = self._emit(node.op_type, [x.value], x.sizes, x.value.dtype, axis=axis)
        return [replace(x, value=out)]

    def reduction(self, node: ir.Node) -> list[_Layout]:
        x = self._of(node.inputs[0])
        given = integers(node.inputs[1]) if len(node.inputs) > 1 else None
        if given is None or any(isinstance(one, str) for one in given):
            raise _CannotError
        axes = {int(one) % len(x.groups) for one in given}
        gone = sorted(i for axis in axes for i in x.groups[axis])
        if 0 in gone or not axes:
            raise _CannotError
        keep = node.attributes.get_int("keepdims", 1)
        left = [i for i in range(len(x.sizes)) if i not in gone]
        sizes = tuple(x.sizes[i] for i in left)
        out = x.value
        if gone:
            axes_value = self.made.ints(*gone)
            out = self._emit(node.op_type, [x.value, axes_value], sizes, x.value.dtype, keepdims=0)
        elif node.op_type not in (
            "ReduceSum",
            "ReduceMean",
            "ReduceMax",
            "ReduceMin",
            "ReduceProd",
        ):
            raise _CannotError
        groups = [
            () if axis in axes else tuple(left.index(i) for i in group)
            for axis, group in enumerate(x.groups)
            if keep or axis not in axes
        ]
        return [_Layout(out, sizes, tuple(groups))]

    def squeeze(self, node: ir.Node) -> list[_Layout]:
        x = self._of(node.inputs[0])
        axes = self._constant_axes(node, len(x.groups))
        if any(x.sizes[i] != 1 for axis in axes for i in x.groups[axis]):
            raise _CannotError
        left = [i for i in range(len(x.sizes)) if not any(i in x.groups[a] for a in axes)]
        value = x.value
        sizes = tuple(x.sizes[i] for i in left)
        if len(left) < len(x.sizes):
            value = self._reshaped(value, sizes)
        groups = tuple(
            tuple(left.index(i) for i in group)
            for axis, group in enumerate(x.groups)
            if axis not in axes
        )
        return [_Layout(value, sizes, groups)]

    def unsqueeze(self, node: ir.Node) -> list[_Layout]:
        x = self._of(node.inputs[0])
        count = len(integers(node.inputs[1]) or ())
        axes = self._constant_axes(node, len(x.groups) + count)
        rest = iter(x.groups)
        groups = tuple(() if axis in axes else next(rest) for axis in range(len(x.groups) + count))
        return [replace(x, groups=groups)]

    def _constant_axes(self, node: ir.Node, rank: int) -> set[int]:
        given = integers(node.inputs[1]) if len(node.inputs) > 1 else None
        if given is None or any(isinstance(one, str) for one in given):
            raise _CannotError
        return {int(one) % rank for one in given}

    def matmul(self, node: ir.Node) -> list[_Layout]:
        left, right = node.inputs
        matrix = _array(right)
        if matrix is not None:
            if matrix.ndim != 2:
                raise _CannotError
            return [self._times(self._of(left), right, matrix.shape[1])]
        return [self._products(self._of(left), self._of(right))]

    def _times(self, x: _Layout, matrix: ir.Value | None, columns: int) -> _Layout:
        """The last axis times a constant matrix."""
        x = self._joined_last(x, len(x.groups) - 1)
        if len(x.sizes) < 2:
            raise _CannotError
        sizes = (*x.sizes[:-1], columns)
        out = self._emit("MatMul", [x.value, matrix], sizes, x.value.dtype)
        return replace(x, value=out, sizes=sizes)

    def _products(self, a: _Layout, b: _Layout) -> _Layout:
        if len(a.groups) != len(b.groups) or len(a.groups) < 3:
            raise _CannotError
        rank = len(a.groups)
        a, b = self._refined({0: a, 1: b}, rank - 2).values()
        for axis in (rank - 2, rank - 1):
            a, b = (one if one.groups[axis] else self._with_one(one, axis) for one in (a, b))
        for one in (a, b):
            if any(0 in group or len(group) != 1 for group in one.groups[-2:]):
                raise _CannotError
        lead = [(axis, n) for axis in range(rank - 2) for n in range(len(a.groups[axis]))]
        if [len(g) for g in a.groups[:-2]] != [len(g) for g in b.groups[:-2]]:
            raise _CannotError
        lead.sort(key=lambda key: a.groups[key[0]][key[1]] != 0)  # the batch first
        values = []
        for one in (a, b):
            order = [one.groups[axis][n] for axis, n in lead]
            order += [one.groups[-2][0], one.groups[-1][0]]
            values.append(self._arranged(one, order))
        sizes = (*values[0].sizes[:-1], values[1].sizes[-1])
        out = self._emit("MatMul", [one.value for one in values], sizes, a.value.dtype)
        return _Layout(out, sizes, (*values[0].groups[:-1], (len(sizes) - 1,)))

    def einsum(self, node: ir.Node) -> list[_Layout]:
        """The same product with the letters of every operand in the order of its kept axes."""
        shapes = [value.shape for value in node.inputs if value is not None]
        ranks = [len(shape) for shape in shapes if shape is not None]
        if len(ranks) != len(node.inputs):
            raise _CannotError
        try:
            letters, out = einsum_terms(node.attributes.get_string("equation") or "", ranks)
        except UnsupportedError as error:
            raise _CannotError from error
        spare = (c for c in string.ascii_letters if c not in "".join([*letters, out]))
        parts: dict[str, str] = {}  # a letter for every axis that is kept of an original one
        terms: list[str] = []
        values: list[ir.Value | None] = []
        size_of: dict[str, Size] = {}
        for value, term in zip(node.inputs, letters, strict=True):
            array = _array(value)
            if array is not None:
                terms.append(term)
                values.append(value)
                size_of.update(zip(term, array.shape, strict=True))
                continue
            layout = self._of(value)
            own = [""] * len(layout.sizes)
            for letter, group in zip(term, layout.groups, strict=True):
                fresh = [letter, *(next(spare) for _ in group[1:])] if letter not in parts else []
                if len(parts.setdefault(letter, "".join(fresh))) != len(group):
                    raise _CannotError
                for part, axis in zip(parts[letter], group, strict=True):
                    own[axis] = part
            if not all(own):
                raise _CannotError
            terms.append("".join(own))
            values.append(layout.value)
            size_of.update(zip(own, layout.sizes, strict=True))
        constant = [_array(value) is not None for value in node.inputs]
        rows = {term[0] for term, fixed in zip(terms, constant, strict=True) if not fixed}
        kept = "".join(parts.get(letter, letter) for letter in out)
        fixed_letters = "".join(compress(terms, constant))
        if len(rows) != 1 or not rows <= set(kept):
            raise _CannotError
        if any(len(parts.get(letter, letter)) > 1 for letter in fixed_letters):
            raise _CannotError
        order = "".join(sorted(kept, key=lambda letter: letter not in rows))
        sizes = tuple(size_of[letter] for letter in order)
        equation = f"{','.join(terms)}->{order}"
        made = self._emit("Einsum", values, sizes, node.outputs[0].dtype, equation=equation)
        groups = tuple(tuple(order.index(c) for c in parts.get(one, one)) for one in out)
        return [_Layout(made, sizes, groups)]

    def gemm(self, node: ir.Node) -> list[_Layout]:
        flags = node.attributes
        matrix, bias = _array(node.inputs[1]), None
        if len(node.inputs) > 2 and node.inputs[2] is not None:
            bias = _array(node.inputs[2])
            if bias is None:
                raise _CannotError
        plain = flags.get_float("alpha", 1.0) == flags.get_float("beta", 1.0) == 1.0
        if matrix is None or flags.get_int("transA", 0) != 0 or not plain:
            raise _CannotError
        matrix = matrix.T if flags.get_int("transB", 0) else matrix
        constant = self.made.constant(np.ascontiguousarray(matrix), matrix.dtype)
        out = self._times(self._of(node.inputs[0]), constant, matrix.shape[1])
        if bias is None:
            return [out]
        added = self._emit(
            "Add",
            [out.value, self.made.constant(bias.reshape(-1), bias.dtype)],
            out.sizes,
            out.value.dtype,
        )
        return [replace(out, value=added)]

    def batch_norm(self, node: ir.Node) -> list[_Layout]:
        held = [_array(value) for value in node.inputs[1:5]]
        if any(one is None for one in held):
            raise _CannotError
        scale, bias, mean, variance = (np.asarray(one, np.float64) for one in held)
        factor = scale / np.sqrt(variance + node.attributes.get_float("epsilon", 1e-5))
        rank = len(self._of(node.inputs[0]).groups)
        shape = [1, -1] + [1] * (rank - 2)
        times, plus = (
            one.reshape(shape).astype(np.float32) for one in (factor, bias - mean * factor)
        )
        dtype = node.outputs[0].dtype
        scaled = self._combined("Mul", [node.inputs[0], times], dtype)
        return [self._combined("Add", [scaled, plus], dtype)]

    def layer_norm(self, node: ir.Node) -> list[_Layout]:
        x = self._of(node.inputs[0])
        rank = len(x.groups)
        if node.attributes.get_int("axis", -1) % rank != rank - 1:
            raise _CannotError
        if any(output.uses() for output in node.outputs[1:]):
            raise _CannotError
        x = self._joined_last(x, rank - 1)
        attributes = {name: item.value for name, item in node.attributes.items()}
        attributes["axis"] = -1
        inputs = [x.value, *node.inputs[1:]]
        out = self._emit(node.op_type, inputs, x.sizes, x.value.dtype, **attributes)
        return [replace(x, value=out)]

    def slice(self, node: ir.Node) -> list[_Layout]:
        x = self._of(node.inputs[0])
        given = [integers(value) for value in node.inputs[1:]]
        if any(one is None or any(isinstance(n, str) for n in one) for one in given):
            raise _CannotError
        numbers = [[int(n) for n in one] for one in given if one is not None]
        starts, stops = numbers[:2]
        axes = numbers[2] if len(numbers) > 2 else list(range(len(starts)))
        steps = numbers[3] if len(numbers) > 3 else [1] * len(starts)
        sizes, kept = list(x.sizes), []
        for start, stop, axis, step in zip(starts, stops, axes, steps, strict=True):
            if (start, step) == (0, 1) and stop >= 2**31 - 1:
                continue
            place = x.single(axis % len(x.groups))
            size = sizes[place]
            if isinstance(size, str):
                raise _CannotError
            sizes[place] = len(range(*slice(start, stop, step).indices(size)))
            kept.append((start, stop, place, step))
        if not kept:
            return [x]
        bounds = [self.made.ints(*column) for column in zip(*kept, strict=True)]
        out = self._emit("Slice", [x.value, *bounds], sizes, x.value.dtype)
        return [replace(x, value=out, sizes=tuple(sizes))]

    def gather(self, node: ir.Node) -> list[_Layout]:
        x, found = self._of(node.inputs[0]), numbers(node.inputs[1])
        if found is None or found.ndim > 1 or any(isinstance(one, str) for one in found.flat):
            raise _CannotError
        places, scalar = list(found.flat), found.ndim == 0
        axis = node.attributes.get_int("axis", 0) % len(x.groups)
        place = x.single(axis)
        chosen = self.made.constant(
            np.array([int(one) for one in places]).reshape(() if scalar else (-1,)), np.int64
        )
        fresh = () if scalar else (len(places),)
        sizes = (*x.sizes[:place], *fresh, *x.sizes[place + 1 :])
        out = self._emit("Gather", [x.value, chosen], sizes, x.value.dtype, axis=place)
        if not scalar:
            return [replace(x, value=out, sizes=sizes)]
        groups = tuple(
            tuple(i - (i > place) for i in group)
            for number, group in enumerate(x.groups)
            if number != axis
        )
        return [_Layout(out, sizes, groups)]

    def gather_nd(self, node: ir.Node) -> list[_Layout]:
        """x[:, rows, columns] of known places, which comes with those axes in front."""
        x, places = self._of(node.inputs[0]), _array(node.inputs[1])
        if places is None or places.ndim != 2 or node.attributes.get_int("batch_dims", 0) != 0:
            raise _CannotError
        depth = places.shape[1]
        chosen = [x.single(axis) for axis in range(depth)]
        rest = [i for i in range(1, len(x.sizes)) if i not in chosen]
        x = self._arranged(x, [0, *chosen, *rest])
        sizes = [_known(size) for size in x.sizes[1 : 1 + depth]]
        flat = np.ravel_multi_index(tuple(places.T % np.array(sizes)[:, None]), sizes)
        joined = (x.sizes[0], math.prod(sizes), *x.sizes[1 + depth :])
        taken = (x.sizes[0], len(flat), *x.sizes[1 + depth :])
        inputs = [self._reshaped(x.value, joined), self.made.constant(flat, np.int64)]
        out = self._emit("Gather", inputs, taken, x.value.dtype, axis=1)
        groups = tuple(tuple(i - depth + 1 if i else 0 for i in g) for g in x.groups[depth:])
        return [_Layout(out, taken, ((1,), *groups))]

    def split(self, node: ir.Node) -> list[_Layout]:
        x = self._of(node.inputs[0])
        axis = node.attributes.get_int("axis", 0) % len(x.groups)
        place = x.single(axis)
        results, start = [], 0
        for output in node.outputs:
            size = output.shape[axis] if output.shape is not None else None
            if not isinstance(size, int):
                raise _CannotError
            sizes = (*x.sizes[:place], size, *x.sizes[place + 1 :])
            bounds = [self.made.ints(n) for n in (start, start + size, place, 1)]
            out = self._emit("Slice", [x.value, *bounds], sizes, x.value.dtype)
            results.append(replace(x, value=out, sizes=sizes))
            start += size
        return results

    def concat(self, node: ir.Node) -> list[_Layout]:
        parts = [self._of(value) for value in node.inputs]
        axis = node.attributes.get_int("axis", 0) % len(parts[0].groups)
        rows = all(part.groups[axis] == (0,) for part in parts)
        if rows or not any(part.groups[axis] for part in parts):  # rows behind rows, or a stack
            parts = [self._with_one(part, axis) for part in parts]
        first = parts[0]
        place = 1 if rows else first.single(axis)
        values: list[ir.Value] = []
        total = 0
        for part in parts:
            if [len(g) for g in part.groups] != [len(g) for g in first.groups]:
                raise _CannotError
            matching = {
                i: j
                for g, h in zip(first.groups, part.groups, strict=True)
                for i, j in zip(g, h, strict=True)
            }
            if sorted(matching) != list(range(len(first.sizes))):
                raise _CannotError
            part = self._arranged(part, [matching[i] for i in range(len(first.sizes))])
            if any(
                a != b
                for i, (a, b) in enumerate(zip(part.sizes, first.sizes, strict=True))
                if i != place
            ):
                raise _CannotError
            values.append(part.value)
            total += _known(part.sizes[place])
        sizes = (*first.sizes[:place], total, *first.sizes[place + 1 :])
        out = self._emit("Concat", values, sizes, first.value.dtype, axis=place)
        return [replace(first, value=out, sizes=sizes)]

    def expand(self, node: ir.Node) -> list[_Layout]:
        before, after = node.inputs[0], node.outputs[0].shape
        if _array(before) is not None:
            return [self._filled(node, np.asarray(_array(before)))]
        if before is None or before.shape is None or after is None:
            raise _CannotError
        if [str(size) for size in before.shape] != [str(size) for size in after]:
            raise _CannotError
        return [self._of(before)]

    def constant_of_shape(self, node: ir.Node) -> list[_Layout]:
        tensor = node.attributes.get_tensor("value")
        fill = np.zeros(1, np.float32) if tensor is None else np.asarray(tensor.numpy())
        return [self._filled(node, fill)]

    def _filled(self, node: ir.Node, array: Array) -> _Layout:
        """A constant that is repeated along all axes, the batch not the first of them."""
        axis, shape = self._rows_axis(node.outputs[0]), node.outputs[0].shape
        if axis < 1 or shape is None:
            raise _CannotError
        rest = [size for size in shape if isinstance(size, int)]
        one_row = np.broadcast_to(array, [*rest[:axis], 1, *rest[axis:]])
        moved = np.ascontiguousarray(np.moveaxis(one_row, axis, 0))
        constant = self.made.constant(moved, moved.dtype)
        sizes: tuple[Size, ...] = (str(shape[axis]), *rest)
        out = self._emit(
            "ExpandRows", [constant, self.graph.inputs[0]], sizes, node.outputs[0].dtype
        )
        order = [axis, *(i for i in range(len(shape)) if i != axis)]
        return _Layout(out, sizes, tuple((order.index(i),) for i in range(len(shape))))


def _taken(
    atoms: list[tuple[int, Size]], size: Size, *, last: bool, cuts: dict[int, list[int]]
) -> list[tuple[int, Size]]:
    """Take axes of together `size` from one end; an axis may be cut."""
    group: list[tuple[int, Size]] = []
    end = -1 if last else 0
    have = 1
    if isinstance(size, str):  # the batch alone
        while atoms and atoms[end][1] == 1:
            atoms.pop(end)
        if not atoms or atoms[end][0] != 0:
            raise _CannotError
        return [atoms.pop(end)]
    while have < size:
        if not atoms or atoms[end][0] == 0:
            raise _CannotError
        axis, own = atoms.pop(end)
        if isinstance(own, str):
            raise _CannotError
        if size % have:
            raise _CannotError
        need = size // have
        if own > need:
            if own % need:
                raise _CannotError
            cuts.setdefault(axis, [])
            rest = (axis, own // need)
            atoms.append(rest) if last else atoms.insert(0, rest)
            own = need
        group.append((axis, own))
        have *= own
    if have != size:
        raise _CannotError
    return group[::-1] if last else group


def _known(size: Size) -> int:
    if isinstance(size, str):
        raise _CannotError
    return size


def _sizes_of_parts(axis: int, groups: Sequence[Sequence[tuple[int, Size]]]) -> list[int]:
    return [_known(size) for group in groups for own, size in group if own == axis]


def _key(layout: _Layout, axis: int) -> tuple[int, int]:
    """Which axis of the original an axis belongs to, and its number there."""
    for number, group in enumerate(layout.groups):
        if axis in group:
            return number, group.index(axis)
    raise _CannotError  # an axis of size 1 that belongs nowhere


def _constant_placed(
    array: Array,
    keys: Sequence[tuple[int, int]],
    size_of: dict[tuple[int, int], Size],
    rank: int,
) -> Array:
    """A constant that repeats along the original's axes, for the axes that are kept."""
    if array.size == 1:
        return array.reshape(())
    sizes = (1,) * (rank - array.ndim) + array.shape
    shape: list[int] = []
    order: list[tuple[int, int]] = []
    for axis, size in enumerate(sizes):
        own = sorted(key for key in keys if key[0] == axis)
        parts = [size_of[key] for key in own]
        order += own
        if size == 1:
            shape += [1] * len(own)
        elif any(isinstance(part, str) for part in parts):
            raise _CannotError
        elif math.prod(_known(part) for part in parts) == size:
            shape += [_known(part) for part in parts]
        else:
            raise _CannotError
    return array.reshape(shape).transpose([order.index(key) for key in keys])


def _array(value: ir.Value | Array | None) -> Array | None:
    if not isinstance(value, ir.Value) or value.const_value is None:
        return None
    return np.asarray(value.const_value.numpy())


_RULES: dict[str, Callable[[_Pass, ir.Node], list[_Layout]]] = {
    **dict.fromkeys(UNARY, _Pass.unary),
    **dict.fromkeys(ELEMENTWISE, _Pass.elementwise),
    **dict.fromkeys(REDUCTIONS, _Pass.reduction),
    "BatchNormalization": _Pass.batch_norm,
    "Concat": _Pass.concat,
    "ConstantOfShape": _Pass.constant_of_shape,
    "Einsum": _Pass.einsum,
    "Expand": _Pass.expand,
    "Gather": _Pass.gather,
    "GatherND": _Pass.gather_nd,
    "Gemm": _Pass.gemm,
    "LayerNormalization": _Pass.layer_norm,
    "LogSoftmax": _Pass.softmax,
    "MatMul": _Pass.matmul,
    "Reshape": _Pass.reshape,
    "Slice": _Pass.slice,
    "Softmax": _Pass.softmax,
    "Split": _Pass.split,
    "Squeeze": _Pass.squeeze,
    "Transpose": _Pass.transpose,
    "Unsqueeze": _Pass.unsqueeze,
}
