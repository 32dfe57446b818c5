"""Embedding layers against plain-Python references, golden rows and the article's properties."""

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.torch import reference_rows, reference_vector

from ondevice.errors import InputError, SpecError
from ondevice.lookup import NO_ROW, look_up
from ondevice.models import (
    AdaptiveMask,
    BinaryCodeEmbedding,
    Embedding,
    FullEmbedding,
    HashEmbedding,
    MultiHashEmbedding,
    QuotientRemainderEmbedding,
    row_counts,
)
from ondevice.models.layers.row_index import RowIndex
from ondevice.spec import (
    LookupSpec,
    binary_code_spec,
    full_spec,
    hashing_spec,
    multi_hash_spec,
    quotient_remainder_spec,
)

GOLDEN = Path(__file__).parents[2] / "golden" / "block_rows.json"
SCHEMES = json.loads(GOLDEN.with_name("schemes.json").read_text())
EXTREME = [0, 1, 2, 41, -1, -2, 2**31, 2**32 - 1, 2**62, 2**63 - 1, -(2**63), -(2**63) + 1]
GOLDEN_RATIO = 0x9E3779B97F4A7C15


@st.composite
def binary_specs(draw):
    strategy = draw(st.sampled_from(["succession", "skip"]))
    code_bits = draw(st.integers(1, 64))
    longest = 16  # bits per block, to keep tables small
    if strategy == "succession":
        t = draw(st.integers(1, min(code_bits, longest)))
    else:
        t = draw(st.integers(-(-code_bits // longest) - 1, code_bits - 1))
    settings = {
        "code_bits": code_bits,
        "t": t,
        "strategy": strategy,
        "shared": draw(st.booleans()),
        "multiplier": draw(st.integers(0, 2**63 - 1)) * 2 + 1,
    }
    spec = binary_code_spec(4, **settings)
    least = max(2**block.bits for block in spec.blocks)
    overlapping = draw(st.integers(least, spec.rows))
    return binary_code_spec(4, **settings, rows=draw(st.sampled_from([None, overlapping])))


int64s = st.one_of(st.integers(-(2**63), 2**63 - 1), st.sampled_from(EXTREME))


@settings(max_examples=150, deadline=None)
@given(binary_specs(), st.lists(int64s, min_size=1, max_size=8))
def test_every_spec_reads_the_rows_of_the_reference_and_stays_in_range(spec, ids):
    rows = RowIndex(spec)(torch.tensor(ids, dtype=torch.int64))
    assert rows.shape == (len(ids), spec.rows_per_id)
    assert rows.tolist() == [reference_rows(spec, number) for number in ids]
    assert int(rows.min()) >= 0 and int(rows.max()) < spec.rows


@pytest.mark.parametrize("case", json.loads(GOLDEN.read_text()), ids=lambda c: str(c["settings"]))
def test_golden_rows(case):
    spec = LookupSpec.from_json(case["spec"])
    built = binary_code_spec(4, **case["settings"], multiplier=spec.multiplier)
    assert built == spec
    ids = torch.tensor([int(text) for text in case["ids"]], dtype=torch.int64)
    assert RowIndex(spec)(ids).tolist() == case["rows"]


@pytest.mark.parametrize("case", SCHEMES, ids=lambda c: f"{c['method']}-{c['settings']}")
def test_golden_schemes(case):
    spec = LookupSpec.from_json(case["spec"])
    layer = Embedding(spec)
    row, column = np.ogrid[: spec.rows, : spec.row_dim]
    layer.weight.data = torch.from_numpy((5 * row + 3 * column + row // 7) % 11 - 5).float()
    ids = torch.tensor([int(text) for text in case["ids"]])
    rows = [[row for row in id_rows if row != NO_ROW] for id_rows in layer.rows(ids).tolist()]
    assert rows == case["rows"]
    torch.testing.assert_close(layer(ids), torch.tensor(case["vectors"]))
    sequences = torch.tensor([[int(text) for text in row] for row in case["sequences"]])
    for pooling, expected in case["pooled"].items():
        torch.testing.assert_close(layer(sequences, pooling), torch.tensor(expected))
        pooled = Embedding(replace(spec, pooling=pooling))
        pooled.weight = layer.weight
        torch.testing.assert_close(pooled(sequences), torch.tensor(expected))


@pytest.mark.parametrize("strategy", ["succession", "skip"])
@pytest.mark.parametrize("shared", [False, True])
def test_tuples_are_injective_on_codes(strategy, shared):
    for code_bits in (1, 2, 7, 10, 13):
        ids = torch.arange(2**code_bits)
        for t in range(1 if strategy == "succession" else 0, code_bits):
            spec = binary_code_spec(
                4, code_bits=code_bits, t=t, strategy=strategy, shared=shared, multiplier=2**40 + 15
            )
            rows = RowIndex(spec)(ids)
            assert len(torch.unique(rows, dim=0)) == 2**code_bits


@pytest.mark.parametrize(("t", "distinct_share"), [(12, 0.50), (8, 0.17)])
def test_shared_rows_with_sum_are_not_injective(t, distinct_share):
    """Permuted blocks give the same sum; separate row ranges keep every code apart."""
    spec = binary_code_spec(4, code_bits=24, t=t, shared=True)
    separate = binary_code_spec(4, code_bits=24, t=t)
    seen = np.zeros(2**24, dtype=bool)  # one place per multiset of rows, written as sorted digits
    seen_separate = np.zeros(2**24, dtype=bool)
    for start in range(0, 2**24, 2**20):
        ids = torch.arange(start, start + 2**20)
        for used, index in ((seen, RowIndex(spec)), (seen_separate, RowIndex(separate))):
            rows = index(ids)
            digits = torch.sort(rows, dim=-1).values % 2**t
            places = 2 ** (t * torch.arange(digits.shape[-1]))
            used[(digits * places).sum(-1).numpy()] = True
    assert seen.mean() == pytest.approx(distinct_share, abs=0.005)
    assert seen_separate.all()
    n = 24 // t
    exact = math.comb(2**t + n - 1, n) / 2**24  # multisets of n rows out of 2**t
    assert seen.mean() == exact


def test_size_is_tunable_from_twice_to_beyond_a_thousand_times_smaller():
    ids = 2**20
    sizes = [BinaryCodeEmbedding(2, 20, t).weight.shape[0] for t in (19, 10, 9, 5)]
    ratios = [ids / rows for rows in sizes]
    assert ratios[0] == pytest.approx(2, rel=0.01)
    assert ratios == sorted(ratios)
    assert ratios[-1] > 1000


def test_no_state_per_id():
    layer = BinaryCodeEmbedding(4, 64, 8)
    before = {name: value.clone() for name, value in layer.state_dict().items()}
    unseen = torch.randint(-(2**63), 2**63 - 1, (100,))
    first, second = layer(unseen), layer(unseen)
    assert torch.equal(first, second)
    assert list(before) == ["weight"]
    assert torch.equal(before["weight"], layer.weight)
    assert len(torch.unique(first, dim=0)) == 100


SPECS = [
    full_spec(50, 6, padding_id=0, oov_row=1),
    full_spec(50, 6, padding_id=-1, oov_row=49),
    binary_code_spec(6, code_bits=20, t=20),
    binary_code_spec(6, code_bits=20, t=7, padding_id=0),
    binary_code_spec(6, code_bits=64, t=9, multiplier=GOLDEN_RATIO, fuse="mean"),
    binary_code_spec(6, code_bits=33, t=2, strategy="skip", fuse="concat", padding_id=41),
    binary_code_spec(6, code_bits=12, t=4, shared=True),
    binary_code_spec(6, code_bits=20, t=7, padding_id=0, head=9),
    binary_code_spec(6, code_bits=20, t=7, fuse="mean", head=9),
    binary_code_spec(6, code_bits=20, t=7, fuse="concat", padding_id=0, head=9),
    hashing_spec(31, 6, padding_id=0),
    hashing_spec(31, 6, padding_id=0, head=20),
    multi_hash_spec(31, 6, hashes=3, padding_id=0),
    multi_hash_spec(31, 6, hashes=3, fuse="mean", shared=True, head=9),
    quotient_remainder_spec(40, 6, remainders=7, padding_id=0),
    quotient_remainder_spec(40, 6, remainders=7, fuse="mul"),
    quotient_remainder_spec(40, 6, remainders=7, fuse="concat", head=9),
]


@pytest.mark.parametrize("masked", [False, True], ids=["whole", "masked"])
@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: f"{spec.kind}-{spec.fuse}")
def test_vectors_equal_the_reference_in_every_shape(spec, masked):
    generator = np.random.default_rng(3)
    widths = generator.integers(1, spec.row_dim + 1, spec.rows)
    mask = AdaptiveMask.from_widths(widths, spec.row_dim) if masked else None
    layer = Embedding(spec, std=1.0, mask=mask)
    ids = EXTREME + generator.integers(-(2**63), 2**63, 12).tolist() + list(range(24))
    row_widths = widths.tolist() if masked else None
    table = layer.weight.tolist()
    expected = np.array([reference_vector(spec, table, number, row_widths) for number in ids])
    tensor = torch.tensor(ids, dtype=torch.int64)
    for shape in [(48,), (6, 8), (2, 3, 8)]:
        got = layer(tensor.reshape(shape))
        assert got.shape == (*shape, spec.dim)
        np.testing.assert_allclose(got.detach().reshape(48, -1), expected, rtol=0, atol=1e-5)
    single = torch.stack([layer(number) for number in tensor])  # fewer lookups than table rows
    np.testing.assert_allclose(single.detach(), expected, rtol=0, atol=1e-5)
    assert layer(tensor[:0]).shape == (0, spec.dim)


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: f"{spec.kind}-{spec.fuse}")
def test_torch_equals_the_numpy_executor(spec):
    layer = Embedding(spec, std=1.0)
    ids = np.random.default_rng(5).integers(-(2**63), 2**63, 500)
    ids[:60] = np.arange(-5, 55)
    table = layer.weight.detach().numpy()
    expected = look_up(spec, ids, lambda rows: table[rows])
    got = layer(torch.from_numpy(ids)).detach().numpy()
    np.testing.assert_allclose(got, expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("sparse", [False, True])
@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: f"{spec.kind}-{spec.fuse}")
def test_gradients_equal_those_of_a_plain_gather(spec, sparse):
    layer = Embedding(spec, std=1.0, sparse=sparse)
    ids = torch.randint(0, 48, (200,))
    upstream = torch.randn(200, spec.dim)
    layer(ids).backward(upstream)
    weight = layer.weight.detach().clone().requires_grad_(True)
    vectors = []
    for number in ids.tolist():
        rows = layer.rows(torch.tensor([number]))[0]
        values = weight[rows[rows != NO_ROW]]
        fused = {"sum": lambda v: v.sum(0), "mean": lambda v: v.mean(0), "concat": torch.flatten}
        vectors.append(fused.get(spec.fuse, lambda v: v.prod(0))(values))
    keep = (ids != spec.padding_id) if spec.padding_id is not None else torch.ones(200) > 0
    (torch.stack(vectors) * keep[:, None]).backward(upstream)
    gradient = layer.weight.grad.to_dense() if sparse else layer.weight.grad
    torch.testing.assert_close(gradient, weight.grad, rtol=1e-5, atol=1e-5)


def test_own_rows_and_products_start_with_the_spread_of_a_plain_table():
    torch.manual_seed(1)
    hybrid = BinaryCodeEmbedding(16, 16, 4, head=500, std=0.1)
    head, tail = hybrid(torch.arange(1, 500)), hybrid(torch.arange(500, 1000))
    assert float(head.detach().std()) == pytest.approx(0.1, rel=0.05)
    assert float(tail.detach().std()) == pytest.approx(0.1, rel=0.2)
    product = QuotientRemainderEmbedding(10**6, 16, remainders=1000, fuse="mul", std=0.1)
    vectors = product(torch.randint(1, 10**6, (5000,)))
    assert float(vectors.detach().std()) == pytest.approx(0.1, rel=0.1)


@pytest.mark.parametrize("fuse", ["sum", "mean", "concat"])
@pytest.mark.parametrize("t", [16, 8, 4])
def test_output_starts_with_the_spread_of_a_plain_table(fuse, t):
    torch.manual_seed(1)
    layer = BinaryCodeEmbedding(12, 16, t, fuse=fuse, std=0.1, padding_id=None)
    outputs = []
    for _ in range(40):  # a table may have few rows: average over tables, not over IDs alone
        layer.reset_parameters(0.1)
        outputs.append(layer(torch.arange(64) * 1021).detach())
    assert float(torch.cat(outputs).std()) == pytest.approx(0.1, rel=0.05)


def test_ids_out_of_range():
    ids = torch.tensor([0, 9, 10, -1, 2**63 - 1, -(2**63)])
    with_oov = FullEmbedding(10, 4, oov_row=3, std=1.0)
    assert with_oov.rows(ids).flatten().tolist() == [0, 9, 3, 3, 3, 3]
    without = FullEmbedding(10, 4, oov_row=None, padding_id=-1, std=1.0)
    with pytest.raises(InputError, match=r"ID 10 is outside 0\.\.9"):
        without(ids)
    assert not without(torch.tensor([-1])).any()  # padding may lie outside the table
    with pytest.raises(InputError, match="int64"):
        with_oov(ids.int())


def test_padding_is_zero_and_trains_nothing():
    layer = FullEmbedding(10, 4, std=1.0)
    assert not layer.weight[0].any()
    with torch.no_grad():
        layer.weight.fill_(1.0)
    out = layer(torch.tensor([0, 5]))
    assert out.tolist() == [[0.0] * 4, [1.0] * 4]
    out.sum().backward()
    assert layer.weight.grad.sum(1).tolist() == [0, 0, 0, 0, 0, 4, 0, 0, 0, 0]


def test_row_counts():
    spec = binary_code_spec(4, code_bits=4, t=2, padding_id=0)
    ids = np.array([0, 1, 1, 6, 15, -1])  # blocks: 1 -> (1, 0), 6 -> (2, 1), 15 and -1 -> (3, 3)
    expected = [0, 2, 1, 2, 2, 1, 0, 2]
    assert row_counts(spec, ids).tolist() == expected
    assert row_counts(spec, (ids[start : start + 2] for start in (0, 2, 4))).tolist() == expected
    full = full_spec(4, 4, padding_id=0, oov_row=1)
    assert row_counts(full, np.array([0, 3, 3, 77, 2])).tolist() == [0, 1, 1, 2]
    assert row_counts(full, np.array([], dtype=np.int64)).tolist() == [0, 0, 0, 0]


def test_row_counts_of_a_hybrid():
    """An ID of the head counts only in its own row."""
    spec = binary_code_spec(4, code_bits=4, t=2, head=3)
    ids = np.array([0, 2, 2, 6, 15, -1])
    assert row_counts(spec, ids).tolist() == [1, 0, 2, 0, 0, 1, 2, 0, 1, 0, 2]


def test_pooling_trains_the_shared_table():
    layer = HashEmbedding(7, 4, std=1.0)
    ids = torch.tensor([[1, 0, 3], [0, 0, 0]])
    layer(ids, "mean").sum().backward()
    assert layer.weight.grad.sum(1).tolist() == [0, 2, 0, 2, 0, 0, 0]
    with pytest.raises(SpecError, match="padding_id"):
        HashEmbedding(7, 4, padding_id=None)(ids, "sum")


def test_layers_have_the_specifications_of_their_makers():
    assert HashEmbedding(9, 4, head=3).spec == hashing_spec(9, 4, padding_id=0, head=3)
    layer = MultiHashEmbedding(9, 4, hashes=3, shared=True, fuse="mean", seed=5, head=2)
    assert layer.spec == multi_hash_spec(
        9, 4, hashes=3, shared=True, fuse="mean", seed=5, padding_id=0, head=2
    )
    layer = QuotientRemainderEmbedding(90, 4, remainders=10, fuse="concat", padding_id=None, head=2)
    assert layer.spec == quotient_remainder_spec(90, 4, remainders=10, fuse="concat", head=2)
    assert BinaryCodeEmbedding(4, 8, 4, head=5).spec.head == 5


def test_a_mask_of_another_shape_is_refused():
    with pytest.raises(SpecError, match="10 rows of 4"):
        FullEmbedding(10, 4, mask=AdaptiveMask.from_widths([1, 2], 4))


@pytest.mark.parametrize("masked", [False, True])
def test_export_leaves_one_node_per_lookup(masked):
    class Two(torch.nn.Module):
        def __init__(self):
            super().__init__()
            mask = AdaptiveMask.from_widths(np.arange(128) % 8 + 1, 8) if masked else None
            self.embeddings = torch.nn.ModuleDict(
                {
                    "user": BinaryCodeEmbedding(8, 12, 6, mask=mask),
                    "item": FullEmbedding(30, 8),
                }
            )

        def forward(self, user, item):
            return torch.cat([self.embeddings["user"](user), self.embeddings["item"](item)], -1)

    model = Two().eval()
    ids = torch.zeros(3, dtype=torch.int64)
    batch = torch.export.Dim("batch")
    program = torch.onnx.export(
        model,
        (),
        kwargs={"user": ids, "item": ids.clone()},  # one tensor twice would become one input
        dynamo=True,
        opset_version=21,
        dynamic_shapes={"user": {0: batch}, "item": {0: batch}},
        verbose=False,
    )
    program.optimize()
    graph = program.model.graph
    assert sorted(node.op_type for node in graph) == ["Concat", "Lookup", "Lookup"]
    nodes = {node.inputs[0].name: node for node in graph if node.domain == "ondevice"}
    user, item = nodes["user"], nodes["item"]
    names = [value.name for value in user.inputs]
    assert names == ["user", "embeddings.user.weight"] + masked * ["embeddings.user.mask.kept"]
    assert [value.name for value in item.inputs] == ["item", "embeddings.item.weight"]
    assert (
        LookupSpec.from_json(user.attributes["spec"].as_string()) == model.embeddings["user"].spec
    )
    weight = graph.initializers["embeddings.user.weight"].const_value.numpy()
    assert np.array_equal(weight, model.embeddings["user"].weight.detach().numpy())
    if masked:
        widths = graph.initializers["embeddings.user.mask.kept"]
        assert widths.dtype == ir.DataType.UINT8
        assert widths.const_value.numpy().tolist() == (np.arange(128) % 8 + 1).tolist()
    assert isinstance(user.outputs[0].shape[0], ir.SymbolicDim)
    assert user.outputs[0].shape[1] == 8
