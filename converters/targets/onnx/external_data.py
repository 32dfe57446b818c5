"""The external data of an .onnx file: where each array begins."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from ondevice.container import ALIGNMENT, PAGE, PAGED_BYTES


class ExternalData:
    """Assigns every array its place in a file before the file is written.

    Attributes:
        path: the file, beside the .onnx file that refers to it.
        size: bytes of the file with all arrays that have a place.
    """

    def __init__(self, path: Path) -> None:
        """Start an empty file; nothing is written yet."""
        self.path = path
        self.size = 0
        self._arrays: list[tuple[int, npt.NDArray[Any]]] = []

    def reserve(self, name: str, dtype: np.dtype[Any], shape: tuple[int, ...]) -> ir.ExternalTensor:
        """A tensor whose data the caller must write into the file, at the tensor's `offset`."""
        length = math.prod(shape) * dtype.itemsize
        # the file is mapped in pages: a large array that starts a page shares none with the last
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
        """A tensor whose data `write` writes."""
        tensor = self.reserve(name, array.dtype, array.shape)
        self._arrays.append((tensor.offset or 0, array))
        return tensor

    def write(self) -> None:
        """Create the file, with every array that was added and room for the reserved ones."""
        with self.path.open("wb") as file:
            file.truncate(self.size)
            for offset, array in self._arrays:
                file.seek(offset)
                stored = np.ascontiguousarray(array, array.dtype.newbyteorder("<"))
                file.write(stored.reshape(-1).view(np.uint8).data)
