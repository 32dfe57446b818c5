"""Training a click model on an encoded log, and measuring it."""

from __future__ import annotations

import copy
import sys
import time
import warnings
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional
from tqdm import tqdm

from ondevice.errors import DataError, OnDeviceError, SpecError, needs_extra
from ondevice.models.click_log import ClickLog
from ondevice.models.networks import ClickModel, table_counts
from ondevice.models.training.distributed import current_ranks
from ondevice.models.training.mask_learner import MaskLearner
from ondevice.models.training.refit import RowPrior

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
        weight_decay: L2 penalty of the network's (not the tables') parameters.
        patience: stop after this many epochs without a better validation AUC.
        width_tolerance: validation AUC that may be lost for narrower rows: of the epochs within it
            of the best one, the narrowest is kept (0: the best one).
        width_penalty: lambda of the optional penalty lambda * (expected width per masked row).
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
    patience: int = 2
    width_penalty: float = 0.0
    width_tolerance: float = 0.0
    row_penalty: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        faults = [
            f"{name} must be at least 1, got {value}"
            for name, value in (("epochs", self.epochs), ("batch", self.batch))
            if value < 1
        ]
        if not self.learning_rate > 0:
            faults.append(f"learning_rate must be positive, got {self.learning_rate}")
        if self.patience < 1:
            faults.append(f"patience must be at least 1, got {self.patience}")
        penalties = ("width_penalty", "width_tolerance", "row_penalty", "weight_decay")
        if not min(getattr(self, name) for name in penalties) >= 0:
            faults.append(f"{', '.join(penalties)} must not be negative")
        if self.table_optimizer not in ("auto", "adam", "sparse_adam"):
            faults.append(f"unknown table_optimizer {self.table_optimizer!r}")
        if faults:
            raise SpecError("training: " + "; ".join(faults))


@dataclass(frozen=True)
class Metrics:
    """Area under the ROC curve, and mean negative log-likelihood (natural logarithm)."""

    auc: float
    logloss: float


@dataclass(frozen=True)
class Epoch:
    """One pass: mean training loss (without penalty), validation metrics, mean kept width of the
    masked rows (None without masks), wall-clock seconds of training and of validation.
    """

    number: int
    train_loss: float
    validation: Metrics
    mean_width: float | None
    seconds: float
    validation_seconds: float


@dataclass
class History:
    """What happened; the model holds the weights of `best`: the highest validation AUC, or within
    TrainConfig.width_tolerance of it the narrowest rows.
    """

    epochs: list[Epoch] = field(default_factory=list)
    interrupted: bool = False
    kept: Epoch | None = None

    @property
    def best(self) -> Epoch:
        """The epoch whose weights the model holds."""
        if self.kept is None:
            raise SpecError("training had no whole epoch, so there is no best one")
        return self.kept

    def add(self, epoch: Epoch, tolerance: float) -> bool:
        """Append an epoch; whether its weights are the ones to keep."""
        self.epochs.append(epoch)
        floor = max(item.validation.auc for item in self.epochs) - tolerance
        best_so_far, better = self.kept, epoch.validation.auc >= floor
        if better and best_so_far is not None and best_so_far.validation.auc >= floor:
            if tolerance and epoch.mean_width is not None and best_so_far.mean_width is not None:
                better = epoch.mean_width < best_so_far.mean_width
            else:
                better = epoch.validation.auc > best_so_far.validation.auc
        if better:
            self.kept = epoch
        return better


