"""What public recommender code writes between lookups and scores: every file equals torch."""

import math

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn

import ondevice
from ondevice.converters import convert
from ondevice.engines.native import is_compiled
from ondevice.errors import InputError, ParityError, SpecError, UnsupportedError

pytest.importorskip("onnxruntime")
pytest.importorskip("ai_edge_litert")
torch.set_num_threads(1)

ENGINES = (("odm", "numpy"), ("onnx", "onnx"), ("tflite", "tflite"))
ENGINES += (("odm", "native"),) if is_compiled() else ()
STEPS, ITEMS, KINDS = 5, 40, 6


def multi_hot(kinds):
    """Which kinds are among a row's."""
    return torch.zeros(len(kinds), KINDS).scatter_(1, kinds, 1.0)


class Grouped(nn.Module):
    """A history whose vectors are summed, averaged and ordered by the kind of each item."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.items = nn.Embedding(ITEMS, 4)

    def forward(self, items, kinds):
        vectors = self.items(items)
        each = kinds.unsqueeze(-1).expand_as(vectors)
        rows = vectors.shape[0]
        number = vectors[..., 0]
        none, negative = torch.zeros(rows, KINDS), torch.full((rows, KINDS), -0.5)
        order = torch.argsort(kinds, dim=1, stable=True)
        ordered = torch.gather(vectors, 1, order.unsqueeze(-1).expand_as(vectors))
        latest = torch.sort(kinds, dim=1, descending=True, stable=True)[1]
        return {
            "multi_hot": multi_hot(kinds),
            "first": none.scatter(1, kinds[:, :1], number[:, :1]),
            "sums": torch.zeros(rows, KINDS, 4).scatter_add_(1, each, vectors),
            "means": none.scatter_reduce(1, kinds, number, "mean", include_self=False),
            "sum_and_self": negative.scatter_reduce(1, kinds, number, "sum"),
            "greatest": negative.scatter_reduce(1, kinds, number, "amax", include_self=False),
            "least_and_self": negative.scatter_reduce(1, kinds, number, "amin"),
            "by_kind": ordered * torch.arange(1.0, STEPS + 1).reshape(-1, 1),
            "latest": torch.take_along_dim(vectors, latest.unsqueeze(-1)[:, :2], 1),
            "survival": torch.cumprod(torch.sigmoid(number), 1),
            "distances": torch.cdist(vectors, vectors[:, :2]),
        }


class Masked(nn.Module):
    """Masks that are chosen, filled and reduced, so that no row is left without a step."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(1)
        self.items = nn.Embedding(ITEMS, 4)

    def forward(self, items, kinds):
        vectors, number = self.items(items), self.items(items)[..., 0]
        padded = items == 0
        nothing = padded.all(-1, keepdim=True)
        chosen = torch.where(nothing, torch.zeros_like(padded), padded)
        filled = padded.masked_fill(nothing, False)
        last = torch.eq(kinds, 0).int().argmax(-1)
        return {
            "attended": torch.softmax(number.masked_fill(chosen, -math.inf), -1),
            "filled": (vectors * ~filled.unsqueeze(-1)).sum(1),
            "any": padded.max(1).values.float() + 2 * padded.amin(1).float(),
            "last": vectors[torch.arange(len(items)), last],
            "kind": kinds.argmax(1).float() + 10 * kinds.argmin(1).float(),
        }


def requests(rows):
    generator = torch.Generator().manual_seed(rows)
    items = torch.randint(0, ITEMS, (rows, STEPS), generator=generator)
    kinds = torch.randint(0, KINDS, (rows, STEPS), generator=generator)
    items[::3], kinds[::4] = 0, KINDS - 1
    return items, kinds


@pytest.mark.parametrize("network", [Grouped, Masked])
def test_every_engine_equals_torch(network, tmp_path):
    module = network().eval()
    convert(module, requests(6), tmp_path, tables="f32")
    for rows in (1, 9):
        items, kinds = requests(rows)
        with torch.inference_mode():
            expected = module(items, kinds)
        values = {"items": items.numpy(), "kinds": kinds.numpy()}
        for target, engine in ENGINES:
            got = ondevice.load(tmp_path / f"model.{target}", engine=engine).predict(values)
            for name, right in expected.items():
                message = f"{engine} {name}"
                np.testing.assert_allclose(got[name], right, rtol=0, atol=1e-5, err_msg=message)


