"""Model files, requests and expected results for the JUnit tests, made with the Python runtime."""

import base64
import json
import shutil
from dataclasses import replace
from pathlib import Path

import jni_library
import numpy as np
import pytest
from support.deltas import write_pair
from support.native import random_table, write_model
from support.odm_parts import put_together, take_apart
from support.runtime import expected_probabilities, small_ids, write_small_model
from support.signing import LATER, forgeries, private_key, root, sign_folder
from support.tools import absent, missing

import ondevice
from ondevice.cli import main
from ondevice.codecs import quantise
from ondevice.delimited import DelimitedFormat
from ondevice.errors import InputError
from ondevice.features import FeatureSpec, Field
from ondevice.info import InputSpec, ModelInfo, RankingVectors, TestVectors
from ondevice.manifest import NAME
from ondevice.odm import open_odm, write_odm
from ondevice.plan import Node, Plan
from ondevice.ranking import context_splits, repeated_request, split_request
from ondevice.records import pack_records
from ondevice.spec import binary_code_spec, full_spec
from ondevice.verify import verify

ROOT = Path(__file__).parents[2]
GOLDEN = ROOT / "tests" / "golden"
JUNIT = Path("/usr/share/java/junit4.jar")


def no_jni_headers():
    """Why the JNI library cannot be compiled: no JDK, or one without jni.h; empty: it can."""
    if reason := missing("javac"):
        return reason
    general, system = jni_library.jni_headers()
    return absent(general / "jni.h", system / "jni_md.h")


CITIES = ["Paris", "Zürich", "世界", "🎬", "São Paulo"]


def features():
    """Fields of every kind; vocabularies keep as few bits of a hash as a converted file does."""
    city = Field("city", "string", seed=2**64 - 1)
    city = Field("city", "string", "vocabulary", 2**64 - 1, np.sort(city.hashes(CITIES)))
    colour = Field("colour", "integer", "vocabulary", 9)
    known = np.sort(colour.hashes([5, -7, 2**63 - 1]))
    return FeatureSpec(
        (
            Field("user", "string", "hash", seed=2**63 + 11),
            city,
            Field("colour", "integer", "vocabulary", 9, known, unknown="hash"),
            Field("slot", "integer", "id"),
            Field("price", "number", "bucket", boundaries=np.array([-2.5, 0.0, 1.0, 1e300])),
            Field("seen", "string", "vocabulary", 2**64 - 1, city.vocabulary, length=3),
            Field("days", "integer", "hash", seed=3, length=2),
        )
    ).with_short_hashes()


SPECS = {
    "user": binary_code_spec(4, code_bits=12, t=5, padding_id=0),
    "city": full_spec(8, 3, padding_id=0, oov_row=1),
    "colour": full_spec(6, 3, padding_id=0, oov_row=1),
    "slot": full_spec(5, 2),
    "price": full_spec(7, 3, oov_row=0),
    "seen": full_spec(8, 4, padding_id=0, oov_row=1),
    "days": binary_code_spec(4, code_bits=12, t=6, padding_id=0),
}
# Files that Python and Java verify: wrong are the ranked scores of three.
VERIFIED = ("small", "ranked", "sampled", "mixed", "wrong_ranking", "nan_ranking", "numbers")
LENGTHS = {"seen": 3, "days": 2}


def write_features_model(path):
    """Every kind of raw value; sequences are summed, and all vectors are added up."""
    rng = np.random.default_rng(5)
    tables, nodes, parts = {}, [], []
    for name, spec in SPECS.items():
        values = rng.normal(size=(spec.rows, spec.dim)).astype(np.float32)
        tables[name] = pack_records(quantise(values, "q8", scale_axis="row"))
        nodes.append(Node("Lookup", (name,), (f"{name}.v",), {}, name, spec))
        parts.append(f"{name}.v")
        if name in LENGTHS:
            nodes.append(Node("ReduceSum", (f"{name}.v", "one"), (f"{name}.s",), {"keepdims": 0}))
            parts[-1] = f"{name}.s"
    nodes += [
        Node("Concat", tuple(parts), ("all",), {"axis": -1}),
        Node("ReduceMean", ("all", "one"), ("logit",), {"keepdims": 0}),
        Node("Sigmoid", ("logit",), ("probability",), {}),
    ]
    layouts = {name: table.layout for name, table in tables.items()}
    plan = Plan(tuple(SPECS), ("probability",), tuple(nodes), ("one",), layouts)
    inputs = tuple(
        InputSpec(
            name,
            ("batch", LENGTHS[name]) if name in LENGTHS else ("batch",),
            spec.rows if spec.scheme == "full" and spec.oov_row is None else None,
        )
        for name, spec in SPECS.items()
    )
    info = ModelInfo(inputs=inputs, outputs=("probability",), features=features())
    write_odm(path, plan, info, {"one": np.array([1], dtype=np.int64)}, tables)


