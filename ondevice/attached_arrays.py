"""Arrays of a model's description: what its JSON says of them, and the bytes that follow it.

The JSON refers to an array by `dtype`, `shape` and `at`, its first byte behind the JSON; to hashes
by `count` and `at` (see `elias_fano`). In a text and in version 1 they are base64 in the JSON.
"""

from __future__ import annotations

import base64
import math
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from ondevice.elias_fano import code_bytes, decode, encode
from ondevice.errors import FileFormatError
from ondevice.limits import MAX_RANK, MAX_VOCABULARY

Array = npt.NDArray[Any]
IntArray = npt.NDArray[np.int64]

_DTYPES: dict[str, np.dtype[Any]] = {
    "U8": np.dtype("u1"),
    "U16": np.dtype("<u2"),
    "U32": np.dtype("<u4"),
    "I64": np.dtype("<i8"),
    "F32": np.dtype("<f4"),
    "F64": np.dtype("<f8"),
}
# What may hold an array, narrowest first; a double may be a whole number.
_NARROW = {
    "int64": ("U8", "U16", "U32", "I64"),
    "float32": ("F32",),
    "float64": ("U8", "U16", "U32", "F32", "F64"),
}


class Attached:
    """The bytes that follow the JSON; each is read once, or a small file could fill the memory."""

    def __init__(self, data: bytes = b"") -> None:
        self._data = data
        self._left = len(data)

    def part(self, at: Any, size: int) -> bytes:
        """`size` bytes from `at` on. Raises FileFormatError: not there, or too often."""
        if not _is_size(at) or at + size > len(self._data) or size > self._left:
            raise FileFormatError(
                f"an array of {size} bytes at {at!r} leaves the {len(self._data)} bytes of arrays, "
                "or overlaps others"
            )
        self._left -= size
        return self._data[at : at + size]


class ArrayPacker(Protocol):
    """Puts arrays somewhere, and says what stands for them in the JSON."""

    def numbers(self, array: Array) -> Any:
        """What stands for an int64, float32 or float64 array."""

    def hashes(self, hashes: IntArray, bits: int) -> Any:
        """What stands for ascending signed numbers of `bits` bits."""


class Base64Packer:
    """Arrays as texts in the JSON: base64 of little-endian bytes, one dimension."""

    def numbers(self, array: Array) -> str:
        """Base64 of the elements."""
        return base64.b64encode(array.astype(array.dtype.newbyteorder("<")).tobytes()).decode()

    def hashes(self, hashes: IntArray, bits: int) -> str:
        """Base64 of the elements, 8 bytes each."""
        return self.numbers(hashes)


class AttachedPacker:
    """Arrays as bytes that follow the JSON, in `data`; numbers in the narrowest exact dtype."""

    def __init__(self) -> None:
        self.data = bytearray()

    def numbers(self, array: Array) -> dict[str, Any]:
        """Attach an array of numbers."""
        for name in _NARROW[array.dtype.name]:
            with np.errstate(invalid="ignore", over="ignore"):
                stored = array.astype(_DTYPES[name])
                if stored.astype(array.dtype).tobytes() == array.tobytes():
                    return {"dtype": name, "shape": list(array.shape), "at": self._add(stored)}
        raise AssertionError(f"the last dtype holds every {array.dtype}")

    def hashes(self, hashes: IntArray, bits: int) -> dict[str, Any]:
        """Attach ascending numbers."""
        unsigned = hashes.view(np.uint64) + np.uint64(1 << (bits - 1))
        return {"count": len(hashes), "at": self._add(encode(unsigned, bits))}

    def _add(self, stored: Array | bytes) -> int:
        at = len(self.data)
        self.data += stored if isinstance(stored, bytes) else stored.tobytes()
        return at


def attached_numbers(item: Any, arrays: Attached, dtype: str) -> Array:
    """An array of numbers of the dtype "int64", "float32" or "float64", with its shape.

    Args:
        item: what the JSON has for it; of a text, the elements in one dimension.
        arrays: the bytes that follow the JSON.
        dtype: what the elements are, which may be stored in a narrower dtype.

    Raises:
        FileFormatError, KeyError, TypeError, ValueError: it is not such an array, or not there.
    """
    if isinstance(item, str):
        raw = base64.b64decode(item, validate=True)
        return np.frombuffer(raw, np.dtype(dtype).newbyteorder("<")).astype(dtype)
    name, shape = item["dtype"], item["shape"]
    if name not in _NARROW[dtype]:
        raise FileFormatError(f"an array of {dtype} is not stored as {name!r}")
    if not isinstance(shape, list) or len(shape) > MAX_RANK or not all(map(_is_size, shape)):
        raise FileFormatError(f"shape of an array: {shape!r}")
    stored = _DTYPES[name]
    raw = arrays.part(item["at"], math.prod(shape) * stored.itemsize)
    # a copy, of numpy's own dtype object: the native engine takes no other without checks
    return np.frombuffer(raw, stored).reshape(shape).astype(dtype)


def attached_hashes(item: Any, arrays: Attached, bits: int) -> IntArray:
    """Ascending signed numbers int64 of `bits` bits; see `attached_numbers`."""
    if isinstance(item, str):
        return attached_numbers(item, arrays, "int64")
    count = item["count"]
    if not _is_size(count) or count > MAX_VOCABULARY or not 1 <= bits <= 64:
        raise FileFormatError(f"{count!r} hashes of {bits!r} bits")
    code = arrays.part(item["at"], code_bytes(count, bits))
    return (decode(code, count, bits) - np.uint64(1 << (bits - 1))).view(np.int64)


def _is_size(value: Any) -> bool:
    return type(value) is int and 0 <= value < 2**63
