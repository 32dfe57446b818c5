"""Dense layers in bfloat16: the same bits with all kernels, within the stated bound."""

import json
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.native import dense_node, random_table, write_model
from support.runtime import write_small_model

import ondevice
from ondevice.cli import main
from ondevice.dense import bfloat16_bound, round_to_bfloat16
from ondevice.engines.native import NativeEngine, is_compiled, kernels_available
from ondevice.engines.numpy import NumpyEngine
from ondevice.errors import InputError
from ondevice.info import InputSpec, ModelInfo, TestVectors
from ondevice.odm import open_odm, write_odm
from ondevice.plan import Node, Plan
from ondevice.spec import full_spec
from ondevice.verify import verify

pytestmark = pytest.mark.skipif(not is_compiled(), reason="the native engine is not compiled")
KERNELS = kernels_available() if is_compiled() else ()


def nearest(value):
    """The nearest number with 8 significant bits of a float, half to even, by exact arithmetic."""
    exact = Fraction(float(value))
    if abs(exact) < Fraction(2) ** -48:
        return 0.0
    step = Fraction(2) ** (int(np.floor(np.log2(abs(float(value))))) - 7)
    return float(round(exact / step) * step)


def test_rounding():
    rng = np.random.default_rng(0)
    values = (rng.normal(size=4000) * 2.0 ** rng.integers(-60, 60, 4000)).astype(np.float32)
    ties = np.array([1 + 2.0**-8, 1 + 3 * 2.0**-8, -1 - 2.0**-8, 2.0**-48, 2.0**-49, 0.0, -3.0])
    values = np.concatenate([values, ties.astype(np.float32)])
    np.testing.assert_array_equal(round_to_bfloat16(values), list(map(nearest, values)))
    assert np.isnan(round_to_bfloat16(np.float32([np.nan]))).all()
    np.testing.assert_array_equal(
        round_to_bfloat16(np.float32([np.inf, -np.inf, 3.4e38])),
        np.float32([np.inf, -np.inf, np.inf]),
    )


def in_order(x, weight, bias, relu):
    """A layer in bfloat16: products added to the bias one after the other, each sum a float32."""
    x, weight = round_to_bfloat16(x), round_to_bfloat16(weight)
    sums = np.tile(bias, (len(x), 1))
    for i in range(x.shape[1]):
        product = x[:, i, None].astype(np.float64) * weight[i]
        sums = (sums.astype(np.float64) + product).astype(np.float32)
    return np.maximum(sums, np.float32(0)) if relu else sums


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(features=st.integers(1, 70), units=st.integers(17, 150), rows=st.integers(1, 80),
       codec=st.sampled_from(["f32", "f16"]), relu=st.booleans(),
       seed=st.integers(0, 2**32 - 1))  # fmt: skip
