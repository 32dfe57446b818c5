"""Writes cells.json: how cells and typed values become IDs, values written down by hand.

Shared by the tests of training, of serving in Python and of Java. Each case states the value that a
cell must have; only hashes are computed, by the reference implementation (package xxhash).
Run: python tests/golden/make_cells.py
"""

import base64
import json
import struct
from pathlib import Path

import xxhash

MISSING, REFUSED = "missing", "refused"
MAX, MIN = 2**63 - 1, -(2**63)
MARKERS = ["", "NA", "\\N"]
EDGES = [-2.5, 0.0, 1.0, 1e300]
KNOWN = [5, 7]  # of the field `place`
# Of the field `rank`: values by falling frequency, the frequent ones in a group of their own; so
# that a search over all hashes at once, or in the wrong order, finds other places.
GROUPS = [["c", "a", "f"], ["e", "b", "d", "g", "h"], ["z"]]
CELL_SETTINGS = ("separator", "part", "form", "utc_offset")


def seed_of(name):
    return xxhash.xxh64_intdigest(name.encode(), 0)


def hash_of(name, value):
    data = value.encode() if isinstance(value, str) else value.to_bytes(8, "little", signed=True)
    digest = xxhash.xxh64_intdigest(data, seed_of(name))
    return digest - 2**64 if digest >= 2**63 else digest


def field(name, kind, encoding, missing, **more):
    cells = {"missing": missing}
    cells |= {key: more.pop(key) for key in CELL_SETTINGS if key in more}
    start = {"name": name, "kind": kind, "encoding": encoding, "seed": seed_of(name)}
    return {**start, **more, "cells": cells}


def packed(form, values):
    return base64.b64encode(struct.pack(f"<{len(values)}{form}", *values)).decode()


SORTED = sorted(hash_of("place", value) for value in KNOWN)
RANKED = [sorted(hash_of("rank", value) for value in group) for group in GROUPS]
FIELDS = [
    field("word", "string", "hash", MARKERS),
    field("blank", "string", "hash", ["-1"]),  # an empty cell is a text
    field("count", "integer", "hash", ["", "NA", "-1"]),
    field("place", "integer", "vocabulary", [""], vocabulary=packed("q", SORTED)),
    field("rank", "string", "vocabulary", [""], vocabulary=[packed("q", g) for g in RANKED]),
    field("slot", "integer", "id", [""]),
    field("price", "number", "bucket", ["", "\\N"], boundaries=packed("d", EDGES)),
    field("seen", "string", "hash", ["", "NA"], length=3),
    field("days", "integer", "hash", [""], length=2, separator=";"),
    field("hour", "integer", "hash", ["-"], part="hour"),
    field("weekday", "integer", "hash", ["-"], part="weekday"),
    field("tags", "string", "hash", ["-"], length=2, separator=", "),
    field("flag", "integer", "hash", ["", "NA"], form="boolean"),
    field("moment", "integer", "id", ["", "NULL"], form="iso"),
    field("iso_hour", "integer", "id", [""], form="iso", part="hour"),
    field("iso_day", "integer", "id", [""], form="iso", part="day"),
    field("iso_month", "integer", "id", [""], form="iso", part="month"),
    field("delhi_hour", "integer", "hash", [""], form="iso", part="hour", utc_offset=330),
    field("lima_weekday", "integer", "hash", [""], form="iso", part="weekday", utc_offset=-300),
    field("epoch", "integer", "id", ["", "0"], form="seconds"),
    field("epoch_day", "integer", "id", [""], form="seconds", part="day"),
    field("millis", "integer", "id", [""], form="milliseconds"),
    field("millis_hour", "integer", "hash", [""], form="milliseconds", part="hour"),
    field("age", "number", "bucket", [""], form="iso", boundaries=packed("d", [0.0, 1e9])),
]

