"""Names the inputs and outputs of a graph, and gives them the types that model files take."""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir

from ondevice.errors import UnsupportedError

ORIGINAL_TYPE = "ondevice.type"  # metadata of an input: its element type in the source


def name_values(model: ir.Model, inputs: Sequence[str], outputs: Sequence[str]) -> ir.Model:
    """A model whose inputs and outputs have these names and the types that a model file takes.

    Inputs become int64 or float32, outputs float32. Other values make way where names clash.

    Raises:
        UnsupportedError: another number of outputs, or a table has the name of an input or output.
    """
    model = model.clone()
    _name_inputs(model.graph, inputs)
    _name_outputs(model.graph, outputs)
    return model


def _name_inputs(graph: ir.Graph, names: Sequence[str]) -> None:
    for value, name in zip(graph.inputs, names, strict=True):
        value.name = name
    _free_names(graph, names, graph.inputs)
    for value in graph.inputs:
        carried = _carried(value.dtype)
        if carried is value.dtype or value.dtype is None:
            continue
        original = value.dtype
        value.metadata_props[ORIGINAL_TYPE] = original.name
        uses = [use for use in value.uses() if not _casts_integers(use.node, original)]
        value.type = ir.TensorType(carried or original)
        cast = ir.node("Cast", [value], attributes={"to": int(original)}, name=f"{value.name}.cast")
        cast.outputs[0].name = f"{value.name}.cast"
        cast.outputs[0].dtype, cast.outputs[0].shape = original, value.shape
        for use in uses:
            use.node.replace_input_with(use.idx, cast.outputs[0])
        if uses:
            graph.insert_before(graph[0], cast)


def _casts_integers(reader: ir.Node, original: ir.DataType) -> bool:
    """Whether a node casts integers, which it can do from int64 too: targets lack other widths."""
    return reader.op_type == "Cast" and not reader.domain and original.is_integer()


def _carried(dtype: ir.DataType | None) -> ir.DataType | None:
    if dtype is None or dtype in (ir.DataType.INT64, ir.DataType.FLOAT):
        return dtype
    return ir.DataType.FLOAT if dtype.is_floating_point() else ir.DataType.INT64


def _name_outputs(graph: ir.Graph, names: Sequence[str]) -> None:
    """Make the outputs distinct float32 values with these names."""
    if len(names) != len(graph.outputs):
        raise UnsupportedError(
            f"expected an exported graph of {len(names)} outputs, as the module has; got "
            f"{len(graph.outputs)}"
        )
    for place, value in enumerate(list(graph.outputs)):
        other = value.dtype not in (ir.DataType.FLOAT, None)
        if other or value.producer() is None or value in graph.outputs[:place]:
            kind, attributes = (
                ("Cast", {"to": int(ir.DataType.FLOAT)}) if other else ("Identity", {})
            )
            node = ir.node(kind, [value], attributes=attributes, name=f"output.{place}")
            node.outputs[0].shape, node.outputs[0].dtype = value.shape, ir.DataType.FLOAT
            graph.append(node)
            graph.outputs[place] = node.outputs[0]
    for value, name in zip(graph.outputs, names, strict=True):
        value.name = name
    _free_names(graph, [str(value.name) for value in graph.outputs], graph.outputs)


def _free_names(graph: ir.Graph, names: Sequence[str], owners: Sequence[ir.Value]) -> None:
    """Rename every computed value that has one of `names` but is not among their owners."""
    taken = set(names)
    for node in graph:
        for value in node.outputs:
            if any(value is owner for owner in owners):
                continue
            while value.name in taken:
                value.name = f"{value.name}_value"
    for name in [name for name in graph.initializers if name in taken]:
        value = graph.initializers[name]
        if any(use.node.op_type == "Gather" for use in value.uses()):  # a table keeps its name
            raise UnsupportedError(f"{name!r} is the name of an input or output and of a parameter")
        del graph.initializers[name]
        while value.name in taken or value.name in graph.initializers:
            value.name = f"{value.name}_value"
        graph.register_initializer(value)
