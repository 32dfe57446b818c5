"""Operator families: torch modules with a lookup, converted to all targets and compared."""

import shutil

import numpy as np
import pytest
import torch
from support.converters import legacy_dir
from torch import nn

import ondevice
from ondevice.converters.convert import convert
from ondevice.engines.native import NativeEngine, is_compiled

pytest.importorskip("onnxruntime")
pytest.importorskip("ai_edge_litert")
torch.set_num_threads(1)

STEPS, DIM = 5, 6


class Family(nn.Module):
    """A sequence of vectors [b, 5, 6] and a mask [b, 5] of its IDs, through one function."""

    def __init__(self, function, layers=None):
        super().__init__()
        torch.manual_seed(3)
        self.table = nn.Embedding(40, DIM)
        self.layers = nn.ModuleDict(layers or {})
        self.function = function

    def forward(self, ids):
        out = self.function(self.table(ids), ids, self.layers)
        return torch.sigmoid(out.reshape(ids.shape[0], -1).sum(1) / 7)


def unary(function):
    return lambda x, ids, m: function(x)


def masked_attention(x, ids, m):
    scores = torch.einsum("bid,bjd->bij", x, x) / DIM**0.5
    scores = scores.masked_fill((ids == 0)[:, None, :], -1e9)
    return torch.softmax(scores, -1) @ x


def causal_attention(x, seen, added=False):
    """Attention to earlier steps; a step whose earlier ones are all masked is zero in torch."""
    steps = x.shape[1]
    mask = torch.ones(steps, steps, dtype=torch.bool).tril() & seen[:, None, :]
    if added:
        mask = torch.zeros(()).masked_fill(~mask, -torch.inf)
    return nn.functional.scaled_dot_product_attention(x, x, x, attn_mask=mask)


def any_marked(x, ids):
    """Rows without a marked ID are the same by both ways."""
    marked = ids < 3
    if marked.any():
        x = torch.where(marked.unsqueeze(-1), x.tanh(), x)
    return x * 2


def pooled(x, ids, m):
    mask = (ids != 0).float()
    length = (ids > 0).sum(1, keepdim=True).clamp(min=1)
    return (x * mask[:, :, None]).sum(1) / length


def dice(x, ids, m):
    gate = torch.sigmoid(m["norm"](x.flatten(1)))
    flat = x.flatten(1)
    return gate * flat + (1 - gate) * 0.3 * flat


def written(x, ids):
    """Elements of a copy, and of a view, overwritten."""
    y = x.clone()
    y[:, 0] = 0.5
    y[:, 2:4, 1] = 1.5
    y[ids < 9] = -0.25
    last = x[:, -1]
    last *= 2
    return y + last.unsqueeze(1)


def heads(x, join):
    """Attention whose heads are in front of the batch, or among its rows."""
    parts = join(x.split(3, 2), 0)
    found = torch.softmax(torch.einsum("...id,...jd->...ij", parts, parts), -1) @ parts
    whole = found.unbind(0) if join is torch.stack else found.split(x.shape[0], 0)
    return torch.cat(list(whole), 2)


