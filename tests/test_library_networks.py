"""The benchmark of networks of installed libraries: its runner, and the section of docs/zoo.md."""

import importlib
import json
import re
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

FOLDER = Path(__file__).parents[1] / "benchmarks" / "library_networks"
PAGE = FOLDER.parents[1] / "docs" / "zoo.md"

pytest.importorskip("onnxruntime")
pytest.importorskip("ai_edge_litert")


@pytest.fixture
def benchmark(monkeypatch):
    """The benchmark's files as modules, which they are only beside each other."""
    monkeypatch.syspath_prepend(str(FOLDER))
    names = ("case", "page", "run")
    yield {name: importlib.import_module(name) for name in names}
    for name in names:
        sys.modules.pop(name, None)


class Fields(nn.Module):
    """A table and a batch norm whose start values hide them."""

    def __init__(self):
        super().__init__()
        self.table = nn.Embedding(30, 4)
        nn.init.normal_(self.table.weight, std=1e-4)
        self.norm, self.last = nn.BatchNorm1d(12), nn.Linear(12, 1)

    def forward(self, fields):
        return torch.sigmoid(self.last(self.norm(self.table(fields).flatten(1))))


class Lacking(Fields):
    """Inverse hyperbolic sine, which ONNX alone has."""

    def forward(self, fields):
        return super().forward(fields) + torch.asinh(self.table(fields)).flatten(1)[:, :1]


def _case(benchmark, module):
    return benchmark["case"].Case(module, lambda rows: (torch.randint(1, 30, (rows, 3)),), "a note")


def test_a_network_passes_where_all_engines_agree(benchmark, tmp_path):
    found = benchmark["run"].examine(_case(benchmark, Fields()), tmp_path)
    assert benchmark["run"].passed(found)
    assert set(found["results"]) == {"native", "onnx", "tflite"}
    assert found["spread"] > 0.01  # of scores: without new parameters all rows would score alike
    assert found["note"] == "a note"


def test_a_network_fails_with_the_reason_of_each_engine(benchmark, tmp_path):
    run = benchmark["run"]
    found = run.examine(_case(benchmark, Lacking()), tmp_path)
    assert not run.passed(found)
    assert found["results"]["onnx"]["difference"] <= run.TOLERANCE
    for engine in ("native", "tflite"):
        assert "Asinh" in found["results"][engine]["error"]
    cells = benchmark["page"].section({"versions": {}, "networks": {"a/b": found}}).splitlines()[-1]
    assert cells.startswith("| a | b | none | ")
    assert "a note; native, in C: UnsupportedError: operators that odm cannot express" in cells


def test_a_difference_is_a_failure(benchmark):
    found = {"results": {"native": {"difference": 2e-5}, "onnx": {"difference": 0.0}}}
    assert not benchmark["run"].passed(found)


def test_the_page_names_the_commits_of_rows_that_are_not_from_one(benchmark):
    def head(*commits):
        results = {engine: {"difference": 0.0} for engine in ("native", "onnx", "tflite")}
        rows = {
            f"a/{place}": {"results": results, "note": "", "commit": commit}
            for place, commit in enumerate(commits)
        }
        return benchmark["page"].section({"versions": {}, "networks": rows})

    assert "at different commits: 2 of abc, 1 of def." in head("abc", "def", "abc")
    assert "commit" not in head("abc", "abc")


def test_the_page_shows_the_stored_results(benchmark):
    page, run = benchmark["page"], benchmark["run"]
    stored = json.loads(run.RESULTS.read_text(encoding="utf-8"))
    section = page.kept_section(PAGE.read_text(encoding="utf-8"))
    assert section == page.section(stored)
    rows = [line for line in section.splitlines() if line.startswith("| ")][2:]
    assert len(rows) == len(stored["networks"]) >= 60
    numbers = re.search(r"(\d+) of (\d+) networks of (\d+) libraries pass", section)
    passing = sum(map(run.passed, stored["networks"].values()))
    libraries = {row.split(" | ")[0] for row in rows}
    assert [int(number) for number in numbers.groups()] == [passing, len(rows), len(libraries)]
    assert passing >= 0.92 * len(rows)
    pinned = (FOLDER / "requirements.txt").read_text(encoding="utf-8").lower().replace("_", "-")
    for library in run.LIBRARIES:
        version = stored["versions"][library]
        assert f"{library.lower().replace('_', '-')}=={version}" in pinned
