"""Where a lookup's IDs come from: which elements of which input, with what added to them.

The graph is run once on the *places* of the inputs' elements instead of their values. Operators
that only move elements move the places; an addition of constants adds to an offset. What is left
beside the IDs of each lookup says which input element it reads, and so which values are legal.
Elements that the graph computes with are followed through its integers, and through float
operators without sums: what reaches a sum is a number, of which the network expects a range.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from ondevice.converters.graph import DOMAIN, TREE_ENSEMBLE, CapturedLookup, PackedLookup
from ondevice.converters.lowering.operands import constant_array
from ondevice.converters.source.names import ORIGINAL_TYPE
from ondevice.errors import InputError, UnsupportedError
from ondevice.ops import OPERATORS, apply
from ondevice.spec import LookupSpec
from ondevice.trees import BRANCH, index_of, kind_of

Array = npt.NDArray[Any]

# Operators that copy elements of their first input; the other inputs say which.
_MOVING = {
    "Expand", "Flatten", "Gather", "GatherND", "Identity", "Reshape", "Slice", "Squeeze", "Tile",
    "Transpose", "Unsqueeze",
}  # fmt: skip
_TESTING = {"Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual", "Not", "Shape", "Size"}
# What is chosen holds nothing of the places by which it was.
_CHOOSING = {"Gather", "GatherElements", "GatherND"}
# Operators on floats that every engine computes to the same bits.
_EXACT = {
    "Abs", "Add", "Cast", "Ceil", "Clip", "Concat", "Div", "Floor", "Max", "Min", "Mod", "Mul",
    "Neg", "Round", "Sign", "Split", "Sub", "Trunc", "Where", *_MOVING,
}  # fmt: skip
_FLOATS = (ir.DataType.FLOAT, ir.DataType.DOUBLE, ir.DataType.FLOAT16, ir.DataType.BFLOAT16)
_NARROW = (
    ir.DataType.INT8, ir.DataType.INT16, ir.DataType.INT32, ir.DataType.UINT8, ir.DataType.UINT16,
    ir.DataType.UINT32,
)  # fmt: skip
_NUMBERS = (1, 2, 3, 4, 5, 6, 7, 11, 12, 13)  # ONNX's codes of types of numbers
_ROWS = 2
LEAST, TOP = -(2**63), 2**63 - 1


@dataclass(frozen=True)
class InputIds:
    """What the elements of one input's row are.

    Attributes:
        limits: per element of a row: IDs must be below; 2**63 where every ID is legal; -1 for an
            element that is no ID, or with which the network computes.
        added: whether anything is added to the IDs, so that a table does not notice a wrong one.
        lowest: the lowest ID that the lookups accept, at most 0.
        padding: per element: its lookup's padding ID, or None.
        heads: per element: IDs below have unshared rows; 0 where none has.
        computed: per element: whether the graph computes with it as an integer, so that any value
            may matter; not so for numbers, which sums read.
        lows: per element that is computed with, or a number: its least legal value.
        highs: per element that is computed with, or a number: its greatest legal value.
        numbers: per element: whether sums or matrices read it as a number, and no lookup as an ID.
        thresholds: per element: the numbers with which tree ensembles compare it, ascending
            float32.
    """

    limits: Array
    added: bool
    lowest: int
    padding: list[int | None]
    heads: list[int]
    computed: Array
    lows: Array
    highs: Array
    numbers: Array
    thresholds: list[Array]


@dataclass(frozen=True)
class _Places:
    """Elements of inputs, and what is added to them.

    Attributes:
        at: int64 [...]: their places among the elements of all inputs; -1 for a constant.
        plus: integers [...] that are added to them.
    """

    at: Array
    plus: Array


def input_ids(
    graph: ir.Graph,
    lookups: Sequence[PackedLookup] | Sequence[CapturedLookup],
    shapes: Mapping[str, Sequence[int]],
) -> dict[str, InputIds]:
    """What every input's elements are used for.

    Args:
        graph: the graph with its lookup nodes.
        lookups: the lookups, each reading one value of IDs.
        shapes: an example shape of every input; the rows count as `2`.
    """
    tracer = _Tracer(graph, shapes)
    tracer.run({lookup.node for lookup in lookups})
    read = _ReadIds(tracer.size)
    for lookup in lookups:
        ids = tracer.values.get(lookup.node.inputs[0])
        if isinstance(ids, _Places):
            read.note(ids, lookup.spec)
    limits = read.limits
    limits[tracer.computed & (limits == 2**63)] = -1
    limits[limits == -2] = -1
    computed = tracer.read & ~tracer.numbers & (limits == -1)
    numbers = tracer.read & tracer.numbers & (limits == -1)
    thresholds = _thresholds(graph, tracer)
    out = {}
    for name, start in tracer.starts.items():
        shape = shapes[name]
        width = int(np.prod(shape[1:], dtype=int))
        part = slice(start, start + width)
        out[name] = InputIds(
            limits[part],
            bool(read.added[part].any()),
            max((low or 0 for low in read.lowest[part]), default=0),
            read.padding[part],
            read.heads[part],
            computed[part],
            tracer.lows[part],
            tracer.highs[part],
            numbers[part],
            thresholds[part],
        )
    return out


class _ReadIds:
    """What lookups say of each element; see InputIds. `lowest` is None where none reads it."""

    def __init__(self, size: int) -> None:
        self.limits: Array = np.full(size, -2, dtype=object)  # -2: nothing reads it
        self.added = np.zeros(size, bool)
        self.lowest: list[int | None] = [None] * size
        self.padding: list[int | None] = [None] * size
        self.heads = [0] * size

    def note(self, ids: _Places, spec: LookupSpec) -> None:
        """Note what a lookup of these elements accepts. Raises UnsupportedError, see _legal_ids."""
        first, end = _legal_ids(spec)
        for at, plus in zip(
            ids.at.reshape(-1).tolist(), ids.plus.reshape(-1).tolist(), strict=True
        ):
            if at < 0:
                continue
            limit = end if end == 2**63 else end - plus
            self.limits[at] = limit if self.limits[at] < 0 else min(self.limits[at], limit)
            self.added[at] |= plus != 0
            earlier = self.lowest[at]
            self.lowest[at] = first - plus if earlier is None else max(earlier, first - plus)
            if spec.padding_id is not None:
                self.padding[at] = spec.padding_id - plus
            if spec.head:
                self.heads[at] = spec.head - plus


def _legal_ids(spec: LookupSpec) -> tuple[int, int]:
    """The IDs that a lookup takes, as the first and the end of a range; 2**63: any ID.

    Raises:
        UnsupportedError: a plain table without a row for unknown IDs takes a padding ID too that is
            not next to its rows, which no range says.
    """
    if spec.scheme != "full" or spec.oov_row is not None:
        return 0, 2**63
    padding = 0 if spec.padding_id is None else spec.padding_id
    if not -1 <= padding <= spec.rows:
        raise UnsupportedError(
            f"a plain table of {spec.rows} rows without a row for unknown IDs has the padding ID "
            f"{padding}; expected -1..{spec.rows}, or a row for unknown IDs (oov_row)"
        )
    return min(padding, 0), max(padding + 1, spec.rows)


def _thresholds(graph: ir.Graph, tracer: _Tracer) -> list[Array]:
    """By the place of each element: what tree ensembles compare it with."""
    compared: list[list[Array]] = [[] for _ in range(tracer.size)]
    for node in graph:
        if node.domain != DOMAIN or node.op_type != TREE_ENSEMBLE:
            continue
        features = tracer.values.get(node.inputs[0])
        thresholds, links = (constant_array(value) for value in node.inputs[1:3])
        if not isinstance(features, _Places) or thresholds is None or links is None:
            continue  # features that are computed have no values that are known to reach one
        branch = kind_of(links) == BRANCH
        tested, limits = index_of(links[branch]), thresholds[branch]
        for place, at in enumerate(features.at[0]):
            if at >= 0:
                compared[at].append(limits[tested == place])
    none = np.zeros(0, np.float32)
    return [np.unique(np.concatenate([none, *arrays])) for arrays in compared]


class _Tracer:
    """Runs a graph on places. A value is an array (a constant), places, or None (neither)."""

    def __init__(self, graph: ir.Graph, shapes: Mapping[str, Sequence[int]]) -> None:
        """Number the elements of the inputs' rows, whose example shapes are given by name."""
        self._graph = graph
        self.values: dict[ir.Value | None, Array | _Places | None] = {None: None}
        self.starts: dict[str, int] = {}
        self._sizes: dict[str, int] = {}
        self.size = 0
        for value in graph.inputs:
            name = str(value.name)
            shape = (_ROWS, *shapes[name][1:])
            width = int(np.prod(shape[1:], dtype=int))
            # both rows stand for the same elements
            at = np.broadcast_to(np.arange(self.size, self.size + width), (_ROWS, width))
            self.values[value] = _Places(at.reshape(shape), np.zeros(shape, np.int64))
            self.starts[name] = self.size
            self.size += width
            for dim, size in zip(value.shape or (), shape, strict=False):
                if not isinstance(dim, int):
                    self._sizes[str(dim)] = size
        self.computed = np.zeros(self.size, bool)  # by an operator that needs the value itself
        self.read = np.zeros(self.size, bool)  # by any operator or lookup
        self.numbers = np.zeros(self.size, bool)  # by a sum, a matrix, a logarithm
        self.lows = np.full(self.size, LEAST, dtype=object)
        self.highs = np.full(self.size, TOP, dtype=object)
        self._carried: dict[ir.Value, npt.NDArray[np.bool_]] = {}  # elements that a value holds
        for value in graph.inputs:
            self._narrow(value)

    def run(self, lookups: set[ir.Node]) -> None:
        for value in self._graph.initializers.values():
            if value.const_value is not None and value.dtype != ir.DataType.FLOAT:
                self.values[value] = np.asarray(value.const_value.numpy())
        for node in self._graph:
            if node in lookups:
                for read in node.inputs:
                    if not isinstance(self.values.get(read), _Places):
                        self.read |= self._elements(read)
                continue
            results = self._outputs(node)
            for output, result in zip(node.outputs, results, strict=False):
                self.values[output] = result
            if all(result is None for result in results):
                self._follow(node)

    def _elements(self, value: ir.Value | None) -> npt.NDArray[np.bool_]:
        """Which elements of the inputs a value holds, or was computed from."""
        held = np.zeros(self.size, bool)
        known = self.values.get(value)
        if isinstance(known, _Places):
            held[known.at[known.at >= 0]] = True
        elif value is not None and value in self._carried:
            held = self._carried[value]
        return held

    def _narrow(self, value: ir.Value) -> None:
        """An input that has fewer bits in the source takes what these hold."""
        name = value.metadata_props.get(ORIGINAL_TYPE)
        if name is not None and ir.DataType[name] in _NARROW:
            bounds = np.iinfo(ir.DataType[name].numpy())
            elements = self._elements(value)
            self.lows[elements], self.highs[elements] = int(bounds.min), int(bounds.max)

    def _follow(self, node: ir.Node) -> None:
        """Note what an operator reads, and which elements its outputs were computed from."""
        if node.op_type in ("Shape", "Size"):
            return
        held = [self._elements(value) for value in node.inputs]
        together = np.logical_or.reduce([*held, np.zeros(self.size, bool)])
        self.read |= together
        for value in node.inputs:
            known = self.values.get(value)
            if node.op_type not in _TESTING and isinstance(known, _Places):
                self.computed[known.at[known.at >= 0]] = True
        if node.op_type in _TESTING:
            return  # truth values
        if node.op_type in _CHOOSING:
            together = held[0]
        for value, part in zip(node.inputs, held, strict=True):
            if _is_float(value) and node.op_type not in _CHOOSING and node.op_type not in _EXACT:
                self.numbers |= part
        for output in node.outputs:
            if output.dtype != ir.DataType.BOOL:
                self._carried[output] = together

    def _outputs(self, node: ir.Node) -> list[Array | _Places | None]:
        if node.op_type == "Shape":
            return [self._shape(node)]
        inputs = [self.values.get(value) for value in node.inputs]
        if node.domain or any(
            known is None and value is not None
            for known, value in zip(inputs, node.inputs, strict=True)
        ):
            return [None]
        try:
            return list(self._moved(node, inputs))
        except (InputError, ValueError, KeyError):
            return [None]

    def _shape(self, node: ir.Node) -> Array | None:
        source = node.inputs[0]
        if source is None or source.shape is None:
            return None
        sizes = [dim if isinstance(dim, int) else self._sizes.get(str(dim)) for dim in source.shape]
        part = sizes[node.attributes.get_int("start", 0) : node.attributes.get_int("end", None)]
        return None if None in part else np.array(part, np.int64)

    def _moved(
        self, node: ir.Node, inputs: Sequence[Array | _Places | None]
    ) -> Iterator[Array | _Places | None]:
        """The outputs of a node whose inputs are all known: places, constants, or None.

        Raises:
            InputError, ValueError, KeyError: the operator cannot be evaluated on them.
        """
        attributes = {name: item.value for name, item in node.attributes.items()}
        places = [item for item in inputs if isinstance(item, _Places)]
        kind = node.op_type
        if not places:
            yield from _constant(kind, inputs, attributes)
        elif kind in _MOVING and isinstance(inputs[0], _Places) and len(places) == 1:
            rest = [item for item in inputs[1:] if item is not None]
            yield _both(kind, [inputs[0]], rest, attributes)
        elif kind == "Concat":
            yield _both(kind, [_as_places(item) for item in inputs], [], attributes)
        elif kind == "Split":
            yield from _split(node, inputs, attributes)
        elif (
            kind == "Cast" and attributes["to"] in _NUMBERS
        ):  # casts between numbers keep the places
            yield inputs[0]
        elif kind in ("Add", "Sub") and len(places) == 1:
            yield _shifted(kind, inputs)
        else:
            yield None


