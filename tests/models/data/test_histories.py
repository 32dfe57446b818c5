"""Histories without leaks, against a plain loop; bucket boundaries; recipes."""

import numpy as np
import pytest

from ondevice.errors import InputError, SpecError
from ondevice.models.data import History, add_history, boundaries, encode, split, synthetic_log
from ondevice.models.recipe import parse_recipe, shipped_recipes
from ondevice.models.training.experiment import HistorySource, train_compressed, train_full


def small_log(rows=600):
    log = synthetic_log(rows, {"user": 12, "item": 30})
    times = np.random.default_rng(1).integers(0, 80, rows)  # many rows at one moment
    return type(log)(log.name, log.features, log.hashes, log.labels, None, times)


def test_histories_hold_only_earlier_training_clicks():
    parts = split(small_log())
    extended = add_history(parts, History("user", "item", 4))
    train = parts[0]
    for part, result in zip(parts, extended, strict=True):
        got = result.hashes["history"]
        assert got.shape == (len(part), 4)
        for row in range(len(part)):
            same = train.hashes["user"] == part.hashes["user"][row]
            earlier = train.times < part.times[row]
            rows = np.flatnonzero(same & earlier & (train.labels == 1))
            rows = rows[np.argsort(train.times[rows], kind="stable")][-4:]
            expected = np.zeros(4, dtype=np.int64)
            expected[: len(rows)] = train.hashes["item"][rows]
            np.testing.assert_array_equal(got[row], expected)


def test_labels_of_other_parts_change_no_history():
    train, validation, test = split(small_log())
    flipped = type(test)(test.name, test.features, test.hashes, 1 - test.labels, None, test.times)
    history = History("user", "item", 4)
    original = add_history((train, validation, test), history)
    relabelled = add_history((train, validation, flipped), history)
    for left, right in zip(original, relabelled, strict=True):
        np.testing.assert_array_equal(left.hashes["history"], right.hashes["history"])


def test_histories_share_the_vocabulary_of_their_item():
    parts = add_history(split(small_log()), History("user", "item", 4))
    splits = encode(*parts, vocabulary_fields=["item"])
    features = splits.train.features
    assert features["history"].vocabulary is features["item"].vocabulary
    hashes, ids = parts[0].hashes, splits.train.ids
    known = dict(zip(hashes["item"].tolist(), ids["item"].tolist(), strict=True)) | {0: 0}
    assert ids["history"].tolist() == [
        [known[h] for h in row] for row in hashes["history"].tolist()
    ]


def test_logs_without_times_or_fields_are_refused():
    log = small_log()
    bare = type(log)(log.name, log.features, log.hashes, log.labels)
    with pytest.raises(InputError, match="time"):
        add_history(split(bare), History("user", "item"))
    with pytest.raises(InputError, match="'film'"):
        HistorySource(item=("film",)).resolve(log)


def test_boundaries():
    values = np.array([3.0, 1.0, 2.0, 4.0, np.nan, np.inf])
    assert boundaries(values, 4).tolist() == [2.0, 3.0, 4.0]
    assert boundaries(np.zeros(9), 8, "log").tolist() == []
    assert boundaries(np.full(3, np.nan)).tolist() == []
    skewed = np.array([0.0, np.e**4 - 1])
    np.testing.assert_allclose(boundaries(skewed, 4, "log"), np.e ** np.arange(1, 4) - 1)
    numbers = np.random.default_rng(0).normal(size=10_000)
    counts = np.bincount(np.searchsorted(boundaries(numbers, 20), numbers, side="right"))
    assert len(counts) == 20 and counts.min() > 490 and counts.max() < 510
    with pytest.raises(InputError):
        boundaries(values, 0)


@pytest.mark.parametrize("name", ["dnn", "wide_deep", "deepfm", "dcn", "din"])
def test_shipped_recipes_train(name):
    recipe = shipped_recipes()[name]
    text = "[training]\nepochs = 1\nbatch = 256\n[widths]\nepochs = 1"
    steps = parse_recipe(text, "steps.toml", recipe_folder()).experiment
    experiment = type(steps)(
        network=recipe.experiment.network,
        history=recipe.experiment.history,
        training=steps.training,
        widths=steps.widths,
    )
    assert recipe.about and experiment.network.kind == name
    log = synthetic_log(3000, {"user": 1500, "item": 50})
    for train in (train_compressed, train_full):
        trained = train(log, experiment, progress=False)
        assert 0 < trained.test.auc < 1 and np.isfinite(trained.test.logloss)


def recipe_folder():
    from pathlib import Path

    return Path()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[network]\nkin = 'dnn'", r"'kin' in \[network\]; allowed: kind, hidden"),
        ("nets = 1", "'nets'; allowed: about, network"),
        ("[network]\nkind = 'fm'", "dnn, wide_deep"),
        ("[network]\nhidden = ['a']", "network.hidden must be an integer"),
        ("[network]\nbatch_norm = 1", "network.batch_norm must be true or false"),
        ("[training]\nepochs = true", "training.epochs must be an integer"),
        ("[training]\nlearning_rate = 'fast'", "learning_rate must be a number"),
        ("[tables]\ndim = 0", "dim"),
        ("[numeric]\nscale = 'sqrt'", "quantile or log"),
        ("[history]\nlength = 0", "length"),
        ("[data]\nname = 'ml2m'", "ml2m"),
        ("network = 3", r"\[network\] must be a section"),
        ("[", "not valid TOML"),
    ],
)
def test_wrong_recipes_say_what_is_wrong(text, message):
    with pytest.raises(SpecError, match=message):
        parse_recipe(text, "my.toml", recipe_folder())
