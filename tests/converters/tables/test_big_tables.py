"""Tables in files: the same bytes as from memory, within bounds, and nothing left when stopped."""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from support.converters import PlainModel, click_ids, click_model, torch_inputs
from support.stopped import signalled, stopped_command
from torch import nn
from torch.nn import functional

import ondevice.codecs
import ondevice.converters.tables.packed_table
from ondevice.converters import convert
from ondevice.converters.tables.draft import Draft, fill
from ondevice.converters.tables.file_pages import MAPS, clean_file_pages
from ondevice.converters.tables.packed_table import PackedSection
from ondevice.converters.tables.row_tensor import RowTensor
from ondevice.converters.tables.table_source import FileTable
from ondevice.converters.tables.weights import Weights
from ondevice.errors import FileFormatError, InputError, SpecError, UnsupportedError
from ondevice.features import FeatureSpec, Field
from ondevice.models import ClickModel, EmbeddingConfig, ModelConfig, NetworkConfig, build
from ondevice.models.checkpoint import save_checkpoint
from ondevice.spec import full_spec
from ondevice.verify import verify

EXAMPLE = (torch.arange(4), torch.arange(4))


def files(folder):
    return {file.name: file.read_bytes() for file in sorted(folder.iterdir())}


def plain(device="cpu"):
    torch.manual_seed(3)
    with torch.device(device):
        return PlainModel().eval()


def header(**tensors):
    """A safetensors file up to its data, for float32 tensors of these shapes."""
    entries, position = {}, 0
    for name, shape in tensors.items():
        size = 4 * int(np.prod(shape, dtype=np.int64))
        offsets = [position, position + size]
        entries[name] = {"dtype": "F32", "shape": list(shape), "data_offsets": offsets}
        position += size
    text = json.dumps(entries).encode()
    return len(text).to_bytes(8, "little") + text, position


@pytest.mark.parametrize("codec", ["q8", "q4"])
def test_same_bytes_from_memory_and_from_files_in_any_chunks(tmp_path, monkeypatch, codec):
    module = click_model()  # truncated and merged tables, column and row scales
    save_file(module.state_dict(), tmp_path / "weights.safetensors")
    example = (torch_inputs(click_ids(8)),)
    convert(module, example, tmp_path / "memory", tables=codec)
    monkeypatch.setattr(ondevice.codecs, "CHUNK_BYTES", 64 * 4 * 8)  # 64 rows, the fewest
    weights = tmp_path / "weights.safetensors"
    convert(module, example, tmp_path / "files", tables=codec, weights=weights)
    expected, got = files(tmp_path / "memory"), files(tmp_path / "files")
    for name in ("model.odm", "model.onnx", "model.onnx.data", "model.tflite"):
        assert got[name] == expected[name], name
    for target in ("odm", "onnx", "tflite"):
        assert verify(tmp_path / "files" / f"model.{target}").passed


def test_quantisation_does_not_depend_on_chunks(monkeypatch):
    values = np.random.default_rng(0).normal(size=(40_000, 24)).astype(np.float32)
    values[::1000] *= 30
    for codec in ("q8", "q4", "q3", "q2", "q1"):
        for axis in (None, "row", "column", *(() if codec == "q8" else ("levels",))):
            whole = ondevice.codecs.quantise(values, codec, scale_axis=axis)
            survey = ondevice.codecs.Survey(*values.shape)
            for start in range(0, len(values), 448):
                survey.add(values[start : start + 448], None)
            scales = survey.scales(codec, axis)
            parts = [
                ondevice.codecs.quantise_rows(values[start : start + 448], codec, None, scales)
                for start in range(0, len(values), 448)
            ]
            np.testing.assert_array_equal(np.concatenate([p.values for p in parts]), whole.values)
            if scales is None:
                joined = np.concatenate([part.scales for part in parts])
                np.testing.assert_array_equal(joined, whole.scales)
            else:
                np.testing.assert_array_equal(scales, whole.scales)


