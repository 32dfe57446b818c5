"""The search: probes by hand, proposals, goals, the command's files, stopped and continued."""

import csv
import json
import math
import signal
from dataclasses import replace

import numpy as np
import pytest
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from sklearn.metrics import roc_auc_score
from support.stopped import signalled, stopped_command

import ondevice
from ondevice.cli import main
from ondevice.codecs import quantise
from ondevice.errors import FileFormatError, SpecError
from ondevice.inspection import inspect
from ondevice.json_file import write_json_file
from ondevice.models.data.synthetic import synthetic_log
from ondevice.models.search import run_trial
from ondevice.models.search.design_sizes import DesignSizes
from ondevice.models.search.frontier import Frontier
from ondevice.models.search.frontier_plot import CAPTION_SIZE, _caption, write_plot
from ondevice.models.search.goal import Goal, parse_goal, parse_size
from ondevice.models.search.probe import Probe
from ondevice.models.search.run_trial import folder_of, trained_model
from ondevice.models.search.search import Search
from ondevice.models.search.state import folder_of_search
from ondevice.models.search.table_design import TableDesign
from ondevice.models.search.trial import Trial, TrialResult
from ondevice.models.search.trial_data import prepare

VOCABULARIES = {"user": 400, "item": 150, "hour": 24}


@pytest.fixture(scope="module")
def data():
    torch.set_num_threads(1)
    return prepare(synthetic_log(4000, VOCABULARIES))


@pytest.fixture(scope="module")
def probed(data):
    """A trained model, its encoded log and a probe of it."""
    trial = Trial({name: TableDesign(2, "f32") for name in data.values}, epochs=2)
    splits = data.encoded(trial)
    model = trained_model(data, trial, splits, progress=False)
    return model, splits, Probe(model, data, splits.validation, 2, DesignSizes(data))


def result(table_bytes, auc, **settings):
    trial = Trial({"user": TableDesign(**settings)})
    resampled = (auc - 0.01, auc, auc + 0.01)
    return TrialResult(trial, table_bytes, 0, 20, table_bytes + 50, auc, auc, resampled)


def test_a_probe_scores_the_tables_that_a_trial_would_start_from(data, probed):
    model, splits, probe = probed
    designs = {name: TableDesign(2, "q4") for name in data.values}
    designs["user"] = TableDesign(2, "q8", head=30)
    # the same by hand: rows of the 30 most frequent users, one mean row for all others
    counts = dict(zip(data.values["user"].tolist(), data.counts["user"].tolist(), strict=True))
    known = splits.train.features["user"].vocabulary.tolist()
    weight = model.embedding("user").weight.detach().numpy()
    table = quantise(weight, "q8").dequantise()
    frequent = set(data.values["user"][:30].tolist())
    rare = [i for i, value in enumerate(known) if value not in frequent]
    mean = np.average(weight[2:][rare], axis=0, weights=[counts[known[i]] for i in rare])
    table[[1] + [2 + i for i in rare]] = mean
    with torch.no_grad():
        vectors = [torch.from_numpy(table)[splits.validation.ids["user"]]]
        for name in ("item", "hour"):
            rounded = quantise(model.embedding(name).weight.numpy(), "q4").dequantise()
            vectors.append(torch.from_numpy(rounded)[splits.validation.ids[name]])
        logits = model.network(torch.cat(vectors, -1)).squeeze(-1)
    expected = roc_auc_score(splits.validation.labels, logits.numpy())
    assert probe.auc(designs) == pytest.approx(expected, abs=1e-4)


def test_a_descent_gets_smaller_and_takes_the_cheapest_step(data, probed):
    probe = probed[2]
    points = list(probe.descend(100))
    sizes = [point.bytes for point in points]
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[-1] <= 100 < sizes[-2]
    assert points[0].designs == probe.start()
    # of all first steps none costs less validation AUC per byte
    prices = []
    for name in data.values:
        design = points[0].designs[name]
        for after in (probe.fewer_bits(design), probe.fewer_rows(name, design)):
            if after is not None:
                saved = probe.table_bytes(name, design) - probe.table_bytes(name, after)
                auc = probe.auc({**points[0].designs, name: after})
                prices.append(((points[0].auc - auc) / saved, {**points[0].designs, name: after}))
    assert points[1].designs == min(prices, key=lambda price: price[0])[1]


