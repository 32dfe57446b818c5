"""A disk that refuses any single call while files are written: a typed error, and no harm.

ONDEVICE_FAULT_SAMPLES says how many calls of a work fail of each kind; 0: all (`make soak`).
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from support import crash

SCRIPT = Path(crash.__file__).parent / "faults.py"
SAMPLES = os.environ.get("ONDEVICE_FAULT_SAMPLES")
# How many of their calls fail of each kind: of works that take more than a moment; 0: all.
FEW = {"convert": "2", "train": "4", "score": "4", "compress": "1"}


@pytest.mark.parametrize(
    "work", ["file", "set", "checkpoint", "convert", "train", "score", "compress"]
)
def test_any_call_may_fail(shim, tmp_path, work):
    samples = (SAMPLES or FEW[work]) if work in FEW else "0"
    settings = {
        "LD_PRELOAD": str(shim),
        "ONDEVICE_CRASH_ROOT": str(tmp_path),
        "PYTHONPATH": str(SCRIPT.parents[2]),  # of `support`
    }
    done = subprocess.run(
        [sys.executable, SCRIPT, work, samples],
        cwd=tmp_path,
        env=os.environ | settings,
        capture_output=True,
        text=True,
        timeout=4 * 3600,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    result = json.loads(done.stdout.splitlines()[-1])
    assert result["tried"] >= 8 and result["calls"] >= 10
    assert not result["wrong"], "\n".join(result["wrong"])