def _is_float(value: ir.Value | None) -> bool:
    return value is not None and (value.dtype is None or value.dtype in _FLOATS)


def _constant(
    kind: str, inputs: Sequence[Any], attributes: dict[str, Any]
) -> Iterator[Array | None]:
    if kind == "Constant" and "value" in attributes:
        yield np.asarray(attributes["value"].numpy())
    elif kind == "Range":
        yield np.arange(*(int(item) for item in inputs))
    elif kind in OPERATORS and inputs:
        yield apply(kind, [item for item in inputs if item is not None], attributes)
    else:
        yield None


def _both(
    kind: str, moved: Sequence[_Places], rest: Sequence[Any], attributes: dict[str, Any]
) -> _Places:
    if kind == "Tile":
        return _Places(*(np.tile(part, rest[0]) for part in (moved[0].at, moved[0].plus)))
    at, plus = (
        apply(kind, [*(getattr(item, part) for item in moved), *rest], attributes)
        for part in ("at", "plus")
    )
    return _Places(at, plus)


def _as_places(value: Array | _Places | None) -> _Places:
    if isinstance(value, _Places):
        return value
    array = np.asarray(value)
    return _Places(np.full(array.shape, -1), np.zeros(array.shape, np.int64))


def _split(
    node: ir.Node, inputs: Sequence[Any], attributes: dict[str, Any]
) -> Iterator[_Places | None]:
    axis, count = attributes.get("axis", 0), len(node.outputs)
    whole = inputs[0].at.shape[axis]
    sizes = inputs[1] if len(inputs) > 1 and inputs[1] is not None else [-(-whole // count)] * count
    ends = np.cumsum(sizes)[:-1]
    parts = (np.split(part, ends, axis) for part in (inputs[0].at, inputs[0].plus))
    yield from (_Places(at, plus) for at, plus in zip(*parts, strict=True))


def _shifted(kind: str, inputs: Sequence[Any]) -> _Places | None:
    left, right = inputs
    if isinstance(right, _Places):
        if kind == "Sub":
            return None
        left, right = right, left
    if np.asarray(right).dtype.kind != "i":
        return None
    amount = np.asarray(right) if kind == "Add" else -np.asarray(right)
    at, amount = np.broadcast_arrays(left.at, amount)
    return _Places(at, left.plus + amount)
