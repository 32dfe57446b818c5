"""Distillation: soft targets by hand, teachers that never saw what they score, stored once."""

import json
import signal
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from support.torch import make_log, planted_log
from torch.nn import functional

from ondevice.errors import DataError, FileFormatError, InputError, SpecError
from ondevice.models import ClickModel, FullEmbedding, Splits
from ondevice.models.recipe import parse_recipe
from ondevice.models.training.distillation import (
    Distillation,
    TeacherSet,
    fold_numbers,
    teacher_folder,
)
from ondevice.models.training.phases import FitConfig, fit
from ondevice.models.training.refit import Refit
from ondevice.models.training.trainer import TrainConfig, evaluate, predict, train
from ondevice.models.training.widths import Widths

SPLITS = Splits(planted_log(3000, 1), planted_log(1000, 2), planted_log(1000, 3))
CONFIG = FitConfig(
    TrainConfig(epochs=2, batch=128, learning_rate=5e-3), Widths("whole"), refit=Refit((3.0,))
)
SETTINGS = Distillation(folds=3, seeds=2, weight=0.6, dim=4)


def make_model(dim=4, labels=("label",)):
    tables = {"user": FullEmbedding(52, dim), "item": FullEmbedding(52, dim)}
    return ClickModel(tables, (16,), labels=labels)


def teachers(folder=None, splits=SPLITS, settings=SETTINGS, build=make_model):
    return TeacherSet(settings, build, splits, CONFIG, folder)


def with_labels(log, labels):
    return replace(log, labels=labels.astype(np.float32))


def test_the_loss_is_torchs_cross_entropy_with_soft_targets():
    log = SPLITS.train
    targets = np.random.default_rng(0).random(len(log), dtype=np.float32)
    weighted = replace(log, weights=np.linspace(0.5, 2, len(log), dtype=np.float32))
    config = TrainConfig(epochs=1, batch=len(log), learning_rate=1e-3)
    for part in (log, weighted):
        torch.manual_seed(0)
        model = make_model()
        ids = {name: torch.from_numpy(values) for name, values in part.ids.items()}
        with torch.no_grad():
            logits = model.forward_logits(ids)
        factors = None
        if part.weights is not None:
            factors = torch.from_numpy(part.weights / part.weights.mean())
        expected = functional.binary_cross_entropy_with_logits(
            logits, torch.from_numpy(targets), factors
        )
        history = train(model, part, SPLITS.validation, config, progress=False, targets=targets)
        assert history.epochs[0].train_loss == pytest.approx(float(expected), rel=1e-5)


@pytest.mark.parametrize(
    "targets",
    [
        np.full(10, 0.5, np.float32),
        np.full(3000, 0.5),
        np.full(3000, 1.5, np.float32),
        np.full(3000, np.nan, np.float32),
    ],
)
def test_targets_that_are_no_probabilities_of_the_rows_are_refused(targets):
    with pytest.raises(InputError, match="targets must be"):
        train(make_model(), SPLITS.train, SPLITS.validation, targets=targets, progress=False)


@pytest.mark.parametrize("rows", [3, 10, 3001])
def test_folds_are_a_partition_of_nearly_equal_parts(rows):
    first, second = (fold_numbers(rows, 3, repeat) for repeat in (0, 1))
    assert np.ptp(np.bincount(first, minlength=3)) <= 1
    assert rows < 10 or not np.array_equal(first, second)


def test_a_target_mixes_a_rows_label_with_teachers_that_never_saw_it():
    """The labels of one fold may be anything: its teachers say the same of it."""
    targets = teachers().targets(progress=False)
    labels = SPLITS.train.labels
    said = (targets - 0.4 * labels) / 0.6
    assert targets.dtype == np.float32 and (said > -1e-6).all() and (said < 1 + 1e-6).all()
    assert np.ptp(said) > 0.2  # they know something
    fold = fold_numbers(len(labels), 3, 0) == 1
    once = replace(SETTINGS, seeds=1)
    flipped = labels.copy()
    flipped[fold] = 1 - flipped[fold]
    splits = replace(SPLITS, train=with_labels(SPLITS.train, flipped))
    before = teachers(settings=once).targets(progress=False) - 0.4 * labels
    after = teachers(settings=once, splits=splits).targets(progress=False) - 0.4 * flipped
    assert np.allclose(before[fold], after[fold], atol=1e-6)
    assert not np.allclose(before[~fold], after[~fold], atol=1e-3)


