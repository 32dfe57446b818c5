"""Training: a planted pattern is learned, results repeat, the best epoch is kept."""

import json
import math
import os
import subprocess
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import torch
from support.torch import make_log, planted_log

from ondevice.cli import main
from ondevice.codecs import CODECS
from ondevice.errors import DataError, FileFormatError, InputError, SpecError
from ondevice.models import (
    BinaryCodeEmbedding,
    ClickModel,
    FullEmbedding,
    History,
    Metrics,
    NetworkConfig,
    TrainConfig,
    TrainingError,
    attach_masks,
    evaluate,
    load_checkpoint,
    predict,
    row_counts,
    train,
)
from ondevice.models.training.history import Epoch
from ondevice.models.training.training_state import TrainingState

TRAIN, VALIDATION, TEST = (
    planted_log(count, seed) for count, seed in ((6000, 1), (2000, 2), (2000, 3))
)
QUICK = TrainConfig(epochs=3, batch=128, learning_rate=5e-3)


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def make_model(rows="full", seed=0, **settings):
    torch.manual_seed(seed)
    if rows == "full":
        tables = {"user": FullEmbedding(52, 4), "item": FullEmbedding(42, 4)}
    else:
        tables = {
            "user": BinaryCodeEmbedding(4, 6, 3, padding_id=None),
            "item": BinaryCodeEmbedding(4, 6, 5, padding_id=None),
        }
    return ClickModel(tables, NetworkConfig(hidden=(16,), **settings))


def snapshot(model):
    return {name: value.clone() for name, value in model.state_dict().items()}


def same(first, second):
    return all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("optimizer", ["adam", "sparse_adam"])
def test_learns_a_planted_pattern(optimizer):
    model = make_model()
    before = evaluate(model, TEST)
    settings = TrainConfig(epochs=4, batch=128, learning_rate=5e-3, table_optimizer=optimizer)
    history = train(model, TRAIN, VALIDATION, settings, progress=False)
    after = evaluate(model, TEST)
    assert before.auc < 0.65
    assert after.auc > 0.85
    assert after.logloss < before.logloss - 0.1
    assert history.epochs[0].train_loss > history.epochs[-1].train_loss
    assert not model.training and not history.interrupted
    assert not model.embedding("user").sparse or optimizer == "sparse_adam"


def test_binary_codes_with_masks_learn_too_and_the_penalty_narrows_them():
    widths = {}
    for penalty in (0.0, 0.3):
        model = make_model("binary")
        attach_masks(model, TRAIN)
        settings = TrainConfig(epochs=4, batch=64, learning_rate=5e-3, width_penalty=penalty)
        history = train(model, TRAIN, VALIDATION, settings, progress=False)
        widths[penalty] = history.best.mean_width
        total = sum(int(mask.widths().sum()) for mask in model.masks().values())
        assert history.best.mean_width == total / sum(m.rows for m in model.masks().values())
        assert evaluate(model, TEST).auc > 0.75
    assert widths[0.3] < widths[0.0] - 0.5


@pytest.mark.parametrize("kind", ["full", "binary"])
def test_the_same_seed_repeats_exactly_and_another_does_not(kind):
    states = []
    for seed in (5, 5, 6):
        model = make_model(kind, dropout=0.2)
        attach_masks(model, TRAIN)
        torch.rand(seed)  # the caller's generator must not matter
        settings = TrainConfig(epochs=1, batch=256, seed=seed)
        train(model, TRAIN, VALIDATION, settings, progress=False)
        states.append(snapshot(model))
    assert same(states[0], states[1])
    assert not same(states[0], states[2])


def test_several_threads_repeat_exactly():
    torch.set_num_threads(2)
    states = []
    for _ in range(3):
        model = make_model()
        train(model, TRAIN, VALIDATION, TrainConfig(epochs=1, batch=2000), progress=False)
        states.append(snapshot(model))
    assert same(states[0], states[1]) and same(states[0], states[2])


