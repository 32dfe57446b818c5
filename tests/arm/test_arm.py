"""The C core on ARM: cross-compiled, run under emulation as Pi 4, Pi 5, a newer core and armv7."""

import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from support import arm
from support.engine import COMPILER, POSIX
from support.native import dense_node, random_ensemble, random_table, write_model
from support.retrieval import CASES, golden
from support.tools import cannot_link, missing, require

from ondevice.codecs import quantise
from ondevice.engines.native import NativeEngine, is_compiled
from ondevice.engines.numpy import NumpyEngine
from ondevice.odm import open_odm
from ondevice.plan import Node
from ondevice.sections import parse_sections, quantise_sections
from ondevice.spec import (
    binary_code_spec,
    full_spec,
    hashing_spec,
    multi_hash_spec,
    quotient_remainder_spec,
)

SEQUENCES = {"i": (4,), "k": (3,)}  # lookups that pool


# Zeros are frequent among the vectors, and the smallest numbers must not count as zero.
TREE_LIMITS = np.float32([0, -0.0, 1e-45, -1e-45, 0.5, -0.5, 1.5, -1.5])


def random_ids(rng, specs, rows):
    """Any 64-bit IDs, and small ones: padding and heads."""
    ids = {}
    for name in specs:
        shape = (rows, *SEQUENCES.get(name, ()))
        large = rng.integers(-(2**63), 2**63 - 1, shape, dtype=np.int64)
        ids[name] = np.where(rng.random(shape) < 0.5, rng.integers(0, 8, shape), large)
    return ids


def random_model(path):
    """A model with every codec, row scheme and pooling; dense layers of every kind as outputs."""
    rng = np.random.default_rng(11)
    specs = {
        "a": binary_code_spec(16, code_bits=64, t=8, multiplier=0x9E3779B97F4A7C15, padding_id=0),
        "b": binary_code_spec(12, code_bits=20, t=3, strategy="skip", fuse="mean"),
        "c": full_spec(50, 7, oov_row=2),
        "d": binary_code_spec(24, code_bits=30, t=8, fuse="concat"),
        "e": binary_code_spec(3, code_bits=20, t=7),  # rows that share bytes
        "f": full_spec(50, 5, oov_row=0),
        "g": full_spec(90, 1, oov_row=0),
        "h": multi_hash_spec(40, 6, hashes=3, fuse="mean", padding_id=1, head=9),
        "i": replace(hashing_spec(31, 5, padding_id=0, head=4), pooling="mean"),
        "j": quotient_remainder_spec(400, 9, remainders=20, fuse="mul"),
        "k": replace(
            binary_code_spec(8, code_bits=20, t=10, fuse="concat", padding_id=2, head=5),
            pooling="sum",
        ),
        "l": full_spec(60, 11, oov_row=1),  # levels
        "m": multi_hash_spec(40, 9, hashes=2, head=3),
        "n": full_spec(50, 7, oov_row=0),
        "o": full_spec(200, 13, oov_row=0),  # sections
        "q": multi_hash_spec(40, 6, hashes=3, fuse="mean", padding_id=1, head=9),
    }
    codecs = {"a": ("q4", "row"), "b": ("q8", "row"), "c": ("q8", "column"), "d": ("f16", None),
              "e": ("q4", "row"), "f": ("q2", "column"), "g": ("q4", "column"),
              "h": ("q8", "row"), "i": ("q4", "row"), "j": ("q8", "column"),
              "k": ("f32", None), "l": ("q2", "levels"), "m": ("q3", "levels"),
              "n": ("q1", "levels")}  # fmt: skip
    tables = {
        name: random_table(specs[name], codec, rng, truncated=name != "g", axis=axis)
        for name, (codec, axis) in codecs.items()
    }
    for name, text in (("o", "f32:3,f16:7,q8x9:20,q4:20,q3x5:30,q2:40,q1"), ("q", "q8:9,q3")):
        values = rng.normal(size=(specs[name].rows, specs[name].row_dim)).astype(np.float32)
        tables[name] = quantise_sections(values, parse_sections(text))
    for name, case in (("r", CASES[4]), ("s", CASES[5])):  # retrieval structures
        specs[name], table = golden(case)[:2]
        tables[name] = replace(table, scales=table.scales / 8)  # values of about one, as all others
    width = sum(spec.dim for spec in specs.values())
    weights = {}
    w = rng.normal(size=(width, 70)).astype(np.float32)
    join = Node("Concat", tuple(f"{name}.vector" for name in specs), ("x",), {"axis": 1})
    layers = [dense_node(c, "x", w, None, c, weights, relu=c == "q8") for c in ("q8", "f16", "f32")]
    trees = random_ensemble(rng, features=width, trees=21, depth=6, targets=2, limits=TREE_LIMITS)
    weights |= trees
    tail = [
        Node("Sigmoid", ("f32",), ("p",), {}),
        Node("TreeEnsemble", ("x", *trees), ("trees",), {"targets": 2, "aggregate": "SUM"}),
    ]
    outputs = ["x", "q8", "f16", "f32", "p", "trees"]
    shapes = {name: ("batch", *SEQUENCES.get(name, ())) for name in specs}
    nodes = [join, *layers, *tail]
    return write_model(path, specs, tables, nodes, weights, outputs, shapes=shapes), specs


