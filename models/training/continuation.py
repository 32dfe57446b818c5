"""Daily work: a trained model goes on with new days, with its tables, widths and features."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from ondevice.cells import Cells
from ondevice.errors import FileFormatError, InputError, SpecError
from ondevice.features import FeatureSpec, Field
from ondevice.models.checkpoint import Checkpoint
from ondevice.models.click_log import Splits
from ondevice.models.data import HashedLog, History
from ondevice.models.data.hashed import encoded
from ondevice.models.layers.rounding import Rounding
from ondevice.models.training.experiment import Trained, parts_of, tested
from ondevice.models.training.growth import grow
from ondevice.models.training.metrics import Metrics
from ondevice.models.training.phases import FitConfig, OnEpoch, fit, rounded
from ondevice.models.training.row_weights import undo_sampling
from ondevice.models.training.trainer import TrainConfig, evaluate_labels
from ondevice.models.training.training_state import TrainingState
from ondevice.models.training.widths import Widths


@dataclass(frozen=True)
class Continued:
    """A model that was trained on.

    Attributes:
        trained: the model, its splits of the new days, and its metrics; its counts are those of
            the checkpoint and of the new days together, and empty if the checkpoint has none.
        before: by label, the metrics of the checkpoint on the same test rows.
        added: by field, how many values got a row.
    """

    trained: Trained
    before: dict[str, Metrics]
    added: dict[str, int]


def continue_training(
    checkpoint: Checkpoint,
    log: HashedLog,
    training: TrainConfig,
    *,
    rounding: Rounding | None = None,
    history: History | None = None,
    progress: bool = True,
    on_epoch: OnEpoch | None = None,
    state: TrainingState | None = None,
) -> Continued:
    """Train a model on, on a log of new days.

    Its weights are the start; bucket boundaries, tables and kept widths stay, and vocabularies
    grow (see `grow`). Widths are not learned again, nor rows refitted.

    Args:
        checkpoint: its model is changed, or a larger one takes its place.
        log: the new days; its rows are divided as those of any log.
        training: how to train.
        rounding: the codec to train the last epochs for; None for none.
        history: what the model's history is computed of; see `history_of`.
        progress: show a bar on stderr, if that is a terminal.
        on_epoch: called after every epoch with the name of its phase.
        state: saves every epoch; what it holds already is not trained again.

    Raises:
        InputError: the log's fields are not read as the checkpoint's were.
        TrainingError, DataError, SpecError: see `fit`.
    """
    parts = parts_of(log, history)
    check_fields(log.name, parts[0].features, checkpoint.features)
    codec = "f32" if rounding is None else rounding.codec
    model = checkpoint.model
    test = encoded(parts[2], checkpoint.features)
    with rounded(model, codec):
        before = evaluate_labels(model, test, unsampled=test.negative_sampling < 1)
    grown = grow(model, checkpoint.features, checkpoint.counts, parts[0])
    model = grown.model
    splits = Splits(*(encoded(part, grown.features) for part in parts))
    undo_sampling(model, 1 / log.negative_sampling)  # from the whole log to the one at hand
    config = FitConfig(training, Widths("whole"), rounding)
    fitted = fit(model, splits, config, progress=progress, on_epoch=on_epoch, state=state)
    undo_sampling(model, log.negative_sampling)
    fitted.counts = {name: grown.counts[name] + fitted.counts[name] for name in grown.counts}
    return Continued(tested(model, parts, splits, fitted, codec), before, grown.added)


def check_fields(log: str, given: FeatureSpec, expected: FeatureSpec) -> None:
    """Check that a log's fields are read as those of a checkpoint were.

    Args:
        log: its name, for the message.
        given: the log's fields, not encoded.
        expected: the checkpoint's.

    Raises:
        InputError: names every difference.
    """
    mine = {field.name: field for field in given.fields}
    theirs = {field.name: field for field in expected.fields}
    faults = [f"no field {name!r}" for name in theirs if name not in mine]
    faults += [f"the checkpoint has no field {name!r}" for name in mine if name not in theirs]
    for name, field in theirs.items():
        if name in mine:
            faults += _differences(mine[name], field)
    if faults:
        raise InputError(
            f"{log}: its fields must be read as those of the checkpoint were: {'; '.join(faults)}"
        )


def _differences(given: Field, expected: Field) -> list[str]:
    """How the readings of two fields differ; encodings apart, which the checkpoint decides."""
    pairs: list[tuple[str, Any, Any]] = [
        (what, getattr(given, what), getattr(expected, what)) for what in ("kind", "length", "seed")
    ]
    if (given.encoding == "id") != (expected.encoding == "id"):
        pairs.append(("encoding", given.encoding, expected.encoding))
    # files written before cells were specified say nothing of them
    if given.cells is not None and expected.cells is not None:
        for item in fields(Cells):
            if item.name == "loose" or (item.name == "separator" and expected.length is None):
                continue
            values = (getattr(given.cells, item.name), getattr(expected.cells, item.name))
            if item.name == "missing":
                values = (sorted(values[0]), sorted(values[1]))
            pairs.append((item.name, *values))
    return [
        f"{given.name!r} has {what} {mine!r}, the checkpoint {theirs!r}"
        for what, mine, theirs in pairs
        if mine != theirs
    ]


def history_of(checkpoint: Checkpoint, otherwise: History | None) -> History | None:
    """What the history of a checkpoint's model is computed of; None where it has none.

    Args:
        checkpoint: it says so itself, if it was saved by `ondevice train`.
        otherwise: what to take if it does not.

    Raises:
        InputError: neither says whose clicks the history holds.
        FileFormatError: the checkpoint's setting is damaged.
    """
    names = checkpoint.model.histories
    if not names:
        return None
    saved = _setting(checkpoint.extra, "history", History) or otherwise
    if saved is None or names != {saved.name: saved.item}:
        wanted = ", ".join(f"{name!r} of {item!r}" for name, item in names.items())
        raise InputError(
            f"the checkpoint's model reads the history {wanted}, and does not say of which user "
            "field; name a recipe with that [history]"
        )
    return saved


def rounding_of(checkpoint: Checkpoint, asked: Rounding | None) -> Rounding | None:
    """How the last epochs round: as asked, else as the checkpoint's training did.

    Raises:
        FileFormatError: the checkpoint's setting is damaged.
    """
    return asked or _setting(checkpoint.extra, "rounding", Rounding)


def _setting(extra: Mapping[str, Any], name: str, kind: type[Any]) -> Any:
    """A setting that `checkpoint_extra` saved; None where there is none. Raises FileFormatError."""
    data = extra.get("training", {})
    values = data.get(name) if isinstance(data, dict) else data
    if values is None:
        return None
    try:
        return kind(**values)
    except (TypeError, SpecError, InputError) as error:
        raise FileFormatError(f"checkpoint: its setting {name!r} is damaged: {error}") from error
