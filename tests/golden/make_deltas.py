"""Writes tests/golden/deltas: old and new files and the deltas between them; run by hand.

The deltas are written by the package of the day; later releases must apply them to the same bytes.
"""

import shutil
import sys
import tempfile
from pathlib import Path

import numpy as np

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))

from support.deltas import block, header, operation, write_pair  # noqa: E402

from ondevice.delta.create import create_delta  # noqa: E402

COPY, ADD, XOR, NEW, WORDS, HALVES, SPARSE = range(7)


def write(name, old, new, delta):
    folder = HERE / "deltas" / name
    folder.mkdir(parents=True)
    for part, data in (("old", old), ("new", new), ("d.odd", delta)):
        (folder / part).write_bytes(data)


def by_hand():
    """Every kind of operation, in two blocks, with a manifest before them."""
    old = bytes(range(16, 80))
    new = (
        old[:4] + bytes([old[4] + 1, old[5] - 1]) + bytes([old[6] ^ 7]) + b"new"
        + (int.from_bytes(old[8:12], "little") - 3).to_bytes(4, "little")
        + (int.from_bytes(old[12:14], "little") + 300).to_bytes(2, "little")
        + bytes([old[1] >> 4 | old[2] << 4 & 255])
    )  # fmt: skip
    first = operation(COPY, 4) + operation(ADD, 2) + operation(XOR, 1) + operation(NEW, 3)
    second = operation(WORDS, 4, 8) + operation(HALVES, 2) + operation(COPY, 1, -8 * 13 + 4)
    data = bytes([5, 0, 0, 0]) + (600).to_bytes(2, "little")
    blocks = block(first, b"\x01\xff\x07new") + block(second, data)
    return old, new, header(old, new, b"{}") + blocks


def sparse():
    """Differences of every code, at a bit within a byte, longer than readers hold at once."""
    rng = np.random.default_rng(5)
    old = rng.integers(0, 256, 40_001, dtype=np.uint8)
    before = old[:-1] >> 3 | old[1:] << 5
    change = np.zeros(40_000, np.uint8)
    places = rng.choice(np.r_[0:9_000, 20_000:39_000], 900, replace=False)
    change[places] = rng.choice(np.array([1, 1, 1, 255, 255, 255, 2, 7, 128], np.uint8), 900)
    codes, large, zeros = [], [], 0
    for value in change.tolist():
        if value == 0:
            zeros += 1
            continue
        codes += [255] * (zeros // 85)
        codes.append(zeros % 85 * 3 + {1: 0, 255: 1}.get(value, 2))
        large += [value] if value not in (1, 255) else []
        zeros = 0
    codes += [255] * -(-zeros // 85)
    blocks = block(operation(SPARSE, 40_000, 3) + operation(NEW, 1), bytes(codes + large) + b"!")
    new = (before + change).tobytes() + b"!"
    return old.tobytes(), new, header(old.tobytes(), new) + blocks


def rows():
    """Rows of 3 bits a value: some inserted, some changed."""
    rng = np.random.default_rng(0)
    bits = rng.integers(0, 2, (800, 21), dtype=np.uint8)
    larger = np.insert(bits, rng.integers(0, 800, 9), rng.integers(0, 2, 21), axis=0)
    larger[rng.integers(0, 800, 30), 3] ^= 1
    return (np.packbits(item.reshape(-1), bitorder="little").tobytes() for item in (bits, larger))


def main():
    shutil.rmtree(HERE / "deltas", ignore_errors=True)
    write("by_hand", *by_hand())
    write("sparse", *sparse())
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        old, new = write_pair(folder)
        write("model", old.read_bytes(), new.read_bytes(), create_delta(old, new))
        for path, data in zip((folder / "a", folder / "b"), rows(), strict=True):
            path.write_bytes(data)
        delta = create_delta(folder / "a", folder / "b")
        write("inserted_rows", (folder / "a").read_bytes(), (folder / "b").read_bytes(), delta)


if __name__ == "__main__":
    main()
