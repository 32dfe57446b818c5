"""Training a click model on an encoded log, and measuring it."""

from __future__ import annotations

import copy
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional
from tqdm import tqdm

from ondevice.converters.source.on_cpu import new_tensors_on_cpu
from ondevice.errors import DataError, InputError, OnDeviceError, SpecError
from ondevice.models.click_log import ClickLog
from ondevice.models.networks import ClickModel, table_counts
from ondevice.models.training.distributed import current_ranks
from ondevice.models.training.history import Epoch, History
from ondevice.models.training.mask_learner import MaskLearner
from ondevice.models.training.metrics import Metrics, metrics_of
from ondevice.models.training.refit import RowPrior
from ondevice.models.training.row_weights import row_weights, training_weights
from ondevice.models.training.training_state import PhaseState

# How often an epoch updates the codec's scales if rows are rounded; each update takes about as long
# as packing the tables.
ROUNDING_REFRESHES = 8

# The thresholds of pruning move on a logistic scale, over units rather than hundredths, so they
# learn this many times faster than the weights; a choice of this project.
THRESHOLD_SPEED = 20.0

WINDOW_ROWS = 1 << 20
BLOCK_ROWS = 1 << 13

TableOptimizer = Literal["auto", "adam", "sparse_adam"]


class TrainingError(OnDeviceError):
    """Training cannot go on: the loss is no longer a finite number."""


@dataclass(frozen=True)
class TrainConfig:
    """How to train.

    Attributes:
        epochs: at most this many passes over the training split.
        batch: impressions per step.
        learning_rate: Adam's step size.
        table_optimizer: what updates the embedding tables. "adam" is dense Adam, whose cost grows
            with the table; "sparse_adam" touches only the batch's rows; "auto" takes
            "sparse_adam" for tables beyond `sparse_from` rows and "adam" below. Measured on a
            long-tailed log with 318,000 rows, "adam" took 1.5 times as long per epoch and reached
            an AUC 0.008 higher (momentum goes on moving rare rows), hence the high threshold.
        sparse_from: see `table_optimizer`.
        weight_decay: L2 penalty of the network's (not the tables') parameters: Adam's gradient of
            a weight w grows by weight_decay * w.
        table_weight_decay: the same of the tables, all rows in every step, so that rows shrink
            between the impressions that read them. Needs dense Adam (see `table_optimizer`).
        patience: stop after this many epochs without a better validation AUC.
        plateau_factor: after each epoch without a better validation AUC all learning rates are
            multiplied by this; 1 leaves them.
        width_tolerance: validation AUC that may be lost for narrower rows: of the epochs within it
            of the best one, the narrowest is kept (0: the best one).
        width_penalty: lambda of the optional penalty lambda * (expected width per masked row).
        mask_speed: the twins of masks learn this many times faster than the weights.
        row_penalty: lambda of the optional penalty lambda * |row|^2 of every row, see `Refit`.
        seed: fixes the order of impressions and the dropout; with the same thread count, number of
            ranks and initial weights, the result repeats exactly.

    Raises:
        SpecError: a setting out of range.
    """

    epochs: int = 10
    batch: int = 1024
    learning_rate: float = 1e-3
    table_optimizer: TableOptimizer = "auto"
    sparse_from: int = 2_000_000
    weight_decay: float = 0.0
    table_weight_decay: float = 0.0
    patience: int = 2
    plateau_factor: float = 1.0
    width_penalty: float = 0.0
    width_tolerance: float = 0.0
    mask_speed: float = 1.0
    row_penalty: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        faults = [
            f"{name} must be at least 1, got {value}"
            for name, value in (("epochs", self.epochs), ("batch", self.batch))
            if value < 1
        ]
        faults += [
            f"{name} must be positive, got {value}"
            for name, value in (
                ("learning_rate", self.learning_rate),
                ("mask_speed", self.mask_speed),
            )
            if not value > 0
        ]
        if self.patience < 1:
            faults.append(f"patience must be at least 1, got {self.patience}")
        if not 0 < self.plateau_factor <= 1:
            faults.append(f"plateau_factor must be above 0, at most 1, got {self.plateau_factor}")
        penalties = (
            *("width_penalty", "width_tolerance", "row_penalty"),
            *("weight_decay", "table_weight_decay"),
        )
        if not min(getattr(self, name) for name in penalties) >= 0:
            faults.append(f"{', '.join(penalties)} must not be negative")
        if self.table_optimizer not in ("auto", "adam", "sparse_adam"):
            faults.append(f"unknown table_optimizer {self.table_optimizer!r}")
        if faults:
            raise SpecError("training: " + "; ".join(faults))


