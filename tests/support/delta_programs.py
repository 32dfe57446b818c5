"""Golden deltas and mutants for programs in other languages that apply deltas."""

import hashlib
import io
import random
import subprocess
from pathlib import Path

from support.deltas import block, header, mutants, operation

from ondevice.delta.apply import apply_delta
from ondevice.errors import OnDeviceError

GOLDEN = Path(__file__).parents[1] / "golden" / "deltas"


def in_python(delta, old):
    """What the package makes of a delta and an old file."""
    new = io.BytesIO()
    apply_delta(io.BytesIO(delta), io.BytesIO(old), new, ("d", "o"))
    return new.getvalue()


def goldens():
    return sorted(path.name for path in GOLDEN.iterdir() if path.is_dir())


def golden(name):
    """Delta, old and new file."""
    return ((GOLDEN / name / part).read_bytes() for part in ("d.odd", "old", "new"))


def check_program(command, folder):
    """A program takes pairs of a delta and an old file; it prints a SHA-256 or "refused" a line."""
    cases = []
    for name in goldens():
        delta, old, new = golden(name)
        cases.append((delta, old, new))
    delta, old, new = golden("model")
    for mutant in mutants(delta, random.Random(7), 400):  # noqa: S311
        try:
            cases.append((mutant, old, in_python(mutant, old)))
        except OnDeviceError:
            cases.append((mutant, old, None))
    bomb = header(b"", b"")[:16] + (2**26).to_bytes(8, "little") + header(b"", b"")[24:]
    cases.append((bomb + block(operation(3, 10), bytes(60_000), sizes=(2, 10, 78)), b"", None))
    arguments = []
    for number, case in enumerate(cases):
        for part, data in zip(("d", "o"), case, strict=False):
            path = folder / f"{number}{part}"
            path.write_bytes(data)
            arguments.append(path)
    done = subprocess.run([*command, *arguments], capture_output=True, text=True, timeout=3000)
    assert done.returncode == 0, done.stderr[-2000:]
    lines = done.stdout.splitlines()
    for line, (_, _, new) in zip(lines, cases, strict=True):
        assert line == ("refused" if new is None else hashlib.sha256(new).hexdigest())
