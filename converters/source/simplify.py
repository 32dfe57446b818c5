"""Simplify an exported ONNX graph: constants folded, shape arithmetic settled, nothing rounded."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import numpy as np
import onnx_ir as ir
import onnx_ir.passes.common as passes
from onnxscript import optimizer, rewriter
from onnxscript.rewriter.rules import common

from ondevice.converters.initializers import add_initializer
from ondevice.converters.lowering.symbolic_shapes import (
    Size,
    factors_of_size,
    forget,
    integers,
    numbers,
    quotient_of_sizes,
)

# onnxscript's default rules without those that compare float constants: their patterns match within
# 1e-8, so that `x + 1e-9`, which keeps a logarithm or a quotient finite, would become `x`.
_RULES = (
    common.cast_cast_rule,
    common.no_op_cast_rule,
    common.no_op_expand_rule,
    common.flatten_to_reshape_rule,  # before reshape_reshape_rule
    common.reshape_reshape_rule,
    common.slice_split_rule,
    common.no_op_transpose_rule,
    common.transpose_transpose_rule,
    common.unsqueeze_unsqueeze_rule,
    common.squeeze_reshape_1d_rule,
    common.cast_constant_of_shape_rule,
    common.cast_constant_of_shape_without_value_rule,
    common.collapse_slice_rule,
    common.collapse_slice2_rule,
    common.dropout_inference_rule,
    common.dropout_zero_rule,
    common.fuse_batchnorm_into_conv_rule,
    common.fuse_batchnorm_into_gemm_rule,
    common.materialize_reshape_shape_rule,
    common.no_op_dynamic_scatter_nd_rule,
    common.no_op_static_scatter_nd_rule,
    common.one_reshape_matmul_reshape_rule,
    common.two_reshapes_matmul_reshape_rule,
)
# Operators whose result has no more elements than their inputs together.
_MOVES = ("Cast", "Concat", "Reshape", "Slice", "Squeeze", "Transpose", "Unsqueeze")
_ANY_SIZE = 2**62  # elements
_ROUNDS = 2  # folding makes room for rewriting, and the other way round


def simplify(model: ir.Model) -> ir.Model:
    """A model of fewer nodes that computes the same; the given one is not changed."""
    model = model.clone()
    with quiet():
        optimizer.inline(model)
        passes.CommonSubexpressionEliminationPass()(model)  # a weight of many steps is moved once
        for _ in range(_ROUNDS):
            optimizer.fold_constants(model, onnx_shape_inference=True)
            _fold_moved_weights(model)
            _settle_squeezes(model)
            _fold_splits(model)
            rewriter.rewrite(model, _RULES)
        while _settle_numbers(model.graph) | _settle_shapes(model.graph):
            _fold_moved_weights(model)  # each may show the shape that the next one needs
            _forget_invented_sizes(model.graph)
            passes.ShapeInferencePass()(model)
    return _tidied(model)


def simplify_carefully(model: ir.Model) -> ir.Model:
    """A model without functions, whose constants are initializers, and nothing else simplified.

    For graphs that onnxscript's folding or rewriting turns into others. The given one stays.
    """
    model = model.clone()
    with quiet():
        optimizer.inline(model)
        _settle_squeezes(model)
    return _tidied(model)


def _tidied(model: ir.Model) -> ir.Model:
    for cleaning in (
        passes.RemoveUnusedNodesPass(),
        passes.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0),
        passes.CommonSubexpressionEliminationPass(),
        passes.OutputFixPass(),
        passes.NameFixPass(),
    ):
        cleaning(model)
    return model


def _fold_moved_weights(model: ir.Model) -> None:
    """Transposed, cut and joined weights as constants, of any size; never what a lookup reads.

    onnxscript folds small constants only. torch's exporter joins the gates of recurrent layers in
    ONNX's order, and transposes the weight that several layers share.
    """
    tables = _tables(model.graph)

    def is_moved_weight(node: ir.Node) -> bool:
        return (
            node.op_type in _MOVES
            and not node.domain
            and not tables.intersection((*node.inputs, *node.outputs))
        )

    optimizer.fold_constants(
        model,
        input_size_limit=_ANY_SIZE,
        output_size_limit=_ANY_SIZE,
        should_fold=is_moved_weight,
    )


def _tables(graph: ir.Graph) -> set[ir.Value | None]:
    """Constants whose rows are looked up, and what they are computed of."""
    varying: set[ir.Value | None] = set(graph.inputs)
    waiting: list[ir.Value | None] = []
    for node in graph:
        if node.op_type == "Gather" and node.inputs[0] not in varying:
            waiting.append(node.inputs[0])
        elif node.domain:  # lookups of this project
            waiting += [value for value in node.inputs if value not in varying]
        if any(value in varying for value in node.inputs):
            varying.update(node.outputs)
    found: set[ir.Value | None] = set()
    while waiting:
        value = waiting.pop()
        if value is not None and value not in found:
            found.add(value)
            producer = value.producer()
            waiting += () if producer is None else producer.inputs
    return found


def _fold_splits(model: ir.Model) -> None:
    """Parts of constants as constants, such as the weights of attention's keys and values."""
    for node in list(model.graph):
        source = node.inputs[0] if node.inputs else None
        if node.op_type != "Split" or node.domain or source is None or source.const_value is None:
            continue
        array, axis = source.const_value.numpy(), node.attributes.get_int("axis", 0)
        sizes = [None if out.shape is None else out.shape[axis] for out in node.outputs]
        if not all(isinstance(size, int) for size in sizes):
            continue
        ends = np.cumsum([int(str(size)) for size in sizes])[:-1]
        for number, part in enumerate(np.split(array, ends, axis)):
            fresh = add_initializer(model.graph, f"{node.name}.{number}", part)
            ir.convenience.replace_all_uses_with(
                node.outputs[number], fresh, replace_graph_outputs=True
            )
        model.graph.remove(node, safe=True)


