"""Rounding in training equals the codec bit for bit; gradients pass straight through."""

import numpy as np
import pytest
import torch
from support.torch import planted_log

from ondevice.codecs import CODECS, quantise
from ondevice.errors import SpecError
from ondevice.models import AdaptiveMask, BinaryCodeEmbedding, ClickModel, FullEmbedding
from ondevice.models.layers.rounding import Rounding, TableRounding
from ondevice.models.training.codec_scores import codec_scores
from ondevice.models.training.phases import rounded
from ondevice.models.training.trainer import TrainConfig, evaluate, train
from ondevice.sections import Section, quantise_sections

CASES = ("normal", "outliers", "tiny", "zeros", "one dimension")


def table_of(case):
    draws = np.random.default_rng(0)
    values = draws.normal(size=(300, 1 if case == "one dimension" else 8)).astype(np.float32)
    if case == "outliers":
        values[::7] *= 50
    if case == "tiny":
        values[::3] *= 1e-9
    if case == "zeros":
        values[::2] = 0
    return values


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("cut", [False, True])
def test_rounded_rows_are_those_of_the_codec_bit_for_bit(case, codec, cut):
    values = table_of(case)
    rows, dim = values.shape
    widths = np.random.default_rng(1).integers(1, dim + 1, rows) if cut else None
    mask = AdaptiveMask.from_widths(widths, dim) if cut else None
    layer = FullEmbedding(rows, dim, padding_id=None, mask=mask)
    with torch.no_grad():
        layer.weight.copy_(torch.from_numpy(values))
    layer.rounding = TableRounding(codec)
    layer.eval()
    got = layer(torch.arange(rows)).detach().numpy()
    expected = quantise(values, codec, widths=widths).dequantise()
    zero = np.float32(0)  # gives zeros one sign
    assert (got + zero).tobytes() == (expected + zero).tobytes()


@pytest.mark.parametrize("codec", CODECS)
def test_gradients_pass_as_if_nothing_were_rounded(codec):
    torch.manual_seed(0)
    mask = AdaptiveMask.from_widths(np.arange(1, 9).repeat(5), 8)
    layer = FullEmbedding(40, 8, std=1.0, padding_id=None, mask=mask)
    ids, upstream = torch.randint(0, 40, (64,)), torch.randn(64, 8)
    layer(ids).backward(upstream)
    plain, layer.weight.grad = layer.weight.grad, None
    layer.rounding = TableRounding(codec)
    layer.refresh_rounding()
    layer(ids).backward(upstream)
    assert torch.equal(layer.weight.grad, plain)


def test_scales_follow_the_weights_while_training():
    """A narrow codec: training with it beats rounding afterwards, and validation sees the codec."""
    log, validation = planted_log(6000, 1), planted_log(3000, 2)
    torch.manual_seed(0)
    tables = {
        "user": FullEmbedding(52, 4),
        "item": BinaryCodeEmbedding(4, 6, 3, padding_id=None),
    }
    model = ClickModel(tables, (8,))
    train(model, log, validation, TrainConfig(epochs=4, batch=128, learning_rate=5e-3), False)
    with rounded(model, "q2"):
        before = evaluate(model, validation).auc
        history = train(model, log, validation, TrainConfig(epochs=3, batch=128), False)
        after = evaluate(model, validation).auc
    assert after > before + 0.01
    assert after == history.best.validation.auc
    assert all(table.rounding is None for table in model.tables())
    with torch.no_grad():  # the same through the codec itself
        for table in model.tables():
            table.weight.copy_(
                torch.from_numpy(quantise(table.weight.detach().numpy(), "q2").dequantise())
            )
    assert evaluate(model, validation).auc == pytest.approx(after, abs=1e-9)


def test_scores_of_every_codec():
    log = planted_log(3000, 1)
    torch.manual_seed(0)
    model = ClickModel({n: FullEmbedding(52, 4, std=1.0) for n in ("user", "item")}, (8,)).eval()
    scores = {score.codec: score for score in codec_scores(model, log)}
    assert list(scores) == list(CODECS)
    errors = [scores[codec].error for codec in CODECS]
    assert errors[0] == 0 and errors == sorted(errors)
    sizes = [scores[codec].table_bytes for codec in CODECS]
    assert sizes == sorted(sizes, reverse=True) and sizes[0] >= 2 * 52 * 4 * 4
    assert scores["f32"].auc == evaluate(model, log).auc
    weights = np.concatenate([t.weight.detach().numpy().ravel() for t in model.tables()])
    off = np.concatenate(
        [
            (quantise(t.weight.detach().numpy(), "q4").dequantise() - t.weight.detach().numpy())
            for t in model.tables()
        ]
    )
    assert scores["q4"].error == pytest.approx(
        np.sqrt((off**2).sum() / (weights**2).sum()), rel=1e-4
    )


@pytest.mark.parametrize(
    "settings", [{"codec": "q5"}, {"epochs": 0}, {"slower": 0.5}, {"slower": float("nan")}]
)
def test_bad_settings_are_refused(settings):
    with pytest.raises(SpecError):
        Rounding(**settings)


@pytest.mark.parametrize("cut", [False, True])
def test_sections_round_each_with_its_codec_bit_for_bit(cut):
    values = table_of("outliers")
    counts = np.arange(300, 0, -1)
    widths = np.random.default_rng(1).integers(1, 9, 300) if cut else None
    sections = (
        *(Section(30, "f32"), Section(40, "f16"), Section(50, "q8"), Section(60, "q4", 6)),
        *(Section(70, "q2", scale_axis="levels"), Section(None, "q1", 3)),
    )
    layer = FullEmbedding(
        300, 8, padding_id=None, mask=AdaptiveMask.from_widths(widths, 8) if cut else None
    )
    with torch.no_grad():
        layer.weight.copy_(torch.from_numpy(values))
    layer.rounding = TableRounding(sections, counts)
    layer.refresh_rounding()
    layer.eval()
    got = layer(torch.arange(300).flip(0).reshape(20, 15)).detach().numpy().reshape(300, 8)[::-1]
    expected = quantise_sections(values, sections, counts, widths=widths).dequantise()
    zero = np.float32(0)
    assert (got + zero).tobytes() == (expected + zero).tobytes()
    layer.weight.grad = None
    upstream = torch.randn(300, 8)
    layer(torch.arange(300)).backward(upstream)
    kept = 1.0 if widths is None else torch.arange(8) < torch.from_numpy(widths)[:, None]
    expected_gradient = upstream * kept
    assert torch.equal(layer.weight.grad, expected_gradient)


def test_sections_of_another_table_are_refused():
    layer = FullEmbedding(20, 2)
    layer.rounding = TableRounding((Section(30, "q4"),))
    with pytest.raises(SpecError, match="for 30 rows, the table has 20"):
        layer.refresh_rounding()
