"""How `ondevice.load` was asked to open a file, and what of it a kind of file and an engine can."""

from __future__ import annotations

from dataclasses import dataclass

from ondevice.codecs import DENSE_ARITHMETICS, DenseArithmetic
from ondevice.errors import InputError
from ondevice.limits import MAX_THREADS

# The engines of a kind of file, best first; "auto" takes the first that can run it.
ENGINES_OF_SUFFIX = {".odm": ("native", "numpy"), ".onnx": ("onnx",), ".tflite": ("tflite",)}
ENGINES = tuple(engine for engines in ENGINES_OF_SUFFIX.values() for engine in engines)


@dataclass(frozen=True)
class Options:
    """The arguments of `ondevice.load` that an engine gets.

    Attributes:
        engine: one of ENGINES, or "auto".
        threads: for one request.
        dense: the arithmetic of dense layers; None: as they are stored.
        lock: whether the model stays in memory; the native engine only.
    """

    engine: str = "auto"
    threads: int = 1
    dense: DenseArithmetic | None = None
    lock: bool = False

    def check(self, suffix: str) -> None:
        """Raise InputError for what files of a suffix of ENGINES_OF_SUFFIX cannot do."""
        fitting = ENGINES_OF_SUFFIX[suffix]
        if self.engine not in ("auto", *ENGINES):
            raise InputError(f"unknown engine {self.engine!r}; choose auto, {', '.join(ENGINES)}")
        if self.engine not in ("auto", *fitting):
            can = " and ".join(map(repr, fitting))
            raise InputError(f"engine {self.engine!r} cannot run {suffix} files; {can} can")
        if not 1 <= self.threads <= MAX_THREADS:
            raise InputError(f"threads must be 1..{MAX_THREADS}, got {self.threads}")
        if self.dense not in (None, *DENSE_ARITHMETICS):
            known = ", ".join(DENSE_ARITHMETICS)
            raise InputError(
                f"unknown arithmetic of dense layers {self.dense!r}; choose from {known}"
            )
        if self.dense is not None and suffix != ".odm":
            raise InputError(
                f"dense={self.dense!r} is for .odm files; {suffix} files compute as written"
            )
        if self.lock and (fitting[0] != "native" or self.engine == "numpy"):
            raise InputError(
                f"lock needs the native engine, which {self.engine!r} of {suffix} files is not"
            )
