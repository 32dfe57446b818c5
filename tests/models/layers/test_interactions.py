"""Each network against its formula written out in numpy, and as files of every target."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from ondevice.converters import convert
from ondevice.errors import InputError, SpecError
from ondevice.features import FeatureSpec, Field
from ondevice.models import (
    BinaryCodeEmbedding,
    ClickModel,
    Embedding,
    FullEmbedding,
    ModelConfig,
    NetworkConfig,
    build,
    load_checkpoint,
    save_checkpoint,
)
from ondevice.models.layers.interactions import (
    AttentionPooling,
    CrossNetwork,
    PaddingMask,
    VectorCrossNetwork,
    pair_interactions,
)
from ondevice.models.network_config import KINDS
from ondevice.spec import full_spec

IDS = {
    "user": torch.tensor([5, -7, 0, 9]),
    "item": torch.tensor([3, 4, 2**40, 1]),
    "kind": torch.tensor([3, 0, 77, 2]),
    "seen": torch.tensor([[4, 9, 0], [0, 0, 0], [3, 3, 8], [2**62, 0, 0]]),
}


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def make_model(kind, **settings):
    torch.manual_seed(0)
    tables = {
        "user": BinaryCodeEmbedding(6, 12, 3, std=1.0),
        "item": BinaryCodeEmbedding(6, 12, 4, std=1.0),
        "kind": FullEmbedding(10, 6, std=1.0),
    }
    network = NetworkConfig(kind, (8, 5), **settings)
    model = ClickModel(tables, network, {"seen": "item"}).eval()
    for table in model.wide.values():  # far from 0, so that a forgotten one shows
        table.reset_parameters(1.0)
    if kind == "dcn_v1":
        for bias in model.cross.biases:
            nn.init.normal_(bias)
    return model


def arrays(module):
    return {name: value.double().numpy() for name, value in module.state_dict().items()}


def hidden_layers(model, x):
    state = arrays(model.network)
    for number in (0, 2):
        x = np.maximum(x @ state[f"{number}.weight"].T + state[f"{number}.bias"], 0)
    return x, state["4.weight"], state["4.bias"]


def field_vectors(model):
    with torch.no_grad():
        names = ("user", "item", "kind")
        vectors = [model.embedding(name)(IDS[name]).double().numpy() for name in names]
        items = model.embedding("item")(IDS["seen"]).double().numpy()
    return vectors, items, (IDS["seen"] != 0).numpy()


def wide(model):
    with torch.no_grad():
        names = ("user", "item", "kind")
        tables = model.wide.values()
        return sum(
            table(IDS[name]).double().numpy()[:, 0]
            for name, table in zip(names, tables, strict=True)
        )


def mean_of(items, present):
    rows = [
        row[keep].mean(0) if keep.any() else 0 * row[0]
        for row, keep in zip(items, present, strict=True)
    ]
    return np.stack(rows)


def attended(pooling, query, items, present):
    """DIN's weighted sum, item by item, with the first layer over [q, k, q - k, q * k]."""
    state = arrays(pooling)
    dim = query.shape[1]
    of_item, of_product = state["of_item.weight"][:, :dim], state["of_item.weight"][:, dim:]
    free = np.full_like(of_item, 0.37)  # any split of q and k into q, k and q - k will do
    first = np.concatenate(
        [state["of_query.weight"] - free, of_item + free, free, of_product], axis=1
    )
    out = np.zeros_like(query)
    for row, place in itertools.product(range(items.shape[0]), range(items.shape[1])):
        if not present[row, place]:
            continue
        q, k = query[row], items[row, place]
        hidden = first @ np.concatenate([q, k, q - k, q * k]) + state["of_query.bias"]
        hidden = np.where(hidden > 0, hidden, state["slopes.0"] * hidden)
        number = 0
        while f"layers.{number}.weight" in state:
            hidden = state[f"layers.{number}.weight"] @ hidden + state[f"layers.{number}.bias"]
            number += 1
            hidden = np.where(hidden > 0, hidden, state[f"slopes.{number}"] * hidden)
        score = state["score.weight"][0] @ hidden + state["score.bias"][0]
        out[row] += sigmoid(score) * k
    return out


