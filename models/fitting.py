"""Fit a model: train it, find kept widths, refit its rows, round its tables, phase by phase."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

from ondevice.codecs import Codec
from ondevice.models.log import Splits
from ondevice.models.networks import ClickModel, attach_masks, table_counts
from ondevice.models.refit import Refit, fixed_network
from ondevice.models.rounding import Rounding, TableRounding
from ondevice.models.trainer import History, TrainConfig, evaluate, train
from ondevice.models.widths import (
    Widths,
    attach_thresholds,
    attach_widths,
    detach_thresholds,
    frequency_widths,
    order_dimensions,
    pruned_widths,
)
from ondevice.text_table import table


@dataclass(frozen=True)
class FitConfig:
    """What `fit` does.

    Attributes:
        training: how to train, in the first phase and, but for what the others say, in all.
        widths: how the kept widths of the rows are found.
        rounding: the codec to train the last epochs for; None for none.
        refit: how rows are refitted before that, with the network fixed; None for not at all.
    """

    training: TrainConfig = field(default_factory=TrainConfig)
    widths: Widths = field(default_factory=Widths)
    rounding: Rounding | None = None
    refit: Refit | None = None


@dataclass
class Fitted:
    """What happened in each phase, by name and in order.

    Attributes:
        phases: "train", "widths", "retrain", "refit 10" (one for each penalty) and "rounding", as
            far as they took place.
        counts: per field int64 [rows], how often the training split reads each row.
    """

    phases: dict[str, History] = field(default_factory=dict)
    counts: dict[str, npt.NDArray[np.int64]] = field(default_factory=dict)

    @property
    def epochs(self) -> int:
        """Epochs of all phases."""
        return sum(len(history.epochs) for history in self.phases.values())

    @property
    def interrupted(self) -> bool:
        """Whether Ctrl-C ended it early."""
        return any(history.interrupted for history in self.phases.values())


def fit(
    model: ClickModel,
    splits: Splits,
    config: FitConfig,
    *,
    trained: bool = False,
    progress: bool = True,
) -> Fitted:
    """Fit a model, in place; it ends in evaluation mode with frozen widths.

    Each phase goes on from the best weights of the one before, and keeps its own best by the
    validation AUC; refitting and rounding keep the weights they began with if these are as good.
    Ctrl-C ends the phase with its best weights so far, and skips the rest.

    Args:
        model: new, or trained already (a warm start).
        splits: training and validation are used, the test split is not.
        config: the phases.
        trained: skip the first phase, since the model is trained already.
        progress: show a bar on stderr, if that is a terminal.

    Raises:
        TrainingError: the loss is not finite.
        SpecError: the codec cannot hold the tables.
        DataError, InputError: the splits do not fit the model or one another.
    """
    fitted = Fitted(counts=table_counts(model, splits.train))
    widths, training = config.widths, config.training
    if widths.method == "frequency":
        if trained:
            order_dimensions(model, fitted.counts)
        dims = {name: model.embedding(name).spec.row_dim for name in model.fields}
        attach_widths(model, frequency_widths(fitted.counts, dims, widths.keep, widths.alpha))

    def run(phase: str, settings: TrainConfig) -> None:
        later = bool(trained or fitted.phases)
        before = copy.deepcopy(model.state_dict()) if later else {}
        try:
            history = train(model, splits.train, splits.validation, settings, progress)
        except KeyboardInterrupt:  # before the phase had a whole epoch
            if not later:
                raise
            model.eval()
            model.load_state_dict(before)
            history = History(interrupted=True)
        fitted.phases[phase] = history

    priced = replace(training, width_penalty=widths.penalty, width_tolerance=widths.tolerance)
    from_the_start = widths.method == "amtl" and not widths.warm and not trained
    if from_the_start:
        attach_masks(model, splits.train, counts=fitted.counts)
        run("train", priced)
    elif not trained:
        run("train", training)
    elif widths.method == "frequency":
        run("retrain", training)
    if widths.method in ("amtl", "prune") and not (fitted.interrupted or from_the_start):
        order_dimensions(model, fitted.counts)
        # patience beyond the epochs: widths need time, and the best epoch's are kept
        times = {"epochs": widths.epochs, "patience": widths.epochs}
        if widths.method == "amtl":
            attach_masks(model, splits.train, counts=fitted.counts)
            run("widths", replace(priced, **times))
        else:
            attach_thresholds(model)
            run("widths", replace(training, **times))
            if fitted.interrupted:  # rows cut without training on would be worse than whole ones
                detach_thresholds(model)
            else:
                attach_widths(model, pruned_widths(model, widths.keep))
                run("retrain", training)
    for mask in model.masks().values():
        mask.freeze()

    def run_if_better(phase: str, settings: TrainConfig) -> None:
        before = copy.deepcopy(model.state_dict())
        auc = evaluate(model, splits.validation).auc
        run(phase, settings)
        epochs = fitted.phases[phase].epochs
        if epochs and max(epoch.validation.auc for epoch in epochs) <= auc:
            model.load_state_dict(before)

    if config.refit is not None and not fitted.interrupted:
        with fixed_network(model):
            for penalty in config.refit.penalties:
                settings = _refit_settings(training, config.refit, penalty)
                run_if_better(f"refit {penalty:g}", settings)
                if fitted.interrupted:
                    break
    if config.rounding is not None and not fitted.interrupted:
        with rounded(model, config.rounding.codec):
            run_if_better("rounding", _rounding_settings(training, config.rounding))
    model.eval()
    return fitted


def phases_text(fitted: Fitted) -> str:
    """The phases as a table: epochs, the best one's validation AUC, kept width."""
    rows = []
    for phase, history in fitted.phases.items():
        best = history.best if history.epochs else None
        width = None if best is None else best.mean_width
        rows.append(
            (
                phase,
                str(len(history.epochs)),
                "-" if best is None else f"{best.validation.auc:.4f}",
                "-" if width is None else f"{width:.2f}",
            )
        )
    return table(("phase", "epochs", "best validation AUC", "mean width"), rows)


def _refit_settings(training: TrainConfig, refit: Refit, penalty: float) -> TrainConfig:
    rate = training.learning_rate / refit.slower
    return replace(training, epochs=refit.epochs, learning_rate=rate, row_penalty=penalty)


def _rounding_settings(training: TrainConfig, rounding: Rounding) -> TrainConfig:
    rate = training.learning_rate / rounding.slower
    return replace(training, epochs=rounding.epochs, learning_rate=rate)


@contextmanager
def rounded(model: ClickModel, codec: Codec | Mapping[str, Codec]) -> Iterator[None]:
    """Tables as the codec stores them, in training and in evaluation, while the block runs.

    Args:
        model: put back afterwards.
        codec: of all tables, or by field; the tables of fields not named stay as they are.
    """
    if isinstance(codec, str):
        chosen = [(item, codec) for item in model.tables()]
    else:
        chosen = [(model.embedding(name), item) for name, item in codec.items()]
    for item, narrow in chosen:
        item.rounding = TableRounding(narrow)
        item.refresh_rounding()
    try:
        yield
    finally:
        for item in model.tables():
            item.rounding = None