def _settle_squeezes(model: ir.Model) -> None:
    """Squeeze only axes of size 1, as torch does, and never the batch of a single row.

    torch's exporter names axes of other sizes too; or none, which means all that are 1 at run time.
    """
    for node in list(model.graph):
        source = node.inputs[0] if node.inputs else None
        if node.op_type != "Squeeze" or node.domain or source is None or source.shape is None:
            continue
        ones = [axis for axis, size in enumerate(source.shape) if size == 1]
        requested = integers(node.inputs[1]) if len(node.inputs) > 1 else ones
        if requested is None or any(isinstance(axis, str) for axis in requested):
            continue
        squeezed = [axis for axis in requested if int(axis) % len(source.shape) in ones]
        if squeezed:
            if len(node.inputs) == 1 or len(squeezed) < len(requested):
                array = np.array(squeezed, np.int64)
                axes = add_initializer(model.graph, f"{node.name}.axes", array)
                node.resize_inputs(2)
                node.replace_input_with(1, axes)
            continue
        ir.convenience.replace_all_uses_with(node.outputs[0], source, replace_graph_outputs=True)
        model.graph.remove(node, safe=True)


def _settle_numbers(graph: ir.Graph) -> bool:
    """Put constants in the place of shape arithmetic that has no free size.

    torch's older exporter cuts the weights of attention at the width that it reads from a shape.
    Returns whether a number became known.
    """
    for node in graph:
        for value in node.outputs:
            forget(value)
    changed = False
    for node in list(graph):
        output = node.outputs[0]
        if node.domain or output.dtype != ir.DataType.INT64 or output.const_value is not None:
            continue
        values = numbers(output)
        if values is None or any(isinstance(item, str) for item in values.reshape(-1)):
            continue
        constant = add_initializer(graph, f"{output.name}.numbers", values.astype(np.int64))
        ir.convenience.replace_all_uses_with(output, constant, replace_graph_outputs=True)
        graph.remove(node, safe=True)
        changed = True
    return changed


def _settle_shapes(graph: ir.Graph) -> bool:
    """Give what Reshape and Expand make by shape arithmetic the shape that it amounts to.

    Stacked recurrent layers compute it from each other's shapes, which ONNX's inference gives up.
    Returns whether a shape became known.
    """
    for node in graph:
        for value in node.outputs:
            forget(value)
    free = _free_sizes(graph)
    changed = False
    for node in graph:
        shape = node.outputs[0].shape
        if node.op_type not in _SETTLED or node.domain or _is_known(shape, free):
            continue
        target, source = integers(node.inputs[1]), node.inputs[0]
        if target is None or source is None or source.shape is None:
            continue
        given = [_size(size) for size in source.shape]
        settled = _SETTLED[node.op_type](given, target)
        if _are_known(settled, free):
            node.outputs[0].shape = ir.Shape(settled)
            changed = True
    return changed


def _reshaped(given: list[Size], target: list[Size]) -> list[Size]:
    """The target of a Reshape with the size that -1 stands for; -1 where a size is not known."""
    if 0 in target:  # a size of the input, or none at all
        return [-1]
    rest = quotient_of_sizes(given, [size for size in target if size != -1])
    return target if rest is None else [rest if size == -1 else size for size in target]


def _expanded(given: list[Size], target: list[Size]) -> list[Size]:
    """The shape that Expand makes, -1 for a size that is not known."""
    rank = max(len(given), len(target))
    ones: list[Size] = [1] * rank
    pairs = zip(*((ones + sizes)[-rank:] for sizes in (given, target)), strict=True)
    return [a if b in (1, a) else b if a == 1 else -1 for a, b in pairs]


_SETTLED = {"Expand": _expanded, "Reshape": _reshaped}


def _forget_invented_sizes(graph: ir.Graph) -> None:
    """Drop shapes with sizes that shape inference could not tell, so that it tries once more."""
    free = _free_sizes(graph)
    for node in graph:
        for value in node.outputs if not node.domain else ():
            if value.shape is not None and not _is_known(value.shape, free):
                value.shape = None
    for value in graph.initializers.values():  # folded nodes leave theirs
        if value.const_value is not None:
            value.shape = ir.Shape([_size(size) for size in value.const_value.shape])


def _free_sizes(graph: ir.Graph) -> set[str]:
    """Names of the sizes that inputs leave free; shape inference invents others, as "unk__3"."""
    return {
        str(size)
        for value in graph.inputs
        for size in value.shape or ()
        if not isinstance(size, int)
    }


def _is_known(shape: ir.Shape | None, free: set[str]) -> bool:
    """Whether every size of a shape is known."""
    return shape is not None and _are_known([_size(size) for size in shape], free)


def _are_known(sizes: Iterable[Size], free: set[str]) -> bool:
    """Whether all are numbers above -1, or one of the free sizes a number of times."""
    return all(
        factors_of_size(size)[1] in free if isinstance(size, str) else size >= 0 for size in sizes
    )


def _size(size: object) -> Size:
    return size if isinstance(size, int) else str(size)


@contextmanager
def quiet() -> Iterator[None]:
    """Silence notes on what could not be folded, or of which no shape is known."""
    loggers = [logging.getLogger(name) for name in ("onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
