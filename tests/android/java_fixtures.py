"""Model files, requests and expected results for the JUnit tests, made with the Python runtime."""

import base64
import json
import shutil
from pathlib import Path

import jni_library
import numpy as np
from support.runtime import write_small_model
from support.tools import absent, missing

import ondevice
from ondevice.cli import main
from ondevice.codecs import quantise
from ondevice.container import (
    CHECKSUMS,
    HEADER_CRC,
    PADDING_PREFIX,
    open_container,
    write_container,
)
from ondevice.features import FeatureSpec, Field
from ondevice.info import InputSpec, ModelInfo
from ondevice.odm import write_odm
from ondevice.plan import Node, Plan
from ondevice.records import pack_records
from ondevice.spec import binary_code_spec, full_spec

ROOT = Path(__file__).parents[2]
GOLDEN = ROOT / "tests" / "golden"


def no_jni_headers():
    """Why the JNI library cannot be compiled: no JDK, or one without jni.h; empty: it can."""
    if reason := missing("javac"):
        return reason
    general, system = jni_library.jni_headers()
    return absent(general / "jni.h", system / "jni_md.h")


CITIES = ["Paris", "Zürich", "世界", "🎬", "São Paulo"]


def features():
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
    )


SPECS = {
    "user": binary_code_spec(4, code_bits=12, t=5, padding_id=0),
    "city": full_spec(8, 3, padding_id=0, oov_row=1),
    "colour": full_spec(6, 3, padding_id=0, oov_row=1),
    "slot": full_spec(5, 2),
    "price": full_spec(7, 3, oov_row=0),
    "seen": full_spec(8, 4, padding_id=0, oov_row=1),
    "days": binary_code_spec(4, code_bits=12, t=6, padding_id=0),
}
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


def write_fixtures(folder):
    """Everything below the folder that the JUnit tests read."""
    shutil.copy(GOLDEN / "xxh64.json", folder)
    shutil.copy(GOLDEN / "differences.json", folder)
    write_small_model(folder / "small.odm")
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
    write_descriptions(folder / "descriptions")
    write_app_fixtures(folder)


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
    wrong = json.loads(open_container(folder / "small.odm").metadata["info"])["vectors"]
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
    inputs = json.loads(open_container(base).metadata["info"])["inputs"]

    def with_input(**changes):
        return {"inputs": [{**inputs[0], **changes}, *inputs[1:]]}

    def with_field(**changes):
        return {"features": [{**field, **changes}]}

    lies = {
        "inputs": {"inputs": [{"name": "user", "shape": ["batch"], "id_limit": None}]},
        "axis": with_input(shape=["batch", 2**31]),
        "id_limit": with_input(id_limit=0),
        "version": {"version": 2},
        "features": {"features": {}},
        "feature-kind": with_field(kind="colour"),
        "unknown": with_field(more=1),
        "base64-characters": with_field(encoding="vocabulary", vocabulary="AAA\n"),
        "base64-length": with_field(encoding="vocabulary", vocabulary="AAAA"),
        "vocabulary-order": with_field(
            encoding="vocabulary", vocabulary="AQAAAAAAAAAAAAAAAAAAAA=="
        ),
        "feature-unknown-of-hash": with_field(unknown="hash"),
        "feature-unknown-word": with_field(encoding="vocabulary", unknown="maybe"),
        "vocabulary-owner": with_field(encoding="vocabulary", vocabulary_of="nobody"),
        "expected-seed": with_field(seed=2**64),
        "length": with_field(length=5000),
        "output": {"outputs": []},
        "nesting": None,
    }
    for name, change in lies.items():
        rewrite_info(base, folder / f"{name}.odm", change)


def rewrite_info(source, target, change):
    """A copy of a model file whose description is changed; its checksums are right."""
    container = open_container(source)
    info = json.loads(container.metadata["info"])
    text = "[" * 500 + "]" * 500 if change is None else json.dumps({**info, **change})
    arrays = {
        name: container.array(name)
        for name in container.entries
        if name != HEADER_CRC and not name.startswith(PADDING_PREFIX)
    }
    metadata = {name: value for name, value in container.metadata.items() if name != CHECKSUMS}
    write_container(target, arrays, {**metadata, "info": text})
