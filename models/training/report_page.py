"""A training report as one HTML page that needs no network and no script: sentences first."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape

from ondevice.bench.show.charts import Bar, bars
from ondevice.bench.show.document import card, document, folded
from ondevice.models.training.evaluation import LabelReport, Segment
from ondevice.models.training.report_charts import Curve, Dot, calibration, curves, dots
from ondevice.models.training.training_report import TrainingReport
from ondevice.text_table import size

SHOWN = 12  # rows of a chart; the folded tables have all
# Calibration that a sentence calls right, as a share; a choice of this project.
RIGHT = 0.03
LITTLE = 0.0005  # AUC that counts as nothing


def training_page(report: TrainingReport) -> str:
    """The page of one training."""
    body = [
        _header(report),
        _cards(report),
        _learning(report),
        _calibration(report),
        *_groups(report),
        "<h2>What each field contributes and costs</h2>",
        f'<div class="grid wide">{_fields(report)}{_tables(report)}</div>',
        _figures(report),
    ]
    return document(f"Training of {report.recipe}", body)


def _of(name: str, report: TrainingReport) -> str:
    """How a heading names a label, where there are several."""
    return f" of {name}" if len(report.test) > 1 else ""


def _header(report: TrainingReport) -> str:
    """What a reader in a hurry has to know, in sentences."""
    sentences = [_quality(name, item, report) for name, item in report.test.items()]
    parts = report.data["parts"]
    about = (
        f"Network {report.network}, recipe {report.recipe}, log {report.data['name']}: trained on "
        f"{parts['training']:,} impressions, stopped by {parts['validation']:,} others, measured "
        f"on {parts['test']:,} more that training never saw."
    )
    if any(phase["interrupted"] for phase in report.phases):
        sentences.append("Training was interrupted: these are the best weights until then.")
    lead = "".join(f'<p class="lead">{escape(sentence)}</p>' for sentence in sentences)
    note = ""
    if any(item.unsampled for item in report.test.values()):
        note = (
            f"The log holds {report.data['negative_sampling']:.3g} of its rows without a click; "
            "probabilities and figures are those of the whole log, except curves of epochs."
        )
    weighted = " Rows count by their weights." if report.data["weighted"] else ""
    return (
        f"<header><h1>Training report</h1>{lead}<p>{escape(about + weighted)}</p>"
        + (f'<p class="note">{escape(note)}</p>' if note else "")
        + "</header>"
    )


def _quality(name: str, item: LabelReport, report: TrainingReport) -> str:
    """One label in one sentence."""
    subject = f"For {name}, the model" if len(report.test) > 1 else "The model"
    event = name if len(report.test) > 1 else "click"
    off = item.calibration - 1
    if abs(off) <= RIGHT:
        promise = f"its probabilities are right on average (within {RIGHT:.0%})"
    else:
        amount = "too many" if off > 0 else "too few"
        promise = f"it promises {abs(off):.0%} {amount}: a {event} in {item.predicted:.2%} of the "
        promise += f"impressions, where {item.observed:.2%} had one"
    return (
        f"{subject} puts an impression with a {event} above one without in {item.auc:.1%} of all "
        f"pairs (guessing: 50%), and {promise}."
    )


def _cards(report: TrainingReport) -> str:
    cards = []
    for number, (name, item) in enumerate(report.test.items()):
        facts = [
            ("AUC", f"{item.auc:.4f}"),
            ("log loss", f"{item.logloss:.4f}"),
            ("log loss of the base rate", f"{item.base_logloss:.4f}"),
            ("information gain", f"{item.information_gain:.1%}"),
            ("predicted clicks / observed", f"{item.calibration:.3f}"),
            ("observed share", f"{item.observed:.2%}"),
        ]
        for column, grouped in item.gauc.items():
            auc = "none" if grouped.auc is None else f"{grouped.auc:.4f}"
            facts.append((f"AUC within each {column}", auc))
        rows = "".join(f"<dt>{escape(key)}</dt><dd>{escape(value)}</dd>" for key, value in facts)
        notes = "".join(
            f"<p>{escape(column)}: {grouped.counted_groups:,} of {grouped.groups:,} have both "
            f"labels, with {grouped.counted_rows:,} of {grouped.rows:,} impressions</p>"
            for column, grouped in item.gauc.items()
        )
        cards.append(
            f'<section class="card key s{number % 8}"><h3><i></i>{escape(name)}</h3>'
            f"<p>{item.rows:,} test impressions</p><dl>{rows}</dl>{notes}</section>"
        )
    return f'<div class="grid">{"".join(cards)}</div>'


def _learning(report: TrainingReport) -> str:
    """Curves over the epochs of all phases, numbered through."""
    aucs: list[Curve] = []
    trained: list[tuple[int, float]] = []
    validated: list[tuple[int, float]] = []
    done = 0
    for number, phase in enumerate(report.phases):
        epochs = phase["epochs"]
        if not epochs:
            continue
        points = [(done + item["number"], item["validation"]["auc"]) for item in epochs]
        aucs.append(Curve(f"phase {phase['name']}", number, points, [done + phase["kept"]]))
        trained += [(done + item["number"], item["train_loss"]) for item in epochs]
        if len(report.test) == 1:
            validated += [(done + item["number"], item["validation"]["logloss"]) for item in epochs]
        done += len(epochs)
    if not aucs:
        return ""
    losses = [Curve("training", 0, trained)]
    losses += [Curve("validation", 1, validated)] if validated else []
    first = next(iter(report.test))
    cards = card(
        f"Validation AUC{_of(first, report)}",
        curves(aucs, "validation AUC by epoch"),
        "Large dots: the epochs whose weights each phase kept.",
    ) + card(
        "Loss" if len(report.test) == 1 else "Training loss, the mean of the labels",
        curves(losses, "loss by epoch"),
        "Where validation rises while training falls, the model learns its rows by heart."
        if validated
        else "",
    )
    return f'<h2>How it learned</h2><div class="grid wide">{cards}</div>'


def _calibration(report: TrainingReport) -> str:
    cards = "".join(
        card(
            f"Calibration{_of(name, report)}",
            calibration(item.deciles, number, f"calibration{_of(name, report)}"),
            "Each dot is a tenth of the test impressions, in the order of their probabilities. "
            "Above the dashed line more happened than the model promised.",
        )
        for number, (name, item) in enumerate(report.test.items())
    )
    return f'<h2>Whether its probabilities hold</h2><div class="grid">{cards}</div>'


def _groups(report: TrainingReport) -> Iterable[str]:
    """AUC by segment and by how often training saw a value."""
    cards = []
    for name, item in report.test.items():
        for column, segments in item.segments.items():
            cards.append(_group_card(f"By {column}{_of(name, report)}", segments, item))
        for field, segments in item.frequency.items():
            title = f"By how often training saw the {field}{_of(name, report)}"
            cards.append(_group_card(title, segments, item))
    if cards:
        yield "<h2>Where it works</h2>"
        yield (
            '<p class="note">AUC of parts of the test impressions. The upright line is the AUC of '
            "all of them; parts to its left are ordered worse. Grey: too few rows to tell from "
            "chance (95 %).</p>"
        )
        yield f'<div class="grid">{"".join(cards)}</div>'


def _group_card(title: str, segments: Sequence[Segment], item: LabelReport) -> str:
    rows = [
        Dot(
            f"{segment.name} ({segment.rows:,} rows)",
            segment.auc,
            "one label" if segment.auc is None else f"{segment.auc:.3f}",
            f"{segment.name}: {segment.rows:,} rows, predicted {segment.predicted:.2%}, observed "
            f"{segment.observed:.2%}",
            segment.differs_from(item.auc),
        )
        for segment in segments[:SHOWN]
    ]
    left = len(segments) - SHOWN
    note = f"{left:,} more with fewer rows: see the tables below." if left > 0 else ""
    return card(title, dots(rows, item.auc, title), note)


def _fields(report: TrainingReport) -> str:
    """What each field contributes."""
    if not report.importance:
        return ""
    shown = report.importance[: 2 * SHOWN]
    rows = [
        Bar(
            item.field,
            [("s0", max(item.auc_lost, 0.0))],
            f"{item.auc_lost:+.4f}".replace("+-", "-"),
            f"{item.field}: {item.auc_lost:.4f} of {report.importance_auc or 0:.4f}",
        )
        for item in shown
    ]
    useless = [item.field for item in report.importance if item.auc_lost < LITTLE]
    names = ", ".join(useless[:8]) + (", ..." if len(useless) > 8 else "")
    note = (
        "Validation AUC that is lost when the field's values are shuffled among the rows. Fields "
        "that say the same can stand in for each other, so each may look small."
    )
    if useless:
        note += f" Without effect: {names}."
    return card("AUC lost without the field", bars(rows, "AUC lost by field"), note)


def _tables(report: TrainingReport) -> str:
    tables = sorted(report.tables, key=lambda item: -item.bytes)
    rows = [
        Bar(
            item.field,
            [("s2", float(item.bytes))],
            size(item.bytes),
            f"{item.field}: {item.rows:,} rows ({item.scheme}) of {item.mean_width:.1f} kept of "
            f"{item.dim} dimensions",
        )
        for item in tables[: 2 * SHOWN]
    ]
    whole = size(sum(item.bytes for item in tables))
    note = f"In float32, without cut dimensions: {whole}. A converted file stores fewer bits."
    return card("Bytes of the field's table", bars(rows, "bytes by table"), note)


def _figures(report: TrainingReport) -> str:
    """Everything as tables, folded away."""
    tables: list[tuple[str, Sequence[str], Sequence[Sequence[str]]]] = []
    header = ("", "rows", "clicks", "AUC", "+/-", "predicted", "observed")
    for name, item in report.test.items():
        of_label = _of(name, report)
        deciles = [
            (str(n + 1), f"{b.rows:,}", f"{b.predicted:.4%}", f"{b.observed:.4%}")
            for n, b in enumerate(item.deciles)
        ]
        tables.append((f"Deciles{of_label}", ("", "rows", "predicted", "observed"), deciles))
        for title, groups in (("By", item.segments), ("By training rows of", item.frequency)):
            for column, segments in groups.items():
                rows = [
                    (
                        s.name,
                        f"{s.rows:,}",
                        f"{s.clicks:,}",
                        "-" if s.auc is None else f"{s.auc:.4f}",
                        "-" if s.auc_error is None else f"{s.auc_error:.4f}",
                        f"{s.predicted:.4%}",
                        f"{s.observed:.4%}",
                    )
                    for s in segments
                ]
                tables.append((f"{title} {column}{of_label}", header, rows))
    fields = [(item.field, f"{item.auc_lost:.5f}") for item in report.importance]
    if fields:
        tables.append(("Fields", ("", "AUC lost"), fields))
    sizes = [
        (t.field, t.scheme, f"{t.rows:,}", f"{t.mean_width:.2f} of {t.dim}", size(t.bytes))
        for t in report.tables
    ]
    tables.append(("Tables", ("", "scheme", "rows", "kept width", "bytes"), sizes))
    epochs = [
        (
            f"{phase['name']} {epoch['number']}",
            f"{epoch['train_loss']:.5f}",
            f"{epoch['validation']['auc']:.5f}",
            f"{epoch['validation']['logloss']:.5f}",
            f"{epoch['seconds']:.1f} s",
        )
        for phase in report.phases
        for epoch in phase["epochs"]
    ]
    columns = ("", "training loss", "validation AUC", "validation log loss", "time")
    tables.append(("Epochs", columns, epochs))
    return folded("All figures as tables", tables)
