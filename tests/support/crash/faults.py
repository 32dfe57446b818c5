"""Makes every call on files fail in turn, with shim.c preloaded, and says what came of it.

    faults.py WORK SAMPLES   WORK of WORKS; so many calls are drawn of each kind, 0: all of them

Prints a line of JSON: how many calls failed, and every case that was not as it should be.
"""

import ctypes
import errno
import json
import os
import random
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from ondevice.atomic import atomic_path
from ondevice.converters import convert
from ondevice.errors import OnDeviceError
from ondevice.features import FeatureSpec, Field
from ondevice.models import ClickModel, FullEmbedding, load_checkpoint, save_checkpoint
from ondevice.publish import HIDDEN, finish, publishing

FAILURES = {"EIO": errno.EIO, "ENOSPC": errno.ENOSPC, "EINTR": errno.EINTR, "short": -1}
FEATURES = FeatureSpec((Field("user", "integer", "hash"),))


def write_file(folder: Path, seed: int) -> None:
    with atomic_path(folder / "bench.json") as temporary:
        temporary.write_text(f"{seed}" * 5000)


def write_set(folder: Path, seed: int) -> None:
    with publishing(folder, removed=("c",) if seed else (), with_manifest=True) as fresh:
        for name in ("a", "b") if seed else ("a", "b", "c"):
            (fresh / name).write_text(f"{name} {seed}")


def write_checkpoint(folder: Path, seed: int) -> None:
    torch.manual_seed(seed)
    model = ClickModel({"user": FullEmbedding(20, 4)}, (4,)).eval()
    counts = None if seed else {"user": np.ones(20, np.int64)}
    save_checkpoint(folder, model, FEATURES, counts=counts)


class Small(torch.nn.Module):
    """A table and a layer."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.table = torch.nn.Embedding(50, 4)
        self.layer = torch.nn.Linear(4, 1)

    def forward(self, user: torch.Tensor) -> torch.Tensor:
        return torch.sigmoid(self.layer(self.table(user)))


def write_models(folder: Path, seed: int) -> None:
    convert(Small(seed).eval(), {"user": torch.arange(8)}, folder)


WORKS: dict[str, Callable[[Path, int], None]] = {
    "file": write_file,
    "set": write_set,
    "checkpoint": write_checkpoint,
    "convert": write_models,
}


def held(folder: Path) -> dict[str, bytes]:
    """The visible files."""
    paths = [path for path in folder.iterdir() if not HIDDEN.fullmatch(path.name)]
    return {path.name: path.read_bytes() for path in paths if path.name != "manifest.json"}


def main(name: str, samples: int) -> None:
    """Try the failures of all calls, or of a sample."""
    work, shim, rng = WORKS[name], ctypes.CDLL(None), random.Random(3)  # noqa: S311 - no secret
    folder = Path.cwd() / "here"
    states = []
    for seed in (0, 1):
        work(folder, seed)
        states.append(held(folder))
    shim.crash_fail(ctypes.c_long(0), 0)
    work(folder, 0)
    calls = shim.crash_calls()
    tried, wrong = 0, []
    descriptors = len(list(Path("/proc/self/fd").iterdir()))
    for kind, failure in FAILURES.items():
        chosen = range(1, calls + 1)
        for at in chosen if not samples else sorted(rng.sample(chosen, min(samples, calls))):
            tried += 1
            shim.crash_fail(ctypes.c_long(at), failure)
            outcome = "done"
            try:
                work(folder, 1)
            except OnDeviceError as error:
                outcome = "refused"
                if "\n" in str(error):
                    wrong.append(f"{kind} at {at}: several lines: {error}")
            except BaseException as error:
                wrong.append(f"{kind} at {at}: {error!r}")
            shim.crash_fail(ctypes.c_long(0), 0)
            finish(folder)
            state = held(folder)
            if state not in states or (outcome == "done" and state != states[1]):
                wrong.append(f"{kind} at {at}: {outcome}, but neither the old nor the new state")
            if kind == "short" and outcome != "done":
                wrong.append(f"a short write at {at} is an error")
            if name == "checkpoint":
                load_checkpoint(folder)
            work(folder, 0)
            if left := [path.name for path in folder.iterdir() if HIDDEN.fullmatch(path.name)]:
                wrong.append(f"{kind} at {at}: the next run left {left}")
    if (now := len(list(Path("/proc/self/fd").iterdir()))) > descriptors:
        wrong.append(f"{now - descriptors} open files were lost")
    sys.stdout.write(json.dumps({"calls": calls, "tried": tried, "wrong": wrong}) + "\n")
    sys.stdout.flush()
    os._exit(0)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
