"""Lets numpy.tile repeat an array as often as a traced tensor has rows, during an export."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch


@contextmanager
def traced_tile() -> Iterator[None]:
    """Let numpy.tile return a tensor inside the block where a repetition is a traced size.

    Networks make the positions of a history by numpy.tile(positions, [x.shape[0], 1]) and then a
    tensor of them. numpy would turn the size into a number, which fixes the rows of the graph.
    """
    functions: Any = np
    tile = functions.tile

    def tiled(array: Any, repetitions: Any) -> Any:
        each = repetitions if isinstance(repetitions, Sequence) else [repetitions]
        if not any(isinstance(size, torch.SymInt) for size in each):
            return tile(array, repetitions)
        return torch.tile(torch.as_tensor(np.asarray(array)), tuple(each))

    functions.tile = tiled
    try:
        yield
    finally:
        functions.tile = tile