@pytest.fixture(scope="module")
def programs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("arm")
    return {a: arm.build(a, folder) for a in arm.COMPILERS if not arm.cannot_build(a)}


def run(program, emulator, model, kernels, ids, outputs, folder):
    rows = len(next(iter(ids.values())))
    request, result = folder / "ids", folder / "results"
    request.write_bytes(b"".join(values.astype("<i8").tobytes() for values in ids.values()))
    done = subprocess.run(
        [*emulator, program, model, kernels, str(rows), request, result],
        capture_output=True, text=True,
    )  # fmt: skip
    if done.returncode == 3:
        return None, done.stderr
    assert done.returncode == 0, done.stderr
    flat, arrays, start = np.fromfile(result, dtype="<f4"), {}, 0
    for name, expected in outputs.items():
        arrays[name] = flat[start : start + expected.size].reshape(expected.shape)
        start += expected.size
    assert start == flat.size
    return arrays, done.stdout.strip()


@pytest.mark.parametrize("processor", arm.PROCESSORS)
def test_kernels_under_emulation(processor, programs, tmp_path):
    architecture, chosen = arm.PROCESSORS[processor]
    require(arm.cannot_build(architecture))
    model, specs = random_model(tmp_path / "m.odm")
    emulator = [f"qemu-{architecture}-static", "-cpu", processor]
    rng = np.random.default_rng(3)
    for rows in (1, 2, 9, 70):
        ids = random_ids(rng, specs, rows)
        expected = NumpyEngine(open_odm(model)).run(ids)
        for kernels in ("auto", "portable", "neon", "neon-dotprod", "neon-i8mm"):
            got, said = run(
                programs[architecture], emulator, model, kernels, ids, expected, tmp_path
            )
            if got is None:
                assert kernels > chosen or architecture == "arm" or kernels == "neon-i8mm", said
                continue
            assert said == (chosen if kernels == "auto" else kernels)
            np.testing.assert_array_equal(got["x"], expected["x"], err_msg=kernels)
            np.testing.assert_array_equal(got["q8"], expected["q8"], err_msg=kernels)
            np.testing.assert_array_equal(got["trees"], expected["trees"], err_msg=kernels)
            for name in ("f16", "f32", "p"):
                np.testing.assert_allclose(
                    got[name], expected[name], rtol=1e-6, atol=2e-5, err_msg=kernels
                )


