"""The C reader of raw values: golden cells, exact decimals, and what Python says of random ones."""

import json
import math
import random
import re
import struct
import subprocess
from decimal import Decimal, localcontext
from pathlib import Path

import numpy as np
import pytest
from support.engine import FEATURES, needs_sanitizers
from support.native import write_model
from support.raw_values import answers, golden_value, request

from ondevice import elias_fano
from ondevice.attached_arrays import Attached
from ondevice.codecs import quantise
from ondevice.errors import InputError, SpecError
from ondevice.features import FeatureSpec, Field
from ondevice.spec import full_spec

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "cells.json").read_text("utf-8"))
SPEC = FeatureSpec.from_json(GOLDEN["features"])
NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?")
LETTERS = " +-.,:;|/0123456789eETZNaAtrufls\0\né\u0663\uff11\U0001f600"
WRONG = (b"\xff", b"a\x80", b"\xc0\xaf", b"\xed\xa0\x80", b"\xf5\x80\x80\x80", b"\xe2\x82")
pytestmark = needs_sanitizers


@pytest.fixture(scope="module")
def program(sanitized, tmp_path_factory):
    path = tmp_path_factory.mktemp("features") / "encode_raw"
    sanitized(Path(__file__).with_name("encode_raw.c"), path, *FEATURES)
    return path


@pytest.fixture(scope="module")
def description(tmp_path_factory):
    return write_description(tmp_path_factory.mktemp("features"), GOLDEN["features"])


def write_description(folder, features):
    path = folder / "description.json"
    path.write_text(json.dumps({"version": 1, "features": features}))
    return path


@pytest.mark.parametrize("features", [SPEC, SPEC.with_short_hashes()], ids=["whole", "short"])
def test_golden_cells_through_a_model(program, tmp_path, features):
    table = quantise(np.zeros((3, 2), np.float32), "f32")
    spec = full_spec(3, 2)
    model = write_model(
        tmp_path / "m.odm", {"a": spec}, {"a": table}, [], {}, ["a.vector"], features=features
    )
    cases = GOLDEN["cases"]
    lines = [request(case["field"], golden_value(case["type"], case["value"])) for case in cases]
    for case, answer in zip(cases, answers([program, model], lines), strict=True):
        if case["ids"] is None:
            assert isinstance(answer, str) and f"feature '{case['field']}'" in answer, case
        else:
            assert answer == case["ids"], case


VOCABULARY = {"name": "a", "encoding": "vocabulary", "hash_bits": 20,
              "vocabulary": {"count": 3, "at": 0}}  # fmt: skip
GROUPS = {**VOCABULARY, "vocabulary": [{"count": 3, "at": 0}, {"count": 2, "at": 9}]}
NUMBERS = {"name": "a", "kind": "number", "encoding": "bucket",
           "boundaries": {"dtype": "F32", "shape": [2], "at": 0}}  # fmt: skip
CODE = elias_fano.encode(np.array([5, 9, 2**20 - 1], np.uint64), 20)
IN_GROUPS = CODE + elias_fano.encode(np.array([4, 8], np.uint64), 20)
ASCENDING = np.array([-1, 2.5], "<f4").tobytes()


