"""The states of random numbers stay as they are, whatever a conversion draws."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


@contextmanager
def same_random_states() -> Iterator[None]:
    """Run a block or a function after which torch, numpy and Python draw as if it had not run."""
    python, legacy = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng(devices=[]):
            yield
    finally:
        random.setstate(python)
        np.random.set_state(legacy)
