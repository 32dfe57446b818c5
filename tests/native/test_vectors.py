"""Vectorised operators: the same bits with every kernel, numpy's values within stated bounds."""

from contextlib import nullcontext

import numpy as np
import pytest

from ondevice.engines.native import NativeEngine, is_compiled
from ondevice.engines.numpy import NumpyEngine
from ondevice.errors import FileFormatError, UnsupportedError
from ondevice.info import InputSpec, ModelInfo
from ondevice.odm import open_odm, write_odm
from ondevice.plan import Node, Plan

pytestmark = pytest.mark.skipif(not is_compiled(), reason="the native engine is not compiled")
if is_compiled():
    from ondevice import _native

    KERNELS = _native.kernels_available()
else:
    KERNELS = []

# Beside, within and around the vectors of 4, 8 and 16 lanes.
SIZES = (1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 25, 31, 32, 33, 50, 64, 65, 100)
ODD = [0.0, -0.0, np.nan, np.inf, -np.inf, 1e-45, -1e-45, 1e-38, 3e38, -3e38, 88.8, -88.0, -103.9]
# Units in the last place (docs/native.md), for results in the normal range.
BOUNDS = {"Exp": 2, "Sigmoid": 4, "Tanh": 4, "Sqrt": 0.5, "Reciprocal": 0.5}


def exact(name, x):
    """The function in float64."""
    x = x.astype(np.float64)
    return {
        "Exp": np.exp, "Tanh": np.tanh, "Sqrt": np.sqrt, "Abs": np.abs, "Neg": np.negative,
        "Sigmoid": lambda v: 1 / (1 + np.exp(-v)), "Reciprocal": lambda v: 1 / v,
        "Relu": lambda v: np.where(v < 0, 0, v),
        "LeakyRelu": lambda v: np.where(v < 0, v * np.float64(np.float32(0.01)), v),
    }[name](x)  # fmt: skip


def write(path, nodes, inputs, outputs, weights=None):
    """A model without tables."""
    plan = Plan(tuple(spec.name for spec in inputs), tuple(outputs), tuple(nodes),
                tuple(weights or {}), {})  # fmt: skip
    write_odm(path, plan, ModelInfo(tuple(inputs), tuple(outputs)), weights or {}, {})
    return path


def run_everywhere(path, request):
    """The outputs, which must be the same bit by bit with every kernel."""
    first = None
    for kernels in KERNELS:
        got = NativeEngine(path, kernels=kernels).run(request)
        if first is None:
            first = got
        for name, value in got.items():
            np.testing.assert_array_equal(value, first[name], err_msg=f"{kernels}: {name}")
            same = np.signbit(value) == np.signbit(first[name])
            assert (same | np.isnan(value)).all(), f"{kernels}: {name}: the sign of zero"
    return first


def numbers(rng, shape, odd=0.05):
    """Values of every size, odd ones among them."""
    values = rng.normal(size=shape) * 10 ** rng.uniform(-6, 2, shape)
    return np.where(rng.random(shape) < odd, rng.choice(ODD, shape), values).astype(np.float32)


def units_off(got, right):
    """Distance in units in the last place; 0 where both are the same infinity, or no number."""
    with np.errstate(all="ignore"):
        rounded = right.astype(np.float32)
        unit = np.spacing(np.maximum(np.abs(rounded), np.finfo(np.float32).tiny)).astype(np.float64)
        off = np.abs(got.astype(np.float64) - right) / unit
    same = (got == rounded) | (np.isnan(got) & np.isnan(rounded))
    return np.where(same, 0, off)


@pytest.mark.parametrize("name", [*BOUNDS, "Abs", "Neg", "Relu", "LeakyRelu"])
def test_functions_of_one_value(tmp_path, name):
    """A sweep over the whole range, then every number of elements a row."""
    rng = np.random.default_rng(0)
    node = Node(name, ("x",), ("y",), {})
    every = np.arange(0, 2**32, 9973, dtype=np.uint64).astype(np.uint32).view(np.float32)
    near = rng.uniform(-20, 20, 200_000).astype(np.float32)
    x = np.concatenate([every, near, np.array(ODD, np.float32)])[:, None]
    spec = InputSpec("x", ("batch", 1), None, "float32")
    got = run_everywhere(write(tmp_path / "m.odm", [node], [spec], ["y"]), {"x": x})["y"]
    with np.errstate(all="ignore"):
        right = exact(name, x)
    assert units_off(got, right).max() <= BOUNDS.get(name, 0.5), name
    for size in SIZES:
        spec = InputSpec("x", ("batch", size), None, "float32")
        path = write(tmp_path / f"{size}.odm", [node], [spec], ["y"])
        part = x[: 7 * size].reshape(7, size)
        np.testing.assert_array_equal(run_everywhere(path, {"x": part})["y"],
                                      got[: 7 * size].reshape(7, size))  # fmt: skip


