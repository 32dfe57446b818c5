"""What the rules of the pass see: the layouts of values, and the nodes that are being built."""

from __future__ import annotations

from collections.abc import Callable

import onnx_ir as ir

from ondevice.converters.lowering.batch_first.layout import Layout, LayoutError
from ondevice.converters.lowering.builder import NodeBuilder
from ondevice.converters.lowering.symbolic_shapes import Size


class Rewrite:
    """The state of the pass while one node is rewritten.

    Attributes:
        graph: the graph that is rewritten.
        layouts: the layout of every value that is not kept as the original.
        pending: layouts that the rule at hand has begun; they join `layouts` when it succeeds.
        builder: the nodes that replace the node at hand.
        batch: the name of the batch size; None where the first input has no known shape.
    """

    def __init__(self, graph: ir.Graph) -> None:
        """Start with no layouts."""
        self.graph = graph
        self.layouts: dict[ir.Value, Layout] = {}
        self.pending: dict[ir.Value, Layout] = {}
        self.builder = NodeBuilder(graph, next(iter(graph)), "batch_first")
        shape = graph.inputs[0].shape
        self.batch = None if shape is None else str(shape[0])

    def original_layout(self, value: ir.Value | None) -> Layout | None:
        """A value as its own layout; None where the batch is not its first axis."""
        if value is None or value.shape is None or value.const_value is not None:
            return None
        sizes = tuple(size if isinstance(size, int) else str(size) for size in value.shape)
        if not sizes or sizes[0] != self.batch:
            return None
        return Layout(value, sizes, tuple((i,) for i in range(len(sizes))))

    def batch_axis(self, value: ir.Value | None) -> int:
        """The axis of a value that is the batch; -1 where none is, or others are free too."""
        if value is None or value.shape is None or value.const_value is not None:
            return -1
        free = [i for i, size in enumerate(value.shape) if not isinstance(size, int)]
        return free[0] if len(free) == 1 and str(value.shape[free[0]]) == self.batch else -1

    def layout_like(self, node: ir.Node) -> Layout | None:
        """The layout of the value whose shape an Expand takes; None where it is the original."""
        shape = node.inputs[1].producer() if node.inputs[1] is not None else None
        if node.op_type != "Expand" or shape is None or shape.op_type != "Shape":
            return None
        source, rank = shape.inputs[0], len(node.outputs[0].shape or ())
        if source is None or len(source.shape or ()) != rank:
            return None
        is_whole = shape.attributes.get_int("start", 0) == 0
        is_whole = is_whole and shape.attributes.get_int("end", rank) >= rank
        return self.layouts.get(source) if is_whole else None

    def layout_of(self, value: ir.Value | None) -> Layout:
        """The layout of a value; one whose batch is a later axis is transposed.

        Raises:
            LayoutError: the value has no batch axis, or other free ones.
        """
        if value is None:
            raise LayoutError
        layout = self.layouts.get(value) or self.original_layout(value) or self.pending.get(value)
        if layout is not None:
            return layout
        axis = self.batch_axis(value)
        if axis <= 0 or value.shape is None:
            raise LayoutError
        sizes: list[Size] = [size if isinstance(size, int) else str(size) for size in value.shape]
        order = [axis, *(i for i in range(len(sizes)) if i != axis)]
        moved = [sizes[i] for i in order]
        turned = self.builder.typed_op("Transpose", [value], moved, value.dtype, perm=order)
        groups = tuple((order.index(i),) for i in range(len(sizes)))
        layout = self.pending[value] = Layout(turned, tuple(moved), groups)
        return layout


LayoutRule = Callable[[Rewrite, ir.Node], list[Layout]]
