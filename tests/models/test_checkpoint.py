"""Checkpoints: round trip, nothing half-written, and damaged or forged files."""

import json
import os
import signal
import struct

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from support.torch import make_log

import ondevice.models.checkpoint as checkpoint
from ondevice.errors import FileFormatError, OutputError, SpecError
from ondevice.features import FeatureSpec, Field
from ondevice.models import (
    BinaryCodeEmbedding,
    ClickModel,
    FullEmbedding,
    NetworkConfig,
    attach_masks,
    load_checkpoint,
    save_checkpoint,
)
from ondevice.models.checkpoint import _digest

VOCABULARY = np.array([-(2**63), -5, 7, 2**63 - 1])
FEATURES = FeatureSpec(
    (Field("user", seed=2**64 - 1), Field("item.id", encoding="vocabulary", vocabulary=VOCABULARY))
)
IDS = {"user": torch.tensor([5, -9, 0, 3]), "item.id": torch.tensor([2, 5, 0, 1])}
EXTRA = {"auc": 0.75, "note": "naïve", "list": [1, None, True]}


def make_model(frozen=False):
    torch.manual_seed(0)
    tables = {
        "user": BinaryCodeEmbedding(4, 12, 4, std=1.0),
        "item.id": FullEmbedding(6, 4, std=1.0),
    }
    model = ClickModel(tables, NetworkConfig(hidden=(8,), batch_norm=True, dropout=0.1))
    log = make_log({"user": [5, 6, 7, 7], "item.id": [2, 2, 3, 4]}, [0, 1, 0, 1])
    attach_masks(model, log, ["user"])
    with torch.no_grad():
        for _, bias in model.embedding("user").mask.twins.layers():
            bias.normal_()
    if frozen:
        model.embedding("user").mask.freeze()
    return model.eval()


@pytest.fixture
def saved(tmp_path):
    folder = tmp_path / "model"
    save_checkpoint(folder, make_model(), FEATURES, EXTRA)
    return folder


@pytest.mark.parametrize("frozen", [False, True])
def test_round_trip(tmp_path, frozen):
    model = make_model(frozen)
    folder = tmp_path / "deep" / "model"
    save_checkpoint(folder, model, FEATURES, EXTRA)
    assert sorted(path.name for path in folder.iterdir()) == ["config.json", "model.safetensors"]
    assert [path.name for path in folder.parent.iterdir()] == ["model"]
    loaded = load_checkpoint(folder)
    assert loaded.extra == EXTRA
    assert loaded.features.to_json() == FEATURES.to_json()
    assert loaded.model.config == model.config
    assert not loaded.model.training
    assert torch.equal(loaded.model(IDS), model(IDS))
    first, second = model.state_dict(), loaded.model.state_dict()
    assert list(first) == list(second)
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert ("embeddings.user.mask.inputs" in second) is not frozen
    loaded.model.train()  # training goes on where it stopped
    loaded.model(IDS).sum().backward()
    assert all(p.grad is not None for p in loaded.model.parameters())


def test_a_model_saved_in_training_mode_has_its_present_widths(tmp_path):
    model = make_model().train()
    with torch.no_grad():
        model.embedding("user").mask.twins.layers()[-1][1][..., 1] = 1000.0
    save_checkpoint(tmp_path / "m", model, FEATURES)
    assert model.training
    widths = load_checkpoint(tmp_path / "m").model.embedding("user").mask.widths()
    assert set(widths.tolist()) == {2}


def test_replaces_a_checkpoint_but_nothing_else(saved, tmp_path):
    save_checkpoint(saved, make_model(frozen=True), FEATURES, {"second": 1})
    assert load_checkpoint(saved).extra == {"second": 1}
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "one.jpg").write_text("x")
    (tmp_path / "file").write_text("x")
    for name in ("photos", "file"):
        with pytest.raises(SpecError, match="not just a checkpoint"):
            save_checkpoint(tmp_path / name, make_model(), FEATURES)
    assert (tmp_path / "photos" / "one.jpg").read_text() == "x"