PAIRS = {"Add": np.add, "Sub": np.subtract, "Mul": np.multiply, "Div": np.divide,
         "Max": np.maximum, "Min": np.minimum,
         "PRelu": lambda a, b: np.where(a < 0, a * b, a)}  # fmt: skip


@pytest.mark.parametrize("name", list(PAIRS))
def test_functions_of_two_values(tmp_path, name):
    """All ways to repeat an operand: exactly numpy's float32 result."""
    rng = np.random.default_rng(1)
    for size in SIZES:
        shapes = [((size,), (size,)), ((size,), (1,)), ((1,), (size,)), ((3, size), (1, size)),
                  ((3, 1), (3, size)), ((3, size), (3, 1)), ((3, 1), (1, size)),
                  ((2, 3, size), (2, 1, 1)), ((2, 1, size), (1, 3, 1))]  # fmt: skip
        inputs, nodes, request = [], [], {}
        for i, pair in enumerate(shapes):
            for letter, shape in zip("ab", pair, strict=True):
                key = f"{letter}{i}"
                inputs.append(InputSpec(key, ("batch", *shape), None, "float32"))
                request[key] = numbers(rng, (5, *shape))
            nodes.append(Node(name, (f"a{i}", f"b{i}"), (f"y{i}",), {}))
        c = numbers(rng, (size,), odd=0)
        nodes.append(Node(name, ("a0", "c"), ("yc",), {}))
        outputs = [node.outputs[0] for node in nodes]
        path = write(tmp_path / f"{size}.odm", nodes, inputs, outputs, {"c": c})
        got = run_everywhere(path, request)
        with np.errstate(all="ignore"):
            for i in range(len(shapes)):
                right = PAIRS[name](request[f"a{i}"], request[f"b{i}"])
                np.testing.assert_array_equal(got[f"y{i}"], right, err_msg=f"{size} {shapes[i]}")
            np.testing.assert_array_equal(got["yc"], PAIRS[name](request["a0"], c))


@pytest.mark.parametrize(
    "name", ["ReduceSum", "ReduceMean", "ReduceMax", "ReduceMin", "ReduceProd"]
)
def test_reductions(tmp_path, name):
    rng = np.random.default_rng(2)
    in_numpy = {"ReduceSum": np.sum, "ReduceMean": np.mean, "ReduceMax": np.max,
                "ReduceMin": np.min, "ReduceProd": np.prod}[name]  # fmt: skip
    for size in SIZES:
        x = numbers(rng, (4, 3, size, 5), odd=0.002)
        spec = InputSpec("x", ("batch", 3, size, 5), None, "float32")
        weights = {f"a{axis}": np.array([axis], np.int64) for axis in (1, 2, 3)}
        weights["all"] = np.array([2, 3], np.int64)
        nodes = [Node(name, ("x", key), (f"y{key}",), {"keepdims": 0}) for key in weights]
        path = write(tmp_path / f"{size}.odm", nodes, [spec], [f"y{k}" for k in weights], weights)
        got = run_everywhere(path, {"x": x})
        for key, axes in weights.items():
            with np.errstate(all="ignore"):
                right = in_numpy(x.astype(np.float64), axis=tuple(axes)).astype(np.float32)
                scale = np.sum(np.abs(x.astype(np.float64)), axis=tuple(axes))
                close = np.abs(got[f"y{key}"] - right) <= 1e-6 * scale + 1e-37
                if name in ("ReduceMax", "ReduceMin", "ReduceProd"):
                    close = np.isclose(got[f"y{key}"], right, rtol=2e-6 if "Prod" in name else 0)
            same = (got[f"y{key}"] == right) | (np.isnan(got[f"y{key}"]) & np.isnan(right))
            overflowed = ~np.isfinite(got[f"y{key}"]) & (scale > 1e38)
            assert (same | close | overflowed).all(), (name, size, key)


