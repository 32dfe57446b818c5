"""What each codec costs a trained model: bytes and rounding error of its tables, and the AUC."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ondevice.codecs import CODECS, Codec, quantise
from ondevice.inspection import table_bytes
from ondevice.models.click_log import ClickLog
from ondevice.models.networks import ClickModel
from ondevice.models.training.phases import rounded
from ondevice.models.training.trainer import evaluate
from ondevice.records import pack_records
from ondevice.text_table import size, table


@dataclass(frozen=True)
class CodecScore:
    """One codec.

    Attributes:
        codec: its name.
        table_bytes: of all tables in an .odm file, scales and width indexes included.
        error: root mean square rounding error of all kept values over their root mean square.
        auc: of the model with its tables rounded.
    """

    codec: Codec
    table_bytes: int
    error: float
    auc: float


def codec_scores(
    model: ClickModel, log: ClickLog, codecs: Sequence[Codec] = CODECS
) -> list[CodecScore]:
    """Error and AUC of a model's tables in each codec, as `ondevice.codecs.quantise` rounds them.

    Raises:
        SpecError: a codec cannot hold the tables.
        DataError: the log has not both labels.
    """
    scores = []
    for codec in codecs:
        stored, error = _stored(model, codec)
        with rounded(model, codec):
            auc = evaluate(model, log).auc
        scores.append(CodecScore(codec, stored, error, auc))
    return scores


def codec_text(scores: Sequence[CodecScore]) -> str:
    """The scores as a table."""
    rows = [
        (item.codec, size(item.table_bytes), f"{item.error:.3%}", f"{item.auc:.4f}")
        for item in scores
    ]
    return table(("tables as", "table bytes", "rounding error", "test AUC"), rows)


def _stored(model: ClickModel, codec: Codec) -> tuple[int, float]:
    """Bytes of all tables, and their relative error."""
    stored, off, total = 0, 0.0, 0.0
    for item in model.tables():
        weight = item.weight.numpy(force=True)
        widths = None if item.mask is None else item.mask.widths().numpy(force=True)
        quantised = quantise(weight, codec, widths=widths)
        stored += sum(item.total for item in table_bytes("", pack_records(quantised)))
        exact = quantise(weight, "f32", widths=widths).dequantise()
        off += float(np.sum((quantised.dequantise() - exact) ** 2))
        total += float(np.sum(exact**2))
    return stored, float(np.sqrt(off / total)) if total else 0.0