@pytest.mark.parametrize(
    ("field", "arrays"),
    [
        *(({**VOCABULARY, **change}, CODE) for change in (
            {"hash_bits": 0}, {"hash_bits": 65}, {"hash_bits": "20"}, {"hash_bits": 19},
            {"vocabulary": {"count": 3, "at": 1}}, {"vocabulary": {"count": 4, "at": 0}},
            {"vocabulary": {"count": -1, "at": 0}}, {"vocabulary": {"count": 2**62, "at": 0}},
            {"vocabulary": {"count": 3, "at": -1}}, {"vocabulary": {"count": 3}},
            {"vocabulary": {"count": 0, "at": 99}}, {"vocabulary": []},
            {"encoding": "hash"},
        )),
        *(({**GROUPS, "vocabulary": groups}, IN_GROUPS) for groups in (
            GROUPS["vocabulary"][:1] * 2,  # every hash is in two groups
            [*GROUPS["vocabulary"], {"count": 0, "at": 0}],
            [*GROUPS["vocabulary"], 3], [*GROUPS["vocabulary"], None],
            [GROUPS["vocabulary"]], [*GROUPS["vocabulary"], "not base64"],
            [{"count": 3, "at": 0}, {"count": 3, "at": 9}],
            [{"count": 1, "at": len(IN_GROUPS)}],
            [""], ["AAAAAAAAAAA=", "AAAAAAAAAAA="], ["AAAAAAAAEAA="],
            ["AAAAAAAAAAA="] * 17, ["AQAAAAAAAAAAAAAAAAAAAA=="],
        )),
        ({**GROUPS, "hash_bits": 19}, IN_GROUPS),
        ({**GROUPS, "encoding": "id", "kind": "integer"}, IN_GROUPS),
        *((VOCABULARY, wrong) for wrong in (
            b"", CODE[:-1], CODE[:-1] + b"\0", CODE[:-1] + b"\xff", bytes(len(CODE)),
            b"\0" * 7 + CODE[7:],  # two equal numbers
        )),
        *(({**NUMBERS, "boundaries": NUMBERS["boundaries"] | change}, ASCENDING) for change in (
            {"dtype": "F16"}, {"dtype": "F64"}, {"dtype": 1}, {"shape": [3]}, {"shape": [-1]},
            {"shape": [2**62]}, {"shape": [1, 2]}, {"at": 1}, {"at": -1}, {"at": 2**63},
        )),
        (NUMBERS, np.array([2.5, -1], "<f4").tobytes()),
        (NUMBERS, np.array([1, 1], "<f4").tobytes()),
        (NUMBERS, np.array([1, np.inf], "<f4").tobytes()),
    ],
)  # fmt: skip
def test_arrays_that_are_not_there_are_refused(program, tmp_path, field, arrays):
    """By both readers; what is right is read by both."""
    path = tmp_path / "description"
    for right, good in ((VOCABULARY, CODE), (GROUPS, IN_GROUPS), (NUMBERS, ASCENDING)):
        text = json.dumps({"version": 2, "features": [right]}).encode()
        path.write_bytes(text + b"\0" + good)
        assert subprocess.run([program, path], input=b"", capture_output=True).stdout == b""
        FeatureSpec.from_json([right], Attached(good))
    text = json.dumps({"version": 2, "features": [field]}).encode()
    path.write_bytes(text + b"\0" + arrays)
    done = subprocess.run([program, path], input=b"", capture_output=True, check=False)
    assert done.returncode == 1, done.stderr
    assert done.stdout.startswith(b"! feature")
    with pytest.raises(SpecError):
        FeatureSpec.from_json([field], Attached(arrays))


def in_python(field, value):
    """What `answers` gives: the IDs, or None of an error."""
    try:
        ids = SPEC[field].encode([value])[0]
    except InputError:
        return None
    return ids.tolist() if SPEC[field].length else [int(ids)]


def mutated(rng, text):
    """A text with up to three letters inserted, removed or replaced."""
    letters = list(text)
    for _ in range(rng.randrange(4)):
        at = rng.randrange(len(letters) + 1)
        letters[at : at + rng.randrange(2)] = rng.choice(["", rng.choice(LETTERS)])
    return "".join(letters)


def random_value(rng, texts):
    kind = rng.random()
    if kind < 0.7:
        return mutated(rng, rng.choice(texts))
    if kind < 0.75:
        return "".join(rng.choice(LETTERS) for _ in range(rng.randrange(24)))
    if kind < 0.85:
        return rng.choice([1, -1]) * rng.getrandbits(rng.randrange(1, 64))
    if kind < 0.95:
        exponent = rng.randrange(-3, 18)
        return rng.choice([rng.uniform(-1, 1), float(rng.randrange(-9, 9))]) * 10**exponent
    return rng.choice([None, True, False, math.nan, math.inf, -math.inf])


def test_random_values_agree_with_python(program, description):
    rng = random.Random(7)  # noqa: S311
    texts = [case["value"] for case in GOLDEN["cases"] if case["type"] == "text"]
    names = [field.name for field in SPEC.fields]
    questions = []
    for _ in range(40000):
        value = random_value(rng, texts)
        if rng.random() < 0.1:
            value = [random_value(rng, texts) for _ in range(rng.randrange(6))]
        questions.append((rng.choice(names), value))
    replies = answers([program, description], [request(*question) for question in questions])
    counts = [0, 0]
    for (name, value), reply in zip(questions, replies, strict=True):
        expected = in_python(name, value)
        assert (None if isinstance(reply, str) else reply) == expected, (name, value, reply)
        counts[expected is None] += 1
    assert min(counts) > 5000, counts


