"""Native files: layout, every truncation, every changed byte, hostile headers."""

import gc
import json
import struct
import time
import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from support.native import dense_node, write_model
from support.odm_parts import put_together, take_apart
from support.runtime import expected_probabilities, header_of, small_ids, write_small_model

import ondevice
from ondevice.codecs import quantise
from ondevice.container import CHECKSUMS, SMALL, open_container, write_container
from ondevice.engines.native import is_compiled
from ondevice.engines.numpy import NumpyEngine
from ondevice.errors import FileFormatError
from ondevice.info import InputSpec, ModelInfo
from ondevice.odm import open_odm, write_odm
from ondevice.plan import Node, Plan
from ondevice.spec import full_spec
from ondevice.verify import verify


@pytest.fixture(scope="module")
def model_bytes(tmp_path_factory):
    path = tmp_path_factory.mktemp("odm") / "small.odm"
    write_small_model(path)
    return path.read_bytes()


def test_layout_is_safetensors(model_bytes):
    length = struct.unpack("<Q", model_bytes[:8])[0]
    header = json.loads(model_bytes[8 : 8 + length])
    buffer = model_bytes[8 + length :]
    metadata = header.pop("__metadata__")
    assert metadata["format"] == "ondevice.odm"
    assert (8 + length) % 8 == 0
    place = header[CHECKSUMS]["data_offsets"][0]
    checksums = list(struct.unpack_from(f"<{header[CHECKSUMS]['shape'][0]}I", buffer, place))
    assert checksums.pop(0) == zlib.crc32(model_bytes[: 8 + length])
    end = 0
    for name, entry in sorted(header.items(), key=lambda item: item[1]["data_offsets"]):
        start, stop = entry["data_offsets"]
        assert start == end  # no holes
        end = stop
        if name != CHECKSUMS:
            assert zlib.crc32(buffer[start:stop]) == checksums.pop(0)
    assert end == len(buffer)
    assert not checksums


def test_arrays_are_aligned_and_small_ones_share_an_entry(tmp_path):
    """Elements start at multiples of their size, arrays of 4 KiB at 64, of 1 MiB at 4096 bytes."""
    arrays = {
        "bytes": np.arange(5, dtype=np.uint8),
        "wide": np.arange(3, dtype=np.int64),
        "number": np.array(1.5, np.float32),
        "none": np.zeros((0, 4), np.float32),
        "medium": np.arange(4099, dtype=np.uint8),
        "halves": np.arange(1023 * 2, dtype=np.float16).reshape(2, 1023),
        "large": np.arange(2**18, dtype=np.float32),
        "medium too": np.arange(5000, dtype=np.uint8),
    }
    path = tmp_path / "arrays.odm"
    write_container(path, arrays, {})
    container = open_container(path)
    container.verify()
    for name, array in arrays.items():
        assert container.array(name).dtype == array.dtype
        np.testing.assert_array_equal(container.array(name), array)
        multiple = 4096 if array.nbytes >= 2**20 else 64 if array.nbytes >= 4096 else array.itemsize
        assert container.entries[name].start % multiple == 0
    small = container.entries[SMALL]
    assert {name for name in arrays if name not in container.stored} == {
        name for name in arrays
        if small.start <= container.entries[name].start < container.entries[name].stop <= small.stop
    } | {"none"}  # fmt: skip


def test_every_truncation_fails(model_bytes, tmp_path):
    path = tmp_path / "cut.odm"
    lengths = [*range(0, len(model_bytes) - 1, 97), len(model_bytes) - 1, 7, 8, 9]
    for length in lengths:
        path.write_bytes(model_bytes[:length])
        with pytest.raises(FileFormatError):
            open_odm(path)


def test_every_changed_byte_fails_or_changes_nothing(model_bytes, tmp_path):
    path = tmp_path / "changed.odm"
    ids = small_ids(8)
    expected = expected_probabilities(ids)
    survivors = 0
    for place in range(0, len(model_bytes), 7):
        changed = bytearray(model_bytes)
        changed[place] ^= 1 << (place % 8)
        path.unlink(missing_ok=True)  # a mapped file is never written in place
        path.write_bytes(changed)
        try:
            model = ondevice.load(path)
        except FileFormatError:
            continue
        survivors += 1
        np.testing.assert_allclose(model.predict(ids), expected, atol=1e-6)
    # only padding between arrays may change unnoticed
    assert survivors < len(model_bytes) / 7 / 4


def hostile(header, buffer=b"", pad=0):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    text += b" " * pad
    return struct.pack("<Q", len(text)) + text + buffer


ENTRY = {"dtype": "U8", "shape": [4], "data_offsets": [0, 4]}