def train(
    model: ClickModel,
    train: ClickLog,
    validation: ClickLog,
    config: TrainConfig | None = None,
    progress: bool = True,
) -> History:
    """Train by Adam on binary cross-entropy, stop early on validation AUC, keep the best weights.

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

    Raises:
        TrainingError: the loss is not finite.
        DataError: a split is empty, or validation has one label only.
        InputError: the log's fields or IDs do not fit the model.
        SpecError, RankError: see `Ranks.check`.
    """
    config = config or TrainConfig()
    ranks = current_ranks()
    _check_splits(train, validation)
    history = History()
    best_state: dict[str, Tensor] | None = None
    device = next(model.parameters()).device
    data = _tensors(train, device)
    cuda = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=cuda):
        torch.manual_seed(config.seed + ranks.rank)  # each rank drops other activations
        orders = torch.Generator().manual_seed(config.seed)  # the same on all
        optimizers = _optimizers(model, config)
        ranks.check(model, train, config)
        ranks.broadcast(model)
        learner = MaskLearner(model, config.learning_rate, config.width_penalty)
        prior = None
        if config.row_penalty:
            prior = RowPrior(model, table_counts(model, train), config.row_penalty)
        try:
            for number in range(1, config.epochs + 1):
                epoch = _epoch(
                    *(model, data, validation, optimizers, learner, prior, config, number),
                    *(orders, progress),
                )
                if history.add(epoch, config.width_tolerance):
                    best_state = copy.deepcopy(model.state_dict())
                elif number - history.best.number >= config.patience:
                    break
        except KeyboardInterrupt:
            if best_state is None or ranks.world > 1:
                raise
            history.interrupted = True
    if best_state is not None:
        model.eval()
        model.load_state_dict(best_state)
        model.refresh()
    return history


@torch.no_grad()
def predict(model: ClickModel, log: ClickLog, batch: int = 8192) -> npt.NDArray[np.float32]:
    """Click probabilities float32 [len(log)], in evaluation mode; the mode is restored."""
    if batch < 1:
        raise SpecError(f"batch must be at least 1, got {batch}")
    was_training = model.training
    model.eval()
    try:
        ids, _ = _tensors(log, next(model.parameters()).device)
        parts = [
            model({name: values[start : start + batch] for name, values in ids.items()}).cpu()
            for start in range(0, len(log), batch)
        ]
    finally:
        model.train(was_training)
    probabilities: npt.NDArray[np.float32] = torch.cat([torch.empty(0), *parts]).numpy()
    return probabilities


def evaluate(model: ClickModel, log: ClickLog, batch: int = 8192) -> Metrics:
    """AUC and log loss on a log.

    Raises:
        DataError: the log has not both labels, so there is no AUC.
        TrainingError: the model's output is not finite.
        InputError: the log's fields or IDs do not fit the model.
    """
    with needs_extra("evaluation", "train"):  # large: a conversion does without
        from sklearn.metrics import log_loss, roc_auc_score
    _check_both_labels(log, "evaluation")
    probabilities = predict(model, log, batch).astype(np.float64)
    if not np.isfinite(probabilities).all():
        raise TrainingError("the model's output is not finite")
    # float32 reaches 0 and 1; the same clip as for any 32-bit probability keeps the loss finite
    edge = float(np.finfo(np.float32).eps)
    clipped = np.clip(probabilities, edge, 1 - edge)
    auc = float(roc_auc_score(log.labels, probabilities))
    return Metrics(auc, float(log_loss(log.labels, clipped, labels=[0, 1])))


def shared_metrics(model: ClickModel, log: ClickLog) -> Metrics:
    """What `evaluate` says, on every rank; rank 0 evaluates. Raises as `evaluate`; RankError."""
    ranks = current_ranks()
    if ranks.world == 1:
        return evaluate(model, log)
    return Metrics(**ranks.from_first(lambda: asdict(evaluate(model, log))))


