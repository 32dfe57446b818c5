"""Faults that users meet first: the message names the real reason and the next step."""

import gzip
import sys

import pytest
import torch

from ondevice.cli import main
from ondevice.converters import convert

COLUMNS = 'label = "click"\n[fields]\nitem = "integer"\n'
LOG = "item,click\n" + "1,0\n2,1\n" * 50


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "log.csv").write_text(LOG)
    (tmp_path / "columns.toml").write_text(COLUMNS)
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs" / "monday.csv").write_text(LOG)
    (tmp_path / "log.csv.zst").write_bytes(b"\x28\xb5\x2f\xfd\x04\x00")
    (tmp_path / "log.zip").write_bytes(b"PK\x03\x04 and more")
    (tmp_path / "p.csv").write_bytes(b"PAR1 and more")
    (tmp_path / "empty").mkdir()
    (tmp_path / "log.bz2").write_bytes(b"BZh91AY")
    (tmp_path / "packed.csv").write_bytes(gzip.compress(LOG.encode()))
    (tmp_path / "model.odm").write_bytes(b"some bytes")
    return tmp_path


def fault(capsys, *arguments):
    assert main(list(arguments)) == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1, error
    assert "Traceback" not in error and "Errno" not in error
    return error


@pytest.mark.parametrize(
    ("options", "reason", "step"),
    [
        ("--data csv --path log.csv", "needs a description", "with --columns"),
        ("--columns columns.toml", "--columns goes with --data log", "not with 'synthetic'"),
        ("--split time", "--split goes with --data log", "not with 'synthetic'"),
        ("--data csv --path empty --columns columns.toml", "no file of a log", ".parquet"),
        ("--data log --path log.csv.zst --columns columns.toml", "truncated", "log.csv.zst"),
        ("--data csv --path log.bz2 --columns columns.toml", "truncated", "log.bz2"),
        ("--data log --path log.zip --columns columns.toml", "a .zip file", "unpack it first"),
        ("--data log --path p.csv --columns columns.toml", "a .parquet file", "end in .parquet"),
        (
            "--data csv --path packed.csv --columns columns.toml",
            "a .gz file",
            "let its name end in .gz",
        ),
        ("--data criteo --path log.zip", "a .zip file", "unpack it first"),
        ("--data ml1m --path log.zip", "a .zip file", "unpack it first"),
        ("--data criteo --path logs", "none of these files is there", "looked for train.tsv"),
        ("--data ml1m", "is read from files", "give their path"),
    ],
)
def test_logs_that_cannot_be_read(options, reason, step, capsys):
    error = fault(capsys, "train", *options.split(), "--out", "out")
    assert reason in error and step in error, error


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        ("model.odm", "a .odm file is converted already: give the checkpoint or .onnx file"),
        ("log.csv", "it is a file of another kind"),
        ("nowhere", "there is no such folder"),
        ("logs", "not a checkpoint: no config.json"),
    ],
)
def test_models_that_cannot_be_converted(model, reason, capsys):
    error = fault(capsys, "convert", model, "--out", "out")
    assert model in error and reason in error


def test_missing_runtimes_are_named_before_any_work(folder, capsys, monkeypatch):
    for module in ("ai_edge_litert", "tflite_runtime", "onnxruntime"):
        monkeypatch.setitem(sys.modules, module, None)
    for command in (("convert", "logs"), ("compress", "--ratio", "3"), ("demo",)):
        error = fault(capsys, *command, "--out", "out")
        assert "'onnxruntime' for .onnx, 'ai-edge-litert' for .tflite" in error
        assert "pip install 'ondevice-ctr[onnx,tflite]'" in error
        assert ("choose --targets odm" in error) == (command[0] == "convert")
    assert not (folder / "out").exists()
    # a file that needs none of them is not held up
    assert "no config.json" in fault(capsys, "convert", "logs", "--out", "out", "--targets", "odm")


def test_running_a_tflite_file_names_the_runtime_that_its_extra_installs(
    folder, capsys, monkeypatch
):
    net = torch.nn.Sequential(torch.nn.Embedding(5, 2), torch.nn.Sigmoid()).eval()
    convert(net, (torch.tensor([1, 3]),), folder, targets=("tflite",))
    for module in ("ai_edge_litert", "ai_edge_litert.interpreter", "tflite_runtime"):
        monkeypatch.setitem(sys.modules, module, None)
    monkeypatch.setenv("ONDEVICE_IN_CHILD", "1")  # a process of its own would have the modules
    error = fault(capsys, "verify", "model.tflite")
    assert "'ai-edge-litert': pip install 'ondevice-ctr[tflite]'" in error
