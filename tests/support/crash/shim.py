"""Compiles the library that records what processes do to files, and makes their calls fail."""

import subprocess
from pathlib import Path

from support.engine import COMPILER
from support.tools import cannot_link, require


def compiled_shim(folder):
    """The library, to be named by LD_PRELOAD; skips where it cannot be compiled."""
    require(cannot_link(COMPILER, "-shared", "-fPIC"))
    library = folder / "shim.so"
    command = [COMPILER, "-O1", "-Wall", "-shared", "-fPIC", Path(__file__).with_name("shim.c")]
    subprocess.run([*command, "-o", library, "-ldl", "-pthread"], check=True)
    return library
