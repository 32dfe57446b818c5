"""The engine in WebAssembly against the numpy engine: scores, raw values, hostile files, memory."""

import gzip
import itertools
import json
import math
import re
import subprocess

import numpy as np
import pytest
from support import web
from support.attention import request as attention_request
from support.attention import write_attention
from support.browser import LACKING as CHROMIUM_LACKING
from support.native import random_table, write_model
from support.random_plans import random_plan
from support.raw_values import golden_value
from support.tools import does_not_run, needs

import ondevice
import ondevice.verify
from ondevice.cells import Cells
from ondevice.codecs import quantise
from ondevice.dense import pack_dense
from ondevice.engines.numpy import NumpyEngine
from ondevice.features import FeatureSpec, Field
from ondevice.info import InputSpec, ModelInfo, TestVectors
from ondevice.odm import open_odm, write_odm
from ondevice.plan import Node, Plan
from ondevice.records import pack_records
from ondevice.spec import binary_code_spec, full_spec, hashing_spec, multi_hash_spec

pytestmark = needs(web.NODE_LACKING, web.CLANG_LACKING)
PLANS = 40
ROWS = 70  # more than the engine takes at once
# What a page loads, raw and gzipped: stated in web/README.md.
SIZES = {"ondevice.wasm": (150_000, 60_000), "ondevice-plain.wasm": (150_000, 60_000)}
EXTREME = [0, 1, -1, 2**63 - 1, -(2**63), 2**31, 2**32 - 1, 2**53 + 1, -(2**53) - 1, 123456789012]


@pytest.fixture(scope="module")
def dist(tmp_path_factory):
    folder = tmp_path_factory.mktemp("dist")
    web.builder().build(folder)
    return folder


def as_json(array):
    """An array as nested lists; integers and what JSON lacks as texts."""
    if array.ndim > 1:
        return [as_json(row) for row in array]
    if array.dtype.kind in "iu":
        return [str(int(value)) for value in array]
    return [float(v) if math.isfinite(v) else str(float(v)) for v in array]


def scored(model, requests, **more):
    """A task: predict every request, given as (None or context, inputs)."""
    listed = [
        {"context": None if context is None else {n: as_json(v) for n, v in context.items()},
         "inputs": {n: as_json(v) for n, v in inputs.items()}}
        for context, inputs in requests
    ]  # fmt: skip
    return {"do": "scores", "model": str(model), "requests": listed, **more}


def arrays(result, outputs, shapes):
    """The answer of a request as float32 arrays by output."""
    named = result if isinstance(result, dict) else {outputs[0]: result}
    return {
        n: np.array([float(x) for x in named[n]], np.float32).reshape(shapes[n]) for n in outputs
    }


def plans_and_requests(folder):
    """Random models with their requests, and what numpy says to each."""
    for seed in range(PLANS):
        plan = random_plan(seed, ("f32", "q8", "f16")[seed % 3])
        path = plan.write(folder / f"{seed}.odm")
        request = plan.request(ROWS)
        yield plan, path, request, NumpyEngine(open_odm(path)).run(request)