# Field, cell, and its value: of "price" the ID of its bucket, of a sequence a list.
TEXTS = [
    *[("word", marker, MISSING) for marker in MARKERS],
    *[
        ("word", text, text)
        for text in (
            *(" NA", "NA ", "na", "N/A", "null", "None", "nan", " ", "\\n", "\\\\N", "0", "007"),
            *("1_0", "a b ", "\u00e9", "e\u0301", "🎬", "a,b", 'a"b', "a\nb", "a\tb", "a|b", "\0"),
        )
    ],
    ("blank", "", ""),
    ("blank", "-1", MISSING),
    ("blank", "NA", "NA"),
    ("blank", "-01", "-01"),
    ("count", "5", 5),
    ("count", "+5", 5),
    ("count", "-5", -5),
    ("count", "-0", 0),
    ("count", "+0", 0),
    ("count", "000", 0),
    ("count", "007", 7),
    ("count", "-007", -7),
    ("count", "-01", -1),  # the marker is the text "-1", not the number
    ("count", "+00000000000000000000000012", 12),
    ("count", "9223372036854775807", MAX),
    ("count", "-9223372036854775808", MIN),
    *[("count", text, MISSING) for text in ("", "NA", "-1")],
    *[
        ("count", text, REFUSED)
        for text in (
            *("9223372036854775808", "-9223372036854775809", "99999999999999999999", "9" * 5000),
            *("1_0", " 10", "10 ", "\t10", "10\n", "\u00a010", "1 0", "1,000", "1'000"),
            *("\u0663", "\uff11\uff12", "\u00b2", "\u22125", "3.0", "1e3", "0x10", "5L", "#5"),
            *("-", "+", "--5", "+-5", "5-", "na", "nan", "null", "true", "\\N", " ", "\0"),
        )
    ],
    ("place", "5", 5),
    ("place", "007", 7),
    ("place", "+5", 5),
    ("place", "6", 6),
    ("place", "", MISSING),
    ("place", "five", REFUSED),
    *[("rank", text, text) for text in ("a", "b", "c", "d", "e", "f", "g", "h", "z", "y")],
    ("rank", "", MISSING),
    ("slot", "-0", 0),
    ("slot", "03", 3),
    ("slot", "", MISSING),
    ("slot", "3.0", REFUSED),
    ("price", "-2.50000001", 2),
    ("price", "-2.5", 3),
    ("price", "-1e-400", 4),
    ("price", "-0", 4),
    ("price", "0e99999999999", 4),
    ("price", "1e-400", 4),
    ("price", ".5", 4),
    ("price", "0.99999999999999994", 4),
    ("price", "0.99999999999999995", 5),  # rounds to 1
    ("price", "00001", 5),
    ("price", "+1", 5),
    ("price", "1e0", 5),
    ("price", "1E+00", 5),
    ("price", "5.", 5),
    ("price", "9223372036854775808", 5),
    ("price", "1e300", 6),
    ("price", "1" + "0" * 300, 6),
    *[("price", text, MISSING) for text in ("", "\\N")],
    *[
        ("price", text, REFUSED)
        for text in (
            *("1e400", "-1e400", "9" * 5000, "nan", "NaN", "inf", "-Infinity", "NA", "null"),
            *("1_0", " 1", "1 ", "1\n", "1,5", "0x10", "0x1p3", "1d", "1f", "1e", "e5", ".", "-"),
            *("1e5.0", "--1", "\u0663", "\uff11", "1.2.3", "$5", "50%", "true"),
        )
    ],
    ("hour", "14102123", 23),
    ("hour", "00010100", 0),
    ("weekday", "14102123", 1),  # a Tuesday
    ("weekday", "14102600", 6),  # a Sunday
    ("weekday", "00010107", 5),  # 1 January 2000 was a Saturday
    ("weekday", "24022912", 3),  # a Thursday, of a leap year
    ("hour", "-", MISSING),
    *[
        (name, text, REFUSED)
        for name in ("hour", "weekday")
        for text in (
            *("", "13", "14102124", "14133100", "14063100", "23022900", "1410210", "141021 1"),
            *("14102+01", "-4102101", "14-10-21", "\uff11\uff1410210", "\uff11\uff14102101"),
            *("141021010", "14000100", "14010000"),
        )
    ],
    ("seen", "a", ["a"]),
    ("seen", "a|b", ["a", "b"]),
    ("seen", "a|b|c|d", ["b", "c", "d"]),
    ("seen", "a||b", ["a", MISSING, "b"]),
    ("seen", "a|NA", ["a", MISSING]),
    ("seen", " a|b ", [" a", "b "]),
    ("seen", "a;b", ["a;b"]),
    *[("seen", text, []) for text in ("", "NA", "|", "NA|NA")],
    ("days", "1;2", [1, 2]),
    ("days", "+1;007", [1, 7]),
    ("days", "1;;2", [MISSING, 2]),
    ("days", "3;", [3, MISSING]),
    ("days", "", []),
    *[("days", text, REFUSED) for text in ("1; 2", "1|2", "1;2.0", "1;x")],
    ("tags", "a, b", ["a", "b"]),
    ("tags", "a,b", ["a,b"]),
    ("tags", "", [""]),
    ("tags", "-", []),
    ("tags", "a, -", ["a", MISSING]),
    *[("flag", text, 1) for text in ("true", "TRUE", "True", "tRuE", "1")],
    *[("flag", text, 0) for text in ("false", "FALSE", "False", "0")],
    *[("flag", text, MISSING) for text in ("", "NA")],
    *[
        ("flag", text, REFUSED)
        for text in ("t", "yes", "2", "01", "+1", "1.0", " true", "true ", "\u0131", "\uff11", "-1")
    ],
    # times worked out by hand, and beside them those that every calendar gets wrong sometimes
    ("moment", "1970-01-01", 0),
    ("moment", "1970-01-02", 86400),
    ("moment", "1969-12-31 23:59:59", -1),
    ("moment", "2000-02-29T12:30", 951827400),
    ("moment", "2000-03-01T00:00:00Z", 951868800),
    ("moment", "1900-03-01", -2203891200),  # 1900 was no leap year
    ("moment", "2026-11-28 22:15:30.999999", 1795904130),
    ("moment", "2026-11-28 22:15:30.9", 1795904130),
    ("moment", "2026-11-28T22:15:30+01:00", 1795900530),
    ("moment", "2026-11-28T22:15:30-0330", 1795916730),
    ("moment", "2026-11-28T22:15+02", 1795896900),
    ("moment", "2026-11-28T22:15:30.123456789-00:00", 1795904130),
    ("moment", "0001-01-01", -62135596800),
    ("moment", "9999-12-31T23:59:59", 253402300799),
    *[("moment", text, MISSING) for text in ("", "NULL")],
    *[
        ("moment", text, REFUSED)
        for text in (
            *("2026-02-29", "1900-02-29", "2026-13-01", "2026-00-10", "2026-01-00", "2026-04-31"),
            *("2026-1-1", "26-01-01", "20260101", "2026/01/01", "2026-01-01T", "2026-01-01 24:00"),
            *("2026-01-01 12", "2026-01-01 12:60", "2026-01-01 12:00:60", "2026-01-01  12:00"),
            *("2026-01-01T12:00z", "2026-01-01t12:00", "2026-01-01T12:00:00.", "2026-01-01Z"),
            *("2026-01-01T12:00:00.1234567890", "2026-01-01T12:00+24:00", "2026-01-01T12:00+1"),
            *("2026-01-01T12:00+01:60", "0000-01-01", "0001-01-01T00:00+00:01", "-001-01-01"),
            *("9999-12-31T23:59:59-00:01", "0", "1795904130", "now", " 2026-01-01", "2026-01-01\n"),
            "\uff12026-01-01",
        )
    ],
    ("iso_hour", "2026-11-28 22:15:30", 22),
    ("iso_hour", "2026-11-28 22:15:30+05:30", 16),
    ("iso_hour", "1969-12-31 23:00", 23),
    ("iso_day", "2026-11-28", 28),
    ("iso_day", "2024-02-29 23:59:59", 29),
    ("iso_day", "1969-12-31", 31),
    ("iso_day", "0001-01-01", 1),
    ("iso_month", "2026-11-28", 11),
    ("iso_month", "1900-02-28", 2),
    ("iso_month", "9999-12-31", 12),
    ("iso_month", "", MISSING),
    ("delhi_hour", "2026-11-28 22:15:30", 3),
    ("delhi_hour", "2026-11-28 18:29:59", 23),
    ("delhi_hour", "2026-11-28 18:30:00", 0),
    ("lima_weekday", "2026-11-28 04:59", 4),  # a Friday there, a Saturday in UTC
    ("lima_weekday", "2026-11-28 05:00", 5),
    ("lima_weekday", "1970-01-01", 2),  # a Wednesday there
    ("epoch", "1795904130", 1795904130),
    ("epoch", "1795904130.75", 1795904130),
    ("epoch", "-1", -1),
    ("epoch", "-1.5", -2),  # down
    ("epoch", "-1.0", -1),
    ("epoch", "+7", 7),
    ("epoch", "007", 7),
    ("epoch", "-0.5", -1),
    ("epoch", "00", 0),
    ("epoch", "253402300799", 253402300799),
    ("epoch", "-62135596800", -62135596800),
    *[("epoch", text, MISSING) for text in ("", "0")],
    *[
        ("epoch", text, REFUSED)
        for text in (
            *("253402300800", "-62135596801", "1e9", "1_0", " 1", "1.", ".5", "1,5", "nan", "inf"),
            *("9" * 5000, "0x10", "\u0663", "1.5.5", "--1", "-", "2026-11-28", "1795904130.\u0663"),
        )
    ],
    ("epoch_day", "951782400", 29),  # 29 February 2000
    ("epoch_day", "-1", 31),
    ("millis", "1795904130999", 1795904130),
    ("millis", "-1", -1),
    ("millis", "-1000", -1),
    ("millis", "-1001", -2),
    ("millis", "1500.9", 1),
    ("millis", "253402300800000", REFUSED),
    ("millis", "", MISSING),
    ("millis_hour", "1795904130000", 22),
    ("age", "1969-12-31", 2),
    ("age", "1970-01-01", 3),
    ("age", "2026-11-28", 4),
    ("age", "", MISSING),
    ("age", "5", REFUSED),
]

