"""How long fuzzers run, and from which seed: a few files in `make test`, by time in `make fuzz`."""

import os
import time
from collections.abc import Iterator

SECONDS = float(os.environ.get("ONDEVICE_FUZZ_SECONDS", "0"))  # for each fuzzer
SEED = int(os.environ.get("ONDEVICE_FUZZ_SEED", "0"))


def attempts(count: int, seconds: float = SECONDS) -> Iterator[int]:
    """Yield 0, 1, ...: at least `count` numbers, and then more until the time is up."""
    end = time.monotonic() + seconds
    number = 0
    while number < count or time.monotonic() < end:
        yield number
        number += 1