def test_scores_of_random_models_with_and_without_vectors(dist, tmp_path):
    """Both builds give the same bits, near to numpy's; rank agrees with predict."""
    cases = list(plans_and_requests(tmp_path))
    tasks = []
    for plan, path, request, _ in cases:
        requests = [(None, request)]
        first = next((c for c in plan.splits() if c and len(c) < len(request)), None)
        if first:
            one = {n: request[n][:1] for n in first}
            requests.append((one, {n: v for n, v in request.items() if n not in first}))
            requests.append((None, {n: np.repeat(v[:1], len(v), axis=0) if n in first else v
                                    for n, v in request.items()}))  # fmt: skip
        tasks.append(scored(path, requests))
    vectors = web.in_node(dist, tasks)
    plain = web.in_node(dist, [{**t, "wasm": str(dist / "ondevice-plain.wasm")} for t in tasks])
    for (plan, _, _, expected), with_vectors, without in zip(cases, vectors, plain, strict=True):
        assert with_vectors["kernels"] == "wasm-simd"
        assert without["kernels"] == "portable"
        assert with_vectors["result"] == without["result"]
        shapes = {name: expected[name].shape for name in plan.outputs}
        got = arrays(with_vectors["result"][0], plan.outputs, shapes)
        for name in plan.outputs:
            scale = 1 + np.abs(expected[name][np.isfinite(expected[name])]).max(initial=0)
            np.testing.assert_allclose(got[name], expected[name], rtol=0, atol=1e-5 * scale)
        if len(with_vectors["result"]) == 3 and plan.codec == "f32":  # q8 may round apart
            ranked, repeated = (arrays(r, plan.outputs, shapes) for r in with_vectors["result"][1:])
            for name in plan.outputs:
                scale = 1 + np.abs(repeated[name]).max()
                np.testing.assert_allclose(ranked[name], repeated[name], rtol=0, atol=2e-6 * scale)


def dense_model(path, codec, widths):
    """Dense layers of these widths over floats, with ReLU between them."""
    rng = np.random.default_rng(widths[0])
    nodes, weights, relu = [], {}, len(widths) - 2
    for i, (features, units) in enumerate(itertools.pairwise(widths)):
        packed = pack_dense(
            (rng.normal(size=(features, units)) / features**0.5).astype(np.float32),
            rng.normal(size=units).astype(np.float32),
            codec,
        )
        parts = {"weight": packed.weight, "bias": packed.bias}
        if packed.scale is not None:
            parts["scale"] = packed.scale
        weights |= {f"d{i}.{part}": array for part, array in parts.items()}
        attributes = {"codec": codec, "features": features, "units": units, "relu": int(i < relu)}
        sources = (f"x{i}", *(f"d{i}.{part}" for part in parts))
        nodes.append(Node("Dense", sources, (f"x{i + 1}",), attributes))
    plan = Plan(("x0",), (f"x{len(widths) - 1}",), tuple(nodes), tuple(weights), {})
    spec = InputSpec("x0", ("batch", widths[0]), None, "float32")
    write_odm(path, plan, ModelInfo((spec,), plan.outputs), weights, {})
    return path


