"""Hostile text and arrays: a reader takes them right, or refuses them with a typed error."""

import array
import collections
import decimal
import importlib.util
import json

import numpy as np

DIGITS = "9" * 5000  # more than Python's int() converts
HUGE = "1" + "0" * 400  # beyond a double


def json_values():
    """JSON texts of one value, by name."""
    return {
        "5,000 digits": DIGITS,
        "minus 5,000 digits": "-" + DIGITS,
        "10^400": HUGE,
        "1e400": "1e400",
        "whole float": "3.0",
        "fraction": "3.7",
        "true": "true",
        "beyond int64": str(2**63),
        "NaN": "NaN",
        "infinity": "-Infinity",
        "NUL": '"\\u0000"',
        "lone surrogate": '"\\ud800"',
        "text": '"abc"',
        "object": "{}",
        "list": "[1]",
        "deep list": "[" * 100_000 + "]" * 100_000,
        "nested list": "[[1]]",
        "null": "null",
        "doubled keys": '{"a": 1, "a": 2}',
    }


def cells():
    """Cells of CSV text, by name; none needs quotes."""
    return {
        "5,000 digits": DIGITS,
        "10^400": HUGE,
        "1e400": "1e400",
        "whole float": "3.0",
        "fraction": "3.7",
        "true": "true",
        "beyond int64": str(2**63),
        "NaN": "nan",
        "underscores": "1_000",
        "Arabic digits": "\u0663",
        "NUL": "\0",
        "minus": "-",
        "spaces": "  ",
        "separator": "1|2",
        "long": "x" * 200_000,  # beyond the csv module's limit of a field
    }


def json_lines(names, values=None):
    """Whole JSON lines, by name: every hostile value at every input, and hostile lines."""
    right = values or dict.fromkeys(names, "1")
    for name in names:
        for what, text in json_values().items():
            parts = [f"{json.dumps(n)}: {text if n == name else right[n]}" for n in names]
            yield f"{name}: {what}", "{" + ", ".join(parts) + "}\n"
    doubled = ", ".join(f"{json.dumps(n)}: {right[n]}" for n in [*names, names[0]])
    yield "doubled input", "{" + doubled + "}\n"
    yield "no object", "[1, 2]\n"
    yield "cut off", '{"a": \n'
    yield "nothing but NUL", "\0\n"


def csv_texts(names):
    """Whole CSV texts, by name: every hostile cell in every column, and hostile headers."""
    header = ",".join(names)
    for place, name in enumerate(names):
        for what, text in cells().items():
            row = ["1"] * len(names)
            row[place] = text
            yield f"{name}: {what}", f"{header}\n{','.join(row)}\n"
    yield "doubled header", f"{header},{names[0]}\n{','.join(['1'] * (len(names) + 1))}\n"
    yield "empty", ""
    yield "NUL in the header", "\0" + header + "\n"
    yield "open quote", header + '\n"1,1\n'


def unaligned(values):
    """The same values at an odd address."""
    raw = np.zeros(values.nbytes + 1, np.uint8)
    view = raw[1:].view(values.dtype)
    view[:] = values
    return view


def same_arrays(ids):
    """Arrays that mean the int64 IDs `ids`, by name: a reader must take them alike."""
    doubled = np.repeat(ids, 2)
    return {
        "list": ids.tolist(),
        "unaligned": unaligned(ids),
        "big-endian": ids.astype(">i8"),
        "little-endian": ids.astype("<i8"),
        "every second": doubled[::2],
        "backwards": ids[::-1].copy()[::-1],
        "column of a matrix": np.stack([ids, ids + 1], axis=1)[:, 0],
        "read-only": np.frombuffer(ids.tobytes(), np.int64),
        "tuple": tuple(ids.tolist()),
        "numpy's integers": list(ids),
        "unsigned": ids.view(np.uint64),
        "unsigned integers of numpy": list(ids.view(np.uint64)),
        "unsigned, big-endian": ids.view(np.uint64).astype(">u8"),
        "Fortran order": np.asfortranarray(np.stack([ids, ids]))[0],
        "subclass": ids.view(type("Derived", (np.ndarray,), {})),
        "array of Python": array.array("q", ids.tolist()),
        "memory": memoryview(ids),
        "deque": collections.deque(ids.tolist()),
        **_same_columns(ids),
    }


def _same_columns(ids):
    """Columns of pandas and pyarrow that mean the IDs, where these are installed."""
    if importlib.util.find_spec("pyarrow") is None or importlib.util.find_spec("pandas") is None:
        return {}
    import pandas as pd
    import pyarrow as pa

    return {
        "pandas": pd.Series(ids),
        "pandas' Int64": pd.Series(ids, dtype="Int64"),
        "pandas' UInt64": pd.Series(ids.view(np.uint64), dtype="UInt64"),
        "categorical": pd.Series(ids).astype("category"),
        "index": pd.Index(ids),
        "Arrow": pa.array(ids),
        "chunked": pa.chunked_array([ids[:1], ids[1:]]),
        "dictionary": pa.array(ids).dictionary_encode(),
        "chunked dictionary": pa.chunked_array([ids[:1], ids[1:]]).dictionary_encode(),
    }


