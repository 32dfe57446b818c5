"""The report and the model card: parity of every runtime, AUC, hashes; equal runs, equal bytes."""

import hashlib
import importlib.util
import json
import re

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score
from support.converters import click_ids, click_model, torch_inputs, torch_output

import ondevice
from ondevice.converters import Validation, convert
from ondevice.errors import InputError
from ondevice.features import FeatureSpec, Field
from ondevice.models.validation import validation_from_file


def labelled(rows=400, seed=3):
    """Rows whose labels follow the model, with noise: the AUC is neither 0.5 nor 1."""
    ids = click_ids(rows, seed)
    scores = torch_output(click_model(), ids)
    noise = np.random.default_rng(0).normal(0, scores.std(), rows)
    return Validation(ids, (scores + noise > np.median(scores)).astype(np.float32), "made rows")


@pytest.fixture(scope="module")
def converted(tmp_path_factory):
    folder = tmp_path_factory.mktemp("report")
    report = convert(
        click_model(),
        (torch_inputs(click_ids(8)),),
        folder,
        tables="q4",
        validation=labelled(),
        about={"Data": "rows of a test, *made* here"},
    )
    return folder, report


def test_auc_is_that_of_the_files(converted):
    folder, report = converted
    rows = labelled()
    expected = roc_auc_score(rows.labels, torch_output(click_model(), rows.inputs))
    assert report.source_auc == pytest.approx(expected, abs=1e-12)
    assert 0.6 < expected < 0.99
    for target, item in report.targets.items():
        scores = ondevice.load(folder / f"model.{target}").predict(rows.inputs)
        assert item.auc == pytest.approx(roc_auc_score(rows.labels, scores), abs=1e-12)
        assert item.auc != report.source_auc  # q4 moves something
        change = np.abs(scores - torch_output(click_model(), rows.inputs)).max()
        assert item.max_change >= change > 1e-3


def test_every_runtime_of_this_machine_is_in_the_report(converted):
    _, report = converted
    runtimes = {
        name: [item.runtime.split()[0] for item in target.parity]
        for name, target in report.targets.items()
    }
    assert runtimes["odm"] == ["native", "numpy"]
    assert runtimes["onnx"] == ["onnxruntime"]
    assert runtimes["tflite"][0] == "ai-edge-litert"
    if importlib.util.find_spec("tflite_runtime") is None:
        missing = report.targets["tflite"].not_checked
        assert missing == ("tflite-runtime (not available here)",)


def test_report_lies_beside_the_files(converted):
    folder, report = converted
    stored = json.loads((folder / "model.report.json").read_text())
    assert stored == json.loads(json.dumps(report.to_json(folder=False)))
    for item in stored["targets"].values():
        assert item["path"] in item["files"]
        for name, (count, digest) in item["files"].items():
            data = (folder / name).read_bytes()
            assert (len(data), hashlib.sha256(data).hexdigest()) == (count, digest)


def test_card_says_what_the_files_are(converted):
    folder, report = converted
    card = (folder / "model.md").read_text()
    for item in report.targets.values():
        assert f"`{item.path.name}`" in card
        for count, digest in item.files.values():
            assert f"{count:,}" in card
            assert digest in card
        for parity in item.parity:
            assert parity.runtime in card
    tables = report.targets["onnx"].table_bytes
    count, digest = report.targets["onnx"].files["model.onnx.data"]
    assert f"| `model.onnx.data` | {count:,} | `{digest}` |" in card
    assert count >= tables
    assert "rows of a test, \\*made\\* here" in card
    assert f"float32 torch {report.source_auc:.4f}" in card
    assert re.search(r"\| torch \| \d", card)
    assert re.search(
        r"`embeddings.shop.weight` \| 512 x 8 \| \d\.\d \| q4 \| binary code, 36 b", card
    )
    assert str(folder) not in card


def features():
    return FeatureSpec((Field("user", "string", "hash", 7), Field("age", "integer", "id")))


def test_validation_file(tmp_path):
    path = tmp_path / "rows.csv"
    path.write_text("age,clicked,user\n3,1,anna\n,0,\n7,1.0,x\n", encoding="utf-8")
    rows = validation_from_file(path, features(), "clicked")
    assert rows.labels.tolist() == [1, 0, 1]
    assert rows.inputs["age"].tolist() == [3, 0, 7]
    assert rows.inputs["user"].tolist() == features()["user"].encode(["anna", None, "x"]).tolist()


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("age,user\n1,a\n", "columns clicked are missing"),
        ("age,user,clicked\n1,a,2\n", "row 1 does not"),
        ("age,user,clicked\n1,a,1\n1,a,\n", "row 2 does not"),
        ("age,user,clicked\n1,a,yes\n", "line 2: field 'clicked': expected a number"),
        ("age,user,clicked\nx,a,1\n", "line 2: field 'age': expected a signed 64-bit integer"),
        ("age,user,clicked\n1,a,1\n", "needs both labels"),
        ("age,user,clicked\n", "no rows"),
    ],
)
def test_bad_validation_files(tmp_path, text, fault):
    path = tmp_path / "rows.csv"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(InputError, match=fault):
        validation_from_file(path, features(), "clicked")


def test_validation_rows_must_fit(tmp_path):
    rows = labelled()
    with pytest.raises(InputError, match="not one value per label in user"):
        Validation({**rows.inputs, "user": rows.inputs["user"][:3]}, rows.labels)
    short = Validation({"user": rows.inputs["user"]}, rows.labels)
    with pytest.raises(InputError, match="validation: missing inputs: item, seller"):
        convert(click_model(), (torch_inputs(click_ids(8)),), tmp_path, validation=short)
    assert list(tmp_path.iterdir()) == []