def test_the_callers_random_state_is_left_alone():
    torch.manual_seed(3)
    expected = torch.rand(2)[1]
    torch.manual_seed(3)
    torch.rand(1)
    model_state = torch.get_rng_state()
    model = make_model()
    torch.set_rng_state(model_state)
    train(model, TRAIN, VALIDATION, TrainConfig(epochs=1), progress=False)
    assert torch.rand(1) == expected


def test_early_stopping_restores_the_best_weights():
    """Random labels: the training split is memorised, validation gets worse, patience ends it."""
    draws = np.random.default_rng(0)
    columns = {name: draws.integers(2, 40, 3000) for name in ("user", "item")}
    noisy = make_log(columns, draws.random(3000) < 0.5)
    model = make_model()
    settings = TrainConfig(epochs=30, batch=64, learning_rate=2e-2, patience=2)
    history = train(model, noisy, VALIDATION, settings, progress=False)
    scores = [epoch.validation.auc for epoch in history.epochs]
    best = int(np.argmax(scores))
    assert len(scores) == best + 1 + 2 < 30
    assert history.best.number == best + 1
    assert evaluate(model, VALIDATION) == history.epochs[best].validation
    assert scores[best] > scores[-1]


def noisy_log():
    """Random labels: validation gets worse in some epochs and better in others."""
    draws = np.random.default_rng(0)
    columns = {name: draws.integers(2, 40, 500) for name in ("user", "item")}
    return make_log(columns, draws.random(500) < 0.5)


def torch_weights(model, log, settings, decay, epochs):
    """The weights after each epoch of a plain torch loop: L2 in the loss, a scheduler of torch.

    Batches hold the whole log, so that their order is the same.
    """
    ids = {name: torch.from_numpy(values) for name, values in log.ids.items()}
    labels = torch.from_numpy(log.labels)
    tables = [table.weight for table in model.tables()]
    rest = [item for item in model.parameters() if not any(item is table for table in tables)]
    optimizer = torch.optim.Adam([*tables, *rest], lr=settings.learning_rate)
    scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(
        optimizer, "max", settings.plateau_factor, patience=0, threshold=0.0
    )
    snapshots, rates = [], []
    for _ in range(epochs):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.zero_grad()
        penalty = sum(table.square().sum() for table in tables) * decay[0] / 2
        penalty += sum(item.square().sum() for item in rest) * decay[1] / 2
        probability = torch.sigmoid(model.forward_logits(ids))
        (torch.nn.functional.binary_cross_entropy(probability, labels) + penalty).backward()
        optimizer.step()
        snapshots.append(snapshot(model))
        scheduler.step(evaluate(model, VALIDATION).auc)
    return snapshots, rates


@pytest.mark.parametrize("kind", ["dnn", "wide_deep"])
def test_weight_decay_and_plateaus_are_those_of_torch(kind):
    log, epochs, decay = noisy_log(), 8, (0.05, 0.01)
    settings = TrainConfig(
        epochs=epochs,
        batch=len(log),
        learning_rate=0.1,
        weight_decay=decay[1],
        table_weight_decay=decay[0],
        patience=epochs,
        plateau_factor=0.3,
    )
    expected, rates = torch_weights(make_model(kind=kind), log, settings, decay, epochs)
    model, taken = make_model(kind=kind), []
    train(
        *(model, log, VALIDATION, settings),
        progress=False,
        on_epoch=lambda epoch: taken.append(snapshot(model)),
    )
    assert len(set(rates)) > 2  # validation got worse more than once
    for ours, theirs in zip(taken, expected, strict=True):
        for name in theirs:
            torch.testing.assert_close(ours[name], theirs[name], atol=2e-5, rtol=2e-4)


def test_a_resumed_training_has_the_rates_of_the_plateaus_before(tmp_path):
    log = noisy_log()
    settings = TrainConfig(
        epochs=8, batch=64, learning_rate=2e-2, patience=8, plateau_factor=0.3, seed=4
    )
    whole = make_model()
    history = train(whole, log, VALIDATION, settings, progress=False)

    def stop(epoch):
        if epoch.number == 5:
            raise OSError("the machine went away")

    before = make_model()
    with pytest.raises(OSError, match="went away"):
        state = TrainingState(tmp_path, {}).phase("train")
        train(before, log, VALIDATION, settings, False, stop, state)
    resumed = make_model()
    state = TrainingState(tmp_path, {}).phase("train")
    again = train(resumed, log, VALIDATION, settings, False, None, state)
    assert History(epochs=history.epochs[:4]).plateaus > 0
    assert [item.validation for item in again.epochs] == [x.validation for x in history.epochs]
    assert same(snapshot(resumed), snapshot(whole))