def test_sharded_weights_fill_a_module_without_memory(tmp_path):
    source = plain()
    state = source.state_dict()
    shards = {"a.safetensors": ["users.weight"], "b.safetensors": []}
    shards["b.safetensors"] = [name for name in state if name != "users.weight"]
    for shard, names in shards.items():
        save_file({name: state[name] for name in names}, tmp_path / shard)
    index = {"weight_map": {name: shard for shard, names in shards.items() for name in names}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    convert(source, EXAMPLE, tmp_path / "memory", targets=["odm"])
    empty = plain("meta")
    convert(empty, EXAMPLE, tmp_path / "files", targets=["odm"], weights=tmp_path)
    assert files(tmp_path / "files")["model.odm"] == files(tmp_path / "memory")["model.odm"]
    assert all(value.is_meta for value in empty.state_dict().values())  # as it came


class Tied(nn.Module):
    """Two names of one table."""

    def __init__(self):
        super().__init__()
        self.first = nn.Embedding(50, 4)
        self.second = nn.Embedding(50, 4)
        self.second.weight = self.first.weight

    def forward(self, user, item):
        return torch.sigmoid((self.first(user) * self.second(item)).sum(-1))


def test_one_table_under_two_names_is_stored_once(tmp_path):
    module = Tied()
    save_file({"first.weight": module.first.weight.detach()}, tmp_path / "w.safetensors")
    weights = tmp_path / "w.safetensors"
    report = convert(module, EXAMPLE, tmp_path / "out", targets=["odm"], weights=weights)
    assert report.targets["odm"].max_difference <= 1e-6
    assert module.first.weight is module.second.weight


@pytest.mark.parametrize(
    ("spoil", "fault"),
    [
        (lambda state: state.pop("mlp.0.bias"), r"missing: mlp\.0\.bias"),
        (lambda state: state.update(more=torch.zeros(2)), "unknown: more"),
        (lambda state: state.update({"users.weight": torch.zeros(50, 3)}), r"got .* \[50, 3\]"),
        (lambda state: state.update({"users.weight": torch.zeros(50, 4).double()}), "float64"),
    ],
)
def test_weights_of_another_module_are_refused(tmp_path, spoil, fault):
    state = plain().state_dict()
    spoil(state)
    save_file(state, tmp_path / "w.safetensors")
    with pytest.raises(FileFormatError, match=fault):
        convert(plain("meta"), EXAMPLE, tmp_path / "out", weights=tmp_path / "w.safetensors")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("index", "fault"),
    [
        ("{", "not an index"),
        ('{"weight_map": [1]}', "not an index"),
        ('{"weight_map": {"x": "../x.safetensors"}}', "beside the index"),
        ('{"weight_map": {"x": "/etc/passwd"}}', "beside the index"),
        ('{"weight_map": {"x": ".."}}', "beside the index"),
        ('{"weight_map": {"x": ""}}', "beside the index"),
        ('{"weight_map": {"x": "gone.safetensors"}}', "cannot be read"),
        ('{"weight_map": {"x": "w.safetensors"}}', "not in the files it names: x"),
    ],
)
def test_index_from_outside_is_checked(tmp_path, index, fault):
    save_file({"y": torch.zeros(1)}, tmp_path / "w.safetensors")
    (tmp_path / "model.safetensors.index.json").write_text(index)
    with pytest.raises(FileFormatError, match=fault):
        Weights(tmp_path)
    with pytest.raises(FileFormatError, match="holds neither"):
        Weights(tmp_path / "..")


def test_values_that_are_not_finite_are_found_while_streaming(tmp_path):
    module = plain()
    with torch.no_grad():
        module.items.weight[77, 2] = float("inf")
    save_file(module.state_dict(), tmp_path / "w.safetensors")
    with pytest.raises(SpecError, match=r"'items\.weight': .*not finite, first in row 77"):
        convert(plain("meta"), EXAMPLE, tmp_path / "out", weights=tmp_path / "w.safetensors")