# Field, type of the value, the value, what it counts as: values as a program or JSON gives them.
TYPED = [
    ("word", "none", None, MISSING),
    ("word", "nan", None, MISSING),
    ("word", "integer", 5, REFUSED),
    ("word", "double", 1.5, REFUSED),
    ("word", "boolean", True, REFUSED),
    ("word", "list", [["text", "a"]], REFUSED),
    ("blank", "none", None, MISSING),
    ("blank", "nan", None, MISSING),
    ("count", "none", None, MISSING),
    ("count", "nan", None, MISSING),
    ("count", "integer", -1, -1),  # the marker is a text
    ("count", "integer", MIN, MIN),
    ("count", "double", 3.0, REFUSED),
    ("count", "infinity", None, REFUSED),
    ("count", "boolean", True, REFUSED),
    ("place", "integer", 7, 7),
    ("slot", "integer", 3, 3),
    ("hour", "integer", 13, 13),  # the part itself, not a time
    ("weekday", "none", None, MISSING),
    ("price", "none", None, MISSING),
    ("price", "nan", None, MISSING),
    ("price", "integer", 1, 5),
    ("price", "double", -0.0, 4),
    ("price", "double", -2.5, 3),
    ("price", "infinity", None, 6),
    ("price", "boolean", True, REFUSED),
    ("price", "list", [["double", 1.0]], REFUSED),
    ("flag", "boolean", True, 1),
    ("flag", "boolean", False, 0),
    ("flag", "integer", 1, 1),
    ("flag", "integer", 0, 0),
    ("flag", "integer", 2, REFUSED),
    ("flag", "double", 1.0, REFUSED),
    ("flag", "none", None, MISSING),
    ("moment", "integer", 5, REFUSED),
    ("moment", "nan", None, MISSING),
    ("moment", "boolean", True, REFUSED),
    ("epoch", "integer", 1795904130, 1795904130),
    ("epoch", "integer", 0, 0),  # the marker is a text
    ("epoch", "double", 1.75, 1),
    ("epoch", "double", -1.5, -2),
    ("epoch", "integer", 253402300800, REFUSED),
    ("epoch", "integer", MAX, REFUSED),
    ("epoch", "infinity", None, REFUSED),
    ("epoch", "nan", None, MISSING),
    ("epoch", "boolean", True, REFUSED),
    ("epoch_day", "integer", -1, 31),
    ("millis", "integer", -1, -1),
    ("millis", "integer", 1795904130999, 1795904130),
    ("millis", "double", 1999.5, 1),
    ("millis_hour", "integer", 1795904130000, 22),
    ("age", "none", None, MISSING),
    ("age", "integer", 5, REFUSED),
    ("seen", "none", None, []),
    ("seen", "nan", None, []),
    ("seen", "list", [], []),
    ("seen", "list", [["text", "a"], ["none", None], ["text", "b"]], ["a", MISSING, "b"]),
    ("seen", "list", [["text", "NA"], ["nan", None], ["text", "a|b"]], [MISSING, MISSING, "a|b"]),
    ("seen", "list", [["integer", 1]], REFUSED),
    ("seen", "integer", 1, REFUSED),
    ("days", "list", [["integer", 1], ["text", "007"]], [1, 7]),
    ("days", "list", [["text", "1;2"]], REFUSED),
    ("days", "list", [["double", 1.0]], REFUSED),
]


