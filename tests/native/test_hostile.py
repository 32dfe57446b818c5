"""Damaged and hostile native files: a typed error or the same result, never anything else."""

import contextlib
import json
import os
import zlib

import numpy as np
import pytest
from support.native import write_hybrids, write_model, write_narrow, write_sections
from support.odm_parts import put_together, take_apart
from support.retrieval import random_structure
from support.runtime import write_small_model

import ondevice
from ondevice.container import open_container
from ondevice.engines.native import NativeEngine, is_compiled
from ondevice.engines.numpy import NumpyEngine
from ondevice.errors import FileFormatError, InputError, UnsupportedError
from ondevice.info import ModelInfo
from ondevice.odm import INFO, PLAN, open_odm

pytestmark = pytest.mark.skipif(not is_compiled(), reason="the native engine is not compiled")
IDS = {name: np.array([1, 3, 4, 2], dtype=np.int64) for name in ("user", "colour", "slot")}


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    path = tmp_path_factory.mktemp("hostile") / "small.odm"
    write_small_model(path)
    return path.read_bytes(), NativeEngine(path).run(IDS)["probability"]


def outcome(path, expected):
    """Nothing when the file is refused or gives the same result."""
    try:
        got = NativeEngine(path).run(IDS)["probability"]
    except (FileFormatError, UnsupportedError):
        return None
    return None if np.array_equal(got, expected) else got


def test_every_truncation(small, tmp_path):
    data, expected = small
    path = tmp_path / "cut.odm"
    for size in range(len(data)):
        path.write_bytes(data[:size])
        with pytest.raises(FileFormatError):
            NativeEngine(path)
    path.write_bytes(data)
    assert outcome(path, expected) is None


def test_every_byte_changed(small, tmp_path):
    data, expected = small
    path = tmp_path / "changed.odm"
    rng = np.random.default_rng(0)
    for place in range(len(data)):
        changed = bytearray(data)
        changed[place] ^= int(rng.integers(1, 256))
        path.write_bytes(changed)
        assert outcome(path, expected) is None, place


def rewritten(source, path, change, part="plan"):
    """The file with its plan or description changed and all checksums right: a hostile author's."""
    parts = take_apart(source)
    change(getattr(parts, part))
    return put_together(path, parts)


def leaves(value, path=()):
    """Paths of every value inside decoded JSON."""
    if isinstance(value, dict | list):
        for key in value if isinstance(value, dict) else range(len(value)):
            yield from leaves(value[key], (*path, key))
    yield path


STRANGE = [0, -1, 1, 2, 15, 63, 64, 2**31 - 1, 2**31, 2**32, 2**63, 2**64, 1.5, -1e400, "", "x",
           None, True, [], {}, [0] * 9, "batch"]  # fmt: skip


def strange_files(source, path, part):
    """Rewrite `path` with every value of a part made strange in every way."""
    for place in leaves(getattr(take_apart(source), part)):
        if not place:
            continue
        for strange in STRANGE:

            def change(target, place=place, strange=strange):
                for key in place[:-1]:
                    target = target[key]
                target[place[-1]] = strange

            yield rewritten(source, path, change, part)


@pytest.mark.parametrize("kind", ["small", "hybrids", "sections", "retrieval"])
def test_plans_of_a_hostile_author(kind, tmp_path):
    """Right checksums around every value of the plan made strange: no crash, no wrong type."""
    ids, source = IDS, tmp_path / "source.odm"
    if kind == "hybrids":
        ids = write_hybrids(source)
    elif kind == "sections":
        ids = write_sections(source)
    elif kind == "retrieval":
        built, known, *_ = random_structure("q4", 3, 20, bits=4)
        write_model(source, {"a": built.spec}, {"a": built.table}, [], {}, ["a.vector"])
        ids = {"a": known}
    else:
        write_small_model(source)
    opened = 0
    for path in strange_files(source, tmp_path / "strange.odm", "plan"):
        try:
            NativeEngine(path).run(ids)
            opened += 1
        except (FileFormatError, UnsupportedError, InputError):
            continue
    assert opened  # some changes are harmless, such as another padding ID


def refused_by(engine, path):
    try:
        NativeEngine(path) if engine == "native" else open_odm(path)
    except (FileFormatError, UnsupportedError):
        return True
    return False


