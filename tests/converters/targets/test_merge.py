"""Merging parallel lookups: which are merged, and that every runtime still computes the same."""

from dataclasses import replace

import numpy as np
import onnx
import pytest
import torch
from support.converters import EXTREMES, onnx_lookups
from torch import nn

import ondevice
from ondevice.codecs import FLOAT_CODECS
from ondevice.converters import convert
from ondevice.errors import InputError
from ondevice.models import AdaptiveMask, BinaryCodeEmbedding, FullEmbedding
from ondevice.sections import parse_sections

SCRAMBLE = 0x9E3779B97F4A7C15


class Scores(nn.Module):
    """Concatenated vectors, then a head."""

    def __init__(self, tables, head):
        super().__init__()
        for table in tables.values():
            nn.init.normal_(table.weight)
        self.tables, self.head = nn.ModuleDict(tables), head

    def forward(self, ids):
        vectors = [table(ids[name]) for name, table in self.tables.items()]
        return torch.sigmoid(self.head(torch.cat(vectors, -1)).sum(-1))


def code(dim=8, bits=20, t=10, **settings):
    return BinaryCodeEmbedding(dim, bits, t, **settings)


def masked(table):
    rng = np.random.default_rng(table.spec.rows)
    widths = np.minimum(rng.geometric(0.5, table.spec.rows), table.spec.row_dim)
    table.mask = AdaptiveMask.from_widths(widths, table.spec.row_dim)
    return table


def huge():
    return {f"f{i}": masked(code(bits=32, t=16)) for i in range(2)}  # 131,072 rows each


CASES = {
    # name: tables, input width, the head, lookup nodes left
    "neighbours": (lambda: {"a": code(), "b": code(bits=33, t=11), "c": code()}, nn.ReLU(), 1),
    "blocks_differ": (lambda: {"a": code(), "b": code(bits=36, t=9), "c": code(t=20)}, None, 1),
    "apart": (lambda: {"a": code(), "b": FullEmbedding(50, 8), "c": code(), "d": code()}, None, 2),
    "apart_no_dense": (
        lambda: {"a": code(), "b": FullEmbedding(50, 8), "c": code(), "d": code()},
        nn.ReLU(),
        3,
    ),
    "multipliers": (
        lambda: {"a": code(multiplier=SCRAMBLE), "b": code(), "c": code(multiplier=3)},
        None,
        1,
    ),
    "paddings": (lambda: {"a": code(padding_id=-5), "b": code(padding_id=7), "c": code()}, None, 1),
    "no_padding_apart": (
        lambda: {"a": code(padding_id=None), "b": code(), "c": code(padding_id=None)},
        None,
        2,
    ),
    "mean": (lambda: {"a": code(fuse="mean"), "b": code(fuse="mean"), "c": code()}, None, 2),
    "mean_blocks_differ": (
        lambda: {"a": code(fuse="mean"), "b": code(bits=30, fuse="mean")},
        None,
        2,
    ),
    "widths_differ": (lambda: {"a": code(), "b": code(4), "c": code(4)}, None, 2),
    "concat_fuse": (lambda: {"a": code(fuse="concat"), "b": code(fuse="concat")}, None, 2),
    "skip": (lambda: {f"s{i}": code(bits=16, t=7, strategy="skip") for i in range(2)}, None, 1),
    "skip_many_runs": (
        lambda: {f"s{i}": code(bits=30, t=2, strategy="skip") for i in range(2)},
        None,
        2,
    ),
    "crossing_words": (lambda: {"a": code(bits=48, t=12), "b": code(bits=39, t=13)}, None, 1),
    "masked": (lambda: {"a": masked(code()), "b": masked(code(bits=33, t=11))}, None, 1),
    "masked_and_whole": (lambda: {"a": masked(code()), "b": code(), "c": code()}, None, 2),
    "masked_large": (huge, None, 2),
    "one": (lambda: {"a": code()}, None, 1),
    "plain": (
        lambda: {"a": FullEmbedding(50, 8), "b": FullEmbedding(60, 8), "c": FullEmbedding(90, 8)},
        nn.ReLU(),
        1,
    ),
    "plain_masked": (
        lambda: {"a": masked(FullEmbedding(90, 8)), "b": masked(FullEmbedding(300, 8))},
        None,
        1,
    ),
    "plain_padding_outside": (
        lambda: {"a": FullEmbedding(50, 8, padding_id=-5), "b": FullEmbedding(60, 8, padding_id=7)},
        None,
        1,
    ),
}


