"""The click network, its configuration's round trip, and field names of any kind."""

import json

import numpy as np
import pytest
import torch

from ondevice.errors import InputError, SpecError
from ondevice.models import (
    AdaptiveMask,
    BinaryCodeEmbedding,
    ClickModel,
    EmbeddingConfig,
    FullEmbedding,
    ModelConfig,
    build,
)
from ondevice.models.network_config import NetworkConfig
from ondevice.models.networks import module_key
from ondevice.spec import full_spec

ODD_NAMES = ["user.id", "user%2Eid", "items", "%69tems", "type", "weight", "a b/c", "naïve", "训练"]


def make_model(**settings):
    torch.manual_seed(0)
    tables = {
        "user": FullEmbedding(10, 4, std=1.0),
        "item": BinaryCodeEmbedding(6, 12, 3, std=1.0, mask=AdaptiveMask(np.arange(32), 6)),
    }
    return ClickModel(tables, NetworkConfig(hidden=(8, 5), **settings))


def test_forward_is_the_network_written_out():
    model = make_model().eval()
    ids = {"item": torch.tensor([5, -7, 0]), "user": torch.tensor([3, 0, 77])}
    vectors = [model.embedding(name)(ids[name]).detach().numpy() for name in ("user", "item")]
    values = np.concatenate(vectors, axis=1).astype(np.float64)
    state = {name: value.double().numpy() for name, value in model.network.state_dict().items()}
    for number in (0, 2):
        values = values @ state[f"{number}.weight"].T + state[f"{number}.bias"]
        values = np.maximum(values, 0)
    logits = (values @ state["4.weight"].T + state["4.bias"])[:, 0]
    got = model.forward_logits(ids)
    np.testing.assert_allclose(got.detach(), logits, atol=1e-5)
    np.testing.assert_allclose(model(ids).detach(), 1 / (1 + np.exp(-logits)), atol=1e-6)
    assert model(ids).dtype == torch.float32 and model(ids).shape == (3,)


def test_names_of_parameters():
    names = list(make_model().state_dict())
    assert {"embeddings.user.weight", "embeddings.item.weight", "network.0.weight"} <= set(names)
    assert "embeddings.item.mask.kept" in names


@pytest.mark.parametrize("settings", [{}, {"dropout": 0.3, "batch_norm": True}])
def test_config_round_trip_rebuilds_the_same_model(settings):
    model = make_model(**settings)
    config = ModelConfig.from_json(model.config.to_json())
    assert config == model.config
    assert not config.embeddings["user"].masked and config.embeddings["item"].masked
    again = build(config)
    again.load_state_dict(model.state_dict())
    ids = {"user": torch.tensor([3, 0, 77]), "item": torch.tensor([5, -7, 0])}
    assert torch.equal(again.eval()(ids), model.eval()(ids))


def test_any_field_name_works_and_exports():
    keys = {module_key(name) for name in ODD_NAMES}
    assert len(keys) == len(ODD_NAMES)
    model = ClickModel({name: FullEmbedding(5, 2, std=1.0) for name in ODD_NAMES}, (4,)).eval()
    assert model.config == ModelConfig.from_json(model.config.to_json())
    again = build(model.config)
    again.load_state_dict(model.state_dict())
    ids = {name: torch.tensor([number % 5, 3]) for number, name in enumerate(ODD_NAMES)}
    assert torch.equal(again.eval()(ids), model(ids))
    batch = torch.export.Dim("batch")
    program = torch.onnx.export(
        model,
        kwargs={"ids": ids},
        dynamo=True,
        opset_version=21,
        dynamic_shapes={"ids": {name: {0: batch} for name in ids}},
        verbose=False,
    )
    graph = program.model.graph
    lookups = [node for node in graph if node.domain == "ondevice"]
    assert [node.inputs[1].name for node in lookups] == [
        f"embeddings.{module_key(name)}.weight" for name in ODD_NAMES
    ]


def test_wrong_inputs_are_refused():
    model = make_model()
    ids = {"user": torch.tensor([1]), "item": torch.tensor([1])}
    with pytest.raises(InputError, match="expected the inputs 'item', 'user'; got 'user'"):
        model({"user": ids["user"]})
    with pytest.raises(InputError, match="'zip'"):
        model({**ids, "zip": ids["user"]})
    with pytest.raises(InputError, match="no field 'zip'"):
        model.embedding("zip")


TABLE = {"user": EmbeddingConfig(full_spec(5, 2))}


@pytest.mark.parametrize(
    "make",
    [
        lambda: ModelConfig({}),
        lambda: ModelConfig({"": TABLE["user"]}),
        lambda: NetworkConfig(hidden=(0,)),
        lambda: NetworkConfig(hidden=(True,)),
        lambda: NetworkConfig(hidden=(8,) * 65),
        lambda: NetworkConfig(dropout=1.0),
        lambda: NetworkConfig(dropout=float("nan")),
        lambda: NetworkConfig(batch_norm=1),
        lambda: ClickModel({}),
        lambda: ModelConfig.from_json("{"),
        lambda: ModelConfig.from_json("[" * 100_000),
        lambda: ModelConfig.from_json("[]"),
    ],
)
def test_contradictory_configurations_are_refused(make):
    with pytest.raises(SpecError):
        make()


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("network", "hidden"), 5),
        (("network", "hidden"), ["8"]),
        (("embeddings",), {}),
        (("embeddings", 0), []),
        (("embeddings", 0, "field"), 5),
        (("embeddings", 0, "lookup", "rows"), "10"),
        (("embeddings", 0, "lookup"), None),
        (("embeddings", 1, "field"), "user"),
        (("embeddings", 1, "mask"), 3),
        (("embeddings", 1, "mask", "levels"), 33),
        (("embeddings", 1, "mask", "levels"), -1),
        (("embeddings", 1, "mask", "temperature"), 0),
        (("embeddings", 1, "mask", "temperature"), "1"),
        (("embeddings", 1, "mask", "hidden"), [2**40]),
        (("embeddings", 1, "mask", "extra"), 1),
        (("network", "dropout"), None),
        (("other",), 1),
    ],
)
def test_altered_configurations_are_refused(path, value):
    data = json.loads(make_model().config.to_json())
    part = data
    for key in path[:-1]:
        part = part[key]
    part[path[-1]] = value
    with pytest.raises(SpecError):
        ModelConfig.from_dict(data)
