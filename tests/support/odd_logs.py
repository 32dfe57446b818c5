"""Odd logs whose values are known before they are written, and the IDs of these by themselves.

Nothing here is read with ondevice: hashes are those of the package xxhash.
"""

import bisect
import bz2
import csv
import datetime
import decimal
import gzip
import io
import json
import lzma
import struct

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import xxhash
from pyarrow import feather

COLUMNS = """{more}
label = "click"
ignore = ["*"]
[fields]
text = "string"
hashed = {{ kind = "string", vocabulary = false, ratio = 2.0 }}
code = "integer"
price = {{ kind = "number", buckets = 16 }}
mobile = "boolean"
tags = {{ kind = "string", list = true, length = 3 }}
[fields.seen]
kind = "timestamp"
format = "iso"
parts = ["hour", "weekday"]
utc_offset = "+05:30"
"""
SHIFT = datetime.timedelta(hours=5, minutes=30)
UTC = datetime.UTC
MOMENT = datetime.datetime(2026, 11, 29, 1, 2, 3)
ROWS = 24
TEXTS = (
    "red",
    "blue",
    "",
    "NA",
    "a\0b",
    "\U0001f600\U0001f3fd",
    "é",
    "é",
    " red",
    "RED",
    "\ufeffred",
    "a\nb",
    'a"b',
    "a,b",
    "a;b\tc",
    "nan",
    "None",
    "x" * 300,
)
CODES = (0, 1, -1, -7, 2**63 - 1, -(2**63), 2**53 + 1, 7, 10**18)
# of two digits: half of these are other doubles where a decimal is cast in binary
PRICES = (0.35, 0.56, 0.57, 0.69, 0.7, 1.13, 1.14, 1.15, 4.02, 8.54, -0.35, 0.0, 100.01, 2.2, 1e300)
TAGS = ([], ["a"], ["b", "a"], ["a", "b", "c", "d"], None, ["é", "\U0001f600"])


def truth(rows=ROWS):
    """The values of an ordinary log, by column; None is missing."""
    hours = [MOMENT + datetime.timedelta(hours=7 * n) for n in range(rows)]
    return {
        "click": [xxhash.xxh64_intdigest(bytes([n % 256])) % 2 for n in range(rows)],
        "text": [None if n % 19 == 18 else TEXTS[n * 5 % len(TEXTS)] for n in range(rows)],
        "hashed": [TEXTS[n * 7 % len(TEXTS)] + str(n % 4) for n in range(rows)],
        "code": [None if n % 17 == 16 else CODES[n % len(CODES)] for n in range(rows)],
        "price": [None if n % 13 == 12 else PRICES[n % len(PRICES)] for n in range(rows)],
        "mobile": [(True, False, None)[n % 3] for n in range(rows)],
        "seen": [None if n % 11 == 10 else hours[n] for n in range(rows)],
        "tags": [TAGS[n % len(TAGS)] for n in range(rows)],
    }


TYPES = {
    "click": pa.int64(),
    "text": pa.string(),
    "hashed": pa.string(),
    "code": pa.int64(),
    "price": pa.float64(),
    "mobile": pa.bool_(),
    "seen": pa.timestamp("us"),
    "tags": pa.list_(pa.string()),
}


def table(values, **arrays):
    """A table of such values, with other arrays in place of some."""
    return pa.table(
        {
            name: arrays[name] if name in arrays else pa.array(values[name], kind)
            for name, kind in TYPES.items()
        }
    )


def log_columns(more=""):
    """The description of the columns, in TOML."""
    return COLUMNS.format(more=more)


def reference_ids(fields, values):
    """IDs by field name, int64, of values by column."""
    return {field.name: _ids(field, values) for field in fields}


def _ids(field, values):
    if field.length is not None:
        rows = [
            [_id(field, each) for each in (row or [])][-field.length :] for row in values["tags"]
        ]
        return np.array([row + [0] * (field.length - len(row)) for row in rows], np.int64)
    name = "seen" if field.name.startswith("seen_") else field.name
    if name == "seen":
        part = "hour" if field.name == "seen_hour" else "weekday"
        return np.array([_id(field, _part(moment, part)) for moment in values["seen"]], np.int64)
    return np.array([_id(field, value) for value in values[name]], np.int64)