def ids_for(names, rows, seed):
    rng = np.random.default_rng(seed)
    special = np.array([*EXTREMES, -5, 7])
    ids = {}
    for name in names:
        values = rng.integers(-(2**63), 2**63 - 1, rows, dtype=np.int64, endpoint=True)
        ids[name] = np.where(rng.random(rows) < 0.4, rng.choice(special, rows), values)
    return ids


@pytest.mark.parametrize("codec", ["f32", "q4"])
@pytest.mark.parametrize("name", CASES)
def test_merged_files_equal_torch(name, codec, tmp_path):
    torch.manual_seed(0)
    make, head, nodes = CASES[name]
    tables = make()
    width = sum(table.spec.dim for table in tables.values())
    module = Scores(tables, head or nn.Linear(width, 5)).eval()
    example = {key: torch.from_numpy(ids) for key, ids in ids_for(tables, 4, 1).items()}
    report = convert(module, (example,), tmp_path, tables=codec)
    model = onnx.load(tmp_path / "model.onnx", load_external_data=False)
    assert len(onnx_lookups(model)) == nodes
    for rows in (1, 33):
        ids = ids_for(tables, rows, rows)
        native = ondevice.load(tmp_path / "model.odm").predict(ids)
        with torch.inference_mode():
            expected = module({key: torch.from_numpy(item) for key, item in ids.items()}).numpy()
        if codec == "f32":
            np.testing.assert_allclose(native, expected, atol=2e-6)
        for target in ("onnx", "tflite"):
            got = ondevice.load(tmp_path / f"model.{target}").predict(ids)
            np.testing.assert_allclose(got, native, atol=2e-6)
    assert max(item.max_difference for item in report.targets.values()) < 2e-6


