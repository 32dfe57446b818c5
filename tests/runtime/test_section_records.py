"""Tables in sections in native files: golden bytes in every executor, hostile layouts."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from support.native import random_sections, write_model

from ondevice.codecs import QuantTable
from ondevice.engines.native import NativeEngine, is_compiled
from ondevice.engines.numpy import NumpyEngine
from ondevice.errors import FileFormatError
from ondevice.odm import open_odm
from ondevice.records import TAIL
from ondevice.section_records import SectionedLayout, SectionedRecords, pack_sections
from ondevice.sections import SectionedTable, parse_sections, quantise_sections
from ondevice.spec import full_spec

GOLDEN = Path(__file__).parents[1] / "golden" / "sections.json"


@pytest.fixture(scope="module")
def golden():
    """The records of the golden table, and its values float32 [rows, dim]."""
    item = json.loads(GOLDEN.read_text("utf-8"))
    records = np.frombuffer(bytes.fromhex(item["records"]), np.uint8)
    table = SectionedRecords(
        SectionedLayout.from_json(item["layout"]),
        np.concatenate([records, TAIL]),
        np.empty(0, np.uint8),
        np.float32(item["scales"]),
    )
    return table, np.float32(item["values"])


def test_numpy_reads_the_golden_bytes(golden):
    table, values = golden
    table.validate("t")
    np.testing.assert_array_equal(table.read(np.arange(len(values))), values)
    backwards = np.arange(len(values))[::-1].reshape(-1, 1)
    np.testing.assert_array_equal(table.read(backwards), values[backwards])
    kept = [section["dim"] * section["rows"] for section in table.layout.to_json()["sections"]]
    assert table.mean_width() == sum(kept) / len(values)


@pytest.mark.skipif(not is_compiled(), reason="the native engine is not compiled")
def test_every_kernel_reads_the_golden_bytes(golden, tmp_path):
    from ondevice import _native

    table, values = golden
    path = tmp_path / "m.odm"
    write_model(path, {"a": full_spec(*values.shape)}, {"a": table}, [], {}, ["a.vector"])
    ids = {"a": np.random.default_rng(0).permutation(len(values)).astype(np.int64)}
    for kernels in _native.kernels_available():
        got = NativeEngine(path, kernels=kernels).run(ids)["a.vector"]
        np.testing.assert_array_equal(got, values[ids["a"]], err_msg=kernels)


def quantised(golden):
    """The golden table as codes, from its bytes."""
    table, _ = golden
    parts = []
    for section in table.sections:
        layout = section.layout
        rows = np.arange(layout.rows)
        if layout.scale_axis is None:
            dtype = np.float16 if layout.codec == "f16" else np.float32
            parts.append(QuantTable(layout.codec, section.read(rows).astype(dtype)))
            continue
        bits = {"q8": 8, "q4": 4, "q3": 3, "q2": 2, "q1": 1}[layout.codec]
        stream = int.from_bytes(section.records.tobytes(), "little")
        codes, scales = np.zeros((layout.rows, layout.dim), np.int8), section.scales
        halves = np.zeros(layout.rows, np.uint16)
        for row in range(layout.rows):
            place = row * layout.base_bits
            halves[row] = stream >> place & 0xFFFF
            for column in range(layout.dim):
                code = stream >> place + layout.scale_bits + bits * column & 2**bits - 1
                if layout.scale_axis != "levels" and code >= 2 ** (bits - 1):
                    code -= 2**bits
                codes[row, column] = code
        if layout.scale_axis == "row":
            scales = halves.view(np.float16)
        elif layout.scale_axis == "levels":
            scales = scales.reshape(layout.dim, -1)
        parts.append(QuantTable(layout.codec, codes, scales))
    return SectionedTable(table.layout.dim, tuple(parts))


def test_packing_gives_the_golden_bytes(golden):
    table, values = golden
    codes = quantised(golden)
    np.testing.assert_array_equal(codes.dequantise(), values)
    packed = pack_sections(codes)
    assert packed.layout == table.layout
    np.testing.assert_array_equal(packed.records, table.records)
    np.testing.assert_array_equal(packed.scales, table.scales)


def test_stock_runtimes_give_the_golden_values(golden, tmp_path):
    pytest.importorskip("torch", reason="the converters need torch")
    onnx = pytest.importorskip("ondevice.converters.targets.onnx.emit")
    pytest.importorskip("ai_edge_litert", reason="LiteRT is not installed")
    from support.tflite import Lookup, build

    from ondevice.converters import pipeline
    from ondevice.converters.tables.draft import fill
    from ondevice.converters.targets.tflite.emit import emit_tflite
    from ondevice.engines.onnx import OnnxEngine
    from ondevice.engines.tflite import TfliteEngine

    _, values = golden
    built = build([Lookup(full_spec(*values.shape), "f32")])
    packed = replace(built.packed, tables={"table_0.weight": quantised(golden)})
    fill(
        onnx.emit_onnx(packed, tmp_path / "model.onnx", b""),
        emit_tflite(pipeline.run(packed, pipeline.LOWERING), tmp_path / "model.tflite", b""),
    )
    ids = {"field_0": np.arange(len(values))}
    for engine in (OnnxEngine(tmp_path / "model.onnx"), TfliteEngine(tmp_path / "model.tflite")):
        np.testing.assert_array_equal(engine.run(ids)["vectors"], values, err_msg=engine.runtime)


@pytest.mark.parametrize("seed", range(12))
def test_files_give_back_the_quantised_table(seed, tmp_path):
    rng = np.random.default_rng(seed)
    spec = full_spec(int(rng.integers(2, 3000)), int(rng.integers(1, 40)))
    table = random_sections(spec, rng, truncated=seed % 2 == 0)
    path = tmp_path / "m.odm"
    write_model(path, {"a": spec}, {"a": table}, [], {}, ["a.vector"])
    opened = open_odm(path, full_check=True)
    got = NumpyEngine(opened).run({"a": np.arange(spec.rows)})["a.vector"]
    np.testing.assert_array_equal(got, table.dequantise())


def test_bytes_of_sections_are_what_their_codecs_say():
    """20 rows of 6 bytes and 80 of 2 bits: 120 + 20 bytes, beside scales and levels."""
    values = np.random.default_rng(0).normal(size=(100, 6)).astype(np.float32)
    packed = pack_sections(quantise_sections(values, parse_sections("q8:20,q1x2")))
    assert packed.layout.payloads in ((120, 20), (160, 20))  # with a scale in every row, 160
    assert packed.records.size == sum(packed.layout.payloads) + 64


@pytest.mark.parametrize(
    ("key", "value", "fault"),
    [
        ("dim", 0, "dim must be 1..1024"),
        ("dim", True, "dim must be 1..1024"),
        ("dim", 4, "a section is wider than 4"),
        ("sections", [], "1 to 16 sections, got 0"),
        ("sections", "as they are, twice", "1 to 16 sections, got 20"),
        ("more", 1, "has a dim and sections"),
    ],
)
def test_layouts_are_checked(golden, key, value, fault):
    item = golden[0].layout.to_json()
    if value == "as they are, twice":
        value = item["sections"] * 2
    item[key] = value
    with pytest.raises((FileFormatError, ValueError), match=fault):
        SectionedLayout.from_json(item)


@pytest.mark.parametrize(
    ("key", "value", "fault"),
    [
        ("bytes", -1, "bytes must be integers"),
        ("bytes", 1.5, "bytes must be integers"),
        ("width_bits", None, "sections need width_bits"),
        ("rows", 2**31 - 1, "more than 2147483647 rows"),
        ("codec", "q9", "unknown codec"),
    ],
)
def test_sections_are_checked(golden, key, value, fault):
    item = golden[0].layout.to_json()
    item["sections"][1][key] = value
    with pytest.raises(FileFormatError, match=fault):
        SectionedLayout.from_json(item)


@pytest.mark.parametrize("part", ["records", "index", "scales"])
def test_arrays_of_another_size_are_refused(golden, part):
    table = golden[0]
    array = getattr(table, part)
    longer = np.concatenate([array, np.zeros(1, array.dtype)])
    with pytest.raises(FileFormatError, match=f"'t': {part} of its sections have"):
        replace(table, **{part: longer}).check_sizes("t")


def test_a_section_whose_bytes_do_not_fit_its_rows_is_refused(golden):
    """Two sections that trade their bytes: the sum is right."""
    table = golden[0]
    sizes = list(table.layout.payloads)
    sizes[0], sizes[1] = sizes[0] + 4, sizes[1] - 4
    wrong = replace(table.layout, payloads=tuple(sizes))
    with pytest.raises(FileFormatError, match="'t section 0': records have"):
        replace(table, layout=wrong).check_sizes("t")
