"""Types of the compiled module; see native/python/module.c and native/python/hashing.c."""

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

class Model:
    description: bytes
    kernels: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    def predict(self, mapping: object, /) -> npt.NDArray[np.float32] | None: ...
    def rank(self, context: object, candidates: object, /) -> npt.NDArray[np.float32] | None: ...
    def check(self) -> None: ...
    def resized(self, sizes: tuple[tuple[str, int], ...], /) -> Model: ...
    def run(
        self, arrays: tuple[npt.NDArray[np.int64], ...], context: bytes | None, /
    ) -> tuple[npt.NDArray[np.float32], ...]: ...
    def profile(
        self, arrays: tuple[npt.NDArray[np.int64], ...], context: bytes | None, /
    ) -> tuple[int, list[tuple[int, int, int]]]: ...

def open(
    path: str | Path,
    kernels: str | None,
    full_check: int,
    sizes: tuple[tuple[str, int], ...],
    threads: int,
    dense: str | None,
    lock: bool,
    /,
) -> Model: ...
def open_bytes(
    data: bytes,
    kernels: str | None,
    full_check: int,
    sizes: tuple[tuple[str, int], ...],
    threads: int,
    dense: str | None,
    lock: bool,
    /,
) -> Model: ...
def kernels_available() -> list[str]: ...
def xxh64(data: bytes, seed: int, /) -> int: ...
def hash_integers(
    values: npt.NDArray[np.int64], seed: int, hashes: npt.NDArray[np.int64], /
) -> None: ...
def hash_texts(
    values: list[Any],
    seed: int,
    missing: tuple[str | None, ...],
    hashes: npt.NDArray[np.int64],
    states: npt.NDArray[np.uint8],
    /,
) -> int: ...