class Fields(nn.Module):
    """Plain embeddings of columns of one matrix, which have no row for unknown IDs."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.tables = nn.ModuleList([nn.Embedding(rows, 4) for rows in (5, 9, 3)])
        self.head = nn.Linear(12, 1)

    def forward(self, x):
        return self.head(torch.cat([table(x[:, i]) for i, table in enumerate(self.tables)], 1))


def test_merged_plain_tables_refuse_ids_beyond_each_of_them(tmp_path):
    """Beyond one table lie rows of the next one: an ID must not reach them."""
    module = Fields().eval()
    convert(module, torch.tensor([[0, 8, 2], [4, 0, 1]]), tmp_path, tables="f32")
    model = onnx.load(tmp_path / "model.onnx", load_external_data=False)
    assert len(onnx_lookups(model)) == 1
    for target in ("onnx", "tflite"):
        loaded = ondevice.load(tmp_path / f"model.{target}")
        x = np.array([[4, 8, 2], [0, 0, 0], [3, 1, 1]])
        with torch.inference_mode():
            expected = module(torch.from_numpy(x)).numpy()
        np.testing.assert_allclose(loaded.predict({"x": x}), expected, atol=1e-6)
        for column, rows in enumerate((5, 9, 3)):
            for outside in (rows, -1, 2**31, 2**62, -(2**63)):
                wrong = x.copy()
                wrong[1, column] = outside
                with pytest.raises(InputError):
                    loaded.predict({"x": wrong})


SECTIONS = {
    # name: the codec of each table, lookup nodes left; None: q8 and q4 choose what scales belong to
    "scales": (["q8:5,q4x4:20,q1x2", "q8:9,q4x4:2,q1x2", "q8:1,q4x4:40,q1x2"], None),
    "rows_differ": (["f16:5,q2x4:20,q1", "f16:9,q2x4:2,q1", "f16:1,q2x4:40,q1"], 1),
    "levels": (["q1", "q1", "q1"], 1),
    "bits_in_two_bytes": (["q3:7,q3x3:20,q2", "q3:30,q3x3:9,q2", "q3:7,q3x3:20,q2"], 1),
    "formats_differ": (["q3:8,q1", "q2:8,q1", "q3:20,q1"], 2),
    "one_table": (["q3:8,q2", "f16", "f32"], 3),
}


def sections(text, fixed):
    """Sections whose narrow codes have levels, if `fixed`; else what has the least error."""
    parts = parse_sections(text)
    if not fixed:
        return parts
    return tuple(
        replace(part, scale_axis=None if part.codec in FLOAT_CODECS else "levels") for part in parts
    )


@pytest.mark.parametrize("name", SECTIONS)
def test_tables_in_sections_are_merged(name, tmp_path):
    codecs, nodes = SECTIONS[name]
    torch.manual_seed(0)
    padding = [-5, 0, 7]
    tables = {}
    for number, rows in enumerate((60, 83, 71)):
        table = FullEmbedding(rows, 8, padding_id=padding[number], oov_row=rows - 1 - number)
        tables[f"t{number}"] = masked(table) if name == "scales" else table
    module = Scores(tables, nn.Linear(24, 5)).eval()
    example = {key: torch.from_numpy(ids) for key, ids in ids_for(tables, 4, 1).items()}
    fixed = name != "scales"
    by_table = {key: sections(text, fixed) for key, text in zip(tables, codecs, strict=True)}
    convert(module, (example,), tmp_path, tables=by_table)
    if nodes is not None:
        model = onnx.load(tmp_path / "model.onnx", load_external_data=False)
        assert len(onnx_lookups(model)) == nodes
    rng = np.random.default_rng(3)
    every = {key: np.arange(-6, 90) for key in tables}  # each row, and IDs around the table
    mixed = {key: rng.permutation(values) for key, values in every.items()}
    for ids in (every, mixed, {key: np.array([3]) for key in tables}, ids_for(tables, 33, 2)):
        native = ondevice.load(tmp_path / "model.odm", engine="numpy").predict(ids)
        for target in ("onnx", "tflite"):
            got = ondevice.load(tmp_path / f"model.{target}").predict(ids)
            np.testing.assert_allclose(got, native, atol=2e-6, err_msg=target)


def test_an_input_twice_and_unknown_ids_of_merged_sections(tmp_path):
    """One table for two inputs is stored once; IDs beyond a table without a row for them fail."""
    torch.manual_seed(0)

    class Pair(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Embedding(20, 4), nn.Embedding(30, 4)
            self.head = nn.Linear(12, 1)

        def forward(self, x, y, z):
            return self.head(torch.cat([self.a(x), self.b(y), self.a(z)], 1))

    example = tuple(torch.tensor([1, 2]) for _ in range(3))
    convert(Pair().eval(), example, tmp_path, tables={"*": sections("q3:9,q1", True)})
    model = onnx.load(tmp_path / "model.onnx", load_external_data=False)
    assert len(onnx_lookups(model)) == 1
    stored = ondevice.load(tmp_path / "model.onnx").info.tables
    assert sum(item.rows for item in stored) == 50
    ids = {"x": np.arange(20), "y": np.arange(10, 30), "z": np.arange(20)[::-1].copy()}
    native = ondevice.load(tmp_path / "model.odm").predict(ids)
    for target in ("onnx", "tflite"):
        loaded = ondevice.load(tmp_path / f"model.{target}")
        np.testing.assert_allclose(loaded.predict(ids), native, atol=2e-6)
        for name, rows in (("x", 20), ("y", 30), ("z", 20)):
            for outside in (rows, -1, 2**40):
                wrong = {key: values.copy() for key, values in ids.items()}
                wrong[name][3] = outside
                with pytest.raises(InputError):
                    loaded.predict(wrong)