def recurrent(kind, hidden, layers=1, batch_first=True, initial=False, **options):
    """A recurrent layer of ordinary width: all its outputs and its last states."""
    layer = kind(DIM, hidden, layers, batch_first=batch_first, **options)
    states = layers * (2 if layer.bidirectional else 1)

    def function(x, ids, m):
        start = (x[:, 0].sum(-1) * 0.3).reshape(1, -1, 1).repeat(states, 1, hidden)
        state = ((start, start * 0.5) if kind is nn.LSTM else start) if initial else None
        out, last = m["r"](x if batch_first else x.transpose(0, 1), state)
        last = last[0] if kind is nn.LSTM else last
        out = out if batch_first else out.transpose(0, 1)
        return out[:, -1] * 0.2 + out[:, 0] * 0.1 + last[-1].repeat(1, out.shape[2] // hidden) * 0.1

    return function, {"r": layer}


def causal(x):
    """Attention that sees earlier steps only, in the ways that users write the mask."""
    steps, scores = x.shape[1], x @ x.mT
    later = torch.triu(torch.ones(steps, steps, dtype=torch.bool), diagonal=1)
    order = torch.arange(steps)
    masked = [
        scores.masked_fill(later, -1e9),
        scores.masked_fill(torch.ones(steps, steps).tril() == 0, float("-inf")),
        scores.masked_fill(order[None, :] > order[:, None], torch.finfo(x.dtype).min),
        scores + nn.Transformer.generate_square_subsequent_mask(steps),
    ]
    return sum(torch.softmax(one, -1) @ x * (i + 1) for i, one in enumerate(masked))


def seen(x, ids, m):
    """A mask of padding, made triangular: of booleans, numbers and integers."""
    mask = (ids % 3 != 0)[:, None, :].expand(-1, x.shape[1], -1)
    scores = x @ x.mT + torch.where(torch.tril(mask), 0.0, -1e4)
    later = torch.triu(mask, 1).float() - torch.tril(mask.logical_not(), -1).float() * 0.5
    counts = torch.tril(ids[:, :, None] * ids[:, None, :], 1) + torch.triu(
        ids[:, None, :] + 0 * mask
    )
    return torch.softmax(scores, -1) @ x + (later.sum(-1) + counts.sum(-1) * 1e-3)[:, :, None] * 0.1


def scaled_attention(x, ids, m):
    """torch's own attention, causal or with a mask of booleans."""
    heads = x.view(x.size(0), x.size(1), 2, 3).transpose(1, 2)
    known = (ids != 0)[:, None, None, :] & torch.ones(STEPS, STEPS, dtype=torch.bool).tril()
    known = known | torch.eye(STEPS, dtype=torch.bool)
    attend = nn.functional.scaled_dot_product_attention
    both = attend(heads, heads, heads, is_causal=True) + attend(heads, heads, heads, known) * 2
    return attend(x, x, x, is_causal=True) + both.transpose(1, 2).reshape(x.shape)


def masked_heads(batch_first):
    """Multi-head attention with a mask of steps, one of padding, and one for every head."""

    def function(x, ids, m):
        x = x if batch_first else x.transpose(0, 1)
        later = torch.triu(torch.ones(STEPS, STEPS, dtype=torch.bool), 1)
        padding = (ids == 41) | ((ids % 4 == 0) & (torch.arange(STEPS) > 0))
        first = m["a"](x, x, x, attn_mask=later, key_padding_mask=padding)[0]
        each = torch.tril((ids != 41)[:, None, :].expand(-1, STEPS, -1)).logical_not()
        second = m["a"](x, x, x, attn_mask=each.repeat_interleave(2, 0), need_weights=False)[0]
        out = first + second * 2
        return out if batch_first else out.transpose(0, 1)

    return function, {"a": nn.MultiheadAttention(DIM, 2, batch_first=batch_first)}


def causal_encoder(x, ids, m):
    """Two encoder layers, steps first and rows first, with torch's causal mask."""
    mask = nn.Transformer.generate_square_subsequent_mask(x.size(1))
    x = m["rows"](x, src_mask=mask, is_causal=True)
    return m["steps"](x.transpose(0, 1), src_mask=mask).transpose(0, 1)


class FeatureWeights(nn.Module):
    """Weights of their own for every feature [5, 6, 4], and a table of positions."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(STEPS, DIM, 4) * 0.3)
        self.square = nn.Parameter(torch.randn(STEPS, DIM, DIM) * 0.3)
        self.wide = nn.Parameter(torch.randn(DIM, 3000) * 0.1)
        self.positions = nn.Embedding(STEPS, DIM)
        self.norm = nn.LayerNorm(DIM)


def per_feature(x, ids, m):
    w = m["f"].weight
    front = x.transpose(0, 1)
    return (
        (front @ w).transpose(0, 1)
        + torch.einsum("bfd,fde->bfe", x, w) * 2
        + torch.einsum("fde,bfd->fbe", w, x).permute(1, 0, 2) * 3
        + torch.baddbmm(w[:, :1], front, w).transpose(0, 1)
        + (x.unsqueeze(2) @ w).squeeze(2)
    )


def experts(x, ids, m):
    """One vector through several matrices, whose axis comes first in the result."""
    w = m["f"].square
    first = torch.matmul(x[:, 0], w).sum(0)
    second = torch.einsum("bd,edo->ebo", x[:, 1], w)[2]
    return first + second + torch.einsum("bd,edo->beo", x[:, 2], w).amax(1)


def positions(x, ids, m):
    """Position vectors, which have no rows, in the ways that users add them."""
    p = m["f"].positions
    steps = torch.arange(x.size(1))
    x = x + p.weight.unsqueeze(0) + p(steps) * 0.5 + p(steps.unsqueeze(0).expand_as(ids)) * 2
    x = x + torch.relu(m["f"].norm(p(steps))) @ m["f"].square[0]
    front = x.transpose(0, 1) + p.weight.unsqueeze(1)
    first = p.weight[:1].unsqueeze(0).expand(x.shape[0], -1, -1)
    return torch.cat([first, front.transpose(0, 1), p.weight[1:2].repeat(x.size(0), 1, 1)], 1)


def shared_weights(x, ids, m):
    """A wide matrix that two products read, cut and transposed."""
    w = m["f"].wide
    halves = torch.cat([w[:, 1500:], w[:, :1500]], 1)
    return x @ w @ w.t() * 0.1 + x[:, :1] @ halves @ halves.t() * 0.1


def sizes_as_numbers(x, ids, m):
    """The number of rows as a size, which stays free."""
    rows, steps = x.shape[0], x.size(1)
    flat = x.view(rows, -1) + torch.zeros(rows, steps * DIM)
    wide = flat.unsqueeze(1).repeat(1, 2, 1).expand(rows, 2, steps * DIM)
    return wide.sum(1) + torch.ones(x.size(0), 1) * flat[torch.arange(rows), ids[:, 0] % DIM, None]


FAMILIES = {
    "arithmetic": unary(lambda x: (x + 1) * (x - 2) / (x.abs() + 1) + x**2 - (x.abs() + 1) ** 1.7),
    "roots": unary(lambda x: x.abs().sqrt() + (x.abs() + 0.1).log() + (-x).exp() + 1 / (x + 9)),
    "rounding": unary(lambda x: (x * 3).floor() + (x * 2).ceil() * 2 + (x * 5).round() * 3),
    "sign": unary(lambda x: torch.sign(x) + torch.clamp(x, -0.5, 0.7) + torch.minimum(x, -x)),
    "broadcast": unary(
        lambda x: x[:, :1] * x[:, :, 1:2] + x[:, 2:3, :] - torch.maximum(x, x[:, :1])
    ),
    "compare": unary(
        lambda x: (x > 0.1).float() - (x <= -0.3).float() * 2 + (x >= x[:, :1]).float()
    ),
    "logic": unary(lambda x: ((x > 0) & (x < 1) | ~(x > -1)).float()),
    "where": unary(lambda x: torch.where(x > 0, x * 2, x[:, :1] - 1)),
    "absolute_integers": lambda x, ids, m: (ids[:, :1] - ids).abs()[:, :, None] * x * 0.05,
    "cast": lambda x, ids, m: ids.float()[:, :, None] / 40 * x + (x * 3).long().float(),
    "slices": unary(lambda x: x[:, 1:4, ::2] + x[:, -3:, :3] + x[:, :3, 3:]),
    "split": unary(lambda x: torch.cat([p * i for i, p in enumerate(x.split([1, 3, 2], -1))], -1)),
    "chunk": unary(lambda x: x.chunk(3, 2)[0] * x.chunk(3, 2)[2]),
    "stack": unary(lambda x: torch.stack([x[:, 0], x[:, 3], x[:, 4]], 2) * 2),
    "gather": unary(lambda x: x[:, torch.tensor([3, 0, 0, 2]), :] * x[:, :4]),
    "pairs": unary(
        lambda x: x[:, torch.triu_indices(5, 5, 1)[0]] * x[:, torch.triu_indices(5, 5, 1)[1]]
    ),
    "take": lambda x, ids, m: torch.gather(x, 2, (ids % DIM)[:, :, None]),
    "expand": unary(lambda x: torch.cat([x, x[:, :1].expand(-1, 5, -1)], -1).permute(0, 2, 1)),
    "repeat": unary(lambda x: x[:, :1].repeat(1, 4, 2) * 0.5),
    "rows": lambda x, ids, m: torch.cat([torch.ones(x.shape[0], 1, DIM) * 0.5, x], 1)[:, :3],
    "reductions": unary(
        lambda x: x.sum((1, 2)) + x.mean(1).sum(-1) + x.amax(-1).amin(1) + x.norm(dim=-1).sum(1)
        + x.prod(2).sum(1) + x.logsumexp(1).sum(1)
    ),
    "keep": unary(lambda x: x - x.mean(-1, keepdim=True) + x.amax(1, keepdim=True)),
    "softmax": unary(lambda x: torch.softmax(x, 1) + torch.log_softmax(x, -1)),
    "masked_attention": masked_attention,
    "pooled": pooled,
    "einsum": unary(lambda x: torch.einsum("bid,bjd->bijd", x, x).sum(-1)),
    "einsum_constant": (
        lambda x, ids, m: torch.einsum("bid,de->bie", x, m["w"].weight.T),
        {"w": nn.Linear(DIM, 4)},
    ),
    "bmm": unary(lambda x: torch.bmm(x, x.transpose(1, 2))),
    "layer_norm": (lambda x, ids, m: m["n"](x) * 2, {"n": nn.LayerNorm(DIM)}),
    "batch_norm": (lambda x, ids, m: m["n"](x), {"n": nn.BatchNorm1d(STEPS)}),
    "dice": (dice, {"norm": nn.BatchNorm1d(STEPS * DIM, affine=False)}),
    "conv1d": (lambda x, ids, m: m["c"](x), {"c": nn.Conv1d(STEPS, 7, 3, padding=1)}),
    "conv1d_groups": (
        lambda x, ids, m: m["c"](x.transpose(1, 2)),
        {"c": nn.Conv1d(DIM, 4, 2, stride=2, groups=2, dilation=2)},
    ),
    "conv2d": (
        lambda x, ids, m: m["c"](x[:, None]),
        {"c": nn.Conv2d(1, 3, (2, 3), padding=(1, 0))},
    ),
    "relus": unary(
        lambda x: nn.functional.leaky_relu(x, 0.2) + nn.functional.elu(x, 0.7)
        + nn.functional.selu(x) + nn.functional.relu6(x)
    ),
    "prelu": (lambda x, ids, m: m["p"](x), {"p": nn.PReLU(STEPS)}),
    "gelu": unary(lambda x: nn.functional.gelu(x * 2) + nn.functional.gelu(x, approximate="tanh")),
    "smooth": unary(
        lambda x: nn.functional.silu(x) + nn.functional.softplus(x) + torch.tanh(x) + torch.erf(x)
        + nn.functional.mish(x)
    ),
    "hard": unary(lambda x: nn.functional.hardsigmoid(x) + nn.functional.hardswish(x * 3)),
    "arg_max": lambda x, ids, m: x.argmax(2).float() / 6,
    "top_k": unary(lambda x: x.topk(3, dim=2).values * torch.tensor([1.0, 2.0, 3.0])),
    "cum_sum": unary(lambda x: x.cumsum(1) * x),
    "pad": unary(lambda x: nn.functional.pad(x, (1, 2, 2, 0), value=0.5) ** 2),
    "gru": (
        lambda x, ids, m: m["g"](x)[0] * 2 + m["g"](x)[1].transpose(0, 1),
        {"g": nn.GRU(DIM, 4, batch_first=True)},
    ),
    "lstm": (lambda x, ids, m: m["g"](x)[0] * 2, {"g": nn.LSTM(DIM, 4, batch_first=True)}),
    "lstm_two_ways": (
        lambda x, ids, m: m["g"](x)[0],
        {"g": nn.LSTM(DIM, 4, 2, batch_first=True, bidirectional=True)},
    ),
    "gru_wide": recurrent(nn.GRU, 128, 2, batch_first=False, initial=True),
    "gru_wide_two_ways": recurrent(nn.GRU, 96, bidirectional=True),
    "lstm_wide": recurrent(nn.LSTM, 128, 2, batch_first=False, initial=True),
    "lstm_widest": recurrent(nn.LSTM, 256, bidirectional=True),
    "rnn_wide": recurrent(nn.RNN, 128, 2, batch_first=False, initial=True),
    "rnn_relu_two_ways": recurrent(nn.RNN, 96, 2, bidirectional=True, nonlinearity="relu"),
    "causal": unary(causal),
    "seen": seen,
    "scaled_attention": scaled_attention,
    "masked_heads": masked_heads(batch_first=True),
    "masked_heads_steps_first": masked_heads(batch_first=False),
    "causal_encoder": (
        causal_encoder,
        {
            "rows": nn.TransformerEncoderLayer(DIM, 2, 8, batch_first=True, norm_first=True),
            "steps": nn.TransformerEncoderLayer(DIM, 2, 8),
        },
    ),
    "per_feature": (per_feature, {"f": FeatureWeights()}),
    "experts": (experts, {"f": FeatureWeights()}),
    "positions": (positions, {"f": FeatureWeights()}),
    "shared_weights": (shared_weights, {"f": FeatureWeights()}),
    "sizes_as_numbers": sizes_as_numbers,
    "slices_to_the_end": unary(
        lambda x: x[:, 1 : 10**9, ::2][:, :-1]
        + x.transpose(0, 1)[-3:].transpose(0, 1)[..., :3]
        + x[:, : 10**9][:, -3 : 10**12, 3:]
    ),
    "rnn": (lambda x, ids, m: m["g"](x)[0], {"g": nn.RNN(DIM, 4, batch_first=True)}),
    "decoder": (
        lambda x, ids, m: m["d"](x[:, :1], x),
        {"d": nn.TransformerDecoderLayer(DIM, 2, 8, batch_first=True)},
    ),
    "waves": unary(
        lambda x: torch.sin(x * 9) + torch.cos(x) + torch.tan(x / 9) + torch.atan(x * 3)
        + torch.asin(torch.tanh(x)) + torch.acos(torch.tanh(x)) + torch.sinh(x) - torch.cosh(x)
        + torch.atan2(x, x - 1)
    ),
    "pools": unary(
        lambda x: nn.functional.max_pool1d(x, 2, 1, 1)[:, :, :3] + nn.functional.avg_pool1d(x, 2)
        + nn.functional.adaptive_avg_pool1d(x, 1)
    ),
    "edges": (
        lambda x, ids, m: m["r"](x) - m["w"](x),
        {
            "r": nn.Conv1d(STEPS, 3, 3, padding=1, padding_mode="reflect"),
            "w": nn.Conv1d(STEPS, 3, 3, padding=1, padding_mode="circular"),
        },
    ),
    "triangle": unary(lambda x: torch.bmm(x, x.mT).tril(-1) * 2 + torch.bmm(x, x.mT).triu(2)),
    "flip": unary(lambda x: x.flip(1) * torch.arange(6.0)),
    "group_norm": (lambda x, ids, m: m["n"](x), {"n": nn.GroupNorm(STEPS, STEPS)}),
    "written": lambda x, ids, m: written(x, ids),
    "buckets": unary(
        lambda x: torch.bucketize(x, torch.tensor([-1.0, 0.0, 1.0]))
        - torch.searchsorted(torch.tensor([-0.5, 0.5]), x, right=True) * 0.3
    ),
    "membership": lambda x, ids, m: torch.isin(ids, torch.tensor([3, 7, 30]))[:, :, None] * x,
    "einsum_three": unary(
        lambda x: torch.einsum("bid,bjd,bkd->bijk", x, x, x).sum(-1)
        + torch.einsum("...id,...jd->...ij", x, x)
    ),
    "heads_stacked": lambda x, ids, m: heads(x, torch.stack),
    "heads_as_rows": lambda x, ids, m: heads(x, torch.cat),
    "two_indices": unary(
        lambda x: torch.bmm(x, x.mT)[:, torch.tensor([0, 0, 3]), torch.tensor([1, 4, 2])]
    ),
    "top_k_inside": unary(lambda x: x.topk(2, dim=1).values * torch.tensor([[1.0], [2.0]])),
    "columns": unary(lambda x: torch.column_stack([x[:, 0, 0], (x[:, 1] > 0).long()]) * 2),
    "nothing_to_see": lambda x, ids, m: causal_attention(x, ids > 2),
    "nothing_to_see_by_a_number": lambda x, ids, m: causal_attention(x, ids > 2, added=True),
    "any_marked": lambda x, ids, m: any_marked(x, ids),
    "all_known": lambda x, ids, m: x * 2 if (ids > 0).all() else x * (1 + (ids > 0)[..., None]),
    "added_at": lambda x, ids, m: torch.zeros(len(x), 50).scatter_add(1, ids, x[..., 0]),
    "joined": unary(lambda x: torch.hstack([x[:, 0], x[:, 2]]) * 2),
}  # fmt: skip


@pytest.mark.parametrize("name", FAMILIES)
def test_family_agrees_with_torch_in_every_target(name, tmp_path):
    family = FAMILIES[name]
    function, layers = family if isinstance(family, tuple) else (family, None)
    torch.manual_seed(0)
    module = Family(function, layers).eval()
    ids = torch.randint(0, 40, (7, STEPS))
    convert(module, (ids,), tmp_path, tables="f32")  # itself verifies batches of 1 to 1024
    trial = np.random.default_rng(2).integers(0, 40, (33, STEPS))
    with torch.inference_mode():
        expected = module(torch.from_numpy(trial)).numpy()
    for target in ("odm", "onnx", "tflite"):
        model = ondevice.load(tmp_path / f"model.{target}")
        got = model.predict({"ids": trial})
        np.testing.assert_allclose(got, expected, atol=1e-5, rtol=0, err_msg=target)
        one = model.predict({"ids": trial[:1]})
        np.testing.assert_allclose(one, expected[:1], atol=1e-5, rtol=0, err_msg=target)
    if legacy := legacy_dir("operators"):
        (legacy / name).mkdir(exist_ok=True)
        shutil.copy(tmp_path / "model.tflite", legacy / name)
    if is_compiled():  # the C engine takes it, in all its kernels: no fallback
        from ondevice.engines.native import kernels_available

        for kernels in kernels_available():
            engine = NativeEngine(tmp_path / "model.odm", kernels=kernels)
            (got,) = engine.run({"ids": trial}).values()
            np.testing.assert_allclose(got, expected, atol=1e-5, rtol=0, err_msg=kernels)


def test_the_page_of_operators_is_current():
    from pathlib import Path

    from ondevice.converters.lowering.operator_table import table

    page = Path(__file__).parents[3] / "docs" / "operators.md"
    assert page.read_text(encoding="utf-8") == table(), (
        "run: python -m ondevice.converters.lowering.operator_table > docs/operators.md"
    )


def test_the_c_engine_has_the_operators_of_numpy():
    import re
    from pathlib import Path

    from ondevice.ops import OPERATORS

    source = Path(__file__).parents[3] / "ondevice" / "native" / "ops" / "operators.h"
    rows = r"^  (?:ROW|ROWS|VIEW|CORE)\((\w+), OD_OP_"
    compiled = set(re.findall(rows, source.read_text(), re.MULTILINE))
    assert compiled == {*OPERATORS, "Lookup", "Dense"}


ENGINES = [("odm", "numpy"), ("onnx", "onnx"), ("tflite", "tflite")]
if is_compiled():
    ENGINES.append(("odm", "native"))


class FreeLength(nn.Module):
    """Causal attention over a history of any length, its mask a triangle of that size."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(3)
        self.table = nn.Embedding(40, DIM)

    def forward(self, ids):
        x, steps = self.table(ids), ids.size(1)
        seen = torch.ones(steps, steps).tril() != 0
        later = torch.triu(x @ x.mT, diagonal=1)
        scores = (x @ x.mT + later).masked_fill(~seen, -1e9)
        return torch.sigmoid((torch.softmax(scores, -1) @ x)[:, -3:].mean((1, 2)))


def test_a_triangle_of_a_free_size(tmp_path):
    module = FreeLength().eval()
    ids = torch.randint(0, 40, (7, STEPS), generator=torch.Generator().manual_seed(1))
    convert(module, (ids,), tmp_path, tables="f32", dynamic_axes={"ids": {1: "steps"}})
    for steps in (STEPS, 3, 11):
        trial = np.random.default_rng(steps).integers(0, 40, (9, steps))
        with torch.inference_mode():
            expected = module(torch.from_numpy(trial)).numpy()
        for target, engine in ENGINES:
            model = ondevice.load(tmp_path / f"model.{target}", engine=engine)
            got = model.predict({"ids": trial})
            np.testing.assert_allclose(got, expected, atol=1e-5, rtol=0, err_msg=target)


class SlicedRows(nn.Module):
    """Takes rows of the request by bounds that no request reaches, or by its own size."""

    def __init__(self, bounds):
        super().__init__()
        torch.manual_seed(2)
        self.table, self.unit, self.bounds = nn.Embedding(40, DIM), nn.Linear(DIM, 1), bounds

    def forward(self, ids):
        return torch.sigmoid(self.unit(self.table(ids)[self.bounds(ids)])).squeeze(-1)


ALL_ROWS = {
    "a billion": lambda ids: slice(10**9),
    "64 bits": lambda ids: slice(0, 2**63 - 1),
    "both axes": lambda ids: (slice(10**9), slice(10**9)),
    "the rows": lambda ids: slice(ids.shape[0]),
}


@pytest.mark.parametrize("bounds", ALL_ROWS.values(), ids=ALL_ROWS)
@pytest.mark.parametrize("legacy", [False, True], ids=["torch.export", "TorchScript"])
def test_all_rows_by_bounds_run_in_every_engine(bounds, legacy, tmp_path):
    module, ids = SlicedRows(bounds).eval(), torch.arange(40)
    if legacy:
        path = tmp_path / "in.onnx"
        names = {"input_names": ["ids"], "output_names": ["p"], "opset_version": 17}
        torch.onnx.export(module, (ids,), str(path), dynamo=False, **names,
                          dynamic_axes={"ids": {0: "batch"}, "p": {0: "batch"}})  # fmt: skip
        convert(path, {"ids": ids.numpy()}, tmp_path, tables="f32")
    else:
        convert(module, (ids,), tmp_path, tables="f32")
    for rows in (1, 40, 130):
        trial = np.arange(rows) % 40
        with torch.inference_mode():
            expected = module(torch.from_numpy(trial)).numpy()
        for target, engine in ENGINES:
            got = ondevice.load(tmp_path / f"model.{target}", engine=engine).predict({"ids": trial})
            np.testing.assert_allclose(got, expected, atol=1e-6, rtol=0, err_msg=engine)


class OuterProduct(nn.Module):
    """A matrix of 2^20 elements and more, computed from two vectors at every request."""

    WIDE = 140_000

    def __init__(self):
        super().__init__()
        torch.manual_seed(4)
        self.table = nn.Embedding(40, 8)
        self.tall, self.wide = nn.Parameter(torch.randn(8, 1)), nn.Parameter(torch.randn(self.WIDE))

    def forward(self, ids):
        return torch.sigmoid((self.table(ids) @ (self.tall * self.wide)).mean(1))


def test_a_constant_much_larger_than_what_it_comes_from(tmp_path):
    """Beyond what is folded: the file stays small, and the C engine computes it when it opens."""
    module, ids = OuterProduct().eval(), torch.arange(9)
    convert(module, (ids,), tmp_path, tables="f32")
    assert (tmp_path / "model.odm").stat().st_size < 8 * module.WIDE
    with torch.inference_mode():
        expected = module(ids).numpy()
    for target, engine in ENGINES:
        model = ondevice.load(tmp_path / f"model.{target}", engine=engine)
        got = model.predict({"ids": ids.numpy()})
        np.testing.assert_allclose(got, expected, atol=1e-6, rtol=0, err_msg=engine)