class Counted:
    """A part of a table that counts how often it is read."""

    def __init__(self, name, reads):
        self.name, self.reads = name, reads

    def chunks(self):
        self.reads.append(self.name)
        for number in range(2):
            yield f"{self.name}{number}"


class Noted:
    """A writer that notes what it gets."""

    def __init__(self, *parts):
        self.parts = parts
        self.got = []

    def write(self, file, chunk):
        self.got.append(chunk)

    def finish(self, file):
        self.got.append("end")


def test_a_table_is_read_once_for_all_files_where_their_orders_allow(tmp_path):
    (tmp_path / "file").touch()
    reads = []
    a, b, c = (Counted(name, reads) for name in "abc")
    writers = [Noted(a), Noted(b), Noted(c), Noted(b, a, c), Noted(c)]
    drafts = [Draft(tmp_path / "file", (), writers[:3]), Draft(tmp_path / "file", (), writers[3:])]
    fill(*drafts)
    assert sorted(reads) == ["a", "b", "c"]
    assert writers[3].got == ["b0", "b1", "a0", "a1", "c0", "c1", "end"]
    assert [writer.got for writer in writers[:2]] == [["a0", "a1", "end"], ["b0", "b1", "end"]]
    assert writers[2].got == writers[4].got == ["c0", "c1", "end"]
    reads.clear()
    against = [Noted(a, b), Noted(b, a)]  # no order suits both
    fill(Draft(tmp_path / "file", (), against))
    assert len(reads) == 3
    assert against[1].got == ["b0", "b1", "a0", "a1", "end"]


def test_a_conversion_reads_and_quantises_a_table_once_for_all_targets(tmp_path, monkeypatch):
    module, rows = click_model(), []  # lookups are merged in .onnx and .tflite, not in .odm
    original = ondevice.converters.tables.packed_table.quantise_rows

    def counting(values, *rest):
        rows.append(len(values))
        return original(values, *rest)

    example = (torch_inputs(click_ids(8)),)
    expected = sum(module.embedding(name).spec.rows for name in module.fields)
    for targets in (["odm"], ["odm", "onnx", "tflite"]):
        rows.clear()
        with monkeypatch.context() as patch:
            patch.setattr(ondevice.converters.tables.packed_table, "quantise_rows", counting)
            patch.setattr(PackedSection, "read", lambda self, rows: self.source.read(rows))
            convert(module, example, tmp_path / "out", tables="f32", targets=targets)
        assert sum(rows) == expected


class Huge(nn.Module):
    """One table, larger than a TFLite file may be."""

    def __init__(self, rows):
        super().__init__()
        self.table = nn.Embedding(rows, 16)

    def forward(self, item):
        return torch.sigmoid(self.table(item).sum(-1))


def test_tflite_beyond_2_gb_is_refused_before_the_table_is_read(tmp_path, monkeypatch):
    rows = 140_000_000
    head, size = header(**{"table.weight": (rows, 16)})
    with (tmp_path / "w.safetensors").open("wb") as file:
        file.write(head)
        file.truncate(len(head) + size)  # 9 GB of zeros that take no room on the disk
    with torch.device("meta"):
        module = Huge(rows)
    read, plain = [], FileTable._fill

    def counted(self, file, array):
        read.append(array.size)
        plain(self, file, array)

    monkeypatch.setattr(FileTable, "_fill", counted)
    with pytest.raises(UnsupportedError, match=r"limited to 2 GB .* leave this target out"):
        convert(module, (torch.arange(4),), tmp_path, weights=tmp_path / "w.safetensors")
    assert sum(read) < rows / 1000  # values: a few rows at most
    assert [file.name for file in tmp_path.iterdir()] == ["w.safetensors"]