def _part(moment, part):
    if moment is None:
        return None
    local = moment + SHIFT
    return local.hour if part == "hour" else local.weekday()


def _id(field, value):
    """The ID of a value. Of the texts, only "" is missing."""
    if field.kind == "number":
        return (
            1
            if value is None or value != value
            else 2 + bisect.bisect_right(field.boundaries.tolist(), value)
        )
    if value is None or value == "":
        return 0
    data = struct.pack("<Q", int(value) % 2**64) if field.kind == "integer" else value.encode()
    hashed = xxhash.xxh64_intdigest(data, field.seed)
    signed = hashed - 2**64 if hashed >= 2**63 else hashed
    if field.encoding == "hash":
        return signed
    places = np.flatnonzero(field.vocabulary == signed)
    if len(places):
        return 2 + int(places[0])
    return signed if field.unknown == "hash" else 1


def odd_tables():
    """Names, values and tables that hold them in a way that an ordinary log does not."""
    good = truth()
    yield "as it is", good, table(good)
    for name, changed, array in _odd_columns(good):
        column = name.split(":")[0]
        yield name, {**good, column: changed}, table({**good, column: changed}, **{column: array})
    plain = table(good)
    yield "columns in another order", good, plain.select(plain.column_names[::-1])
    yield "chunks of one row", good, pa.concat_tables([plain.slice(n, 1) for n in range(ROWS)])
    yield "one row", {k: v[:1] for k, v in good.items()}, plain.slice(0, 1)
    yield (
        "columns with dots",
        good,
        plain.append_column("text.hidden", [["x"] * ROWS]).append_column("code.a", [[9] * ROWS]),
    )


