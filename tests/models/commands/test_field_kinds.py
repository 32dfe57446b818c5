"""Every command on every kind of field, from the log to a measured file."""

import csv
import json

import numpy as np
import pytest
import torch

from ondevice.cli import main
from ondevice.inspection import inspect
from ondevice.models import load_checkpoint
from ondevice.models.data.contests import AVAZU_COLUMNS, CRITEO_COLUMNS

ROWS = 400
RECIPE = """
[network]
kind = "{kind}"
hidden = [8]
[tables]
dim = 4
small = 10
[training]
epochs = 1
batch = 128
[widths]
epochs = 1
{history}
"""


def shop(folder):
    """Strings, integers, numbers and a time; one field of each kind is always missing."""
    rng = np.random.default_rng(0)
    rows = []
    for moment in range(ROWS):
        item = int(rng.integers(30))
        price = "" if item % 7 == 0 else f"{rng.exponential(20):.2f}"
        click = int(rng.random() < item / 30)
        rows.append([f"u{rng.integers(40)}", item, price, "", "", "", moment, click])
    names = ["user", "item", "price", "note", "code", "weight", "moment", "click"]
    with (folder / "log.csv").open("w", newline="") as file:
        csv.writer(file).writerows([names, *rows])
    (folder / "columns.toml").write_text(
        'label = "click"\ntime = "moment"\n[fields]\nuser = "string"\nitem = "integer"\n'
        'price = "number"\nnote = "string"\ncode = "integer"\nweight = "number"\n'
    )
    requests = [dict(zip(names[:6], row[:6], strict=True)) for row in rows[:20]]
    options = ["--data", "csv", "--path", folder / "log.csv", "--columns", folder / "columns.toml"]
    return options, requests


def criteo(folder):
    rng = np.random.default_rng(1)
    rows = []
    for _ in range(ROWS):
        numbers = ["" if rng.random() < 0.2 else str(rng.integers(-2, 200)) for _ in range(13)]
        hashes = ["" if rng.random() < 0.1 else f"{int(rng.integers(20)):08x}" for _ in range(26)]
        rows.append([str(int(rng.random() < 0.3)), *numbers, *hashes])
    (folder / "train.tsv").write_text("".join("\t".join(row) + "\n" for row in rows))
    requests = [dict(zip(CRITEO_COLUMNS[1:], row[1:], strict=True)) for row in rows[:20]]
    return ["--data", "criteo", "--path", folder], requests


def avazu(folder):
    rng = np.random.default_rng(2)
    rows = []
    for _ in range(ROWS):
        cells = {name: str(rng.integers(12)) for name in AVAZU_COLUMNS}
        cells |= {"hour": f"141021{rng.integers(24):02d}", "click": str(int(rng.random() < 0.3))}
        rows.append(cells)
    with (folder / "train.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, AVAZU_COLUMNS)
        writer.writeheader()
        writer.writerows(rows)
    requests = [
        {name: cell for name, cell in row.items() if name not in ("id", "click")}
        | {"hour": row["hour"][6:], "weekday": "1"}
        for row in rows[:20]
    ]
    return ["--data", "avazu", "--path", folder], requests


LOGS = {"shop": shop, "criteo": criteo, "avazu": avazu}


def command(capsys, *arguments):
    """Run a command that must succeed; what it printed."""
    code = main([str(argument) for argument in arguments])
    printed = capsys.readouterr()
    assert code == 0, printed.err
    return printed.out


def typed(cell, kind):
    """A CSV cell as Python passes it to a feature specification."""
    if cell == "":
        return None
    return {"integer": int, "number": float, "string": str}[kind](cell)


def requests_file(folder, requests):
    """The requests in a file: the log's own rows, which `run` reads as training did, or a CSV."""
    for log in folder.glob("train.?sv"):
        lines = log.read_text().splitlines(keepends=True)
        path = folder / f"requests{log.suffix}"
        path.write_text("".join(lines[: len(requests) + (log.suffix == ".csv")]))  # with a header
        return path
    path = folder / "requests.csv"
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(requests[0]))
        writer.writeheader()
        writer.writerows(requests)
    return path


