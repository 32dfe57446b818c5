"""Cross compilation and user-mode emulation of the C core, shared by the ARM tests."""

import subprocess
from pathlib import Path

from support.engine import INCLUDES, POSIX
from support.tools import cannot_link, missing

PROGRAM = Path(__file__).parents[1] / "arm" / "run_requests.c"
FLAGS = ["-std=c11", "-O2", "-ftree-vectorize", "-fvect-cost-model=dynamic", "-ffp-contract=off",
         "-fno-math-errno", "-Wall", "-Wextra", "-Werror", "-static", *INCLUDES]  # fmt: skip
COMPILERS = {"aarch64": "aarch64-linux-gnu-gcc", "arm": "arm-linux-gnueabihf-gcc"}
# processor: architecture, the kernels it must choose
PROCESSORS = {
    "cortex-a72": ("aarch64", "neon"),  # Raspberry Pi 4
    "cortex-a76": ("aarch64", "neon-dotprod"),  # Raspberry Pi 5
    "max": ("aarch64", "neon-i8mm"),
    "cortex-a7": ("arm", "neon"),  # 32-bit Raspberry Pi OS
}


def cannot_build(architecture):
    """Why programs of an architecture cannot be built and run; empty: they can."""
    lacking = missing(COMPILERS[architecture], f"qemu-{architecture}-static")
    return lacking or cannot_link(COMPILERS[architecture], "-static")


def build(architecture, folder, source=PROGRAM, *more):
    """A static test program of an architecture: the source and `more` beside the engine's."""
    program = folder / f"{source.stem}_{architecture}"
    command = [COMPILERS[architecture], *FLAGS, str(source), *more, *POSIX, "-o",
               str(program)]  # fmt: skip
    subprocess.run(command, check=True)
    return program
