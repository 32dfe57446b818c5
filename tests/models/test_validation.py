"""Validation rows of a log are read as the model reads cells, or refused."""

from dataclasses import replace

import numpy as np
import pytest

from ondevice.errors import InputError
from ondevice.models.data import LogDescription, LogField, LogLabel, read_log, split
from ondevice.models.data.hashed import encode
from ondevice.models.validation import validation_from_log

TEXTS = ["a", "b", "NA", "c"]


def log_of(tmp_path, texts, kind="string", missing=("",)):
    lines = [f"{text},{number % 2}" for number, text in enumerate(texts * 30)]
    path = tmp_path / "log.csv"
    path.write_text("\n".join(["site,click", *lines]) + "\n", encoding="utf-8")
    described = LogDescription(
        {"click": LogLabel("click")}, {"site": LogField(kind, missing=missing)}
    )
    return read_log(path, described, name="log")


def features_of(log):
    return encode(
        *split(log), ["site"] if log.features["site"].kind != "number" else []
    ).train.features


@pytest.mark.parametrize(
    ("kind", "texts", "marker"),
    [("string", TEXTS, "NA"), ("integer", ["1", "2", "-1"], "-1"), ("number", ["1.5", "-9"], "-9")],
)
def test_markers_that_occur_must_be_the_models(kind, texts, marker, tmp_path):
    plain = log_of(tmp_path, texts, kind)
    marked = log_of(tmp_path, texts, kind, missing=("", marker))
    for log, trained in ((plain, marked), (marked, plain)):
        with pytest.raises(InputError, match=r"'site' takes the cells .* as missing, the model "):
            validation_from_log(log, features_of(trained))
    rows = validation_from_log(marked, features_of(marked)).inputs["site"]
    where = np.array(texts * 30)[_validation_rows(marked)] == marker
    assert (rows[where] == (1 if kind == "number" else 0)).all()
    assert (rows[~where] >= 2).all()
    assert where.any()


def _validation_rows(log):
    numbered = replace(log, times=np.arange(len(log)))
    return split(numbered)[1].times


@pytest.mark.parametrize("kind", ["string", "integer", "number"])
def test_markers_that_do_not_occur_may_differ(kind, tmp_path):
    texts = ["1", "2", "3"]
    model = features_of(log_of(tmp_path, texts, kind, missing=("", "none", "-9")))
    log = log_of(tmp_path, texts, kind, missing=("",))
    assert (validation_from_log(log, model).inputs["site"] >= 2).all()
