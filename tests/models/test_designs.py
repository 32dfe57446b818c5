"""Tables for fields of many values, and models with every row scheme from training to files."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from support.torch import make_log, planted_log

import ondevice
from ondevice.converters import convert
from ondevice.errors import SpecError
from ondevice.models import (
    BinaryCodeEmbedding,
    ClickModel,
    FullEmbedding,
    HashEmbedding,
    MultiHashEmbedding,
    QuotientRemainderEmbedding,
    TrainConfig,
    attach_masks,
    evaluate,
    load_checkpoint,
    save_checkpoint,
    train,
)
from ondevice.models.designs import SHARINGS, Design, shared_embedding


@pytest.mark.parametrize("scheme", SHARINGS)
@pytest.mark.parametrize(("values", "ratio"), [(10_000, 4.0), (10_000, 100.0), (3, 4.0)])
def test_shared_rows_follow_the_ratio(scheme, values, ratio):
    table = shared_embedding(values, Design(8, ratio=ratio, scheme=scheme))
    target = max(2, round(values / ratio))
    assert target - 1 <= table.spec.rows <= target
    if scheme == "binary_code" and values > 3:  # enough bits to tell the values apart
        assert table.spec.code_bits >= np.log2(values) + 6
        sizes = {block.bits for block in table.spec.blocks}
        assert len(sizes) == 1
        assert max(block.offset + 2**block.bits for block in table.spec.blocks) == table.spec.rows
    assert table.spec.fuse == ("sum" if scheme == "hash" else "mul")
    ids = torch.randint(-(2**63), 2**63 - 1, (100,))
    assert table(ids).shape == (100, 8)


def test_quotient_and_remainder_tell_a_vocabulary_apart():
    table = shared_embedding(10_000, Design(8, ratio=50.0, scheme="quotient_remainder"))
    assert table.spec.rows == 200  # 2 * sqrt(10,000)
    rows = table.rows(torch.arange(10_000))
    assert len(torch.unique(rows, dim=0)) == 10_000


def test_an_unknown_scheme_is_refused():
    with pytest.raises(SpecError, match="binary_code, hash, multi_hash, quotient_remainder"):
        Design(scheme="magic")


def every_scheme():
    return {
        "full": FullEmbedding(60, 4),
        "hash": HashEmbedding(17, 4),
        "hybrid_hash": HashEmbedding(7, 4, head=30),
        "multi_hash": MultiHashEmbedding(11, 4, hashes=3),
        "hybrid_multi_hash": MultiHashEmbedding(7, 4, fuse="mean", head=20),
        "quotient": QuotientRemainderEmbedding(60, 4, remainders=8, fuse="mul"),
        "quotient_concat": QuotientRemainderEmbedding(60, 4, remainders=8, fuse="concat"),
        "binary_code": BinaryCodeEmbedding(4, 12, 4),
        "hybrid_code": BinaryCodeEmbedding(4, 12, 4, head=25),
    }


def log_for(names, rows, seed):
    """One user column for every table, and a history of users."""
    base = planted_log(rows, seed)
    ids = dict.fromkeys(names, base.ids["user"])
    log = make_log(ids, base.labels)
    fields = (*log.features.fields, replace(log.features.fields[0], name="seen", length=3))
    history = np.random.default_rng(seed).integers(0, 4, (rows, 3)) * base.ids["user"][:, None]
    features = replace(log.features, fields=fields)
    return replace(log, features=features, ids={**ids, "seen": history})


def test_every_scheme_trains_is_saved_loaded_and_converted(tmp_path):
    """Masks, checkpoints and files need no knowledge of the scheme."""
    torch.manual_seed(0)
    names = list(every_scheme())
    model = ClickModel(every_scheme(), (8,), {"seen": "hybrid_code"})
    first, second = log_for(names, 3000, 1), log_for(names, 1000, 2)
    before = {name: model.embedding(name).weight.detach().clone() for name in names}
    settings = TrainConfig(epochs=2, batch=256, learning_rate=0.02)
    train(model, first, second, settings, progress=False)
    assert all(not torch.equal(model.embedding(n).weight, before[n]) for n in names)
    assert evaluate(model, second).auc > 0.7
    attach_masks(model, first)
    train(model, first, second, replace(settings, epochs=1, width_penalty=0.5), progress=False)
    model.eval()
    save_checkpoint(tmp_path / "saved", model, first.features)
    loaded = load_checkpoint(tmp_path / "saved").model
    inputs = {name: torch.from_numpy(values[:200]) for name, values in second.ids.items()}
    with torch.inference_mode():
        expected = model(inputs)
        assert torch.equal(loaded(inputs), expected)
    report = convert(loaded, (inputs,), tmp_path / "files", tables="f32")
    assert max(item.max_difference for item in report.targets.values()) < 1e-5
    travelling = ondevice.load(tmp_path / "files" / "model.odm").info.vectors.inputs["hybrid_code"]
    assert {0, 24, 25} <= set(travelling.tolist())  # padding, and both sides of the head's border
    for target in ("odm", "onnx", "tflite"):
        scores = ondevice.load(tmp_path / "files" / f"model.{target}").predict(
            {name: values[:200] for name, values in second.ids.items()}
        )
        np.testing.assert_allclose(scores, expected, atol=1e-5)
