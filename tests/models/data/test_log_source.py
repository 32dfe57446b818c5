"""Delimited files after a description: exact IDs, every fault with its line and column."""

import csv
import io
import json

import pytest
import xxhash
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.data import write

from ondevice.errors import DataError, SpecError
from ondevice.models.data import LogDescription, LogField, LogLabel, Reading, read_log
from ondevice.models.data import rows as rows_module
from ondevice.models.data.splits import SplitRule

PLAIN = LogDescription(
    {"click": LogLabel("click")}, {"user": LogField("integer"), "item": LogField()}, ignore=("ts",)
)
HEADER = "click,user,ts,item\n"


def hash_of(name: str, value: str | int) -> int:
    """The hash by the specification, computed only with the xxhash package."""
    seed = xxhash.xxh64(name.encode(), seed=0).intdigest()
    data = value.encode() if isinstance(value, str) else value.to_bytes(8, "little", signed=True)
    digest = xxhash.xxh64(data, seed=seed).intdigest()
    return digest - 2**64 if digest >= 2**63 else digest


@pytest.mark.parametrize("suffix", [".csv", ".csv.xz", ".csv.gz"])
def test_ids_and_labels(tmp_path, suffix):
    path = write(tmp_path / f"log{suffix}", HEADER + "1,7,9,é\n0,-3,9,\n0,,9,b c\n")
    log = read_log(path, PLAIN)
    assert log.name == path.name
    assert log.labels.tolist() == [1.0, 0.0, 0.0]
    assert log.hashes["user"].tolist() == [hash_of("user", 7), hash_of("user", -3), 0]
    assert log.hashes["item"].tolist() == [hash_of("item", "é"), 0, hash_of("item", "b c")]
    assert [field.encoding for field in log.features.fields] == ["hash", "hash"]


def test_crlf_bom_quotes_and_blank_lines(tmp_path):
    text = '\ufeffclick,user,ts,item\r\n1,7,9,"a, ""b"""\r\n\r\n0,8,9,"two\r\nlines"\r\n\r\n'
    log = read_log(write(tmp_path / "a.csv", text), PLAIN)
    assert log.hashes["item"].tolist() == [
        hash_of("item", 'a, "b"'),
        hash_of("item", "two\r\nlines"),
    ]


def test_no_header_other_delimiter_and_missing_markers(tmp_path):
    description = LogDescription.from_dict(
        {
            "label": {"column": "stars", "at_least": 3.5},
            "fields": {"u": {"kind": "integer", "column": "who", "missing": ["-1"]}, "i": "string"},
            "columns": ["stars", "who", "i"],
            "delimiter": "||",
            "quote": "",
            "encoding": "latin-1",
            "missing": ["NA"],
        }
    )
    path = write(tmp_path / "a.txt", '3.5||-1||é\n3||4||NA\n4e0||5||"\n', "latin-1")
    log = read_log(path, description, name="mine")
    assert log.name == "mine"
    assert log.labels.tolist() == [1.0, 0.0, 1.0]
    assert log.hashes["u"].tolist() == [0, hash_of("u", 4), hash_of("u", 5)]
    assert log.hashes["i"].tolist() == [hash_of("i", "é"), 0, hash_of("i", '"')]


cells = st.text(st.characters(blacklist_categories=["Cs"], blacklist_characters="\0"), max_size=6)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.lists(st.tuples(st.booleans(), st.integers(-(2**63), 2**63 - 1), cells), min_size=1))
def test_round_trip_of_what_the_csv_module_writes(tmp_path, drawn):
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(["click", "user", "ts", "item"])
    writer.writerows([int(click), user, 0, item] for click, user, item in drawn)
    log = read_log(write(tmp_path / "a.csv", text.getvalue()), PLAIN)
    assert log.labels.tolist() == [float(click) for click, _, _ in drawn]
    assert log.hashes["user"].tolist() == [hash_of("user", user) for _, user, _ in drawn]
    assert log.hashes["item"].tolist() == [hash_of("item", i) if i else 0 for _, _, i in drawn]


