"""Tables that are read together, against the numpy executor and plain gathers in torch."""

import numpy as np
import pytest
import torch

from ondevice.errors import InputError
from ondevice.lookup import NO_ROW, look_up
from ondevice.models import AdaptiveMask, Embedding
from ondevice.models.layers import joint_tables
from ondevice.models.layers.adaptive_mask import MaskGroup
from ondevice.models.layers.joint_tables import JointTables
from ondevice.models.layers.masked_rows import HeldMasks
from ondevice.models.layers.replacements import RotatedEmbedding
from ondevice.spec import binary_code_spec, full_spec, hashing_spec, quotient_remainder_spec

CODE = {"code_bits": 9, "t": 4, "multiplier": 0x9E3779B97F4A7C15, "padding_id": None}
FULL = full_spec(40, 6, oov_row=1)
GROUPS = {
    "full": [
        FULL,
        full_spec(9, 6, padding_id=None, oov_row=0),
        full_spec(30, 6, padding_id=7, oov_row=29),
    ],
    "codes": [FULL, *(binary_code_spec(6, **CODE, fuse=fuse) for fuse in ("mul", "sum", "mean"))],
    "concat": [binary_code_spec(18, **CODE, fuse="concat"), FULL, binary_code_spec(6, **CODE)],
    "one block": [binary_code_spec(6, code_bits=5, t=5, fuse="mul"), FULL, FULL],
    "pieces": [FULL, binary_code_spec(6, code_bits=20, t=3, strategy="skip")],
    "hashes": [hashing_spec(31, 6), FULL, quotient_remainder_spec(40, 6, remainders=7, fuse="mul")],
    "hybrid": [FULL, binary_code_spec(6, code_bits=9, t=4, head=8, padding_id=0)],
}
SMALL = torch.arange(8, 40)  # in range of all tables but the second, where they are unknown
EXTREME = [0, 7, -1, 2**62, -(2**63), 2**63 - 1, 41, 3]
IDS = {
    "few": torch.tensor([1, 8, 3, 8]),
    "small": SMALL % 9,
    "padded": torch.tensor([3, 0, 7, 0]),
    "any": torch.tensor(EXTREME),
    "square": torch.tensor([[1, 2], [3, 8]]),
    "none": torch.empty(0, dtype=torch.int64),
}


def plain_vectors(table, ids, masks=None):
    """The vectors of a table, ID by ID, by a gather that autograd follows."""
    weight = table.weight if masks is None else table.weight * masks
    vectors = []
    for number in ids.flatten().tolist():
        rows = table.rows(torch.tensor([number]))[0]
        values = weight[rows[rows != NO_ROW]]
        fused = {"sum": lambda v: v.sum(0), "mean": lambda v: v.mean(0), "concat": torch.flatten}
        vector = fused.get(table.spec.fuse, lambda v: v.prod(0))(values)
        vectors.append(vector * (number != table.spec.padding_id))
    return torch.stack(vectors).reshape(*ids.shape, table.spec.dim)


def plain_masks(mask):
    """The mask of every row, with the gradient of the softmax, as docs/methods.md says it."""
    inputs = mask.inputs
    high_and_low = []
    for twin in (0, 1):
        values = inputs
        for number, (weight, bias) in enumerate(mask.twins.layers()):
            values = (torch.relu(values) if number else values) @ weight[twin] + bias[twin]
        high_and_low.append(values)
    gate = torch.sigmoid(inputs[:, :1])
    logits = gate * high_and_low[0] + (1 - gate) * high_and_low[1]
    soft = torch.softmax(logits / mask.temperature, -1)
    hard = torch.nn.functional.one_hot(logits.argmax(-1), mask.dim).float()
    straight = soft + (hard - soft).detach()
    return straight.flip(-1).cumsum(-1).flip(-1)[mask.level_of_row.int()]


def gradients(tables, loss):
    for table in tables:
        table.zero_grad()
    loss.backward()
    return [
        parameter.grad.clone()
        for table in tables
        for parameter in table.parameters()
        if parameter.grad is not None
    ]


def live_tables(specs, seed=0, **settings):
    """Tables whose masks are being learned, with widths of every kind."""
    torch.manual_seed(seed)
    tables = []
    for spec in specs:
        counts = np.random.default_rng(seed).permutation(spec.rows) // 2
        mask = AdaptiveMask(counts, spec.row_dim, **settings)
        torch.nn.init.normal_(mask.twins.flat)
        tables.append(Embedding(spec, std=1.0, mask=mask))
    return tables


