"""Every reader of files from outside, given hostile ones: it reads or raises a typed error."""

import io
import json
import shutil

import numpy as np
import pytest
from support.hostile import damaged_files, strange_documents
from support.odm_parts import put_together, take_apart
from support.runtime import write_small_model

from ondevice.bench.report import parse_report
from ondevice.cli import main
from ondevice.errors import OnDeviceError
from ondevice.info import ModelInfo
from ondevice.plan import Plan
from ondevice.printable import printable

pytest.importorskip("torch", reason="readers of checkpoints and recipes need the extra train")

from ondevice.converters.source.user_module import load_arrays
from ondevice.converters.tables.weights import _read_index
from ondevice.features import FeatureSpec, Field
from ondevice.models import (
    BinaryCodeEmbedding,
    ClickModel,
    FullEmbedding,
    NetworkConfig,
    load_checkpoint,
    save_checkpoint,
)
from ondevice.models.data.description import LogDescription
from ondevice.models.network_config import ModelConfig
from ondevice.models.recipe import parse_recipe
from ondevice.models.search.search import _read_path
from ondevice.models.search.state import STATE as STATE_FILE
from ondevice.models.search.state import read_state
from ondevice.models.training.training_state import SETTINGS, TrainingState

FEATURES = FeatureSpec((Field("user"), Field("item")))
DESCRIPTION = {
    "label": "click",
    "columns": {"user": {"kind": "string"}, "price": {"kind": "number", "encoding": "bucket"}},
}
INDEX = {"weight_map": {"a": "one.safetensors", "b": "two.safetensors"}}
STATE = {"settings": {"a": 1}, "complete": True, "frontier": [{"bytes": 1}]}
POINTS = [{"designs": {}, "axes": {"a": 1}, "bytes": 5, "auc": 0.7}]
SAVED = {"rows": 5, "list": [1, {"a": 2}]}
CONFIG = {
    "embeddings": [], "network": {"kind": "dnn", "hidden": [8]}, "histories": {}, "labels": ["c"],
}  # fmt: skip
INFO = {
    "version": 2, "outputs": ["p"], "tables": [], "made_by": {"numpy": "2"},
    "inputs": [{"name": "a", "shape": ["batch", 2], "id_limit": [4, None], "id_low": [0, 0]}],
    "features": [{"name": "a", "kind": "integer", "encoding": "id", "seed": 0}],
}  # fmt: skip
PLAN = {
    "inputs": ["a"], "outputs": ["b"], "weights": ["w"], "tables": {},
    "nodes": [{"op": "Softmax", "inputs": ["a"], "outputs": ["b"], "attributes": {"axis": 1}}],
}  # fmt: skip
RECIPE = 'data = "log.csv"\nseeds = [1, 2]\n[training]\nepochs = 3\nbatch_size = 64\n'


def in_file(name, read):
    """Reads bytes by writing them to a file of that name."""

    def reader(data, folder):
        path = folder / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(data)
        return read(path)

    return reader


def texts(read):
    """Reads the bytes as UTF-8, which the reader's caller has done."""
    return lambda data, folder: read(data.decode("utf-8", errors="surrogateescape"))


READERS = {
    "report": (lambda data, folder: parse_report(data, "report.json"), {"version": 1}),
    "plan": (lambda data, folder: Plan.from_text(data), PLAN),
    "model description": (lambda data, folder: ModelInfo.from_bytes(data), INFO),
    "network": (texts(ModelConfig.from_json), CONFIG),
    "columns": (in_file("columns.json", LogDescription.from_file), DESCRIPTION),
    "weights index": (in_file("model.safetensors.index.json", _read_index), INDEX),
    "search state": (in_file(STATE_FILE, lambda path: read_state(path.parent)), STATE),
    "search points": (in_file("points.json", _read_path), POINTS),
    "training settings": (
        in_file(SETTINGS, lambda path: TrainingState(path.parent, SAVED)),
        SAVED,
    ),
}


@pytest.mark.parametrize("kind", READERS)
def test_json_of_every_reader(kind, tmp_path):
    read, valid = READERS[kind]
    data = json.dumps(valid).encode()
    documents = ((what, text.encode()) for what, text in strange_documents(valid))
    refused = 0
    for what, changed in (*damaged_files(data), *documents):
        try:
            read(changed, tmp_path)
        except OnDeviceError:
            refused += 1
        except Exception as error:
            pytest.fail(f"{what}: {error!r}")
    assert refused > 50


