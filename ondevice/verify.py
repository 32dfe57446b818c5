"""Verify a model file where it runs: every byte, and the test vectors that travel inside."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ondevice.errors import FileFormatError
from ondevice.model import load
from ondevice.odm import open_odm

FloatArray = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Verification:
    """How far an engine on this machine is from the source model's outputs."""

    path: Path
    runtime: str
    rows: int
    max_difference: float
    tolerance: float

    @property
    def passed(self) -> bool:
        """Whether every output is within the tolerance (NaN is not)."""
        return self.max_difference <= self.tolerance

    def to_json(self) -> dict[str, Any]:
        """A JSON-ready object."""
        return {**asdict(self), "path": str(self.path), "passed": self.passed}


def verify(path: str | Path, *, engine: str = "auto") -> Verification:
    """Check a file's bytes (.odm) and compare its engine's outputs with its test vectors.

    Raises:
        FileFormatError: the file is damaged or has no test vectors.
        MissingDependencyError: the engine's runtime is not installed.
    """
    location = Path(path)
    if location.suffix.lower() == ".odm" and location.is_file():
        open_odm(location, full_check=True)
    model = load(location, engine=engine)
    vectors = model.info.vectors
    if vectors is None or not vectors.outputs:
        raise FileFormatError(f"{location}: no test vectors inside")
    got = model.predict(vectors.inputs)
    scores = got if isinstance(got, dict) else {model.outputs[0]: got}
    differences = [largest_difference(scores[name], vectors.outputs[name]) for name in scores]
    difference = float(np.max(differences))  # unlike max(), NaN where there is one
    rows = len(next(iter(vectors.inputs.values())))
    return Verification(location, model.runner.runtime, rows, difference, vectors.tolerance)


def largest_difference(got: FloatArray, expected: FloatArray) -> float:
    """Largest |difference|, relative to the expected value where that is beyond 1.

    So for probabilities it is absolute; a logit or a count may be larger. Infinity for other
    shapes; NaN where either is.
    """
    if got.shape != expected.shape:
        return float("inf")
    scale = np.maximum(np.abs(expected), 1)
    return float((np.abs(got - expected) / scale).max(initial=0))
