"""The C engine's sources as every build takes them: `ondevice/native/sources.txt`."""

import shutil
from pathlib import Path

import pytest

import ondevice

NATIVE = Path(ondevice.__file__).parent / "native"
INCLUDES = [f"-I{NATIVE}", f"-I{NATIVE / 'include'}"]
COMPILER = shutil.which("gcc") or shutil.which("clang")
WARNED = ["-std=c11", "-O1", "-ffp-contract=off", "-Wall", "-Wextra", *INCLUDES]


def _listed():
    path = NATIVE / "sources.txt"  # not in a wheel
    lines = path.read_text().splitlines() if path.exists() else []
    return [str(NATIVE / line) for line in lines if line and not line.startswith("#")]


ENGINE = _listed()  # needs no operating system
POSIX = [*ENGINE, str(NATIVE / "platform" / "posix.c")] if ENGINE else []
needs_compiler = pytest.mark.skipif(
    COMPILER is None or not ENGINE, reason="no C compiler, or no sources beside the package"
)