@pytest.mark.parametrize("codec", ["f32", "f16", "q8"])
@pytest.mark.parametrize("widths", [(3, 5, 49, 1), (81, 97, 16, 1), (700, 530, 48, 33), (6000, 17)])
def test_dense_layers_of_all_widths(dist, tmp_path, codec, widths):
    """Few rows and many, zeros of some rows and of all, NaN and infinity: both builds score the
    same bits, near to numpy's."""
    path = dense_model(tmp_path / "m.odm", codec, widths)
    rng = np.random.default_rng(5)
    requests = []
    for rows in (1, 3, 4, 11, 12, 65):
        x = rng.normal(size=(rows, widths[0])).astype(np.float32)
        x *= rng.random(x.shape) < rng.random((rows, 1))  # from row to row more or fewer zeros
        x[:, widths[0] // 2] = 0
        x[rows // 2] = 0
        if rows == 11:
            x[1, 0], x[2, -1] = np.nan, np.inf
        requests.append(x)
    task = scored(path, [(None, {"x0": x}) for x in requests])
    plain = {**task, "wasm": str(dist / "ondevice-plain.wasm")}
    vectors, without = web.in_node(dist, [task, plain])
    assert vectors["result"] == without["result"]
    engine = NumpyEngine(open_odm(path))
    for x, result in zip(requests, vectors["result"], strict=True):
        output = f"x{len(widths) - 1}"
        expected = engine.run({"x0": x})[output]
        got = arrays(result, [output], {output: expected.shape})[output]
        atol = 2e-5 * (1 + np.abs(expected[np.isfinite(expected)]).max(initial=0))
        if codec == "q8":  # codes of layers behind the first may round apart
            atol *= 1 if len(widths) == 2 else 1000
        np.testing.assert_allclose(got, expected, rtol=0, atol=atol)


def lookup_models(folder):
    """A model for each scheme and codec, whose IDs take all 64 bits."""
    specs = {
        "full": full_spec(50, 6, padding_id=0, oov_row=1),
        "code": binary_code_spec(6, code_bits=64, t=11, padding_id=0, multiplier=2**63 + 12345),
        "skip": binary_code_spec(6, code_bits=21, t=2, strategy="skip", fuse="concat"),
        "hash": hashing_spec(97, 6, head=7),
        "multi": multi_hash_spec(41, 6, hashes=3, seed=5, fuse="mean"),
    }
    for codec in ("f32", "f16", "q8", "q4", "q2"):
        rng = np.random.default_rng(3)
        tables = {
            name: random_table(spec, codec, rng, truncated=codec == "q4", axis="column")
            for name, spec in specs.items()
        }
        outputs = [f"{name}.vector" for name in specs]
        yield write_model(folder / f"{codec}.odm", specs, tables, [], {}, outputs), outputs, specs


def test_every_scheme_and_codec_reads_the_same_bits_as_numpy(dist, tmp_path):
    ids = np.array(EXTREME + list(range(40)), np.int64)
    models = list(lookup_models(tmp_path))
    tasks = [scored(path, [(None, dict.fromkeys(specs, ids))]) for path, _, specs in models]
    for wasm in ("ondevice.wasm", "ondevice-plain.wasm"):
        answers = web.in_node(dist, [{**task, "wasm": str(dist / wasm)} for task in tasks])
        for (path, outputs, specs), answer in zip(models, answers, strict=True):
            expected = NumpyEngine(open_odm(path)).run(dict.fromkeys(specs, ids))
            got = arrays(answer["result"][0], outputs, {n: expected[n].shape for n in outputs})
            for name in outputs:
                np.testing.assert_array_equal(got[name], expected[name], err_msg=f"{path} {name}")


def test_every_float16_is_read_as_it_is(dist, tmp_path):
    """All finite numbers of 16 bits, subnormal ones among them."""
    halves = np.arange(2**16, dtype=np.uint16).view(np.float16).astype(np.float32)
    values = halves[np.isfinite(halves)].reshape(-1, 4)
    table = quantise(values, "f16")
    spec = full_spec(*values.shape)
    path = write_model(tmp_path / "m.odm", {"a": spec}, {"a": table}, [], {}, ["a.vector"])
    ids = np.arange(len(values))
    for wasm in ("ondevice.wasm", "ondevice-plain.wasm"):
        (answer,) = web.in_node(
            dist, [{**scored(path, [(None, {"a": ids})]), "wasm": str(dist / wasm)}]
        )
        got = np.array([float(x) for x in answer["result"][0]], np.float32).reshape(values.shape)
        np.testing.assert_array_equal(got, values)


def exact(kind, value):
    """A golden value with integers as texts, which JavaScript reads as BigInts."""
    if kind == "list":
        return [[item, exact(item, one)] for item, one in value]
    return str(value) if kind == "integer" else value


def test_golden_cells(dist, tmp_path):
    """Raw values of every kind become the IDs that Python, C and Java make of them."""
    golden = json.loads((web.ROOT / "tests" / "golden" / "cells.json").read_text("utf-8"))
    features = FeatureSpec.from_json(golden["features"])
    table = quantise(np.zeros((3, 2), np.float32), "f32")
    path = write_model(tmp_path / "m.odm", {"a": full_spec(3, 2)}, {"a": table}, [], {},
                       ["a.vector"], features=features)  # fmt: skip
    cases = [{**case, "value": exact(case["type"], case["value"])} for case in golden["cases"]]
    (answers,) = web.in_node(dist, [{"do": "cells", "model": str(path), "cases": cases}])
    for case, answer in zip(golden["cases"], answers, strict=True):
        value = golden_value(case["type"], case["value"])
        given = value if isinstance(value, list) else [value]
        if case["ids"] is None and any(isinstance(v, float) and v.is_integer() for v in given):
            continue  # JavaScript has one kind of number: 3.0 is the integer 3
        if case["ids"] is None:
            assert isinstance(answer, str), case
            assert answer.startswith("InputError"), case
        else:
            assert answer == [str(number) for number in case["ids"]], case


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """A small model of two fields and a dense layer, and a request."""
    plan = random_plan(4, "q8")
    path = plan.write(tmp_path_factory.mktemp("small") / "small.odm")
    request = plan.request(3)
    return path, {name: as_json(value) for name, value in request.items()}


def test_changed_files_are_refused_or_score(dist, small):
    path, inputs = small
    task = {"do": "mutants", "model": str(path), "inputs": inputs, "count": 1500, "seed": 7}
    (outcomes,) = web.in_node(dist, [task])
    assert sum(outcomes.values()) == 1500
    assert outcomes["FileFormatError"] > 1000
    assert set(outcomes) <= {"FileFormatError", "scored", "UnsupportedError", "InputError"}


def test_a_thousand_loads_take_no_more_memory(dist, small):
    path, inputs = small
    (held,) = web.in_node(dist, [{"do": "loads", "model": str(path), "inputs": inputs,
                                  "count": 1000}])  # fmt: skip
    assert held["most"] == held["first"] == held["last"]


def test_wrong_requests_are_refused_with_typed_errors(dist, tmp_path):
    spec = full_spec(9, 4)
    tables = {name: random_table(spec, "q8", np.random.default_rng(0), truncated=False, axis="row")
              for name in "ab"}  # fmt: skip
    path = write_model(tmp_path / "m.odm", dict.fromkeys("ab", spec), tables, [], {}, ["a.vector"])
    task = {"do": "faults", "model": str(path), "inputs": {"a": ["1"], "b": ["2"]}, "name": "a"}
    (said,) = web.in_node(dist, [task])
    assert {name: text.split(":")[0] for name, text in said.items()} == {
        **dict.fromkeys(said, "InputError"),
        "absent": "FileFormatError",
        "noModel": "FileFormatError",
        **dict.fromkeys(("closed", "closes", "grows"), "OnDeviceError"),
    }
    assert "beyond the integers that a Number holds exactly" in said["unsafe"]
    assert "16777216 is beyond the integers that a Float32Array holds exactly" in said["rounded"]
    for name in ("grown", "shrunk", "detached"):
        assert "input 'b': its array changed while the request was read" in said[name]
    assert "missing inputs: a, b" in said["missing"]
    assert "the model is closed" in said["closed"]
    assert "the model is busy" in said["closes"]
    assert "the model is busy" in said["grows"]


def test_free_axes_take_every_length(dist, tmp_path):
    """More lengths than stay open at once, back and forth."""
    expected = write_attention(tmp_path / "m.odm")
    sizes = [(2, 3), (5, 1), (1, 40), (2, 3), *((3, steps) for steps in range(2, 26)), (5, 1)]
    requests = [attention_request(rows, steps) for rows, steps in sizes]
    (answer,) = web.in_node(dist, [scored(tmp_path / "m.odm", [(None, r) for r in requests])])
    for request, result in zip(requests, answer["result"], strict=True):
        right = expected(request)
        got = arrays(result, list(right), {name: value.shape for name, value in right.items()})
        for name in right:
            np.testing.assert_allclose(got[name], right[name], rtol=2e-6, atol=2e-6)


def test_a_refused_size_leaves_the_model_as_it_was(dist, tmp_path):
    """Also where as many sizes are open as stay open, so that memory has to start again."""
    expected = write_attention(tmp_path / "m.odm")
    steps = range(2, 17)  # with the size of the start: as many as stay open
    requests = [{"inputs": {n: as_json(v) for n, v in attention_request(2, size).items()}}
                for size in steps]  # fmt: skip
    one = {n: as_json(v) for n, v in attention_request(1, 1).items()}
    huge, empty = {"inputs": one, "length": 5_000_000}, {**one, "history": [[]], "numbers": [[]]}
    asked = [*requests, huge, {"inputs": empty}, requests[-1], requests[0]]
    (answers,) = web.in_node(dist, [{"do": "answers", "model": str(tmp_path / "m.odm"),
                                     "requests": asked}])  # fmt: skip
    for size, answer in zip(steps, answers, strict=False):
        right = expected(attention_request(2, size))["score"]
        np.testing.assert_allclose(answer["score"], right, rtol=2e-6, atol=2e-6)
    refused, nothing, *again = answers[len(steps) :]
    assert refused.startswith("InputError: the model does not take the sizes steps=5000000: ")
    assert nothing == "InputError: free axes must have a size, got steps=0"
    assert again == [answers[len(steps) - 1], answers[0]]


def write_positions(path, steps):
    """A model of a free axis that takes as many steps only as it has positions."""
    rng = np.random.default_rng(2)
    table = rng.normal(size=(9, 4)).astype(np.float32)
    weights = {
        "positions": rng.normal(size=(1, steps, 4)).astype(np.float32),
        "flat": np.array([0, 4 * steps]),
        "w": rng.normal(size=(4 * steps, 1)).astype(np.float32),
    }
    nodes = (
        Node("Lookup", ("history",), ("h",), {}, "t", full_spec(9, 4)),
        Node("Add", ("h", "positions"), ("x",), {}),
        Node("Reshape", ("x", "flat"), ("row",), {}),
        Node("MatMul", ("row", "w"), ("y",), {}),
    )
    packed = pack_records(quantise(table, "f32"))
    ids = rng.integers(0, 9, (3, steps))
    right = (table[ids] + weights["positions"]).reshape(3, -1) @ weights["w"]
    vectors = TestVectors({"history": ids}, {"y": right}, 1e-5)
    plan = Plan(("history",), ("y",), nodes, tuple(weights), {"t": packed.layout})
    inputs = (InputSpec("history", ("batch", "steps"), id_limit=9),)
    write_odm(path, plan, ModelInfo(inputs, ("y",), vectors=vectors), weights, {"t": packed})
    return ids, right


def test_a_model_opens_with_the_sizes_of_its_test_vectors(dist, tmp_path):
    ids, right = write_positions(tmp_path / "m.odm", 5)
    path = str(tmp_path / "m.odm")
    requests = [{"inputs": {"history": as_json(value)}} for value in (ids, ids[:, :3], ids)]
    tasks = [{"do": "answers", "model": path, "requests": requests},
             {"do": "verified", "model": path}]  # fmt: skip
    (first, refused, last), verified = web.in_node(dist, tasks)
    np.testing.assert_allclose(first, right[:, 0], rtol=1e-5, atol=1e-5)
    assert last == first
    assert refused.startswith("InputError: the model does not take the sizes steps=3: ")
    assert verified["passed"]
    assert verified["rows"] == 3


def test_raw_lists_fit_a_free_axis(dist, tmp_path):
    spec, table = hashing_spec(40, 4, padding_id=0), np.random.default_rng(3).normal(size=(40, 4))
    packed = pack_records(quantise(table.astype(np.float32), "f32"))
    nodes = (
        Node("Lookup", ("history",), ("h",), {}, "t", spec),
        Node("ReduceSum", ("h", "one"), ("y",), {"keepdims": 0}),
    )
    features = FeatureSpec((Field("history", "string", "hash", seed=3, length=5),))
    weights = {"one": np.array([1])}
    info = ModelInfo((InputSpec("history", ("batch", "steps")),), ("y",), features=features)
    path = tmp_path / "m.odm"
    write_odm(path, Plan(("history",), ("y",), nodes, ("one",), {"t": packed.layout}), info,
              weights, {"t": packed})  # fmt: skip
    raw = {"history": [["a", "b"], ["c"], [], list("defghij")]}
    expected = ondevice.load(path, engine="numpy").predict(raw, raw=True)
    (answers,) = web.in_node(dist, [{"do": "answers", "model": str(path),
                                     "requests": [{"inputs": raw, "raw": True}]}])  # fmt: skip
    np.testing.assert_allclose(answers[0], expected.ravel(), rtol=1e-6, atol=1e-6)


def test_raw_values_of_inputs_of_numbers_become_numbers(dist, tmp_path):
    """Their IDs, each as the nearest float32: a network casts them to IDs again."""
    names = ("id", "price", "seen")
    fields = (
        Field("id", "integer", "id", cells=Cells()),
        Field("price", "number", "bucket", boundaries=np.array([0.0, 1.0])),
        Field("seen", "integer", "id", length=2),
    )
    outputs = tuple(f"{name}.value" for name in names)
    nodes = tuple(Node("Identity", (n,), (out,), {}) for n, out in zip(names, outputs, strict=True))
    info = ModelInfo(
        tuple(
            InputSpec(f.name, ("batch",) if f.length is None else ("batch", 2), dtype="float32")
            for f in fields
        ),
        outputs,
        features=FeatureSpec(fields),
    )
    path = tmp_path / "m.odm"
    write_odm(path, Plan(names, outputs, nodes, (), {}), info, {}, {})
    # the nearest double of the fourth lies halfway between two float32
    large = [7, 2**24 + 1, -(2**63), 2**53 + 2**29 + 1, 2**63 - 1, -(2**60) - 2**36 - 1]
    raw = {
        "id": list(map(str, large)),
        "price": [0.5, None, 2, -1, 0, 1],
        "seen": [[1, 2], [3], [], [4, 5, 6], None, [9]],
    }
    right = {
        "id.value": np.array(large).astype(np.float32),
        "price.value": [3, 1, 4, 2, 3, 4],
        "seen.value": [1, 2, 3, 0, 0, 0, 5, 6, 0, 0, 9, 0],
    }
    in_python = ondevice.load(path, engine="numpy").predict(raw, raw=True)
    context = {"id": raw["id"][3:4], "seen": raw["seen"][:1]}
    predicted, ranked = web.in_node(
        dist,
        [
            {"do": "raw", "model": str(path), "inputs": raw},
            {
                "do": "raw",
                "model": str(path),
                "context": context,
                "inputs": {"price": raw["price"]},
            },
        ],
    )
    for name, values in right.items():
        np.testing.assert_array_equal(in_python[name].ravel(), values)
        np.testing.assert_array_equal(np.array(predicted[name], np.float64), values)
    shared = {"id.value": [2**53 + 2**30] * 6, "seen.value": [1, 2] * 6}
    for name, values in {**right, **shared}.items():
        np.testing.assert_array_equal(np.array(ranked[name], np.float64), values)


@pytest.mark.parametrize("change", [0, 3e-6, 2e-4, 1e-3, math.nan, math.inf])
@pytest.mark.parametrize("size", [0.001, 1, 50])
def test_verify_measures_as_python_does(dist, tmp_path, size, change):
    """A model whose test vectors are wrong by a little: small outputs, probabilities, logits."""
    rng = np.random.default_rng(4)
    values = (size * rng.uniform(-1 if size > 1 else 0, 1, (40, 3))).astype(np.float32)
    ids = np.arange(40)
    right = values.copy()
    right[7, 1] += change
    vectors = TestVectors({"a": ids}, {"a.vector": right}, 1e-5)
    packed = pack_records(quantise(values, "f32"))
    node = Node("Lookup", ("a",), ("a.vector",), {}, "a", full_spec(40, 3))
    info = ModelInfo((InputSpec("a", id_limit=40),), ("a.vector",), vectors=vectors)
    path = tmp_path / "m.odm"
    write_odm(path, Plan(("a",), ("a.vector",), (node,), (), {"a": packed.layout}), info, {},
              {"a": packed})  # fmt: skip
    expected = ondevice.verify.verify(path, engine="numpy")
    (got,) = web.in_node(dist, [{"do": "verified", "model": str(path)}])
    assert got["passed"] == (expected.max_difference <= expected.tolerance)
    if math.isfinite(change):
        assert got["difference"] == pytest.approx(expected.max_difference, rel=1e-9)


def test_sources_that_cannot_be_read_have_typed_errors(dist, small):
    path, _ = small
    (said,) = web.in_node(dist, [{"do": "sources", "model": str(path),
                                  "wasm": str(dist / "ondevice.wasm")}])  # fmt: skip
    for name in ("missing", "spent", "cut", "shortEngine", "otherEngine"):
        assert said.pop(name).startswith("FileFormatError: the "), name
    assert said.pop("large").startswith("MemoryError")
    assert set(said.values()) == {"wasm-simd"}


def test_requests_of_changing_sizes_take_no_more_memory(dist, tmp_path):
    spec = full_spec(9, 4)
    table = random_table(spec, "q8", np.random.default_rng(0), truncated=False, axis="row")
    path = write_model(tmp_path / "m.odm", {"a": spec}, {"a": table}, [], {}, ["a.vector"],
                       features=FeatureSpec((Field("a", "string", "hash", seed=1),)))  # fmt: skip
    ((first, last),) = web.in_node(dist, [{"do": "growth", "model": str(path), "count": 5000}])
    assert last == first


def test_the_types_name_what_the_module_has(dist, small):
    path, _ = small
    (members,) = web.in_node(dist, [{"do": "members", "model": str(path)}])
    types = (web.ROOT / "web" / "ondevice.d.ts").read_text("utf-8")
    values = re.findall(r"^export (?:class|function) (\w+)", types, re.MULTILINE)
    assert sorted(values) == sorted(members["module"])
    model = re.search(r"^export interface Model \{(.*?)^\}", types, re.MULTILINE | re.DOTALL)[1]
    typed = re.findall(r"^  (?:readonly )?(\w+)[(:]", model, re.MULTILINE)
    assert set(typed) == set(members["model"])


@needs(CHROMIUM_LACKING)
def test_a_page_and_a_worker_score_as_numpy_does(dist, tmp_path):
    """In real Chromium, under a policy that forbids eval."""
    cases = list(plans_and_requests(tmp_path))[:6]
    tasks = [scored(path.name, [(None, request)]) for _, path, request, _ in cases]
    page, worker, console = web.in_chromium(dist, tasks, tmp_path)
    assert console == []
    assert page == worker
    for (plan, _, _, expected), answer in zip(cases, page, strict=True):
        assert answer["kernels"] == "wasm-simd"
        got = arrays(
            answer["result"][0], plan.outputs, {n: expected[n].shape for n in plan.outputs}
        )
        for name in plan.outputs:
            scale = 1 + np.abs(expected[name]).max()
            np.testing.assert_allclose(got[name], expected[name], rtol=0, atol=1e-5 * scale)


def test_sizes_and_versions(dist):
    readme = (web.ROOT / "web" / "README.md").read_text("utf-8")
    for name, (raw, gzipped) in SIZES.items():
        data = (dist / name).read_bytes()
        assert len(data) <= raw, name
        assert len(gzip.compress(data, 9)) <= gzipped, name
        assert f"{raw / 1000:g} kB ({gzipped / 1000:g} kB" in readme
    package = json.loads((web.ROOT / "web" / "package.json").read_text("utf-8"))
    assert package["version"] == ondevice.__version__
    assert "eval(" not in (web.ROOT / "web" / "ondevice.js").read_text("utf-8")


@needs(does_not_run("npm", "--version"))
def test_what_the_package_holds(dist):
    """All that its files ask for, and nothing else."""
    command = ["npm", "pack", "--dry-run", "--json", "--offline"]
    done = subprocess.run(
        command, cwd=dist, capture_output=True, text=True, check=True, timeout=600
    )
    (package,) = json.loads(done.stdout)
    packed = {item["path"] for item in package["files"]}
    assert packed == {path.name for path in dist.iterdir()}
    scripts = [path.read_text("utf-8") for path in dist.glob("*.js")]
    asked = {name for text in scripts for name in re.findall(r'"\./([a-z.-]+)"', text)}
    assert asked <= packed
    assert len(asked) == 5