def ids_of(name, expected):
    """The IDs of a value, None where it must be refused."""
    if expected == REFUSED and isinstance(expected, str):
        return None
    item = next(item for item in FIELDS if item["name"] == name)
    if "length" in item:
        ids = [ids_of_one(item, value) for value in expected]
        return ids + [0] * (item["length"] - len(ids))
    return [ids_of_one(item, expected)]


def ids_of_one(item, value):
    if item["encoding"] == "bucket":
        return 1 if value == MISSING else value
    if value == MISSING:
        return 0
    if item["encoding"] == "id":
        return value
    if item["encoding"] == "hash":
        return hash_of(item["name"], value)
    if item["name"] == "place":
        return 2 + SORTED.index(hash_of("place", value)) if value in KNOWN else 1
    number, first = hash_of("rank", value), 2
    for group in RANKED:
        if number in group:
            return first + group.index(number)
        first += len(group)
    return 1


def cases():
    for name, text, expected in TEXTS:
        yield {"field": name, "type": "text", "value": text, "ids": ids_of(name, expected)}
    for name, kind, value, expected in TYPED:
        yield {"field": name, "type": kind, "value": value, "ids": ids_of(name, expected)}


if __name__ == "__main__":
    parts = [",\n".join(json.dumps(item) for item in items) for items in (FIELDS, cases())]
    text = f'{{"features": [\n{parts[0]}\n],\n"cases": [\n{parts[1]}\n]}}\n'
    Path(__file__).with_name("cells.json").write_text(text, encoding="utf-8")