def test_heads_shrink_by_whole_counts(data, probed):
    probe = probed[2]
    counts, design = data.counts["user"], TableDesign(2)
    seen = []
    while (design := probe.fewer_rows("user", design)) is not None:
        seen.append(design.head)
    assert seen[-1] == 0
    for head in seen[:-1]:
        assert counts[head - 1] > counts[head]  # equal counts stay together
    assert probe.fewer_bits(TableDesign(2, "q1")) is None


def test_a_search_fills_its_budget_and_repeats(data, tmp_path, monkeypatch):
    goal = Goal(budget=400)
    search = Search(data, goal, tmp_path, Trial({}, epochs=1), widths=(4, 1), trials=8)
    results = list(search.run(lambda text: None))
    assert sum(not item.trial.is_refit for item in results) == 8
    assert any(item.trial.distillation for item in results)
    assert search.left
    assert results[0].trial.tables["user"] == TableDesign(4, "f32")
    best = goal.choose(Frontier(results[0], tuple(results)))
    assert best is not None
    assert best.table_bytes <= 400
    assert sum(396 <= item.table_bytes <= 400 for item in results) >= 2  # to within 1 %
    tails = {table.tail for item in results for table in item.trial.tables.values()}
    assert tails >= {"shared", "binary_code", "lookup"}
    with monkeypatch.context() as patched:  # nothing is trained again
        patched.setattr(run_trial, "trained_model", lambda *_, **__: pytest.fail("trained"))
        assert list(search.run(lambda text: None)) == results
    stored = next(tmp_path.glob("*/descent-*.json"))
    stored.write_text("[1]")
    with pytest.raises(FileFormatError, match="not a stored descent"):
        list(search.run(lambda text: None))


def test_a_search_fills_a_file_of_hardly_more_than_its_header(data, tmp_path):
    goal = Goal(budget=2600, measure="file")
    search = Search(data, goal, tmp_path, Trial({}, epochs=1), widths=(1,), trials=3)
    results = list(search.run(lambda text: None))
    best = goal.choose(Frontier(results[0], tuple(results)))
    assert 2400 <= best.file_bytes <= 2600
    assert len(best.trial.hidden) < 2 or max(best.trial.hidden) <= 16
    files = [ondevice.load(path) for path in tmp_path.glob("*/model.odm")]
    vectors = {len(file.info.vectors.inputs["user"]) for file in files}
    assert vectors == {8, 32}  # the reference's file, which is large, has as many as any


@pytest.mark.parametrize(
    ("ships", "most", "trials", "least"), [("onnx", 10_600, 2, 0.99), ("tflite", 9_000, 3, 0.98)]
)
def test_a_search_fills_the_file_that_ships(data, tmp_path, ships, most, trials, least):
    goal = Goal(budget=most, measure="file", ships=ships)
    search = Search(data, goal, tmp_path, Trial({}, epochs=1), widths=(4,), trials=trials)
    results = list(search.run(lambda text: None))
    best = goal.choose(Frontier(results[0], tuple(results), "file"))
    folder = folder_of(data, best.trial, tmp_path)
    written = sum(path.stat().st_size for path in folder.glob(f"model.{ships}*"))
    assert best.file_bytes == written
    assert written <= most  # the best by its AUC, which a fuller file need not be
    assert any(least * most <= item.file_bytes <= most for item in results)


def test_a_search_within_a_loss(data, tmp_path):
    goal = Goal(max_auc_loss=0.02)
    search = Search(data, goal, tmp_path, Trial({}, epochs=1), widths=(4,), trials=5)
    results = list(search.run(lambda text: None))
    best = goal.choose(Frontier(results[0], tuple(results)))
    assert best is not None
    assert best.validation_auc >= results[0].validation_auc - 0.02
    assert best.table_bytes < results[0].table_bytes / 8


def test_frontier_and_choice_by_hand():
    full, half = result(100, 0.8, dim=8), result(50, 0.79, dim=4)
    worse, tiny = result(60, 0.78, dim=5), result(5, 0.6, dim=1)
    frontier = Frontier(full, (full, half, worse, tiny))
    assert frontier.points == [tiny, half, full]
    assert Goal(budget=60).choose(frontier) == half
    assert Goal(ratio=20).choose(frontier) == tiny
    assert Goal(max_auc_loss=0.02).choose(frontier) == half
    assert Goal(budget=4).choose(frontier) is None
    cells = frontier.cells(half)
    assert (cells["times smaller"], cells["share of AUC"], cells["lift ratio"]) == (
        "2.0",
        "98.75%",
        "96.7%",
    )


