"""Dense layers with quantised weights in standard ONNX operators.

- f16: the weights are float16; ONNX Runtime casts them once, when it opens the file.
- q8: int8 arithmetic by MatMulInteger. Activations are uint8, quantised per tensor at each run
  (DynamicQuantizeLinear), or with the constants of a calibration (QuantizeLinear). Weights are
  int8, small enough that no sum of two products leaves int16: ONNX Runtime adds pairs of products
  with a saturating instruction on x86 processors without VNNI, which would be silently wrong there
  (docs/evidence/conversion.md). uint8 weights are exact too, but take twice the time.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from ondevice.converters.dense.layers import (
    Activations,
    DenseLayer,
    DensePlan,
    LayerReport,
    Range,
    find_dense_layers,
    layer_report,
)
from ondevice.converters.initializers import add_initializer, drop_unused_initializers

PAIR_GROUP = 4  # features whose products the runtime may add in pairs
# Largest sum of two codes of the same sign before rounding: 255 * (127 + 1) is less than 2**15.
LARGEST_PAIR = 127


def quantise_dense(graph: ir.Graph, plan: DensePlan) -> tuple[LayerReport, ...]:
    """Replace the dense layers of a graph by nodes with quantised weights, as planned.

    Returns:
        What was done with each layer.
    """
    reports = []
    for layer in find_dense_layers(graph, plan):
        if layer.codec != "f32":
            _Replacement(graph, layer).apply()
        reports.append(layer_report(layer, _activations(layer)))
    drop_unused_initializers(graph)
    return tuple(reports)


def _activations(layer: DenseLayer) -> Activations:
    if layer.codec != "q8":
        return "float"
    return "dynamic" if layer.ranges is None else "static"


class _Replacement:
    """The nodes and constants that replace a layer."""

    def __init__(self, graph: ir.Graph, layer: DenseLayer) -> None:
        self._graph, self._layer = graph, layer
        self._nodes: list[ir.Node] = []

    def apply(self) -> None:
        """Replace the nodes of the layer in the graph."""
        layer = self._layer
        result = self._float16() if layer.codec == "f16" else self._integer()
        if layer.relu:
            result = self._op("Relu", result)
        result.shape, result.type = layer.output.shape, layer.output.type
        ir.convenience.replace_nodes_and_values(
            self._graph, layer.nodes[0], layer.nodes, self._nodes, [layer.output], [result]
        )

    def _float16(self) -> ir.Value:
        stored = self._constant("weight", self._layer.weight.astype(np.float16))
        weight = self._op("Cast", stored, to=int(ir.DataType.FLOAT))
        return self._biased(self._op("MatMul", self._layer.x, weight))

    def _integer(self) -> ir.Value:
        """The product in integers, dequantised to float32 [..., units]."""
        layer = self._layer
        codes, scales = unsaturated_weight(layer.weight)
        weight = self._constant("codes", codes)
        if layer.ranges is None:
            x, scale, zero = self._outputs_of("DynamicQuantizeLinear", 3, layer.x)
            factor = self._op("Mul", scale, self._constant("scales", scales))
        else:
            x_scale, x_zero = uint8_parameters(layer.ranges[0])
            zero = self._constant("input_zero", x_zero)
            scale = self._constant("input_scale", x_scale)
            x = self._op("QuantizeLinear", layer.x, scale, zero)
            factor = self._constant("scales", scales * x_scale)
        sums = self._op("MatMulInteger", x, weight, zero)
        floats = self._op("Cast", sums, to=int(ir.DataType.FLOAT))
        return self._biased(self._op("Mul", floats, factor))

    def _biased(self, product: ir.Value) -> ir.Value:
        if self._layer.bias is None:
            return product
        return self._op("Add", product, self._constant("bias", self._layer.bias))

    def _op(self, kind: str, *inputs: ir.Value, **attributes: Any) -> ir.Value:
        return self._outputs_of(kind, 1, *inputs, **attributes)[0]

    def _outputs_of(
        self, kind: str, outputs: int, *inputs: ir.Value, **attributes: Any
    ) -> Sequence[ir.Value]:
        name = f"{self._layer.name}.{len(self._nodes)}"
        node = ir.node(kind, list(inputs), attributes=attributes, name=name, num_outputs=outputs)
        for number, value in enumerate(node.outputs):
            value.name = f"{name}.value{number}"
        self._nodes.append(node)
        return node.outputs

    def _constant(self, part: str, array: npt.ArrayLike) -> ir.Value:
        return add_initializer(self._graph, f"{self._layer.name}.{part}", array)


def unsaturated_weight(
    weight: npt.NDArray[np.float32],
) -> tuple[npt.NDArray[np.int8], npt.NDArray[np.float32]]:
    """Int8 codes [features, units] of a float32 weight, and its scales float32 [units].

    Any two codes of the same sign among four neighbouring features add up to at most 128.
    """
    features, units = weight.shape
    groups = np.zeros((-(-features // PAIR_GROUP) * PAIR_GROUP, units), np.float32)
    groups[:features] = weight
    ordered = np.sort(groups.reshape(-1, PAIR_GROUP, units), axis=1)
    lowest, highest = (np.abs(pair).sum(axis=(1)) for pair in _same_sign_pairs(ordered))
    largest = np.maximum(lowest.max(axis=0), highest.max(axis=0))
    scales = (largest / np.float32(LARGEST_PAIR)).astype(np.float32)
    codes = np.divide(weight, scales, out=np.zeros_like(weight), where=scales > 0)
    return np.rint(codes).astype(np.int8), scales


def _same_sign_pairs(
    ordered: npt.NDArray[np.float32],
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """The two most negative and the two largest of sorted weights [groups, 4, units], or 0."""
    return np.minimum(ordered[:, :2], 0), np.maximum(ordered[:, -2:], 0)


def uint8_parameters(values: Range) -> tuple[np.float32, np.uint8]:
    """Scale and zero point that map a range, 0 included, to 0..255."""
    scale = np.float32((values.high - values.low) / 255) or np.float32(1)
    return scale, np.uint8(np.clip(np.rint(-values.low / scale), 0, 255))
