"""`ondevice describe` guesses what a log's columns are, and what it writes can be trained on."""

import json
import tomllib

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ondevice.cli import main
from ondevice.models.data import LogDescription, open_log

ROWS = 600


def rows():
    rng = np.random.default_rng(1)
    for n in range(ROWS):
        click = int(rng.random() < 0.3)
        yield {
            "request": f"r{n:06d}",
            "click": click,
            "shown_at": f"2026-10-{1 + n * 28 // ROWS:02d} {rng.integers(24):02d}:15:00",
            "user": f"user {rng.integers(40)}",
            "item": str(rng.choice(["007", "12", "NA", "4"])),
            "price": str(rng.choice(["1.5", "0.25", "", "3"])),
            "genres": str(rng.choice(["a|b", "b", "a|c|d", "c|d"])),
            "mobile": str(rng.choice(["true", "False"])),
            "dwell": click * 100 + int(rng.integers(50)),
            "constant": "x",
            "hash": str(2**63 + int(rng.integers(2**40))),
        }


EXPECTED = {
    "user": "string",
    "item": {"kind": "integer", "missing": ["", "NA"]},
    "price": "number",
    "genres": {"kind": "string", "list": True},
    "mobile": "boolean",
    "shown_at": {"kind": "timestamp", "format": "iso"},
}
IGNORED = {"request", "dwell", "constant", "hash"}


def write(folder, kind):
    path = folder / f"log.{kind}"
    table = list(rows())
    separator = {"csv": ",", "tsv": "\t", "txt": ";"}.get(kind)
    if separator:
        lines = [table[0].keys(), *(row.values() for row in table)]
        path.write_text("".join(separator.join(map(str, line)) + "\n" for line in lines))
    elif kind == "jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in table))
    else:
        pq.write_table(pa.Table.from_pylist(table), path)
    return path


@pytest.mark.parametrize("kind", ["csv", "tsv", "txt", "jsonl", "parquet"])
def test_the_draft_describes_the_log(kind, tmp_path, capsys):
    path, draft = write(tmp_path, kind), tmp_path / "columns.toml"
    assert main(["describe", str(path), "--out", str(draft)]) == 0
    text = capsys.readouterr().out
    assert "dwell predicts the label by itself (AUC 1.000)" in text
    data = tomllib.loads(draft.read_text("utf-8"))
    assert (data["label"], data["time"]) == ("click", "shown_at")
    assert data["fields"] == EXPECTED
    assert set(data["ignore"]) == IGNORED
    log = open_log(path, columns=draft)
    assert len(log) == ROWS
    assert log.bounds == (480, 540)
    assert LogDescription.from_file(draft).labels.keys() == {"click"}