def write_cells_model(path):
    """A model with the fields of the golden cells, in the form that names a log's layout too."""
    fields = json.loads((GOLDEN / "cells.json").read_text("utf-8"))["features"]
    features = replace(FeatureSpec.from_json(fields), text_format=DelimitedFormat("\t", None))
    spec = full_spec(4, 2, oov_row=0)
    table = pack_records(quantise(np.ones((4, 2), np.float32), "f32"))
    names = tuple(field.name for field in features.fields)
    nodes = [Node("Lookup", (name,), (f"{name}.v",), {}, "table", spec) for name in names]
    inputs = []
    for number, field in enumerate(features.fields):
        shape = ("batch",) if field.length is None else ("batch", field.length)
        inputs.append(InputSpec(field.name, shape))
        if field.length is not None:
            out = (f"{field.name}.s",)
            nodes.append(Node("ReduceSum", (*nodes[number].outputs, "one"), out, {"keepdims": 0}))
    parts = tuple(f"{f.name}.{'v' if f.length is None else 's'}" for f in features.fields)
    nodes += [
        Node("Concat", parts, ("all",), {"axis": -1}),
        Node("ReduceMean", ("all", "one"), ("mean",), {"keepdims": 0}),
        Node("Sigmoid", ("mean",), ("probability",), {}),
    ]
    plan = Plan(names, ("probability",), tuple(nodes), ("one",), {"table": table.layout})
    info = ModelInfo(inputs=tuple(inputs), outputs=("probability",), features=features)
    write_odm(path, plan, info, {"one": np.array([1], dtype=np.int64)}, {"table": table})


def raw_rows():
    return {
        "user": ["a", "", None, "Grüße, 世界 🎬", "x" * 40],
        "city": ["Paris", "nowhere", None, "🎬", "Zürich"],
        "colour": [5, 6, None, 2**63 - 1, -7],
        "slot": [0, 4, 3, 2, 1],
        "price": [-2.5, None, 0, 1e301, -0.0],
        "seen": [["Paris", None, "x", "🎬"], [], None, ["世界"], ["Paris", "Zürich", "🎬"]],
        "days": [[1, 2, 3], [], None, [-(2**63)], [7, None]],
    }


def write_large_model(path):
    """A table of 9.6 MB: more than what is read instead of mapped."""
    spec = full_spec(100_000, 24)
    table = random_table(spec, "f32", np.random.default_rng(0), truncated=False)
    write_model(path, {"a": spec}, {"a": table}, [], {}, ["a.vector"])


def write_fixtures(folder):
    """Everything below the folder that the JUnit tests read."""
    shutil.copy(GOLDEN / "xxh64.json", folder)
    shutil.copy(GOLDEN / "cells.json", folder)
    write_cells_model(folder / "cells.odm")
    shutil.copy(GOLDEN / "differences.json", folder)
    write_small_model(folder / "small.odm")
    write_large_model(folder / "large.odm")
    write_features_model(folder / "features.odm")
    raw = raw_rows()
    ids = features().encode(raw)
    encoded = [
        {
            "model": "features.odm",
            "raw": raw,
            "ids": {name: array.reshape(-1).tolist() for name, array in ids.items()},
        }
    ]
    (folder / "encoded.json").write_text(json.dumps(encoded), encoding="utf-8")
    model = ondevice.load(folder / "features.odm", engine="numpy")
    requests = []
    for names in (
        (), ("user",), ("slot", "seen"), ("seen", "days", "user"), tuple(SPECS)[1:], ("price",)
    ):  # fmt: skip
        many = {name: values for name, values in raw.items() if name not in names}
        if not names:
            request = {"candidates": many, "scores": model.predict(many, raw=True).tolist()}
        else:
            one = {name: raw[name][3:4] for name in names}
            scores = model.rank(one, many, raw=True).tolist()
            request = {"context": one, "candidates": many, "scores": scores}
        requests.append({"model": "features.odm", **request})
    (folder / "requests.json").write_text(json.dumps(requests), encoding="utf-8")
    write_mixed_fixtures(folder)
    write_ranked(folder)
    write_descriptions(folder / "descriptions")
    write_app_fixtures(folder)
    write_signed(folder / "signed")
    write_pair(folder / "updates")


