"""Programs for Windows: compiled by zig, run in Wine."""

import os
import subprocess
import sys
from pathlib import Path

from support.engine import ENGINE, INCLUDES, NATIVE
from support.tools import needs
from support.zig import zig_environment

WINE = "/usr/lib/wine/wine64"  # Debian's package puts it beside the path
needs_wine = needs("" if Path(WINE).is_file() else "not installed: wine64")


def compile_for_windows(folder, programs):
    """Programs for Windows in a folder, by their names: lists of C files beside the engine's."""
    compiler = [sys.executable, "-m", "ziglang", "cc", "-target", "x86_64-windows-gnu", "-std=c11"]
    compiler += ["-O2", "-ffp-contract=off", "-Wall", "-Wextra", "-Werror", *INCLUDES]
    objects = []
    for source in (*ENGINE, NATIVE / "platform" / "windows.c"):
        objects.append(str(folder / f"{len(objects)}.o"))
        command = [*compiler, "-c", str(source), "-o", objects[-1]]
        subprocess.run(command, env=zig_environment(), check=True)
    for name, sources in programs.items():
        files = [*(str(NATIVE / source) for source in sources), *objects]
        command = [*compiler, *files, "-o", str(folder / name)]
        subprocess.run(command, env=zig_environment(), check=True)


def in_wine(program, *words):
    """Run a program for Windows, in a system folder of its own; words are in UTF-8."""
    environment = os.environ | {
        "WINEPREFIX": str(program.parent / "wine"), "WINEDEBUG": "-all", "LC_ALL": "C.UTF-8",
    }  # fmt: skip
    command = [WINE, str(program), *map(str, words)]
    return subprocess.run(
        command, env=environment, capture_output=True, text=True, encoding="utf-8", timeout=3000
    )