def test_a_failed_save_leaves_the_old_checkpoint(saved, tmp_path):
    before = {path.name: path.read_bytes() for path in saved.iterdir()}
    broken = make_model()
    with torch.no_grad():
        broken.embedding("user").weight[3] = float("nan")
    faults = [
        (make_model(), FEATURES, {"bad": object()}),
        (make_model(), FEATURES, {"bad": float("nan")}),
        (make_model(), FeatureSpec((Field("user"),)), {}),
        (broken, FEATURES, {}),
    ]
    for model, features, extra in faults:
        with pytest.raises(SpecError):
            save_checkpoint(saved, model, features, extra)
    assert {path.name: path.read_bytes() for path in saved.iterdir()} == before
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_an_unwritable_place_is_an_output_error(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(OutputError, match="file"):
        save_checkpoint(tmp_path / "file" / "m", make_model(), FEATURES)


def alter_config(folder, change):
    path = folder / "config.json"
    config = json.loads(path.read_text())
    change(config)
    path.write_text(json.dumps(config))


def alter_tensors(folder, change):
    """Forge the weights together with their checksum, so that later checks are reached."""
    path = folder / "model.safetensors"
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path)
    alter_config(folder, lambda config: config.update(weights_sha256=_digest(path)))


def test_not_a_checkpoint(tmp_path, saved):
    with pytest.raises(FileFormatError, match=r"no config\.json"):
        load_checkpoint(tmp_path)
    (saved / "model.safetensors").unlink()
    with pytest.raises(FileFormatError, match=r"model\.safetensors"):
        load_checkpoint(saved)


def test_every_truncation_and_random_damage_is_noticed(saved):
    for name in ("config.json", "model.safetensors"):
        path = saved / name
        whole = path.read_bytes()
        for length in range(0, len(whole), max(1, len(whole) // 60)):
            path.write_bytes(whole[:length])
            with pytest.raises(FileFormatError):
                load_checkpoint(saved)
        path.write_bytes(whole)
    path = saved / "model.safetensors"
    whole = path.read_bytes()
    draws = np.random.default_rng(0)
    for place in draws.integers(0, len(whole), 60):
        damaged = bytearray(whole)
        damaged[place] ^= 1 << int(draws.integers(0, 8))
        path.write_bytes(damaged)
        with pytest.raises(FileFormatError):
            load_checkpoint(saved)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop("network.0.bias"), "missing tensors: network.0.bias"),
        (lambda t: t.update(extra=torch.zeros(1)), "unknown tensors: extra"),
        (lambda t: t.update({"network.0.bias": torch.zeros(9)}), r"expected \[8\], got \[9\]"),
        (lambda t: t.update({"network.0.bias": torch.zeros(8).double()}), "wrong dtypes"),
        (lambda t: t["network.0.bias"].fill_(float("nan")), "not finite in: network.0.bias"),
        (lambda t: t["embeddings.user.mask.kept"].fill_(5), r"widths must be 1\.\.4"),
        (lambda t: t["embeddings.user.mask.kept"].fill_(0), r"widths must be 1\.\.4"),
        (lambda t: t["embeddings.user.mask.level_of_row"].fill_(99), "levels"),
        (lambda t: t["embeddings.user.mask.level_of_row"].fill_(-1), "levels"),
    ],
)
def test_forged_weights(saved, change, message):
    alter_tensors(saved, change)
    with pytest.raises(FileFormatError, match=message):
        load_checkpoint(saved)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c.update(format="other"), "format"),
        (lambda c: c.update(version=3), "expected version 2, got 3"),
        (lambda c: c.pop("features"), "expected the keys"),
        (lambda c: c.update(more=1), "expected the keys"),
        (lambda c: c.update(extra=[]), "extra"),
        (lambda c: c.update(weights_sha256="0" * 64), "SHA-256"),
        (lambda c: c.update(weights_sha256=None), "SHA-256"),
        (lambda c: c["features"].pop(), "not those of the model"),
        (lambda c: c["features"][0].update(seed=-1), "seed"),
        (lambda c: c["features"][1].update(vocabulary="@"), "features"),
        (lambda c: c["model"]["network"].update(hidden=[65536] * 64), "missing tensors"),
        (lambda c: c["model"]["embeddings"][1]["lookup"].update(rows=2**31 - 1), "wrong shapes"),
        (lambda c: c["model"]["embeddings"][1]["lookup"].update(rows=2**40), "rows"),
        (lambda c: c["model"]["embeddings"][0]["mask"].update(levels=30), "wrong shapes"),
        (lambda c: c["model"]["embeddings"][0]["mask"].update(levels=0), "unknown tensors"),
    ],
)
def test_forged_configurations_allocate_nothing_and_are_refused(saved, change, message):
    alter_config(saved, change)
    with pytest.raises(FileFormatError, match=message):
        load_checkpoint(saved)


