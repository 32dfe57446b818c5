"""Models without vocabularies: hashed IDs read the rows that the vocabulary's IDs did."""

import json

import numpy as np
import pytest
import torch
from support.retrieval import CASES, case_name, golden

import ondevice
from ondevice.cli import main
from ondevice.codecs import quantise
from ondevice.converters import convert
from ondevice.errors import InputError
from ondevice.features import FeatureSpec, Field
from ondevice.hashing import hash_texts
from ondevice.inspection import file_parts
from ondevice.models.checkpoint import save_checkpoint
from ondevice.models.layers.adaptive_mask import AdaptiveMask
from ondevice.models.layers.embeddings import Embedding
from ondevice.models.layers.retrieval import RetrievalEmbedding
from ondevice.models.network_config import NetworkConfig
from ondevice.models.networks import ClickModel
from ondevice.models.retrieval import hashed_ids, without_vocabularies
from ondevice.spec import full_spec

USERS = [f"user {number}" for number in range(400)]
ITEMS = [f"item {number}" for number in range(250)]


def vocabulary(values, seed):
    return np.sort(hash_texts(values, seed))


def field(name, values, seed, **settings):
    return Field(
        name, encoding="vocabulary", seed=seed, vocabulary=vocabulary(values, seed), **settings
    )


def trained(kind):
    """A model with random weights over users, items with a history, and a colour of three."""
    torch.manual_seed(0)
    features = FeatureSpec(
        (
            field("user", USERS, 1),
            field("item", ITEMS, 2),
            field("colour", ["red", "green", "blue"], 3),
            field("items", ITEMS, 2, length=5),
        )
    )
    embeddings = {}
    for name in ("user", "item", "colour"):
        rows = 2 + len(features[name].vocabulary)
        padding = None if name == "user" else 0  # a missing user has a row
        embeddings[name] = Embedding(full_spec(rows, 4, padding_id=padding, oov_row=1), std=1.0)
    network = NetworkConfig(kind, (8,)) if kind != "dnn" else (8,)
    return ClickModel(embeddings, network, {"items": "item"}).eval(), features


RAW = {
    "user": [USERS[3], USERS[77], "a stranger", None, USERS[399]],
    "item": [ITEMS[0], "a strange item", ITEMS[249], ITEMS[7], None],
    "colour": ["red", "blue", "green", "no colour", "red"],
    "items": [ITEMS[:3], [], ["a strange item", ITEMS[5]], ITEMS[:7], [ITEMS[9]]],
}


def tensors(ids):
    return {name: torch.from_numpy(values) for name, values in ids.items()}


@pytest.mark.parametrize("case", CASES, ids=case_name)
def test_golden_vectors(case):
    spec, table, ids, vectors = golden(case)
    layer = RetrievalEmbedding(spec, table)
    np.testing.assert_array_equal(layer(torch.from_numpy(ids)).numpy(), vectors)


@pytest.mark.parametrize("kind", ["dnn", "deepfm", "din"])
def test_files_agree_with_the_model_and_its_vocabulary(kind, tmp_path):
    """An independent reference: the model with a vocabulary and tables rounded by `quantise`."""
    model, features = trained(kind)
    smaller, hashed = without_vocabularies(model, features, "q4", fingerprint_bits=8)
    assert all(item.vocabulary is None for item in hashed.fields)
    assert features["user"].vocabulary is not None
    with torch.no_grad():
        for table in model.tables():
            rounded = quantise(table.weight.numpy(), "q4", scale_axis="column").dequantise()
            table.weight.copy_(torch.from_numpy(rounded))
        expected = model(tensors(features.encode(RAW))).numpy()
        got = smaller(tensors(hashed.encode(RAW))).numpy()
    # strangers pass for a known value with a chance of one in 256; these do not
    np.testing.assert_allclose(got, expected, atol=1e-6)
    example = tensors(hashed.encode(RAW))
    report = convert(smaller, (example,), tmp_path, features=hashed, tables="q8", name=kind)
    assert set(report.targets) == {"odm", "onnx", "tflite"}
    for path in (item.path for item in report.targets.values()):
        np.testing.assert_allclose(
            ondevice.load(path).predict(RAW, raw=True), expected, atol=2e-6, err_msg=str(path)
        )


def test_ids_of_a_vocabulary_as_hashes():
    item = field("user", USERS, 1)
    values = [*USERS[:5], "a stranger", None]
    ids = item.encode(values)
    hashes = hashed_ids(item, ids)
    np.testing.assert_array_equal(hashes[:5], hash_texts(USERS[:5], 1))
    assert hashes[5] not in item.vocabulary
    assert hashes[6] == 0
    assert hashed_ids(item, np.array([-1, 402])).tolist() == [hashes[5]] * 2


