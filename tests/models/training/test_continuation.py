"""Training goes on with new days: rows of new values, widths, counts, metrics, and refusals."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score

from ondevice.cells import Cells
from ondevice.errors import FileFormatError, InputError
from ondevice.features import FeatureSpec
from ondevice.hashing import hash_int64
from ondevice.models import TrainConfig, predict
from ondevice.models.checkpoint import load_checkpoint, save_checkpoint
from ondevice.models.data import HashedLog
from ondevice.models.data.hashed import FieldSettings, encoded, hashed_field
from ondevice.models.designs import Design
from ondevice.models.layers.rounding import Rounding
from ondevice.models.network_config import NetworkConfig
from ondevice.models.training.continuation import (
    check_fields,
    continue_training,
    history_of,
    rounding_of,
)
from ondevice.models.training.experiment import (
    Experiment,
    HistorySource,
    Numeric,
    checkpoint_extra,
    history_in,
    parts_of,
    train_compressed,
)
from ondevice.models.training.growth import grow
from ondevice.models.training.widths import Widths

FIELDS = (
    hashed_field("user", "integer"),
    hashed_field("item", "integer"),
    hashed_field("price", "number"),
)
USER, ITEM = (field.seed for field in FIELDS[:2])
TRAINING = TrainConfig(epochs=1, batch=256, learning_rate=5e-3)


def day(seed, items, rows=3000, name="days", fields=FIELDS):
    """A log whose even items are liked; `items` is the range of item numbers."""
    rng = np.random.default_rng(seed)
    item = rng.integers(*items, rows)
    hashes = {
        "user": hash_int64(rng.integers(0, 400, rows), USER),
        "item": hash_int64(item, ITEM),
        "price": rng.exponential(5, rows).view(np.int64),
    }
    clicks = (rng.random(rows) < np.where(item % 2 == 0, 0.8, 0.2)).astype(np.float32)
    bounds = (rows * 8 // 10, rows * 9 // 10)
    times = np.arange(rows) + rows * seed
    return HashedLog(name, FeatureSpec(fields), hashes, clicks, times=times, bounds=bounds)


def saved(folder, kind, scheme="binary_code", rounding=None):
    """A checkpoint trained on items 0..29; users share rows, items have their own."""
    log = day(0, (0, 30))
    history = HistorySource(length=5) if kind == "din" else None
    experiment = Experiment(
        Design(dim=8, small=50, scheme=scheme),
        NetworkConfig(kind, hidden=(16,), attention=(4,)),
        TRAINING,
        Widths("frequency", keep=0.5),
        rounding=rounding,
        numeric=Numeric(8),
        history=history,
    )
    trained = train_compressed(log, experiment, progress=False)
    extra = checkpoint_extra(trained, log, history=history_in(log, experiment), rounding=rounding)
    features, counts = trained.splits.train.features, trained.fitted.counts
    save_checkpoint(folder, trained.model, features, extra, counts=counts)
    return folder


@pytest.fixture(scope="module", params=["dnn", "wide_deep", "deepfm", "dcn", "din"])
def folder(request, tmp_path_factory):
    return saved(tmp_path_factory.mktemp("continued") / "checkpoint", request.param)


def with_history(checkpoint, log):
    """The new days' parts, with the history of the checkpoint's model."""
    return parts_of(log, history_of(checkpoint, None))


def test_a_grown_model_predicts_what_it_did_before(folder):
    checkpoint = load_checkpoint(folder)
    model = checkpoint.model
    train, _, test = with_history(checkpoint, day(1, (20, 60)))
    for part in (train, test):
        before = predict(model, encoded(part, checkpoint.features))
        grown = grow(model, checkpoint.features, checkpoint.counts, train)
        after = predict(grown.model, encoded(part, grown.features))
        np.testing.assert_array_equal(after, before)
    assert grown.added == {"item": 30}
    new = grown.features["item"]
    assert len(new.vocabulary) == 60
    if "history" in model.histories:  # one vocabulary, which a file stores once
        assert grown.features["history"].vocabulary is new.vocabulary
    assert grown.features["price"].boundaries is checkpoint.features["price"].boundaries


@pytest.mark.parametrize("count", [2, 15, 16])
def test_new_values_are_a_group_until_there_are_too_many(folder, count):
    checkpoint = load_checkpoint(folder)
    known = checkpoint.features["item"].vocabulary
    mixed = np.random.default_rng(0).permutation(known)
    parts = [np.sort(part) for part in np.array_split(mixed, count)]
    sizes = tuple(map(len, parts))
    fields = tuple(
        replace(field, vocabulary=np.concatenate(parts), vocabulary_groups=sizes)
        if field.name in ("item", "history")
        else field
        for field in checkpoint.features.fields
    )
    features = replace(checkpoint.features, fields=fields)
    train, _, test = with_history(checkpoint, day(1, (20, 60)))
    grown = grow(checkpoint.model, features, checkpoint.counts, train)
    assert grown.added == {"item": 30}
    last = (30,) if count < 16 else (sizes[-1] + 30,)
    assert grown.features["item"].vocabulary_groups == (*sizes[: min(count, 15)], *last)
    if count < 16:  # old values keep their IDs
        larger = grown.features["item"].vocabulary
        np.testing.assert_array_equal(larger[:30], np.concatenate(parts))
    before = predict(checkpoint.model, encoded(test, features))
    np.testing.assert_array_equal(predict(grown.model, encoded(test, grown.features)), before)


def test_rows_widths_and_counts_of_old_values_move_along(folder):
    checkpoint = load_checkpoint(folder)
    old, field = checkpoint.model.embedding("item"), checkpoint.features["item"]
    train = with_history(checkpoint, day(1, (20, 60)))[0]
    grown = grow(checkpoint.model, checkpoint.features, checkpoint.counts, train)
    table, wider = grown.model.embedding("item"), grown.features["item"]
    values = np.arange(30)
    before, after = field.encode(values), wider.encode(values)
    np.testing.assert_array_equal(after, before)
    assert torch.equal(table.weight[after], old.weight[before])
    assert torch.equal(table.mask.widths()[after], old.mask.widths()[before])
    counts = checkpoint.counts["item"]
    np.testing.assert_array_equal(grown.counts["item"][after], counts[before])
    assert grown.counts["item"].sum() == counts.sum()
    for name in ("user", "price"):
        assert torch.equal(
            grown.model.embedding(name).weight, checkpoint.model.embedding(name).weight
        )
    wide = dict(grown.model.wide.items())
    if wide:
        assert torch.equal(wide["item"].weight[after], checkpoint.model.wide["item"].weight[before])


def test_a_new_row_is_the_row_it_read_before_as_wide_as_rows_of_its_frequency(folder):
    checkpoint = load_checkpoint(folder)
    train = with_history(checkpoint, day(1, (20, 60)))[0]
    old = checkpoint.model.embedding("item")
    grown = grow(checkpoint.model, checkpoint.features, checkpoint.counts, train)
    table = grown.model.embedding("item")
    new = grown.features["item"].encode(np.arange(30, 60))
    oov, kept = old.weight[1], int(old.mask.widths()[1])
    assert torch.equal(table.weight[new, :kept], oov[:kept].expand(30, kept))
    assert not table.weight[new, kept:].any()
    reads = np.unique(train.hashes["item"], return_counts=True)
    by_hash = dict(zip(reads[0].tolist(), reads[1].tolist(), strict=True))
    counts, widths = checkpoint.counts["item"][2:], old.mask.widths()[2:].numpy()
    for value, row in zip(range(30, 60), new, strict=True):
        times = by_hash[int(hash_int64(np.array([value]), ITEM)[0])]
        above = counts[counts >= times]
        nearest = above.min() if len(above) else counts.max()
        assert int(table.mask.widths()[row]) == widths[counts == nearest].max()


def test_values_with_too_few_rows_stay_out_of_the_vocabulary(folder):
    checkpoint = load_checkpoint(folder)
    train = with_history(checkpoint, day(1, (20, 60)))[0]
    asked = replace(train, settings={"item": FieldSettings(min_count=10**6)})
    grown = grow(checkpoint.model, checkpoint.features, checkpoint.counts, asked)
    assert grown.added == {} and grown.model is checkpoint.model


def test_training_goes_on_from_the_checkpoint(folder):
    checkpoint = load_checkpoint(folder)
    log = day(1, (20, 60))
    test = encoded(with_history(checkpoint, log)[2], checkpoint.features)
    scores = predict(checkpoint.model, test)
    widths = {name: mask.widths().clone() for name, mask in checkpoint.model.masks().items()}
    continued = continue_training(
        checkpoint, log, TRAINING, history=history_of(checkpoint, None), progress=False
    )
    trained = continued.trained
    assert continued.before["label"].auc == pytest.approx(roc_auc_score(test.labels, scores))
    assert trained.test.auc > continued.before["label"].auc + 0.05  # it learned the new items
    assert torch.equal(trained.model.masks()["user"].widths(), widths["user"])
    # counts add up: every training row reads a row for its item
    rows = 2400
    assert checkpoint.counts["item"].sum() == rows
    assert trained.fitted.counts["item"].sum() == 2 * rows
    assert list(trained.fitted.phases) == ["train"]


@pytest.mark.parametrize("scheme", ["hash", "multi_hash", "quotient_remainder"])
def test_tables_of_shared_rows_need_no_growth(scheme, tmp_path):
    checkpoint = load_checkpoint(saved(tmp_path / "checkpoint", "dnn", scheme))
    log = day(1, (0, 30))
    log.hashes["user"][:] = hash_int64(np.arange(5000, 5000 + len(log)), USER)  # all are new
    rows = checkpoint.model.embedding("user").spec.rows
    continued = continue_training(checkpoint, log, TRAINING, progress=False)
    assert continued.added == {}
    assert continued.trained.model.embedding("user").spec.rows == rows


def test_a_rounded_checkpoint_goes_on_rounded(tmp_path):
    rounding = Rounding("q4")
    checkpoint = load_checkpoint(saved(tmp_path / "checkpoint", "dnn", rounding=rounding))
    assert rounding_of(checkpoint, None) == rounding
    assert rounding_of(checkpoint, Rounding("q8")) == Rounding("q8")
    continued = continue_training(
        checkpoint, day(1, (20, 60)), TRAINING, rounding=rounding, progress=False
    )
    assert list(continued.trained.fitted.phases) == ["train", "rounding"]
    assert continued.trained.codec == "q4"


def test_a_sampled_day_leaves_the_model_calibrated_to_the_whole_log(tmp_path):
    checkpoint = load_checkpoint(saved(tmp_path / "checkpoint", "dnn"))
    whole = day(1, (0, 30), rows=20_000)
    rng = np.random.default_rng(0)
    keep = np.flatnonzero((whole.labels == 1) | (rng.random(len(whole)) < 0.2))
    bounds = (len(keep) * 8 // 10, len(keep) * 9 // 10)
    sampled = replace(whole.take(keep), negative_sampling=0.2, bounds=bounds)
    settings = replace(TRAINING, epochs=3)
    model = continue_training(checkpoint, sampled, settings, progress=False).trained.model
    scores = predict(model, encoded(whole, checkpoint.features))
    # without the correction the mean would be 0.83
    assert scores.mean() == pytest.approx(whole.labels.mean(), rel=0.1)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kind": "string"}, "'item' has kind 'string', the checkpoint 'integer'"),
        (
            {"cells": Cells(missing=("NA",))},
            r"'item' has missing \['NA'\], the checkpoint \[''\]",
        ),
        ({"cells": Cells(column="film")}, "'item' has column 'film', the checkpoint None"),
        ({"length": 3}, "'item' has length 3, the checkpoint None"),
        ({"name": "film"}, "no field 'item'; the checkpoint has no field 'film'"),
    ],
)
def test_a_field_that_is_read_otherwise_is_named(change, message):
    expected = FeatureSpec(FIELDS)
    check_fields("days", FeatureSpec(FIELDS[::-1]), expected)  # the order does not matter
    other = FeatureSpec((FIELDS[0], replace(FIELDS[1], **change), FIELDS[2]))
    with pytest.raises(InputError, match=message):
        check_fields("days", other, expected)


def test_separators_count_where_there_are_sequences():
    genres = hashed_field("genres", length=3)
    other = replace(genres, cells=Cells(separator=";"))
    with pytest.raises(InputError, match=r"separator ';', the checkpoint '\|'"):
        check_fields("days", FeatureSpec((other,)), FeatureSpec((genres,)))


def test_a_history_that_a_checkpoint_does_not_explain_is_asked_for(tmp_path):
    folder = saved(tmp_path / "checkpoint", "din")
    config = json.loads((folder / "config.json").read_text())
    kept = config["extra"].pop("training")
    (folder / "config.json").write_text(json.dumps(config))
    checkpoint = load_checkpoint(folder)
    with pytest.raises(InputError, match="reads the history 'history' of 'item'"):
        history_of(checkpoint, None)
    asked = history_in(day(1, (0, 9)), Experiment(history=HistorySource(length=5)))
    assert history_of(checkpoint, asked) == asked
    config["extra"]["training"] = {**kept, "history": {"user": 3}}
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(FileFormatError, match="its setting 'history' is damaged"):
        history_of(load_checkpoint(folder), None)