def test_a_fold_is_scored_by_a_model_of_the_other_folds():
    targets = teachers(settings=replace(SETTINGS, seeds=1, weight=1.0)).targets(progress=False)
    fold_of = fold_numbers(len(SPLITS.train), 3, 0)
    with torch.random.fork_rng():
        torch.manual_seed(2)
        model = make_model()
        others = SPLITS.train.take(np.flatnonzero(fold_of != 2))
        config = replace(CONFIG, training=replace(CONFIG.training, seed=2))
        fit(model, replace(SPLITS, train=others), config, progress=False)
    expected = predict(model, SPLITS.train.take(np.flatnonzero(fold_of == 2)))
    np.testing.assert_array_equal(targets[fold_of == 2], expected)


def test_teachers_are_trained_once_and_leave_the_callers_random_numbers(tmp_path):
    notes = []
    torch.manual_seed(5)
    first = teachers(tmp_path / "a").targets(progress=False, note=notes.append)
    drawn = torch.rand(3)
    assert notes == [f"teacher {number} of 6" for number in range(1, 7)]
    torch.manual_seed(5)
    again = teachers(tmp_path / "a").targets(progress=False, note=notes.append)
    assert len(notes) == 6 and torch.equal(drawn, torch.rand(3))
    np.testing.assert_array_equal(first, again)
    (tmp_path / "a" / "1-2.npy").unlink()
    third = teachers(tmp_path / "a").targets(progress=False, note=notes.append)
    assert notes[6:] == ["teacher 6 of 6"]
    np.testing.assert_array_equal(first, third)


@pytest.mark.parametrize("content", [b"", b"\x93NUMPY", None, "pickle", "range"])
def test_a_damaged_prediction_is_named(tmp_path, content):
    path = tmp_path / "0-0.npy"
    if content == "pickle":
        np.save(path, np.array([{}], dtype=object), allow_pickle=True)
    elif content == "range":
        np.save(path, np.full(1000, 2, np.float32))
    elif content is None:
        np.save(path, np.zeros(5, np.float32))
    else:
        path.write_bytes(content)
    with pytest.raises(FileFormatError, match=r"0-0\.npy: not the predictions"):
        teachers(tmp_path).targets(progress=False)


def test_folders_differ_by_all_that_a_prediction_depends_on(tmp_path):
    def folder(digest="a", settings=SETTINGS, config=CONFIG, others=None):
        return teacher_folder(tmp_path, digest, settings, config, others)

    slower = replace(CONFIG, training=replace(CONFIG.training, learning_rate=1e-3))
    other_seed = replace(CONFIG, training=replace(CONFIG.training, seed=9))
    assert folder() == folder(config=other_seed)
    assert folder() == folder(settings=replace(SETTINGS, weight=0.1, seeds=9))
    different = {
        folder(),
        folder("b"),
        folder(settings=replace(SETTINGS, folds=4)),
        folder(settings=replace(SETTINGS, dim=8)),
        folder(config=slower),
        folder(config=replace(CONFIG, refit=None)),
        folder(others=[1]),
    }
    assert len(different) == 7


def test_several_labels_have_targets_of_their_own():
    logs = [
        replace(
            part,
            labels=np.stack([part.labels, 1 - part.labels], axis=1),
            label_names=("click", "skip"),
        )
        for part in (SPLITS.train, SPLITS.validation, SPLITS.test)
    ]
    splits = Splits(*logs)
    targets = teachers(splits=splits, build=lambda: make_model(labels=("click", "skip"))).targets(
        progress=False
    )
    assert targets.shape == (3000, 2)
    said = (targets - 0.4 * splits.train.labels) / 0.6
    assert np.corrcoef(said.T)[0, 1] < -0.9


def test_of_a_sampled_log_teachers_say_the_probabilities_of_the_sample():
    """As training does; `undo_sampling` comes after it."""
    sampled = Splits(
        *(replace(log, negative_sampling=0.1) for log in (SPLITS.train, *[SPLITS.test] * 2))
    )
    targets = teachers(splits=sampled).targets(progress=False)
    assert targets.mean() == pytest.approx(SPLITS.train.labels.mean(), abs=0.03)


def test_a_student_of_few_labels_learns_more_from_teachers_that_saw_many():
    """Its own labels are replaced by noise; the targets of better teachers are not."""
    good = teachers(settings=replace(SETTINGS, weight=1.0)).targets(progress=False)
    noise = np.random.default_rng(0).integers(0, 2, len(SPLITS.train))
    noisy = replace(SPLITS, train=with_labels(SPLITS.train, noise))
    aucs = []
    for targets in (None, good):
        torch.manual_seed(0)
        model = make_model(1)
        fit(model, noisy, CONFIG, progress=False, targets=targets)
        aucs.append(evaluate(model, SPLITS.test).auc)
    assert aucs[1] > aucs[0] + 0.1


