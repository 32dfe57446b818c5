"""The C compiler in the Python package ziglang, which builds for systems that are not at hand."""

import functools
import os
import subprocess
import sys
from pathlib import Path

from support.tools import require
from tool import locked

ZIG = "ziglang==0.17.1"


@functools.cache
def zig_environment():
    """Variables whose Python has the compiler, installed beside the other builds; skips without."""
    folder = Path(__file__).parents[2] / "build" / "zig"
    with locked(folder):  # another worker may be installing it: pip copies file by file
        if not (folder / ".installed").exists():
            command = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check",
                       "install", "--upgrade", "--target", str(folder), ZIG]  # fmt: skip
            done = subprocess.run(command, capture_output=True, text=True)
            require(f"{ZIG} cannot be installed: {done.stderr[-200:]}" if done.returncode else "")
            (folder / ".installed").touch()
    path = os.pathsep.join(filter(None, [str(folder), os.environ.get("PYTHONPATH")]))
    return os.environ | {"PYTHONPATH": path}
