"""The C compiler in the Python package ziglang, which builds for systems that are not at hand."""

import functools
import os
import subprocess
import sys
from pathlib import Path

from support.tools import require

ZIG = "ziglang==0.17.1"


@functools.cache
def zig_environment():
    """Variables whose Python has the compiler, installed beside the other builds; skips without."""
    folder = Path(__file__).parents[2] / "build" / "zig"
    if not (folder / "ziglang").is_dir():
        command = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", "install",
                   "--target", str(folder), ZIG]  # fmt: skip
        done = subprocess.run(command, capture_output=True, text=True)
        require(f"{ZIG} cannot be installed: {done.stderr[-200:]}" if done.returncode else "")
    path = os.pathsep.join(filter(None, [str(folder), os.environ.get("PYTHONPATH")]))
    return os.environ | {"PYTHONPATH": path}