def test_a_state_of_an_earlier_format_is_refused(tmp_path):
    """Its Adam of the masks has tensors of other shapes, which would fail in the first step."""
    settings = TrainConfig(epochs=1, batch=256)
    state = TrainingState(tmp_path, {}).phase("train")
    train(make_model(), TRAIN, VALIDATION, settings, False, None, state)
    content = state.path.read_bytes()
    assert content.count(b"ondevice-training-state 2") == 1
    state.path.write_bytes(content.replace(b"training-state 2", b"training-state 1"))
    with pytest.raises(FileFormatError, match="expected the format 'ondevice-training-state 2'"):
        train(make_model(), TRAIN, VALIDATION, settings, False, None, state)


def test_masks_learn_to_the_bit_the_same_when_training_goes_on(tmp_path):
    settings = TrainConfig(epochs=3, batch=256, width_penalty=0.01, mask_speed=5.0)
    whole, killed, resumed = (masked_model() for _ in range(3))
    train(whole, TRAIN, VALIDATION, settings, progress=False)

    def stop(epoch):
        if epoch.number == 3:
            raise OSError("the machine went away")

    state = TrainingState(tmp_path, {}).phase("train")
    with pytest.raises(OSError, match="went away"):
        train(killed, TRAIN, VALIDATION, settings, False, stop, state)
    train(resumed, TRAIN, VALIDATION, settings, False, None, state)
    assert same(snapshot(resumed), snapshot(whole))


def masked_model():
    model = make_model()
    attach_masks(model, TRAIN)
    return model


@pytest.mark.parametrize("speed", [1.0, 7.0])
def test_the_first_update_of_the_twins_is_one_step_of_adam_at_their_rate(speed):
    model = make_model()
    attach_masks(model, TRAIN)
    flats = {name: mask.twins.flat.detach().clone() for name, mask in model.masks().items()}
    log = make_log({name: ids[:400] for name, ids in TRAIN.ids.items()}, TRAIN.labels[:400])
    settings = TrainConfig(
        epochs=1, batch=100, learning_rate=1e-3, width_penalty=1.0, mask_speed=speed
    )
    train(model, log, VALIDATION, settings, progress=False)
    for name, mask in model.masks().items():
        moved = (mask.twins.flat.detach() - flats[name]).abs().max()
        # gradients of four steps make an update, whose size is four times the rate
        assert moved.item() == pytest.approx(4 * 1e-3 * speed, rel=1e-3)


def test_table_weight_decay_needs_dense_adam():
    settings = TrainConfig(table_optimizer="sparse_adam", table_weight_decay=0.1)
    with pytest.raises(SpecError, match=r"table_weight_decay.*sparse_adam"):
        train(make_model(), TRAIN, VALIDATION, settings, progress=False)


def test_the_narrowest_epoch_within_the_tolerance_is_kept():
    points = [(0.80, 16.0), (0.795, 9.0), (0.792, 5.0), (0.799, 7.0), (0.81, 8.0), (0.803, 4.0)]
    for tolerance, expected in ((0.0, [1, 5]), (0.006, [1, 2, 4, 5]), (0.01, [1, 2, 3, 5, 6])):
        history, improved = History(), []
        for number, (auc, width) in enumerate(points, 1):
            if history.add(Epoch(number, 0.5, Metrics(auc, 0.5), width, 1.0, 1.0), tolerance):
                improved.append(number)
        assert improved == expected and history.best.number == improved[-1]


