"""What the bytes of a file are for: the parts add up, and agree with what leaving one out saves."""

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from support.converters import click_ids, click_model, torch_inputs

import ondevice
from ondevice.bench.measure.plan import Plan
from ondevice.bench.measure.rounds import run_plan
from ondevice.bench.report import Report
from ondevice.bench.show.tables import markdown
from ondevice.bench.targets.local import LocalMachine
from ondevice.cli import main
from ondevice.container import open_container
from ondevice.converters import convert
from ondevice.converters.verify.report import report_text
from ondevice.errors import FileFormatError, SpecError
from ondevice.features import FeatureSpec, Field
from ondevice.inspection import FileParts, file_parts, inspect
from ondevice.verify import verify

TARGETS = ("odm", "onnx", "tflite")
RNG = np.random.default_rng(4)
KNOWN = np.unique(RNG.integers(-(2**63), 2**63 - 1, 3000))


def features():
    names = click_model().fields
    return FeatureSpec(
        tuple(
            Field(name, "string", "vocabulary", 5, KNOWN) if number == 0 else Field(name, "string")
            for number, name in enumerate(names)
        )
    )


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Conversions of one model: with everything, without vectors, without a map either."""
    torch.manual_seed(0)
    model = click_model()
    reports = {}
    for name, settings in {
        "whole": {"features": features()},
        "plain": {"features": features(), "vectors": 0},
        "bare": {"vectors": 0},
    }.items():
        folder = tmp_path_factory.mktemp(name)
        report = convert(model, (torch_inputs(click_ids(8)),), folder, tables="q4", **settings)
        reports[name] = (folder, report)
    return reports


def on_disk(folder, target):
    return sum(path.stat().st_size for path in folder.glob(f"model.{target}*"))


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("kind", ["whole", "plain", "bare"])
def test_parts_add_up_to_the_files(folders, kind, target):
    folder, report = folders[kind]
    result = inspect(folder / f"model.{target}")
    assert result.parts == report.targets[target].parts
    assert result.parts.total == result.file_bytes == on_disk(folder, target)
    assert min(result.parts.to_json().values()) >= 0
    assert result.parts.tables == sum(table.total for table in result.tables)
    assert (result.parts.vectors > 0) == (kind == "whole")
    assert (result.parts.map > 0) == (kind != "bare")


@pytest.mark.parametrize("target", TARGETS)
def test_a_part_is_what_leaving_it_out_saves(folders, target):
    """But for alignment, of a .tflite file's buffers among others."""
    whole, plain, bare = (folders[kind][1].targets[target].parts for kind in folders)
    assert whole.vectors > 600
    assert abs(whole.vectors - (on_disk(folders["whole"][0], target) - plain.total)) < 100
    # a field's keys are description; a native file's description beyond 4 KiB gets an entry
    assert abs(plain.map - (plain.total - bare.total)) < 600
    encoded = 4 / 3 if target == "onnx" else 1  # base64
    # log2(3000) rounded up and 16 bits of a hash; Elias-Fano: 2 bits and what exceeds log2(3000)
    assert 18 / 8 < plain.map / encoded / len(KNOWN) < 19.5 / 8
    assert abs(plain.network - bare.network) < 100


def test_native_parts_are_the_arrays(folders):
    folder, report = folders["whole"]
    container = open_container(folder / "model.odm")
    sizes = {name: container.array(name).nbytes for name in container.entries}
    parts = report.targets["odm"].parts
    tables = [name for name in sizes if name.startswith("table.")]
    assert parts.tables == sum(sizes[name] for name in tables)
    weights = sum(size for name, size in sizes.items() if name.startswith("weight."))
    assert parts.network == weights + sizes["ondevice.plan"]
    assert parts.padding < 300


def test_onnx_network_has_its_weights(folders):
    folder, report = folders["bare"]
    model = onnx.load(folder / "model.onnx")
    dense = [item for item in model.graph.initializer if "table" not in item.name]
    weights = sum(onnx.numpy_helper.to_array(item).nbytes for item in dense)
    parts = report.targets["onnx"].parts
    assert weights < parts.network + parts.tables


@pytest.mark.parametrize("target", TARGETS)
def test_files_without_vectors_say_so(folders, target, capsys):
    path = folders["plain"][0] / f"model.{target}"
    assert ondevice.load(path).info.vectors is None
    with pytest.raises(FileFormatError, match="no test vectors inside"):
        verify(path)
    assert main(["verify", str(path)]) == 1
    assert "no test vectors inside" in capsys.readouterr().err
    assert "No test vectors travel inside" in (folders["plain"][0] / "model.md").read_text()


def test_vectors_are_counted_and_bounded(tmp_path):
    class Wide(torch.nn.Module):
        def forward(self, numbers):
            return torch.sigmoid(numbers.sum(-1))

    example = (torch.rand(4, 4000),)
    report = convert(Wide(), example, tmp_path, targets=["odm"])
    assert report.vector_rows == 4  # of 16 kB each
    assert report.targets["odm"].parts.vectors < 65_536
    convert(Wide(), (torch.rand(4, 5),), tmp_path, targets=["odm"], vectors=3)
    assert verify(tmp_path / "model.odm").rows == 3
    for wrong in (-1, 2.0, True, 10**6):
        with pytest.raises(SpecError, match="vectors must be"):
            convert(Wide(), example, tmp_path, targets=["odm"], vectors=wrong)


def test_every_report_shows_the_parts(folders, capsys):
    folder, report = folders["whole"]
    parts = report.targets["odm"].parts
    shown = [f"{count:,}" for count in (*parts.to_json().values(), parts.total)]
    card = (folder / "model.md").read_text()
    assert f"| model.odm | {' | '.join(shown)} |" in card
    assert any(line.split()[1:] == shown for line in report_text(report).splitlines()
               if line.startswith("model.odm"))  # fmt: skip
    assert main(["inspect", str(folder / "model.odm")]) == 0
    out = capsys.readouterr().out
    assert all(count in out for count in shown)
    plan = Plan(models=(folder / "model.odm",), rows=(1,), gaps_ms=(0,), seconds=0.05, processes=1)
    measured = run_plan(plan, LocalMachine())
    assert measured.models[0].parts == parts.to_json()
    assert f"| model.odm | {' | '.join(shown)} |" in markdown(measured)
    data = measured.to_json()
    data["models"][0]["parts"]["map"] += 1
    with pytest.raises(FileFormatError, match="do not add up"):
        Report.from_json(data, "report")
    del data["models"][0]["parts"]  # as earlier releases and phones write it
    assert Report.from_json(data, "report").models[0].parts == {}


def test_parts_have_one_sum():
    assert FileParts(1, 2, 3, 4, 5, 6).total == 21
    with pytest.raises(FileFormatError, match="no such file"):
        file_parts(Path("none.onnx"))
