"""The external data of an .onnx file: which array lies where."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from ondevice.container import ALIGNMENT, PAGE, PAGED_BYTES


class ExternalData:
    """Gives every array of a file its place, before any of them is made.

    Attributes:
        path: the file, beside the .onnx file that refers to it.
        size: bytes of what has a place.
    """

    def __init__(self, path: Path) -> None:
        """Start an empty file; nothing is written yet."""
        self.path = path
        self.size = 0
        self._arrays: list[tuple[int, npt.NDArray[Any]]] = []

    def reserve(self, name: str, dtype: np.dtype[Any], shape: tuple[int, ...]) -> ir.ExternalTensor:
        """A tensor with a place of its own; its `offset` is where somebody must write it."""
        length = math.prod(shape) * dtype.itemsize
        # mapped in pages: a large array that starts on one shares none with its neighbours
        self.size += -self.size % (PAGE if length >= PAGED_BYTES else ALIGNMENT)
        offset, self.size = self.size, self.size + length
        return ir.ExternalTensor(
            self.path.name,
            offset,
            length,
            ir.DataType.from_numpy(dtype),
            shape=ir.Shape(shape),
            name=name,
            base_dir=self.path.parent,
        )

    def add(self, name: str, array: npt.NDArray[Any]) -> ir.ExternalTensor:
        """A tensor that `write` writes."""
        tensor = self.reserve(name, array.dtype, array.shape)
        self._arrays.append((tensor.offset or 0, array))
        return tensor

    def write(self) -> None:
        """Create the file, with every array that was added and room for those reserved."""
        with self.path.open("wb") as file:
            file.truncate(self.size)
            for offset, array in self._arrays:
                file.seek(offset)
                stored = np.ascontiguousarray(array, array.dtype.newbyteorder("<"))
                file.write(stored.reshape(-1).view(np.uint8).data)