class Propagated(nn.Module):
    """Vectors that a graph passes on, by a sparse matrix."""

    def __init__(self):
        super().__init__()
        self.items = nn.Embedding(ITEMS, 4)
        places = torch.stack([torch.arange(ITEMS), torch.arange(ITEMS).flip(0)])
        matrix = torch.sparse_coo_tensor(places, torch.ones(ITEMS), (ITEMS, ITEMS))
        self.register_buffer("graph", matrix.coalesce())

    def forward(self, item):
        return torch.sparse.mm(self.graph, self.items.weight)[item].sum(-1)


def test_sparse_matrices_are_refused_with_what_to_do(tmp_path):
    with pytest.raises(UnsupportedError, match=r"torch\.sparse\.mm: .*register_buffer"):
        convert(Propagated().eval(), (torch.tensor([1, 2]),), tmp_path)
    assert not list(tmp_path.iterdir())


class Recent(nn.Module):
    """How long ago something was, of two times."""

    def __init__(self, seconds):
        super().__init__()
        torch.manual_seed(2)
        self.users, self.out = nn.Embedding(30, 4), nn.Linear(5, 1)
        self.seconds = seconds

    def forward(self, user, now, then):
        ago = torch.log1p(self.seconds(now, then)).to(torch.float32) / 5
        return torch.sigmoid(self.out(torch.cat([self.users(user), ago.unsqueeze(-1)], -1)))


def times(rows, apart=1):
    generator = torch.Generator().manual_seed(rows)
    user = torch.randint(0, 30, (rows,), generator=generator)
    now = 1_700_000_000 + torch.randint(0, 10**7, (rows,), generator=generator)
    ago = torch.randint(0, 90, (rows,), generator=generator)
    return user, now, now - apart * ago


def in_float64(now, then):
    return now.double() - then.double()


@pytest.mark.parametrize(
    "seconds",
    [
        in_float64,
        lambda now, then: (now.double() / 3600).floor() - then.double() / 3600 + 1,
        lambda now, then: (now.double() / 60).long() - then // 60 + 1,
        lambda now, then: (now.double() > 1_704_000_000.0).float() + 0 * then,
    ],
    ids=["difference", "floor", "cast", "comparison"],
)
def test_times_that_float32_cannot_tell_apart_are_refused(seconds, tmp_path):
    """The examples are far apart, where a file would be right; other requests are not."""
    with pytest.raises(ParityError, match=r"input 'now' in float64, .* up to 16777216"):
        convert(Recent(seconds).eval(), times(6, apart=10**6), tmp_path, targets=["odm"])
    assert not list(tmp_path.iterdir())


def test_small_integers_in_float64_have_limits_in_the_file(tmp_path):
    module = Recent(in_float64).eval()
    user, now, then = times(6)
    convert(module, (user, now - then, torch.zeros_like(now)), tmp_path, targets=["odm"])
    inputs = ondevice.load(tmp_path / "model.odm").inputs
    limits = {item.name: (item.id_low, item.id_limit) for item in inputs}
    assert limits["now"] == limits["then"] == (-(2**24), 2**24 + 1)


def test_differences_of_integers_are_exact(tmp_path):
    module = Recent(lambda now, then: (now - then).double()).eval()
    convert(module, times(6, apart=10**4), tmp_path, tables="f32")
    user, now, then = times(9)
    with torch.inference_mode():
        expected = module(user, now, then).numpy()
    values = {"user": user.numpy(), "now": now.numpy(), "then": then.numpy()}
    for target, engine in ENGINES:
        got = ondevice.load(tmp_path / f"model.{target}", engine=engine).predict(values)
        np.testing.assert_allclose(got, expected, rtol=0, atol=1e-5, err_msg=engine)


def test_float64_inputs_that_lose_digits_are_refused(tmp_path):
    module = Recent(lambda now, then: now - then).eval()
    user, now, then = times(6)
    with pytest.raises(ParityError, match="inputs 'now', 'then' of float64: files take float32"):
        convert(module, (user, now.double(), then.double()), tmp_path, targets=["odm"])
    ordinary = (user, (now - then).double() + 0.1, torch.zeros(6, dtype=torch.float64))
    convert(module, ordinary, tmp_path, targets=["odm"])


