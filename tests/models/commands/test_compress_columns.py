"""`ondevice compress` on logs with every kind of column, and on logs that it must refuse."""

import csv

import numpy as np
import pyarrow as pa
import pytest

import ondevice
from ondevice.cli import main
from ondevice.errors import DataError, InputError
from ondevice.models.data import open_log
from ondevice.models.search.trial_data import prepare

ROWS = 300
COLUMNS = """label = "click"
time = "shown_at"
time_format = "iso"
[fields]
user = "string"
item = "integer"
price = "number"
same_price = "number"
no_price = "number"
mobile = "boolean"
shown = { kind = "timestamp", column = "shown_at", parts = ["hour", "weekday"] }
country = "string"
nothing = "string"
no_code = "integer"
"*" = "string"
label = "string"
keys = "string"
"a.b" = "integer"
weight = "number"
"""


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    """A log of each kind of column: constant, always missing, and named like reserved words."""
    folder = tmp_path_factory.mktemp("shop")
    rng = np.random.default_rng(0)
    header = ["click", "shown_at", "user", "item", "price", "same_price", "no_price", "mobile"]
    header += ["country", "nothing", "no_code", "*", "label", "keys", "a.b", "weight"]
    with (folder / "log.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(header)
        for row in range(ROWS):
            item = int(rng.integers(30))
            price = "" if item % 7 == 0 else f"{rng.exponential(20):.2f}"
            shown = f"2026-10-{1 + row // 24:02d}T{row % 24:02d}:00:00"
            cells = [int(rng.random() < item / 30), shown, f"u{rng.integers(40)}", item, price]
            cells += ["4.5", "", "true" if rng.random() < 0.5 else "false", "DE", "", ""]
            writer.writerow([*cells, "x", f"l{item % 3}", "k", item % 5, row % 4])
    (folder / "columns.toml").write_text(COLUMNS)
    return ["--data", "log", "--path", folder / "log.csv", "--columns", folder / "columns.toml"]


@pytest.mark.parametrize("goal", [("--ratio", 20), ("--max-auc-loss", 0.05)])
def test_every_kind_of_column(goal, shop, tmp_path, capsys):
    arguments = ["compress", *shop, *goal, "--trials", 5, "--out", tmp_path]
    assert main([str(item) for item in arguments]) == 0, capsys.readouterr().err
    model = ondevice.load(next(tmp_path.rglob("model.odm")))
    names = {item.name for item in model.features.fields}
    assert names >= {"price", "no_price", "mobile", "shown_hour", "country", "*", "label", "a.b"}
    requests = {item.name: [None] for item in model.features.fields}
    assert 0 <= float(model.predict(requests, raw=True)[0]) <= 1  # missing everywhere


def test_kinds_that_trials_do_not_take():
    rows = range(60)
    table = pa.table(
        {
            "moment": list(rows),
            "click": [n % 3 == 0 for n in rows],
            "buy": [n % 4 == 0 for n in rows],
            "user": [f"u{n % 7}" for n in rows],
            "tags": [["a", "b"][: n % 3] for n in rows],
        }
    )
    lists = {"label": "click", "time": "moment", "ignore": ["buy"]}
    lists["fields"] = {"user": "string", "tags": {"kind": "string", "list": True}}
    with pytest.raises(InputError, match="compression trials take no sequences: tags"):
        prepare(open_log(table, columns=lists))
    labels = {"labels": ["click", "buy"], "time": "moment", "ignore": ["tags"]}
    labels["fields"] = {"user": "string"}
    with pytest.raises(InputError, match="the log has click, buy: describe it with one of them"):
        prepare(open_log(table, columns=labels))


def test_a_part_without_clicks_is_said():
    rows = range(60)
    table = pa.table(
        {"click": [n < 48 and n % 2 == 0 for n in rows], "user": [f"u{n % 7}" for n in rows]}
    )
    table = table.append_column("moment", pa.array(list(rows)))
    columns = {"label": "click", "time": "moment", "fields": {"user": "string"}}
    with pytest.raises(DataError, match="'click' is 0 in all 6 rows for validation"):
        open_log(table, columns=columns)
