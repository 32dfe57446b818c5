"""Small forged files that would take long or much memory to open: refused by both engines."""

import json
import re
import time
import tracemalloc
import zlib

import numpy as np
import pytest
from support.engine import NATIVE
from support.native import write_described
from support.odm_parts import put_together, take_apart
from support.runtime import write_small_model

from ondevice.attributes import ATTRIBUTES
from ondevice.container import open_container, write_container
from ondevice.engines.native import NativeEngine, is_compiled
from ondevice.engines.numpy import NumpyEngine
from ondevice.errors import FileFormatError, UnsupportedError
from ondevice.info import ModelInfo
from ondevice.limits import MAX_ARRAYS, MAX_INPUTS, MAX_JSON_DEPTH, MAX_JSON_VALUES
from ondevice.odm import open_odm

pytestmark = pytest.mark.skipif(not is_compiled(), reason="the native engine is not compiled")
ENGINES = {"native": NativeEngine, "numpy": lambda path: NumpyEngine(open_odm(path))}
SECONDS = 10.0  # of the processor; each takes less than 0.2 on an idle machine, which varies
MEMORY = 400e6  # bytes of Python's own


@pytest.fixture
def parts(tmp_path):
    write_small_model(tmp_path / "source.odm", vectors=False)
    return take_apart(tmp_path / "source.odm")


def refused(engine, path):
    """Whether the engine refuses a file, which takes little time and memory."""
    tracemalloc.start()
    begun = time.process_time()
    try:
        ENGINES[engine](path)
    except (FileFormatError, UnsupportedError):
        return True
    finally:
        assert time.process_time() - begun < SECONDS
        assert tracemalloc.get_traced_memory()[1] < MEMORY
        tracemalloc.stop()
    return False


def node(op, inputs, name, **attributes):
    return {"op": op, "inputs": inputs, "outputs": [name], "attributes": attributes}


def add_matrix(parts, size):
    parts.arrays["weight.one"] = np.ones(1, np.float32)
    parts.arrays["weight.sizes"] = np.array([size, size], np.int64)
    parts.plan["weights"] += ["one", "sizes"]
    return node("Expand", ["one", "sizes"], "big")


def many_constants(parts):
    first = add_matrix(parts, 2048)
    rest = [node("Neg", ["big"], f"big{i}") for i in range(4)]
    parts.plan["nodes"][:0] = [first, *rest]


def constant_product(parts):
    first = add_matrix(parts, 1024)
    parts.plan["nodes"][:0] = [first, node("MatMul", ["big", "big"], "product")]


def sorted_constant(parts):
    first = add_matrix(parts, 1024)
    parts.plan["nodes"][:0] = [first, node("TopKIndices", ["big"], "places", axis=1, k=1024)]


def wide_row(parts):
    """Each value of a row has 2**20 elements; more than a gigabyte in all."""
    parts.arrays["weight.wide"] = np.array([1, 2**20], np.int64)
    parts.plan["weights"].append("wide")
    deep = parts.plan["nodes"][-2]["outputs"][0]
    parts.arrays["weight.last"] = np.array([1], np.int64)
    parts.plan["weights"].append("last")
    nodes = [node("Unsqueeze", [deep, "last"], "column"), node("Expand", ["column", "wide"], "w0")]
    nodes += [node("Neg", [f"w{i}"], f"w{i + 1}") for i in range(1100)]
    parts.plan["nodes"] += nodes


def long_row(parts):
    """A row takes 2**31 multiplications."""
    parts.arrays["weight.sizes"] = np.array([1, 2**10, 2**11], np.int64)
    parts.arrays["weight.axes"] = np.array([1, 2], np.int64)
    parts.plan["weights"] += ["sizes"] + ["axes"] * ("axes" not in parts.plan["weights"])
    deep = parts.plan["nodes"][-2]["outputs"][0]
    parts.arrays["weight.both"] = np.array([1, 2], np.int64)
    parts.plan["weights"].append("both")
    parts.plan["nodes"] += [
        node("Unsqueeze", [deep, "both"], "cell"),
        node("Expand", ["cell", "sizes"], "left"),
        node("Transpose", ["left"], "right", perm=[0, 2, 1]),
        node("MatMul", ["left", "right"], "product"),
    ]