def write_signed(folder):
    """A set signed by key 1 at version 5, its next root, and forgeries of its manifest."""
    signer, new, anna, ben = (private_key(seed) for seed in (1, 2, 11, 12))
    models = folder / "models"
    models.mkdir(parents=True)
    write_small_model(models / "m.odm")
    for version in (4, 5, 6):
        sign_folder(models, signer, version=version, expires=LATER)
        (models / NAME).rename(folder / f"version{version}.json")
    sign_folder(models, signer, version=5)  # does not expire
    (models / NAME).rename(folder / "other5.json")
    sign_folder(models, new, version=1)
    (models / NAME).rename(folder / "new.json")
    for name, key in (("signer", signer), ("new", new)):
        (folder / f"{name}.pub").write_text(key.public.to_pem())
    (folder / "1.root.json").write_bytes(root([anna, ben], [signer], anna, ben, thresholds=(2, 1)))
    (folder / "unsigned.root.json").write_bytes(
        root([anna, ben], [signer], anna, thresholds=(2, 1))
    )
    (folder / "2.root.json").write_bytes(
        root([anna, ben], [new], anna, ben, version=2, thresholds=(2, 1), expires=LATER)
    )
    (folder / "forged.root.json").write_bytes(root([new], [new], new, version=2))
    (folder / "forged").mkdir()
    for number, forgery in enumerate(forgeries()):
        (folder / "forged" / f"{number}.json").write_bytes(forgery.data)


def plain_vectors(vectors):
    """Test vectors as JSON with arrays in base64, as in descriptions of version 1."""
    parts = {"inputs": vectors.inputs, "outputs": vectors.outputs}
    arrays = {
        part: {
            name: {
                "shape": list(array.shape),
                "data": base64.b64encode(array.tobytes()).decode(),
                "dtype": array.dtype.name,
            }
            for name, array in values.items()
        }
        for part, values in parts.items()
    }
    return {**arrays, "tolerance": vectors.tolerance}


def vectors_of(path):
    """Test vectors of a file; see `plain_vectors`."""
    return plain_vectors(open_odm(path).info.vectors)


def ranked_vectors(source):
    """Test vectors of a file as JSON, with ranked scores of plain Python for two splits."""
    vectors = vectors_of(source)
    rows = {name: values[:8] for name, values in small_ids(32).items()}
    for context in (["user"], ["colour", "slot"]):
        scores = expected_probabilities(repeated_request(rows, context)).astype("<f4")
        data = base64.b64encode(scores.tobytes()).decode()
        outputs = {"probability": {"shape": [8], "data": data, "dtype": "float32"}}
        vectors.setdefault("rankings", []).append({"context": context, "outputs": outputs})
    return vectors


def altered(array, row, add):
    """The same array of the description, one value of it larger."""
    values = np.frombuffer(base64.b64decode(array["data"]), "<f4").copy()
    values[row] += add
    return {**array, "data": base64.b64encode(values.tobytes()).decode()}


def write_numbers_model(path):
    """Three inputs, two of them numbers that no table reads, and a score far beyond 1.

    The source's ranked score of one row is said to be a tenth more than it is: a relative
    difference of 1/11.
    """
    rng = np.random.default_rng(6)
    spec = full_spec(6, 3, oov_row=0)
    table = rng.normal(size=(spec.rows, spec.dim)).astype(np.float32)
    weight = (rng.integers(1, 8, (1, 6)) / 8).astype(np.float32)  # nothing cancels
    nodes = (
        Node("Lookup", ("user",), ("user.v",), {}, "user", spec),
        Node("Cast", ("price",), ("price.f",), {"to": 1}),
        Node("Cast", ("age",), ("age.f",), {"to": 1}),
        Node("Concat", ("user.v", "price.f", "age.f"), ("all",), {"axis": -1}),
        Node("Gemm", ("all", "w", "b"), ("count",), {"transB": 1}),
    )
    packed = pack_records(quantise(table, "q8", scale_axis="row"))
    plan = Plan(("user", "price", "age"), ("count",), nodes, ("w", "b"), {"user": packed.layout})
    ids = {
        "user": rng.integers(0, 6, 90),
        "price": rng.integers(0, 9, (90, 2)),
        "age": rng.integers(1, 9, (90, 1)),
    }

    def count(rows):
        values = packed.read(rows["user"])
        return (np.concatenate([values, rows["price"], rows["age"]], 1) @ weight.T + 5).astype("f4")

    wrong = count(repeated_request({k: v[:70] for k, v in ids.items()}, ("user", "age")))
    wrong[3] *= 1.1
    vectors = TestVectors(
        ids, {"count": count(ids)}, 1e-5, (RankingVectors(("user", "age"), {"count": wrong}),)
    )
    shapes = {"user": ("batch",), "price": ("batch", 2), "age": ("batch", 1)}
    inputs = tuple(InputSpec(name, shape) for name, shape in shapes.items())
    info = ModelInfo(inputs=inputs, outputs=("count",), vectors=vectors)
    write_odm(path, plan, info, {"w": weight, "b": np.full(1, 5, np.float32)}, {"user": packed})


