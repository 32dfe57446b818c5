"""Dense layers of the native file: packed weights, and the reference that computes with them.

A `Dense` node maps float32 [..., features] to [..., units]: x @ weight + bias, then ReLU if
asked. Its weights are packed when a model is converted, so that loading stays a map:

- units are padded with zeros to a multiple of 16 (`padded`);
- f32, f16: weight[i, u] lies at element i * padded + u;
- q8: features are padded to a multiple of 4; code[i, u] lies at byte
  ((i // 4) * padded + u) * 4 + i % 4, so that one 64-byte load holds 4 features of 16 units.

q8 weights have a float32 scale per unit, code = round-half-even(weight / scale), |code| <= 127.
The layer's input is quantised row by row: scale = largest magnitude / 127, code =
round-half-even(x * (127 / largest)), all in float32; products are summed exactly in integers, and
a result is float32(sum) * (row scale * unit scale) + bias. A choice of this project.

Where `load` asks for bf16, layers stored in f32 or f16 round their weights and inputs to bfloat16
(`round_to_bfloat16`) and add up products in float32. Layers with up to UNIT_BLOCK outputs stay in
float32.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ondevice.codecs import DENSE_CODECS, LARGEST_F16, DenseArithmetic, DenseCodec
from ondevice.errors import FileFormatError, InputError, SpecError
from ondevice.limits import MAX_DENSE_FEATURES, MAX_DENSE_UNITS

DENSE = "Dense"
UNIT_BLOCK = 16
FEATURE_GROUP = 4
# Below this largest magnitude a row counts as zero: 127 / magnitude would overflow.
LEAST_MAGNITUDE = np.float32(1e-30)

# Rounding to bfloat16 changes a number by at most this share of it; see `bfloat16_bound`.
BFLOAT16_ROUNDING = 2.0**-8
LEAST_BFLOAT16 = np.float32(2.0**-48)  # smaller magnitudes become zero, and biases below
LEAST_BIAS = np.float32(2.0**-86)  # this one: no sum gets below the normal range of float32

Array = npt.NDArray[Any]
FloatArray = npt.NDArray[np.float32]
_STORED: dict[str, np.dtype[Any]] = {
    "f32": np.dtype(np.float32),
    "f16": np.dtype(np.float16),
    "q8": np.dtype(np.int8),
}


@dataclass(frozen=True)
class PackedDense:
    """A dense layer as a file stores it: arrays of one dimension.

    weight: float32, float16 or int8. bias: float32 [padded]. scale: float32 [padded] for q8.
    """

    weight: Array
    bias: FloatArray
    scale: FloatArray | None


def pack_dense(weight: npt.ArrayLike, bias: npt.ArrayLike | None, codec: DenseCodec) -> PackedDense:
    """Pack a float32 weight [features, units] and a bias [units].

    Raises:
        SpecError: a wrong shape or size, values that are not finite, or too large for float16.
    """
    values = np.asarray(weight, dtype=np.float32)
    if codec not in DENSE_CODECS:
        raise SpecError(f"unknown dense codec {codec!r}; choose from {', '.join(DENSE_CODECS)}")
    if values.ndim != 2 or not (
        1 <= values.shape[0] <= MAX_DENSE_FEATURES and 1 <= values.shape[1] <= MAX_DENSE_UNITS
    ):
        raise SpecError(f"a dense weight must be [features, units], got {list(values.shape)}")
    if not np.isfinite(values).all():
        raise SpecError("a dense weight has a value that is not finite")
    features, units = values.shape
    padded = np.zeros((features, padded_units(units)), dtype=np.float32)
    padded[:, :units] = values
    full_bias = np.zeros(padded.shape[1], dtype=np.float32)
    if bias is not None:
        full_bias[:units] = np.asarray(bias, dtype=np.float32)
    if codec == "q8":
        codes, scale = quantise_weight(padded)
        codes = np.pad(codes, ((0, -features % FEATURE_GROUP), (0, 0)))
        grouped = codes.reshape(-1, FEATURE_GROUP, padded.shape[1]).transpose(0, 2, 1)
        return PackedDense(np.ascontiguousarray(grouped).reshape(-1), full_bias, scale)
    if codec == "f16" and float(np.abs(padded).max()) > LARGEST_F16:
        raise SpecError("f16 holds values up to 65504; a dense weight is larger: use f32")
    return PackedDense(padded.astype(_STORED[codec]).reshape(-1), full_bias, None)


def quantise_weight(weight: FloatArray) -> tuple[npt.NDArray[np.int8], FloatArray]:
    """Int8 codes [features, units] of a float32 weight, and its scales float32 [units]."""
    scale = (np.abs(weight).max(axis=0) / np.float32(127)).astype(np.float32)
    codes = np.divide(weight, scale, out=np.zeros_like(weight), where=scale > 0)
    return np.clip(np.rint(codes), -127, 127).astype(np.int8), scale


def round_to_bfloat16(values: Array) -> FloatArray:
    """The nearest bfloat16 of each float32, half to even, as float32; tiny ones become zero."""
    bits = np.ascontiguousarray(values, dtype=np.float32).view(np.uint32)
    rounded = ((bits + np.uint32(0x7FFF) + (bits >> 16 & 1)) & np.uint32(0xFFFF0000)).view(
        np.float32
    )
    zeroed = np.where(np.abs(values) < LEAST_BFLOAT16, np.float32(0), rounded)
    return np.where(np.isnan(values), np.float32(np.nan), zeroed)


def bfloat16_bound(x: Array, weight: Array) -> FloatArray:
    """What results of a layer in bf16 may be away from exact ones, [rows, units].

    Each of the products is off by both roundings, and each of the sums by one of float32.

    Args:
        x: inputs [rows, features].
        weight: [features, units].
    """
    features = x.shape[-1]
    of_terms = (1 + BFLOAT16_ROUNDING) ** 2 * (1 + 2.0**-24) ** (features + 1) - 1
    sizes = np.abs(x).astype(np.float64), np.abs(weight).astype(np.float64)
    tiny = float(LEAST_BFLOAT16) * (sizes[0].sum(-1, keepdims=True) + sizes[1].sum(0))
    return np.asarray(of_terms * (sizes[0] @ sizes[1]) + tiny, dtype=np.float32)


def padded_units(units: int) -> int:
    """Units rounded up to whole blocks of 16."""
    return -(-units // UNIT_BLOCK) * UNIT_BLOCK


@dataclass(frozen=True)
class DenseLayer:
    """A dense layer ready to run in numpy.

    weight: float32 [features, units], or the int8 codes as float64 for q8 (so that a matrix
    product sums them exactly). scale: float32 [units] for q8.
    """

    weight: Array
    bias: FloatArray
    scale: FloatArray | None
    relu: bool
    rounded: bool = False  # weights are in bfloat16, and inputs are to be rounded

    @classmethod
    def read(
        cls,
        arrays: list[Array],
        attributes: Mapping[str, Any],
        arithmetic: DenseArithmetic | None = None,
    ) -> DenseLayer:
        """Unpack a node's weight, bias and, for q8, scale.

        Raises:
            FileFormatError: arrays or attributes that do not fit each other.
        """
        codec = attributes.get("codec")
        units: Any = attributes.get("units")
        features: Any = attributes.get("features")
        if codec not in DENSE_CODECS or len(arrays) != (3 if codec == "q8" else 2):
            raise FileFormatError(f"dense layer: codec {codec!r} with {len(arrays)} arrays")
        for name, size, most in (
            ("units", units, MAX_DENSE_UNITS),
            ("features", features, MAX_DENSE_FEATURES),
        ):
            if not isinstance(size, int) or not 1 <= size <= most:
                raise FileFormatError(f"dense layer: {name} must be 1..{most}, got {size!r}")
        wide = padded_units(units)
        deep = -(-features // FEATURE_GROUP) * FEATURE_GROUP if codec == "q8" else features
        expected = [(_STORED[codec], deep * wide), (np.dtype(np.float32), wide)]
        expected += [(np.dtype(np.float32), wide)] * (codec == "q8")
        actual = [(array.dtype, array.size) for array in arrays]
        if actual != expected:
            raise FileFormatError(f"dense layer: expected arrays {expected}, got {actual}")
        weight: Array
        if codec == "q8":
            grouped = arrays[0].reshape(-1, wide, FEATURE_GROUP).transpose(0, 2, 1)
            weight = grouped.reshape(deep, wide)[:features, :units].astype(np.float64)
        else:
            weight = arrays[0].reshape(features, wide)[:, :units].astype(np.float32)
        scale = arrays[2].reshape(-1)[:units] if codec == "q8" else None
        bias = arrays[1].reshape(-1)[:units]
        rounded = arithmetic == "bf16" and codec != "q8" and units > UNIT_BLOCK
        if rounded:
            weight = round_to_bfloat16(weight)
            bias = np.where(np.abs(bias) < LEAST_BIAS, np.float32(0), bias)
        return cls(weight, bias, scale, bool(attributes.get("relu", 0)), rounded)

    def __call__(self, x: Array) -> FloatArray:
        """Float32 [..., features] -> [..., units]. Raises InputError for another last axis."""
        if x.ndim < 1 or x.shape[-1] != self.weight.shape[0]:
            raise InputError(f"Dense: {self.weight.shape[0]} features expected, got {x.shape}")
        rows = np.ascontiguousarray(x, dtype=np.float32).reshape(-1, x.shape[-1])
        if self.rounded:
            rows = round_to_bfloat16(rows)
        if self.scale is None:
            out = rows @ self.weight + self.bias
        else:
            codes, scales = quantise_rows(rows)
            sums = codes.astype(np.float64) @ self.weight
            out = sums.astype(np.float32) * (scales[:, None] * self.scale) + self.bias
        if self.relu:
            out = np.maximum(out, np.float32(0))
        return out.reshape(*x.shape[:-1], -1)


def quantise_rows(rows: FloatArray) -> tuple[npt.NDArray[np.int8], FloatArray]:
    """Int8 codes [n, features] and scales [n] of float32 rows (rule: see the module text).

    A row with a value that is not finite gets codes 0 and the scale NaN.
    """
    largest = np.abs(rows).max(axis=1)
    finite = np.isfinite(rows).all(axis=1)
    usable = finite & (largest >= LEAST_MAGNITUDE)
    inverse = np.divide(np.float32(127), largest, out=np.zeros_like(largest), where=usable)
    safe = np.where(usable[:, None], rows, np.float32(0))
    codes = np.rint(safe * inverse[:, None]).astype(np.int8)
    scales = np.where(usable, largest / np.float32(127), np.float32(0)).astype(np.float32)
    return codes, np.where(finite, scales, np.float32(np.nan)).astype(np.float32)