def spaces(parts):
    parts.plan = json.dumps(parts.plan) + " " * 90_000_000


def long_name(parts):
    parts.plan["nodes"][0]["outputs"] = ["x" * 40_000_000]


def many_values(parts):
    parts.plan["nodes"][3]["inputs"] += ["h"] * MAX_JSON_VALUES


def deep_lists(parts):
    deep = "[" * (MAX_JSON_DEPTH + 1) + "]" * (MAX_JSON_DEPTH + 1)
    parts.info = json.dumps(parts.info)[:-1] + f',"more":{deep}}}'


def many_arrays(parts):
    parts.arrays |= {f"more.{i}": np.zeros(0, np.float32) for i in range(MAX_ARRAYS)}


def many_inputs(parts):
    names = [f"i{i}" for i in range(MAX_INPUTS + 1)]
    parts.plan["inputs"] += names
    parts.info["inputs"] += [{"name": n, "shape": ["batch"], "id_limit": None} for n in names]


def many_outputs(parts):
    for part in (parts.plan, parts.info):
        part["outputs"] *= MAX_INPUTS + 1


BOMBS = (
    many_constants, constant_product, sorted_constant, wide_row, long_row, spaces, long_name,
    many_values, deep_lists, many_inputs, many_outputs,
)  # fmt: skip


@pytest.mark.parametrize("bomb", BOMBS, ids=lambda bomb: bomb.__name__)
@pytest.mark.parametrize("engine", ENGINES)
def test_small_files_that_take_much_are_refused(bomb, engine, parts, tmp_path):
    bomb(parts)
    path = put_together(tmp_path / "bomb.odm", parts)
    assert path.stat().st_size < 200_000
    assert refused(engine, path)


def test_constants_within_the_limits_are_computed(parts, tmp_path):
    first = add_matrix(parts, 256)
    parts.plan["nodes"][:0] = [first, node("MatMul", ["big", "big"], "product")]
    path = put_together(tmp_path / "fine.odm", parts)
    assert not refused("native", path)
    assert not refused("numpy", path)
    engine = ENGINES["numpy"](path)
    ids = {name: np.array([1, 2]) for name in ("user", "colour", "slot")}
    assert np.all(engine.values(ids)["product"] == 256)


def test_a_writer_refuses_too_many_arrays(parts, tmp_path):
    many_arrays(parts)
    with pytest.raises(FileFormatError, match="at most"):
        put_together(tmp_path / "many.odm", parts)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("listed", [True, False], ids=["weights", "arrays"])
def test_opening_takes_as_long_as_the_file_is(listed, engine, parts, tmp_path):
    """80,000 empty arrays: under 0.2 s in both engines on an idle machine."""
    taken = {}
    for count in (20_000, 80_000):
        for i in range(len(parts.arrays), count):
            name = f"weight.x{i}" if listed else f"x{i}"
            parts.arrays[name] = np.zeros(0, np.float32)
            if listed:
                parts.plan["weights"].append(f"x{i}")
        path = put_together(tmp_path / f"{count}.odm", parts)
        times = []
        for _ in range(3):
            begun = time.process_time()
            ENGINES[engine](path)
            times.append(time.process_time() - begun)
        taken[count] = min(times)
    # 4 times the arrays: a quadratic reader takes 15 s, and 16 times as long; caches blur the rest
    assert taken[80_000] < 3
    assert taken[80_000] < 10 * taken[20_000] + 0.5


def test_checksums_in_any_order_take_linear_time(tmp_path):
    """Format versions 1 and 2, whose checksums are a JSON object."""
    names = [f"x{i:05}" for i in range(40_000)]
    metadata = {"format": "ondevice.odm", "format_version": "2"}
    metadata["crc32"] = json.dumps(dict.fromkeys(reversed(names), 0))
    header = {"__metadata__": metadata}
    header["ondevice.header_crc32"] = {"dtype": "U32", "shape": [1], "data_offsets": [0, 4]}
    for name in names:
        header[name] = {"dtype": "U8", "shape": [0], "data_offsets": [4, 4]}
    text = json.dumps(header).encode()
    data = len(text).to_bytes(8, "little") + text
    path = tmp_path / "old.odm"
    path.write_bytes(data + zlib.crc32(data).to_bytes(4, "little"))
    begun = time.process_time()
    with pytest.raises(FileFormatError, match="plan"):
        NativeEngine(path)
    assert time.process_time() - begun < SECONDS


