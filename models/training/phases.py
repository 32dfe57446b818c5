"""Fit a model: train it, find kept widths, refit its rows, round its tables, phase by phase."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ondevice.converters.source.on_cpu import new_tensors_on_cpu
from ondevice.models.click_log import Splits
from ondevice.models.layers.rounding import Rounding, TableRounding
from ondevice.models.networks import ClickModel, attach_masks, detach_masks, table_counts
from ondevice.models.training.distributed import current_ranks
from ondevice.models.training.history import Epoch, History
from ondevice.models.training.refit import Refit, fixed_network
from ondevice.models.training.trainer import TrainConfig, shared_metrics, train
from ondevice.models.training.training_state import TrainingState
from ondevice.models.training.widths import (
    PENALTY_STEPS,
    Widths,
    attach_thresholds,
    attach_widths,
    detach_thresholds,
    frequency_widths,
    order_dimensions,
    pruned_widths,
)
from ondevice.sections import TableCodec, quantise_sections
from ondevice.text_table import table

# So many steps let the widths of a trained model settle (two epochs of a million rows in batches of
# 1024). Twins that get fewer learn faster, up to a limit: on a log of 200,000 rows masks
# hardly narrowed anything otherwise.
MASK_STEPS = 1500
MOST_MASK_SPEED = 10.0

# Takes the name of a phase and an epoch of it.
OnEpoch = Callable[[str, Epoch], None]


@dataclass(frozen=True)
class FitConfig:
    """What `fit` does.

    Attributes:
        training: how to train in the first phase, and in the others as far as they do not differ.
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
        phases: "train", "refit 10" (one for each penalty), "widths", "retrain", "refit 10 of cut
            rows" and "rounding", as far as they took place; where several prices of a dimension
            are tried, "widths at 0.01" and so on for each.
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


@new_tensors_on_cpu()
def fit(
    model: ClickModel,
    splits: Splits,
    config: FitConfig,
    *,
    trained: bool = False,
    progress: bool = True,
    on_epoch: OnEpoch | None = None,
    state: TrainingState | None = None,
    targets: npt.NDArray[np.float32] | None = None,
) -> Fitted:
    """Fit a model, in place; it ends in evaluation mode with frozen widths.

    Each phase goes on from the best weights of the one before, and keeps its own best by the
    validation AUC; refitting and rounding, and training with the rows that masks cut, keep the
    weights they began with if these are as good.
    Masks are learned on refitted rows, with the network fixed, if there is a refit; then the whole
    model trains on with the cut rows, and these are refitted once more.
    Ctrl-C ends the phase with its best weights so far, and skips the rest; of several ranks it
    ends all.

    Args:
        model: new, or trained already (a warm start).
        splits: training and validation are used, the test split is not.
        config: the phases.
        trained: skip the first phase, since the model is trained already.
        progress: show a bar on stderr, if that is a terminal.
        on_epoch: called after every epoch with the name of its phase; see `train`.
        state: saves every epoch; what it holds already is not trained again.
        targets: what all phases learn in place of the training labels; see `train`.

    Raises:
        TrainingError: the loss is not finite.
        SpecError: the codec cannot hold the tables.
        DataError, InputError: the splits do not fit the model or one another.
    """
    phases = _Phases(model, splits, config, trained, progress, on_epoch, state, targets)
    widths = config.widths
    if widths.method == "frequency":
        phases.widths_by_frequency()
    fresh_masks = widths.method == "amtl" and not widths.warm and not trained
    phases.train(fresh_masks)
    if widths.method == "prune":
        phases.prune()
    phases.refit()
    if widths.method == "amtl" and not fresh_masks:
        phases.learn_masks()
    for mask in model.masks().values():
        mask.freeze()
    phases.round()
    model.eval()
    return phases.fitted


