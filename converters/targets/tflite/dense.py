"""Dense layers with quantised weights in TFLite operators, right in LiteRT and tflite-runtime.

- f16: float16 weights behind a DEQUANTIZE, which both runtimes compute once.
- q8, dynamic: FULLY_CONNECTED of float activations by int8 weights, for which the runtimes
  quantise each row. tflite-runtime 2.14 uses the first scale for all units (silently wrong
  numbers), so the weights have a single constant scale, and a MUL after the layer applies the
  scales of the units: the same numbers in both runtimes (docs/evidence/conversion.md).
- q8, static: int8 activations by the ranges of a calibration, a scale per unit. Only between
  layers: a result that another operator reads, such as the last one, would lose too much in 8 bits
  (measured on MovieLens: 9e-3 of a probability instead of 3e-3), so its layer is dynamic.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import tflite

from ondevice.converters.dense.layers import DenseLayer, LayerReport, Range, layer_report
from ondevice.converters.targets.tflite.writer import (
    TABLE_ALIGNMENT,
    Quantisation,
    Tensor,
    TfliteWriter,
)
from ondevice.dense import LEAST_MAGNITUDE, quantise_weight

_RELU = {"fused_activation_function": tflite.ActivationFunctionType.RELU}
_LARGEST = 127
_INT32 = 2**31 - 1


class DenseWriter:
    """Writes layers, and remembers which float tensors exist as int8 tensors too.

    Attributes:
        reports: what was done with each layer.
    """

    def __init__(self, writer: TfliteWriter, layers: Sequence[DenseLayer]) -> None:
        """Take all layers that will be written."""
        self._products = {layer.nodes[0] for layer in layers if layer.codec == "q8"}
        self.reports: list[LayerReport] = []
        self._writer = writer
        self._integers: dict[Tensor, Tensor] = {}

    def write(self, layer: DenseLayer, x: Tensor) -> Tensor:
        """Add a layer of codec f16 or q8 that reads x float32 [..., features]."""
        if layer.codec == "f16":
            self.reports.append(layer_report(layer, "float"))
            return self._float16(layer, x)
        if layer.ranges is None or not self._only_layers_read(layer):
            self.reports.append(layer_report(layer, "dynamic"))
            return self._dynamic(layer, x)
        self.reports.append(layer_report(layer, "static"))
        return self._static(layer, x, *layer.ranges)

    def _only_layers_read(self, layer: DenseLayer) -> bool:
        output = layer.output
        return not output.is_graph_output() and set(output.consumers()) <= self._products

    def _float16(self, layer: DenseLayer, x: Tensor) -> Tensor:
        half = self._writer.table(f"{layer.name}.weight", layer.weight.T.astype(np.float16))
        weight = self._writer.op("DEQUANTIZE", [half], half.shape, np.float32)
        inputs = [x, weight]
        if layer.bias is not None:
            inputs.append(self._writer.constant(layer.bias, np.float32))
        return self._product(layer, inputs, np.float32, _activation(layer))

    def _dynamic(self, layer: DenseLayer, x: Tensor) -> Tensor:
        writer = self._writer
        codes, scales = quantise_weight(layer.weight)
        unit_scale = Quantisation((1 / _LARGEST,))
        factors = scales * np.float32(_LARGEST)
        zero = factors < LEAST_MAGNITUDE  # a bias divided by less than this overflows
        codes[:, zero], factors[zero] = 0, 1
        weight = writer.table(f"{layer.name}.codes", codes.T, TABLE_ALIGNMENT, unit_scale)
        inputs = [x, weight]
        if layer.bias is not None:
            inputs.append(writer.constant(layer.bias / factors, np.float32))
        result = self._product(layer, inputs, np.float32, {})
        factor = writer.constant(factors, np.float32)
        return writer.op("MUL", [result, factor], result.shape, np.float32, **_activation(layer))

    def _static(
        self, layer: DenseLayer, x: Tensor, input_range: Range, output_range: Range
    ) -> Tensor:
        """Add a layer in int8; its output exists as float32 and as int8, for the next layer.

        Args:
            layer: a layer of codec q8.
            x: float32 [..., features].
            input_range: of x, over the calibration rows.
            output_range: of the result.
        """
        writer = self._writer
        if x not in self._integers:
            self._integers[x] = writer.op(
                "QUANTIZE", [x], x.shape, np.int8, quantisation=int8_quantisation(input_range)
            )
        integer = self._integers[x]
        codes, scales = quantise_weight(layer.weight)
        weight_scales = Quantisation(tuple(scales.tolist()))
        weight = writer.table(f"{layer.name}.codes", codes.T, TABLE_ALIGNMENT, weight_scales)
        bias_scales = scales.astype(np.float64) * writer.quantisation(integer).scales[0]
        bias = np.zeros(len(scales)) if layer.bias is None else layer.bias.astype(np.float64)
        units = np.divide(bias, bias_scales, out=np.zeros(len(scales)), where=bias_scales > 0)
        stored = writer.table(
            f"{layer.name}.bias",
            np.clip(np.rint(units), -_INT32, _INT32).astype(np.int32),
            TABLE_ALIGNMENT,
            Quantisation(tuple(bias_scales.tolist())),
        )
        result = self._product(
            layer,
            [integer, weight, stored],
            np.int8,
            {**_activation(layer), "quantisation": int8_quantisation(output_range)},
        )
        output = writer.op("DEQUANTIZE", [result], result.shape, np.float32)
        self._integers[output] = result
        return output

    def _product(
        self, layer: DenseLayer, inputs: list[Tensor], dtype: Any, options: dict[str, Any]
    ) -> Tensor:
        shape = (*inputs[0].shape[:-1], layer.weight.shape[1])
        options = {"keep_num_dims": len(shape) > 2, **options}
        return self._writer.op("FULLY_CONNECTED", inputs, shape, dtype, **options)


def int8_quantisation(values: Range) -> Quantisation:
    """Scale and zero point that map a range, 0 included, to -128..127."""
    scale = float(np.float32((values.high - values.low) / 255)) or 1.0
    return Quantisation((scale,), int(np.clip(np.rint(-128 - values.low / scale), -128, 127)))


def _activation(layer: DenseLayer) -> dict[str, Any]:
    return _RELU if layer.relu else {}
