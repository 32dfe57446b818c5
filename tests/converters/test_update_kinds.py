"""Updates of files that are no .odm: .tflite files are updated, sets of two files are refused."""

import shutil

import numpy as np
import pytest
import torch

import ondevice
from ondevice.cli import main
from ondevice.converters import convert
from ondevice.delta.create import create_delta
from ondevice.errors import FileFormatError, InputError
from ondevice.update import boot, read_update_state, update

IDS = {"user": np.arange(8)}


class Small(torch.nn.Module):
    """A table and a layer; `moved`: how far training moved the table since."""

    def __init__(self, moved=0.0):
        super().__init__()
        torch.manual_seed(0)
        self.table = torch.nn.Embedding(200, 8)
        self.layer = torch.nn.Linear(8, 1)
        self.table.weight.data[:20] += moved

    def forward(self, user):
        return torch.sigmoid(self.layer(self.table(user)))


@pytest.fixture(scope="module")
def sets(tmp_path_factory):
    """The folders of two days."""
    folders = [tmp_path_factory.mktemp("day") for _ in range(2)]
    for folder, moved in zip(folders, (0.0, 1.0), strict=True):
        example = {"user": torch.arange(8)}
        convert(Small(moved).eval(), example, folder, targets=("odm", "onnx", "tflite"))
    return folders


def test_a_tflite_file_is_updated_and_rolled_back(sets, tmp_path):
    pytest.importorskip("ai_edge_litert")
    old, new = (folder / "model.tflite" for folder in sets)
    model, delta = tmp_path / "model.tflite", tmp_path / "d.odd"
    shutil.copy(old, model)
    before = ondevice.load(model).predict(IDS)
    assert main(["delta", str(old), str(new), "-o", str(delta)]) == 0
    assert delta.stat().st_size < new.stat().st_size
    assert main(["update", str(model), str(delta)]) == 0
    assert model.read_bytes() == new.read_bytes()
    after = boot(model).predict(IDS)
    assert read_update_state(model).state == "good"
    np.testing.assert_allclose(
        after, Small(1.0)(torch.arange(8)).detach().numpy().reshape(after.shape), atol=0.01
    )
    assert main(["update", "--rollback", str(model)]) == 0
    np.testing.assert_array_equal(boot(model).predict(IDS), before)


def test_an_onnx_file_with_external_data_is_refused(sets, tmp_path):
    old, new = (folder / "model.onnx" for folder in sets)
    with pytest.raises(InputError, match=r"model\.onnx\.data, so both change together"):
        create_delta(old, new)
    device = tmp_path / "device"
    shutil.copytree(sets[0], device)
    before = {path.name: path.read_bytes() for path in device.iterdir()}
    with pytest.raises(InputError, match="publish both files in a new folder"):
        update(device / "model.onnx", new)
    assert before == {path.name: path.read_bytes() for path in device.iterdir()}


def test_folders_are_refused(sets, tmp_path):
    with pytest.raises(InputError, match="a folder; expected the file of a model"):
        create_delta(*sets)


def test_a_folder_of_several_model_files_is_refused(sets, tmp_path):
    device = tmp_path / "device"
    shutil.copytree(sets[0], device)
    with pytest.raises(FileFormatError, match=r"replaces model\.odm only, so keep no other"):
        update(device / "model.odm", sets[1] / "model.odm")
    assert (device / "model.odm").read_bytes() == (sets[0] / "model.odm").read_bytes()


def test_a_set_of_several_files_is_switched_by_a_link(sets, tmp_path):
    pytest.importorskip("onnxruntime")
    current = tmp_path / "current"
    current.symlink_to(sets[0])
    live = ondevice.Live(current / "model.onnx", check_seconds=None)
    old = live.predict(IDS)
    (tmp_path / "new").symlink_to(sets[1])
    (tmp_path / "new").replace(current)
    assert live.refresh()
    expected = Small(1.0)(torch.arange(8)).detach().numpy()
    np.testing.assert_allclose(live.predict(IDS), expected.reshape(old.shape), atol=0.01)
    assert not np.array_equal(live.predict(IDS), old)