def _odd_columns(good):
    """Names (of the column, and what is odd), values, and the Arrow array that holds them."""
    decimals = [None if p is None or p > 1e9 else decimal.Decimal(str(p)) for p in good["price"]]
    as_floats = [None if d is None else float(d) for d in decimals]
    yield "price:decimals", as_floats, pa.array(decimals, pa.decimal128(20, 2))
    yield "price:wide decimals", as_floats, pa.array(decimals, pa.decimal256(50, 9))
    encoded = pa.array(decimals, pa.decimal128(20, 2)).dictionary_encode()
    yield "price:dictionary of decimals", as_floats, encoded
    floats = pa.array(good["price"], pa.float64())
    yield "price:dictionary of floats", good["price"], floats.dictionary_encode()
    singles = [None if p is None else float(np.float32(p)) for p in as_floats]
    yield "price:floats of 32 bits", singles, pa.array(singles, pa.float32())
    halves = [None if p is None else float(np.float16(p)) for p in as_floats]
    yield (
        "price:floats of 16 bits",
        halves,
        pa.array(np.float16([h or 0 for h in halves]), mask=np.array([h is None for h in halves])),
    )
    nans = [float("nan"), float("inf"), -float("inf"), -0.0] * (ROWS // 4)
    yield "price:not finite", nans, pa.array(nans, pa.float64())
    big = [2**63 + 5, 2**64 - 1, None, 1] * (ROWS // 4)
    yield (
        "price:unsigned",
        [None if b is None else float(b) for b in big],
        pa.array(big, pa.uint64()),
    )
    full = [2**63 + 5, 2**64 - 1, 3, 1] * (ROWS // 4)
    yield "price:unsigned, none missing", list(map(float, full)), pa.array(full, pa.uint64())
    yield (
        "price:texts",
        good["price"],
        pa.array([None if p is None else repr(p) for p in good["price"]]),
    )
    yield "price:only missing", [None] * ROWS, pa.nulls(ROWS)
    yield "price:constant", [0.35] * ROWS, pa.array([0.35] * ROWS)
    yield from _odd_integers(good, big, full)
    yield from _odd_texts(good)
    yield from _odd_times(good)
    flags = good["mobile"]
    yield "mobile:texts", flags, pa.array([None if f is None else str(f).upper() for f in flags])
    yield (
        "mobile:integers",
        flags,
        pa.array([None if f is None else int(f) for f in flags], pa.int8()),
    )
    yield "mobile:dictionary", flags, pa.array(flags).dictionary_encode()
    yield "mobile:one of them", [True] * ROWS, pa.array([True] * ROWS)


def _odd_integers(good, big, full):
    yield "code:unsigned", big, pa.array(big, pa.uint64())
    yield "code:unsigned, none missing", full, pa.array(full, pa.uint64())
    yield "code:dictionary of unsigned", big, pa.array(big, pa.uint64()).dictionary_encode()
    small = [None if n % 5 == 4 else n % 7 - 3 for n in range(ROWS)]
    for kind in (pa.int8(), pa.int16(), pa.int32()):
        yield f"code:{kind}", small, pa.array(small, kind)
    yield "code:dictionary", good["code"], pa.array(good["code"]).dictionary_encode()
    texts = [None if code is None else str(code) for code in good["code"]]
    yield "code:texts", good["code"], pa.array(texts)
    yield "code:texts with zeros", [7] * ROWS, pa.array(["+007"] * ROWS)
    yield "code:only missing", [None] * ROWS, pa.nulls(ROWS, pa.int64())


def _odd_texts(good):
    texts = good["text"]
    for kind in (pa.large_string(), pa.binary(), pa.large_binary(), pa.string_view()):
        yield f"text:{kind}", texts, pa.array(texts, pa.string()).cast(kind)
    yield "text:dictionary", texts, pa.array(texts).dictionary_encode()
    values = pa.array(["blue", "", "blue", "red"])
    indices = [n % 4 if n % 5 else None for n in range(ROWS)]
    yield (
        "text:dictionary with a doubled value",
        [None if n is None else values[n].as_py() for n in indices],
        pa.DictionaryArray.from_arrays(pa.array(indices, pa.uint8()), values),
    )
    yield (
        "text:unseen",
        [f"new {n}" for n in range(ROWS)],
        pa.array([f"new {n}" for n in range(ROWS)]),
    )
    long = ["x" * 10**7, *texts[1:]]
    yield "text:10 MB", long, pa.array(long)
    tags = good["tags"]
    yield "tags:large lists", tags, pa.array(tags, pa.large_list(pa.string()))
    yield (
        "tags:lists of dictionaries",
        tags,
        pa.array(tags, pa.list_(pa.string())).cast(
            pa.list_(pa.dictionary(pa.int32(), pa.string()))
        ),
    )
    pairs = [["a", None], None] * (ROWS // 2)
    yield "tags:lists of one length", pairs, pa.array(pairs, pa.list_(pa.string(), 2))
    cut = [None if row is None or not row else "|".join(row) for row in tags]
    yield "tags:texts", tags, pa.array(cut)
    yield "tags:only missing", [None] * ROWS, pa.nulls(ROWS)


def _odd_times(good):
    seen = good["seen"]
    zone = pa.timestamp("ms", tz="Asia/Tokyo")
    zoned = [None if moment is None else moment.replace(tzinfo=UTC) for moment in seen]
    yield "seen:a zone", seen, pa.array(zoned, zone)
    yield "seen:dictionary with a zone", seen, pa.array(zoned, zone).dictionary_encode()
    for unit in ("s", "ns"):
        array = pa.array(seen, pa.timestamp(unit))
        yield f"seen:{unit}", seen, array
        yield f"seen:dictionary of {unit}", seen, array.dictionary_encode()
    old = [datetime.datetime(1, 1, 1, 0, 0, 1), datetime.datetime(1969, 12, 31, 23, 59, 59, 999999)]
    yield "seen:before 1970", old * (ROWS // 2), pa.array(old * (ROWS // 2), pa.timestamp("us"))
    days = [datetime.datetime(2024, 2, 29), None] * (ROWS // 2)
    for kind in (pa.date32(), pa.date64()):
        yield f"seen:{kind}", days, pa.array(days, kind)
    texts = [None if moment is None else f"{moment.isoformat()}Z" for moment in seen]
    yield "seen:texts", seen, pa.array(texts)
    local = [
        None if moment is None else f"{(moment - datetime.timedelta(hours=3)).isoformat(' ')}-03:00"
        for moment in seen
    ]
    yield "seen:texts with zones", seen, pa.array(local)


def write_parquet(path, log, **options):
    """Write a table to Parquet; row groups without rows stand before, between and behind."""
    with pq.ParquetWriter(path, log.schema, **options) as writer:
        for start in range(0, log.num_rows, 10):
            writer.write_table(log.slice(0, 0))
            writer.write_table(log.slice(start, 10))
        writer.write_table(log.slice(0, 0))


def cells(values):
    """The rows of a log of text, with its header: the texts of the values."""
    texts = {
        "text": [value or "" for value in values["text"]],
        "price": ["" if value is None else repr(value) for value in values["price"]],
        "mobile": ["" if value is None else str(value) for value in values["mobile"]],
        "seen": ["" if value is None else value.isoformat(" ") for value in values["seen"]],
        "tags": ["|".join(value or []) for value in values["tags"]],
    }
    plain = {name: values[name] for name in values if name not in texts}
    columns = {**plain, **texts}
    rows = zip(*(columns[name] for name in TYPES), strict=True)
    return [list(TYPES), *([("" if cell is None else str(cell)) for cell in row] for row in rows)]


def delimited(rows, encoding="utf-8", **options):
    """The bytes of rows of cells."""
    file = io.StringIO(newline="")
    csv.writer(file, **{"lineterminator": "\n", **options}).writerows(rows)
    return file.getvalue().encode(encoding)


def zstandard(data):
    """Compressed bytes."""
    sink = pa.BufferOutputStream()
    with pa.CompressedOutputStream(sink, "zstd") as file:
        file.write(data)
    return sink.getvalue().to_pybytes()


COMPRESS = {".gz": gzip.compress, ".xz": lzma.compress, ".bz2": bz2.compress, ".zst": zstandard}


def odd_files(values):
    """Names of files and bytes that all hold these values."""
    rows = cells(values)
    plain = delimited(rows)
    yield "plain.csv", plain
    yield "mark.csv", b"\xef\xbb\xbf" + plain
    yield "crlf.csv", delimited(rows, lineterminator="\r\n")
    yield "quoted.csv", delimited(rows, quoting=csv.QUOTE_ALL)
    yield "no_end.csv", plain.removesuffix(b"\n")
    yield "blank_lines.txt", plain + b"\n\n\r\n"
    yield "reordered.csv", delimited([row[::-1] for row in rows])
    wide = [[*row, *(f"c{n}" if not r else "x" for n in range(300))] for r, row in enumerate(rows)]
    yield "wide.csv", delimited(wide)
    yield "tabs.tsv", delimited(rows, delimiter="\t")
    yield "tabs.2026.11.TSV", delimited(rows, delimiter="\t")
    yield "tabs.part.tsv.gz", gzip.compress(delimited(rows, delimiter="\t"))
    middle = len(plain) // 2
    for suffix, compress in COMPRESS.items():
        yield f"one.csv{suffix}", compress(plain)
        yield f"two.csv{suffix}", compress(plain[:middle]) + compress(plain[middle:])
    for ascii_only in (True, False):
        lines = [json.dumps(row, ensure_ascii=ascii_only) for row in objects(values)]
        yield f"ascii_{ascii_only}.jsonl", "\n".join(lines).encode()
    yield "lines.jsonl.xz", lzma.compress("\r\n".join(lines).encode())
    for compression in ("uncompressed", "lz4", "zstd"):
        sink = pa.BufferOutputStream()
        feather.write_feather(table(values), sink, compression)
        yield f"{compression}.feather", sink.getvalue().to_pybytes()
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table(values).schema) as writer:
        writer.write_table(table(values), 7)
    yield "stream.arrow", sink.getvalue().to_pybytes()
    for compression in ("snappy", "gzip", "zstd", "brotli", "lz4"):
        sink = pa.BufferOutputStream()
        pq.write_table(
            table(values),
            sink,
            compression=compression,
            row_group_size=5,
            data_page_version="2.0" if compression == "zstd" else "1.0",
            version="1.0" if compression == "gzip" else "2.6",
            use_dictionary=compression != "zstd",
        )
        yield f"{compression}.parquet", sink.getvalue().to_pybytes()


def objects(values):
    """The rows as JSON has them."""
    plain = {name: values[name] for name in TYPES}
    plain["seen"] = [None if moment is None else moment.isoformat() for moment in values["seen"]]
    rows = zip(*plain.values(), strict=True)
    return [dict(zip(plain, row, strict=True)) for row in rows]
