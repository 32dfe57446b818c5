"""Conversion to all targets, compared with torch; nothing is left behind when it fails."""

import hashlib
import json
import shutil
import struct
import zlib

import numpy as np
import onnx
import pytest
import torch
from safetensors import safe_open
from support.converters import (
    PlainModel,
    click_ids,
    click_model,
    legacy_dir,
    onnx_lookups,
    torch_inputs,
    torch_output,
)
from torch import nn

import ondevice
from ondevice.codecs import BITS, CODECS
from ondevice.converters import convert
from ondevice.engines import open_engine
from ondevice.engines.options import Options
from ondevice.errors import InputError, ParityError, SpecError, UnsupportedError
from ondevice.features import FeatureSpec, Field
from ondevice.inspection import inspect
from ondevice.models import AdaptiveMask, BinaryCodeEmbedding, ClickModel
from ondevice.verify import verify

TARGETS = ("odm", "onnx", "tflite")


@pytest.fixture(scope="module", params=CODECS)
def converted(request, tmp_path_factory):
    """One model in all targets with every codec; also kept for the oldest environment."""
    module = click_model()
    folder = tmp_path_factory.mktemp(request.param)
    report = convert(module, (torch_inputs(click_ids(8)),), folder, tables=request.param)
    if legacy := legacy_dir():
        shutil.copytree(folder, legacy / request.param)
    return request.param, module, folder, report


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("rows", [1, 2, 17, 1024])
def test_files_equal_torch(converted, target, rows):
    codec, module, folder, report = converted
    ids = click_ids(rows, seed=rows)
    got = ondevice.load(folder / f"model.{target}").predict(ids)
    expected = torch_output(module, ids)
    assert got.shape == expected.shape
    difference = np.abs(got - expected).max()
    # float tables: arithmetic order alone; otherwise the rounding that conversion reported,
    # here on other IDs
    allowed = {"f32": 1e-6, "f16": 1e-3, "q8": 0.03, "q4": 0.5, "q3": 0.7}
    assert difference <= allowed.get(codec, 1.0)
    if codec == "f32":
        assert report.quantisation_difference == 0


@pytest.mark.parametrize("target", TARGETS)
def test_targets_agree_to_rounding(converted, target):
    _, _, folder, _ = converted
    ids = click_ids(500, seed=9)
    reference = ondevice.load(folder / "model.odm").predict(ids)
    got = ondevice.load(folder / f"model.{target}").predict(ids)
    np.testing.assert_allclose(got, reference, atol=1e-6, rtol=0)


@pytest.mark.parametrize("target", TARGETS)
def test_test_vectors_travel_inside(converted, target):
    _, _, folder, report = converted
    result = verify(folder / f"model.{target}")
    assert result.passed
    assert result.rows == 32
    assert report.targets[target].checked_rows == 1 + 2 + 17 + 1024
    assert report.targets[target].max_difference <= 1e-6