def _epoch(
    model: ClickModel,
    data: tuple[dict[str, Tensor], Tensor],
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
    return Epoch(number, loss, metrics, width, trained - started, done - trained)


def _train_epoch(
    model: ClickModel,
    data: tuple[dict[str, Tensor], Tensor],
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
        learner: holds the masks' levels and updates the masks.
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
    ranks, total, count = current_ranks(), 0.0, len(data[1])
    steps = -(-count // config.batch)
    every = max(1, steps // ROUNDING_REFRESHES)
    hidden = not (progress and ranks.is_first and sys.stderr.isatty())
    with tqdm(total=count, desc=f"epoch {number}", unit="row", disable=hidden) as bar:
        for step, (ids, labels, size) in enumerate(_batches(data, config.batch, orders)):
            if step % every == 0:
                for table in model.tables():
                    if step == 0 or not table.sparse:  # a large table's scales cost seconds
                        table.refresh_rounding()
            for optimizer in optimizers:
                optimizer.zero_grad(set_to_none=True)
            value = _backward(model, learner, prior, ids, labels, size)
            if not np.isfinite(value):
                raise TrainingError(
                    f"the loss became {value} in epoch {number}, after {bar.n or 0} impressions; "
                    f"try a learning rate below {config.learning_rate:g}"
                )
            ranks.sum_gradients(optimizers)
            for optimizer in optimizers:
                optimizer.step()
            learner.step()
            total += value * len(labels)
            bar.update(size)
    learner.update()
    return ranks.sum(total) / count


def _backward(
    model: ClickModel,
    learner: MaskLearner,
    prior: RowPrior | None,
    ids: dict[str, Tensor],
    labels: Tensor,
    size: int,
) -> float:
    """Add this rank's part of a batch's gradients; its mean loss, without penalties.

    Args:
        model: whose parameters get gradients.
        learner: holds the masks' levels, which get some too.
        prior: the penalty of the rows of a batch; None for none.
        ids: by input, of this rank's rows; there may be none.
        labels: float32 [rows].
        size: how many rows all ranks have.
    """
    levels = learner.levels()
    if not len(labels):
        return 0.0
    loss = functional.binary_cross_entropy_with_logits(model.forward_logits(ids, levels), labels)
    value = float(loss.detach())
    if prior is not None:
        loss = loss + prior(ids)
    if len(labels) < size:
        loss = loss * (len(labels) / size)
    loss.backward()  # type: ignore[no-untyped-call]
    return value


def _batches(
    data: tuple[dict[str, Tensor], Tensor], batch: int, orders: torch.Generator
) -> Iterator[tuple[dict[str, Tensor], Tensor, int]]:
    """Batches in a fresh random order; shuffling once and slicing beats gathering per batch.

    Yields the IDs and labels of this rank's rows, and the size of the batch of all ranks.
    """
    ids, labels = data
    ranks = current_ranks()
    for window in _windows(len(labels), orders):
        order, parts = ranks.batches(window, batch)
        order = order.to(labels.device)
        shuffled = {name: values[order] for name, values in ids.items()}
        targets = labels[order]
        for rows, size in parts:
            yield {name: values[rows] for name, values in shuffled.items()}, targets[rows], size


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
    for chosen in blocks.split(WINDOW_ROWS // BLOCK_ROWS):
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
    if config.weight_decay:
        dense: list[dict[str, Any]] = [
            {"params": others, "weight_decay": config.weight_decay},
            {"params": groups["adam"]},
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


def _tensors(log: ClickLog, device: torch.device) -> tuple[dict[str, Tensor], Tensor]:
    with warnings.catch_warnings():  # a mapped log is not writable, and nobody writes into it
        warnings.filterwarnings("ignore", "The given NumPy array is not writ")
        ids = {name: torch.as_tensor(values).to(device) for name, values in log.ids.items()}
        return ids, torch.as_tensor(log.labels).to(device)


def _check_splits(train: ClickLog, validation: ClickLog) -> None:
    if not len(train):
        raise DataError("the training split is empty")
    _check_both_labels(validation, "validation")


def _check_both_labels(log: ClickLog, what: str) -> None:
    clicks = int(log.labels.sum())
    if not 0 < clicks < len(log):
        raise DataError(
            f"{what} needs both labels for an AUC; {len(log)} impressions have {clicks} clicks"
        )
