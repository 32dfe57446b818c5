"""Builds wheels of this project, each from a copy of its sources."""

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

ROOT = Path(__file__).parents[2]
# Not what other tests write at the same time, nor what an earlier build left.
IGNORED = shutil.ignore_patterns(
    ".*", "build", "dist", "demo-out", "tests", "*.so", "*.egg-info", "__pycache__"
)


def build_wheel(folder: Path, variables: Mapping[str, str] | None = None) -> Path:
    """The only wheel in `folder`, built with these environment variables.

    setuptools builds in folders of the sources (`build`, `*.egg-info`), which two builds at once
    would share: each has its copy.
    """
    source = shutil.copytree(ROOT, folder / "source", ignore=IGNORED)
    command = [sys.executable, "-m", "pip", "--quiet", "wheel", "--no-deps", "--no-build-isolation"]
    subprocess.run(
        [*command, "--wheel-dir", str(folder), str(source)],
        check=True,
        timeout=600,
        env={**os.environ, **(variables or {})},
    )
    shutil.rmtree(source)
    (wheel,) = folder.glob("*.whl")
    return wheel