class _Phases:
    """The phases of one `fit`; once interrupted, the later ones do nothing."""

    def __init__(
        self,
        model: ClickModel,
        splits: Splits,
        config: FitConfig,
        trained: bool,
        progress: bool,
        on_epoch: OnEpoch | None,
        state: TrainingState | None,
        targets: npt.NDArray[np.float32] | None,
    ) -> None:
        self.model, self.splits, self.config = model, splits, config
        self.trained, self.progress, self.on_epoch = trained, progress, on_epoch
        self.state, self.targets = state, targets
        self.fitted = Fitted(counts=table_counts(model, splits.train))

    def widths_by_frequency(self) -> None:
        """Fix the widths by the frequency rule, before training."""
        model, counts, widths = self.model, self.fitted.counts, self.config.widths
        if self.trained:
            order_dimensions(model, counts)
        dims = {name: model.embedding(name).spec.row_dim for name in model.fields}
        attach_widths(model, frequency_widths(counts, dims, widths.keep, widths.alpha))

    def train(self, fresh_masks: bool) -> None:
        """Train the whole model, with fresh masks that learn widths if `fresh_masks`."""
        if fresh_masks:
            attach_masks(self.model, self.splits.train, counts=self.fitted.counts)
            self._run("train", self._priced())
        elif not self.trained:
            self._run("train", self.config.training)
        elif self.config.widths.method == "frequency":
            self._run("retrain", self.config.training)

    def prune(self) -> None:
        """Learn thresholds, cut the rows by them, train on."""
        if self.fitted.interrupted:
            return
        model, widths, training = self.model, self.config.widths, self.config.training
        order_dimensions(model, self.fitted.counts)
        attach_thresholds(model)
        self._run("widths", replace(training, epochs=widths.epochs, patience=widths.epochs))
        if self.fitted.interrupted:  # rows cut without training on would be worse than whole ones
            detach_thresholds(model)
        else:
            attach_widths(model, pruned_widths(model, widths.keep))
            self._run("retrain", training)

    def refit(self, what: str = "") -> None:
        """Fit the rows further under each prior in turn, with the network fixed; `what` ends the
        names of these phases.
        """
        if self.config.refit is None:
            return
        with fixed_network(self.model):
            for penalty in self.config.refit.penalties:
                if not self.fitted.interrupted:
                    settings = _refit_settings(self.config.training, self.config.refit, penalty)
                    self._run_if_better(f"refit {penalty:g}{what}", settings)

    def learn_masks(self) -> None:
        """Learn widths on the trained model, at one price, or at several until the model validates
        no worse than before.
        """
        model, widths = self.model, self.config.widths
        if not widths.raise_penalty:
            self._learn_masks(widths.penalty)
            return
        floor = self._validation_auc() - widths.tolerance
        detach_masks(model)
        before = copy.deepcopy(model.state_dict())
        for step in PENALTY_STEPS:
            detach_masks(model)  # of the price before
            model.load_state_dict(before)
            price = step * widths.penalty
            self._learn_masks(price, f" at {price:g}")
            if self.fitted.interrupted or self._validation_auc() >= floor:
                return

    def _learn_masks(self, price: float, what: str = "") -> None:
        """Learn widths at a price; with a refit, under its prior and a fixed network, and then let
        the network learn the cut rows, and refit these, which followed widths that moved. `what`
        ends the names of these phases.
        """
        if self.fitted.interrupted:
            return
        model, epochs, refit = self.model, self.config.widths.epochs, self.config.refit
        order_dimensions(model, self.fitted.counts)
        attach_masks(model, self.splits.train, counts=self.fitted.counts)
        steps = epochs * -(-len(self.splits.train) // self.config.training.batch)
        # patience beyond the epochs: widths need time, and the best epoch's are kept
        settings = replace(
            self._priced(),
            width_penalty=price,
            epochs=epochs,
            patience=epochs,
            mask_speed=min(MOST_MASK_SPEED, max(1.0, MASK_STEPS / steps)),
        )
        if refit is None:
            self._run(f"widths{what}", settings)
            return
        prior = refit.penalties[0] if refit.penalties else 0.0
        settings = replace(
            settings, learning_rate=settings.learning_rate / refit.slower, row_penalty=prior
        )
        with fixed_network(model):
            self._run(f"widths{what}", settings)
        if self.fitted.interrupted:
            return
        for mask in model.masks().values():
            mask.freeze()
        self._run_if_better(f"retrain{what}", self.config.training)
        self.refit(f" of cut rows{what}")

    def round(self) -> None:
        """Go on training with rounded tables."""
        rounding = self.config.rounding
        if rounding is None or self.fitted.interrupted:
            return
        with rounded(self.model, rounding.codec):
            self._run_if_better("rounding", _rounding_settings(self.config.training, rounding))

    def _priced(self) -> TrainConfig:
        widths = self.config.widths
        return replace(
            self.config.training, width_penalty=widths.penalty, width_tolerance=widths.tolerance
        )

    def _run(
        self, phase: str, settings: TrainConfig, before: dict[str, Tensor] | None = None
    ) -> None:
        """One phase, from the weights `before` if they are at hand already."""
        model, splits = self.model, self.splits
        on_epoch = None if self.on_epoch is None else partial(self.on_epoch, phase)
        later = bool(self.trained or self.fitted.phases)
        if later and before is None:
            before = copy.deepcopy(model.state_dict())
        try:
            state = None if self.state is None else self.state.phase(phase)
            history = train(
                model,
                splits.train,
                splits.validation,
                settings,
                progress=self.progress,
                on_epoch=on_epoch,
                state=state,
                targets=self.targets,
            )
        except KeyboardInterrupt:  # before the phase had a whole epoch
            if before is None or current_ranks().world > 1:
                raise
            model.eval()
            model.load_state_dict(before)
            history = History(interrupted=True)
        self.fitted.phases[phase] = history

    def _validation_auc(self) -> float:
        metrics = shared_metrics(self.model, self.splits.validation)
        return next(iter(metrics.values())).auc

    def _run_if_better(self, phase: str, settings: TrainConfig) -> None:
        before = copy.deepcopy(self.model.state_dict())
        auc = self._validation_auc()
        self._run(phase, settings, before)
        epochs = self.fitted.phases[phase].epochs
        if epochs and max(epoch.validation.auc for epoch in epochs) <= auc:
            self.model.load_state_dict(before)


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
def rounded(
    model: ClickModel,
    codec: TableCodec | Mapping[str, TableCodec],
    counts: Mapping[str, npt.NDArray[np.int64]] | None = None,
) -> Iterator[None]:
    """Tables as the codec stores them, in training and in evaluation, while the block runs.

    Args:
        model: put back afterwards.
        codec: of all tables, or by field; the tables of fields not named stay as they are.
        counts: per field int64 [rows], how often training reads each row, see `TableRounding`.
    """
    weights = {} if counts is None else counts
    if isinstance(codec, Mapping):
        chosen = [(model.embedding(name), item, weights.get(name)) for name, item in codec.items()]
    else:
        chosen = [(item, codec, None) for item in model.tables()]
    for item, narrow, reads in chosen:
        item.rounding = TableRounding(narrow, reads)
        item.refresh_rounding()
    try:
        yield
    finally:
        for item in model.tables():
            item.rounding = None


@torch.no_grad()
def round_tables(
    model: ClickModel,
    codecs: Mapping[str, TableCodec],
    counts: Mapping[str, npt.NDArray[np.int64]],
) -> None:
    """Put in place of tables what the codecs store of them, so that the file has these levels.

    Args:
        model: changed in place; its tables have no masks.
        codecs: per field how its table will be stored; only sections are rounded.
        counts: per field int64 [rows], how often training reads each row: what its error counts.
    """
    for name, codec in codecs.items():
        if not isinstance(codec, str):
            weight = model.embedding(name).weight
            stored = quantise_sections(weight.numpy(force=True), codec, counts[name])
            weight.copy_(torch.from_numpy(stored.dequantise()))
