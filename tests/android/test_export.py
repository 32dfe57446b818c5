"""`ondevice export-android`: what it writes, and what it refuses before it writes anything."""

import json
import shutil

import numpy as np
import pytest
import torch
from support.converters import PlainModel
from support.runtime import FEATURES, expected_probabilities, write_small_model

from ondevice.cli import main
from ondevice.converters import convert
from ondevice.features import FeatureSpec, Field
from ondevice.verify import verify

USERS = "name,user\nAna,a\nnobody,\n"
ITEMS = "title,colour,slot\nstone,17,0\nnone,,4\n"


@pytest.fixture
def files(tmp_path):
    write_small_model(tmp_path / "m.odm")
    (tmp_path / "users.csv").write_text(USERS)
    (tmp_path / "items.csv").write_text(ITEMS)
    return tmp_path


def export(folder, *more, model="m.odm"):
    tables = ["--users", folder / "users.csv", "--items", folder / "items.csv"]
    return main(list(map(str, ["export-android", folder / model, "--out", folder / "out",
                               *(more or tables)])))  # fmt: skip


def test_what_is_written(files, capsys):
    assert export(files) == 0
    assert (files / "out" / "model.odm").read_bytes() == (files / "m.odm").read_bytes()
    data = json.loads((files / "out" / "catalogue.json").read_text(encoding="utf-8"))
    assert data["users"][1] == {"title": "nobody", "values": {"user": None}}
    assert data["items"][0] == {"title": "stone", "values": {"colour": 17, "slot": 0}}
    ids = FEATURES.encode({"user": ["a", "a"], "colour": [17, None], "slot": [0, 4]})
    np.testing.assert_allclose(data["first_user_scores"], expected_probabilities(ids), atol=1e-6)
    assert sorted(path.name for path in (files / "out").iterdir()) == [
        "catalogue.json",
        "model.odm",
    ]
    assert "2 users (user), 2 items (colour, slot)" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("users", "items", "message"),
    [
        (USERS, "colour,slot\n17,0\n", "a column 'title'"),
        (USERS, "title,colour,slot,slot\nx,1,2,2\n", "each once"),
        (USERS, "title,colour,place\nx,1,2\n", "no field 'place'"),
        (USERS, "title,colour\nx,1\n", "missing inputs: slot"),
        (USERS, "title,colour,slot\nx,1\n", "line 2: expected 3 cells"),
        (USERS, "title,colour,slot\nx,1,2,3\n", "line 2: expected 3 cells"),
        (
            USERS,
            "title,colour,slot\nx,red,2\n",
            "line 2: field 'colour': expected a signed 64-bit integer",
        ),
        (USERS, "title,colour,slot\nx,1,9\n", "ID 9"),
        (USERS, "title,colour,slot\n", "expected 1..5000 items, got 0"),
        (USERS, 'title,colour,slot\n"x,1,2\n', "not valid CSV"),
        ("name,user,slot\nAna,a,1\n", ITEMS, "as context and as candidates: slot"),
        ("name,user\n", ITEMS, "expected 1..5000 users, got 0"),
    ],
)
def test_unsound_tables_are_refused(files, capsys, users, items, message):
    (files / "users.csv").write_text(users)
    (files / "items.csv").write_text(items)
    assert export(files) == 1
    assert message in capsys.readouterr().err
    assert not (files / "out").exists()


def test_files_for_stock_runtimes_come_along(files, tmp_path_factory):
    """The .onnx file still finds its tables where the app puts it."""
    folder = tmp_path_factory.mktemp("converted")
    torch.manual_seed(0)
    example = (torch.tensor([1, 2]), torch.tensor([3, 4]))
    features = FeatureSpec((Field("user", "integer", "id"), Field("item", "integer", "id")))
    convert(PlainModel().eval(), example, folder, tables="q8", features=features)
    (files / "u.csv").write_text("name,user\nx,1\n")
    (files / "i.csv").write_text("title,item\ny,2\nz,3\n")
    words = ["--users", files / "u.csv", "--items", files / "i.csv"]
    words += ["--also", folder / "model.onnx", folder / "model.tflite"]
    assert export(files, *words, model=folder / "model.odm") == 0
    for name in ("model.odm", "model.onnx", "model.tflite"):
        assert verify(files / "out" / name).passed
    shutil.copy(folder / "model.tflite", folder / "other.tflite")
    words[-2:] = [folder / "other.tflite"]
    assert export(files, *words, model=folder / "model.odm") == 1


def test_other_requests_are_refused(files, capsys):
    for words, message in (
        (["--items", files / "items.csv"], "come together"),
        (["--items", files / "no.csv", "--users", files / "users.csv"], "No such file"),
        (["--seed", "1"], "not those of the synthetic log"),
    ):
        assert export(files, *words) == 1
        assert message in capsys.readouterr().err
    shutil.copy(files / "m.odm", files / "m.onnx")
    assert export(files, model="m.onnx") == 1
    assert ".odm files only" in capsys.readouterr().err
    write_small_model(files / "plain.odm", vectors=False)
    assert export(files, model="plain.odm") == 1
    assert "no test vectors" in capsys.readouterr().err
    assert not (files / "out").exists()