def saved(path, nodes, inputs, constants):
    """An .onnx file [n, ...] of these nodes, the last of which returns the score."""
    graph = helper.make_graph(
        nodes,
        "clicks",
        [helper.make_tensor_value_info(name, kind, shape) for name, kind, shape in inputs],
        [helper.make_tensor_value_info("click", TensorProto.FLOAT, ["n", 3])],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    onnx.checker.check_model(model)
    onnx.save(model, path)
    return path


def test_many_hot_vectors_of_an_onnx_file(tmp_path):
    """OneHot along any axis, between any two values; an index below 0 counts from the end."""
    rng = np.random.default_rng(0)
    constants = {
        "depth": np.array(12),
        "hot": np.array([0, 1], np.float32),
        "other": np.array([-0.5, 2], np.float32),
        "weight": rng.normal(size=(12, 3)).astype(np.float32),
    }
    nodes = [
        helper.make_node("OneHot", ["tags", "depth", "hot"], ["each"], axis=-1),
        helper.make_node("ReduceMax", ["each"], ["tagged"], axes=[1], keepdims=0),
        helper.make_node("OneHot", ["kind", "depth", "other"], ["kinds"], axis=1),
        helper.make_node("Add", ["tagged", "kinds"], ["vector"]),
        helper.make_node("MatMul", ["vector", "weight"], ["click"]),
    ]
    inputs = [("tags", TensorProto.INT64, ["n", 4]), ("kind", TensorProto.INT64, ["n"])]
    path = saved(tmp_path / "given.onnx", nodes, inputs, constants)
    convert(path, None, tmp_path, tables="f32")
    tags = np.array([[0, 11, 3, 3], [-1, -12, 12, -13], [5, 6, 7, 8]])
    kind = np.array([0, 11, 12])
    tagged = np.array(
        [[number in row or number - 12 in row for number in range(12)] for row in tags]
    )
    kinds = np.where(np.arange(12) == kind[:, None], 2, -0.5)
    expected = (tagged + kinds) @ constants["weight"]
    for target, engine in ENGINES:
        model = ondevice.load(tmp_path / f"model.{target}", engine=engine)
        got = model.predict({"tags": tags, "kind": kind})
        np.testing.assert_allclose(got, expected, rtol=0, atol=1e-5, err_msg=engine)


def test_float64_inputs_of_an_onnx_file_that_lose_digits_are_refused(tmp_path):
    rng = np.random.default_rng(0)
    nodes = [
        helper.make_node("Sub", ["now", "then"], ["ago"]),
        helper.make_node("Cast", ["ago"], ["short"], to=TensorProto.FLOAT),
        helper.make_node("Gather", ["table", "ids"], ["vector"]),
        helper.make_node("Add", ["vector", "short"], ["click"]),
    ]
    times_of = [(name, TensorProto.DOUBLE, ["n", 1]) for name in ("now", "then")]
    inputs = [("ids", TensorProto.INT64, ["n"]), *times_of]
    constants = {"table": rng.normal(size=(40, 3)).astype(np.float32)}
    path = saved(tmp_path / "given.onnx", nodes, inputs, constants)
    now = 1.7e9 + rng.integers(0, 9**9, (6, 1)).astype(np.float64)
    examples = {"ids": np.arange(6), "now": now, "then": now - 7}
    with pytest.raises(ParityError, match="inputs 'now', 'then' of float64: files take float32"):
        convert(path, examples, tmp_path / "out", targets=["odm"])


class ReadByQuotient(nn.Module):
    """Rows of parameters by computed numbers, which torch counts from the end below 0."""

    def __init__(self, prepared):
        super().__init__()
        torch.manual_seed(3)
        self.table, self.rest = nn.Parameter(torch.randn(10, 4)), nn.Parameter(torch.randn(12, 4))
        self.prepared = prepared

    def forward(self, ids):
        table = torch.tanh(self.table) if self.prepared else self.table
        return torch.sigmoid((table[ids // 12] * self.rest[ids % 12]).sum(-1))


@pytest.mark.parametrize("prepared", [False, True])
def test_computed_rows_of_parameters_have_limits(prepared, tmp_path):
    module = ReadByQuotient(prepared).eval()
    convert(module, (torch.tensor([5, 100, 77]),), tmp_path, tables="f32")
    ids = torch.tensor([0, 11, 12, 119])
    for target, engine in ENGINES:
        model = ondevice.load(tmp_path / f"model.{target}", engine=engine)
        got = model.predict({"ids": ids.numpy()})
        np.testing.assert_allclose(got, module(ids).detach(), rtol=0, atol=1e-6, err_msg=engine)
        for beyond in (-1, -120, 120):
            with pytest.raises(InputError, match=r"outside 0\.\.119"):
                model.predict({"ids": np.array([beyond])})


def test_examples_that_read_rows_below_0_are_named(tmp_path):
    module = ReadByQuotient(prepared=False).eval()
    with pytest.raises(SpecError, match=r"row -1 of table 'table', .* table\[ids % len\(table\)\]"):
        convert(module, (torch.tensor([-1, -5, -3]),), tmp_path, targets=["odm"])