@new_tensors_on_cpu()
def train(
    model: ClickModel,
    train: ClickLog,
    validation: ClickLog,
    config: TrainConfig | None = None,
    progress: bool = True,
    on_epoch: Callable[[Epoch], None] | None = None,
    state: PhaseState | None = None,
    targets: npt.NDArray[np.float32] | None = None,
) -> History:
    """Train by Adam on binary cross-entropy, stop early on validation AUC, keep the best weights.

    Rows count by their weights, where the log has any. What the model learns are the
    probabilities of the log as it is sampled: see `undo_sampling`. Of several labels the loss is
    the mean of theirs, and the first decides when to stop.

    The model is changed in place, stays on its device and ends in evaluation mode. Ctrl-C after
    at least one whole epoch ends training early and quietly: the best weights so far are restored
    and `History.interrupted` is set; before that, and always with several ranks, it is raised on.
    Ranks (see `joined_ranks`) train together: each on its rows of every batch, from the weights
    of rank 0.

    Args:
        model: new or already trained.
        train: the training split.
        validation: decides when to stop and which weights to keep.
        config: settings; the defaults if None.
        progress: show a bar on stderr, if that is a terminal.
        on_epoch: called after every epoch. What it raises ends training; random numbers that it
            draws change nothing.
        state: saves every epoch; what it holds already is not trained again. For one process only.
        targets: probabilities to learn in place of the labels, float32 and of their shape; see
            `distillation`. None: the labels.

    Raises:
        TrainingError: the loss is not finite.
        DataError: a split is empty, or validation has one label only.
        InputError: the log's fields or IDs do not fit the model, or the targets the labels.
        SpecError, RankError: see `Ranks.check`.
    """
    config = config or TrainConfig()
    ranks = current_ranks()
    _check_splits(model, train, validation)
    history = History()
    best_state: dict[str, Tensor] | None = None
    device = next(model.parameters()).device
    data = _tensors(train, device, training_weights(train), targets)
    cuda = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=cuda):
        torch.manual_seed(config.seed + ranks.rank)  # each rank drops other activations
        orders = torch.Generator().manual_seed(config.seed)  # the same on all
        optimizers = _optimizers(model, config)
        ranks.check(model, train, config)
        ranks.broadcast(model)
        mask_rate = config.learning_rate * config.mask_speed
        learner = MaskLearner(model, mask_rate, config.width_penalty)
        prior = None
        if config.row_penalty:
            prior = RowPrior(model, table_counts(model, train), config.row_penalty)
        learning = [*optimizers, *learner.optimizers]
        if state is not None:
            best_state = state.restore(model, learning, history, orders)
        try:
            for number in range(len(history.epochs) + 1, config.epochs + 1):
                if history.epochs and number - 1 - history.best.number >= config.patience:
                    break
                _set_learning_rates(learning, config, history)
                epoch = _epoch(
                    *(model, data, validation, optimizers, learner, prior, config, number),
                    *(orders, progress),
                )
                if history.add(epoch, config.width_tolerance):
                    best_state = copy.deepcopy(model.state_dict())
                if on_epoch is not None:
                    with torch.random.fork_rng(devices=cuda):
                        on_epoch(epoch)
                if state is not None and best_state is not None:
                    state.save(model, best_state, learning, history, orders)
        except KeyboardInterrupt:
            if best_state is None or ranks.world > 1:
                raise
            history.interrupted = True
    if best_state is not None:
        model.eval()
        model.load_state_dict(best_state)
        model.refresh()
    return history


