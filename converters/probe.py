"""IDs that try a model where conversions go wrong: unseen, padding and extreme ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from ondevice.info import InputSpec

IdArray = npt.NDArray[np.int64]

EXTREMES = (0, 1, 2, -1, 2**63 - 1, -(2**63), 2**31, 2**32, -(2**32) - 1)
SEED = 20_210_902  # fixed, so that the same model converts to the same bytes


def probe_ids(
    inputs: Sequence[InputSpec],
    examples: Mapping[str, IdArray],
    paddings: Mapping[str, int],
    rows: int,
) -> dict[str, IdArray]:
    """IDs by input name, `rows` of them: extreme, padding, random and example values in turn.

    An input with an ID limit gets its lowest and highest legal IDs as extremes.
    """
    rng = np.random.default_rng([SEED, rows])
    return {spec.name: _ids(spec, examples[spec.name], paddings, rows, rng) for spec in inputs}


def _ids(
    spec: InputSpec,
    examples: IdArray,
    paddings: Mapping[str, int],
    rows: int,
    rng: np.random.Generator,
) -> IdArray:
    shape = (rows, *examples.shape[1:])
    if spec.id_limit is None:
        low, high = -(2**63), 2**63 - 1
        special = list(EXTREMES)
    else:
        low, high = 0, spec.id_limit - 1
        special = [0, high]
    if spec.name in paddings:
        special += [paddings[spec.name]] * 2
    ids = rng.choice(examples.reshape(-1), shape)
    kind = rng.random(shape)
    unseen = rng.integers(low, high, shape, dtype=np.int64, endpoint=True)
    ids = np.where(kind < 0.25, unseen, ids)
    return np.where(kind > 0.75, rng.choice(np.array(special, dtype=np.int64), shape), ids)
