"""Settings of the whole test run, made before anything is imported."""

import contextlib
import ctypes
import importlib.util
import os
from pathlib import Path

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
