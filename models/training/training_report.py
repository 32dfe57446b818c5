"""What a training led to, for people and programs: metrics, learning curves, fields, tables."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from ondevice.models.click_log import ClickLog
from ondevice.models.data import HashedLog
from ondevice.models.training.evaluation import (
    LabelReport,
    Segment,
    frequency_groups,
    key_of,
    label_reports,
    segments_of,
)
from ondevice.models.training.experiment import Trained
from ondevice.models.training.phases import rounded
from ondevice.models.training.trainer import evaluate
from ondevice.text_table import table

FORMAT, VERSION = "ondevice-training", 1
# Rows of the validation part that an importance is measured on, at most: one pass a field.
IMPORTANCE_ROWS = 200_000
SHOWN_SEGMENTS = 10  # of a column, in text


@dataclass(frozen=True)
class Importance:
    """What a field contributes: the AUC of the first label that is lost without its values."""

    field: str
    auc_lost: float


@dataclass(frozen=True)
class TableSize:
    """A field's table: rows of `dim` dimensions, of which `mean_width` are kept on average.

    Attributes:
        scheme: how values share rows.
        bytes: of the kept dimensions in float32.
    """

    field: str
    scheme: str
    rows: int
    dim: int
    mean_width: float
    bytes: int


@dataclass(frozen=True)
class TrainingReport:
    """The report of one training.

    Attributes:
        recipe: what was trained.
        data: name, rows and sampling of the log, and rows of its parts.
        network: its kind.
        parameter_bytes: of all parameters in float32.
        tables: of the fields.
        phases: epochs by phase, in order, and which one's weights each phase led to.
        test: by label, on the test part; the first label decided when training stopped.
        importance: by field, on the validation part, the most important first; empty if it was
            not measured.
        importance_auc: of the first label, with all fields; None if it was not measured.
    """

    recipe: str
    data: dict[str, Any]
    network: str
    parameter_bytes: int
    tables: Sequence[TableSize]
    phases: Sequence[dict[str, Any]]
    test: dict[str, LabelReport]
    importance: Sequence[Importance] = ()
    importance_auc: float | None = None

    def to_json(self) -> dict[str, Any]:
        """Plain JSON; docs/metrics.md describes it."""
        data = asdict(self)
        for name, report in self.test.items():
            data["test"][name]["information_gain"] = report.information_gain
            data["test"][name]["calibration"] = report.calibration
        return {"format": FORMAT, "version": VERSION, **data}


def check_keys(log: HashedLog, names: Sequence[str]) -> None:
    """Check, before training, that a log has all columns to group by. Raises InputError."""
    for name in names:
        key_of(log, name)


def training_report(
    trained: Trained,
    log: HashedLog,
    recipe: str,
    *,
    gauc: Sequence[str] = (),
    segments: Sequence[str] = (),
    importance: bool = True,
) -> TrainingReport:
    """Measure a trained model.

    Args:
        trained: what `train_compressed` or `train_full` returned.
        log: the log it was trained on.
        recipe: its name.
        gauc: columns whose values group rows for a GAUC, such as the user.
        segments: columns by whose values metrics are given.
        importance: measure what each field contributes: a pass of the validation part a field.

    Raises:
        InputError: the log has not such a column.
    """
    train, _, test = trained.parts
    reports = label_reports(
        trained.splits.test,
        trained.probabilities,
        gauc={name: key_of(test, name) for name in gauc},
        segments={name: segments_of(test, name) for name in segments},
        frequency=frequency_groups(train, test),
    )
    auc, fields = _importance(trained) if importance else (None, [])
    return TrainingReport(
        recipe=recipe,
        data=_data(trained, log),
        network=trained.model.settings.kind,
        parameter_bytes=trained.parameter_bytes,
        tables=_tables(trained),
        phases=_phases(trained),
        test=reports,
        importance=fields,
        importance_auc=auc,
    )


def _data(trained: Trained, log: HashedLog) -> dict[str, Any]:
    """What is said of the log."""
    counts = [len(part) for part in trained.parts]
    return {
        "name": log.name,
        "rows": len(log),
        "refused": log.refused,
        "weighted": log.weights is not None,
        "negative_sampling": log.negative_sampling,
        "parts": dict(zip(("training", "validation", "test"), counts, strict=True)),
    }


def _phases(trained: Trained) -> list[dict[str, Any]]:
    """Epochs by phase."""
    return [
        {
            "name": name,
            "kept": history.best.number if history.epochs else None,
            "interrupted": history.interrupted,
            "epochs": [asdict(epoch) for epoch in history.epochs],
        }
        for name, history in trained.fitted.phases.items()
    ]


def _importance(trained: Trained) -> tuple[float, list[Importance]]:
    """The validation AUC, and what it loses where one field's values are shuffled."""
    log = trained.splits.validation
    draws = np.random.default_rng(0)
    if len(log) > IMPORTANCE_ROWS:
        log = log.take(np.sort(draws.choice(len(log), IMPORTANCE_ROWS, replace=False)))
    order = draws.permutation(len(log))
    with rounded(trained.model, trained.codec):
        auc = evaluate(trained.model, log).auc
        lost = [
            Importance(name, auc - evaluate(trained.model, _shuffled(log, name, order)).auc)
            for name in trained.model.inputs
        ]
    return auc, sorted(lost, key=lambda item: -item.auc_lost)