def test_arrays_of_a_description_are_read_once(tmp_path):
    """A thousand references to the same bytes would be a thousand arrays in memory."""
    source = tmp_path / "source.odm"
    write_described(source)
    parts = take_apart(source)
    parts.attached += bytes(1_000_000)
    item = {"dtype": "U8", "shape": [1_000_000], "at": 0}
    parts.info["vectors"] = {"inputs": {}, "outputs": {}, "tolerance": 0}
    for i in range(1000):
        parts.info["vectors"]["inputs"][f"x{i}"] = item
    path = put_together(tmp_path / "bomb.odm", parts)
    assert refused("numpy", path)


def test_vocabularies_have_a_limit():
    """All of 400,000,000 hashes equal: 100 MB of ones, which deflate to 100 kB."""
    field = {"name": "a", "kind": "string", "encoding": "vocabulary", "seed": 0, "hash_bits": 28}
    field |= {"unknown": "oov", "vocabulary": {"count": 300_000_000, "at": 0}}
    info = {"version": 2, "inputs": [], "outputs": [], "features": [field], "tables": []}
    text = json.dumps(info | {"made_by": {}}).encode() + b"\0" + b"\xff" * 90_000_000
    begun = time.process_time()
    with pytest.raises(FileFormatError, match="300000000 hashes"):
        ModelInfo.from_bytes(text)
    assert time.process_time() - begun < SECONDS


WRONG = {"INT": (True, 1.5, "1", [1], None, 2**31), "REAL": ("1", True, [1.0], None, 1e39),
         "TEXT": (1, None, ["SUM"]), "INTS": (1, "01", [1.5], [True], None)}  # fmt: skip


@pytest.mark.parametrize("name", ATTRIBUTES)
def test_attributes_of_a_wrong_type_are_errors(name, parts, tmp_path):
    """Also of operators that do not have them: nothing in a plan is skipped."""
    kind, operators = ATTRIBUTES[name]
    for op, value in [*((operators[0], value) for value in WRONG[kind]), ("Abs", 1)]:
        nodes = [*parts.plan["nodes"], node(op, ["h"], "more", **{name: value})]
        changed = parts.plan | {"nodes": nodes}
        path = tmp_path / "wrong.odm"
        source = take_apart(tmp_path / "source.odm")
        source.plan = changed
        put_together(path, source)
        for open_engine in ENGINES.values():
            with pytest.raises(FileFormatError, match=name):
                open_engine(path)


def test_the_table_of_attributes_is_that_of_the_engine():
    """Each line of ops/attributes.c: name, type, operators."""
    text = (NATIVE / "ops" / "attributes.c").read_text()
    names = (NATIVE / "ops" / "operators.h").read_text()
    of = {
        enum: name for name, enum in re.findall(r"[A-Z]+\((\w+), (OD_OP_\w+)", names)
    }  # fmt: skip
    rows = re.findall(r'\{"(\w+)", (\w+), \{([^}]*)\}\}', text)
    in_c = {
        name: (kind, {of[enum] for enum in re.findall(r"OD_OP_\w+", operators)})
        for name, kind, operators in rows
    }
    assert in_c == {name: (kind, set(operators)) for name, (kind, operators) in ATTRIBUTES.items()}


def test_unknown_keys_are_refused(parts, tmp_path):
    for change in (
        lambda p: p.plan.update(more=1),
        lambda p: p.plan["nodes"][3].update(more=1),
        lambda p: p.plan["nodes"][3].update(table="user"),
        lambda p: p.info["inputs"][0].update(more=1),
    ):
        changed = take_apart(tmp_path / "source.odm")
        change(changed)
        path = put_together(tmp_path / "unknown.odm", changed)
        for open_engine in ENGINES.values():
            with pytest.raises(FileFormatError):
                open_engine(path)


def test_the_writer_of_containers_is_the_reader_s_inverse(tmp_path):
    """As many arrays as the limit allows are written and read."""
    path = tmp_path / "most"
    write_container(path, {f"x{i}": np.zeros(0, np.float32) for i in range(MAX_ARRAYS - 8)}, {})
    assert len(open_container(path).entries) > MAX_ARRAYS - 8