def test_frontier_files(tmp_path):
    full, half = result(100, 0.8), result(50, 0.79, dim=1, head=7, tail="hash", size=3)
    frontier = Frontier(full, (full, half, result(60, 0.7)))
    frontier.write_csv(tmp_path / "f.csv")
    with (tmp_path / "f.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["table bytes"], row["on frontier"]) for row in rows] == [
        ("50", "yes"),
        ("60", "no"),
        ("100", "yes"),
    ]
    assert rows[0]["tables"] == "user 7 x 1 q4 + hash 3"
    for name, start in (("f.png", b"\x89PNG"), ("f.svg", b"<?xml")):
        write_plot(frontier, tmp_path / name, half, 55)
        first = (tmp_path / name).read_bytes()
        assert first.startswith(start)
    write_json_file(frontier.to_json(None), tmp_path / "f.json")
    read = json.loads((tmp_path / "f.json").read_text())
    assert read["best"] is None
    assert read["reference"]["trial"]["tables"]["user"]["dim"] == 16


def test_a_frontier_of_a_few_test_rows_whose_auc_is_zero(tmp_path):
    full = replace(result(100, 0.0), resampled=(0.0, 0.5))
    small = replace(result(50, 0.0), resampled=(0.25, 0.25))
    better = replace(result(60, 0.4), resampled=(0.5, 0.5))
    frontier = Frontier(full, (full, small, better))
    assert [frontier.share(item) for item in frontier.results] == [1.0, 1.0, math.inf]
    assert frontier.share_error(small) == 0  # one pair has a share
    frontier.write_csv(tmp_path / "f.csv")
    write_plot(frontier, tmp_path / "f.png", small)
    assert "100.00%" in frontier.text(small)


@pytest.mark.parametrize(("width", "lines"), [(11.0, 2), (13.0, 1)])
def test_the_captions_of_the_plot_fit_its_width(width, lines):
    """The widest text that occurs is drawn; the plot's captions were cut at its edge once."""
    full, half = result(100_000_000, 0.8), result(50_777_000, 0.79, dim=16, head=7)
    text = _caption(Frontier(full, (full, half)), 88, half, width)
    figure = Figure(figsize=(width, 4.0))
    canvas = FigureCanvasAgg(figure)
    drawn = figure.text(0.04, 0.5, text, fontsize=CAPTION_SIZE)
    assert drawn.get_window_extent(canvas.get_renderer()).x1 < figure.bbox.width
    assert text.count("\n") + 1 == lines


def test_goals_out_of_range():
    for settings, match in (
        ({}, "one of budget"),
        ({"budget": 5, "ratio": 2}, "one of budget"),
        ({"budget": 0}, "at least 1 byte"),
        ({"ratio": 0.5}, "ratio must be"),
        ({"ratio": float("nan")}, "ratio must be"),
        ({"max_auc_loss": -0.1}, "max-auc-loss"),
        ({"budget": 5, "ships": "onnx"}, "with the measure 'file'"),
        ({"budget": 5, "ships": "pkl", "measure": "file"}, "the file that ships must be"),
    ):
        with pytest.raises(SpecError, match=match):
            Goal(**settings)


def test_goals_as_they_are_typed():
    assert parse_goal("200KB", None, None) == Goal(budget=200_000, measure="file")
    assert parse_goal("tables:20KiB", None, None) == Goal(budget=20_480, measure="tables")
    assert parse_goal(None, "100", None) == Goal(ratio=100, measure="tables")
    assert parse_goal(None, "file:2.5", None) == Goal(ratio=2.5, measure="file")
    assert parse_goal(None, None, "file:0.002") == Goal(max_auc_loss=0.002, measure="file")
    onnx = Goal(budget=200_000, measure="file", ships="onnx")
    assert parse_goal("onnx:200KB", None, None) == onnx
    assert onnx.name == "onnx-200000B"
    assert parse_goal(None, "tflite:10", None) == Goal(ratio=10, measure="file", ships="tflite")
    assert parse_goal(None, None, "onnx:0.01").name == "onnx-loss-0.01"
    for texts, match in (
        (("map:3KB", None, None), "expected a size such as"),
        ((None, "file:many", None), "--ratio: expected a number"),
        ((None, None, "2%"), "--max-auc-loss: expected a number"),
        ((None, None, None), "one of budget"),
    ):
        with pytest.raises(SpecError, match=match):
            parse_goal(*texts)


def test_sizes():
    assert [parse_size(text) for text in ("20KB", "1.5MiB", "7")] == [20000, 1572864, 7]
    for text in ("", "-1", "KB", "1e9", "2 parsec", "9" * 99):
        with pytest.raises(SpecError, match="expected a size"):
            parse_size(text)


