"""Metrics of epochs sent to TensorBoard or MLflow, through their own libraries."""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import ModuleType
from typing import Any

from ondevice.errors import InputError, MissingDependencyError, OutputError, writing
from ondevice.models.training.history import Epoch
from ondevice.models.training.metrics import Metrics

TRACKERS = ("tensorboard", "mlflow")
# Sends metrics by name, and the number of the epoch they are of, counted through all phases.
Send = Callable[[Mapping[str, float], int], None]


class Tracker:
    """Numbers the epochs of all phases through, and names their metrics.

    Where they cannot be sent any more, a line on stderr says so and training goes on without.
    """

    def __init__(
        self, send: Send | None = None, errors: tuple[type[Exception], ...] = (OSError,)
    ) -> None:
        """Use `send`, which may raise `errors`, for every epoch; None sends nothing."""
        self._send = send
        self._errors = errors
        self._epochs = 0

    def on_epoch(self, phase: str, epoch: Epoch) -> None:
        """Send an epoch's metrics; for `fit`'s on_epoch."""
        self._epochs += 1
        values = {"train/loss": epoch.train_loss, "train/seconds": epoch.seconds}
        values |= _named("validation", epoch.by_label)
        if epoch.mean_width is not None:
            values["train/mean_width"] = epoch.mean_width
        self._emit({**values, f"phase/{phase}": float(epoch.number)})

    def on_test(self, by_label: Mapping[str, Metrics]) -> None:
        """Send the metrics of the test part, as of the last epoch."""
        self._emit(_named("test", by_label))

    def _emit(self, values: Mapping[str, float]) -> None:
        if self._send is None:
            return
        try:
            self._send(values, self._epochs)
        except self._errors as error:
            self._send = None
            print(f"metrics are sent no more: {error}", file=sys.stderr)  # noqa: T201


@contextmanager
def tracking(
    target: str | None, name: str, settings: Mapping[str, Any], *, option: str = "--log-to"
) -> Iterator[Tracker]:
    """A tracker that is open while the block runs.

    Args:
        target: "tensorboard", which writes into ./runs, or "tensorboard:FOLDER"; "mlflow", which
            goes where MLflow's own settings (MLFLOW_TRACKING_URI) say, or "mlflow:EXPERIMENT";
            None sends nothing.
        name: of the run.
        settings: nested settings of the run, which are stored with it.
        option: what messages call the target.

    Raises:
        InputError: another target.
        MissingDependencyError: its library is not installed.
        OutputError: the library cannot begin a run.
    """
    kind, _, place = (target or "").partition(":")
    if target is None:
        yield Tracker()
    elif kind == "tensorboard":
        library = _library("torch.utils.tensorboard", "tensorboard", option)
        with writing(f"{option} {target}"):
            writer = library.SummaryWriter(place or None)
        with writer:
            writer.add_text("settings", f"{name}: {json.dumps(settings)}")

            def to_writer(values: Mapping[str, float], epoch: int) -> None:
                for key, value in values.items():
                    writer.add_scalar(key, value, epoch)

            yield Tracker(to_writer)
    elif kind == "mlflow":
        library = _library("mlflow", "mlflow", option)
        errors = (library.exceptions.MlflowException, OSError)
        try:
            if place:
                library.set_experiment(place)
            mlflow_run = library.start_run(run_name=name)
            library.log_params(_flat(settings))
        except errors as error:
            raise OutputError(f"{option} {target}: no run can begin: {error}") from error
        with mlflow_run:
            yield Tracker(lambda values, n: library.log_metrics(dict(values), step=n), errors)
    else:
        raise InputError(f"{option}: expected {' or '.join(TRACKERS)}, got {target!r}")


def _named(part: str, by_label: Mapping[str, Metrics]) -> dict[str, float]:
    """Metrics by names such as validation/auc; of several labels, validation/auc/buy."""
    values = {}
    for label, metrics in by_label.items():
        suffix = f"/{label}" if len(by_label) > 1 else ""
        values[f"{part}/auc{suffix}"] = metrics.auc
        values[f"{part}/logloss{suffix}"] = metrics.logloss
    return values


def _flat(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings by names such as training.epochs."""
    flat: dict[str, Any] = {}
    for key, value in settings.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def _library(module: str, package: str, option: str) -> ModuleType:
    """The module of a library. Raises MissingDependencyError."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise MissingDependencyError(
            f"{option} {package} needs the package {package!r}: pip install {package}"
        ) from error
