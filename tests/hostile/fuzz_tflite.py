"""Child of test_tflite_fuzz: mutates a .tflite file and opens and runs what the check lets pass."""

import contextlib
import os
import sys
from pathlib import Path

import numpy as np
from support.fuzzing import attempts

from ondevice.engines.tflite import TfliteEngine
from ondevice.errors import OnDeviceError
from ondevice.inspection import inspect
from ondevice.sealed import seal

EDGES = (
    b"\xff\xff\xff\xff",
    b"\xff\xff\xff\x7f",
    b"\x00\x00\x00\x80",
    bytes(4),
    b"\x01\x00\x00\x00",
)


def mutated(data: bytes, end: int, rng: np.random.Generator) -> bytes:
    """One to three bytes or words changed, within the first `end` bytes."""
    changed = bytearray(data)
    for _ in range(int(rng.integers(1, 4))):
        start = int(rng.integers(0, end))
        kind = int(rng.integers(0, 4))
        if kind == 0:
            changed[start] ^= 1 << int(rng.integers(0, 8))
        elif kind == 1:
            start -= start % 4
            changed[start : start + 4] = EDGES[int(rng.integers(0, len(EDGES)))]
        elif kind == 2:
            changed[start] = int(rng.integers(0, 256))
        else:  # what is elsewhere in the file: an offset that leads somewhere
            source = int(rng.integers(0, end))
            changed[start : start + 4] = data[source : source + 4]
    return bytes(changed[: len(data)])


def main(path: Path, seed: int, count: int, seconds: float) -> None:
    data = path.read_bytes()
    end = max(data.find(b"serving_default") + 4000, 4000)
    end = min(end, len(data))
    rng = np.random.default_rng(seed)
    file = path.with_name(f"mutated{seed}.tflite")
    opened = 0
    for number in attempts(count, seconds):
        content = mutated(data, end, rng)
        file.unlink(missing_ok=True)
        file.write_bytes(content)
        with contextlib.suppress(ValueError):
            seal(file)  # an attacker can write the digest that fits
        with contextlib.suppress(OnDeviceError):
            inspect(file)
            engine = TfliteEngine(file)
            opened += 1
            inputs = {
                item["name"]: np.ones(np.maximum(item["shape"], 1), item["dtype"])
                for item in engine._interpreter.get_input_details()
            }
            engine.run(inputs)
        os.write(1, b"%d %d\n" % (number + 1, opened))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), float(sys.argv[4]))
