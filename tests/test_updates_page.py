"""docs/updates.md runs as it stands: its blocks of shell and Python, one after the other."""

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

PAGE = Path(__file__).parents[1] / "docs" / "updates.md"
BLOCK = re.compile(r"^```(python|sh)\n(.*?)^```", re.DOTALL | re.MULTILINE)


def test_the_page_runs_and_a_days_delta_is_small(tmp_path):
    sizes = {}
    for kind, text in BLOCK.findall(PAGE.read_text(encoding="utf-8")):
        lines = text.splitlines() if kind == "sh" else [text]
        for line in filter(None, lines):
            words = ["-c", line] if kind == "python" else ["-m", *shlex.split(line)]
            done = subprocess.run(
                [sys.executable, *words], cwd=tmp_path, capture_output=True, text=True, timeout=3000
            )
            assert done.returncode == 0, done.stderr
        sizes.setdefault("old", (tmp_path / "models" / "model.odm").stat().st_size)
    delta = (tmp_path / "today.odd").stat().st_size
    assert delta < 0.25 * sizes["old"]
    state = json.loads((tmp_path / "models" / "model.odm.update.json").read_text())
    assert state["state"] == "good" and state["rejected"]  # updated, booted, rolled back