@new_tensors_on_cpu()
@torch.no_grad()
def predict(model: ClickModel, log: ClickLog, batch: int = 8192) -> npt.NDArray[np.float32]:
    """Click probabilities float32 [n], of several labels [n, labels], in evaluation mode.

    The model's mode is restored.

    Raises:
        InputError: the log's fields or IDs do not fit the model.
    """
    if batch < 1:
        raise SpecError(f"batch must be at least 1, got {batch}")
    was_training = model.training
    model.eval()
    try:
        ids = _tensors(log, next(model.parameters()).device).ids
        parts = []
        for start in range(0, len(log), batch):
            rows = {name: values[start : start + batch] for name, values in ids.items()}
            parts.append(torch.sigmoid(model.forward_logits(rows)).cpu())
    finally:
        model.train(was_training)
    shape = (0,) if len(model.labels) == 1 else (0, len(model.labels))
    probabilities: npt.NDArray[np.float32] = torch.cat([torch.empty(shape), *parts]).numpy()
    return probabilities


def evaluate(
    model: ClickModel, log: ClickLog, batch: int = 8192, *, unsampled: bool = False
) -> Metrics:
    """AUC and log loss of the first label on a log; see `evaluate_labels`."""
    return next(iter(evaluate_labels(model, log, batch, unsampled=unsampled).values()))


def evaluate_labels(
    model: ClickModel, log: ClickLog, batch: int = 8192, *, unsampled: bool = False
) -> dict[str, Metrics]:
    """AUC and log loss of each label of a log, whose rows count by their weights.

    Args:
        model: in any mode, which is restored.
        log: both labels must be in it.
        batch: rows at once.
        unsampled: measure for the log before its negatives were sampled (see `row_weights`), as
            `undo_sampling` calibrates a model; without, for the log as it is. Labels other than
            the first are always measured for the whole log, for which they are trained.

    Raises:
        DataError: the log has not both labels, so there is no AUC.
        TrainingError: the model's output is not finite.
        InputError: the log's fields, labels or IDs do not fit the model.
    """
    _check_label_names(model, log, "evaluation")
    return metrics_by_label(log, predict(model, log, batch), unsampled=unsampled)


def metrics_by_label(
    log: ClickLog, probabilities: npt.NDArray[np.float32], *, unsampled: bool = False
) -> dict[str, Metrics]:
    """Metrics of what `predict` returned for a log; see `evaluate_labels`.

    Raises:
        DataError, TrainingError: as `evaluate_labels`.
    """
    _check_labels(log, "evaluation")
    if not np.isfinite(probabilities).all():
        raise TrainingError("the model's output is not finite")
    metrics = {}
    columns = zip(columns_of(log.labels), columns_of(probabilities), strict=True)
    for place, (labels, scores) in enumerate(columns):
        whole = unsampled or (place > 0 and log.negative_sampling < 1)
        weights = row_weights(log, unsampled=whole)
        metrics[log.label_names[place]] = metrics_of(labels, scores, weights, unsampled=whole)
    return metrics