@pytest.mark.parametrize("which", IDS)
@pytest.mark.parametrize("kind", GROUPS)
def test_vectors_side_by_side_are_those_of_the_numpy_executor(kind, which):
    torch.manual_seed(0)
    tables = [Embedding(spec, std=1.0) for spec in GROUPS[kind]]
    ids = [IDS[which]] * len(tables)
    joined = JointTables(tables).read(ids, [None] * len(tables))
    expected = []
    for table, item in zip(tables, ids, strict=True):
        weight = table.weight.detach().numpy()
        vectors = look_up(table.spec, item.numpy().reshape(-1), lambda rows, w=weight: w[rows])
        expected.append(vectors.reshape(*item.shape, table.spec.dim))
    np.testing.assert_allclose(joined.detach(), np.concatenate(expected, -1), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("which", ["few", "small", "padded", "any", "square"])
@pytest.mark.parametrize("kind", GROUPS)
def test_gradients_are_those_of_a_plain_gather(kind, which):
    torch.manual_seed(0)
    tables = [Embedding(spec, std=1.0) for spec in GROUPS[kind]]
    ids = IDS[which]
    joined = JointTables(tables).read([ids] * len(tables), [None] * len(tables))
    upstream = torch.randn(joined.shape)
    got = gradients(tables, (joined * upstream).sum())
    plain = torch.cat([plain_vectors(table, ids) for table in tables], -1)
    expected = gradients(tables, (plain * upstream).sum())
    assert len(got) == len(expected) == len(tables)
    for first, second in zip(got, expected, strict=True):
        torch.testing.assert_close(first, second, rtol=1e-5, atol=1e-5)


def test_each_table_has_its_own_ids_and_may_be_of_another_kind(monkeypatch):
    """Groups by width, large tables alone, a rotated table: side by side in their order."""
    monkeypatch.setattr(joint_tables, "JOINT_ROWS", 50)
    torch.manual_seed(0)
    specs = [FULL, full_spec(40, 3), full_spec(60, 6), full_spec(20, 6), FULL]
    tables = [Embedding(spec, std=1.0) for spec in specs]
    tables.append(RotatedEmbedding(FULL, torch.randn(6, 4)))
    ids = [torch.randint(1, 20, (5,)) for _ in tables]
    joined = JointTables(tables).read(ids, [None] * len(tables))
    parts = [plain_vectors(table, item) for table, item in zip(tables, ids, strict=True)]
    parts[-1] = parts[-1] @ tables[-1].rotation
    torch.testing.assert_close(joined, torch.cat(parts, -1))


def test_faulty_ids_are_refused_as_by_each_table():
    tables = [Embedding(FULL), Embedding(full_spec(9, 6, oov_row=None))]
    joint, known = JointTables(tables), torch.tensor([3])
    with pytest.raises(InputError, match=r"ID 9 is outside 0\.\.8"):
        joint.read([known, torch.tensor([9])], [None, None])
    with pytest.raises(InputError, match=r"int64, got torch\.int32"):
        joint.read([known, torch.tensor([3], dtype=torch.int32)], [None, None])


@pytest.mark.parametrize("which", ["small", "few"])  # few: fewer reads than half the rows
@pytest.mark.parametrize("kind", ["full", "codes", "concat", "hashes"])
def test_gradients_of_live_masks_are_those_of_the_formula(kind, which):
    tables = live_tables(GROUPS[kind])
    ids = IDS[which]
    joined = JointTables(tables).read([ids] * len(tables), [None] * len(tables))
    upstream = torch.randn(joined.shape)
    got = gradients(tables, (joined * upstream).sum())
    plain = torch.cat([plain_vectors(table, ids, plain_masks(table.mask)) for table in tables], -1)
    torch.testing.assert_close(joined, plain, rtol=1e-5, atol=1e-6)
    expected = gradients(tables, (plain * upstream).sum())
    assert len(got) == len(expected) == 2 * len(tables)  # weights and twins
    for first, second in zip(got, expected, strict=True):
        torch.testing.assert_close(first, second, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("sizes", [(40, 40, 40), (3, 3, 40), (3, 3, 3)])
def test_held_masks_collect_the_gradients_of_all_steps(sizes):
    """By whole tables, by rows that are read, and now one way and now the other."""
    tables = live_tables(GROUPS["codes"][:2], temperature=0.7)
    tables += live_tables([full_spec(40, 6)], seed=1)
    tables[2].mask.freeze()
    live = [table.mask for table in tables[:2]]
    joint = JointTables(tables)
    held = HeldMasks(dict(enumerate(MaskGroup(live).level_masks())))
    levels = [held.levels[0], held.levels[1], None]
    steps = [torch.randint(1, 40, (3, count)) for count in sizes]
    upstreams = [torch.randn(count, 18) for count in sizes]
    for ids, upstream in zip(steps, upstreams, strict=True):
        (joint.read(list(ids), levels, held=held) * upstream).sum().backward()
    assert all(mask.twins.flat.grad is None for mask in live)
    masks, sums = zip(*held.collected(), strict=True)
    torch.autograd.backward(masks, sums)
    got = [parameter.grad.clone() for table in tables for parameter in table.parameters()]
    plain = [plain_masks(mask) for mask in live]
    plain.append(tables[2].mask.leading_ones[tables[2].mask.kept.int()])
    loss = sum(
        (
            torch.cat([plain_vectors(*item) for item in zip(tables, ids, plain, strict=True)], -1)
            * upstream
        ).sum()
        for ids, upstream in zip(steps, upstreams, strict=True)
    )
    expected = gradients(tables, loss)
    assert len(got) == len(expected) == 5
    for first, second in zip(got, expected, strict=True):
        torch.testing.assert_close(first, second, rtol=1e-4, atol=1e-4)


def test_masks_that_change_are_seen():
    """Widths refreshed by hand, counts loaded, learning and evaluation: no old mask remains."""
    tables = live_tables([FULL, FULL])
    joint, ids = JointTables(tables), [SMALL % 40, SMALL % 40]
    others = live_tables([FULL, FULL], seed=5)
    for change in ("train", "eval", "load", "eval", "freeze"):
        for table, other in zip(tables, others, strict=True):
            if change == "load":
                table.load_state_dict(other.state_dict())
            elif change == "freeze":
                table.mask.freeze()
            table.train(change in ("train", "load"))
        expected = [
            plain_vectors(table, item, torch.arange(6) < table.mask.widths()[:, None])
            for table, item in zip(tables, ids, strict=True)
        ]
        torch.testing.assert_close(joint.read(ids, [None, None]), torch.cat(expected, -1))