def test_metrics_by_hand():
    """AUC: clicks outrank 3 of 4 pairs; log loss: mean of -ln(p of what happened)."""
    model = ClickModel({"a": FullEmbedding(6, 1)}, ())
    with torch.no_grad():
        model.embedding("a").weight.copy_(torch.tensor([[0], [0], [-1.0], [0.5], [1.0], [2.0]]))
        model.network[0].weight.fill_(1.0)
        model.network[0].bias.zero_()
    log = make_log({"a": [2, 3, 4, 5]}, [0, 1, 0, 1])
    metrics = evaluate(model, log, batch=3)
    assert metrics.auc == 0.75
    chances = [1 / (1 + math.exp(-z)) for z in (-1, 0.5, 1, 2)]
    np.testing.assert_allclose(predict(model, log), chances, rtol=1e-6)
    chosen = [1 - chances[0], chances[1], 1 - chances[2], chances[3]]
    assert metrics.logloss == pytest.approx(-sum(map(math.log, chosen)) / 4, rel=1e-6)
    assert model.training  # the caller's mode is put back
    assert predict(model, log.take(np.array([], dtype=np.int64))).shape == (0,)


def test_a_loss_that_is_not_finite_is_an_error():
    model = make_model()
    with torch.no_grad():
        model.network[0].weight.fill_(float("inf"))
    with pytest.raises(TrainingError, match="epoch 1, after 0 impressions"):
        train(model, TRAIN, VALIDATION, QUICK, progress=False)
    with pytest.raises(TrainingError, match="not finite"):
        evaluate(model, TEST)


class Interrupting(ClickModel):
    """Presses Ctrl-C at a given forward pass."""

    presses = 10**9

    def forward_logits(self, ids, levels=None):
        self.presses -= 1
        if self.presses < 0:
            raise KeyboardInterrupt
        return super().forward_logits(ids, levels)


def test_ctrl_c_keeps_the_best_weights_so_far():
    reference = make_model()
    single = TrainConfig(epochs=1, batch=128)
    train(reference, TRAIN, VALIDATION, single, progress=False)
    torch.manual_seed(0)
    model = Interrupting({"user": FullEmbedding(52, 4), "item": FullEmbedding(42, 4)}, (16,))
    steps = math.ceil(6000 / 128) + 1  # and one pass over the validation split
    model.presses = steps + 10
    settings = TrainConfig(epochs=5, batch=128)
    history = train(model, TRAIN, VALIDATION, settings, progress=False)
    assert history.interrupted and len(history.epochs) == 1
    assert same(snapshot(reference), snapshot(model))
    model.presses = 10
    with pytest.raises(KeyboardInterrupt):
        train(model, TRAIN, VALIDATION, settings, progress=False)


def test_ctrl_c_in_the_command_saves_the_best_weights_and_says_so(tmp_path, monkeypatch, capsys):
    steps = [0]
    forward = ClickModel.forward_logits

    def pressed(self, ids, levels=None):
        steps[0] += self.training
        if self.training and steps[0] == 15:  # in the second epoch
            raise KeyboardInterrupt
        return forward(self, ids, levels)

    monkeypatch.setattr(ClickModel, "forward_logits", pressed)
    out = tmp_path / "checkpoint"
    options = ["--max-rows", "2500", "--batch", "200", "--epochs", "9", "--round", "q4"]
    assert main(["train", "dnn", *options, "--out", str(out)]) == 0
    said = capsys.readouterr()
    assert "interrupted: these are the best weights so far" in said.err
    assert "saved in" in said.out and "after 1 epochs" in said.out
    saved = load_checkpoint(out)
    assert {item["codec"] for item in saved.extra["codecs"]} == set(CODECS)
    assert set(saved.counts) == set(saved.model.fields)


def test_no_bar_without_a_terminal(capsys):
    train(make_model(), TRAIN, VALIDATION, TrainConfig(epochs=1), progress=True)
    captured = capsys.readouterr()
    assert captured.out == captured.err == ""