@pytest.mark.parametrize(
    "data",
    [
        b"",
        struct.pack("<Q", 2**63) + b"{}",
        struct.pack("<Q", 2**64 - 1) + b"{}",
        hostile(b"[" * 100_000),
        hostile(b'{"a":' * 50_000),
        hostile(b"\xff\xfe"),
        hostile([]),
        hostile({"a": 1}),
        hostile({"a": {**ENTRY, "extra": 1}}, bytes(4)),
        hostile({"a": {**ENTRY, "dtype": "PICKLE"}}, bytes(4)),
        hostile({"a": {**ENTRY, "dtype": ["U8"]}}, bytes(4)),
        hostile({"a": {**ENTRY, "shape": [-4]}}, bytes(4)),
        hostile({"a": {**ENTRY, "shape": [2**62, 2**62]}}, bytes(4)),
        hostile({"a": {**ENTRY, "shape": [True]}}, bytes(4)),
        hostile({"a": {**ENTRY, "shape": [1] * 9}}, bytes(4)),
        hostile({"a": {**ENTRY, "data_offsets": [0, 2**62]}}, bytes(4)),
        hostile({"a": {**ENTRY, "data_offsets": [1, 5]}}, bytes(5)),
        hostile({"a": ENTRY, "b": ENTRY}, bytes(4)),
        hostile(b'{"a":{},"a":{}}'),
        hostile({"a": ENTRY}, bytes(8)),
        hostile({"__metadata__": {"format": 3}, "a": ENTRY}, bytes(4)),
        hostile({"__metadata__": [], "a": ENTRY}, bytes(4)),
        hostile({"a": ENTRY}, bytes(4)),  # no header checksum
    ],
)
def test_hostile_headers_are_refused(data, tmp_path):
    path = tmp_path / "hostile.odm"
    path.write_bytes(data)
    with pytest.raises(FileFormatError):
        open_odm(path)


def test_other_safetensors_files_are_told_apart(tmp_path):
    path = tmp_path / "other.odm"
    write_container(path, {"a": np.zeros(3, np.float32)}, {"format": "pt"})
    assert open_container(path).array("a").tolist() == [0, 0, 0]
    with pytest.raises(FileFormatError, match="not a native model"):
        open_odm(path)


def rewritten(model_bytes, tmp_path, change):
    """The small model with parts changed and all checksums right."""
    source = tmp_path / "source.odm"
    source.write_bytes(model_bytes)
    parts = take_apart(source)
    change(parts)
    return put_together(tmp_path / "rewritten.odm", parts)


def change_plan(change):
    return lambda parts: change(parts.plan)


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        (lambda parts: setattr(parts, "plan", None), "'ondevice.plan' is missing"),
        (lambda parts: parts.metadata.update(format_version="4"), "format version 4"),
        (lambda parts: setattr(parts, "info", {}), "model description"),
        (lambda parts: parts.arrays.pop("weight.w1"), "'weight.w1' is missing"),
        (lambda parts: parts.arrays.pop("table.user.index"), "is missing"),
        (
            lambda parts: parts.arrays.update(
                {"table.user.records": parts.arrays["table.user.records"][:-1]}
            ),
            "index does not match",
        ),
        (
            lambda parts: parts.arrays.update({"table.slot.records": np.zeros(9, np.uint8)}),
            "records have",
        ),
        (
            lambda parts: parts.arrays.update({"table.slot.scales": np.zeros(2, np.int32)}),
            "wrong type",
        ),
        (
            change_plan(lambda plan: plan["nodes"][3].update(op="Exec", attributes={})),
            "unknown operators: Exec",
        ),
        (change_plan(lambda plan: plan["nodes"][0].update(table="gone")), "'gone' is missing"),
        (change_plan(lambda plan: plan["nodes"][3]["inputs"].append("later")), "before it exists"),
        (change_plan(lambda plan: plan["nodes"][3].update(outputs=["w1"])), "writes 'w1' again"),
        (change_plan(lambda plan: plan.update(outputs=["none"])), "never computed"),
        (change_plan(lambda plan: plan["nodes"][0]["lookup"].update(rows=5)), "row"),
        (change_plan(lambda plan: plan["tables"]["slot"].update(rows=6)), "6 x 2"),
        (change_plan(lambda plan: plan["tables"]["slot"].update(rows=-1)), "out of range"),
        (change_plan(lambda plan: plan["nodes"][3].update(attributes={"axis": {}})), "attribute"),
        (change_plan(lambda plan: plan["nodes"].extend(plan["nodes"][:1] * 70_000)), "more than"),
    ],
)
def test_contradicting_contents_are_refused(model_bytes, tmp_path, change, fault):
    with pytest.raises(FileFormatError, match=fault):
        open_odm(rewritten(model_bytes, tmp_path, change))


def test_shapes_that_do_not_fit_fail_typed(model_bytes, tmp_path):
    def narrow(parts):
        parts.arrays["weight.w1"] = np.zeros((8, 3), np.float32)

    opened = open_odm(rewritten(model_bytes, tmp_path, narrow))
    with pytest.raises(FileFormatError, match=r"\(Gemm\) of shapes .* the matrices do not fit"):
        NumpyEngine(opened)


