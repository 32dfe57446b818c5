"""Verify a model file where it runs: its bytes, its test vectors, and `rank` beside `predict`."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ondevice.codecs import DenseArithmetic
from ondevice.dense import BFLOAT16_ROUNDING
from ondevice.difference import ScaleArray, largest_difference, output_scale
from ondevice.errors import FileFormatError
from ondevice.info import TestVectors
from ondevice.manifest import check_beside
from ondevice.model import Model, load, model_files
from ondevice.model_path import model_path
from ondevice.odm import open_odm
from ondevice.publish import finish
from ondevice.ranking import (
    named_scores,
    ranking_difference,
    split_request,
)
from ondevice.trust import Keys

# Of scores with dense layers in bfloat16, in units of the output's scale: two roundings, of a
# weight and an input, of each term. A layer's result keeps to `ondevice.dense.bfloat16_bound`; what
# later operators make of it depends on the model, so this is checked, not proven.
BFLOAT16_TOLERANCE = 2 * BFLOAT16_ROUNDING
BFLOAT16_TEXT = (
    f"dense layers in bfloat16: a result is within {2 * BFLOAT16_ROUNDING:.2%} of the sum of its "
    "terms' magnitudes"
)


@dataclass(frozen=True)
class Parity:
    """How far one runtime is from the source model.

    Attributes:
        runtime: name and version.
        rows: how many rows were compared.
        max_difference: largest difference from the source model, which computes with the tables
            as the file stores them; in units of the output's scale, which is 1 for probabilities.
        rank_difference: largest difference of `rank` from `predict`, and from the source model
            where test vectors hold its scores, over the splits of the inputs into context and
            candidates.
        tolerance: what each of the two may be.
    """

    runtime: str
    rows: int
    max_difference: float
    rank_difference: float
    tolerance: float

    @property
    def passed(self) -> bool:
        """Whether every output is within the tolerance (NaN is not)."""
        return self.max_difference <= self.tolerance and self.rank_difference <= self.tolerance


@dataclass(frozen=True)
class Verification(Parity):
    """A file on this machine."""

    path: Path
    dense: DenseArithmetic | None = None  # as in `ondevice.load`

    def __str__(self) -> str:
        """One line, as `ondevice verify` prints it."""
        return (
            f"{self.path}: {'ok' if self.passed else 'FAILED'}: {self.rows} test rows in "
            f"{self.runtime}, largest difference {self.max_difference:.2g}, "
            f"of rank from predict {self.rank_difference:.2g} (tolerance {self.tolerance:g})"
            f"{f'; {BFLOAT16_TEXT}' if self.dense == 'bf16' else ''}"
        )

    def to_json(self) -> dict[str, Any]:
        """A JSON-ready object."""
        return {**asdict(self), "path": str(self.path), "passed": self.passed}


def verify(
    path: str | Path,
    *,
    engine: str = "auto",
    keys: Keys | None = None,
    state: str | Path | None = None,
    dense: DenseArithmetic | None = None,
) -> Verification:
    """Check a file's bytes, its test vectors, and ranking, in an engine of this machine.

    Bytes are compared with the checksums in the file, and with the manifest beside it, if there is
    one that lists the file. With `keys`, who signed it is checked too; `keys` and `state` are those
    of `ondevice.load`, and so is `dense`: with bf16, differences up to BFLOAT16_TOLERANCE pass.

    Raises:
        FileFormatError: the file is damaged, of another set than its manifest, or has no test
            vectors.
        TrustError: it is not signed by `keys`, has expired, or is older than one seen.
        MissingDependencyError: the engine's runtime is not installed.
        InputError: no path, or as `ondevice.load`.
    """
    location = model_path(path)
    finish(location.parent)
    check_beside(model_files(location))
    if location.suffix.lower() == ".odm" and location.is_file():
        open_odm(location, full_check=True)
    fresh = functools.partial(load, location, engine=engine, keys=keys, state=state, dense=dense)
    model = fresh()
    vectors = model.info.vectors
    if vectors is None or not vectors.outputs:
        raise FileFormatError(
            f"{location}: no test vectors inside: the file opens, but nothing says what it should "
            "answer"
        )
    scores = named_scores(model, model.predict(vectors.inputs))
    scales = {name: output_scale([right]) for name, right in vectors.outputs.items()}
    differences = [
        largest_difference(scores[name], right, scales[name])
        for name, right in vectors.outputs.items()
    ]
    ranked = [
        _ranked_difference(fresh(), vectors, scales),
        ranking_difference(fresh, vectors.inputs, scales),
    ]
    return Verification(
        path=location,
        runtime=model.runner.runtime,
        rows=len(next(iter(vectors.inputs.values()))),
        max_difference=float(np.max(differences)),  # unlike max(), NaN where there is one
        rank_difference=float(np.max(ranked)),
        tolerance=max(vectors.tolerance, BFLOAT16_TOLERANCE if dense else 0),
        dense=dense,
    )


def _ranked_difference(
    model: Model, vectors: TestVectors, scales: Mapping[str, ScaleArray]
) -> float:
    """The largest difference from the source model's scores of ranked requests."""
    differences = [0.0]
    for ranking in vectors.rankings:
        rows = {name: values[: ranking.rows] for name, values in vectors.inputs.items()}
        scores = named_scores(model, model.rank(*split_request(rows, ranking.context)))
        differences += [
            largest_difference(scores[name], right, scales[name])
            for name, right in ranking.outputs.items()
        ]
    return float(np.max(differences))