LOOKUPS = {
    "unknown key": lambda node: node["lookup"].update(scrambled=True),
    "head is null": lambda node: node["lookup"].update(head=None),
    "no seed": lambda node: node["lookup"]["retrieval"].pop("seed"),
    "no input": lambda node: node["inputs"].clear(),
    "unnamed input": lambda node: node.update(inputs=[""]),
    "two inputs": lambda node: node.update(inputs=["a", "a"]),
    "two outputs": lambda node: node["outputs"].append("b.vector"),
}


@pytest.mark.parametrize("fault", LOOKUPS)
def test_both_engines_refuse_the_same_lookups(fault, tmp_path):
    """A key that one of them skips would be another lookup there."""
    built, *_ = random_structure("q4", 3, 20, bits=4)
    source = tmp_path / "source.odm"
    write_model(source, {"a": built.spec}, {"a": built.table}, [], {}, ["a.vector"])
    path = rewritten(source, tmp_path / "m.odm", lambda plan: LOOKUPS[fault](plan["nodes"][0]))
    assert [refused_by(engine, path) for engine in ("native", "numpy")] == [True, True]
    assert not refused_by("native", source) and not refused_by("numpy", source)


@pytest.mark.parametrize("key", ["modulus", "offset", "divisor", "multiplier", "bits"])
def test_both_engines_need_all_of_a_residue(key, tmp_path):
    source = tmp_path / "source.odm"
    write_hybrids(source)

    def change(plan):
        node = next(node for node in plan["nodes"] if node["lookup"].get("residues"))
        node["lookup"]["residues"][0].pop(key)

    path = rewritten(source, tmp_path / "m.odm", change)
    assert [refused_by(engine, path) for engine in ("native", "numpy")] == [True, True]


@pytest.mark.parametrize(
    ("part", "text", "instead"),
    [
        ("plan", '"padding_id":null', '"padding_id":null,"padding_id":3'),
        ("plan", '"inputs":["user"', '"inputs":["user","user"'),
        ("plan", '"rows":68', '"rows":NaN'),
        ("info", '"outputs":', '"outputs":["another"],"outputs":'),
        ("info", '"version":2', '"version":2.0'),
        ("info", '"version":2', '"version":2,"more":Infinity'),
    ],
)
def test_both_engines_read_json_strictly(part, text, instead, tmp_path):
    """Of a name that occurs twice, one reader would take the first value, another the last."""
    source = tmp_path / "source.odm"
    write_small_model(source)
    parts = take_apart(source)
    written = json.dumps(getattr(parts, part), separators=(",", ":"))
    assert text in written
    setattr(parts, part, written.replace(text, instead, 1))
    path = put_together(tmp_path / "m.odm", parts)
    assert [refused_by(engine, path) for engine in ("native", "numpy")] == [True, True]


def test_descriptions_of_a_hostile_author(tmp_path):
    """Every value of the description made strange, those that refer to arrays among them: both
    readers of Python refuse it or open it, with arrays of the shapes that it says.
    """
    source = tmp_path / "source.odm"
    write_small_model(source)
    refused = opened = 0
    for path in strange_files(source, tmp_path / "strange.odm", "info"):
        try:
            ModelInfo.from_bytes(open_container(path).text(INFO))
            opened += 1
        except FileFormatError:
            refused += 1
        with contextlib.suppress(FileFormatError, UnsupportedError):
            NativeEngine(path)
    assert opened > 100
    assert refused > 1000


def packed(data, level, strategy):
    packer = zlib.compressobj(level, zlib.DEFLATED, -15, 9, strategy)
    return len(data).to_bytes(4, "little") + packer.compress(data) + packer.flush()


@pytest.mark.parametrize("level", [0, 1, 6, 9])
@pytest.mark.parametrize("strategy", [zlib.Z_DEFAULT_STRATEGY, zlib.Z_FIXED, zlib.Z_HUFFMAN_ONLY])
def test_deflate_of_every_kind_is_read(small, tmp_path, level, strategy):
    """Stored blocks, the fixed code, codes of a block's own, with and without copies."""
    source, path = tmp_path / "source.odm", tmp_path / "again.odm"
    source.write_bytes(small[0])
    parts = take_apart(source)
    parts.info["made_by"] = {"x": "abc" * 30_000, "y": str(list(range(9000)))}
    put_together(path, parts, lambda data: packed(data, level, strategy))
    engine = NativeEngine(path)
    assert ModelInfo.from_bytes(engine.description).made_by == parts.info["made_by"]
    np.testing.assert_array_equal(engine.run(IDS)["probability"], small[1])


