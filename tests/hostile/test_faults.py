"""A disk that refuses any single call while files are written: a typed error, and no harm.

ONDEVICE_FAULT_SAMPLES says how many calls of a conversion fail of each kind; 0: all (`make soak`).
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from support import crash

SCRIPT = Path(crash.__file__).parent / "faults.py"
SAMPLES = os.environ.get("ONDEVICE_FAULT_SAMPLES", "2")


@pytest.mark.parametrize("work", ["file", "set", "checkpoint", "convert"])
def test_any_call_may_fail(shim, tmp_path, work):
    samples = SAMPLES if work == "convert" else "0"
    settings = {"LD_PRELOAD": str(shim), "ONDEVICE_CRASH_ROOT": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, SCRIPT, work, samples],
        cwd=tmp_path,
        env=os.environ | settings,
        capture_output=True,
        text=True,
        timeout=3600,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    result = json.loads(done.stdout.splitlines()[-1])
    assert result["tried"] >= 8 and result["calls"] >= 10
    assert not result["wrong"], "\n".join(result["wrong"])