def test_several_chunks_and_max_rows(tmp_path):
    n = 2 * rows_module.CHUNK_ROWS + 5
    body = "".join(f"{i % 2},{i},0,x{i % 3}\n" for i in range(n))
    path = write(tmp_path / "a.csv", HEADER + body)
    log = read_log(path, PLAIN)
    assert log.hashes["user"].tolist() == [hash_of("user", i) for i in range(n)]
    assert log.hashes["item"][-1] == hash_of("item", f"x{(n - 1) % 3}")
    assert len(read_log(path, PLAIN, reading=Reading(max_rows=700))) == 700
    write(path, HEADER + body + "0,bad,0,x\n")
    with pytest.raises(DataError, match=f"line {n + 2}, column 'user'"):
        read_log(path, PLAIN)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ("1,7,9,a\n1,x7,9,a\n", "line 3, column 'user': expected a signed 64-bit .*, got 'x7'"),
        ("1, 7,9,a\n", "line 2, column 'user': expected a signed 64-bit integer, got ' 7'"),
        ("1,1_0,9,a\n", "line 2, column 'user'.*got '1_0'"),
        ("1,٣,9,a\n", "line 2, column 'user'"),
        (f"1,{2**63},9,a\n", "line 2, column 'user'"),
        (f"1,{'9' * 5000},9,a\n", "line 2, column 'user'"),
        ("2,7,9,a\n", "line 2, column 'click': expected the label 0 or 1, got '2'"),
        (",7,9,a\n", "line 2, column 'click': expected the label 0 or 1, got ''"),
        ("1,7,9\n", "line 2: expected 4 columns, got 3: nothing for column 'item'"),
        ("1,7,9,a,b\n", "line 2: expected 4 columns, got 5: 'b' follows the last column, 'item'"),
        ('1,7,9,"a\nb\n\nc"\n\n1,7,9,a\n1,?,9,a\n', "line 8, column 'user'"),
        ('1,7,9,a\n1,7,9,"a\n', "after line 2: broken quoting"),
        ('1,7,9,"a"b\n', "after line 1: broken quoting"),
        ("", "no rows"),
    ],
)
def test_a_bad_row_is_named(tmp_path, rows, message):
    path = write(tmp_path / "a.csv", HEADER + rows)
    with pytest.raises(DataError, match=message) as caught:
        read_log(path, PLAIN)
    assert str(path) in str(caught.value)


def test_undecodable_bytes_are_named(tmp_path):
    path = write(tmp_path / "a.csv", HEADER.encode() + b"1,7,9,a\n1,7,9,\xff\xfe\n")
    with pytest.raises(DataError, match="line 3, column 'item': expected text in the file's enc"):
        read_log(path, PLAIN)


def test_utf_16(tmp_path):
    description = LogDescription(
        {"click": LogLabel("click")},
        {"user": LogField("integer")},
        ignore=("ts", "item"),
        encoding="utf-16",
    )
    path = write(tmp_path / "a.csv", HEADER + "1,7,9,a\n", "utf-16")
    assert read_log(path, description).hashes["user"].tolist() == [hash_of("user", 7)]
    path.write_bytes(path.read_bytes() + b"\x00\xd8,\x00")  # half a surrogate pair
    with pytest.raises(DataError, match="expected utf-16 text"):
        read_log(path, description)


@pytest.mark.parametrize("suffix", [".csv", ".csv.gz"])
def test_an_empty_file(tmp_path, suffix):
    with pytest.raises(DataError, match="the file is empty"):
        read_log(write(tmp_path / f"a{suffix}", ""), PLAIN)


