"""What travels inside every converted file: inputs, features, test vectors, provenance."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from ondevice.attached_arrays import Attached, AttachedPacker, attached_numbers
from ondevice.errors import PARSE_ERRORS, FileFormatError, SpecError
from ondevice.features import FeatureSpec
from ondevice.limits import MAX_RANK
from ondevice.strict_json import parse_strictly

FORMAT_VERSION = 2
READABLE_VERSIONS = (1, 2)
_INPUT_KEYS = {"name", "shape", "id_limit", "dtype", "id_low", "id_computed"}
ValueArray = npt.NDArray[Any]  # int64 IDs or float32 values
FloatArray = npt.NDArray[np.float32]


@dataclass(frozen=True)
class InputSpec:
    """One model input: int64 IDs, or float32 values.

    shape: the leading "batch", then fixed sizes or names of free ones.
    id_limit: IDs must lie in [id_low, id_limit); None when every 64-bit pattern is legal. A tuple
        has one entry for each element of a row, in order: columns of one matrix may be IDs of
        different tables, or numbers (None). Float32 values are IDs with their fraction dropped.
    dtype: "int64" or "float32".
    id_low: the lowest legal ID where there is a limit; negative where the model itself adds to it,
        or takes -1 as padding.
        A tuple has one entry for each element of a row.
    id_computed: whether the model computes with the IDs, so that nothing but these limits refuses
        others; a lookup would.
    """

    name: str
    shape: tuple[int | str, ...] = ("batch",)
    id_limit: int | tuple[int | None, ...] | None = None
    dtype: str = "int64"
    id_low: int | tuple[int, ...] = 0
    id_computed: bool = False


@dataclass(frozen=True)
class RankingVectors:
    """The source model's scores of candidates, taken from the rows of the test vectors.

    Attributes:
        context: names of the inputs whose first row is the context; the others are the candidates'.
        outputs: float32 [rows, ...] by output name, of the first `rows` rows.
    """

    context: tuple[str, ...]
    outputs: dict[str, FloatArray]

    @property
    def rows(self) -> int:
        """How many candidates."""
        return len(next(iter(self.outputs.values())))


@dataclass(frozen=True)
class TestVectors:
    """Inputs, the source model's outputs for them, and the tolerance of the file's engine.

    The source model computes with the dequantised tables, so the tolerance covers arithmetic
    order only, not quantisation.
    """

    __test__ = False  # not a pytest class

    inputs: dict[str, ValueArray]
    outputs: dict[str, FloatArray]
    tolerance: float
    rankings: tuple[RankingVectors, ...] = ()


@dataclass(frozen=True)
class TableBytes:
    """Bytes of one stored embedding table, part by part.

    Attributes:
        rows, dim: of a table in sections, which has an entry for each: those of the section.
        kept: mean kept dimensions per row.
        payload: quantised values. scales: their scales. widths: what says how many dimensions a
                row keeps. permutation: what says where a row lies, in targets that sort rows.
        first_row: of the section in its table.
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
    first_row: int = 0

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

    def to_bytes(self) -> bytes:
        """JSON, and if it has arrays, a zero byte and their bytes (see `attached_arrays`)."""
        packer = AttachedPacker()
        data: dict[str, Any] = {
            "version": FORMAT_VERSION,
            "inputs": [_described(item) for item in self.inputs],
            "outputs": list(self.outputs),
            "features": self.features.to_json(packer),
            "tables": [_stored_table(table) for table in self.tables],
            "made_by": self.made_by,
        }
        if self.vectors is not None:
            data["vectors"] = {
                "inputs": _pack(self.vectors.inputs, packer),
                "outputs": _pack(self.vectors.outputs, packer),
                "tolerance": self.vectors.tolerance,
                "rankings": [
                    {"context": list(item.context), "outputs": _pack(item.outputs, packer)}
                    for item in self.vectors.rankings
                ],
            }
        text = json.dumps(data, separators=(",", ":")).encode()
        return text + (b"\0" + packer.data if packer.data else b"")

    @classmethod
    def from_bytes(cls, description: bytes) -> ModelInfo:
        """Read what `to_bytes` wrote, or JSON of version 1.

        Raises:
            FileFormatError: not JSON, another version, or a wrong type somewhere.
        """
        text, _, data_of_arrays = description.partition(b"\0")
        arrays = Attached(data_of_arrays)
        try:
            data = parse_strictly(text)
            if type(data["version"]) is not int or data["version"] not in READABLE_VERSIONS:
                raise FileFormatError(
                    f"model description version {data['version']}; this release reads "
                    f"versions {' and '.join(map(str, READABLE_VERSIONS))}"
                )
            vectors = data.get("vectors")
            return cls(
                inputs=tuple(_input(item) for item in data["inputs"]),
                outputs=tuple(_text(name) for name in data["outputs"]),
                features=FeatureSpec.from_json(data["features"], arrays),
                vectors=None if vectors is None else _vectors(vectors, arrays),
                tables=tuple(TableBytes(**item) for item in data["tables"]),
                made_by={_text(key): _text(value) for key, value in data["made_by"].items()},
            )
        except PARSE_ERRORS as error:
            raise FileFormatError(f"model description: {error!r}") from error
        except SpecError as error:
            raise FileFormatError(f"model description: {error}") from error