def _shuffled(log: ClickLog, name: str, order: Any) -> ClickLog:
    """The log with the values of one input in another order."""
    ids = {**log.ids, name: log.ids[name][order]}
    return ClickLog(log.features, ids, log.labels, log.weights, log.label_names)


def _tables(trained: Trained) -> list[TableSize]:
    sizes = []
    for name in trained.model.fields:
        embedding = trained.model.embedding(name)
        spec = embedding.spec
        width = float(spec.row_dim)
        if embedding.mask is not None:
            width = float(embedding.mask.widths().float().mean())
        kept = round(4 * width * spec.rows)
        sizes.append(TableSize(name, spec.kind, spec.rows, spec.row_dim, width, kept))
    return sizes


def metrics_text(report: TrainingReport) -> str:
    """The test metrics as tables."""
    header = ("label", "AUC", "log loss", "of the base rate", "information gain", "calibration")
    rows = [
        (
            name,
            f"{item.auc:.4f}",
            f"{item.logloss:.4f}",
            f"{item.base_logloss:.4f}",
            f"{item.information_gain:.1%}",
            f"{item.calibration:.3f}",
        )
        for name, item in report.test.items()
    ]
    blocks = [table(header, rows)]
    for name, item in report.test.items():
        of_label = f" of {name}" if len(report.test) > 1 else ""
        for column, grouped in item.gauc.items():
            auc = "none" if grouped.auc is None else f"{grouped.auc:.4f}"
            blocks.append(
                f"GAUC{of_label} by {column}: {auc}, of {grouped.counted_groups:,} of "
                f"{grouped.groups:,} groups (those with both labels), "
                f"{grouped.counted_rows:,} of {grouped.rows:,} impressions"
            )
        for column, segments in item.segments.items():
            blocks.append(_segments_text(f"{column}{of_label}", segments))
    return "\n\n".join(blocks)


def _segments_text(title: str, segments: Sequence[Segment]) -> str:
    rows = [
        (
            item.name,
            f"{item.rows:,}",
            "-" if item.auc is None else f"{item.auc:.4f}",
            "-" if item.auc_error is None else f"{item.auc_error:.4f}",
            f"{item.predicted:.4f}",
            f"{item.observed:.4f}",
        )
        for item in segments[:SHOWN_SEGMENTS]
    ]
    text = table((title, "test rows", "AUC", "+/-", "predicted", "observed"), rows)
    if (left := len(segments) - SHOWN_SEGMENTS) > 0:
        text += f"\nand {left} more"
    return text