MIXED = (
    InputSpec("user", id_limit=6),
    InputSpec("day", id_limit=8, id_low=-7, id_computed=True),
    InputSpec("columns", ("batch", 3), id_limit=(4, None, 3), id_low=(0, 0, -2)),
    InputSpec("price", dtype="float32"),
    InputSpec("matrix", ("batch", 2), id_limit=(5, None), dtype="float32"),
)
MIXED_ROWS = 70  # more than the engine holds at once


def mixed_values(rows):
    """Values of every input, the ends of their limits among them."""
    rng = np.random.default_rng(8)
    columns = [rng.integers(0, 4, rows), rng.integers(-9, 9, rows), rng.integers(-2, 3, rows)]
    matrix = [rng.uniform(-0.9, 4.9, rows), rng.normal(size=rows)]
    values = {
        "user": rng.integers(0, 6, rows),
        "day": rng.integers(-7, 8, rows),
        "columns": np.stack(columns, 1),
        "price": rng.normal(size=rows).astype(np.float32),
        "matrix": np.stack(matrix, 1).astype(np.float32),
    }
    values["user"][:2] = 0, 5
    values["day"][:2] = -7, 7
    values["columns"][:2] = [[0, -(2**40), -2], [3, 2**40, 2]]
    return values


def write_mixed_model(path):
    """A model of numbers, computed IDs and one embedding, with two outputs; its scores.

    Returns a function from values by input to float32 scores by output, in plain numpy: `count`
    [rows] and `parts` [rows, 3].
    """
    rng = np.random.default_rng(9)
    spec = full_spec(6, 3)
    table = rng.normal(size=(spec.rows, spec.dim)).astype(np.float32)
    packed = pack_records(quantise(table, "f32"))
    weight = (rng.integers(1, 8, (3, 10)) / 8).astype(np.float32)
    nodes = [Node("Lookup", ("user",), ("user.v",), {}, "user", spec)]
    parts = ["user.v"]
    for item in MIXED[1:]:
        number = item.name
        if item.dtype == "int64":
            number = f"{item.name}.f"
            nodes.append(Node("Cast", (item.name,), (number,), {"to": 1}))
        if len(item.shape) == 1:
            nodes.append(Node("Unsqueeze", (number, "one"), (f"{item.name}.column",), {}))
            number = f"{item.name}.column"
        parts.append(number)
    nodes += [
        Node("Concat", tuple(parts), ("all",), {"axis": 1}),
        Node("Gemm", ("all", "w", "b"), ("raw",), {"transB": 1}),
        Node("Tanh", ("raw",), ("parts",), {}),
        Node("ReduceSum", ("parts", "one"), ("count",), {"keepdims": 0}),
    ]
    bias = np.array([0.5, -1, 0], np.float32)
    weights = {"w": weight, "b": bias, "one": np.array([1], np.int64)}

    def scores(values):
        single = [
            values[n][:, None] if values[n].ndim == 1 else values[n] for n in list(values)[1:]
        ]
        joined = np.concatenate([table[values["user"]], *single], 1).astype(np.float64)
        tanh = np.tanh(joined @ weight.T.astype(np.float64) + bias)
        return {"count": tanh.sum(1).astype(np.float32), "parts": tanh.astype(np.float32)}

    values = mixed_values(MIXED_ROWS)
    outputs = ("count", "parts")
    plan = Plan(tuple(s.name for s in MIXED), outputs, tuple(nodes), tuple(weights),
                {"user": packed.layout})  # fmt: skip
    info = ModelInfo(MIXED, outputs, vectors=TestVectors(values, scores(values), 1e-5))
    write_odm(path, plan, info, weights, {"user": packed})
    return scores