def description_parts(description: bytes) -> tuple[bytes, ...]:
    """A description cut into its JSON, arrays of the map, and inputs and outputs of the vectors.

    Args:
        description: as `ModelInfo.to_bytes` writes it; files deflate the parts apart.
    """
    text, zero, arrays = description.partition(b"\0")
    if not arrays:
        return (description,)
    vectors = json.loads(text).get("vectors") or {"inputs": {}, "outputs": {}}
    inputs, outputs = (
        min((item["at"] for item in vectors[name].values()), default=len(arrays))
        for name in ("inputs", "outputs")
    )
    parts = text + zero, arrays[:inputs], arrays[inputs:outputs], arrays[outputs:]
    return tuple(part for part in parts if part)


def _stored_table(table: TableBytes) -> dict[str, Any]:
    """A table for the description; the first row of a table is left out."""
    return {key: value for key, value in asdict(table).items() if key != "first_row" or value}


def _described(item: InputSpec) -> dict[str, Any]:
    """An input for the description; keys with default values are left out."""
    limit = list(item.id_limit) if isinstance(item.id_limit, tuple) else item.id_limit
    data: dict[str, Any] = {"name": item.name, "shape": list(item.shape), "id_limit": limit}
    if item.dtype != "int64":
        data["dtype"] = item.dtype
    if item.id_low:
        data["id_low"] = list(item.id_low) if isinstance(item.id_low, tuple) else item.id_low
    if item.id_computed:
        data["id_computed"] = True
    return data


def _pack(arrays: Mapping[str, npt.NDArray[Any]], packer: AttachedPacker) -> dict[str, Any]:
    return {name: packer.numbers(array) for name, array in arrays.items()}


def _unpack(data: Any, arrays: Attached, dtype: str) -> dict[str, npt.NDArray[Any]]:
    """Arrays by name; `dtype` is what they are in version 1 where it does not say."""
    unpacked = {}
    for name, item in data.items():
        if "at" in item:
            kind = "float32" if item["dtype"] == "F32" else "int64"
            unpacked[_text(name)] = attached_numbers(item, arrays, kind)
        else:
            flat = attached_numbers(item["data"], Attached(), _dtype(item.get("dtype", dtype)).name)
            unpacked[_text(name)] = flat.reshape([int(size) for size in item["shape"]])
    return unpacked


def _dtype(name: Any) -> np.dtype[Any]:
    if name not in ("int64", "float32"):
        raise ValueError(f"dtype {name!r}")
    dtype: np.dtype[Any] = np.dtype(name)
    return dtype


def _vectors(data: Any, arrays: Attached) -> TestVectors:
    inputs = _unpack(data["inputs"], arrays, "int64")
    outputs = _unpack(data["outputs"], arrays, "float32")
    rankings = tuple(
        RankingVectors(
            tuple(map(_text, item["context"])), _unpack(item["outputs"], arrays, "float32")
        )
        for item in data.get("rankings", [])
    )
    for item in rankings:
        sizes = {len(array) for array in item.outputs.values()}
        if not set(item.context) <= set(inputs) or set(item.outputs) != set(outputs):
            raise ValueError(f"rankings name {item.context}, {list(item.outputs)}")
        if len(sizes) != 1 or not 0 < sizes.pop() <= min(map(len, inputs.values())):
            raise ValueError("rankings have other rows than the inputs")
    tolerance = float(data["tolerance"])
    if not 0 <= tolerance < math.inf:
        raise ValueError(f"tolerance {tolerance}")
    return TestVectors(inputs, outputs, tolerance, rankings)


def _input(item: Any) -> InputSpec:
    """An input of decoded JSON; `id_limit` and `id_low` bound the IDs, one number for all
    elements of a row or a list with one for each.

    Raises:
        KeyError, TypeError, ValueError: a key is absent, or a value of a wrong type or size.
    """
    if unknown := item.keys() - _INPUT_KEYS:
        raise KeyError(f"unknown key {min(unknown)!r} of an input")
    shape = item["shape"]
    if not isinstance(shape, list) or not 1 <= len(shape) <= MAX_RANK:
        raise ValueError(f"input shape {shape!r}")
    if not all(type(size) is str or (type(size) is int and size >= 1) for size in shape):
        raise ValueError(f"input shape {shape}")
    shape = tuple(shape)
    limit, low = item["id_limit"], item.get("id_low", 0)
    limit, low = (tuple(bound) if isinstance(bound, list) else bound for bound in (limit, low))
    limits = limit if isinstance(limit, tuple) else (limit,)
    lows = low if isinstance(low, tuple) else (low,)
    if not all(bound is None or _is_int64(bound, 1) for bound in limits) or not all(
        map(_is_int64, lows)
    ):
        raise TypeError(f"id_limit {limit!r}, id_low {low!r}")
    elements = math.prod(size if isinstance(size, int) else 0 for size in shape[1:])
    for bounds in (limit, low):
        if isinstance(bounds, tuple) and len(bounds) != elements:
            raise ValueError(f"{len(bounds)} bounds of IDs for shape {list(shape)}")
    dtype = item.get("dtype", "int64")
    _dtype(dtype)
    computed = item.get("id_computed", False)
    if not isinstance(computed, bool):
        raise TypeError(f"id_computed {computed!r}")
    return InputSpec(_text(item["name"]), shape, limit, dtype, low, computed)


def _is_int64(value: Any, beyond: int = 0) -> bool:
    """Whether a value is an integer in the range of int64, moved up by `beyond`."""
    return type(value) is int and -(2**63) <= value - beyond < 2**63


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"expected a text, got {value!r}")
    value.encode()  # a lone surrogate is a ValueError: it could be neither printed nor stored
    return value