@pytest.mark.parametrize("strategy", [zlib.Z_DEFAULT_STRATEGY, zlib.Z_FIXED])
def test_damaged_deflate_streams_are_read_as_zlib_reads_them(small, tmp_path, strategy):
    """With right checksums: what zlib refuses, the engine refuses; else both read the same."""
    source, path = tmp_path / "source.odm", tmp_path / "damaged.odm"
    source.write_bytes(small[0])
    parts = take_apart(source)
    rng = np.random.default_rng(0)
    length, same = None, 0
    for _ in range(1500):

        def damage(data):
            stream = bytearray(packed(data, 9, strategy))
            place = int(rng.integers(4, len(stream)))
            stream[place] ^= 1 << int(rng.integers(8))
            if rng.random() < 0.2:
                del stream[place:]
            return bytes(stream)

        put_together(path, parts, damage)
        container = open_container(path)
        try:
            expected = container.text(INFO), container.text(PLAN)
        except FileFormatError:
            with pytest.raises(FileFormatError):
                NativeEngine(path)
            continue
        length = len(expected)
        try:
            assert NativeEngine(path).description == expected[0]
            same += 1
        except (FileFormatError, UnsupportedError) as error:
            assert "DEFLATE" not in str(error)
    assert length
    assert same


def test_index_that_leads_outside(tmp_path):
    """In a file too large to be read whole at load, a wild index is found when it is used."""
    path = tmp_path / "small.odm"
    write_small_model(path)
    data = bytearray(path.read_bytes())
    start = open_container(path).entries["table.user.index"].start
    data[start : start + 4] = b"\xff\xff\xff\xff"
    path.write_bytes(data)
    with pytest.raises(FileFormatError, match="damaged"):
        NativeEngine(path)
    engine = NativeEngine(path, full_check=False)
    with pytest.raises(FileFormatError, match="index"):
        engine.run(IDS)


@pytest.fixture(scope="module")
def sections(tmp_path_factory):
    path = tmp_path_factory.mktemp("sections") / "sections.odm"
    ids = write_sections(path)
    expected = NumpyEngine(open_odm(path)).run(ids)["x"]
    np.testing.assert_array_equal(NativeEngine(path).run(ids)["x"], expected)
    return path, ids


def test_indexes_of_sections_that_lead_outside(sections, tmp_path):
    """Without the checks at load: an error in both engines, no read beyond the section."""
    data = sections[0].read_bytes()
    path = tmp_path / "wild.odm"
    index = open_container(sections[0]).entries["table.full.index"]
    start, stop = index.start, index.stop
    rows = np.arange(60)
    refused = 0
    for place in range(start, stop, 4):
        changed = bytearray(data)
        changed[place : place + 4] = b"\xff\xff\xff\xff"
        path.write_bytes(changed)
        with pytest.raises(FileFormatError, match="damaged"):
            NativeEngine(path)
        ids = {"full": rows, "code": rows, "hashes": np.zeros((60, 3), np.int64)}
        outcomes = []
        for engine in (
            NativeEngine(path, full_check=False),
            NumpyEngine(open_odm(path, full_check=False)),
        ):
            try:
                outcomes.append(engine.run(ids)["x"])
            except FileFormatError as error:
                assert "index" in str(error)
                outcomes.append(np.zeros(0))
                refused += 1
        np.testing.assert_array_equal(*outcomes)
    assert refused


@pytest.mark.parametrize(
    ("part", "key", "value"),
    [
        *((0, "bytes", size) for size in (0, 59, 61, -1, 2**63, 1.5, "60", None)),
        (0, "rows", 4), (1, "rows", 2**31 - 1), (1, "dim", 6), (1, "dim", 0), (2, "codec", "q3"),
        (2, "codec", "q8"), (2, "scale_axis", None), (3, "width_bits", None), (4, "width_base", 9),
    ],
)  # fmt: skip
def test_sections_that_do_not_fit_are_refused(sections, tmp_path, part, key, value):
    path = tmp_path / "sections.odm"

    def change(plan):
        plan["tables"]["full"]["sections"][part][key] = value

    rewritten(sections[0], path, change)
    for opens in (NativeEngine, open_odm):
        with pytest.raises((FileFormatError, UnsupportedError)):
            opens(path)