def test_rows_are_cut_to_their_widths():
    model, features = trained("dnn")
    table = model.embedding("item")
    table.mask = AdaptiveMask(np.arange(table.spec.rows), 4, 1.0, (4,)).eval()
    table.mask.kept[:] = 3
    smaller, _ = without_vocabularies(model, features, "q8", fields=["item"])
    vectors = smaller.embedding("item")(torch.from_numpy(features["item"].vocabulary))
    assert not vectors[:, 3].any()
    assert vectors[:, 2].any()


def test_refusals():
    model, features = trained("dnn")
    for settings, fault in (
        ({"codec": "f16"}, "codes of up to 8 bits, not f16"),
        ({"codec": "q4", "fields": ["items"]}, "there are those of user, item, colour"),
    ):
        with pytest.raises(InputError, match=fault):
            without_vocabularies(model, features, **settings)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    model, features = trained("dnn")
    folder = tmp_path_factory.mktemp("trained") / "checkpoint"
    examples = {name: ids.tolist() for name, ids in features.encode(RAW).items()}
    save_checkpoint(folder, model, features, {"examples": examples})
    return folder


def test_convert_without_a_map(checkpoint, tmp_path, capsys):
    """The command: files without vocabularies that score as those with them, and verify."""
    for name, options in (("with", []), ("without", ["--map", "retrieval:8"])):
        arguments = [str(checkpoint), "--out", str(tmp_path), "--name", name, "--tables", "q8"]
        assert main(["convert", *arguments, *options]) == 0
    expected = ondevice.load(tmp_path / "with.odm").predict(RAW, raw=True)
    for suffix in ("odm", "onnx", "tflite"):
        path = tmp_path / f"without.{suffix}"
        model = ondevice.load(path)
        assert all(item.vocabulary is None for item in model.features.fields)
        np.testing.assert_allclose(model.predict(RAW, raw=True), expected, atol=2e-3)
        assert main(["verify", str(path)]) == 0
    with_map, without = (file_parts(tmp_path / f"{name}.odm") for name in ("with", "without"))
    assert without.map == 0 < with_map.map
    assert without.total < with_map.total
    capsys.readouterr()
    assert main(["inspect", str(tmp_path / "without.odm")]) == 0
    assert "retrieval" in capsys.readouterr().out
    requests = tmp_path / "requests.csv"
    requests.write_text("user,item,colour,items\nuser 3,item 0,red,item 1|item 2\n")
    assert main(["run", str(tmp_path / "without.odm"), str(requests), "--format", "csv"]) == 0


def test_convert_without_a_map_counts_from_the_trained_model(checkpoint, tmp_path, capsys):
    """AUC and changes are those from the trained rows, not from the rounded ones in the cells."""
    lines = ["user,item,colour,items,label"]
    for number in range(300):
        colour = ("red", "green", "", "a strange one")[number % 4]
        row = (USERS[number], ITEMS[number % 250], colour, f"item {number % 9}|item 2")
        lines.append(",".join((*row, str(number % 7 // 4))))
    rows = tmp_path / "rows.csv"
    rows.write_text("\n".join(lines) + "\n")
    reports = {}
    for name, options in (("with", []), ("without", ["--map", "retrieval:8"])):
        arguments = [str(checkpoint), "--out", str(tmp_path / name), "--tables", "q1"]
        arguments += ["--validation", str(rows), "--targets", "odm", *options]
        assert main(["convert", *arguments]) == 0
        text = (tmp_path / name / "model.report.json").read_text()
        reports[name] = json.loads(text)
    assert reports["with"]["quantisation_difference"] > 0.01
    for key in ("source_auc", "weight_bytes"):
        assert reports["without"][key] == reports["with"][key]
    assert reports["without"]["fitted_auc"] is None
    assert reports["without"]["quantisation_difference"] > 1e-3
    assert reports["without"]["targets"]["odm"]["max_change"] > 0.01
    assert "with fitted tables" not in capsys.readouterr().out


def test_faults_of_the_option(checkpoint, tmp_path, capsys):
    source = [str(checkpoint), "--out", str(tmp_path)]
    for options, fault in (
        (["--map", "retrieval", "--tables", "f16"], "not f16"),
        (["--map", "retrieval", "--tables", "q4:9,q2"], "one codec for all rows"),
        (["--map", "retrieval", "--row-ratio", "2"], "--row-ratio"),
    ):
        assert main(["convert", *source, *options]) == 1
        assert fault in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["convert", *source, "--map", "retrieval:9"])
    assert "F from 0 to 8" in capsys.readouterr().err