MEASURE = """
import sys, torch
from pathlib import Path
from ondevice.converters import convert
torch.set_num_threads(1)
class Huge(torch.nn.Module):
    def __init__(self, rows):
        super().__init__()
        self.table = torch.nn.Embedding(rows, 16)
    def forward(self, item):
        return torch.sigmoid(self.table(item).sum(-1))
def peak():
    text = Path("/proc/self/status").read_text()
    return int(text.split("VmHWM:")[1].split()[0]) * 1024
def run(rows, name):
    with torch.device("meta"):
        module = Huge(rows)
    convert(module, (torch.arange(4),), Path(sys.argv[1]) / name, weights=Path(sys.argv[1]) / name)
    print(peak())
run(1000, "small")
run(int(sys.argv[2]), "big")
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is read from /proc")
def test_memory_of_a_conversion_is_bounded(tmp_path):
    """Growth of the peak over that of a tiny model: below an eighth of the table."""
    rows, block = 400 * 2**20 // 64, np.random.default_rng(0).normal(size=(2**16, 16))
    for name, count in (("small", 1000), ("big", rows)):
        (tmp_path / name).mkdir()
        head, size = header(**{"table.weight": (count, 16)})
        with (tmp_path / name / "model.safetensors").open("wb") as file:
            file.write(head)
            for start in range(0, size, block.size * 4):
                file.write(block.astype("<f4").tobytes()[: size - start])
    result = subprocess.run(
        [sys.executable, "-c", MEASURE, str(tmp_path), str(rows)],
        capture_output=True,
        text=True,
        check=True,
    )
    small, big = (int(line) for line in result.stdout.split())
    assert big - small <= rows * 64 / 8
    assert "tables" not in result.stderr  # a progress bar is for terminals
    assert (tmp_path / "big" / "model.tflite").stat().st_size > rows * 16


RELEASE = """
import torch
from pathlib import Path
from ondevice.converters.tables.file_pages import release_file_pages
def file_pages():
    text = Path("/proc/self/status").read_text()
    return int(text.split("RssFile:")[1].split()[0]) * 1024
layer, values = torch.nn.Linear(64, 64), torch.ones(3, 64)
expected = layer(values)
print(file_pages())
release_file_pages()
print(file_pages(), int(torch.equal(layer(values), expected)))
"""


@pytest.mark.skipif(not MAPS.exists(), reason="a Linux kernel's accounting")
def test_file_pages_are_given_back_and_come_again():
    command = [sys.executable, "-c", RELEASE]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    before, after, equal = map(int, result.stdout.split())
    assert after < before - 20e6  # torch's libraries are some 70 MB
    assert equal


@pytest.mark.skipif(not Path("/dev/null").is_char_device(), reason="a device of Linux")
def test_only_clean_pages_of_regular_files_are_given_back():
    """A GPU's driver maps pages of its devices: once released, they are gone."""
    library = Path(torch.__file__).resolve()
    mappings = {
        0x1000: (f"r-xp 00000000 fd:00 77 {library}", 0),
        0x2000: (f"r--p 00000000 fd:00 77 {library}", 4),  # changed when it was linked
        0x3000: (f"rw-p 00000000 fd:00 77 {library}", 0),
        0x4000: (f"r--s 00000000 fd:00 77 {library}", 0),
        0x5000: ("r--s 00044000 00:06 1042 /dev/null", 0),
        0x6000: ("r--p 00044000 00:06 1042 /dev/null", 0),
        0x7000: (f"r--p 00000000 fd:00 78 {library} (deleted)", 0),
        0x8000: ("r-xp 00000000 00:00 0 [vdso]", 0),
        0x9000: (f"r--p 00000000 fd:00 79 {library}", 0),
    }
    lines = [
        text
        for start, (mapping, changed) in mappings.items()
        for text in (
            f"{start:08x}-{start + 0x1000:08x} {mapping}",
            "Rss:                   4 kB",
            f"Anonymous:      {changed:8} kB",
            "VmFlags: rd ex mr mw me",
        )
    ]
    assert list(clean_file_pages(lines)) == [(0x1000, 0x2000), (0x9000, 0xA000)]