def test_sizes_on_disk_show_codec_and_truncation(tmp_path):
    """Every target must store the tables quantised and truncated, not only compute so."""
    table = BinaryCodeEmbedding(16, 24, 12)
    floats = table.weight.numel() * 4
    widths = np.minimum(np.random.default_rng(0).geometric(0.3, table.spec.rows), 16)
    masks = {"whole": None, "cut": AdaptiveMask.from_widths(widths, 16)}
    example = (torch_inputs({"user": click_ids(8)["user"]}),)
    sizes = {}
    for name, mask in masks.items():
        table.mask = mask
        module = ClickModel({"user": table}, (8,))
        for codec in ("f32", "q8", "q4"):
            report = convert(module, example, tmp_path / f"{name}-{codec}", tables=codec)
            for target in TARGETS:
                sizes[target, name, codec] = report.targets[target].bytes / floats
    fixed = 0.03  # network, graph and description of so small a model
    kept = widths.sum() / widths.size / 16
    in_fours = (-(-widths // 4) * 4).sum() / widths.size / 16  # column blocks of 4 dimensions
    for target in TARGETS:
        expected = kept + 0.75 / 64 if target == "odm" else in_fours + 2 / 64
        assert sizes[target, "whole", "f32"] == pytest.approx(1, abs=fixed)
        assert sizes[target, "whole", "q8"] == pytest.approx(1 / 4, abs=fixed)
        assert sizes[target, "whole", "q4"] == pytest.approx(1 / 8, abs=fixed)
        assert sizes[target, "cut", "f32"] == pytest.approx(expected, abs=fixed)
        assert sizes[target, "cut", "q8"] < sizes[target, "whole", "q8"] / 1.5


class Narrow(nn.Module):
    """A table of few dimensions beside blocks of as many, whose rows share bytes."""

    def __init__(self, dim: int, rows: int) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.items, self.users = nn.Embedding(rows, dim), BinaryCodeEmbedding(dim, 24, 12)
        self.last = nn.Linear(2 * dim, 1)

    def forward(self, item, user):
        return self.last(torch.cat([self.items(item), self.users(user)], -1)).squeeze(-1)


@pytest.mark.parametrize(
    ("codec", "dim"), [("q4", 1), ("q4", 3), ("q3", 1), ("q3", 5), ("q2", 5), ("q1", 3)]
)
def test_rows_of_few_dimensions_share_bytes_in_every_target(tmp_path, codec, dim):
    rows = 5001  # no whole number of bytes
    module = Narrow(dim, rows).eval()
    example = (torch.tensor([1, 2]), torch.tensor([3, 4]))
    report = convert(module, example, tmp_path, tables=codec)
    assert max(target.max_difference for target in report.targets.values()) < 1e-6
    payloads = {name: -(-count * dim * BITS[codec] // 8) for name, count in
                (("items.weight", rows), ("users.weight", 2 * 4096))}  # fmt: skip
    for target in TARGETS:
        tables = {table.name: table for table in inspect(tmp_path / f"model.{target}").tables}
        for name, payload in payloads.items():
            found = tables[name]
            # by column, or levels
            scales = 4 * dim * (2 ** BITS[codec] if found.scale_axis == "levels" else 1)
            assert (found.payload, found.scales) == (payload, scales), name
        fixed = 12_000 + (2 * 256 * 8 // BITS[codec] * 4)  # description, graph, all bytes' codes
        stored = sum(file.stat().st_size for file in tmp_path.glob(f"model.{target}*"))
        assert sum(payloads.values()) < stored < sum(payloads.values()) + fixed
    names = ondevice.load(tmp_path / "model.odm").info.inputs
    for target in ("onnx", "tflite"):  # the file itself must refuse such a row, not read another's
        _, runner, _ = open_engine(tmp_path / f"model.{target}", Options())
        for bad in (rows, rows + 1, rows + 2, rows + 3, -1, 2**32, 2**63 - 1):
            ids = {names[0].name: np.array([1, bad]), names[1].name: np.array([1, 2])}
            with pytest.raises(InputError):
                runner.run(ids)


def test_inspect_adds_up(converted):
    codec, module, folder, _ = converted
    shared = [f"embeddings.{name}.weight" for name in ("user", "item")]
    stored = {table.name: table for table in inspect(folder / "model.odm").tables}
    levels = any(stored[name].scale_axis == "levels" for name in shared)
    for target in TARGETS:
        result = inspect(folder / f"model.{target}")
        total = sum(table.total for table in result.tables)
        assert 0 < total < result.file_bytes
        shapes = {
            f"embeddings.{name}.weight": tuple(module.embedding(name).weight.shape)
            for name in module.fields
        }
        # user and item share a table that ends with a row of zeros; codes of levels have no zero
        if target != "odm" and not levels:
            user, item = (shapes.pop(name) for name in shared)
            shapes["merged.6"] = (user[0] + item[0] + 1, 8)
        assert {table.name: (table.rows, table.dim) for table in result.tables} == shapes
        for table in result.tables:
            assert table.codec == codec
            assert 0 < table.kept <= table.dim


def inflated(array):
    """A text of a native file: its size, then a DEFLATE stream."""
    text = zlib.decompress(array.tobytes()[4:], -15)
    assert len(text) == int.from_bytes(array.tobytes()[:4], "little")
    return text


def small_arrays(arrays):
    """The arrays that share one entry of the header, by docs/format.md."""
    dtypes = {"F32": "<f4", "F16": "<f2", "I8": "i1", "U8": "u1", "I64": "<i8"}
    small, position = {}, 0
    for name, (dtype, shape) in json.loads(inflated(arrays["ondevice.index"])).items():
        count = int(np.prod(shape))
        data = arrays["ondevice.small"].tobytes()
        unit = 8 if dtypes[dtype].endswith("8") else 4
        position = -(-position // unit) * unit
        small[name] = np.frombuffer(data, dtypes[dtype], count, position).reshape(shape)
        position += small[name].nbytes
    assert 0 <= len(arrays["ondevice.small"]) - position < 8
    return small


def test_native_file_opens_as_safetensors(converted):
    _, _, folder, _ = converted
    with safe_open(folder / "model.odm", framework="np") as file:
        assert file.metadata() == {"format": "ondevice.odm", "format_version": "3"}
        arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    arrays |= small_arrays(arrays)
    assert "table.embeddings.user.weight.records" in arrays
    plan = json.loads(inflated(arrays["ondevice.plan"]))
    assert plan["outputs"]
    dense = [node for node in plan["nodes"] if node["op"] == "Dense"]
    weight = arrays[f"weight.{dense[0]['inputs'][1]}"]
    assert weight.shape == (48 * 16,)  # packed: 48 features, 16 units


def test_onnx_file_is_standard_and_clean(converted):
    _, _, folder, _ = converted
    path = folder / "model.onnx"
    onnx.checker.check_model(str(path), full_check=True)
    model = onnx.load(path, load_external_data=False)
    assert {(item.domain, item.version) for item in model.opset_import} == {("", 21)}
    assert {node.domain for node in model.graph.node} == {""}
    assert not model.functions  # OpenVINO does not read them
    assert len(onnx_lookups(model)) == 5  # user and item are merged
    external = [item for item in model.graph.initializer if item.external_data]
    assert {
        entry.value for item in external for entry in item.external_data if entry.key == "location"
    } <= {"model.onnx.data"}
    assert b"/" + b"site-packages" not in path.read_bytes()
    assert b".py" not in path.read_bytes()  # no stack traces of the machine that converted


def test_same_input_same_bytes(tmp_path):
    digests = []
    for name in ("a", "b"):
        convert(click_model(), (torch_inputs(click_ids(8)),), tmp_path / name)
        digests.append(
            {
                file.name: hashlib.sha256(file.read_bytes()).hexdigest()
                for file in (tmp_path / name).iterdir()
            }
        )
    assert digests[0] == digests[1]
    assert len(digests[0]) == 7  # three models, external data, report, card and manifest


def test_a_module_by_somebody_else(tmp_path):
    torch.manual_seed(1)
    module = PlainModel().eval()
    ids = {"user": np.arange(10) % 50, "item": np.arange(10) * 8}
    example = (torch.from_numpy(ids["user"]), torch.from_numpy(ids["item"]))
    report = convert(module, example, tmp_path, tables="f32")
    assert report.quantisation_difference == 0
    expected = module(*example).detach().numpy()
    for target in TARGETS:
        model = ondevice.load(tmp_path / f"model.{target}")
        np.testing.assert_allclose(model.predict(ids), expected, atol=1e-6)
        assert [item.id_limit for item in model.inputs] == [50, 80]
        for bad in (-1, 50, 2**40, -(2**63)):
            with pytest.raises(InputError, match=rf"input 'user': ID {bad} at \[0\]"):
                model.predict({"user": [bad], "item": [0]})
            with pytest.raises(InputError):  # the file itself refuses it too: nothing wraps
                model.runner.run({"user": np.array([bad]), "item": np.array([0])})


def test_the_module_answers_each_batch_once_for_each_kind_of_tables(tmp_path):
    """Its answers take most of the time of a conversion with hundreds of tables."""
    sizes = []

    class Counting(nn.Module):
        def __init__(self):
            super().__init__()
            self.table = nn.Embedding(50, 4)

        def forward(self, item):
            if isinstance(item.shape[0], int) and not torch.compiler.is_compiling():
                sizes.append(item.shape[0])
            return self.table(item).sum(-1)

    convert(Counting().eval(), {"item": torch.arange(3)}, tmp_path, targets=("odm",), vectors=0)
    assert sizes.count(1024) == 2  # with the trained rows, and with those that the file stores
    assert sizes.count(17) == 2


def test_features_travel_in_every_file(tmp_path):
    vocabulary = np.array([-7, 3, 99], dtype=np.int64)
    features = FeatureSpec(
        tuple(
            Field(name, "string", "vocabulary", 5, vocabulary)
            if name == "city"
            else Field(name, "string", "hash", 2**64 - 1)
            for name in click_model().fields
        )
    )
    convert(click_model(), (torch_inputs(click_ids(8)),), tmp_path, features=features)
    raw = {name: ["x", "Ünï", None] for name in click_model().fields}
    scores = []
    for target in TARGETS:
        model = ondevice.load(tmp_path / f"model.{target}")
        assert [field.name for field in model.features.fields] == list(click_model().fields)
        city = model.features["city"]
        assert city.hash_bits == 58  # 3 and 99 differ in bit 6 first
        assert city.vocabulary.tolist() == [-1, 0, 1]
        scores.append(model.predict(raw, raw=True))
    np.testing.assert_allclose(scores[1], scores[0], atol=1e-6)
    np.testing.assert_allclose(scores[2], scores[0], atol=1e-6)


class Odd(nn.Module):
    def __init__(self, operation):
        super().__init__()
        self.table = nn.Embedding(9, 4)
        self.operation = operation

    def forward(self, user):
        return torch.sigmoid(self.operation(self.table(user)).sum(-1))


def test_missing_operators_are_all_listed(tmp_path):
    module = nn.Sequential()
    module.add_module("first", Odd(lambda x: torch.asinh(x) + x[x > 0].sum()))
    with pytest.raises(UnsupportedError) as caught:
        convert(module, (torch.arange(4),), tmp_path)
    message = str(caught.value)  # one error for all targets: nodes, paths, replacements, a way out
    assert message.startswith("operators that odm and tflite cannot express: ")
    assert "Asinh at first (no such operator); " in message
    assert "NonZero at first (" in message
    assert "What could replace them: Asinh: torch.log(x + torch.sqrt(x * x + 1)); " in message
    assert "NonZero: a mask, which keeps every row's size" in message
    assert message.endswith("onnx can be written, with targets=['onnx']")
    assert list(tmp_path.iterdir()) == []


def test_a_file_outside_tolerance_is_not_left_behind(tmp_path):
    class Fickle(Odd):
        """Adds a number in eager mode that the exported graph does not contain."""

        def forward(self, user):
            out = super().forward(user)
            return out if torch.onnx.is_in_onnx_export() else out + 1e-3

    (tmp_path / "model.odm").write_bytes(b"an older file")
    with pytest.raises(ParityError, match=r"model\.tflite by 0\.001 in ai-edge"):
        convert(Fickle(lambda x: x), (torch.arange(4),), tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == ["model.odm"]
    assert (tmp_path / "model.odm").read_bytes() == b"an older file"


@pytest.mark.parametrize(
    ("arguments", "fault"),
    [
        ({"targets": ["odm", "exe"]}, "unknown targets exe"),
        ({"targets": []}, "no targets"),
        ({"tables": "q5"}, "unknown codec 'q5'"),
        ({"features": FeatureSpec((Field("who"),))}, "features are for who"),
    ],
)
def test_wrong_settings(tmp_path, arguments, fault):
    with pytest.raises(SpecError, match=fault):
        convert(Odd(lambda x: x), (torch.arange(4),), tmp_path / "new", **arguments)


@pytest.mark.parametrize(
    "example", [(torch.zeros(4),), (torch.zeros(1, dtype=torch.int64),), (torch.tensor(3),)]
)
def test_wrong_examples(tmp_path, example):
    with pytest.raises(SpecError, match="example input"):
        convert(Odd(lambda x: x), example, tmp_path)


def test_conversion_leaves_the_module_as_it_was(tmp_path):
    module = click_model()
    module.train()
    before = {name: value.clone() for name, value in module.state_dict().items()}
    convert(module, (torch_inputs(click_ids(8)),), tmp_path, tables="q4")
    assert module.training
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())


def test_onnx_tables_are_aligned_for_mapping(tmp_path):
    module = nn.Module.__new__(Odd)
    nn.Module.__init__(module)
    module.table, module.operation = nn.Embedding(300_000, 8), lambda x: x
    convert(module, (torch.arange(4),), tmp_path, targets=["onnx", "odm"], tables="q8")
    model = onnx.load(tmp_path / "model.onnx", load_external_data=False)
    table = next(item for item in model.graph.initializer if "table.weight.values" in item.name)
    offset = next((int(e.value) for e in table.external_data if e.key == "offset"), 0)
    assert offset % 4096 == 0
    data = (tmp_path / "model.odm").read_bytes()
    length = struct.unpack("<Q", data[:8])[0]
    header = json.loads(data[8 : 8 + length])
    start = header["table.table.weight.records"]["data_offsets"][0]
    assert (8 + length + start) % 4096 == 0
