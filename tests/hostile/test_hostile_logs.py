"""Hostile Parquet and text logs in every command that reads logs: read right, or a typed error."""

import datetime
import decimal
import shutil
import time

import numpy as np
import pytest
from support.hostile import DIGITS, HUGE, damaged_files

import ondevice
from ondevice.cli import main

pytest.importorskip("torch", reason="commands that read logs need the extra train")
pa = pytest.importorskip("pyarrow", reason="commands that read logs need the extra train")
pq = pytest.importorskip("pyarrow.parquet", reason="commands that read logs need the extra train")

ROWS = 60
NAMES = ("click", "user", "colour", "slot")
COLUMNS = """label = "click"
[fields]
user = "integer"
colour = "string"
slot = "integer"
"""
FAST = ("--epochs", "1", "--hidden", "4", "--dim", "2", "--widths", "whole", "--quiet")
KEPT = ("columns.toml", "good.parquet", "ck", "models", "m.odm")
SECONDS = 60  # of the processor, for all files of a test; a file takes some hundredths


def table(**changed):
    """A good table, with other columns in place of some."""
    columns = {
        "click": pa.array([0, 1] * (ROWS // 2), pa.int64()),
        "user": pa.array(range(ROWS), pa.int64()),
        "colour": pa.array(["red", "blue", None] * (ROWS // 3)),
        "slot": pa.array([3] * ROWS, pa.int64()),
    }
    return pa.table({**columns, **changed})


def strange_columns():
    """Columns of types and values that no field has, by name."""
    day = datetime.date(2026, 11, 29)
    moment = datetime.datetime(2026, 11, 29, 1, 2, 3, 4)
    return {
        "decimals": pa.array([decimal.Decimal("1.50")] * ROWS, pa.decimal128(10, 2)),
        "wide decimals": pa.array([decimal.Decimal("9" * 70)] * ROWS, pa.decimal256(76, 0)),
        "dates": pa.array([day] * ROWS),
        "moments": pa.array([moment] * ROWS, pa.timestamp("us")),
        "times": pa.array([moment.time()] * ROWS),
        "spans": pa.array([5] * ROWS, pa.duration("s")),
        "lists": pa.array([[1, 2]] * ROWS),
        "lists of lists": pa.array([[[1], [2, None]]] * ROWS),
        "lists deep within lists": pa.array([[[[[[["a"]]]]]]] * ROWS),
        "structures": pa.array([{"a": 1, "b": [2]}] * ROWS),
        "maps": pa.array([[("a", 1)]] * ROWS, pa.map_(pa.string(), pa.int64())),
        "nothing": pa.nulls(ROWS),
        "bytes": pa.array([b"\xff\xfe\0"] * ROWS),
        "bools": pa.array([True, False] * (ROWS // 2)),
        "halves": pa.array(np.ones(ROWS, np.float16)),
        "NaN and infinity": pa.array([float("nan"), float("inf"), -float("inf")] * (ROWS // 3)),
        "beyond int64": pa.array([2**64 - 1] * ROWS, pa.uint64()),
        "escapes": pa.array(["\x1b[2J\x07\u202e"] * ROWS),
        "NUL": pa.array(["\0"] * ROWS),
        "5,000 digits": pa.array([DIGITS] * ROWS),
        "10^400": pa.array([HUGE] * ROWS),
        "a megabyte": pa.array(["x" * 2**18] * ROWS),
        "dictionary": pa.array(["a", "b", None] * (ROWS // 3)).dictionary_encode(),
        **stranger_columns(),
    }


def stranger_columns():
    """Columns that say in other ways what fields have, or nearly do, by name."""
    halves = [0, 1] * (ROWS // 2)

    def dictionary(values):
        return pa.DictionaryArray.from_arrays(pa.array(halves), values)

    return {
        "unsigned dictionary": dictionary(pa.array([2**63 + 5, 7], pa.uint64())),
        "small dictionary": dictionary(pa.array([3, 7], pa.int8())),
        "dictionary of floats": dictionary(pa.array([3.0, float("nan")])),
        "dictionary of bytes": dictionary(pa.array([b"\xff", b"blue"])),
        "dictionary of times": dictionary(pa.array([1, 2], pa.timestamp("s"))),
        "long texts": pa.array(["red"] * ROWS, pa.large_string()),
        "text of bytes": pa.array([b"red", None] * (ROWS // 2)),
        "bytes of one length": pa.array([b"red"] * ROWS, pa.binary(3)),
        "integers with gaps": pa.array([1, None] * (ROWS // 2)),
        "unsigned with gaps": pa.array([2**63 + 1, None] * (ROWS // 2), pa.uint64()),
        "small integers": pa.array([-1] * ROWS, pa.int8()),
        "least integer": pa.array([-(2**63)] * ROWS),
        "whole floats": pa.array([3.0] * ROWS),
        "moments of a zone": pa.array([1] * ROWS, pa.timestamp("us", tz="Asia/Tokyo")),
        "large decimals": pa.array([decimal.Decimal(2**60 + 1)] * ROWS, pa.decimal128(20, 0)),
        "structures of nothing": pa.nulls(ROWS, pa.struct([("a", pa.int64())])),
        "empty lists": pa.array([[]] * ROWS, pa.list_(pa.int64())),
        "lists with gaps": pa.array([None, [1]] * (ROWS // 2)),
    }


def parquet_tables():
    """Tables of hostile columns and shapes, by name."""
    for name in NAMES:
        for what, column in strange_columns().items():
            yield f"{name}: {what}", table(**{name: column})
    good = table()
    yield "no rows", good.slice(0, 0)
    yield "no columns", pa.table({})
    yield (
        "doubled column",
        pa.table([*good.columns, good.column("user")], names=[*good.column_names, "user"]),
    )
    yield "escapes in a name", good.append_column("\x1b[2J\x07\u202e", good.column("slot"))
    yield "NUL in a name", good.append_column("a\0b", good.column("slot"))
    yield "empty name", good.append_column("", good.column("slot"))


def damaged_parquet(folder):
    """Bytes of Parquet files that are cut, changed, or claim what they do not hold, by name."""
    path = folder / "whole.parquet"
    pq.write_table(table(), path, row_group_size=5, data_page_size=16)
    data = path.read_bytes()
    yield from damaged_files(data, count=40)
    for old, new in ((ROWS, 2**31), (ROWS, 2**60)):
        yield f"{new} rows", data.replace(_varint(2 * old), _varint(2 * new))
    for place in range(4, len(data) - 8, 211):  # in pages and in their headers
        yield f"zeros at {place}", data[:place] + bytes(8) + data[place + 8 :]
        yield f"ones at {place}", data[:place] + b"\xff" * 8 + data[place + 8 :]
    footer = int.from_bytes(data[-8:-4], "little")
    for size in (0, 1, footer - 1, footer + 1, 2**31 - 1, 2**32 - 1):
        yield f"footer of {size}", data[:-8] + size.to_bytes(4, "little") + data[-4:]
    yield "pages missing", data[:4] + data[-8 - footer :]
    with pq.ParquetWriter(path, table().schema):
        pass
    yield "no row groups", path.read_bytes()
    pq.write_table(table(colour=strange_columns()["dictionary"]), path)
    data = path.read_bytes()
    for place in range(4, len(data) - footer, 41):
        yield f"dictionary, {place}", data[:place] + b"\x7f" + data[place + 1 :]


def _varint(number):
    out = b""
    while number >= 128:
        out += bytes([number % 128 + 128])
        number //= 128
    return out + bytes([number])


def text_logs():
    """Logs of delimited text, by name."""
    head = ",".join(NAMES)
    rows = "\n".join(f"{i % 2},{i},red,3" for i in range(ROWS))
    good = f"{head}\n{rows}\n"
    cells = {
        "huge": "x" * 3_000_000,
        "NUL": "a\0b",
        "5,000 digits": DIGITS,
        "10^400": HUGE,
        "escapes": "\x1b[2J\x07\u202e",
        "quote within": 'a"b',
        "open quote": '"abc',
        "quoted line feed": '"a\nb"',
        "lone CR": "a\rb",
        "NaN": "nan",
        "line separator": "a\u2028b",
    }
    for place, name in enumerate(NAMES):
        for what, cell in cells.items():
            row = ["1", "5", "red", "3"]
            row[place] = cell
            yield f"{name}: {what}", f"{good}{','.join(row)}\n".encode()
    yield "mixed line ends", f"{head}\r\n1,2,red,3\n0,2,red,3\r1,2,red,3\r\n".encode()
    yield "byte order mark", b"\xef\xbb\xbf" + good.encode()
    yield "two byte order marks", 2 * b"\xef\xbb\xbf" + good.encode()
    yield "UTF-16", good.encode("utf-16")
    yield "Latin-1", good.replace("red", "r\xe9d").encode("latin-1")
    yield "lone surrogate", good.encode() + b"1,2,\xed\xa0\x80,3\n"
    yield "escapes in the header", good.replace("slot", "\x1b[2J\x07", 1).encode()
    yield "another column's escapes", good.replace("slot", "slot,\x1b[2J", 1).encode()
    yield "doubled header", good.replace("slot", "user", 1).encode()
    yield "header only", f"{head}\n".encode()
    yield "empty", b""
    yield "line feeds", b"\n" * 10_000
    yield "commas", b"," * 100_000
    yield "quotes", b'"' * 100_000
    yield "short row", f"{good}1,2\n".encode()
    yield "long row", f"{good}{'1,' * 1000}\n".encode()
    yield "NULs", bytes(10_000)


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    folder = tmp_path_factory.mktemp("logs")
    (folder / "columns.toml").write_text(COLUMNS)
    pq.write_table(table(), folder / "good.parquet")
    train = ["train", *log_options(folder, folder / "good.parquet"), "--out", str(folder / "ck")]
    assert main([*train, *FAST]) == 0
    convert = ["convert", str(folder / "ck"), "--out", str(folder / "models"), "--targets", "odm"]
    assert main(convert) == 0
    (folder / "models" / "model.odm").rename(folder / "m.odm")
    return folder


def log_options(work, log):
    return ["--data", "log", "--path", str(log), "--columns", str(work / "columns.toml")]


def commands(work, log):
    """The commands that read a log quickly, on this one."""
    columns = ["--columns", str(work / "columns.toml")]
    yield ["describe", str(log)]
    yield ["stats", str(log), *columns]
    yield ["encode", str(log), *columns, "--out", str(work / "encoded")]
    yield ["run", str(work / "m.odm"), str(log), "--output", str(work / "run.parquet")]
    yield ["score", str(work / "m.odm"), str(log), "--out", str(work / "score")]
    yield ["train", *log_options(work, log), "--out", str(work / "trained"), *FAST]


def faults_of(arguments, capsys):
    """The exit status of a command, and what is wrong with how it ended, as texts."""
    try:
        status = main(arguments)
    except SystemExit as error:
        status = error.code
    except BaseException as error:
        return None, [repr(error)]
    said = capsys.readouterr()
    faults = []
    if status not in (0, 1, 2) or (status and not said.err):
        faults.append(f"status {status!r} and {said.err[:100]!r}")
    lines = said.err.splitlines() + [line.replace("\t", "") for line in said.out.splitlines()]
    faults += [f"not printable: {line[:200]!r}" for line in lines if not line.isprintable()]
    if "Traceback" in said.err or len(said.err) > 5000:
        faults.append(said.err[-300:])
    return status, faults


def wrong_scores(path, log, work):
    """What is wrong with the scores of a log, beside those of the same values as Python's."""
    columns = pq.read_table(log, columns=list(NAMES[1:])).to_pydict()
    model = ondevice.load(work / "m.odm")
    values = {name: [plain(value) for value in columns[name]] for name in NAMES[1:]}
    right = model.predict(values, raw=True) if values[NAMES[1]] else []
    scores = pq.read_table(path).column(0).to_numpy()
    if not np.array_equal(scores, right):
        yield f"{path.name}: {scores[:5]} instead of {right[:5]}"


def plain(value):
    """An unsigned integer of 64 bits as the signed one of the same bits, bytes as their text."""
    if isinstance(value, int) and 2**63 <= value < 2**64:
        return value - 2**64
    return value.decode() if isinstance(value, bytes) else value


def read_all(work, suffix, files, capsys):
    begun = time.process_time()
    statuses, faults = {}, []
    for number, (what, write) in enumerate(files):
        log = work / f"{suffix}{number}.{suffix}"
        try:
            write(log)
        except pa.lib.ArrowNotImplementedError:
            continue  # a type that Parquet cannot hold
        for arguments in commands(work, log):
            status, found = faults_of(arguments, capsys)
            statuses.setdefault(arguments[0], set()).add(status)
            written = [item for item in work.iterdir() if item.name not in (*KEPT, log.name)]
            if status and written:
                found.append(f"left {written} after status {status}")
            if suffix == "parquet" and not status and arguments[0] in ("run", "score"):
                found += wrong_scores(written[0], log, work)
            faults += [f"{arguments[0]}, {what}: {fault}" for fault in found]
            for item in written:
                shutil.rmtree(item) if item.is_dir() else item.unlink()
        log.unlink()
    assert not faults, "\n".join(faults)
    for command, ends in statuses.items():  # some are read, some are refused
        assert ends >= ({1} if (command, suffix) == ("score", "csv") else {0, 1}), command
    assert time.process_time() - begun < SECONDS * 4


def test_strange_columns_of_parquet(work, capsys):
    files = [(what, lambda path, t=t: pq.write_table(t, path)) for what, t in parquet_tables()]
    read_all(work, "parquet", files, capsys)


def test_damaged_parquet(work, tmp_path, capsys):
    files = damaged_parquet(tmp_path)
    read_all(work, "parquet", [(w, lambda p, d=d: p.write_bytes(d)) for w, d in files], capsys)


def test_text_logs(work, capsys):
    files = [(what, lambda path, d=d: path.write_bytes(d)) for what, d in text_logs()]
    read_all(work, "csv", files, capsys)