def checkpoint(folder, rows):
    config = ModelConfig(
        embeddings={"item": EmbeddingConfig(full_spec(rows, 16, padding_id=0, oov_row=1))},
        network=NetworkConfig("dnn", (8,)),
    )
    model: ClickModel = build(config).eval()
    features = FeatureSpec((Field("item", "string", "hash"),))
    save_checkpoint(folder, model, features, {"examples": {"item": [2, 3, 4, 5]}})


@pytest.mark.skipif(os.name != "posix", reason="SIGINT of a terminal")
def test_ctrl_c_leaves_no_partial_file(tmp_path):
    checkpoint(tmp_path / "checkpoint", 3_000_000)
    out = tmp_path / "out"
    out.mkdir()
    (out / "model.odm").write_bytes(b"an older file")
    words = ["convert", tmp_path / "checkpoint", "--out", out, "--force"]
    with stopped_command(out, ".ondevice-*/set/files/*.odm", *words) as process:
        _, errors = signalled(process, signal.SIGINT)
    assert process.returncode == 130, errors
    assert "interrupted" in errors
    assert "Traceback" not in errors
    assert [file.name for file in out.iterdir()] == ["model.odm"]
    assert (out / "model.odm").read_bytes() == b"an older file"


def test_a_full_disk_is_seen_before_tables_are_written(tmp_path, monkeypatch):
    free = shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: free)
    with pytest.raises(InputError, match=r"take [\d,]+ bytes, the disk has 1,000 bytes free"):
        convert(plain(), EXAMPLE, tmp_path)
    assert not list(tmp_path.iterdir())


PHASES = {
    "survey": ("convert", "pack_tables"),
    "layout": ("convert", "_emit"),
    "tables": ("convert", "fill"),
    "verification": ("convert", "measure_file"),
    "hashes": ("verify.verification", "sha256"),
    "card": ("convert", "model_card"),
}


@pytest.mark.parametrize("phase", PHASES)
def test_ctrl_c_in_every_phase(tmp_path, monkeypatch, phase):
    module, name = PHASES[phase]
    place = sys.modules[f"ondevice.converters.{module}"]
    original = getattr(place, name)

    def interrupted(*args, **options):
        signal.raise_signal(signal.SIGINT)
        return original(*args, **options)

    monkeypatch.setattr(place, name, interrupted)
    (tmp_path / "model.odm").write_bytes(b"an older file")
    with pytest.raises(KeyboardInterrupt):
        convert(plain(), EXAMPLE, tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == ["model.odm"]
    assert (tmp_path / "model.odm").read_bytes() == b"an older file"


def test_row_tensor_answers_as_the_table_does():
    table = torch.randn(60, 5)
    reads = []

    def read(rows):
        reads.append(len(rows))
        return table.numpy()[rows]

    stand_in = RowTensor(read, 60, 5)
    ids = torch.tensor([[3, 3, 59], [0, 7, 3]])
    flat, offsets = ids.reshape(-1), torch.tensor([0, 2, 2])
    with torch.inference_mode():
        for lookup in (
            lambda t: functional.embedding(ids, t),
            lambda t: functional.embedding(ids, t, padding_idx=3),
            lambda t: t.index_select(0, flat),
            lambda t: t[ids],
            lambda t: t[torch.tensor([-1, 4])],
            lambda t: functional.embedding_bag(ids, t, mode="mean", padding_idx=3),
            lambda t: functional.embedding_bag(flat, t, offsets, mode="max"),
            lambda t: functional.embedding_bag(ids, t, mode="sum", padding_idx=20),
        ):
            reads.clear()
            torch.testing.assert_close(lookup(stand_in), lookup(table), rtol=0, atol=0)
            assert max(reads) <= 4
        torch.testing.assert_close((stand_in * 2).sum(0), (table * 2).sum(0))
        with pytest.raises(IndexError):
            stand_in[torch.tensor([60])]