@pytest.mark.parametrize("engine", ["native", "numpy"])
@pytest.mark.parametrize("values", [[0, 1, 1], [0, 1, 2], [0, 1, 255]])
def test_bytes_that_are_no_bools_are_refused(engine, values, tmp_path):
    """One engine would take a 2 for true, another for a number."""
    if engine == "native" and not is_compiled():
        pytest.skip("the native engine is not compiled")
    nodes = (
        Node("Cast", ("flags",), ("numbers",), {"to": 1}),
        Node("Mul", ("x", "numbers"), ("score",), {}),
    )
    path = tmp_path / "flags.odm"
    plan = Plan(("x",), ("score",), nodes, ("flags",), {})
    info = ModelInfo((InputSpec("x", ("batch", 3), dtype="float32"),), ("score",))
    write_odm(path, plan, info, {"flags": np.array(values, np.uint8)}, {})
    if max(values) > 1:
        with pytest.raises(FileFormatError, match=r"'weight\.flags' is not bool"):
            ondevice.load(path, engine=engine)
        return
    x = np.array([[1.5, 2.5, -3]], np.float32)
    got = ondevice.load(path, engine=engine).predict({"x": x})
    np.testing.assert_array_equal(got, x * values)


def test_large_files_are_checked_on_demand(model_bytes, tmp_path):
    path = tmp_path / "damaged.odm"
    start = header_of(model_bytes)
    changed = bytearray(model_bytes)
    container_start = model_bytes.index(np.float32(1 / 127).tobytes(), start)
    changed[container_start] ^= 1
    path.write_bytes(changed)
    opened = open_odm(path, full_check=False)
    with pytest.raises(FileFormatError, match="damaged"):
        opened.verify()


@pytest.mark.parametrize("engine", ["numpy", "native"])
@pytest.mark.parametrize(("version", "inputs"), [("1", 9), ("2", 9)])
def test_files_of_earlier_versions_stay_readable(engine, version, inputs):
    """Written by the last release of version 1: padded q4 rows, sixteen width codes a group; and of
    version 2: an entry for every array, plan, description, vectors and checksums in the header.
    """
    if engine == "native" and not is_compiled():
        pytest.skip("the native engine is not compiled")
    path = Path(__file__).parents[1] / "golden" / f"version{version}.odm"
    opened = open_odm(path)
    assert opened.container.metadata["format_version"] == version
    vectors = opened.info.vectors
    assert len(vectors.inputs) == inputs
    got = ondevice.load(path, engine=engine).runner.run(vectors.inputs)
    for name, expected in vectors.outputs.items():
        np.testing.assert_array_equal(got[name], expected, err_msg=name)
    assert verify(path, engine=engine).passed


@pytest.mark.parametrize("engine", ["numpy", "native"])
def test_many_empty_arrays_open_in_linear_time(model_bytes, tmp_path, engine):
    if engine == "native" and not is_compiled():
        pytest.skip("the native engine is not compiled")
    seconds = []
    for count in (20_000, 80_000):
        path = tmp_path / f"{count}.odm"

        def fill(parts, count=count):
            parts.arrays.update({f"empty.{i}": np.zeros(0, np.uint8) for i in range(count, 0, -1)})

        rewritten(model_bytes, tmp_path, fill).rename(path)
        gc.collect()
        gc.freeze()  # what other tests left is not searched again while this one is timed
        start = time.process_time()
        ondevice.load(path, engine=engine)
        seconds.append(time.process_time() - start)
        gc.unfreeze()
    # 4 times the arrays: 4 times as long, not 16 times; a quadratic reader takes 15 s. A busy
    # machine and the garbage collector blur ratios of times below 3 s.
    assert seconds[1] < max(10 * seconds[0], 3)
    assert seconds[1] < 5


def test_dense_layers_unpack_to_a_bounded_size(tmp_path):
    """A file whose nodes read one weight in many shapes would unpack it for every shape."""
    features = 4 * 4096
    weights = {"w": np.zeros(features * 16, np.int8), "b": np.zeros(16, np.float32)}
    nodes = []
    for units in range(1, 17):  # all padded to 16
        attributes = {"codec": "q8", "features": features, "units": units, "relu": 0}
        nodes.append(Node("Dense", ("item.vector", "w", "b", "b"), (f"y{units}",), attributes))
    specs = {"item": full_spec(2, 4)}
    tables = {"item": quantise(np.ones((2, 4)), "f32")}
    path = write_model(tmp_path / "wide.odm", specs, tables, nodes, weights, ["y1"])
    with pytest.raises(FileFormatError, match="unpack to more than 8 bytes for each byte"):
        ondevice.load(path, engine="numpy")


def test_layers_that_share_weights_are_unpacked_once(tmp_path):
    weights = {}
    first = dense_node("y0", "item.vector", np.ones((4, 3), np.float32), None, "q8", weights)
    nodes = [first, *(replace(first, outputs=(f"y{number}",)) for number in range(1, 500))]
    specs = {"item": full_spec(2, 4)}
    tables = {"item": quantise(np.ones((2, 4)), "f32")}
    path = write_model(tmp_path / "shared.odm", specs, tables, nodes, weights, ["y499"])
    scores = ondevice.load(path, engine="numpy").predict({"item": [0]})
    np.testing.assert_allclose(scores, [[4, 4, 4]], rtol=1e-2)