def test_settings_and_logs_out_of_range_are_refused():
    for wrong in ({"folds": 1}, {"seeds": 0}, {"weight": 0.0}, {"weight": 1.1}, {"dim": 0}):
        with pytest.raises(SpecError, match="distillation"):
            Distillation(**wrong)
    two = make_log({"user": np.array([2, 3]), "item": np.array([2, 3])}, np.array([0, 1]))
    with pytest.raises(DataError, match="2 rows cannot make 3 folds"):
        teachers(splits=replace(SPLITS, train=two)).targets(progress=False)


def test_a_recipe_turns_it_on_by_a_section(tmp_path):
    assert parse_recipe("", "plain", tmp_path).experiment.distillation is None
    text = "[distillation]\nfolds = 2\nweight = 0.5"
    assert parse_recipe(text, "own", tmp_path).experiment.distillation == Distillation(
        2, weight=0.5
    )
    with pytest.raises(SpecError, match="distillation"):
        parse_recipe("[distillation]\nfolds = 1", "own", tmp_path)
    with pytest.raises(SpecError, match="unknown key 'temperature' in"):
        parse_recipe("[distillation]\ntemperature = 1", "own", tmp_path)


RECIPE = """
[network]
hidden = [8]
[tables]
dim = 4
[distillation]
folds = 2
seeds = 2
dim = 2
[training]
epochs = 1
batch = 256
[data]
max_rows = 1500
"""
# Kills itself as soon as the second teacher is stored.
KILLED = """
import os, signal, sys
from ondevice.cli import main
from ondevice.models.training import distillation

train, trained = distillation.TeacherSet._train, []

def train_or_die(self, number, *arguments):
    if len(trained) == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    trained.append(number)
    return train(self, number, *arguments)

distillation.TeacherSet._train = train_or_die
sys.exit(main(sys.argv[1:]))
"""


def test_a_killed_train_goes_on_with_the_teachers_that_it_had(tmp_path):
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(RECIPE)
    plain = [sys.executable, "-m", "ondevice", "train", str(recipe), "--out"]
    killed = [sys.executable, "-c", KILLED, "train", str(recipe), "--out"]

    def run(command, *arguments):
        return subprocess.run(
            [*command, *map(str, arguments)], capture_output=True, text=True, timeout=3000
        )

    whole = run(plain, tmp_path / "whole")
    assert whole.returncode == 0, whole.stderr
    assert "teacher 4 of 4" in whole.stderr
    assert run(killed, tmp_path / "out").returncode == -signal.SIGKILL
    refused = run(plain, tmp_path / "out")
    assert refused.returncode == 1 and "was not finished" in refused.stderr
    resumed = run(plain, tmp_path / "out", "--resume")
    assert resumed.returncode == 0, resumed.stderr
    assert "teacher 2 of 4" not in resumed.stderr and "teacher 3 of 4" in resumed.stderr
    files = [
        (folder / "model.safetensors").read_bytes()
        for folder in (tmp_path / "whole", tmp_path / "out")
    ]
    assert files[0] == files[1]
    assert not list(tmp_path.glob(".out*"))


def test_the_encoded_logs_cache_keeps_teachers_for_the_next_student(tmp_path):
    recipe = tmp_path / "recipe.toml"
    log = tmp_path / "log.csv"
    rng = np.random.default_rng(0)
    rows = [f"u{rng.integers(9)},i{rng.integers(9)},{rng.integers(2)}" for _ in range(400)]
    log.write_text("user,item,click\n" + "\n".join(rows) + "\n")
    (tmp_path / "columns.toml").write_text(
        'label = "click"\n[fields]\nuser = "string"\nitem = "string"\n'
    )
    text = RECIPE.split("[data]")[0]
    source = 'name = "log"\npath = "log.csv"\ncolumns = "columns.toml"\n'
    recipe.write_text(f'{text}[data]\n{source}cache = "{tmp_path / "cache"}"\n')
    notes = []
    for name in ("a", "b"):
        done = subprocess.run(
            [sys.executable, "-m", "ondevice", "train", str(recipe), "--out", tmp_path / name],
            capture_output=True,
            text=True,
            timeout=3000,
        )
        assert done.returncode == 0, done.stderr
        notes.append(done.stderr.count("teacher"))
    assert notes == [4, 0]
    assert json.loads((tmp_path / "b" / "config.json").read_text())