@pytest.mark.parametrize("kind", ["columns", "recipe"])
def test_toml_of_columns_and_recipes(kind, tmp_path):
    read_columns = in_file("columns.toml", LogDescription.from_file)
    texts_of = (
        RECIPE.encode() if kind == "recipe" else b'label = "click"\n[columns.a]\nkind = "id"\n'
    )
    digits = "9" * 5000
    more = [f"seeds = [{digits}]", f"a = {'[' * 3000}", "a = 1979-05-27T07:32:00Z", "a = nan",
            f"[{'a.' * 5000}b]", 'a = "\\u0000"', "a = 1\na = 2", f"epochs = {digits}"]  # fmt: skip
    for what, data in (*damaged_files(texts_of), *((text[:30], text.encode()) for text in more)):
        for read in (
            lambda data: read_columns(data, tmp_path),
            lambda data: parse_recipe(data.decode("utf-8"), "recipe.toml", tmp_path),
        ):
            try:
                read(data)
            except (OnDeviceError, UnicodeDecodeError):  # the file's reader has decoded it
                continue
            except Exception as error:
                pytest.fail(f"{what}: {error!r}")


def test_npz_of_example_inputs(tmp_path):
    whole = io.BytesIO()
    np.savez(whole, a=np.arange(5), b=np.ones((2, 3), np.float32))
    packed = io.BytesIO()
    np.savez_compressed(packed, a=np.arange(500))
    read = in_file("inputs.npz", load_arrays)
    for valid in (whole.getvalue(), packed.getvalue()):
        assert read(valid, tmp_path)
        for what, data in damaged_files(valid, count=1500):
            try:
                read(data, tmp_path)
            except OnDeviceError:
                continue
            except Exception as error:
                pytest.fail(f"{what}: {error!r}")


@pytest.mark.parametrize("name", ["model.odm", "model.onnx", "model.tflite"])
@pytest.mark.parametrize("command", ["inspect", "verify"])
def test_names_do_not_steer_the_terminal(name, command, tmp_path, capsys):
    """A file's name, or what it says, may hold escapes of a terminal."""
    path = tmp_path / f"\x1b[2J\x9b31m\u202e{name}"
    path.write_bytes(b"\x1b]0;title\x07" * 10)
    assert main([command, str(path)]) == 1
    shown = capsys.readouterr().err
    assert shown.replace("\n", "").isprintable()
    assert "\\x1b[2J" in shown


def test_names_inside_a_file_do_not_steer_the_terminal(tmp_path, capsys):
    write_small_model(tmp_path / "m.odm", vectors=False)
    parts = take_apart(tmp_path / "m.odm")
    for part in ("plan", "info"):
        text = json.dumps(getattr(parts, part))
        setattr(parts, part, text.replace('"slot"', '"\\u001b[31mred"'))
    red = "table.\x1b[31mred."
    parts.arrays = {n.replace("table.slot.", red): array for n, array in parts.arrays.items()}
    path = put_together(tmp_path / "red.odm", parts)
    assert main(["inspect", str(path)]) == 0
    shown = capsys.readouterr().out
    assert "\\x1b[31mred" in shown
    assert "\x1b" not in shown


def test_printable_text_stays_as_it_is():
    for text in ("plain", "a\n\tb", "größe 42 µs · 数据", ""):
        assert printable(text) == text
    assert printable("a\0b\x1b\udc80\u202e\r") == "a\\x00b\\x1b\\udc80\\u202e\\r"


@pytest.mark.parametrize("factory", ["sys:exit", "os:abort_", "builtins:exit", "posix:nothing"])
def test_convert_of_what_ends_the_process_fails(factory, tmp_path, capsys):
    inputs = tmp_path / "inputs.npz"
    np.savez(inputs, a=np.arange(3))
    out = str(tmp_path / "out")
    assert main(["convert", factory, "--example", str(inputs), "--out", out]) == 1
    assert factory.split(":")[0] in capsys.readouterr().err


def test_a_damaged_checkpoint(tmp_path):
    saved = tmp_path / "saved"
    tables = {"user": BinaryCodeEmbedding(4, 12, 4), "item": FullEmbedding(6, 4)}
    save_checkpoint(saved, ClickModel(tables, NetworkConfig(hidden=(8,))), FEATURES, {"auc": 0.7})
    for name in ("config.json", "model.safetensors"):
        source = saved / name
        for what, data in damaged_files(source.read_bytes(), count=60):
            folder = tmp_path / "changed"
            shutil.copytree(saved, folder, dirs_exist_ok=True)
            (folder / name).write_bytes(data)
            try:
                load_checkpoint(folder)
            except OnDeviceError:
                continue
            except Exception as error:
                pytest.fail(f"{name}: {what}: {error!r}")
