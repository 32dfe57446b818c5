"""The native engine against the numpy engine, for every kernel this processor has."""

import json
import sys
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.native import dense_node, random_sections, random_table, write_model
from support.retrieval import CASES, case_name, golden, random_structure
from support.runtime import write_small_model

import ondevice
from ondevice.codecs import CODECS, quantise
from ondevice.engines.native import NativeEngine, is_compiled
from ondevice.engines.numpy import NumpyEngine
from ondevice.errors import FileFormatError, InputError
from ondevice.hashing import xxh64
from ondevice.odm import open_odm
from ondevice.plan import Node
from ondevice.spec import (
    LookupSpec,
    binary_code_spec,
    full_spec,
    hashing_spec,
    multi_hash_spec,
    quotient_remainder_spec,
)

pytestmark = pytest.mark.skipif(not is_compiled(), reason="the native engine is not compiled")
if is_compiled():
    from ondevice import _native

    KERNELS = _native.kernels_available()
else:
    KERNELS = []

GOLDEN = Path(__file__).parents[1] / "golden" / "schemes.json"
SCHEMES = json.loads(GOLDEN.read_text("utf-8"))
EXTREMES = np.array([0, 1, -1, 2**63 - 1, -(2**63), 2**32, 3], dtype=np.int64)


def some_ids(rng, rows, shape=()):
    ids = rng.integers(-(2**63), 2**63 - 1, (rows, *shape), dtype=np.int64)
    return np.where(rng.random((rows, *shape)) < 0.3, rng.choice(EXTREMES, (rows, *shape)), ids)


@st.composite
def hash_specs(draw, dim):
    """Hashes and quotient-remainder, with and without a head."""
    settings = {"padding_id": draw(st.sampled_from([None, 0, -1]))}
    head, rows = draw(st.sampled_from([0, 3, 40])), draw(st.integers(1, 90))
    kind = draw(st.sampled_from(["hashing", "multi_hash", "quotient_remainder"]))
    if kind == "hashing":
        return hashing_spec(rows, dim, head=head, **settings)
    fuse = draw(st.sampled_from(["sum", "mean", "concat", "mul"]))
    settings |= {"fuse": fuse, "head": 0 if fuse == "mul" else head}
    if kind == "quotient_remainder":
        dim = 2 * dim if fuse == "concat" else dim
        return quotient_remainder_spec(500, dim, remainders=rows, **settings)
    hashes = draw(st.integers(1, 5))
    dim = hashes * dim if fuse == "concat" else dim
    shared = draw(st.booleans())
    return multi_hash_spec(rows, dim, hashes=hashes, shared=shared, **settings)


