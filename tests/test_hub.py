"""A model folder as a repository of the Hugging Face Hub, and a model file in MLflow."""

import hashlib
import shutil

import numpy as np
import pytest
import torch
import yaml
from support.runtime import small_ids, write_one_input_model, write_small_model
from torch import nn

import ondevice
from ondevice.converters import convert
from ondevice.errors import InputError, SpecError
from ondevice.pyfunc import _load_pyfunc
from ondevice.verify import verify


class Clicks(nn.Module):
    def __init__(self):
        super().__init__()
        self.items, self.layer = nn.Embedding(50, 4), nn.Linear(4, 1)

    def forward(self, item):
        return torch.sigmoid(self.layer(self.items(item))).squeeze(-1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("hub") / "models"
    torch.manual_seed(0)
    convert(Clicks().eval(), torch.tensor([1, 2]), folder, name="ctr", card="README.md")
    return folder


def test_the_card_begins_with_metadata(folder):
    text = (folder / "README.md").read_text()
    assert not (folder / "ctr.md").exists()
    _, metadata, rest = text.split("---\n", 2)
    assert yaml.safe_load(metadata) == {
        "library_name": "ondevice",
        "pipeline_tag": "tabular-classification",
        "tags": ["click-through-rate", "recommendation", "odm", "onnx", "tflite"],
    }
    assert rest.startswith("\n# ctr\n")


def test_the_hub_reads_the_card(folder):
    hub = pytest.importorskip("huggingface_hub", reason="huggingface_hub is not installed")
    card = hub.ModelCard.load(folder / "README.md")
    assert card.data.library_name == "ondevice"
    assert card.data.to_dict()["pipeline_tag"] == "tabular-classification"


def test_a_download_of_links_opens_and_verifies(folder, tmp_path):
    """The Hub's cache holds files by their hash, and a folder of links to them."""
    blobs, snapshot = tmp_path / "blobs", tmp_path / "snapshots" / "0a1b"
    blobs.mkdir()
    snapshot.mkdir(parents=True)
    for path in folder.iterdir():
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        shutil.copy(path, blobs / digest)
        (snapshot / path.name).symlink_to(f"../../blobs/{digest}")
    expected = ondevice.load(folder / "ctr.odm").predict({"item": [0, 7, 49]})
    for kind in ("odm", "onnx", "tflite"):
        model = ondevice.load(snapshot / f"ctr.{kind}")
        np.testing.assert_allclose(model.predict({"item": [0, 7, 49]}), expected, atol=1e-6)
        assert verify(snapshot / f"ctr.{kind}").passed


@pytest.mark.parametrize(
    "names",
    [{"card": "../README.md"}, {"card": "card.txt"}, {"name": "../up"}, {"name": "a/b"},
     {"name": ""}, {"card": ""}, {"card": "manifest.json"}],
)  # fmt: skip
def test_names_stay_in_the_folder(tmp_path, names):
    with pytest.raises(SpecError, match="expected a"):
        convert(Clicks().eval(), torch.tensor([1, 2]), tmp_path / "out", **names)
    assert not any(tmp_path.iterdir())


def test_pyfunc_scores_frames(tmp_path):
    pd = pytest.importorskip("pandas", reason="pandas is not installed")
    write_small_model(tmp_path / "small.odm")
    raw = {"user": ["anna", "bo"], "colour": [12345, 7], "slot": [3, 0]}
    expected = ondevice.load(tmp_path / "small.odm").predict(raw, raw=True)
    for place in (tmp_path, tmp_path / "small.odm"):
        loaded = _load_pyfunc(str(place))
        np.testing.assert_array_equal(loaded.predict(pd.DataFrame(raw)), expected)
    ids = small_ids(2)
    np.testing.assert_array_equal(
        loaded.predict(pd.DataFrame(ids), params={"raw": False}), loaded.model.predict(ids)
    )
    for params in ({"raws": False}, {"raw": 1}):
        with pytest.raises(InputError, match="expected only raw"):
            loaded.predict(pd.DataFrame(ids), params=params)


def test_pyfunc_needs_one_model(tmp_path):
    with pytest.raises(InputError, match="found none"):
        _load_pyfunc(str(tmp_path))
    for name in ("a", "b"):
        write_one_input_model(tmp_path / f"{name}.odm")
    with pytest.raises(InputError, match=r"one model expected, got a\.odm, b\.odm"):
        _load_pyfunc(str(tmp_path))


def test_mlflow_saves_and_loads_a_model_folder(folder, tmp_path):
    mlflow = pytest.importorskip("mlflow.pyfunc", reason="mlflow is not installed")
    pd = pytest.importorskip("pandas", reason="pandas is not installed")
    mlflow.save_model(tmp_path / "saved", loader_module="ondevice.pyfunc", data_path=str(folder))
    loaded = mlflow.load_model(str(tmp_path / "saved"))
    frame = pd.DataFrame({"item": [0, 7, 49]})
    expected = ondevice.load(folder / "ctr.odm").predict(frame)
    np.testing.assert_array_equal(loaded.predict(frame), expected)