def columns_of(values: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Values [n] or [n, labels] as [labels, n]."""
    return values.reshape(len(values), -1).T


def shared_metrics(model: ClickModel, log: ClickLog) -> dict[str, Metrics]:
    """What `evaluate_labels` says, on every rank; rank 0 evaluates.

    Raises:
        DataError, InputError, TrainingError: as `evaluate_labels`.
        RankError: another rank has ended.
    """
    ranks = current_ranks()
    if ranks.world == 1:
        return evaluate_labels(model, log)
    sent = ranks.from_first(
        lambda: {name: asdict(item) for name, item in evaluate_labels(model, log).items()}
    )
    return {name: Metrics(**item) for name, item in sent.items()}


def _epoch(
    model: ClickModel,
    data: _Data,
    validation: ClickLog,
    optimizers: list[torch.optim.Optimizer],
    learner: MaskLearner,
    prior: RowPrior | None,
    config: TrainConfig,
    number: int,
    orders: torch.Generator,
    progress: bool,
) -> Epoch:
    """Train over the split once, see `_train_epoch`, then validate and take the seconds of both.

    Raises TrainingError: the loss or the model's output is not finite.
    """
    started = time.perf_counter()
    loss = _train_epoch(model, data, optimizers, learner, prior, config, number, orders, progress)
    trained = time.perf_counter()
    metrics = shared_metrics(model, validation)
    masks = model.masks().values()
    rows = sum(mask.rows for mask in masks)
    width = sum(int(mask.widths().sum()) for mask in masks) / rows if rows else None
    done = time.perf_counter()
    first = next(iter(metrics.values()))
    return Epoch(number, loss, first, width, trained - started, done - trained, metrics)


def _train_epoch(
    model: ClickModel,
    data: _Data,
    optimizers: list[torch.optim.Optimizer],
    learner: MaskLearner,
    prior: RowPrior | None,
    config: TrainConfig,
    number: int,
    orders: torch.Generator,
    progress: bool,
) -> float:
    """One pass over the training split; the mean loss of an impression, without penalties.

    Args:
        model: changed in place.
        data: IDs int64 [n] or [n, length] by field, and labels float32 [n], on the model's device.
        optimizers: of `_optimizers`.
        learner: holds the masks and updates them.
        prior: the penalty of the rows of a batch; None for none.
        config: the batch size.
        number: of the epoch, from 1 on.
        orders: draws the order of the impressions.
        progress: show a bar on stderr, if that is a terminal.

    Raises:
        TrainingError: the loss of a batch is not finite.
    """
    model.train()
    if not any(item.requires_grad for item in model.network.parameters()):
        model.network.eval()  # a fixed network neither drops activations nor follows the batch
    ranks, total, count = current_ranks(), 0.0, len(data.labels)
    steps = -(-count // config.batch)
    every = max(1, steps // ROUNDING_REFRESHES)
    hidden = not (progress and ranks.is_first and sys.stderr.isatty())
    with tqdm(total=count, desc=f"epoch {number}", unit="row", disable=hidden) as bar:
        for step, (rows, size) in enumerate(_batches(data, config.batch, orders)):
            if step % every == 0:
                learner.share()  # rounding looks at the widths
                for table in model.tables():
                    if step == 0 or not table.sparse:  # a large table's scales cost seconds
                        table.refresh_rounding()
            for optimizer in optimizers:
                optimizer.zero_grad(set_to_none=True)
            value = _backward(model, learner, prior, rows, size)
            if not np.isfinite(value):
                raise TrainingError(
                    f"the loss became {value} in epoch {number}, after {bar.n or 0} impressions; "
                    f"try a learning rate below {config.learning_rate:g}"
                )
            ranks.sum_gradients(optimizers)
            for optimizer in optimizers:
                optimizer.step()
            learner.step()
            total += value * len(rows.labels)
            bar.update(size)
    learner.update()
    learner.share()
    return ranks.sum(total) / count


def _backward(
    model: ClickModel,
    learner: MaskLearner,
    prior: RowPrior | None,
    rows: _Data,
    size: int,
) -> float:
    """Add this rank's part of a batch's gradients; its mean loss, without penalties.

    Args:
        model: whose parameters get gradients.
        learner: holds the masks, which get some too.
        prior: the penalty of the rows of a batch; None for none.
        rows: those of this rank; there may be none.
        size: how many rows all ranks have.
    """
    held = learner.held()
    if not len(rows.labels):
        return 0.0
    logits = model.forward_logits(rows.ids, held)
    loss = functional.binary_cross_entropy_with_logits(logits, rows.labels, rows.weights)
    value = float(loss.detach())
    if prior is not None:
        loss = loss + prior(rows.ids)
    if len(rows.labels) < size:
        loss = loss * (len(rows.labels) / size)
    loss.backward()  # type: ignore[no-untyped-call]
    return value


class _Data(NamedTuple):
    """Rows as tensors: IDs by input, labels or targets, factors of their losses (None: 1)."""

    ids: dict[str, Tensor]
    labels: Tensor
    weights: Tensor | None

    def at(self, rows: Tensor | slice) -> _Data:
        """Some of the rows."""
        ids = {name: values[rows] for name, values in self.ids.items()}
        weights = None if self.weights is None else self.weights[rows]
        return _Data(ids, self.labels[rows], weights)


def _batches(data: _Data, batch: int, orders: torch.Generator) -> Iterator[tuple[_Data, int]]:
    """Batches in a fresh random order; shuffling once and slicing beats gathering per batch.

    Yields this rank's rows, and the size of the batch of all ranks.
    """
    ranks = current_ranks()
    for window in _windows(len(data.labels), orders):
        order, parts = ranks.batches(window, batch)
        shuffled = data.at(order.to(data.labels.device))
        for rows, size in parts:
            yield shuffled.at(rows), size


def _windows(rows: int, orders: torch.Generator) -> Iterator[Tensor]:
    """Row numbers int64 in random order, a window at a time: every row once.

    Up to WINDOW_ROWS rows are one window, and any order of them is possible. Of more rows, which
    may be mapped from a file, a window has random blocks of consecutive rows, shuffled together:
    so little is in memory at once, and pages are read in one go.
    """
    if rows <= WINDOW_ROWS:
        yield torch.randperm(rows, generator=orders)
        return
    blocks = torch.randperm(-(-rows // BLOCK_ROWS), generator=orders)
    for chosen in torch.split(blocks, WINDOW_ROWS // BLOCK_ROWS):
        numbers = (chosen[:, None] * BLOCK_ROWS + torch.arange(BLOCK_ROWS)).reshape(-1)
        numbers = numbers[numbers < rows]
        yield numbers[torch.randperm(len(numbers), generator=orders)]


def _optimizers(model: ClickModel, config: TrainConfig) -> list[torch.optim.Optimizer]:
    """Adam for the network and small tables, SparseAdam for large tables, if there are any.

    Sets `sparse` of each table to match. Thresholds of rows learn THRESHOLD_SPEED times as fast;
    parameters of masks are left out, since MaskLearner updates them.
    """
    groups: dict[str, list[Tensor]] = {"adam": [], "sparse_adam": []}
    thresholds: dict[str, list[Tensor]] = {"adam": [], "sparse_adam": []}
    for table in model.tables():
        kind: str = config.table_optimizer
        if kind == "auto":
            kind = "sparse_adam" if table.spec.rows > config.sparse_from else "adam"
        table.sparse = kind != "adam"
        groups[kind].append(table.weight)
        if table.threshold is not None:
            thresholds[kind].append(table.threshold.thresholds)
    grouped = {id(weight) for kinds in (groups, thresholds) for w in kinds.values() for weight in w}
    grouped |= {id(weight) for mask in model.masks().values() for weight in mask.parameters()}
    others = [item for item in model.parameters() if item.requires_grad and id(item) not in grouped]
    if config.table_weight_decay and groups["sparse_adam"]:
        raise SpecError(
            "training: table_weight_decay shrinks all rows in every step, which sparse_adam does "
            "not; set table_optimizer to adam, or raise sparse_from"
        )
    if config.weight_decay or config.table_weight_decay:
        dense: list[dict[str, Any]] = [
            {"params": others, "weight_decay": config.weight_decay},
            {"params": groups["adam"], "weight_decay": config.table_weight_decay},
        ]
    else:  # every group costs a call a step
        dense = [{"params": [*others, *groups["adam"]]}]
    sparse: list[dict[str, Any]] = [{"params": groups["sparse_adam"]}]
    for kind, extended in (("adam", dense), ("sparse_adam", sparse)):
        if thresholds[kind]:
            rate = config.learning_rate * THRESHOLD_SPEED
            extended.append({"params": thresholds[kind], "lr": rate})
    optimizers: list[torch.optim.Optimizer] = [
        torch.optim.Adam(dense, lr=config.learning_rate, fused=True)
    ]
    if groups["sparse_adam"]:
        optimizers.append(torch.optim.SparseAdam(sparse, lr=config.learning_rate))
    return optimizers


def _set_learning_rates(
    optimizers: list[torch.optim.Optimizer], config: TrainConfig, history: History
) -> None:
    """Set the rates of the next epoch: those of the start, decayed once for each plateau.

    They follow from the history only, so a training that goes on has them too.
    """
    decay = config.plateau_factor**history.plateaus
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = decay * group.setdefault("initial_lr", group["lr"])


def _tensors(
    log: ClickLog,
    device: torch.device,
    weights: npt.NDArray[np.float32] | None = None,
    targets: npt.NDArray[np.float32] | None = None,
) -> _Data:
    """A log's rows on a device, with factors of their losses and targets in place of labels.

    Raises:
        InputError: targets that are no probabilities of the labels' shape.
    """
    labels = log.labels if targets is None else _checked_targets(targets, log.labels.shape)
    with warnings.catch_warnings():  # a mapped log is not writable, and nobody writes into it
        warnings.filterwarnings("ignore", "The given NumPy array is not writ")
        ids = {name: torch.as_tensor(values).to(device) for name, values in log.ids.items()}
        factors = None if weights is None else torch.as_tensor(weights).to(device)
        return _Data(ids, torch.as_tensor(labels).to(device), factors)


def _checked_targets(
    targets: npt.NDArray[np.float32], shape: tuple[int, ...]
) -> npt.NDArray[np.float32]:
    if targets.shape != shape or targets.dtype != np.float32:
        raise InputError(
            f"targets must be float32 {list(shape)}, got {targets.dtype} {list(targets.shape)}"
        )
    if len(targets) and not (targets.min() >= 0 and targets.max() <= 1):
        raise InputError(
            f"targets must be probabilities, got {targets.min():g} to {targets.max():g}"
        )
    return targets


def _check_splits(model: ClickModel, train: ClickLog, validation: ClickLog) -> None:
    if not len(train):
        raise DataError("the training split is empty")
    for log, what in ((train, "training"), (validation, "validation")):
        _check_label_names(model, log, what)
    _check_labels(validation, "validation")


def _check_label_names(model: ClickModel, log: ClickLog, what: str) -> None:
    """Of one label the name does not matter. Raises InputError."""
    expected, names = model.labels, log.label_names
    if len(names) != len(expected) or (len(names) > 1 and names != expected):
        raise InputError(
            f"{what}: the model predicts {', '.join(expected)}; the log's labels are "
            f"{', '.join(names)}"
        )


def _check_labels(log: ClickLog, what: str) -> None:
    """Check that each label is 0 in some rows and 1 in others. Raises DataError."""
    for name, labels in zip(log.label_names, columns_of(log.labels), strict=True):
        clicks = int(labels.sum(dtype=np.float64))
        if not 0 < clicks < len(log):
            of_label = f" of {name!r}" if len(log.label_names) > 1 else ""
            raise DataError(
                f"{what} needs both labels{of_label} for an AUC; {len(log)} impressions have "
                f"{clicks} clicks"
            )
