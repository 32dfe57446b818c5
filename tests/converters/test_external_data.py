"""External data of .onnx files: which names they say, however they say it, and none outside."""

import os

import numpy as np
import pytest

import ondevice
from ondevice.errors import FileFormatError
from ondevice.onnx_file import check_structure

onnx = pytest.importorskip("onnx", reason="the extra convert is not installed")
torch = pytest.importorskip("torch", reason="the extra convert is not installed")
pytest.importorskip("onnxruntime", reason="the extra onnx is not installed")

helper, TensorProto = onnx.helper, onnx.TensorProto


def stranger(path, location, key="location"):
    """A file somebody else wrote, whose table lies in another file."""
    table = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[8, 4])
    table.data_location = TensorProto.EXTERNAL
    for name, value in (("offset", "0"), (key, location), ("length", "128")):
        table.external_data.add(key=name, value=value)
    graph = helper.make_graph(
        [
            helper.make_node("Gather", ["w", "location"], ["rows"], axis=0),
            helper.make_node("ReduceMean", ["rows"], ["score"], axes=[1], keepdims=0),
        ],
        "g",
        [helper.make_tensor_value_info("location", TensorProto.INT64, ["batch"])],
        [helper.make_tensor_value_info("score", TensorProto.FLOAT, ["batch"])],
        [table],
    )
    opset = [helper.make_opsetid("", 17)]
    path.write_bytes(helper.make_model(graph, opset_imports=opset).SerializeToString())
    return path


def value_first(path):
    """The same file, whose entry has its value before its key: protobuf reads it alike."""
    data = path.read_bytes()
    key = data.index(b"\x0a\x08location\x12")
    value = key + 10
    end = value + 2 + data[value + 1]
    path.write_bytes(data[:key] + data[value:end] + data[key:value] + data[end:])
    assert onnx.load(path, load_external_data=False).graph.initializer[0].external_data[1].value
    return path


@pytest.mark.parametrize("change", [lambda path: path, value_first], ids=["usual", "value first"])
@pytest.mark.parametrize(
    "location",
    ["../secret.bin", "/etc/passwd", "./x/../../secret.bin", "/dev/zero", "sub/data", "..", "a\0b"],
)
def test_data_outside_the_folder_is_refused(tmp_path, location, change):
    (tmp_path / "in").mkdir()
    (tmp_path / "secret.bin").write_bytes(bytes(128))
    path = change(stranger(tmp_path / "in" / "m.onnx", location))
    with pytest.raises(FileFormatError, match="is not beside it"):
        ondevice.load(path)


@pytest.mark.parametrize("change", [lambda path: path, value_first], ids=["usual", "value first"])
def test_data_beside_the_file_is_named(tmp_path, change):
    path = change(stranger(tmp_path / "m.onnx", "table.bin"))
    assert check_structure(path, path.read_bytes()).external == {"table.bin": 32}
    with pytest.raises(FileFormatError, match=r"table\.bin: cannot be read: No such file"):
        ondevice.load(path)


@pytest.mark.parametrize("kind", ["fifo", "device", "folder"])
def test_what_is_no_regular_file_is_not_read(tmp_path, kind):
    """A FIFO never ends before somebody writes, and /dev/zero never ends at all."""
    path, data = stranger(tmp_path / "m.onnx", "table.bin"), tmp_path / "table.bin"
    {"fifo": os.mkfifo, "device": lambda p: p.symlink_to("/dev/zero"), "folder": os.mkdir}[kind](
        data
    )
    with pytest.raises(FileFormatError, match="no regular file"):
        ondevice.load(path)


def test_every_truncation_and_changed_byte_is_read_or_refused(tmp_path):
    data = stranger(tmp_path / "m.onnx", "table.bin").read_bytes()
    refused = 0
    for at in range(len(data)):
        for changed in (
            data[:at],
            *(data[:at] + bytes([b]) + data[at + 1 :] for b in (0, 127, 255)),
        ):
            try:
                names = check_structure(tmp_path / "m.onnx", changed).external
            except FileFormatError:
                refused += 1
            else:
                assert all("/" not in name for name in names)
    assert refused > 100


class Places(torch.nn.Module):
    """A network with an input of the name that ONNX has for places of data."""

    def __init__(self):
        super().__init__()
        self.table = torch.nn.Embedding(3000, 8)

    def forward(self, location):
        return self.table(location).sum(1).sigmoid()


def test_an_input_may_be_called_location(tmp_path):
    from ondevice.converters import convert

    torch.manual_seed(0)
    module, ids = Places().eval(), np.array([0, 5, 2999])
    convert(module, {"location": torch.from_numpy(ids)}, tmp_path, targets=("onnx",), tables="f32")
    scores = ondevice.load(tmp_path / "model.onnx").predict({"location": ids})
    expected = module(torch.from_numpy(ids)).detach().numpy()
    np.testing.assert_allclose(scores, expected, atol=1e-6)
