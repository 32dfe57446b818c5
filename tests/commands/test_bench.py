"""The bench report: statistics against hand values, comparison, gate, hostile reports."""

import json
import subprocess
import sys

import numpy as np
import pytest
from support.runtime import write_small_model

from ondevice.bench.measure.observation import Task
from ondevice.bench.measure.statistics import ratio_of_bursts, spread
from ondevice.bench.measure.worker import observe
from ondevice.bench.report import Report, parse_report
from ondevice.bench.show.compare import compare
from ondevice.bench.show.gate import gate, parse_limit
from ondevice.bench.show.page import page
from ondevice.bench.show.tables import csv_text, markdown, text
from ondevice.bench.targets import local
from ondevice.errors import FileFormatError, InputError, ParityError
from ondevice.model import Model


def call(*arguments):
    command = [sys.executable, "-m", "ondevice", "bench", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=600)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A real report, as JSON."""
    folder = tmp_path_factory.mktemp("bench")
    write_small_model(folder / "small.odm")
    done = call(folder / "small.odm", "--batch", 1, "--rank", 4, "--gap-ms", 0, "--seconds", 0.1,
                "--processes", 5, "--profile", "--json", folder / "r.json")  # fmt: skip
    assert done.returncode == 0, done.stderr
    return json.loads((folder / "r.json").read_text())


def report_of(data):
    return Report.from_json(json.loads(json.dumps(data)), "here")


def slower(data, factor):
    """The same report with every latency multiplied."""
    changed = json.loads(json.dumps(data))
    for item in changed["latencies"]:
        item["latency_us"] = {
            name: value if name == "count" else value * factor
            for name, value in item["latency_us"].items()
        }
        item["percentiles_us"] = [value * factor for value in item["percentiles_us"]]
        item["bursts_us"] = [[value * factor for value in burst] for burst in item["bursts_us"]]
    return changed


@pytest.mark.parametrize("kind", ["latency", "profile"])
@pytest.mark.parametrize("vectors", [True, False])
def test_a_wrong_rank_is_not_measured(tmp_path, monkeypatch, kind, vectors):
    path, right = tmp_path / "m.odm", Model.rank
    write_small_model(path, vectors=vectors)

    def observed(call):
        task = Task(kind, "native", call=call, rows=70, seconds=0.01)
        return observe(path, task, 0, lambda: None)

    assert observed("rank").runtime.startswith("native")

    def wrong(model, context, candidates):
        scores = right(model, context, candidates)
        scores[-1] += 0.05
        return scores

    monkeypatch.setattr(Model, "rank", wrong)
    assert observed("predict").runtime.startswith("native")
    with pytest.raises(ParityError, match=r"rank differs from predict: by 0\.05 .*context user"):
        observed("rank")


def test_spread_is_numpys():
    values = np.array([3.0, 1.0, 2.0, 10.0])
    summary = spread(values)
    assert (summary.count, summary.min, summary.p50, summary.max, summary.mean) == (
        4,
        1,
        2.5,
        10,
        4,
    )
    assert summary.sd == pytest.approx(np.sqrt((1 + 9 + 4 + 36) / 3))  # by hand, n - 1
    assert summary.p90 == pytest.approx(3 + 0.7 * 7)  # position 0.9 x 3 = 2.7


def test_intervals_hold_the_truth_as_often_as_they_say():
    """Two measurements of the same thing: about 1 of 20 may differ, by chance."""
    rng = np.random.default_rng(5)
    wrong = 0
    for _ in range(200):
        a, b = (
            [list(np.exp(rng.normal(rng.normal(3, 0.1), 0.05, 10))) for _ in range(5)]
            for _ in range(2)
        )
        wrong += ratio_of_bursts(a, b).real
    assert wrong <= 22  # 5 % of 200 is 10; 22 has a chance of 0.02 %


def test_a_true_difference_is_found():
    rng = np.random.default_rng(6)
    a, b = ([list(rng.normal(mean, 0.5, 10)) for _ in range(5)] for mean in (100, 110))
    ratio = ratio_of_bursts(a, b)
    assert ratio.real
    assert ratio.low < 1.1 < ratio.high


def test_a_report_equals_itself(data):
    result = compare(report_of(data), report_of(data))
    assert result.figures
    assert not any(item.real for item in result.figures)
    assert all(item.ratio == 1 for item in result.figures)


def test_ten_times_as_slow_is_real_and_fails_the_gate(data):
    result = gate(report_of(slower(data, 10)), report_of(data), parse_limit("5%"))
    assert len(result.worse) == len(data["latencies"]) == 2
    assert all(item.ratio == pytest.approx(10, rel=1e-5) for item in result.worse)
    assert "FAILED" in result.text()
    assert not gate(report_of(slower(data, 0.1)), report_of(data), 0.05).worse


def test_what_scatters_too_much_to_tell_is_said(data):
    noisy = json.loads(json.dumps(data))
    for item in noisy["latencies"]:
        for number, bursts in enumerate(item["bursts_us"]):
            item["bursts_us"][number] = [value * (1 + number) for value in bursts]
    result = gate(report_of(noisy), report_of(noisy), 0.05)
    assert not result.worse
    assert {item.what for item in result.unsure} >= {"predict 1"}
    assert "unsure: " in result.text()
    assert "passed" in result.text()
    steady = gate(report_of(noisy), report_of(noisy), 1000.0)
    assert not steady.unsure
    assert "unsure" not in steady.text()


def test_the_command_line_gate(data, tmp_path):
    files = [tmp_path / "base.json", tmp_path / "now.json"]
    for path, content in zip(files, (data, slower(data, 10)), strict=True):
        path.write_text(json.dumps(content))
    done = call(files[1], "--baseline", files[0], "--max-regression", "5%")
    assert done.returncode == 1
    assert "FAILED" in done.stdout
    assert call(files[0], "--baseline", files[0]).returncode == 0
    done = call("compare", *files, "--html", tmp_path / "page.html")
    assert done.returncode == 0, done.stderr
    assert "the difference is real" in done.stdout
    assert "<svg" in (tmp_path / "page.html").read_text()


@pytest.mark.parametrize("word", ["5", "-5%", "five", "", "5%%", "1e3%"])
def test_limits_are_read_strictly(word):
    if word == "5":
        assert parse_limit(word) == 5
        return
    with pytest.raises(InputError, match="expected a regression"):
        parse_limit(word)


def test_every_form_shows_every_latency(data):
    report = report_of(data)
    for shown in (text(report), markdown(report), csv_text(report), page([report])):
        assert "rank" in shown
        assert "small.odm" in shown
    assert len(csv_text(report).splitlines()) > len(data["latencies"])


def leaves(value, path=()):
    """Paths of every member of a JSON document."""
    items = value.items() if isinstance(value, dict) else enumerate(value)
    for key, item in items:
        yield (*path, key)
        if isinstance(item, dict | list):
            yield from leaves(item, (*path, key))


def test_damaged_reports_are_refused_or_harmless(data):
    """Every member replaced by values of the wrong kind: a typed error, or a report that shows."""
    refused = 0
    for path in list(leaves(data)):
        if len(path) > 1 and path[-2] in ("percentiles_us",) and path[-1] > 2:
            continue
        for bad in (None, -1, "<script>", [], {}, True):
            changed = json.loads(json.dumps(data))
            at = changed
            for key in path[:-1]:
                at = at[key]
            at[path[-1]] = bad
            try:
                report = Report.from_json(changed, "here")
            except FileFormatError as error:
                assert str(error).startswith("here")
                refused += 1
            else:
                assert "<script>" not in page([report])
    assert refused > 500


@pytest.mark.parametrize("raw", [b"", b"[]", b"{", b"\xff", b'{"format": "x"}', b"[" * 100000])
def test_other_files_are_refused(raw):
    with pytest.raises(FileFormatError, match=r"^here"):
        parse_report(raw, "here")


def test_emulated_time_is_never_taken(data):
    changed = json.loads(json.dumps(data))
    changed["device"]["emulated"] = "qemu-aarch64"
    with pytest.raises(FileFormatError, match="emulated"):
        Report.from_json(changed, "here")


def test_a_process_that_does_not_end_is_killed(tmp_path, monkeypatch):
    """As of a runtime that unfolds a hostile file for ever: the wait for it ends, typed."""
    monkeypatch.setattr(local, "MOST_SECONDS", 0)
    task = Task("latency", seconds=0.1)
    command = [sys.executable, "-c", "import time; time.sleep(3600)"]
    with subprocess.Popen(command) as worker:
        with (
            pytest.raises(FileFormatError, match=r"m\.odm: measuring it takes more than"),
            local._deadline([worker], tmp_path / "m.odm", task),
        ):
            worker.wait()
        assert worker.returncode < 0
