"""`ondevice export-android`: a model and a catalogue as assets of the Android demo app."""

from __future__ import annotations

import argparse
import csv
import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ondevice.atomic import atomic_path
from ondevice.errors import FileFormatError, InputError, UnsupportedError
from ondevice.model import Model, load, model_files
from ondevice.models.commands.outputs import check_writable
from ondevice.models.data.synthetic import synthetic_data
from ondevice.requests import field_of_cells
from ondevice.text_table import size
from ondevice.verify import verify

EPILOG = """examples:
  ondevice export-android demo-out/model.odm --out android_demo/demo/src/main/assets
  ondevice export-android model.odm --items films.csv --users users.csv --out assets

Without --items and --users, users and items are taken from the synthetic log that `ondevice demo`
trains on. The CSV files have a header: items.csv a column `title` and the model's inputs that
differ between items, users.csv a column `name` and the other inputs; cells are read as those
of the training log: its missing markers, and by default | between the values of a sequence.

Writes model.odm, after verifying it, and catalogue.json, with the scores of the first user."""

FORMAT, VERSION = "ondevice-catalogue", 1
MOST_ROWS = 5000  # of items or users: what a list on a phone and one request should hold
STOCK_NAMES = ("model.onnx", "model.tflite")
ITEMS, USERS = 60, 12  # of the synthetic log
ITEM_FIELDS = ("item", "seller", "category")  # of the synthetic log; the others are a user's


@dataclass(frozen=True)
class Row:
    """One user or item: what the app shows, and its raw values by input name."""

    title: str
    values: dict[str, Any]


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("model", type=Path, help=".odm file with a feature specification")
    parser.add_argument("--out", type=Path, required=True, help="folder of the app's assets")
    parser.add_argument("--items", type=Path, metavar="CSV", help="items to rank")
    parser.add_argument("--users", type=Path, metavar="CSV", help="users to rank them for")
    parser.add_argument(
        "--also",
        type=Path,
        nargs="+",
        default=[],
        metavar="FILE",
        help="the .onnx or .tflite file too, for the app's flavours with stock runtimes",
    )
    parser.add_argument("--seed", type=int, default=0, help="of the synthetic log (default: 0)")


def run(args: argparse.Namespace) -> int:
    """Verify, score the first user, write both assets and say what they are."""
    check_writable("--out", args.out)
    if args.model.suffix.lower() != ".odm":
        raise UnsupportedError(f"{args.model}: the Android library runs .odm files only")
    if (args.items is None) != (args.users is None):
        raise InputError("--items and --users come together")
    for path in (args.model, *args.also):
        if path is not args.model and path.name not in STOCK_NAMES:
            # not renamed: an .onnx file names the file of its tables
            raise InputError(f"{path}: the app opens {' and '.join(STOCK_NAMES)}; convert it so")
        if not verify(path).passed:
            raise FileFormatError(f"{path}: its test vectors do not hold; convert it again")
    model = load(args.model)
    if args.items is None:
        users, items = synthetic_rows(model, args.seed)
    else:
        users = read_rows(args.users, "name", model)
        items = read_rows(args.items, "title", model)
    catalogue = catalogue_of(model, users, items)
    copies = {args.model: "model.odm"}
    copies |= {file: file.name for path in args.also for file in model_files(path)}
    for file, name in copies.items():
        with atomic_path(args.out / name) as temporary:
            shutil.copyfile(file, temporary)
    with atomic_path(args.out / "catalogue.json") as temporary:
        text = json.dumps(catalogue, ensure_ascii=False, indent=1) + "\n"
        temporary.write_text(text, encoding="utf-8")
    print(  # noqa: T201
        f"{args.out / 'model.odm'}: {size(args.model.stat().st_size)}, verified\n"
        f"{args.out / 'catalogue.json'}: {len(users)} users ({', '.join(users[0].values)}), "
        f"{len(items)} items ({', '.join(items[0].values)})"
    )
    return 0


def catalogue_of(model: Model, users: Sequence[Row], items: Sequence[Row]) -> dict[str, Any]:
    """The catalogue as the app reads it.

    Raises:
        InputError: no users or items, inputs missing or in both, or a value of a wrong type.
    """
    for kind, rows in (("user", users), ("item", items)):
        if not 1 <= len(rows) <= MOST_ROWS:
            raise InputError(f"expected 1..{MOST_ROWS} {kind}s, got {len(rows)}")
    for user in users:  # every value is tried here, not on a phone
        model.features.encode(_columns([user]))
    scores = model.rank(_columns(users[:1]), _columns(items), raw=True)
    if scores.ndim != 1 or not np.isfinite(scores).all():
        raise UnsupportedError(f"{model.path}: expected one finite score for each item")
    return {
        "format": FORMAT,
        "version": VERSION,
        "users": [{"title": row.title, "values": row.values} for row in users],
        "items": [{"title": row.title, "values": row.values} for row in items],
        "first_user_scores": [float(f"{score:.7g}") for score in scores],
    }


def read_rows(path: Path, title: str, model: Model) -> list[Row]:
    """Users or items of a CSV file; see the command's help.

    Raises:
        InputError: no such file, not CSV, a column that is no input, or a value of a wrong type.
    """
    rows = []
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file, strict=True)
            header = reader.fieldnames or []
            if title not in header or len(set(header)) != len(header):
                raise InputError(f"{path}: expected a header with a column {title!r}, each once")
            fields = {
                name: field_of_cells(model.features[name]) for name in header if name != title
            }
            for cells in reader:
                line = reader.line_num
                if None in cells or None in cells.values():
                    raise InputError(f"{path}: line {line}: expected {len(header)} cells")
                try:
                    values = {name: field.read(cells[name]) for name, field in fields.items()}
                except InputError as error:
                    raise InputError(f"{path}: line {line}: {error}") from error
                rows.append(Row(cells[title], values))
    except OSError as error:
        raise InputError(f"{path}: {error.strerror or error}") from error
    except (csv.Error, UnicodeDecodeError) as error:
        raise InputError(f"{path}: not valid CSV: {error}") from error
    return rows


def synthetic_rows(model: Model, seed: int, count: int = ITEMS) -> tuple[list[Row], list[Row]]:
    """The commonest users and `count` items of the synthetic log, with their rows' other values.

    Raises:
        InputError: the model has other inputs than that log.
    """
    values = synthetic_data(seed=seed).values
    names = [spec.name for spec in model.inputs]
    if sorted(names) != sorted(values):
        raise InputError(
            f"{model.path}: its inputs {', '.join(names)} are not those of the synthetic log; give "
            "--items and --users"
        )
    user_fields = [name for name in values if name not in ITEM_FIELDS]
    users = [
        Row(f"User {row['user']}, {row['hour']:02d}:00, device {row['device']}", row)
        for row in _firsts(values, "user", user_fields, USERS)
    ]
    items = [
        Row(f"Item {row['item']}, category {row['category']}, seller {row['seller']}", row)
        for row in _firsts(values, "item", ITEM_FIELDS, count)
    ]
    return users, items


def _firsts(
    values: Mapping[str, Any], key: str, names: Sequence[str], count: int
) -> list[dict[str, int]]:
    """The first row of each of the values 0..count-1 (the commonest) of a field."""
    _, places = np.unique(values[key], return_index=True)
    return [{name: int(values[name][place]) for name in names} for place in places[:count]]


def _columns(rows: Sequence[Row]) -> dict[str, list[Any]]:
    return {name: [row.values[name] for row in rows] for name in rows[0].values}