@pytest.mark.parametrize("kind", KINDS)
def test_networks_are_their_formulas(kind):
    model = make_model(kind, attention=(7, 4))
    vectors, items, present = field_vectors(model)
    if kind == "din":
        pooled = attended(model.pooling["seen"], vectors[1], items, present)
    else:
        pooled = mean_of(items, present)
    fields = [*vectors, pooled]
    x = np.concatenate(fields, axis=1)
    deep, weight, bias = hidden_layers(model, x)
    if kind == "dcn":
        crossed, state = x, arrays(model.cross)
        for number in range(3):
            linear = crossed @ state[f"layers.{number}.weight"].T + state[f"layers.{number}.bias"]
            crossed = x * linear + crossed
        deep = np.concatenate([crossed, deep], axis=1)
    if kind == "dcn_v1":
        crossed, state = x, arrays(model.cross)
        for number in range(3):
            weight_of = state[f"layers.{number}.weight"][0]
            crossed = x * (crossed @ weight_of)[:, None] + state[f"biases.{number}"] + crossed
        deep = np.concatenate([crossed, deep], axis=1)
    logits = (deep @ weight.T + bias)[:, 0]
    if kind in ("wide_deep", "deepfm"):
        logits = logits + wide(model)
    if kind == "deepfm":
        logits = logits + sum((a * b).sum(1) for a, b in itertools.combinations(fields, 2))
    got = model.forward_logits(IDS).detach().numpy()
    np.testing.assert_allclose(got, logits, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(model(IDS).detach().numpy(), sigmoid(logits), atol=1e-5)


def test_pair_interactions_are_the_sum_over_all_pairs():
    vectors = torch.from_numpy(np.random.default_rng(0).normal(size=(5, 7, 4)))
    pairs = [
        (vectors[:, i] * vectors[:, j]).sum(-1) for i, j in itertools.combinations(range(7), 2)
    ]
    torch.testing.assert_close(pair_interactions(vectors), torch.stack(pairs).sum(0))
    shuffled = vectors[:, torch.randperm(7)]
    torch.testing.assert_close(pair_interactions(shuffled), pair_interactions(vectors))


def test_low_rank_cross_layers_are_full_ones_of_that_product():
    torch.manual_seed(0)
    low, full = CrossNetwork(6, 2, rank=2), CrossNetwork(6, 2)
    for small, large in zip(low.layers, full.layers, strict=True):
        large.weight.data = small[1].weight.data @ small[0].weight.data
        large.bias.data = small[1].bias.data
    x = torch.randn(4, 6)
    torch.testing.assert_close(low(x), full(x))


def test_vector_cross_layers_by_hand():
    """x = (1, 2): 2 (1, 2) + (1, 0) + (1, 2) = (4, 6); -2 (1, 2) + (0, 3) + (4, 6) = (2, 5)."""
    cross = VectorCrossNetwork(2, 2)
    for number, (weight, bias) in enumerate([([0.0, 1.0], [1.0, 0.0]), ([1.0, -1.0], [0.0, 3.0])]):
        cross.layers[number].weight.data = torch.tensor([weight])
        cross.biases[number].data = torch.tensor(bias)
    assert cross(torch.tensor([[1.0, 2.0]])).tolist() == [[2.0, 5.0]]


def test_attention_ignores_padding_and_order():
    torch.manual_seed(0)
    pooling = AttentionPooling(4, (6, 3))
    query, items = torch.randn(3, 4), torch.randn(3, 5, 4)
    present = torch.tensor([[1, 1, 0, 1, 0], [0] * 5, [1] * 5]).float().unsqueeze(-1)
    out = pooling(query, items, present)
    noise = torch.where(present > 0, items, 100 * torch.randn(3, 5, 4))
    torch.testing.assert_close(pooling(query, noise, present), out)
    assert torch.equal(out[1], torch.zeros(4))
    order = torch.tensor([3, 0, 4, 2, 1])
    torch.testing.assert_close(pooling(query, items[:, order], present[:, order]), out)
    short = pooling(query[:1], items[:1, [0, 1, 3]], torch.ones(1, 3, 1))
    torch.testing.assert_close(short, out[:1])


def test_attention_depends_on_the_target():
    model = make_model("din")
    pooling = model.pooling["seen"]
    items, present = torch.randn(1, 3, 6), torch.ones(1, 3, 1)
    first, second = (pooling.weights(torch.randn(1, 6), items, present) for _ in range(2))
    assert (first - second).abs().max() > 1e-3
    assert (first > 0).all() and (first < 1).all()


def test_padding_mask_is_exact_for_every_id():
    ids = torch.tensor([[0, 1, 2, -1, 2**63 - 1, -(2**63), 2**32, 0]])
    mask = PaddingMask()
    assert mask(ids)[0, :, 0].tolist() == [0, 1, 1, 1, 1, 1, 1, 0]
    assert not mask.weight.requires_grad


@pytest.mark.parametrize("codec", ["q8", "q4"])
@pytest.mark.parametrize("kind", KINDS)
def test_every_network_converts_to_every_target(kind, codec, tmp_path):
    settings = {"cross_rank": 3} if codec == "q4" else {}
    report = convert(make_model(kind, **settings), (IDS,), tmp_path, tables=codec)
    assert set(report.targets) == {"odm", "onnx", "tflite"}
    assert all(item.max_difference <= 1e-5 for item in report.targets.values())


@pytest.mark.parametrize("kind", KINDS)
def test_checkpoints_carry_the_network(kind, tmp_path):
    model = make_model(kind, cross_layers=2, attention=(3,))
    fields = [Field(name, "integer", "id") for name in ("user", "item", "kind")]
    features = FeatureSpec((*fields, Field("seen", "integer", "id", length=3)))
    save_checkpoint(tmp_path / "saved", model, features)
    again = load_checkpoint(tmp_path / "saved")
    assert again.model.config == model.config
    assert again.features == features
    assert torch.equal(again.model(IDS), model(IDS))
    trained = {name for name, value in model.named_parameters() if value.requires_grad}
    assert {n for n, v in again.model.named_parameters() if v.requires_grad} == trained
    assert ModelConfig.from_json(model.config.to_json()) == model.config
    assert build(model.config).state_dict().keys() == model.state_dict().keys()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: NetworkConfig("fm"), "kind"),
        (lambda: NetworkConfig(cross_layers=0), "cross_layers"),
        (lambda: NetworkConfig(cross_rank=-1), "cross_rank"),
        (lambda: NetworkConfig(attention=()), "attention"),
        (lambda: ClickModel({"a": FullEmbedding(5, 2)}, NetworkConfig("din")), "history"),
        (
            lambda: ClickModel(
                {"a": FullEmbedding(5, 2), "b": FullEmbedding(5, 3)}, NetworkConfig("deepfm")
            ),
            "one width",
        ),
        (lambda: ClickModel({"a": FullEmbedding(5, 2)}, (4,), {"h": "b"}), "'b'"),
        (lambda: ClickModel({"a": FullEmbedding(5, 2)}, (4,), {"a": "a"}), "a name that no"),
        (
            lambda: ClickModel({"a": FullEmbedding(5, 2, padding_id=None)}, (4,), {"h": "a"}),
            "needs padding_id 0",
        ),
        (
            lambda: ClickModel(
                {"a": Embedding(replace(full_spec(5, 2, padding_id=0), pooling="sum"))},
                (4,),
                {"h": "a"},
            ),
            "pooled itself",
        ),
    ],
)
def test_contradictions_are_refused(make, message):
    with pytest.raises(SpecError, match=message):
        make()


def test_a_missing_history_is_named():
    model = make_model("dnn")
    with pytest.raises(InputError, match="'seen'"):
        model({name: IDS[name] for name in model.fields})
