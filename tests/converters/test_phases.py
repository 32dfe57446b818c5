"""CPU seconds of a conversion by phase."""

import time

import pytest
import torch
from torch import nn

from ondevice.converters import convert, phases
from ondevice.converters.phases import counting, phase, seconds_line


@pytest.fixture
def busy(monkeypatch):
    """A function that lets a clock of the processor go on; nothing else does."""
    now = [5.0]
    monkeypatch.setattr(phases.time, "process_time", lambda: now[0])

    def busy(seconds):
        now[0] += seconds

    return busy


def test_a_phase_inside_another_counts_once(busy):
    with counting() as seconds:
        busy(0.02)
        with phase("verification"):
            busy(0.04)
            with phase("torch's export"):
                busy(0.06)
            busy(0.04)
    assert seconds["all else"] == pytest.approx(0.02, abs=1e-9)
    assert seconds["verification"] == pytest.approx(0.08, abs=1e-9)
    assert seconds["torch's export"] == pytest.approx(0.06, abs=1e-9)


def test_a_phase_ends_with_its_error(busy):
    with counting() as seconds:
        with pytest.raises(ZeroDivisionError), phase("verification"):
            busy(0.02)
            raise ZeroDivisionError
        busy(0.04)
    assert seconds["verification"] == pytest.approx(0.02, abs=1e-9)
    assert seconds["all else"] == pytest.approx(0.04, abs=1e-9)


def test_a_conversion_counts_what_it_takes(tmp_path):
    module = nn.Sequential(nn.Embedding(50, 4), nn.Flatten(), nn.Linear(8, 1)).eval()
    before = time.process_time()
    report = convert(module, torch.tensor([[1, 2], [3, 4]]), tmp_path, targets=("odm", "onnx"))
    total = time.process_time() - before
    assert set(report.seconds) == {"torch's export", "verification", "all else"}
    assert all(value > 0 for value in report.seconds.values())
    # what the caller takes around it counts to nothing: a collection of garbage, for instance
    assert 0.5 * total < sum(report.seconds.values()) <= total
    assert "seconds" in report.to_json()
    assert "seconds" not in (tmp_path / "model.report.json").read_text()


def test_the_line_has_the_phases_in_order():
    seconds = {"all else": 0.44, "verification": 1.0, "imports": 4.06}
    assert seconds_line(seconds) == "CPU seconds: 4.1 imports, 1.0 verification, 0.4 all else"