@pytest.mark.parametrize("count", [0, 17])
def test_too_few_and_too_many_sections_are_refused(sections, tmp_path, count):
    path = tmp_path / "sections.odm"

    def change(plan):
        parts = plan["tables"]["full"]["sections"]
        plan["tables"]["full"]["sections"] = (parts * 3)[:count]

    rewritten(sections[0], path, change)
    for opens in (NativeEngine, open_odm):
        with pytest.raises(FileFormatError, match="sections"):
            opens(path)


@pytest.fixture(scope="module")
def narrow(tmp_path_factory):
    path = tmp_path_factory.mktemp("narrow") / "narrow.odm"
    tables = write_narrow(path)
    ids = {name: np.arange(150, dtype=np.int64) for name in tables}
    got = NativeEngine(path).run(ids)
    for name, table in tables.items():
        np.testing.assert_array_equal(got[f"{name}.vector"], table.dequantise())
    return path, ids


@pytest.mark.parametrize("part", ["c", "d", "e"])
def test_index_of_narrow_rows_that_leads_outside(narrow, tmp_path, part):
    """In C and in numpy, without the checks at load: an error, no read beyond the records."""
    data, ids = narrow[0].read_bytes(), narrow[1]
    start = open_container(narrow[0]).entries[f"table.{part}.index"].start
    path = tmp_path / "wild.odm"
    for place, strange in ((0, b"\xff\xff\xff\xff"), (12, b"\xff\xff\0\0"), (4, b"\xff" * 8)):
        changed = bytearray(data)
        changed[start + place : start + place + len(strange)] = strange
        path.write_bytes(changed)
        with pytest.raises(FileFormatError, match="damaged"):
            NativeEngine(path)
        outcomes = []
        for engine in (
            NativeEngine(path, full_check=False),
            NumpyEngine(open_odm(path, full_check=False)),
        ):
            try:
                outcomes.append(engine.run(ids)[f"{part}.vector"])
            except FileFormatError as error:
                assert "index" in str(error)
                outcomes.append(np.zeros(0))
        np.testing.assert_array_equal(*outcomes)
        assert place == 4 or outcomes[0].size == 0


@pytest.mark.parametrize(
    ("table", "key", "value"),
    [
        *(("a", "width_bits", bits) for bits in (1, 2, 4, 8, -1, 2**40, "2", None, True)),
        *(("d", "width_bits", bits) for bits in (0, 1, 3, 4, 64)),
        ("c", "width_bits", 2), ("e", "width_bits", 1), ("e", "width_base", 9),
        ("a", "rows", 152), ("a", "rows", 2**31 - 1), ("b", "dim", 4), ("b", "width_base", 2),
        ("a", "codec", "q2"), ("b", "codec", "q4"),
    ],
)  # fmt: skip
def test_layouts_that_do_not_fit_are_refused(narrow, tmp_path, table, key, value):
    path = tmp_path / "layout.odm"
    rewritten(narrow[0], path, lambda plan: plan["tables"][table].__setitem__(key, value))
    with pytest.raises((FileFormatError, UnsupportedError)):
        NativeEngine(path)
    with pytest.raises((FileFormatError, UnsupportedError)):
        open_odm(path)


def test_paths_that_are_not_files(tmp_path):
    from ondevice import _native

    os.mkfifo(tmp_path / "pipe")  # opening one would wait for a writer
    for path in (tmp_path, tmp_path / "pipe", "/dev/zero"):
        with pytest.raises(FileFormatError, match="not a regular file"):
            _native.open(str(path), None, 0, (), 1, None, False)


def test_missing_file_and_unknown_kernels(small, tmp_path):
    path = tmp_path / "m.odm"
    path.write_bytes(small[0])
    with pytest.raises(UnsupportedError, match="sparc"):
        NativeEngine(path, kernels="sparc")
    with pytest.raises(FileFormatError, match="cannot be read"):
        NativeEngine(tmp_path / "none.odm")
    with pytest.raises(FileFormatError):
        ondevice.load(tmp_path / "none.odm")