def as_given(values):
    """Arrays for the JUnit tests: their kind, and their values row after row."""
    return {
        name: {"floats" if array.dtype == np.float32 else "ids": array.reshape(-1).tolist()}
        for name, array in values.items()
    }


def write_mixed_fixtures(folder):
    """Requests of the mixed model for every split, what it refuses, and a wrong second output."""
    scores = write_mixed_model(folder / "mixed.odm")
    values = mixed_values(MIXED_ROWS)
    found = []
    for context in ((), *context_splits(list(values))):
        expected = scores(repeated_request(values, context))
        single, many = split_request(values, context)
        found.append(
            {"context": as_given(single), "candidates": as_given(many),
             "outputs": {name: array.reshape(-1).tolist() for name, array in expected.items()}}
        )  # fmt: skip
    legal, refused = mixed_values(2), []
    model = ondevice.load(folder / "mixed.odm", engine="numpy")
    for name, element, ends in (
        ("user", 0, (-1, 6)), ("day", 0, (-8, 8)), ("columns", 0, (-1, 4)),
        ("columns", 2, (-3, 3)), ("matrix", 0, (-1.0, 5.0)),
    ):  # fmt: skip
        for value in ends:
            wrong = {key: array.copy() for key, array in legal.items()}
            wrong[name].reshape(2, -1)[1, element] = value
            with pytest.raises(InputError, match=name):
                model.predict(wrong)
            refused.append({"input": name, "inputs": as_given(wrong)})
    (folder / "mixed.json").write_text(json.dumps({"requests": found, "refused": refused}))
    vectors = vectors_of(folder / "mixed.odm")
    vectors["outputs"]["parts"] = altered(vectors["outputs"]["parts"], 5, 2)
    rewrite_info(folder / "mixed.odm", folder / "wrong_second.odm", {"vectors": vectors})


def write_ranked(folder):
    """Files that hold ranked scores, right and wrong, and what Python makes of them."""
    base = folder / "small.odm"
    vectors = ranked_vectors(base)
    rewrite_info(base, folder / "ranked.odm", {"vectors": vectors})
    scores = vectors["rankings"][1]["outputs"]["probability"]
    for name, add in (("wrong_ranking", 0.25), ("nan_ranking", np.nan)):
        vectors["rankings"][1]["outputs"]["probability"] = altered(scores, 5, add)
        rewrite_info(base, folder / f"{name}.odm", {"vectors": vectors})
    write_numbers_model(folder / "numbers.odm")
    raw = features().encode(raw_rows())
    score = ondevice.load(folder / "features.odm", engine="numpy").predict(raw)
    vectors = plain_vectors(
        TestVectors(raw, {"probability": score}, 1e-5)
    )  # seven inputs: a sample of the splits
    rewrite_info(folder / "features.odm", folder / "sampled.odm", {"vectors": vectors})
    found = [
        {"model": f"{name}.odm", "passed": done.passed, "rows": done.rows,
         "max_difference": done.max_difference,
         "rank_difference": None if np.isnan(done.rank_difference) else done.rank_difference}
        for name in VERIFIED for done in [verify(folder / f"{name}.odm", engine="numpy")]
    ]  # fmt: skip
    (folder / "verifications.json").write_text(json.dumps(found), encoding="utf-8")


def write_app_fixtures(folder):
    """Assets of the demo app, a model whose test vectors are wrong, and docs/bench.md's example."""
    (folder / "users.csv").write_text("name,user\nAna,a\nZoë,Grüße\nnobody,\n", encoding="utf-8")
    (folder / "items.csv").write_text(
        'title,colour,slot\nstone,17,0\n"Ελιά, 红",5,1\nnew,6,2\nnone,,3\nlast,-7,4\n',
        encoding="utf-8",
    )
    words = [str(folder / "small.odm"), "--users", str(folder / "users.csv")]
    words += ["--items", str(folder / "items.csv"), "--out", str(folder / "assets")]
    assert main(["export-android", *words]) == 0
    wrong = vectors_of(folder / "small.odm")
    wrong["outputs"]["probability"]["data"] = base64.b64encode(bytes(4 * 32)).decode()
    rewrite_info(folder / "small.odm", folder / "wrong_vectors.odm", {"vectors": wrong})
    docs = (ROOT / "docs" / "bench.md").read_text(encoding="utf-8")
    example = docs.split("```json\n", 1)[1].split("```", 1)[0]
    (folder / "example_report.json").write_text(example, encoding="utf-8")