def test_layers_have_the_same_bits(tmp_path_factory, features, units, rows, codec, relu, seed):
    """Every kernel gives what adding the products in order gives."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(rows, features)).astype(np.float32)
    x[rng.random(x.shape) < 0.4] = 0
    x *= 2.0 ** rng.choice([0, 0, 0, -45, -50, 20], x.shape)
    weight = (rng.normal(size=(features, units)) * 0.1).astype(np.float32)
    weight[rng.random(weight.shape) < 0.1] *= 2.0**-12
    if codec == "f16":
        weight = weight.astype(np.float16).astype(np.float32)
    bias = rng.normal(size=units).astype(np.float32)
    bias[:2] = 1e-30, -1e-40
    expected = in_order(x, weight, np.where(np.abs(bias) < 2.0**-86, 0, bias), relu)
    path, request = layer_file(
        tmp_path_factory.mktemp("layer") / "m.odm", x, weight, bias, codec, relu
    )
    for kernels in KERNELS:
        got = NativeEngine(path, kernels=kernels, dense="bf16").run(request)["y"]
        np.testing.assert_array_equal(got, expected, err_msg=kernels)
    got = NumpyEngine(open_odm(path), "bf16").run(request)["y"]
    exact = x.astype(np.float64) @ weight + bias
    bound = bfloat16_bound(x, weight) + np.abs(exact) * 1e-6
    for scores in (got, expected):
        away = np.abs(scores - (np.maximum(exact, 0) if relu else exact))
        assert (away <= bound).all()


def layer_file(path, x, weight, bias, codec, relu=False):
    """A model of one layer over a float input, and a request of the rows x."""
    weights = {}
    nodes = [dense_node("y", "x", weight, bias, codec, weights, relu=relu)]
    plan = Plan(("x",), ("y",), tuple(nodes), tuple(weights), {})
    inputs = (InputSpec("x", ("batch", x.shape[1]), None, "float32"),)
    write_odm(path, plan, ModelInfo(inputs, ("y",)), weights, {})
    return path, {"x": x}


def test_the_bound_is_reached_within_a_factor():
    """Numbers just above a tie, all of one sign, come near the bound: it is not a loose one."""
    x = np.full((1, 256), 1 + 2.0**-8 + 2.0**-20, np.float32)
    weight = x.T.copy()
    away = abs(float(in_order(x, weight, np.zeros(1, np.float32), relu=False)[0, 0])
               - float((x.astype(np.float64) @ weight)[0, 0]))  # fmt: skip
    bound = float(bfloat16_bound(x, weight)[0, 0])
    assert 0.8 * bound < away <= bound


def test_rank_and_histories_have_the_same_bits_with_all_kernels(tmp_path):
    """Ranges of columns that begin at odd ones, layers over sequences, and columns that repeat."""
    rng = np.random.default_rng(1)
    specs = {"u": full_spec(50, 5), "v": full_spec(50, 8), "s": full_spec(50, 3, padding_id=0)}
    tables = {n: random_table(s, "f32", rng, truncated=False) for n, s in specs.items()}
    weights = {"shape": np.array([1, 7, 5], np.int64), "one": np.array([1], np.int64)}
    n = lambda op, i, o, **a: Node(op, tuple(i.split()), (o,), a)  # noqa: E731
    w = lambda *size: (rng.normal(size=size) * 0.3).astype(np.float32)  # noqa: E731
    nodes = [
        n("Unsqueeze", "u.vector one", "u3"), n("Expand", "u3 shape", "wide"),
        n("Concat", "wide s.vector", "steps", axis=2),
        dense_node("unit", "steps", w(8, 36), w(36), "f32", weights, relu=True),
        n("ReduceSum", "unit one", "interest", keepdims=0),
        n("Concat", "u.vector v.vector interest", "x", axis=1),
        dense_node("h", "x", w(49, 70), w(70), "f32", weights, relu=True),
        dense_node("y", "h", w(70, 1), w(1), "f32", weights),
    ]  # fmt: skip
    path = tmp_path / "m.odm"
    write_model(path, specs, tables, nodes, weights, ["y", "h"], shapes={"s": ("batch", 7)})
    ids = {"u": rng.integers(0, 50, 40), "v": rng.integers(0, 50, 40),
           "s": rng.integers(0, 50, (40, 7))}  # fmt: skip
    context = {"u": ids["u"][:1], "s": ids["s"][:1]}
    engines = [NativeEngine(path, kernels=kernels, dense="bf16") for kernels in KERNELS]
    for run in (
        lambda engine: engine.run(ids),
        lambda engine: engine.run_ranked(context, {"v": ids["v"]}),
        lambda engine: engine.run({name: value[:1] for name, value in ids.items()}),
    ):
        first = run(engines[0])
        for engine in engines[1:]:
            for name, value in run(engine).items():
                if name == "h":  # one output is in float32, whose sums have an order of their own
                    np.testing.assert_array_equal(value, first[name], err_msg=engine.runtime)
    right = NumpyEngine(open_odm(path), "bf16").run(ids)
    plain = NumpyEngine(open_odm(path)).run(ids)
    for engine in engines:
        got = engine.run(ids)
        np.testing.assert_allclose(got["y"], right["y"], atol=0.05)
        assert np.abs(got["y"] - plain["y"]).max() > 1e-4  # it did round


def test_other_sizes_of_free_axes_are_rounded_too(tmp_path):
    rng = np.random.default_rng(2)
    weights = {}
    nodes = [dense_node("y", "x", rng.normal(size=(6, 20)), None, "f32", weights)]
    plan = Plan(("x",), ("y",), tuple(nodes), tuple(weights), {})
    inputs = (InputSpec("x", ("batch", "steps", 6), None, "float32"),)
    path = tmp_path / "m.odm"
    write_odm(path, plan, ModelInfo(inputs, ("y",)), weights, {})
    model, plain = ondevice.load(path, dense="bf16", engine="native"), ondevice.load(path)
    for steps in (1, 8, 30):
        x = rng.normal(size=(3, steps, 6)).astype(np.float32)
        weight = weights["y.weight"].reshape(6, 32)[:, :20]
        right = in_order(x.reshape(-1, 6), weight, np.zeros(20, np.float32), relu=False)
        np.testing.assert_array_equal(model.predict({"x": x}).reshape(-1, 20), right)
        assert not np.array_equal(plain.predict({"x": x}).reshape(-1, 20), right)


def test_verify_and_bench(tmp_path, capsys):
    """On the command line: verify says what the bound is, bench which arithmetic ran."""
    path = verified_model(tmp_path / "m.odm")
    assert main(["verify", str(path), "--dense", "bf16"]) == 0
    text = capsys.readouterr().out
    assert "a result is within 0.78% of the sum of its terms' magnitudes" in text
    assert "tolerance 0.0078125" in text
    plain, rounded = verify(path), verify(path, dense="bf16")
    assert plain.max_difference < 1e-6 < rounded.max_difference < rounded.tolerance
    report = tmp_path / "report.json"
    assert main(["bench", str(path), "--dense", "bf16", "--batch", "2", "--processes", "1",
                 "--seconds", "0.05", "--gap-ms", "0", "--json", str(report)]) == 0  # fmt: skip
    assert json.loads(report.read_text())["latencies"][0]["runtime"].endswith(" bf16")


def verified_model(path):
    """A model of two layers with test vectors, whose scores are float32 ones."""
    rng = np.random.default_rng(3)
    x = rng.normal(size=(20, 40)).astype(np.float32)
    first, second = (rng.normal(size=size).astype(np.float32) / 6 for size in ((40, 30), (30, 1)))
    weights = {}
    nodes = [dense_node("h", "x", first, None, "f32", weights, relu=True),
             dense_node("z", "h", second, None, "f32", weights),
             Node("Sigmoid", ("z",), ("y",), {})]  # fmt: skip
    plan = Plan(("x",), ("y",), tuple(nodes), tuple(weights), {})
    scores = 1 / (1 + np.exp(-(np.maximum(x @ first, 0) @ second)))
    info = ModelInfo(
        (InputSpec("x", ("batch", 40), None, "float32"),), ("y",),
        vectors=TestVectors({"x": x}, {"y": scores}, 1e-5),
    )  # fmt: skip
    write_odm(path, plan, info, weights, {})
    return path


def test_what_load_takes(tmp_path):
    path = tmp_path / "m.odm"
    write_small_model(path)
    with pytest.raises(
        InputError, match="unknown arithmetic of dense layers 'bf17'; choose from bf16"
    ):
        ondevice.load(path, dense="bf17")
    with pytest.raises(InputError, match="'bf16' or as they are stored, not in 'int4'"):
        NativeEngine(path, dense="int4")
    (tmp_path / "m.onnx").write_bytes(b"")
    with pytest.raises(InputError, match=r"is for \.odm files"):
        ondevice.load(tmp_path / "m.onnx", dense="bf16")
    assert ondevice.load(path, dense="bf16", engine="native").runner.runtime.endswith(" bf16")
    assert ondevice.load(path, dense="bf16", engine="numpy").runner.runtime.endswith(" bf16")
