"""Dense layers: find matrix products with constant weights, and say how each is to be stored."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from ondevice.codecs import LARGEST_F16, DenseCodec
from ondevice.converters.graph import PackedModel, module_path
from ondevice.converters.lowering.operands import constant_array
from ondevice.errors import SpecError
from ondevice.limits import MAX_DENSE_FEATURES, MAX_DENSE_UNITS

Array = npt.NDArray[Any]
Activations = Literal["float", "dynamic", "static"]


@dataclass(frozen=True)
class Range:
    """Smallest and largest value of a tensor over the calibration rows, 0 included."""

    low: float
    high: float


@dataclass(frozen=True)
class DensePlan:
    """How the dense layers of a model are stored.

    Attributes:
        codec: of every layer that `float_layers` does not name.
        float_layers: module paths whose layers stay float32; "tower" covers "tower.0" too.
        ranges: ranges of layers' inputs ("NAME.input") and outputs ("NAME"), where NAME is the
            layer's output; empty without calibration rows.
    """

    codec: DenseCodec = "f32"
    float_layers: tuple[str, ...] = ()
    ranges: Mapping[str, Range] = field(default_factory=dict)

    def codec_of(self, path: str) -> DenseCodec:
        """The codec of the layer at a module path."""
        return "f32" if any(_covers(name, path) for name in self.float_layers) else self.codec


def _covers(name: str, path: str) -> bool:
    """Whether a module path is that of a module or of one below it."""
    return path == name or path.startswith(f"{name}.")


ALL_FLOAT = DensePlan()


@dataclass(frozen=True)
class DenseLayer:
    """One layer: relu?(x @ weight + bias).

    Attributes:
        nodes: the nodes that compute it, the product first.
        path: its path in the module.
        x: its input, float32 [..., features].
        output: its output, float32 [..., units].
        weight: float32 [features, units].
        bias: float32 [units] or None.
        relu: whether a ReLU follows.
        codec: how the weights are stored.
        ranges: of input and output, for static quantisation; None for dynamic.
    """

    nodes: tuple[ir.Node, ...]
    path: str
    x: ir.Value
    output: ir.Value
    weight: Array
    bias: Array | None
    relu: bool
    codec: DenseCodec
    ranges: tuple[Range, Range] | None

    @property
    def name(self) -> str:
        """Its name in every target: that of its output."""
        return str(self.output.name)


@dataclass(frozen=True)
class LayerReport:
    """How one target stores a layer, and how it computes with it.

    Attributes:
        path: the layer's path in the module.
        features, units: shape of its weights.
        codec: of the weights.
        activations: "float", or how its input becomes int8: "dynamic" or "static".
    """

    path: str
    features: int
    units: int
    codec: str
    activations: Activations


def find_dense_layers(graph: ir.Graph, plan: DensePlan) -> list[DenseLayer]:
    """Every Gemm and MatMul with a constant float32 matrix, in order.

    An Add of a constant bias and a Relu belong to the layer if nothing else reads what they read.
    """
    layers = []
    for node in graph:
        layer = _product(node)
        if layer is None:
            continue
        layer = _with_followers(layer)
        ranges = plan.ranges.get(f"{layer.name}.input"), plan.ranges.get(layer.name)
        layers.append(
            replace(
                layer,
                codec=plan.codec_of(layer.path),
                ranges=None if ranges[0] is None or ranges[1] is None else (ranges[0], ranges[1]),
            )
        )
    return layers


def check_layers(packed: PackedModel, native: PackedModel, plan: DensePlan) -> None:
    """Check that every dense layer can be stored as planned.

    Args:
        packed: the model of the .onnx file.
        native: the model of the native file, in which there are more dense layers.
        plan: how dense layers are stored.

    Raises:
        SpecError: weights that are not finite, or too large for float16; or a path in
            `float_layers` that no dense layer is part of.
    """
    graph = packed.model.graph
    if faults := [*_not_finite(graph), *_too_large(find_dense_layers(graph, plan))]:
        raise SpecError("; ".join(faults))
    if not plan.float_layers:
        return
    graphs = (graph, native.model.graph)
    paths = [layer.path for graph in graphs for layer in find_dense_layers(graph, plan)]
    for name in plan.float_layers:
        if not any(_covers(name, path) for path in paths):
            known = ", ".join(dict.fromkeys(paths)) or "none"
            raise SpecError(f"no dense layer {name!r} to keep in float; the layers are: {known}")


def _not_finite(graph: ir.Graph) -> list[str]:
    """Faults of the weights and biases of matrix products; tables and buffers are not checked."""
    faults = []
    for node in graph:
        if node.domain or node.op_type not in ("Gemm", "MatMul", "Conv"):
            continue
        for array in map(constant_array, node.inputs[1:]):
            if array is not None and not (finite := np.isfinite(array)).all():
                faults.append(
                    f"dense layer {module_path(node)!r}: {np.count_nonzero(~finite)} of "
                    f"{array.size} values are NaN or infinite"
                )
    return faults


def _too_large(layers: Sequence[DenseLayer]) -> list[str]:
    """Faults of layers whose weights exceed float16."""
    return [
        f"dense layer {layer.path!r}: f16 holds values up to {LARGEST_F16}, the largest is "
        f"{np.abs(layer.weight).max():.3g}: keep it in float32 (--float-layers {layer.path})"
        for layer in layers
        if layer.codec == "f16" and np.abs(layer.weight).max() > LARGEST_F16
    ]


def layer_report(layer: DenseLayer, activations: Activations) -> LayerReport:
    """What a target did with a layer."""
    features, units = layer.weight.shape
    return LayerReport(layer.path, features, units, layer.codec, activations)


def _product(node: ir.Node) -> DenseLayer | None:
    """The layer of a Gemm or MatMul without its followers; None where it is not a dense layer."""
    if node.domain or node.op_type not in ("Gemm", "MatMul"):
        return None
    x, weight = node.inputs[0], constant_array(node.inputs[1])
    if x is None or constant_array(x) is not None or weight is None:
        return None
    if weight.ndim != 2 or weight.dtype != np.float32 or not np.isfinite(weight).all():
        return None
    bias: Array | None = None
    if node.op_type == "Gemm":
        flags = node.attributes
        if flags.get_int("transA", 0) or flags.get_float("alpha", 1.0) != 1.0:
            return None
        weight = weight.T if flags.get_int("transB", 0) else weight
        if len(node.inputs) > 2 and node.inputs[2] is not None:
            bias = _vector(constant_array(node.inputs[2]), weight.shape[1])
            if bias is None or flags.get_float("beta", 1.0) != 1.0:
                return None
    if not (weight.shape[0] <= MAX_DENSE_FEATURES and weight.shape[1] <= MAX_DENSE_UNITS):
        return None
    path = module_path(node)
    return DenseLayer((node,), path, x, node.outputs[0], weight, bias, False, "f32", None)


def _vector(bias: Array | None, units: int) -> Array | None:
    """A constant float32 bias as [units]; None where it has another form."""
    if bias is None or bias.dtype != np.float32 or bias.size != units:
        return None
    return bias.reshape(-1) if bias.shape[-1] == units else None


def _with_followers(layer: DenseLayer) -> DenseLayer:
    """The layer with the Add and the Relu that belong to it."""
    if layer.bias is None and (add := _only_reader(layer.output, "Add")):
        other = add.inputs[1] if add.inputs[0] is layer.output else add.inputs[0]
        stored = constant_array(other)
        if stored is not None and stored.ndim == 1:
            bias = _vector(stored, layer.weight.shape[1])
            if bias is not None:
                nodes, output = (*layer.nodes, add), add.outputs[0]
                layer = replace(layer, nodes=nodes, output=output, bias=bias)
    if relu := _only_reader(layer.output, "Relu"):
        nodes, output = (*layer.nodes, relu), relu.outputs[0]
        layer = replace(layer, nodes=nodes, output=output, relu=True)
    return layer


def _only_reader(value: ir.Value, kind: str) -> ir.Node | None:
    readers = value.consumers()
    if value.is_graph_output() or len(readers) != 1:
        return None
    reader = next(iter(readers))
    return reader if reader.op_type == kind and not reader.domain else None


def nodes_of(layers: Collection[DenseLayer]) -> dict[ir.Node, DenseLayer]:
    """The layer that each node is part of."""
    return {node: layer for layer in layers for node in layer.nodes}