@pytest.mark.parametrize("name", ["ReduceSum", "ReduceMin", "Squeeze", "Unsqueeze"])
@pytest.mark.parametrize("axes", [(1,), (1, 2), (1, 1), (1, -2)])
def test_axes_that_are_named_twice_are_refused(tmp_path, name, axes):
    """As ONNX says; C took them for one axis."""
    spec = InputSpec("x", ("batch", 1, 1), None, "float32")
    fresh = 3 + len(axes) * (name == "Unsqueeze")
    twice = len({axis % fresh for axis in axes}) < len(axes)
    node = Node(name, ("x", "axes"), ("y",), {})
    path = write(tmp_path / "a.odm", [node], [spec], ["y"], {"axes": np.array(axes)})
    errors = (FileFormatError, UnsupportedError)  # C says so of what it cannot run
    refused = pytest.raises(errors, match=r"twice|duplicate|repeated")
    for engine in (NativeEngine, lambda path: NumpyEngine(open_odm(path))):
        with refused if twice else nullcontext():
            engine(path)


def test_the_order_of_a_sum(tmp_path):
    """Element i goes to sum i mod 16; the sums are added in halves."""
    rng = np.random.default_rng(3)
    for size in (16, 37, 200):
        x = rng.normal(size=(3, size)).astype(np.float32)
        spec = InputSpec("x", ("batch", size), None, "float32")
        node = Node("ReduceSum", ("x", "axis"), ("y",), {})
        path = write(tmp_path / f"{size}.odm", [node], [spec], ["y"], {"axis": np.array([1])})
        padded = np.zeros((3, -(-size // 16) * 16), np.float32)
        padded[:, :size] = x
        sums = np.zeros((3, 16), np.float32)
        for start in range(0, padded.shape[1], 16):
            sums += padded[:, start : start + 16]
        while sums.shape[1] > 1:
            half = sums.shape[1] // 2
            sums = sums[:, :half] + sums[:, half:]
        np.testing.assert_array_equal(run_everywhere(path, {"x": x})["y"], sums)


@pytest.mark.parametrize("axis", [1, 2, 3])
def test_softmax(tmp_path, axis):
    rng = np.random.default_rng(4)
    for size in SIZES:
        x = rng.normal(size=(3, 2, size, size % 5 + 1)).astype(np.float32) * 20
        x[0, 0, 0, 0], x[1, 0, 0, 0] = np.nan, -np.inf
        x[2, 0] = -np.inf
        spec = InputSpec("x", ("batch", *x.shape[1:]), None, "float32")
        node = Node("Softmax", ("x",), ("y",), {"axis": axis})
        got = run_everywhere(write(tmp_path / f"{size}.odm", [node], [spec], ["y"]), {"x": x})["y"]
        with np.errstate(all="ignore"):
            wide = x.astype(np.float64)
            powers = np.exp(wide - wide.max(axis=axis, keepdims=True))
            right = powers / powers.sum(axis=axis, keepdims=True)
        np.testing.assert_allclose(got, right, rtol=1e-5, atol=1e-38)


def test_products(tmp_path):
    """Every number of rows, columns and terms around the tiles; both matrices from the request."""
    rng = np.random.default_rng(5)
    for m, k, n in [(1, 1, 1), (1, 200, 16), (26, 16, 26), (6, 3, 15), (7, 30, 17), (13, 5, 33),
                    (2, 600, 3), (12, 257, 31), (5, 8, 64)]:  # fmt: skip
        a, b = (rng.normal(size=(3, 2, *shape)).astype(np.float32) for shape in ((m, k), (k, n)))
        inputs = [InputSpec(key, ("batch", *value.shape[1:]), None, "float32")
                  for key, value in (("a", a), ("b", b))]  # fmt: skip
        path = write(tmp_path / "m.odm", [Node("MatMul", ("a", "b"), ("y",), {})], inputs, ["y"])
        right, scale = a.astype(np.float64) @ b, np.abs(a) @ np.abs(b)
        for kernels in KERNELS:
            got = NativeEngine(path, kernels=kernels).run({"a": a, "b": b})["y"]
            assert (np.abs(got - right) <= 1e-6 * scale).all(), (kernels, m, k, n)


def attention(heads, steps, width, *, other_reader):
    """Transposes before and after two products, as attention has them, also of axes of size 1."""
    n = lambda op, i, o, **a: Node(op, tuple(i.split()), (o,), a)  # noqa: E731
    nodes = [
        n("Transpose", "q", "qt", perm=[0, 2, 1, 3]), n("Transpose", "k", "kt", perm=[0, 2, 3, 1]),
        n("Transpose", "v", "vt", perm=[0, 2, 1, 3]),
        n("MatMul", "qt kt", "scores"), n("MatMul", "scores vt", "mixed"),
        n("Transpose", "mixed", "out", perm=[0, 2, 1, 3]),
        n("Transpose", "scores", "turned", perm=[0, 1, 3, 2]),
        n("MatMul", "turned qt", "again"), n("Transpose", "again", "again2", perm=[0, 3, 2, 1]),
        n("MatMul", "turned vt", "twice"),
        n("Transpose", "twice", "twice2", perm=[0, 2, 1, 3]),
        n("Slice", "twice2 one two one", "part"), n("Add", "part part", "sum"),
    ]  # fmt: skip
    outputs = ["out", "again2", "twice2", "sum"]
    if other_reader:
        outputs += ["kt", "vt", "mixed", "twice"]
    inputs = [InputSpec(key, ("batch", steps, heads, width), None, "float32") for key in "qkv"]
    weights = {"one": np.array([1], np.int64), "two": np.array([2], np.int64)}
    return nodes, inputs, outputs, weights


@pytest.mark.parametrize("other_reader", [False, True])
@pytest.mark.parametrize(
    ("heads", "steps", "width"), [(2, 26, 16), (1, 3, 5), (3, 2, 1), (2, 20, 33), (17, 2, 2)]
)
def test_transposes_around_products(tmp_path, heads, steps, width, other_reader):
    nodes, inputs, outputs, weights = attention(heads, steps, width, other_reader=other_reader)
    path = write(tmp_path / "m.odm", nodes, inputs, outputs, weights)
    rng = np.random.default_rng(6)
    request = {key: rng.normal(size=(70, steps, heads, width)).astype(np.float32) for key in "qkv"}
    right = NumpyEngine(open_odm(path)).run(request)
    for kernels in KERNELS:
        engine = NativeEngine(path, kernels=kernels)
        for name, value in engine.run(request).items():
            np.testing.assert_allclose(value, right[name], rtol=1e-4, atol=1e-4, err_msg=name)
        one = {"k": request["k"][:1]}
        others = {key: request[key] for key in "qv"}
        repeated = others | {"k": np.repeat(one["k"], 70, axis=0)}
        ranked = engine.run_ranked(one, others)
        for name, value in NumpyEngine(open_odm(path)).run(repeated).items():
            np.testing.assert_allclose(ranked[name], value, rtol=1e-4, atol=1e-4, err_msg=name)


@pytest.mark.parametrize("size", [1, 5, 16, 17, 40])
def test_sums_of_products(tmp_path, size):
    """Sums that add up products which nobody else reads give the bits of a sum of written ones."""
    rng = np.random.default_rng(9)
    pairs = np.array(list(zip(*np.triu_indices(7, 1), strict=True))).T
    n = lambda op, i, o, **a: Node(op, tuple(i.split()), (o,), a)  # noqa: E731
    nodes = [
        n("Gather", "x first", "left", axis=1), n("Gather", "x second", "right", axis=1),
        n("Identity", "left", "left2"),
        n("Mul", "left2 right", "products"), n("ReduceSum", "products two", "sums", keepdims=0),
        n("Mul", "x y", "whole"), n("ReduceSum", "whole two", "rows", keepdims=0),
        n("Mul", "x c", "scaled"), n("ReduceSum", "scaled two", "constant", keepdims=0),
        n("Gather", "y last", "ends", axis=1), n("Mul", "ends ends", "squares"),
        n("ReduceSum", "squares two", "norms", keepdims=0),
    ]  # fmt: skip
    weights = {
        "first": pairs[0].astype(np.int64), "second": pairs[1].astype(np.int64),
        "two": np.array([2], np.int64), "last": np.array([-1, 3], np.int64),
        "c": rng.normal(size=(7, size)).astype(np.float32),
    }  # fmt: skip
    inputs = [InputSpec(key, ("batch", 7, size), None, "float32") for key in "xy"]
    request = {key: rng.normal(size=(5, 7, size)).astype(np.float32) for key in "xy"}
    sums = ["sums", "rows", "constant", "norms"]
    written = [*sums, "left", "products", "whole", "scaled", "squares"]
    folded = run_everywhere(write(tmp_path / "f.odm", nodes, inputs, sums, weights), request)
    plain = run_everywhere(write(tmp_path / "p.odm", nodes, inputs, written, weights), request)
    for name in sums:
        np.testing.assert_array_equal(folded[name], plain[name])
    x, y = request["x"].astype(np.float64), request["y"].astype(np.float64)
    right = (x[:, pairs[0]] * x[:, pairs[1]]).sum(2)
    np.testing.assert_allclose(folded["sums"], right, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(folded["rows"], (x * y).sum(2), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("units", [1, 20])
@pytest.mark.parametrize("codec", ["f32", "f16"])
def test_layers_whose_vectors_begin_alike(tmp_path, units, codec):
    """An interest network: what an Expand repeats is read and multiplied once a row."""
    rng = np.random.default_rng(10)
    steps, width, padded = 7, 5, -(-units // 16) * 16
    n = lambda op, i, o, **a: Node(op, tuple(i.split()), (o,), a)  # noqa: E731
    dense = {"codec": codec, "features": 3 * width, "units": units, "relu": 1}
    nodes = [
        n("Reshape", "query to", "single"), n("Expand", "single shape", "queries"),
        n("Mul", "queries keys", "products"), n("Sub", "keys queries", "differences"),
        n("Concat", "queries products differences", "columns", axis=-1),
        n("Dense", "columns weight bias", "y", **dense),
    ]  # fmt: skip
    matrix = np.zeros((3 * width, padded), np.float32)
    matrix[:, :units] = rng.normal(size=(3 * width, units))
    bias = np.zeros(padded, np.float32)
    bias[:units] = rng.normal(size=units)
    weights = {
        "to": np.array([-1, 1, width], np.int64), "shape": np.array([1, steps, width], np.int64),
        "weight": matrix.astype(np.float16 if codec == "f16" else np.float32).reshape(-1),
        "bias": bias,
    }  # fmt: skip
    inputs = [InputSpec("query", ("batch", width), None, "float32"),
              InputSpec("keys", ("batch", steps, width), None, "float32")]  # fmt: skip
    request = {"query": rng.normal(size=(9, width)).astype(np.float32),
               "keys": rng.normal(size=(9, steps, width)).astype(np.float32)}  # fmt: skip
    short = write(tmp_path / "short.odm", nodes, inputs, ["y"], weights)
    full = write(tmp_path / "full.odm", nodes, inputs, ["y", "columns", "queries"], weights)
    queries = np.repeat(request["query"][:, None], steps, 1)
    columns = [queries, queries * request["keys"], request["keys"] - queries]
    kept = weights["weight"].reshape(matrix.shape)[:, :units].astype(np.float32)
    right = np.maximum(np.concatenate(columns, 2) @ kept + bias[:units], 0)
    for kernels in KERNELS:
        got = NativeEngine(short, kernels=kernels).run(request)["y"]
        np.testing.assert_allclose(got, right, rtol=1e-5, atol=1e-5)
        both = NativeEngine(full, kernels=kernels).run(request)
        np.testing.assert_array_equal(got, both["y"])
        np.testing.assert_array_equal(both["queries"], queries)
        np.testing.assert_array_equal(both["columns"], np.concatenate(columns, 2))
        ranked = NativeEngine(short, kernels=kernels).run_ranked(
            {"query": request["query"][:1]}, {"keys": request["keys"]}
        )
        same = {"query": np.repeat(request["query"][:1], 9, 0), "keys": request["keys"]}
        np.testing.assert_array_equal(
            ranked["y"], NativeEngine(short, kernels=kernels).run(same)["y"]
        )