@pytest.mark.parametrize("text", ["", "[]", "{", "[" * 100_000, '{"format": NaN}', "\x00", '"x"'])
def test_configurations_that_are_no_configuration(saved, text):
    (saved / "config.json").write_text(text)
    with pytest.raises(FileFormatError):
        load_checkpoint(saved)


def test_a_header_that_promises_gigabytes(saved):
    header = json.dumps(
        {"network.0.bias": {"dtype": "F32", "shape": [2**40], "data_offsets": [0, 2**42]}}
    ).encode()
    (saved / "model.safetensors").write_bytes(struct.pack("<Q", len(header)) + header)
    with pytest.raises(FileFormatError):
        load_checkpoint(saved)
    (saved / "model.safetensors").write_bytes(struct.pack("<Q", 2**63) + header)
    with pytest.raises(FileFormatError):
        load_checkpoint(saved)


def test_counts_travel_with_the_model(tmp_path):
    counts = {"user": np.arange(48), "item.id": np.array([0, 0, 5, 2**40, 1, 0])}
    save_checkpoint(tmp_path / "a", make_model(), FEATURES, EXTRA, counts=counts)
    loaded = load_checkpoint(tmp_path / "a").counts
    assert set(loaded) == set(counts)
    assert all(np.array_equal(loaded[name], counts[name]) for name in counts)
    assert load_checkpoint_without(tmp_path / "b") == {}
    for wrong in (
        {"user": np.arange(48)},
        counts | {"user": np.arange(47)},
        counts | {"user": np.arange(48.0)},
        counts | {"user": np.arange(48) - 1},
    ):
        with pytest.raises(SpecError, match="counts"):
            save_checkpoint(tmp_path / "c", make_model(), FEATURES, EXTRA, counts=wrong)
    assert not (tmp_path / "c").exists()
    path = tmp_path / "a" / "counts.safetensors"
    path.write_bytes(path.read_bytes()[:-8] + bytes(8))
    with pytest.raises(FileFormatError, match="SHA-256"):
        load_checkpoint(tmp_path / "a")
    path.unlink()
    with pytest.raises(FileFormatError, match="cannot be read"):
        load_checkpoint(tmp_path / "a")


def load_checkpoint_without(folder):
    save_checkpoint(folder, make_model(), FEATURES, EXTRA)
    return load_checkpoint(folder).counts


def test_ctrl_c_while_weights_are_read_is_not_lost(saved, monkeypatch):
    """It arrives as KeyboardInterrupt, whatever torch was doing at that moment."""
    opened = checkpoint.safe_open

    class Interrupted:
        def __init__(self, *arguments, **settings):
            self.file = opened(*arguments, **settings)

        def __enter__(self):
            self.file = self.file.__enter__()
            return self

        def __exit__(self, *error):
            return self.file.__exit__(*error)

        def __getattr__(self, name):
            if name == "get_tensor":
                os.kill(os.getpid(), signal.SIGINT)
            return getattr(self.file, name)

    monkeypatch.setattr(checkpoint, "safe_open", Interrupted)
    handler = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        load_checkpoint(saved)
    assert signal.getsignal(signal.SIGINT) is handler