def vector_model(path):
    """Elementwise functions, reductions, Softmax, sums of products and a layer with one output."""
    rng = np.random.default_rng(13)
    specs = {"a": full_spec(64, 37, oov_row=0)}
    values = rng.normal(size=(64, 37)) * 10 ** rng.uniform(-3, 1.5, (64, 37))
    tables = {"a": quantise(values.astype(np.float32), "f32")}
    weights = {"one": np.array([1], np.int64), "two": np.array([2], np.int64),
               "c": rng.normal(size=37).astype(np.float32)}  # fmt: skip
    maps = ("Relu", "LeakyRelu", "Abs", "Neg", "Sqrt", "Reciprocal", "Exp", "Sigmoid", "Tanh")
    nodes = [Node(name, ("a.vector",), (name,), {}) for name in maps]
    for name in ("Add", "Sub", "Mul", "Div", "Max", "Min", "PRelu"):
        nodes.append(Node(name, ("a.vector", "c"), (name,), {}))
    for name in ("ReduceSum", "ReduceMean", "ReduceMax"):
        nodes += [Node(name, ("a.vector", axis), (name + axis,), {}) for axis in ("one", "two")]
    nodes += [Node("Softmax", ("a.vector",), (f"Softmax{i}",), {"axis": i}) for i in (1, 2)]
    nodes += [Node("Mul", ("a.vector", "Tanh"), ("products",), {}),
              Node("ReduceSum", ("products", "two"), ("dots",), {})]  # fmt: skip
    w = rng.normal(size=(37, 1)).astype(np.float32)
    nodes.append(dense_node("single", "a.vector", w, None, "f32", weights, relu=False))
    outputs = [node.outputs[0] for node in nodes if node.outputs[0] != "products"]
    shapes = {"a": ("batch", 3)}
    return write_model(path, specs, tables, nodes, weights, outputs, shapes=shapes)


@pytest.mark.skipif(not is_compiled(), reason="the native engine is not compiled")
@pytest.mark.parametrize("processor", arm.PROCESSORS)
def test_vector_operators_give_the_bits_of_this_processor(processor, programs, tmp_path):
    architecture, _ = arm.PROCESSORS[processor]
    require(arm.cannot_build(architecture))
    model = vector_model(tmp_path / "m.odm")
    emulator = [f"qemu-{architecture}-static", "-cpu", processor]
    for rows in (1, 9):
        ids = {"a": np.random.default_rng(rows).integers(0, 64, (rows, 3))}
        expected = NativeEngine(model).run(ids)
        for kernels in ("auto", "portable"):
            got, _ = run(programs[architecture], emulator, model, kernels, ids, expected, tmp_path)
            for name, value in expected.items():
                np.testing.assert_array_equal(got[name], value, err_msg=f"{kernels}: {name}")


@pytest.mark.parametrize("architecture", arm.COMPILERS)
def test_loops_over_every_length_and_extreme_values_give_the_same_bits(architecture, tmp_path):
    """Every function of kernels/vectors.h, whose loops take several vectors at once."""
    require(arm.cannot_build(architecture), cannot_link(COMPILER, "-static"))
    source = Path(__file__).parent / "vector_bits.c"
    here = tmp_path / "here"
    subprocess.run([COMPILER, *arm.FLAGS, str(source), *POSIX, "-o", here], check=True)
    emulated = [
        f"qemu-{architecture}-static",
        "-cpu",
        "max",
        arm.build(architecture, tmp_path, source),
    ]
    expected, bits = (
        subprocess.run(command, capture_output=True, check=True).stdout
        for command in ([here], emulated)
    )
    assert len(expected.splitlines()) == 56
    assert bits == expected


def test_instruction_counts_repeat(programs, tmp_path):
    """Executed instructions a request: the same in every run, and fewer with better kernels."""
    require(arm.cannot_build("aarch64"), missing("gcc", "qemu-aarch64"))
    plugin = tmp_path / "libcount.so"
    source = Path(__file__).parent / "count_instructions.c"
    subprocess.run(["gcc", "-O2", "-shared", "-fPIC", source, "-o", plugin], check=True)
    model, specs = random_model(tmp_path / "m.odm")
    ids = tmp_path / "ids"
    request = random_ids(np.random.default_rng(4), specs, 1)
    ids.write_bytes(b"".join(values.astype("<i8").tobytes() for values in request.values()))

    def count(kernels):
        log = tmp_path / "log"
        subprocess.run(
            ["qemu-aarch64", "-cpu", "cortex-a76", "-plugin", f"{plugin},out={log}",
             programs["aarch64"], model, kernels, "1", ids, tmp_path / "out", "10"],
            check=True, capture_output=True,
        )  # fmt: skip
        marks = [int(line.split()[2]) for line in log.read_text().splitlines() if "MARK" in line]
        return (marks[1] - marks[0]) / 10

    first = count("neon-dotprod")
    assert count("neon-dotprod") == first
    assert first < count("neon") < count("portable")