def test_ten_million_rows_train_without_a_dense_gradient():
    """With AMTL and rounding too; memory grows by a few times the table, not by its optimiser's
    dense steps. A process of its own, since a peak never falls."""
    folder = Path(__file__).parent
    process = subprocess.run(
        [sys.executable, folder / "large_table.py"],
        env={**os.environ, "PYTHONPATH": str(folder.parents[1])},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert process.returncode == 0, process.stderr
    facts = json.loads(process.stdout)
    assert facts["sparse"] == [True] and facts["rows"] == 10_000_000
    assert facts["phases"] == ["train", "widths", "rounding"]
    # times the table, 11.6 here: weights twice, two moments, scales, counts, and steps of AMTL
    assert facts["grown"] < 16


def test_counts_come_from_chunks_and_never_hold_the_log(tmp_path):
    """Training rows that lie in a mapped file, and a generator: the same counts, little memory."""
    path = tmp_path / "ids.npy"
    count = 4_000_000
    ids = np.lib.format.open_memmap(path, "w+", np.int64, (count,))
    ids[:] = np.arange(count) % 991 + 2
    ids.flush()
    del ids
    spec = FullEmbedding(1000, 2).spec
    mapped = np.load(path, mmap_mode="r")
    tracemalloc.start()
    counts = row_counts(spec, mapped)
    peak = tracemalloc.get_traced_memory()[1]
    chunks = (mapped[start : start + 10_000] for start in range(0, count, 10_000))
    assert np.array_equal(row_counts(spec, chunks), counts)
    tracemalloc.stop()
    assert peak < count * 8 / 4
    expected = np.bincount(np.arange(count) % 991 + 2, minlength=1000)
    assert np.array_equal(counts, expected)


def test_unusable_logs_are_refused():
    clicks = VALIDATION.take(np.flatnonzero(VALIDATION.labels == 1))
    with pytest.raises(DataError, match="both labels"):
        train(make_model(), TRAIN, clicks, QUICK, progress=False)
    with pytest.raises(DataError, match="both labels"):
        evaluate(make_model(), clicks)
    nothing = TRAIN.take(np.array([], dtype=np.int64))
    with pytest.raises(DataError, match="empty"):
        train(make_model(), nothing, VALIDATION, QUICK, progress=False)
    other = make_log({"user": [2, 3]}, [0, 1])
    with pytest.raises(InputError, match="'item', 'user'"):
        train(make_model(), other, VALIDATION, QUICK, progress=False)


@pytest.mark.parametrize(
    "settings",
    [
        {"epochs": 0},
        {"batch": 0},
        {"learning_rate": 0.0},
        {"learning_rate": float("nan")},
        {"patience": 0},
        {"width_penalty": -1.0},
        {"width_tolerance": -1.0},
        {"weight_decay": -1.0},
        {"table_weight_decay": -1.0},
        {"mask_speed": 0.0},
        {"plateau_factor": 0.0},
        {"plateau_factor": 1.1},
        {"plateau_factor": float("nan")},
        {"table_optimizer": "sgd"},
    ],
)
def test_bad_settings_are_refused(settings):
    with pytest.raises(SpecError):
        TrainConfig(**settings)


def test_click_log_is_checked():
    with pytest.raises(InputError, match="labels must be 0 or 1, got 2"):
        make_log({"a": [1, 2]}, [0, 2])
    with pytest.raises(InputError, match=r"IDs of 'a' must be int64 \[1\]"):
        make_log({"a": [1, 2]}, [0])
    log = make_log({"a": [5, 6, 7]}, [0, 1, 0])
    part = log.take(np.array([2, 0]))
    assert len(part) == 2 and part.ids["a"].tolist() == [7, 5]


def test_tensors_are_made_on_another_device_by_default():
    """As after `torch.set_default_device("cuda")`; tensors of "meta" have no values."""
    model, codes = make_model(), make_model("codes")
    torch.set_default_device("meta")
    try:
        for trained in (model, codes):
            train(trained, TRAIN, VALIDATION, QUICK, progress=False)
        found = [evaluate(trained, TEST).auc for trained in (model, codes)]
        attach_masks(model, TRAIN)
        assert torch.zeros(1).is_meta
    finally:
        torch.set_default_device(None)
    for trained, kind, auc in zip((make_model(), make_model("codes")), "fc", found, strict=True):
        train(trained, TRAIN, VALIDATION, QUICK, progress=False)
        assert evaluate(trained, TEST).auc == auc, kind
    train(model, TRAIN, VALIDATION, QUICK, progress=False)