@pytest.mark.parametrize("suffix", [".xz", ".gz"])
def test_damaged_compression(tmp_path, suffix):
    body = "".join(f"{i % 2},{i * i},0,x\n" for i in range(5000))
    whole = write(tmp_path / f"a.csv{suffix}", HEADER + body).read_bytes()
    path = tmp_path / f"b.csv{suffix}"
    for damaged in (whole[: len(whole) // 2], whole[:3], b"not compressed at all", b"\0" + whole):
        path.write_bytes(damaged)
        with pytest.raises(DataError, match="damaged or truncated after line"):
            read_log(path, PLAIN)


def test_missing_file_and_folder(tmp_path):
    with pytest.raises(DataError, match="no such file"):
        read_log(tmp_path / "absent.csv", PLAIN)
    with pytest.raises(DataError, match=r"no file of a log; expected .*\.csv.*; it holds nothing"):
        read_log(tmp_path, PLAIN)


def test_columns_that_do_not_fit_are_all_named(tmp_path):
    path = write(tmp_path / "a.csv", "click,item,when,who\n1,2,3,4\n")
    with pytest.raises(DataError) as caught:
        read_log(path, PLAIN)
    assert "no column 'user', 'ts'" in str(caught.value)
    assert "neither field, label nor ignored: 'when', 'who'" in str(caught.value)
    with pytest.raises(DataError, match="columns named twice: a"):
        read_log(write(path, "a,a,b\n1,2,3\n"), PLAIN)


def test_star_ignores_the_rest(tmp_path):
    description = LogDescription.from_dict(
        {"label": "click", "fields": {"user": "integer"}, "ignore": ["*"]}
    )
    log = read_log(write(tmp_path / "a.csv", HEADER + "1,7,9,a\n"), description)
    assert list(log.hashes) == ["user"]


def test_description_files(tmp_path):
    toml = write(
        tmp_path / "a.toml",
        'label = {column = "click"}\nignore = ["ts"]\n[fields]\nuser = "integer"\nitem = {}\n',
    )
    as_json = write(
        tmp_path / "a.json",
        json.dumps({"label": "click", "ignore": ["ts"], "fields": {"user": "integer", "item": {}}}),
    )
    assert LogDescription.from_file(toml) == LogDescription.from_file(as_json) == PLAIN


@pytest.mark.parametrize(
    ("name", "text", "error", "message"),
    [
        ("a.json", "{", SpecError, "a.json: Expecting"),
        ("a.toml", "x = ", SpecError, "a.toml: "),
        ("a.yaml", "", SpecError, "a .toml or .json file"),
        ("a.json", "[]", SpecError, "a.json: log description: expected an object, got list"),
        ("absent/a.json", None, DataError, "cannot read"),
    ],
)
def test_unreadable_descriptions(tmp_path, name, text, error, message):
    path = tmp_path / name
    if text is not None:
        write(path, text)
    with pytest.raises(error, match=message):
        LogDescription.from_file(path)


def test_descriptions_as_editors_and_command_lines_write_them(tmp_path):
    """A byte order mark before it; a split with its columns in one text."""
    toml = 'label = "click"\n[split]\nby = "hash:user,item"\nshares = [0.5, 0.25, 0.25]\n'
    path = tmp_path / "a.toml"
    path.write_text(toml + '[fields]\nuser = "integer"\nitem = "string"\n', encoding="utf-8-sig")
    assert LogDescription.from_file(path).split == SplitRule(
        "hash", ("user", "item"), (0.5, 0.25, 0.25)
    )
    for by in ("time:ts", "hash:"):
        with pytest.raises(SpecError, match="split"):
            SplitRule.from_dict({"by": by})


@pytest.mark.parametrize("name", ["a\0b", "half \ud800"])
def test_names_that_no_file_holds_are_refused_before_training(name):
    for labels, field in (([name], "user"), (["click"], name)):
        with pytest.raises(SpecError, match="no file holds a name with"):
            LogDescription.from_dict({"labels": labels, "fields": {field: "string"}})


def test_every_fault_of_a_description_is_listed():
    with pytest.raises(SpecError) as caught:
        LogDescription.from_dict(
            {
                "label": {"at_least": "4"},
                "fields": {"a": "float", "b": {"sort": 1}, "c": {"column": 3, "missing": "x"}},
                "delimiter": 1,
                "columns": "a",
                "header": True,
            }
        )
    for part in (
        "unknown keys header",
        "label must be",
        "'float'",
        "'b'",
        "'c': column",
        "missing",
    ):
        assert part in str(caught.value)
    for part in ("delimiter must be a string", "columns must be a list"):
        assert part in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"fields": {}}, "at least one field"),
        ({"fields": {"click": "string"}}, "label column 'click' cannot be a field"),
        ({"ignore": ["user"]}, "used and ignored: user"),
        ({"columns": ["click", "user", "user"]}, "columns named twice: user"),
        ({"delimiter": "::"}, "several characters needs a file without quoting"),
        ({"delimiter": ""}, "delimiter must not be empty"),
        ({"quote": ","}, "quote must be one character"),
        ({"encoding": "utf-99"}, "unknown encoding"),
        ({"encoding": "base64"}, "unknown encoding"),
    ],
)
def test_contradictions(changes, message):
    with pytest.raises(SpecError, match=message):
        LogDescription.from_dict({"label": "click", "fields": {"user": "integer"}} | changes)


@pytest.mark.parametrize(
    "rule",
    [
        {"column": "click", "values": ["no", "no"]},
        {"column": "click", "values": ["no"]},
        {"column": "click", "values": [0, 1]},
        {"column": "click", "values": ["no", "yes"], "at_least": 1},
    ],
)
def test_words_of_a_label_are_two_different_texts(rule):
    with pytest.raises(SpecError, match=r"\[text for 0, text for 1\]"):
        LogDescription.from_dict({"label": rule, "fields": {"user": "integer"}})


def test_another_word_than_the_label_names_is_refused(tmp_path):
    rule = {"column": "click", "values": ["no", "yes"]}
    columns = LogDescription.from_dict({"label": rule, "fields": {"user": "integer"}})
    path = write(tmp_path / "a.csv", "click,user\nno,1\nyes,2\nYes,3\n")
    message = "line 4, column 'click': expected the label 'no' or 'yes', got 'Yes'"
    with pytest.raises(DataError, match=message):
        read_log(path, columns)
