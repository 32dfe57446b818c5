"""What rounding float64 inputs to float32, as files take them, changes of the outputs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from ondevice.difference import largest_difference
from ondevice.errors import ParityError

Array = npt.NDArray[Any]
Outputs = Mapping[str, npt.NDArray[np.float32]]
TOLERANCE = 1e-5  # in units of the output's scale, as of a file


def check_rounded_examples(
    run: Callable[[Mapping[str, Array]], Outputs],
    examples: Mapping[str, Array],
    given: Mapping[str, Array],
) -> None:
    """Check that a model answers its examples alike where they are rounded to float32.

    Times in seconds since 1970 do not fit: float32 keeps them to a minute or two.

    Args:
        run: the model.
        examples: its examples as files take them.
        given: the same as they were given; only float64 ones are read.

    Raises:
        ParityError: an output changes by more than TOLERANCE.
    """
    doubles = {
        name: array
        for name, array in given.items()
        if array.dtype == np.float64 and not np.array_equal(array, examples[name], equal_nan=True)
    }
    if not doubles:
        return
    rounded = run(examples)
    apart = _apart(rounded, run({**examples, **doubles}))
    if apart <= TOLERANCE:
        return
    alone = {name: _apart(rounded, run({**examples, name: doubles[name]})) for name in doubles}
    names = [name for name in doubles if not alone[name] <= TOLERANCE] or list(doubles)
    raise ParityError(
        f"{'inputs' if len(names) > 1 else 'input'} {', '.join(map(repr, names))} of float64: "
        "files take float32, and the outputs for the examples change by up to "
        f"{apart:.2g} of their scale where these are rounded to it; expected at most "
        f"{TOLERANCE:g}. Give times and other large whole numbers as int64, or give their "
        "difference from a number near them; nothing was written"
    )


def _apart(rounded: Outputs, exact: Outputs) -> float:
    """The largest difference; infinite where only one of two values is no number."""
    worst = 0.0
    for name, right in exact.items():
        same = (rounded[name] == right) | (np.isnan(rounded[name]) & np.isnan(right))
        got, expected = (np.where(same, 0, array) for array in (rounded[name], right))
        apart = largest_difference(got.astype(np.float32), expected.astype(np.float32))
        worst = max(worst, np.inf if np.isnan(apart) else apart)
    return worst