def test_bytes_that_are_no_utf8_are_refused(program, description):
    lines = [request(field.name, text) for field in SPEC.fields for text in WRONG]
    lines += [request("tags", [b"a", text]) for text in WRONG]
    lines += [request("seen", b"\xff|a|b|c|d")]  # in a part that does not count
    replies = answers([program, description], lines)
    assert all("expected valid UTF-8" in reply for reply in replies)


def halfway(rng):
    """A decimal text at, or very near to, the middle between two doubles."""
    bits = rng.getrandbits(rng.choice([63, rng.randrange(1, 63)]))
    low = struct.unpack("<d", struct.pack("<Q", bits))[0]
    if not math.isfinite(low) or not math.isfinite(math.nextafter(low, math.inf)):
        low = 1.0
    with localcontext() as context:
        context.prec = 1200
        middle = (Decimal(low) + Decimal(math.nextafter(low, math.inf))) / 2
        text = format(middle, rng.choice("ef"))
    digits, mark, exponent = text.partition("e")
    digits += "" if "." in digits else "."
    change = rng.randrange(4)
    if change == 1:
        digits += "0" * rng.randrange(900) + "1"
    elif change == 2:
        digits = digits[:-1]
    return digits + mark + exponent


def random_number(rng):
    kind = rng.randrange(5)
    if kind == 0:
        return halfway(rng)
    if kind == 1:
        return repr(struct.unpack("<d", rng.randbytes(8))[0])
    if kind == 2:
        zeros = rng.randrange(1, 2000)
        return rng.choice([f"0.{'0' * zeros}123e{zeros}", f"123{'0' * zeros}e-{zeros + 330}"])
    parts = ["".join(rng.choices("0123456789", k=rng.randrange(25))) for _ in range(2)]
    exponent = rng.choice(
        ["", f"e{rng.randrange(-350, 350)}", "E+5", "e", "e-99999999999999999999"]
    )
    return rng.choice(["", "-", "+"]) + rng.choice(["", "."]).join(parts) + exponent


def test_decimals_are_the_doubles_that_python_reads(program, description):
    rng = random.Random(3)  # noqa: S311
    texts = ["2.4703282292062327e-324", "2.4703282292062328e-324", "1.7976931348623158e308",
             "1.7976931348623159e308", "2.2250738585072011e-308", "9007199254740993", "-0", "0e9",
             "0.99999999999999994", "0.99999999999999995", ".", "", "1" * 5000]  # fmt: skip
    texts += [random_number(rng) for _ in range(15000)]
    lines = [request("-", text).replace(" one ", " decimal ") for text in texts]
    done = subprocess.run([program, description], input="\n".join(lines) + "\n", check=True,
                          capture_output=True, text=True)  # fmt: skip
    for text, reply in zip(texts, done.stdout.splitlines(), strict=True):
        is_number = NUMBER.fullmatch(text) and math.isfinite(float(text))
        assert reply == (struct.pack(">d", float(text)).hex() if is_number else "none"), text


def of(**settings):
    """A field's JSON with these settings."""
    return {"name": "a", "kind": "integer", "encoding": "hash", "seed": 0, **settings}


WRONG_SPECIFICATIONS = [
    {}, 3, None, [3], [{"kind": "string"}], [of(name="")], [of(), of()], [of(kind="text")],
    [of(encoding="x")], [of(seed=-1)], [of(seed=2**64)], [of(seed=1.5)], [of(more=1)],
    [of(kind="string", encoding="id")], [of(kind="number")], [of(encoding="bucket")],
    [of(length=0)], [of(length=4097)], [of(length=1.0)], [of(unknown="hash")], [of(unknown=None)],
    [of(kind="number", encoding="bucket", length=2)], [of(vocabulary="AAAAAAAAAAA=")],
    [of(encoding="vocabulary", vocabulary="AAAAAAAAAAAAAAAAAAAAAA==")],
    [of(encoding="vocabulary", vocabulary="AAAA")], [of(encoding="vocabulary", vocabulary="A A=")],
    [of(encoding="vocabulary", vocabulary="AAAAAAAAAAA")], [of(vocabulary_of="b")],
    [of(encoding="vocabulary", vocabulary=3)], [of(boundaries="AAAAAAAAAAA=")],
    [of(kind="number", encoding="bucket", boundaries="AAAAAAAA8H8=")],  # infinity
    [of(kind="number", encoding="bucket", boundaries="AAAAAAAA+H8=")],  # NaN
    *([of(cells=cells)] for cells in (
        [], {}, {"missing": "x"}, {"missing": [3]}, {"missing": [], "more": 1},
        {"missing": [], "separator": ""}, {"missing": [], "separator": None},
        {"missing": [], "column": ""}, {"missing": [], "form": "x"}, {"missing": [], "form": ""},
        {"missing": [], "part": "year"}, {"missing": [], "part": "day"},
        {"missing": [], "form": "boolean", "part": "hour"}, {"missing": [], "utc_offset": 60},
        {"missing": [], "form": "iso", "part": "hour", "utc_offset": 1440})),
    [of(kind="string", cells={"missing": [], "form": "iso"})],
    [of(kind="number", encoding="bucket", cells={"missing": [], "form": "boolean"})],
    {"fields": {}, "text_format": {}, "columns": None},
]  # fmt: skip