def write_descriptions(folder):
    """Files whose description lies; their names begin with a word of the error expected."""
    folder.mkdir()
    field = {"name": "user", "kind": "string", "encoding": "hash", "seed": 0}

    base = folder.parent / "small.odm"
    described = take_apart(base).info
    inputs = described["inputs"]

    def with_input(**changes):
        return {"inputs": [{**inputs[0], **changes}, *inputs[1:]]}

    def with_field(**changes):
        return {"features": [{**field, **changes}]}

    def with_ranking(**changes):
        vectors = ranked_vectors(base)
        vectors["rankings"][0] |= changes
        return {"vectors": vectors}

    def with_scores(**changes):
        right = ranked_vectors(base)["rankings"][0]["outputs"]["probability"]
        return with_ranking(outputs={"probability": {**right, **changes}})

    def with_vector(**changes):
        vectors = json.loads(json.dumps(described["vectors"]))
        vectors["inputs"]["user"] |= changes
        return {"vectors": vectors}

    hashes = {"count": 3, "at": 0}
    lies = {
        "inputs": {"inputs": [{"name": "user", "shape": ["batch"], "id_limit": None}]},
        "axis": with_input(shape=["batch", 2**31]),
        "id_limit": with_input(id_limit="5"),
        "id_low": with_input(id_low=[0, 0]),
        "neither-dtype": with_input(dtype="float64"),
        "version": {"version": 3},
        "features": {"features": {}},
        "feature-kind": with_field(kind="colour"),
        "unknown": with_field(more=1),
        "base64-characters": with_field(encoding="vocabulary", vocabulary="AAA\n"),
        "base64-length": with_field(encoding="vocabulary", vocabulary="AAAA"),
        "vocabulary-order": with_field(
            encoding="vocabulary", vocabulary="AQAAAAAAAAAAAAAAAAAAAA=="
        ),
        "hash_bits": with_field(encoding="vocabulary", vocabulary=hashes, hash_bits=65),
        "hashes": with_field(encoding="vocabulary", vocabulary={"count": 2**40, "at": 0}),
        "hashes-negative": with_field(encoding="vocabulary", vocabulary={"count": -1, "at": 0}),
        "leaves-hashes": with_field(encoding="vocabulary", vocabulary={"count": 3, "at": 10**9}),
        "Elias-Fano": with_field(encoding="vocabulary", vocabulary=hashes, hash_bits=20),
        "array-place": with_field(encoding="vocabulary", vocabulary={"count": 3}),
        "array-dtype": with_field(
            kind="number", encoding="bucket", boundaries={"dtype": "C64", "shape": [1], "at": 0}
        ),
        "array-shape": with_vector(shape=[2**62, 4]),
        "array-negative": with_vector(shape=[-1]),
        "array-of-nothing": with_vector(shape=None),
        "leaves-array": with_vector(at=10**6),
        "leaves-negative": with_vector(at=-1),
        "missing": with_field(cells={"missing": "NA"}),
        "cells-separator": with_field(cells={"missing": [], "separator": ""}),
        "part": with_field(kind="integer", cells={"missing": [], "part": "minute"}),
        "cells-unknown": with_field(cells={"missing": [], "trim": True}),
        "feature-unknown-of-hash": with_field(unknown="hash"),
        "feature-unknown-word": with_field(encoding="vocabulary", unknown="maybe"),
        "vocabulary-owner": with_field(encoding="vocabulary", vocabulary_of="nobody"),
        "expected-seed": with_field(seed=2**64),
        "length": with_field(length=5000),
        "output": {"outputs": []},
        "rankings-type": {"vectors": {**ranked_vectors(base), "rankings": {}}},
        "rankings-null": {"vectors": {**ranked_vectors(base), "rankings": None}},
        "rankings-input": with_ranking(context=["nobody"]),
        "rankings-name": with_ranking(context=[1]),
        "rankings-outputs": with_ranking(outputs={}),
        "rankings-more-rows": with_scores(shape=[33]),
        "rankings-no-rows": with_scores(shape=[0], data=""),
        "shape": with_scores(shape=8),
        "rankings-cut": with_scores(shape=[3]),
        "base64-scores": with_scores(data="AAA\n"),
        "nesting": None,
    }
    for name, change in lies.items():
        rewrite_info(base, folder / f"{name}.odm", change)


def rewrite_info(source, target, change):
    """A copy of a model file whose description is changed; its checksums are right."""
    parts = take_apart(source)
    parts.info = "[" * 500 + "]" * 500 if change is None else {**parts.info, **change}
    put_together(target, parts)
