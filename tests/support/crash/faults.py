"""Makes every call on files fail in turn, with shim.c preloaded, and says what came of it.

    faults.py WORK SAMPLES [KIND...]   WORK of WORKS; so many calls are drawn of each kind, 0: all

Prints a line of JSON: how many calls failed, and every case that was not as it should be.
"""

import ctypes
import errno
import json
import os
import random
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from support.crash.works import WORKS, Work

from ondevice.errors import OnDeviceError

FAILURES = {"EIO": errno.EIO, "ENOSPC": errno.ENOSPC, "EINTR": errno.EINTR, "short": -1}


def main(name: str, samples: int, kinds: Sequence[str]) -> None:
    """Try the failures of all calls, or of a sample."""
    shim, rng = ctypes.CDLL(None), random.Random(3)  # noqa: S311 - no secret
    calls, tried, wrong = 0, 0, []
    for part, work in enumerate(WORKS[name]()):
        work.begin()
        shim.crash_fail(ctypes.c_long(0), 0)
        work.write()
        count = shim.crash_calls()
        work.learn()
        calls += count
        descriptors = len(list(Path("/proc/self/fd").iterdir()))
        for kind in kinds:
            chosen = range(1, count + 1)
            for at in chosen if not samples else sorted(rng.sample(chosen, min(samples, count))):
                tried += 1
                place = f"part {part}, {kind} at {at} of {count}"
                found = [f"{place}: {fault}" for fault in _failed(shim, work, kind, at)]
                # a run of hours says how far it came
                print(*(found or [place]), sep="\n", file=sys.stderr, flush=True)  # noqa: T201
                wrong += found
        if (now := len(list(Path("/proc/self/fd").iterdir()))) > descriptors:
            wrong.append(f"{now - descriptors} open files were lost")
    sys.stdout.write(json.dumps({"calls": calls, "tried": tried, "wrong": wrong}) + "\n")
    sys.stdout.flush()
    os._exit(0)


def _failed(shim: ctypes.CDLL, work: Work, kind: str, at: int) -> Iterator[str]:
    """Let one call of a work fail, and say what is not as it should be."""
    work.begin()
    shim.crash_fail(ctypes.c_long(at), FAILURES[kind])
    done = False
    try:
        work.write()
        done = True
    except OnDeviceError as error:
        if "\n" in str(error):
            yield f"several lines: {error}"
        if kind == "short":
            yield f"a short write is an error: {error}"
    except BaseException as error:
        yield repr(error)
    shim.crash_fail(ctypes.c_long(0), 0)
    try:
        yield from work.wrong(done)
    except Exception as error:
        yield f"the next run: {error!r}"


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), sys.argv[3:] or list(FAILURES))