@pytest.mark.parametrize("features", WRONG_SPECIFICATIONS, ids=json.dumps)
def test_wrong_specifications_are_refused_as_python_refuses_them(program, tmp_path, features):
    with pytest.raises(SpecError):
        FeatureSpec.from_json(features)
    path = write_description(tmp_path, features)
    done = subprocess.run([program, path], capture_output=True, text=True, input="")
    assert done.returncode == 1 and done.stdout.startswith("! feature") and not done.stderr


@pytest.mark.parametrize(
    ("features", "message"),
    [
        ([of(name=f"f{n}") for n in range(4097)], "features: more than 4096"),
        ([of(cells={"missing": ["\ud800"]})], "second half of a surrogate pair"),
        ([of(cells={"missing": ["\0"]})], "a character other than zero"),
    ],
)
def test_what_only_python_reads_is_refused(program, tmp_path, features, message):
    FeatureSpec.from_json(features)
    path = write_description(tmp_path, features)
    done = subprocess.run([program, path], capture_output=True, text=True, input="")
    assert done.returncode == 1 and message in done.stdout and not done.stderr


def test_settings_left_out_and_shared_vocabularies(program, tmp_path):
    words = Field("w", seed=5)
    vocabulary = np.sort(words.hashes(["x", "y", "z"]))
    spec = FeatureSpec(
        (
            Field("a", "string", "vocabulary", 5, vocabulary),
            Field("b", "string", "vocabulary", 5, vocabulary, unknown="hash"),
            Field("c", "string", "vocabulary", 5),
            Field("d", "integer", "id"),
        )
    )
    features = spec.to_json()
    assert features[1]["vocabulary_of"] == "a"
    features[3] = {"name": "d", "kind": "integer", "encoding": "id", "length": None, "cells": None}
    log = {"fields": features, "text_format": {}, "columns": None}  # as of a log with tabs
    path = write_description(tmp_path, log)
    lines = [request(name, value) for name in "abc" for value in ("x", "q", None)]
    lines += [request("d", 2**63 - 1), request("d", "7")]
    replies = answers([program, path], lines)
    x = 2 + int(np.searchsorted(vocabulary, words.hashes(["x"])[0]))
    assert replies[:6] == [[x], [1], [0], [x], [int(words.hashes(["q"])[0])], [0]]
    assert "vocabulary is not in this file" in replies[6] and replies[8] == [0]
    assert replies[9] == [2**63 - 1] and "expected an integer, got text '7'" in replies[10]


def test_damaged_descriptions_are_errors(program, description, tmp_path):
    """A letter changed, or the end cut off: no wrong access, and nothing that Python refuses."""
    rng = random.Random(1)  # noqa: S311
    text, path = description.read_text(), tmp_path / "damaged.json"
    outcomes = []
    for _ in range(150):
        at = rng.randrange(len(text))
        copy = text[:at] + rng.choice('aQ5=-"}],') + text[at + 1 :]
        path.write_text(copy[: rng.choice([len(copy), len(copy), len(copy), at])])
        done = subprocess.run(
            [program, path], input="word one t41\n", capture_output=True, text=True
        )
        assert done.stderr == "" and done.returncode in (0, 1)
        outcomes.append(done.returncode)
        if done.returncode == 0:
            FeatureSpec.from_json(json.loads(path.read_text())["features"])
    assert set(outcomes) == {0, 1}
