"""A copy of the C engine whose rank is wrong, for tests of what must notice it."""

import shutil
from pathlib import Path

NATIVE = Path(__file__).parents[2] / "ondevice" / "native"
# What looks up the context's vectors; without it they are zeros.
RIGHT = "gather(s, s->shared_gathers, count, 1, &fault);"
WRONG = "gather(s, s->shared_gathers, 0, 1, &fault);"


def copy_with_wrong_rank(folder):
    """The path of the copy; `predict` is right in it."""
    copy = folder / "native"
    shutil.copytree(NATIVE, copy)
    source = copy / "core" / "run.c"
    text = source.read_text(encoding="utf-8")
    assert text.count(RIGHT) == 1
    source.write_text(text.replace(RIGHT, WRONG), encoding="utf-8")
    return copy
