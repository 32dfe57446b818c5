"""Settings of the whole test run, made before anything is imported."""

import contextlib
import ctypes
import importlib.util
import os
import random
import sys
from pathlib import Path

import pytest

# Small batches gain nothing from a second thread, and threads that wait for one another on a busy
# machine take a hundred times as long.
os.environ.setdefault("OMP_NUM_THREADS", "1")

RANDOM_BITS = Path("/proc/sys/vm/mmap_rnd_bits")
ADDR_NO_RANDOMIZE = 0x0040000  # linux/personality.h


def fix_addresses():
    """Let child processes begin at the same addresses each time, where the kernel draws from 2^32.

    The sanitizers of GCC 12 and clang 14 place their shadow memory where a program or a library
    may then lie already, and end such a process by chance. Where this may not be set, it is not.
    """
    with contextlib.suppress(OSError, ValueError, AttributeError):
        if int(RANDOM_BITS.read_text()) > 28:
            ctypes.CDLL(None).personality(ADDR_NO_RANDOMIZE)


fix_addresses()

if importlib.util.find_spec("hypothesis"):
    from hypothesis import settings

    # The same examples in every run, but in `make fuzz`: chance must not decide whether a run
    # passes. No deadline, as a machine may be busy.
    fixed = "ONDEVICE_FUZZ_SEED" not in os.environ
    settings.register_profile("ondevice", derandomize=fixed, deadline=None)
    settings.load_profile("ondevice")


_file = None


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item):
    """Let the tests of a file draw the same numbers in every run, whatever ran before.

    A new process of torch begins with a random seed, as numpy's old generator and Python's do.
    """
    global _file
    if item.path == _file:
        return
    _file = item.path
    random.seed(0)
    if "numpy" in sys.modules:
        sys.modules["numpy"].random.seed(0)
    if "torch" in sys.modules:
        sys.modules["torch"].manual_seed(0)