def test_unreachable_budget_is_said(tmp_path, capsys):
    arguments = ["compress", "--budget", "1B", "--max-rows", "3000", "--trials", "1"]
    assert main([*arguments, "--out", str(tmp_path)]) == 1
    said = capsys.readouterr().err
    assert "no trial meets the goal; the smallest file takes" in said
    assert "nothing that the search knows takes less than about" in said


def test_command_stopped_by_ctrl_c_continues(tmp_path, capsys):
    """Stopped by a real SIGINT, it keeps what there is; the same command then ends as if whole."""
    out = tmp_path / "out"
    folder = out / "tables-60000B"
    goal = ["--budget", "tables:60KB", "--max-rows", "3000", "--trials", "3"]
    arguments = ["compress", *goal, "--out", str(out), "--json", str(out / "f.json")]
    out.mkdir()
    with stopped_command(out, "trials/*/descent-*.json", *arguments) as process:
        printed, complaints = signalled(process, signal.SIGINT)
    assert process.returncode == 130, complaints
    assert "the same command continues" in complaints
    assert "tables smaller" in printed
    times = {path: path.stat().st_mtime_ns for path in out.glob("trials/*/result.json")}
    assert 1 <= len(times) < 3
    assert (folder / "frontier.png").is_file()
    assert not (folder / "model.odm").exists()

    assert main(arguments) == 0
    assert all(path.stat().st_mtime_ns == time_ns for path, time_ns in times.items())
    assert len(list(out.glob("trials/*/result.json"))) >= 3
    assert 0 < sum(item.total for item in inspect(folder / "model.odm").tables) <= 60000
    data = json.loads((out / "f.json").read_text())
    assert data["best"] in data["frontier"]
    said = capsys.readouterr()
    assert "best: a file of" in said.out and f"results: {folder}" in said.out
    assert "[3/3" in said.err and " left] " in said.err
    before = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    (out / "f.json").unlink()
    assert main(arguments) == 0
    assert "this search is finished and its results are kept" in capsys.readouterr().out
    assert json.loads((out / "f.json").read_text()) == data
    assert {path: path.stat().st_mtime_ns for path in before} == before


def test_a_search_that_was_killed_before_its_first_file_keeps_its_folder(tmp_path):
    settings = {"seed": 0}
    left = tmp_path / "small" / ".ondevice-0123456789abcdef.tmp"
    left.mkdir(parents=True)
    assert folder_of_search(tmp_path, "small", settings).path == tmp_path / "small"
    (tmp_path / "small" / "mine").touch()
    assert folder_of_search(tmp_path, "small", settings).path == tmp_path / "small-2"


def test_searches_in_one_folder_share_trials_and_keep_their_results(tmp_path, capsys):
    def search(budget, *more):
        arguments = ["compress", "--budget", budget, "--max-rows", "2000", "--trials", "2"]
        code = main([*arguments, *more, "--out", str(tmp_path)])
        return code, capsys.readouterr()

    def trials():
        return {path: path.stat().st_mtime_ns for path in tmp_path.glob("trials/*/result.json")}

    def results(folder):
        return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}

    assert search("tables:30KB")[0] == 0
    first, stored = results(tmp_path / "tables-30000B"), trials()
    # another goal: a folder of its own, the same reference
    assert search("tables:20KB")[0] == 0
    assert len(trials()) > len(stored) and trials().items() >= stored.items()
    assert sum('"codec": "f32"' in path.read_text() for path in trials()) == 1
    # another seed: nothing can be shared, and the folder's name is taken
    code, said = search("tables:30KB", "--seed", "1")
    assert code == 0
    assert "tables-30000B (seed was 0, now 1)" in said.out
    assert (tmp_path / "tables-30000B-2" / "model.odm").is_file()
    # a goal that cannot be met, and what is no result of a search, change nothing either
    assert search("1B")[0] == 1
    (tmp_path / "tables-9000B").mkdir()
    (tmp_path / "tables-9000B" / "model.odm").write_text("mine")
    assert search("tables:9KB")[0] == 0
    assert (tmp_path / "tables-9000B" / "model.odm").read_text() == "mine"
    assert results(tmp_path / "tables-30000B") == first
    (tmp_path / "tables-30000B" / "search.json").write_text("{}")
    code, said = search("tables:30KB")
    assert code == 1 and "not the state of a search" in said.err
