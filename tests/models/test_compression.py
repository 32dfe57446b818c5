"""`ondevice compress`: written bytes within the budget, resumed and repeated runs, bad goals."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

import ondevice.models.compression as compression
from ondevice.cli import main
from ondevice.errors import FileFormatError, SpecError
from ondevice.inspection import inspect
from ondevice.models import load_checkpoint
from ondevice.models.commands.compress import choose, parse_size
from ondevice.models.compression import Trial, TrialResult, folder_of, frontier, run_trial
from ondevice.models.data import encode, open_log, split
from ondevice.models.fitting import rounded
from ondevice.models.trainer import evaluate
from ondevice.models.widths import Widths


def result(size, auc):
    return TrialResult(Trial(1, 1, "q4"), size, 0, auc, auc)


@pytest.fixture(scope="module")
def log():
    torch.set_num_threads(1)
    return open_log("synthetic", max_rows=4000)


def test_bytes_are_the_heads_rows_in_the_written_file(log, tmp_path):
    trial = Trial(1, 3, "q4", epochs=1)
    found = run_trial(log, trial, tmp_path, progress=False)
    train = split(log)[0]
    expected = maps = 0
    for hashes in train.hashes.values():
        distinct, counts = np.unique(hashes, return_counts=True)
        head = int(((counts >= 3) & (distinct != 0)).sum())
        # half a byte a row, padding and out-of-vocabulary too; a column scale
        expected += -(-(head + 2) // 2) + 4
        maps += 8 * head
    assert (found.table_bytes, found.map_bytes) == (expected, maps)


def test_stored_results_are_read_not_trained_again(log, tmp_path, monkeypatch):
    trial = Trial(2, 2, "q4", epochs=1)
    first = run_trial(log, trial, tmp_path / "a", progress=False)
    assert run_trial(log, trial, tmp_path / "b", progress=False) == first  # deterministic
    calls = []
    monkeypatch.setattr(compression, "fit", lambda *_, **__: calls.append(1))
    assert run_trial(log, trial, tmp_path / "a", progress=False) == first
    assert not calls
    stored = next((tmp_path / "a").glob("*/result.json"))
    stored.write_text(stored.read_text()[:-20])
    with pytest.raises(FileFormatError, match="not a trial's result"):
        run_trial(log, trial, tmp_path / "a", progress=False)


def test_command_writes_files_within_the_budget(tmp_path):
    out = tmp_path / "out"
    goal = ["--budget", "20KB", "--max-rows", "4000", "--trials", "3"]
    arguments = ["compress", *goal, "--out", str(out), "--json", str(out / "f.json")]
    assert main(arguments) == 0
    assert 0 < sum(item.total for item in inspect(out / "model.odm").tables) <= 20000
    assert {"model.odm", "model.onnx", "model.tflite", "frontier.csv", "checkpoint"} <= {
        path.name for path in out.iterdir()
    }
    data = json.loads((out / "f.json").read_text())
    assert data["best"] in data["frontier"]
    first = (out / "frontier.csv").read_bytes()
    assert main(arguments) == 0
    assert (out / "frontier.csv").read_bytes() == first


def test_unreachable_budget_is_said(tmp_path, capsys):
    arguments = ["compress", "--budget", "1B", "--max-rows", "4000", "--trials", "1"]
    assert main([*arguments, "--out", str(tmp_path)]) != 0
    assert "no trial meets the goal" in capsys.readouterr().err


def test_frontier_and_choice_by_hand():
    full, half, worse, tiny = result(100, 0.8), result(50, 0.79), result(60, 0.78), result(5, 0.6)
    points = frontier([full, half, worse, tiny])
    assert points == [tiny, half, full]
    assert choose(points, full, 60, None, None) == half
    assert choose(points, full, None, 20, None) == tiny
    assert choose(points, full, None, None, 0.02) == half
    assert choose(points, full, 4, None, None) is None


def test_sizes():
    assert [parse_size(text) for text in ("20KB", "1.5MiB", "7")] == [20000, 1572864, 7]
    for text in ("", "-1", "KB", "1e9", "2 parsec", "9" * 99):
        with pytest.raises(SpecError, match="expected a size"):
            parse_size(text)


def test_unknown_values_share_the_second_row(log):
    splits = encode(*split(log), vocabulary_fields=list(log.hashes), min_count=3)
    assert any((ids == 1).any() for ids in splits.train.ids.values())


def test_a_trial_with_widths_and_rounding_is_what_was_trained(tmp_path, log):
    """Rounded training ends at the AUC of the written file; widths reach the file too."""
    trial = Trial(8, 2, "q2", epochs=2, batch=512, widths=Widths("frequency", 0.3), round_epochs=1)
    first = run_trial(log, trial, tmp_path, progress=False)
    whole = run_trial(log, replace(trial, widths=Widths("whole")), tmp_path, progress=False)
    assert first.table_bytes < 0.6 * whole.table_bytes
    checkpoint = load_checkpoint(folder_of(log, trial, tmp_path) / "checkpoint")
    splits = encode(*split(log), vocabulary_fields=list(log.hashes), min_count=2)
    with rounded(checkpoint.model, "q2"):
        assert evaluate(checkpoint.model, splits.test).auc == pytest.approx(
            first.test_auc, abs=1e-6
        )
    assert set(checkpoint.counts) == set(log.hashes)
    assert run_trial(log, trial, tmp_path, progress=False) == first  # read, not run
