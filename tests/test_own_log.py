"""docs/own_log.md runs as it stands: its blocks of Python and shell, one after the other."""

import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import pyarrow.parquet as pq
import pytest

PAGE = Path(__file__).parents[1] / "docs" / "own_log.md"
BLOCK = re.compile(r"^```(python|sh|toml)\n(.*?)^```", re.DOTALL | re.MULTILINE)


def run(arguments, folder):
    done = subprocess.run(arguments, cwd=folder, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def walked(tmp_path_factory):
    """The folder after all blocks, and what each printed."""
    folder = tmp_path_factory.mktemp("own_log")
    printed = []
    for kind, text in BLOCK.findall(PAGE.read_text(encoding="utf-8")):
        if kind == "toml":  # the reader edits the draft
            printed.append((folder / "columns.toml").read_text(encoding="utf-8"))
            (folder / "columns.toml").write_text(text, encoding="utf-8")
        elif kind == "python":
            printed.append(run([sys.executable, "-c", text], folder))
        else:
            for line in filter(None, text.splitlines()):
                words = shlex.split(line)
                assert words[0] == "ondevice"
                printed.append(run([sys.executable, "-m", *words], folder))
    return folder, printed


def test_the_draft_is_a_description(walked):
    _, printed = walked
    draft = tomllib.loads(printed[2])
    assert (draft["label"], draft["time"]) == ("clicked", "shown_at")
    assert set(draft["fields"]) >= {"user", "film", "genres", "price", "dwell_seconds"}
    assert draft["fields"]["genres"] == {"kind": "string", "list": True}
    assert "clicked" in printed[1]


def test_training_uses_the_latest_days_as_test(walked):
    _, printed = walked
    counts = re.search(r"rows: training (\S+), validation (\S+), test (\S+)", printed[3]).groups()
    rows = [int(count.replace(",", "")) for count in counts]
    assert sum(rows) == 18_000
    # rows of one hour share a part, and an hour has about 60
    assert all(abs(a - b) < 100 for a, b in zip(rows, (14_400, 1_800, 1_800), strict=True))
    auc = float(re.search(r"test AUC (0\.\d+)", printed[3])[1])
    assert auc > 0.65  # a model that knows films and hours: the draw has 0.75 at best


def test_scores_of_the_log_and_of_the_device(walked):
    folder, printed = walked
    table = pq.read_table(folder / "scores.parquet")
    assert table.column_names == ["user", "film", "clicked", "score"]
    assert table.num_rows == 1500
    scores = [float(word) for word in re.findall(r"0\.\d+", printed[6])]
    assert len(scores) == 3
    assert scores[0] > scores[1]  # films with even numbers are liked more


def test_a_new_day_gives_rows_to_new_films_and_improves_on_the_model_before(walked):
    _, printed = walked
    text = next(text for text in printed if "rows for new values" in text)
    assert "rows for new values: film 40" in text
    before = float(re.search(r"^before: test AUC (0\.\d+)", text, re.MULTILINE)[1])
    after = float(re.search(r"^dnn: test AUC (0\.\d+)", text, re.MULTILINE)[1])
    assert after > before
