"""The live page in Chromium, at two widths: ranks as you type, verifies and measures models."""

import shutil

import numpy as np
import pytest
from support import web
from support.browser import LACKING as CHROMIUM_LACKING
from support.random_plans import random_plan
from support.tools import needs

import ondevice
from ondevice.bench.report import Report
from ondevice.converters import convert
from ondevice.inspection import file_parts
from ondevice.models.commands.export_android import catalogue_of, synthetic_rows
from ondevice.models.data.synthetic import synthetic_log
from ondevice.models.training.experiment import Experiment, example_ids, train_compressed
from ondevice.models.training.trainer import TrainConfig
from ondevice.web.live import live_page

pytestmark = needs(CHROMIUM_LACKING, web.CLANG_LACKING)
ITEMS = 30


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    """A folder with the page of a small model, another model and a damaged one."""
    import torch

    folder = tmp_path_factory.mktemp("live")
    experiment = Experiment(training=TrainConfig(epochs=1, batch=512))
    small = train_compressed(synthetic_log(3000), experiment)
    examples = {n: torch.from_numpy(ids) for n, ids in example_ids(small.splits.test).items()}
    convert(small.model, (examples,), folder, targets=("odm",), tables="q4",
            features=small.splits.train.features)  # fmt: skip
    model = ondevice.load(folder / "model.odm")
    catalogue = catalogue_of(model, *synthetic_rows(model, 0, ITEMS))
    catalogue["items"][0]["title"] = "</script><b>Item 1 & co</b>"
    counts = {f"embeddings.{n}.weight": rows for n, rows in small.fitted.counts.items()}
    (folder / "page").mkdir()
    (folder / "page" / "live.html").write_text(live_page(model.path, catalogue, counts), "utf-8")
    plan = random_plan(3, "q8")
    plan.write(folder / "other.odm")
    damaged = bytearray((folder / "other.odm").read_bytes())
    damaged[len(damaged) // 2] ^= 1
    (folder / "damaged.odm").write_bytes(damaged)
    for name in ("live.html", "live_driver.js"):
        shutil.copy(web.HERE / name, folder / name)
    return folder, model, catalogue


def scores(model, user, items):
    """Titles of the items, best first, and their scores in per cent."""
    columns = {n: [item["values"][n] for item in items] for n in items[0]["values"]}
    shared = {name: [value] for name, value in user.items()}
    found = model.rank(shared, columns, raw=True)
    order = np.argsort(-found, kind="stable")
    return [(items[i]["title"], 100 * float(found[i])) for i in order]


def check(lines, expected):
    """Lines of the page: place, title, score."""
    assert [int(line[0][:-1]) for line in lines] == list(range(1, len(expected) + 1))
    assert sorted(line[1] for line in lines) == sorted(title for title, _ in expected)
    shown = [float(line[2].removesuffix(" %")) for line in lines]
    np.testing.assert_allclose(shown, [score for _, score in expected], atol=0.051)


@pytest.mark.parametrize("width", [390, 1100])
def test_the_page_does_what_it_says(pages, width):
    folder, model, catalogue = pages
    seen, console = web.posted(folder, f"live.html?width={width}")
    assert seen["errors"] == []
    assert console == []
    users, items = catalogue["users"], catalogue["items"]
    check(seen["first"], scores(model, users[0]["values"], items))
    check(seen["otherUser"], scores(model, users[3]["values"], items))
    first = next(iter(users[3]["values"]))
    check(seen["typed"], scores(model, {**users[3]["values"], first: 12345}, items))
    assert seen["wrong"][0] == "true"
    assert "no number" in seen["wrong"][1]
    matching = [item for item in items if "item 1" in item["title"].lower()]
    assert 1 < len(matching) < ITEMS
    check(seen["filtered"], scores(model, users[0]["values"], matching))
    assert seen["none"] == "No candidate has that in its name."
    latency, count, size, tables, engine = seen["figures"]
    assert latency.endswith(("µs", "ms"))
    assert count == str(ITEMS)
    assert float(size.split()[0]) == pytest.approx(model.path.stat().st_size / 1000, abs=0.06)
    parts = file_parts(model.path)
    assert float(tables.split()[0]) == pytest.approx(parts.tables / 1000, abs=0.06)
    assert engine == "wasm-simd"
    report = Report.from_json(seen["report"], "the page's report")
    assert [item.rows for item in report.latencies] == [1, 128]
    assert report.models[0].files[0].bytes == model.path.stat().st_size
    assert report.models[0].files[0].sha256 == ondevice.model.sha256(model.path)
    assert seen["buttons"] == 0  # nobody to send it to
    assert "other.odm" in seen["model"]
    assert "rows a second" in seen["model"]
    assert "damaged.odm: " in seen["damaged"]
    assert seen["width"] <= width
    assert seen["unlabelled"] == 0
    assert seen["requests"] == 0