@st.composite
def lookup_cases(draw):
    dim = draw(st.sampled_from([1, 2, 3, 4, 8, 12, 15, 16, 17, 24, 33, 64]))
    scheme = draw(st.sampled_from(["full", "binary_code", "hash"]))
    if scheme == "hash":
        spec = draw(hash_specs(dim))
    elif scheme == "full":
        spec = full_spec(
            draw(st.integers(1, 70)), dim, padding_id=draw(st.sampled_from([None, 0])), oov_row=0
        )
    else:
        strategy = draw(st.sampled_from(["succession", "skip"]))
        bits = draw(st.integers(4, 64))
        t = (
            draw(st.integers(max(1, -(-bits // 8)), min(9, bits)))
            if strategy == "succession"
            else draw(st.integers(max(0, -(-bits // 9) - 1), min(11, bits - 1)))
        )
        blocks = -(-bits // t) if strategy == "succession" else t + 1
        fuse = draw(st.sampled_from(["sum", "mean", "concat"]))
        spec = binary_code_spec(
            dim * blocks if fuse == "concat" else dim,
            code_bits=bits,
            t=t,
            strategy=strategy,
            fuse=fuse,
            shared=draw(st.booleans()),
            multiplier=draw(st.sampled_from([1, 0x9E3779B97F4A7C15])),
            padding_id=draw(st.sampled_from([None, 0, -1])),
            head=draw(st.sampled_from([0, 0, 5])),
        )
    sections = spec.rows > 1 and draw(st.booleans())
    codec = None if sections else draw(st.sampled_from(CODECS))
    axis = draw(st.sampled_from(["row", "column", "levels"]))
    return spec, codec, axis, draw(st.booleans()), draw(st.integers(0, 2**32 - 1))


@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(case=lookup_cases(), rows=st.integers(1, 130), seed=st.integers(0, 999))
def test_lookups_are_the_same_bit_by_bit(tmp_path_factory, case, rows, seed):
    spec, codec, axis, truncated, table_seed = case
    rng = np.random.default_rng([seed, table_seed])
    if codec is None:
        table = random_sections(spec, rng, truncated=truncated)
    else:
        table = random_table(spec, codec, rng, truncated=truncated, axis=axis)
    path = tmp_path_factory.mktemp("lookup") / "m.odm"
    shapes = [()]
    if spec.padding_id is not None:
        pooling = ("none", "sum", "mean")[seed % 3]
        spec, shapes = replace(spec, pooling=pooling), [(1,), (7,)]
    for shape in shapes:
        write_model(
            path, {"a": spec}, {"a": table}, [], {}, ["a.vector"], shapes={"a": ("batch", *shape)}
        )
        ids = {"a": some_ids(rng, rows, shape)}
        expected = NumpyEngine(open_odm(path)).run(ids)["a.vector"]
        for kernels in KERNELS:
            got = NativeEngine(path, kernels=kernels).run(ids)["a.vector"]
            np.testing.assert_array_equal(got, expected, err_msg=kernels)


@pytest.mark.parametrize("case", SCHEMES, ids=lambda c: f"{c['method']}-{c['settings']}")
def test_golden_schemes(case, tmp_path):
    """Vectors, and vectors pooled over sequences, of tables of whole numbers."""
    spec = LookupSpec.from_json(case["spec"])
    row, column = np.ogrid[: spec.rows, : spec.row_dim]
    table = quantise(((5 * row + 3 * column + row // 7) % 11 - 5).astype(np.float32), "f32")
    parts = [("vectors", spec, case["ids"], case["vectors"])]
    for pooling, expected in case["pooled"].items():
        parts.append((pooling, replace(spec, pooling=pooling), case["sequences"], expected))
    specs = {name: spec for name, spec, _, _ in parts}
    ids = {name: np.array(texts).astype(np.int64) for name, _, texts, _ in parts}
    for name, values in ids.items():
        shapes = {name: ("batch", *values.shape[1:])}
        path = tmp_path / f"{name}.odm"
        write_model(
            path, {name: specs[name]}, {name: table}, [], {}, [f"{name}.vector"], shapes=shapes
        )
        expected = next(part[3] for part in parts if part[0] == name)
        for kernels in KERNELS:
            got = NativeEngine(path, kernels=kernels).run({name: values})[f"{name}.vector"]
            np.testing.assert_allclose(got, expected, rtol=1e-6, atol=1e-6, err_msg=kernels)


def test_pooling_of_one_id_a_row_is_refused(tmp_path):
    spec = full_spec(9, 4, padding_id=0)
    rng = np.random.default_rng(0)
    path = tmp_path / "m.odm"
    spec = replace(spec, pooling="sum")
    table = random_table(spec, "f32", rng, truncated=False)
    write_model(path, {"a": spec}, {"a": table}, [], {}, ["a.vector"])
    for engine in ("numpy", "native"):
        with pytest.raises(FileFormatError, match="sequence axis"):
            ondevice.load(path, engine=engine)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    fields=st.integers(1, 5), dim=st.integers(1, 40), units=st.integers(1, 300),
    rows=st.integers(1, 140), relu=st.booleans(), seed=st.integers(0, 2**32 - 1),
    size=st.sampled_from([1.0, 1e-35, 1e20]),
)  # fmt: skip
def test_dense_layers(tmp_path_factory, fields, dim, units, rows, relu, seed, size):
    rng = np.random.default_rng(seed)
    specs = {f"f{i}": binary_code_spec(dim, code_bits=8, t=4) for i in range(fields)}
    tables = {name: random_table(spec, "f32", rng, truncated=True) for name, spec in specs.items()}
    weights = {}
    weight = (size * rng.normal(size=(fields * dim, units))).astype(np.float32)
    bias = rng.normal(size=units).astype(np.float32)
    join = Node("Concat", tuple(f"{name}.vector" for name in specs), ("x",), {"axis": 1})
    path = tmp_path_factory.mktemp("dense") / "m.odm"
    codecs = ("f32", "q8") if size > 100 else ("f32", "f16", "q8")
    nodes = [dense_node(codec, "x", weight, bias, codec, weights, relu=relu) for codec in codecs]
    write_model(path, specs, tables, [join, *nodes], weights, list(codecs))
    ids = {name: some_ids(rng, rows) for name in specs}
    expected = NumpyEngine(open_odm(path)).run(ids)
    for kernels in KERNELS:
        got = NativeEngine(path, kernels=kernels).run(ids)
        np.testing.assert_array_equal(got["q8"], expected["q8"], err_msg=kernels)
        for codec in codecs[:-1]:
            scale = float(np.abs(weight).max()) * fields * dim + 1
            np.testing.assert_allclose(
                got[codec], expected[codec], atol=2e-6 * scale, rtol=2e-6, err_msg=kernels
            )


def test_rows_that_are_not_finite_give_nan_everywhere(tmp_path):
    spec, weights = full_spec(4, 20), {}
    values = np.ones((4, 20), dtype=np.float32)
    table = random_table(spec, "f32", np.random.default_rng(0), truncated=False)
    table.values[...] = values
    table.values[1, 3], table.values[2, 5] = np.inf, np.nan
    node = dense_node("y", "a.vector", np.ones((20, 3), np.float32), None, "q8", weights)
    path = write_model(tmp_path / "m.odm", {"a": spec}, {"a": table}, [node], weights, ["y"])
    ids = {"a": np.arange(4, dtype=np.int64)}
    with np.errstate(invalid="ignore"):
        expected = NumpyEngine(open_odm(path)).run(ids)["y"]
    assert np.isnan(expected[1:3]).all() and np.isfinite(expected[[0, 3]]).all()
    for kernels in KERNELS:
        got = NativeEngine(path, kernels=kernels).run(ids)["y"]
        np.testing.assert_array_equal(got, expected)


def graph_of_every_operator(tmp_path):
    """Many operators together, with broadcasting, views and a sequence input."""
    rng = np.random.default_rng(5)
    specs = {"a": full_spec(9, 4, oov_row=0), "b": binary_code_spec(4, code_bits=10, t=4),
             "s": full_spec(30, 4, padding_id=0, oov_row=1)}  # fmt: skip
    tables = {n: random_table(s, "q8", rng, truncated=True, axis="row") for n, s in specs.items()}
    f = {"w": rng.normal(size=(4, 3)), "m": rng.normal(size=(4, 4)), "c": rng.normal(size=(4,)),
         "g": rng.normal(size=(5, 12)), "gb": rng.normal(size=5),
         "k": rng.normal(size=(1, 4))}  # fmt: skip
    weights = {name: value.astype(np.float32) for name, value in f.items()}
    weights |= {
        "ax1": np.array([1], np.int64), "ax2": np.array([2], np.int64),
        "sh": np.array([0, -1], np.int64), "sh3": np.array([-1, 3, 4], np.int64),
    }  # fmt: skip
    n = lambda op, i, o, **a: Node(op, tuple(i.split()), (o,), a)  # noqa: E731
    nodes = [
        n("ReduceSum", "s.vector ax1", "pooled", keepdims=0),
        n("ReduceMean", "s.vector ax2", "means", keepdims=1),
        n("Unsqueeze", "a.vector ax1", "a3"), n("Unsqueeze", "b.vector ax1", "b3"),
        n("Unsqueeze", "pooled ax1", "p3"),
        n("Concat", "a3 b3 p3", "stack", axis=1),
        n("Transpose", "stack", "turned", perm=[0, 2, 1]),
        n("MatMul", "stack turned", "gram"), n("MatMul", "stack w", "projected"),
        n("Softmax", "gram", "soft", axis=-1), n("MatMul", "soft stack", "mixed"),
        n("Reshape", "mixed sh", "flat"), n("Gemm", "flat g gb", "gemm", transB=1, alpha=0.5),
        n("Relu", "gemm", "relu"), n("Tanh", "gemm", "tanh"), n("Sigmoid", "gemm", "sigmoid"),
        n("Add", "a.vector c", "plus"), n("Sub", "k plus", "minus"),
        n("Mul", "minus b.vector", "times"), n("Div", "times k", "ratio"),
        n("Add", "c c", "twice"), n("Mul", "stack twice", "scaled"),
        n("Reshape", "flat sh3", "back"), n("Flatten", "back", "again", axis=1),
        n("Identity", "again", "same"),
        n("Concat", "relu tanh sigmoid ratio same", "out", axis=1),
    ]  # fmt: skip
    outputs = ["out", "projected", "scaled", "means"]
    path = tmp_path / "ops.odm"
    write_model(path, specs, tables, nodes, weights, outputs, shapes={"s": ("batch", 7)})
    return path, {"a": (), "b": (), "s": (7,)}


def test_every_operator_and_rank(tmp_path):
    path, shapes = graph_of_every_operator(tmp_path)
    rng = np.random.default_rng(8)
    reference = NumpyEngine(open_odm(path))
    for rows in (1, 3, 70):
        ids = {name: rng.integers(-2, 40, (rows, *shape)) for name, shape in shapes.items()}
        expected = reference.run(ids)
        for kernels in KERNELS:
            engine = NativeEngine(path, kernels=kernels)
            for name, value in engine.run(ids).items():
                np.testing.assert_allclose(value, expected[name], atol=3e-5, rtol=1e-5)
    for shared in (["a"], ["b"], ["s"], ["a", "s"], ["a", "b"]):
        one = {name: ids[name][:1] for name in shared}
        repeated = ids | {name: np.repeat(value, 70, axis=0) for name, value in one.items()}
        expected = reference.run(repeated)
        got = NativeEngine(path).run_ranked(one, {n: v for n, v in ids.items() if n not in shared})
        for name, value in got.items():
            np.testing.assert_allclose(value, expected[name], atol=3e-5, rtol=1e-5)


@pytest.mark.parametrize("codec", ["f32", "q8"])
@pytest.mark.parametrize("dims", [(16, 16, 16), (3, 5, 6)])
def test_rank_equals_predict(tmp_path, codec, dims):
    rng = np.random.default_rng(1)
    names = ["user", "hour", "item"]
    specs = {n: binary_code_spec(d, code_bits=12, t=4) for n, d in zip(names, dims, strict=True)}
    tables = {n: random_table(s, "q8", rng, truncated=True, axis="row") for n, s in specs.items()}
    weights = {"last": np.array([1], np.int64)}
    w1 = rng.normal(size=(sum(dims), 40)).astype(np.float32) / 4
    w2 = rng.normal(size=(40, 1)).astype(np.float32) / 4
    nodes = [
        Node("Concat", ("user.vector", "item.vector", "hour.vector"), ("x",), {"axis": -1}),
        dense_node("h", "x", w1, None, codec, weights, relu=True),
        dense_node("z", "h", w2, None, codec, weights),
        Node("Squeeze", ("z", "last"), ("logit",), {}),
        Node("Sigmoid", ("logit",), ("p",), {}),
    ]
    path = write_model(tmp_path / "m.odm", specs, tables, nodes, weights, ["p"])
    model = ondevice.load(path)
    assert model.engine == "native"
    context = {"user": np.array([77]), "hour": np.array([5])}
    items = {"item": rng.integers(0, 2**40, 150)}
    ranked = model.rank(context, items)
    same = model.predict(items | {n: np.repeat(v, 150) for n, v in context.items()})
    np.testing.assert_allclose(ranked, same, atol=1e-6 if codec == "f32" else 0.03)
    slow = model.rank({n: v.tolist() for n, v in context.items()}, items)
    np.testing.assert_array_equal(slow, ranked)  # lists take the checked way


def test_errors_are_those_of_the_numpy_engine(tmp_path):
    spec = full_spec(5, 2)
    table = random_table(spec, "q8", np.random.default_rng(0), truncated=False, axis="row")
    path = write_model(tmp_path / "m.odm", {"a": spec}, {"a": table}, [], {}, ["a.vector"])
    good = np.array([1, 2], dtype=np.int64)
    requests = [{}, {"a": good, "b": good}, {"a": np.array([5])}, {"a": np.array([-1])},
                {"a": good.astype(np.float32)}, {"a": good[:0]}, {"a": good[None]},
                [[1]], 7, None]  # fmt: skip
    native, numpy = (ondevice.load(path, engine=engine) for engine in ("native", "numpy"))
    for request in requests:
        with pytest.raises(InputError) as right:
            numpy.predict(request)
        with pytest.raises(InputError) as got:
            native.predict(request)
        assert str(got.value) == str(right.value)
    for same in (good.tolist(), good.astype(np.uint8), good.astype(np.uint64), good[::-1][::-1]):
        np.testing.assert_array_equal(native.predict({"a": same}), numpy.predict({"a": good}))


def test_vectors_of_a_file_go_straight_to_the_engine(tmp_path):
    """What bench measures with: arrays of another dtype object would be checked in Python first."""
    write_small_model(tmp_path / "small.odm")
    model = ondevice.load(tmp_path / "small.odm", engine="native")
    vectors = model.info.vectors.inputs
    expected = ondevice.load(tmp_path / "small.odm", engine="numpy").predict(vectors)
    np.testing.assert_allclose(model.runner.predict(dict(vectors)), expected, atol=1e-6)
    others = {name: values for name, values in vectors.items() if name != "user"}
    assert model.runner.rank({"user": vectors["user"][:1]}, others) is not None


def test_requests_do_not_leak_references(tmp_path):
    spec = full_spec(5, 2)
    table = random_table(spec, "q8", np.random.default_rng(0), truncated=False, axis="row")
    path = write_model(tmp_path / "m.odm", {"a": spec}, {"a": table}, [], {}, ["a.vector"])
    model, ids = ondevice.load(path), np.array([1], dtype=np.int64)
    request, bad = {"a": ids}, {"a": np.array([9])}
    before = sys.getrefcount(ids), sys.getrefcount(request)
    for _ in range(100):
        model.predict(request)
        with pytest.raises(InputError):
            model.predict(bad)
    assert (sys.getrefcount(ids), sys.getrefcount(request)) == before


def test_eight_threads_share_one_model(tmp_path):
    path, shapes = graph_of_every_operator(tmp_path)
    engine, faults = NativeEngine(path), []

    def work(seed):
        rng = np.random.default_rng(seed)
        requests = [
            {n: rng.integers(-2, 40, (rows, *shape)) for n, shape in shapes.items()}
            for rows in (1, 20, 100)
        ]
        alone = [NativeEngine(path).run(request)["out"] for request in requests]
        for _ in range(40):
            for request, right in zip(requests, alone, strict=True):
                if not np.array_equal(engine.run(request)["out"], right):
                    faults.append(seed)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not faults


@settings(max_examples=50, deadline=None)
@given(data=st.binary(max_size=100), seed=st.integers(0, 2**64 - 1))
def test_hash(data, seed):
    assert _native.xxh64(data, seed) == xxh64(data, seed)


@pytest.mark.parametrize("case", CASES, ids=case_name)
def test_golden_retrieval(case, tmp_path):
    """The scales of fingerprints mean nothing: their codes are compared."""
    spec, table, ids, vectors = golden(case)
    table.scales[spec.dim :] = np.nan
    write_model(tmp_path / "m.odm", {"a": spec}, {"a": table}, [], {}, ["a.vector"])
    for kernels in KERNELS:
        got = NativeEngine(tmp_path / "m.odm", kernels=kernels).run({"a": ids})["a.vector"]
        np.testing.assert_array_equal(got, vectors, err_msg=kernels)
    got = NumpyEngine(open_odm(tmp_path / "m.odm")).run({"a": ids})["a.vector"]
    np.testing.assert_array_equal(got, vectors)


@pytest.mark.parametrize("dim", [1, 2, 7, 16, 33, 100])
@pytest.mark.parametrize(
    ("codec", "bits", "levels"),
    [("q2", 3, False), ("q4", 0, False), ("q4", 8, False), ("q8", 8, False), ("q3", 6, False),
     ("q1", 5, False), ("q4", 4, True), ("q3", 3, True), ("q2", 0, True), ("q1", 8, True)],
)  # fmt: skip
def test_retrieval_is_the_same_bit_by_bit(codec, bits, levels, dim, tmp_path):
    """Known, unknown and padding IDs, single and pooled."""
    rng = np.random.default_rng(dim)
    built, known, *_ = random_structure(codec, dim, 300, bits=bits, seed=dim, levels=levels)
    for shape, pooling in (((), "none"), ((7,), "sum"), ((7,), "mean")):
        spec = replace(built.spec, pooling=pooling)
        path, shapes = tmp_path / f"{pooling}.odm", {"a": ("batch", *shape)}
        write_model(path, {"a": spec}, {"a": built.table}, [], {}, ["a.vector"], shapes=shapes)
        ids = some_ids(rng, 130, shape)
        ids = {"a": np.where(rng.random(ids.shape) < 0.5, rng.choice(known, ids.shape), ids)}
        expected = NumpyEngine(open_odm(path)).run(ids)["a.vector"]
        for kernels in KERNELS:
            got = NativeEngine(path, kernels=kernels).run(ids)["a.vector"]
            np.testing.assert_array_equal(got, expected, err_msg=kernels)