def test_json_and_an_existing_file(tmp_path, capsys):
    path = write(tmp_path, "csv")
    assert main(["describe", str(path), "--json", "-", "--max-rows", "100"]) == 0
    data = json.loads(capsys.readouterr().out)
    assert data["rows"] == 100
    assert [item["name"] for item in data["columns"]] == list(next(rows()))
    (tmp_path / "columns.toml").write_text("mine")
    assert main(["describe", str(path), "--out", str(tmp_path / "columns.toml")]) == 1
    assert "give --force" in capsys.readouterr().err
    assert (tmp_path / "columns.toml").read_text() == "mine"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["absent.csv"], "absent.csv: no such file or folder"),
        (["log.csv", "--label", "clicks"], "no column 'clicks'"),
        (["log.csv", "--max-rows", "1"], "--max-rows must be at least 2"),
        (["log.csv", "--where", "dt > 1"], "names 'dt'"),
        (["empty.csv"], "empty.csv: the file is empty"),
    ],
)
def test_mistakes(arguments, message, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write(tmp_path, "csv")
    (tmp_path / "empty.csv").write_text("")
    assert main(["describe", *arguments]) == 1
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_a_log_without_a_label_says_so(tmp_path, capsys):
    (tmp_path / "log.csv").write_text("a,b\n" + "".join(f"{n},{n % 7}\n" for n in range(50)))
    assert main(["describe", str(tmp_path / "log.csv"), "--out", str(tmp_path / "c.toml")]) == 0
    assert "no label found" in capsys.readouterr().out
    assert "FILL IN" in (tmp_path / "c.toml").read_text()


@pytest.mark.parametrize("arguments", [[], ["--label", "click"]])
def test_a_label_that_is_always_0_is_not_replaced_by_another_column(arguments, tmp_path, capsys):
    """`mobile` is the only column of both 0 and 1."""
    path, draft = tmp_path / "log.csv", tmp_path / "c.toml"
    path.write_text("click,mobile\n" + "".join(f"0,{n % 2}\n" for n in range(50)))
    assert main(["describe", str(path), "--out", str(draft), *arguments]) == 0
    assert "the label click is 0 in all of these rows" in capsys.readouterr().out
    data = tomllib.loads(draft.read_text("utf-8"))
    assert (data["label"], list(data["fields"])) == ("click", ["mobile"])


def test_a_label_of_both_values_has_precedence_over_a_constant_one(tmp_path, capsys):
    path = tmp_path / "log.csv"
    path.write_text("click,y\n" + "".join(f"1,{n % 2}\n" for n in range(50)))
    assert main(["describe", str(path)]) == 0
    assert "label: y, 1 in 50.00%" in capsys.readouterr().out


def test_a_label_of_several_numbers_needs_a_threshold(tmp_path, capsys):
    path = tmp_path / "log.csv"
    path.write_text("film,stars\n" + "".join(f"{n % 3},{n % 5}\n" for n in range(50)))
    assert main(["describe", str(path), "--label", "stars"]) == 0
    assert 'label = { column = "stars", at_least = NUMBER }' in capsys.readouterr().out


WORDS = [
    (("no", "yes"), ["no", "yes"]),
    (("True", "False"), "outcome"),
    (("1.0", "0.0"), "outcome"),
    (("bought", "seen"), ["seen", "bought"]),  # the rarer one is 1
    (("yes", "none"), ["none", "yes"]),
]


@pytest.mark.parametrize(("words", "label"), WORDS, ids=lambda item: str(item))
def test_a_label_in_words_trains_as_described(words, label, tmp_path, capsys):
    """The first word is in 20 rows of 60."""
    path, draft = tmp_path / "log.csv", tmp_path / "c.toml"
    texts = [words[0] if n % 3 == 0 else words[1] for n in range(60)]
    path.write_text(
        "outcome,user\n" + "".join(f"{text},u{n % 7}\n" for n, text in enumerate(texts))
    )
    assert main(["describe", str(path), "--label", "outcome", "--out", str(draft)]) == 0
    given = tomllib.loads(draft.read_text("utf-8"))["label"]
    one = "True" if "True" in words else "1.0" if "1.0" in words else label[1]
    assert given == (label if label == "outcome" else {"column": "outcome", "values": label})
    rate = texts.count(one) / 60
    assert f"1 in {rate:.2%} of the rows" in capsys.readouterr().out
    log = open_log(path, columns=draft)
    assert np.concatenate([log.part(n).labels for n in range(3)]).sum() == texts.count(one)


def test_infinite_numbers_are_missing_ones(tmp_path):
    path, draft = tmp_path / "log.csv", tmp_path / "c.toml"
    scores = ["inf", "-Infinity", *(str(n / 4) for n in range(58))]
    path.write_text("click,score\n" + "".join(f"{n % 2},{x}\n" for n, x in enumerate(scores)))
    assert main(["describe", str(path), "--out", str(draft)]) == 0
    field = tomllib.loads(draft.read_text("utf-8"))["fields"]["score"]
    assert field == {"kind": "number", "missing": ["", "inf", "-Infinity"]}
    assert len(open_log(path, columns=draft)) == 60


def test_columns_that_no_field_can_read_are_ignored(tmp_path):
    """Objects, durations and bytes that are no text, in Parquet and in JSON lines."""
    objects = [{"x": n % 3, "tags": [n % 2]} for n in range(60)]
    columns = {
        "click": [n % 2 for n in range(60)],
        "user": [f"u{n % 7}" for n in range(60)],
        "object": objects,
        "objects": [[item] for item in objects],
    }
    parquet, lines = tmp_path / "log.parquet", tmp_path / "log.jsonl"
    others = {
        "pause": pa.array(range(60), pa.duration("s")),
        "clock": pa.array(range(60), pa.time32("s")),
        "blob": pa.array([b"\xff\x00"] * 59 + [b"\xfe"], pa.binary()),
        "map": pa.array([[("a", n)] for n in range(60)], pa.map_(pa.string(), pa.int64())),
    }
    pq.write_table(pa.table({**columns, **others}), parquet)
    rows = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    lines.write_text("".join(json.dumps(row) + "\n" for row in rows))
    for path, ignored in (
        (parquet, {"object", "objects", *others}),
        (lines, {"object", "objects"}),
    ):
        draft = tmp_path / f"{path.suffix[1:]}.toml"
        assert main(["describe", str(path), "--out", str(draft)]) == 0
        data = tomllib.loads(draft.read_text("utf-8"))
        assert (set(data["ignore"]), data["fields"]) == (ignored, {"user": "string"})
        assert len(open_log(path, columns=draft)) == 60


def test_drafts_are_toml_whatever_a_log_calls_its_columns(tmp_path):
    """Emoji, which JSON writes as two halves, control characters, keywords; words of a label."""
    names = ["emoji😀", "DEL\x7f", "line\nfeed", "\x85\u2028", "q\"uo'te", "back\\slash", "größe"]
    columns = {name: [f"v{n % (3 + k)}" for n in range(60)] for k, name in enumerate(names)}
    words = ["👍" if n % 11 in (1, 5) else "👎" for n in range(60)]
    path, draft = tmp_path / "log.parquet", tmp_path / "columns.toml"
    pq.write_table(pa.table({"clicked": words, **columns}), path)
    assert main(["describe", str(path), "--out", str(draft)]) == 0
    data = tomllib.loads(draft.read_text("utf-8"))
    assert data["label"] == {"column": "clicked", "values": ["👎", "👍"]}
    assert data["fields"] == dict.fromkeys(names, "string")
    assert set(open_log(path, columns=draft).hashes) == set(names)


SIZE = 600
UNSIGNED = [2**64 - 1, None, 7] * (SIZE // 3)
COLUMNS = {  # and the kind that fields read of them; None: no field can
    "unsigned with gaps": (pa.array(UNSIGNED, pa.uint64()), "integer"),
    "lists of unsigned": (pa.array([[n, 3] for n in UNSIGNED], pa.list_(pa.uint64())), "integer"),
    "bytes of one length": (pa.array([b"ab", b"cd"] * (SIZE // 2), pa.binary(2)), "string"),
    "views of bytes": (pa.array([b"ab", b"cd"] * (SIZE // 2), pa.binary_view()), "string"),
    "lists of bytes": (pa.array([[b"ab"], [b"cd", None]] * (SIZE // 2)), "string"),
    "views of lists": (
        pa.array([["a"], ["b"]] * (SIZE // 2), pa.list_view(pa.string())),
        "string",
    ),
    "spans beyond Python's": (pa.array([2**62 + n for n in range(SIZE)], pa.duration("s")), None),
    "runs": (
        pa.RunEndEncodedArray.from_arrays(pa.array([30, SIZE], pa.int32()), pa.array(["a", "b"])),
        "string",
    ),
}


@pytest.mark.parametrize("name", COLUMNS)
def test_a_draft_holds_what_fields_can_read_of_rarer_types(name, tmp_path):
    column, kind = COLUMNS[name]
    rng = np.random.default_rng(2)
    table = pa.table(
        {
            "click": rng.integers(0, 2, SIZE),
            "user": [f"u{n}" for n in rng.integers(0, 9, SIZE)],
            "price": rng.random(SIZE),
            "x": column,
        }
    )
    path, draft = tmp_path / "log.arrow", tmp_path / "columns.toml"
    with pa.ipc.new_file(str(path), table.schema) as file:
        file.write_table(table)
    assert main(["describe", str(path), "--out", str(draft)]) == 0
    data = tomllib.loads(draft.read_text("utf-8"))
    found = data["fields"].get("x")
    assert (found["kind"] if isinstance(found, dict) else found) == kind
    assert ("x" in data.get("ignore", [])) == (kind is None)
    assert len(open_log(path, columns=draft)) == SIZE


def described(path, capsys):
    """The draft of a log as data, and what `describe` says below its table."""
    draft = path.with_name(f"{path.name}.toml")
    assert main(["describe", str(path), "--out", str(draft)]) == 0
    return tomllib.loads(draft.read_text("utf-8")), capsys.readouterr().out.split("looked at")[1]


@pytest.mark.parametrize("missing", ["", "nan", "NA"])
def test_a_label_with_missing_values_is_the_label(missing, tmp_path, capsys):
    """Not a field, by which a model would know the click."""
    path = tmp_path / "log.csv"
    rng = np.random.default_rng(4)
    clicks = [missing if n % 40 == 7 else n for n in rng.integers(0, 2, 320).tolist()]
    gone = clicks.count(missing)
    path.write_text("click,film\n" + "".join(f"{c},{n % 9}\n" for n, c in enumerate(clicks)))
    data, said = described(path, capsys)
    assert data == {"label": "click", "fields": {"film": "integer"}}
    assert (f"{gone} rows have no label" in said) == (gone > 0)
    assert f"1 in {clicks.count(1) / (320 - gone):.2%} of the rows" in said


def test_json_objects_that_lack_keys_are_warned_of(tmp_path, capsys):
    """Below folders of Hive, too, where `describe` failed."""
    folder = tmp_path / "logs" / "dt=2026-10-01"
    folder.mkdir(parents=True)
    rows = [{"click": n % 2, "user": f"u{n % 9}", "film": n % 7} for n in range(90)]
    for row in rows[:30]:
        del row["film"]
    (folder / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    draft = tmp_path / "columns.toml"
    assert main(["describe", str(tmp_path / "logs"), "--out", str(draft)]) == 0
    assert "WARNING: 30 rows have no film at all" in capsys.readouterr().out
    fields = tomllib.loads(draft.read_text("utf-8"))["fields"]
    assert (fields["user"], fields["film"]) == ("string", "integer")


def test_what_is_no_field_of_json_and_text(tmp_path, capsys):
    """Integers beyond 64 bits, a column without a name; objects without any key."""
    path, text, empty = tmp_path / "log.jsonl", tmp_path / "log.csv", tmp_path / "none.jsonl"
    rng = np.random.default_rng(6)
    labels = rng.integers(0, 2, 60).tolist()
    rows = [{"click": c, "film": n % 7, "big": 2**63 + n % 5} for n, c in enumerate(labels)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    data, _ = described(path, capsys)
    assert (data["fields"], data["ignore"]) == ({"film": "integer"}, ["big"])
    text.write_text(
        "click,,film\n" + "".join(f"{c},{n % 6},{n % 7}\n" for n, c in enumerate(labels))
    )
    data, _ = described(text, capsys)
    assert (data["fields"], data["ignore"]) == ({"film": "integer"}, [""])
    empty.write_text("{}\n{}\n")
    assert main(["describe", str(empty)]) == 1
    assert "the log has no columns" in capsys.readouterr().err


def test_folders_of_days_are_no_field(tmp_path, capsys):
    """A model that takes the day of a folder cannot score a file below it."""
    rng = np.random.default_rng(8)
    for day in range(1, 13):
        folder = tmp_path / f"logs/dt=2026-10-{day:02d}/country={'de' if day % 3 else 'fr'}"
        folder.mkdir(parents=True)
        table = pa.table(
            {
                "click": rng.integers(0, 2, 50),
                "film": rng.integers(0, 9, 50),
                "at": pa.array([day * 86400 + n * 60 for n in range(50)], pa.timestamp("s")),
            }
        )
        pq.write_table(table, folder / "a.parquet")
        pq.write_table(table.drop_columns("at"), folder / "b.parquet")
    draft = tmp_path / "columns.toml"
    for files, time, fields in (
        ("a.parquet", "at", {"film", "at", "country"}),
        ("b.parquet", "dt", {"film", "country"}),
    ):
        paths = sorted(str(path) for path in tmp_path.glob(f"logs/*/*/{files}"))
        assert main(["describe", *paths, "--out", str(draft), "--force"]) == 0
        assert "WARNING: country is named by folders only" in capsys.readouterr().out
        data = tomllib.loads(draft.read_text("utf-8"))
        assert (data["time"], set(data["fields"])) == (time, fields)
        assert data.get("ignore", []) == (["dt"] if time == "at" else [])
        assert len(open_log(paths, columns=draft)) == 600