def check_scores(capsys, checkpoint, model, folder, requests, history=None):
    """`run` on CSV and on JSON lines gives what torch gives for the same raw values."""
    saved = load_checkpoint(checkpoint)
    columns = {
        name: [typed(str(row[name]), saved.features[name].kind) for row in requests]
        for name in requests[0]
    }
    if history is not None:
        columns["history"] = history
        requests = [
            row | {"history": "|".join(map(str, items))}
            for row, items in zip(requests, history, strict=True)
        ]
    ids = {name: torch.from_numpy(i) for name, i in saved.features.encode(columns).items()}
    with torch.no_grad():
        expected = saved.model(ids).numpy()
    cells = requests_file(folder, requests)
    lines = [
        {name: values[row] for name, values in columns.items()} for row in range(len(requests))
    ]
    (folder / "requests.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    from_cells = command(capsys, "run", model, cells).split()[1:]
    from_json = command(capsys, "run", model, folder / "requests.jsonl").splitlines()
    np.testing.assert_allclose(np.float64(from_cells), expected, atol=2e-6)
    scores = [score for line in from_json for score in json.loads(line).values()]
    np.testing.assert_allclose(scores, expected, atol=2e-6)


@pytest.mark.parametrize(
    ("name", "kind"),
    [("shop", "wide_deep"), ("shop", "din"), ("criteo", "deepfm"), ("avazu", "dcn")],
)
def test_train_convert_and_use(name, kind, tmp_path, capsys):
    options, requests = LOGS[name](tmp_path)
    history = None
    if kind == "din":  # the contests' logs have no time, so no histories
        history = [[3, 5], [], [29]] + [[7]] * (len(requests) - 3)
    section = "" if history is None else "[history]\nlength = 4\n"
    (tmp_path / "net.toml").write_text(RECIPE.format(kind=kind, history=section))
    checkpoint, out = tmp_path / "checkpoint", tmp_path / "models"
    command(capsys, "train", tmp_path / "net.toml", *options, "--out", checkpoint)
    command(capsys, "convert", checkpoint, "--out", out, "--tables", "f32")
    files = [out / f"model.{target}" for target in ("odm", "onnx", "tflite")]
    command(capsys, "verify", *files)
    assert "model.tflite" in command(capsys, "inspect", *files)
    measuring = ("--seconds", 0.01, "--processes", 1, "--gap-ms", 0, "--batch", 1)
    assert "p50" in command(capsys, "bench", files[0], *measuring)
    for file in files:
        check_scores(capsys, checkpoint, file, tmp_path, requests, history)


@pytest.mark.parametrize(
    ("name", "ratio", "trials"), [("shop", 20, 5), ("criteo", 3, 2), ("avazu", 3, 2)]
)
def test_compress_and_use(name, ratio, trials, tmp_path, capsys):
    options, requests = LOGS[name](tmp_path)
    out = tmp_path / "small"
    goal = ("--ratio", ratio, "--trials", trials)
    assert "best: a file of" in command(capsys, "compress", *options, *goal, "--out", out)
    folder = out / f"tables-{ratio}x"
    with (folder / "frontier.csv").open() as file:
        rows = list(csv.DictReader(file))
    whole = max(int(row["table bytes"]) for row in rows)
    written = sum(table.total for table in inspect(folder / "model.odm").tables)
    assert str(written) in [row["table bytes"] for row in rows]
    assert written <= whole / ratio  # tables of numbers are paid for by the budget too
    counts = load_checkpoint(folder / "checkpoint").counts
    assert {values.sum() > 0 for values in counts.values()} == {True}
    files = [folder / f"model.{target}" for target in ("odm", "onnx", "tflite")]
    command(capsys, "verify", *files)
    scores = [
        command(capsys, "run", file, requests_file(tmp_path, requests)).split()[1:]
        for file in files
    ]
    np.testing.assert_allclose(np.float64(scores[1]), np.float64(scores[0]), atol=2e-6)
    np.testing.assert_allclose(np.float64(scores[2]), np.float64(scores[0]), atol=2e-6)


def test_demo_takes_the_log(tmp_path, capsys):
    options, _ = shop(tmp_path)
    small = ("--epochs", 1, "--hidden", 8, "--dim", 4, "--seconds", 0.01)
    printed = command(capsys, "demo", *options, *small, "--out", tmp_path / "out")
    assert "share of float32 AUC" in printed
    assert (tmp_path / "out" / "demo.json").is_file()
    assert not (tmp_path / "out" / "demo.unfinished").exists()
