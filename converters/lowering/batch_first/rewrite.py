"""Lowering pass: the batch becomes the first axis of every value.

The native engine computes row by row, so a request's rows must be the first axis of every value.
Networks move them (attention over [steps, batch, dim]) or join them with others ([batch * heads,
steps, dim], or [batch * steps, dim] before a layer). The pass keeps such a value in another shape,
batch first, with a note on which of its axes make up each axis of the original; operators then
work on that. Where one cannot, the original is restored for it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import onnx_ir as ir
import onnx_ir.passes.common as passes

from ondevice.converters.graph import DOMAIN, LOOKUP, PackedLookup, PackedModel
from ondevice.converters.lowering.batch_first import (
    elementwise,
    normalisation,
    products,
    selection,
    shapes,
)
from ondevice.converters.lowering.batch_first.context import Rewrite
from ondevice.converters.lowering.batch_first.layout import Layout, LayoutError, restored
from ondevice.converters.lowering.builder import NodeBuilder
from ondevice.converters.lowering.rule_tables import joined

RULES = joined(
    elementwise.RULES, normalisation.RULES, products.RULES, selection.RULES, shapes.RULES
)
_MOVING_ROWS = ("ConstantOfShape", "Einsum", "Expand", "MatMul")


def batch_first(packed: PackedModel) -> PackedModel:
    """A model in which the batch is the first axis of every value; the given one is not changed."""
    packed = packed.cloned()
    lookups = _Pass(packed.model.graph, packed.lookups).run()
    passes.RemoveUnusedNodesPass()(packed.model)
    return replace(packed, lookups=lookups)


class _Pass:
    """One run over a graph; `rewrite` holds what the rules see of it."""

    def __init__(self, graph: ir.Graph, lookups: Sequence[PackedLookup]) -> None:
        self.rewrite = Rewrite(graph)
        self.lookups = {lookup.node: lookup for lookup in lookups}

    def run(self) -> tuple[PackedLookup, ...]:
        """Rewrite the nodes in order; returns the lookups with their new nodes."""
        rewrite = self.rewrite
        for number, node in enumerate(list(rewrite.graph)):
            if node.op_type == "Shape" or not self._concerns(node):
                continue
            rewrite.builder = NodeBuilder(rewrite.graph, node, f"batch_first.{number}")
            try:
                results = self._rewritten(node)
            except LayoutError:
                rewrite.builder.nodes.clear()
                rewrite.pending.clear()
                self._restore_inputs(node)
            else:
                self._replace(node, results)
                rewrite.layouts.update(rewrite.pending)
                rewrite.pending.clear()
        return tuple(self.lookups.values())

    def _concerns(self, node: ir.Node) -> bool:
        """Whether a node reads a value in another layout, or moves the batch from the front."""
        rewrite = self.rewrite
        if any(value in rewrite.layouts for value in node.inputs if value is not None):
            return True
        if node.op_type in RULES and any(rewrite.batch_axis(value) > 0 for value in node.inputs):
            return True  # what a recurrent layer returns
        if node.op_type in _MOVING_ROWS and rewrite.batch_axis(node.outputs[0]) > 0:
            return True  # a recurrent layer's first state, or experts in front of the rows
        if node.op_type == "Expand" and rewrite.layout_like(node) is not None:
            return True
        if node.op_type == "Concat" and node.attributes.get_int("axis", 0) == 0:
            return all(rewrite.original_layout(value) is not None for value in node.inputs)
        if node.op_type not in ("Reshape", "Tile", "Transpose", "Unsqueeze") or node.domain:
            return False
        x, shape = rewrite.original_layout(node.inputs[0]), node.outputs[0].shape
        return x is not None and shape is not None and str([*shape, ""][0]) != rewrite.batch

    def _rewritten(self, node: ir.Node) -> list[Layout]:
        """The layouts of a node's outputs.

        Raises:
            LayoutError: it must read the originals of its inputs.
        """
        if node.domain == DOMAIN and node.op_type == LOOKUP:
            return [self._lookup(node)]
        rule = RULES.get(node.op_type)
        if node.domain or rule is None:
            raise LayoutError
        return rule(self.rewrite, node)

    def _lookup(self, node: ir.Node) -> Layout:
        """A lookup of IDs in their layout; `lookups` gets its new node.

        Raises:
            LayoutError: it pools its vectors, along an axis of the original.
        """
        ids, lookup = self.rewrite.layout_of(node.inputs[0]), self.lookups[node]
        if lookup.spec.pooling != "none":
            raise LayoutError
        moved = ir.Node(
            DOMAIN,
            LOOKUP,
            [ids.value],
            dict(node.attributes),
            num_outputs=1,
            name=f"{node.name}.batch_first",
            metadata_props=dict(node.metadata_props),
        )
        dim = lookup.spec.dim
        moved.outputs[0].name = f"{node.name}.batch_first.value"
        moved.outputs[0].dtype = ir.DataType.FLOAT
        moved.outputs[0].shape = ir.Shape([*ids.sizes, dim])
        self.rewrite.builder.nodes.append(moved)
        del self.lookups[node]
        self.lookups[moved] = replace(lookup, node=moved)
        return Layout(moved.outputs[0], (*ids.sizes, dim), (*ids.groups, (len(ids.sizes),)))

    def _replace(self, node: ir.Node, results: Sequence[Layout]) -> None:
        """Insert the built nodes; readers of originals that exist again read them there."""
        rewrite, builder = self.rewrite, self.rewrite.builder
        replaced = []
        for output, layout in zip(node.outputs, results, strict=False):
            if not layout.is_original and not output.is_graph_output():
                rewrite.layouts[output] = layout
                continue
            value = layout.value
            if not layout.is_original:
                value = restored(builder, layout, output.shape)
            if value.producer() not in builder.nodes:  # an existing value keeps its name
                value = builder.typed_op("Identity", [value], layout.sizes, value.dtype)
            replaced.append((output, value))
        # the node stays, perhaps without readers, until unused nodes are removed
        rewrite.graph.insert_before(node, builder.nodes)
        for old, new in replaced:
            new.shape, new.type = old.shape, old.type
            if old.is_graph_output():
                old.name, new.name = f"{old.name}.replaced", old.name
            ir.convenience.replace_all_uses_with(old, new, replace_graph_outputs=True)

    def _restore_inputs(self, node: ir.Node) -> None:
        rewrite, builder = self.rewrite, self.rewrite.builder
        for place, value in enumerate(node.inputs):
            if value is not None and value in rewrite.layouts:
                original = restored(builder, rewrite.layouts[value], value.shape)
                node.replace_input_with(place, original)
        rewrite.graph.insert_before(node, builder.nodes)