def refused_arrays(rows):
    """Arrays of `rows` values that are no IDs, by name."""
    ones = np.ones(rows, np.int64)
    return {
        "whole floats": ones * 3.0,
        "fractions": ones * 3.7,
        "bool": ones.astype(bool),
        "objects": np.array([object()] * rows),
        "object text": np.array(["a"] * rows, dtype=object),
        "text": np.array(["a"] * rows),
        "bytes": np.array([b"a"] * rows),
        "complex": ones * 1j,
        "dates": ones.astype("datetime64[s]"),
        "time spans": ones.astype("timedelta64[s]"),
        "masked": np.ma.masked_array(ones, mask=[True] * rows),
        "nothing masked": np.ma.masked_array(ones),
        "matrix": np.ones((rows, 1), np.int64),
        "cube": np.ones((rows, 1, 1), np.int64),
        "single": np.array(1),
        "no rows": ones[:0],
        "records": np.zeros(rows, [("a", np.int64)]),
        "ragged": [[1], [1, 2]] + [[1]] * (rows - 2),
        "5,000 digits": [10**5000] * rows,
        "beyond uint64": [2**64] * rows,
        "None": None,
        "number": 3,
        "string": "1" * rows,
        "mapping": dict.fromkeys(range(rows)),
        "set": set(range(rows)),
        "generator": iter(range(rows)),
        "half a number": ones.astype(np.float16),
        "long double": ones.astype(np.longdouble),
        "raw bytes of numpy": np.zeros(rows, "V8"),
        "numpy's bools": [np.True_] * rows,
        "digits": ["3"] * rows,
        "decimals": [decimal.Decimal(3)] * rows,
        "mixed": [2**63, -1] + [1] * (rows - 2),
        "strange array": Strange(),
        **_refused_columns(rows),
    }


class Strange:
    """Says that it is an array, and raises what no array raises."""

    def __len__(self):
        return 6

    def __iter__(self):
        return iter([self] * 6)

    def __array__(self, *args, **options):
        raise KeyError("no array")


def _refused_columns(rows):
    """Columns of pandas and pyarrow that hold a missing value, where these are installed."""
    if importlib.util.find_spec("pyarrow") is None or importlib.util.find_spec("pandas") is None:
        return {}
    import pandas as pd
    import pyarrow as pa

    gaps = [5, None] + [7] * (rows - 2)
    return {
        "pandas with a gap": pd.Series(gaps, dtype="Int64"),
        "floats of pandas with a gap": pd.Series(gaps),
        "categorical with a gap": pd.Series(gaps, dtype="Int64").astype("category"),
        "Arrow with a gap": pa.array(gaps),
        "dictionary with a gap": pa.array(gaps).dictionary_encode(),
        "chunked dictionary with a gap": pa.chunked_array([pa.array(gaps).dictionary_encode()]),
    }


def damaged_files(data, seed=0, count=200):
    """Bytes that are no such file, by name, for one that is: cut, changed, of another kind."""
    rng = np.random.default_rng(seed)
    yield "empty", b""
    yield "NUL", b"\0" * 100
    yield "no UTF-8", b"\xff\xfe\xfd" * 10
    yield "byte order mark", b"\xef\xbb\xbf" + data
    yield "UTF-16", data.decode("latin-1").encode("utf-16")
    yield "deep lists", b"[" * 100_000
    yield "deep objects", b'{"a":' * 100_000
    yield "5,000 digits", DIGITS.encode()
    for name, text in json_values().items():
        yield f"only {name}", text.encode()
    for place in np.linspace(0, len(data) - 1, min(len(data), 40)).astype(int):
        yield f"cut at {place}", data[:place]
    for number in range(count):
        changed = bytearray(data)
        for place in rng.integers(len(data), size=rng.integers(1, 4)):
            changed[place] = rng.integers(256)
        yield f"changed {number}", bytes(changed)


def strange_documents(value):
    """JSON texts in which each value in turn is a hostile one, by name."""
    mark = "\ue000 here"
    for path in _paths(value):
        document = json.loads(json.dumps(value))
        place = document
        for key in path[:-1]:
            place = place[key]
        if path:
            place[path[-1]] = mark
        else:
            document = mark
        text = json.dumps(document)
        for name, strange in json_values().items():
            yield f"{path}: {name}", text.replace(json.dumps(mark), strange)


def _paths(value, path=()):
    yield path
    if isinstance(value, dict | list):
        for key in value if isinstance(value, dict) else range(min(len(value), 3)):
            yield from _paths(value[key], (*path, key))
