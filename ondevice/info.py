"""What travels inside every converted file: inputs, features, test vectors, provenance."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from ondevice.errors import FileFormatError, SpecError
from ondevice.features import FeatureSpec

FORMAT_VERSION = 1
IdArray = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float32]


@dataclass(frozen=True)
class InputSpec:
    """One model input of int64 IDs.

    shape: the leading "batch", then fixed sizes or names of free ones.
    id_limit: IDs must lie in [0, id_limit); None when every 64-bit pattern is legal.
    """

    name: str
    shape: tuple[int | str, ...] = ("batch",)
    id_limit: int | None = None


@dataclass(frozen=True)
class TestVectors:
    """Inputs, the source model's outputs for them, and the tolerance of the file's engine.

    The source model computes with the dequantised tables, so the tolerance covers arithmetic
    order alone, not quantisation.
    """

    __test__ = False  # not a pytest class

    inputs: dict[str, IdArray]
    outputs: dict[str, FloatArray]
    tolerance: float


@dataclass(frozen=True)
class TableBytes:
    """Bytes of one stored embedding table, part by part.

    Attributes:
        kept: mean kept dimensions per row.
        payload: quantised values. scales: their scales. widths: what says how many dimensions a
            row keeps. permutation: what says where a row lies, in targets that sort rows.
    """

    name: str
    rows: int
    dim: int
    kept: float
    codec: str
    scale_axis: str | None
    payload: int
    scales: int
    widths: int
    permutation: int

    @property
    def total(self) -> int:
        """All parts together."""
        return self.payload + self.scales + self.widths + self.permutation


@dataclass(frozen=True)
class ModelInfo:
    """The description of a converted model.

    Attributes:
        tables: what the tables take in .onnx and .tflite; a native file says so itself.
    """

    inputs: tuple[InputSpec, ...]
    outputs: tuple[str, ...]
    features: FeatureSpec = field(default_factory=FeatureSpec)
    vectors: TestVectors | None = None
    tables: tuple[TableBytes, ...] = ()
    made_by: dict[str, str] = field(default_factory=dict)

    def to_text(self) -> str:
        """JSON text; arrays inside are base64 of their little-endian bytes."""
        data: dict[str, Any] = {
            "version": FORMAT_VERSION,
            "inputs": [
                {"name": item.name, "shape": list(item.shape), "id_limit": item.id_limit}
                for item in self.inputs
            ],
            "outputs": list(self.outputs),
            "features": self.features.to_json(),
            "tables": [asdict(table) for table in self.tables],
            "made_by": self.made_by,
        }
        if self.vectors is not None:
            data["vectors"] = {
                "inputs": _pack(self.vectors.inputs, "<i8"),
                "outputs": _pack(self.vectors.outputs, "<f4"),
                "tolerance": self.vectors.tolerance,
            }
        return json.dumps(data, separators=(",", ":"))

    @classmethod
    def from_text(cls, text: str) -> ModelInfo:
        """Read what `to_text` wrote.

        Raises:
            FileFormatError: not JSON, another version, or a wrong type somewhere.
        """
        try:
            data = json.loads(text)
            if data["version"] != FORMAT_VERSION:
                raise FileFormatError(
                    f"model description version {data['version']}; this release reads "
                    f"version {FORMAT_VERSION}"
                )
            vectors = data.get("vectors")
            return cls(
                inputs=tuple(_input(item) for item in data["inputs"]),
                outputs=tuple(_text(name) for name in data["outputs"]),
                features=FeatureSpec.from_json(data["features"]),
                vectors=None if vectors is None else _vectors(vectors),
                tables=tuple(TableBytes(**item) for item in data["tables"]),
                made_by={_text(key): _text(value) for key, value in data["made_by"].items()},
            )
        except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
            raise FileFormatError(f"model description: {error!r}") from error
        except SpecError as error:
            raise FileFormatError(f"model description: {error}") from error


def _pack(arrays: Mapping[str, npt.NDArray[Any]], dtype: str) -> dict[str, Any]:
    return {
        name: {
            "shape": list(array.shape),
            "data": base64.b64encode(array.astype(dtype).tobytes()).decode("ascii"),
        }
        for name, array in arrays.items()
    }


def _unpack(data: Any, dtype: str) -> dict[str, npt.NDArray[Any]]:
    arrays = {}
    for name, item in data.items():
        flat = np.frombuffer(base64.b64decode(item["data"], validate=True), dtype=dtype)
        arrays[_text(name)] = flat.reshape([int(size) for size in item["shape"]])
    return arrays


def _vectors(data: Any) -> TestVectors:
    return TestVectors(
        inputs=_unpack(data["inputs"], "<i8"),
        outputs=_unpack(data["outputs"], "<f4"),
        tolerance=float(data["tolerance"]),
    )


def _input(item: Any) -> InputSpec:
    shape = tuple(item["shape"])
    if not shape or not all(isinstance(size, int | str) for size in shape):
        raise ValueError(f"input shape {shape}")
    limit = item["id_limit"]
    if limit is not None and not isinstance(limit, int):
        raise TypeError(f"id_limit {limit!r}")
    return InputSpec(_text(item["name"]), shape, limit)


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"expected a text, got {value!r}")
    return value
