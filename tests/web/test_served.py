"""The page that `ondevice bench --serve` serves, in Chromium: by keyboard, read out."""

import numpy as np
import pytest
from support import web
from support.browser import LACKING as CHROMIUM_LACKING
from support.devtools import chromium
from support.native import random_table, write_model
from support.random_plans import random_plan
from support.tools import needs

import ondevice
from ondevice.bench.report import read_report
from ondevice.bench.serve import serving
from ondevice.spec import full_spec
from ondevice.web.live import page_of

pytestmark = needs(CHROMIUM_LACKING, web.CLANG_LACKING)


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """A folder with a model, the server of its page, and a browser."""
    folder = tmp_path_factory.mktemp("served")
    model = random_plan(3, "q8").write(folder / "model.odm")
    with (
        serving(page_of(model), "127.0.0.1", 0, folder / "reports", lambda line: None) as server,
        chromium(folder) as page,
    ):
        yield folder, server, page


def kept(server, before):
    """The report that came to those that were there before."""
    (path,) = set(server.folder.iterdir()) - before
    return read_report(path)


def test_measured_and_sent_by_keyboard(served):
    """Nothing but keys, on a phone's width; what a screen reader says at the end."""
    folder, server, page = served
    before = set(server.folder.iterdir())
    page.open(server.url, 390)
    page.until("document.getElementById('engine').textContent === 'wasm-simd'")
    page.press("Tab")
    assert page.focused() == "measure"
    page.press("Enter")
    page.until("document.querySelector('#figures button')")
    page.press("Tab", "Tab")
    assert page.focused() == f"Send the report to 127.0.0.1:{server.server_port}"
    page.press("Enter")
    page.until("document.querySelector('#figures [role=status]').textContent.startsWith('Sent')")
    report = kept(server, before)
    assert [item.rows for item in report.latencies] == [1, 128]
    assert report.models[0].files[0].sha256 == ondevice.model.sha256(folder / "model.odm")
    told = page.read_out()
    for expected in (("heading", "model.odm, on this device"), ("button", "Measure"),
                     ("region", "Measure this device"), ("link", "Download the report"),
                     ("table", "Latency of model.odm"), ("columnheader", "p50"),
                     ("button", "Drop an .odm file here, or choose one")):  # fmt: skip
        assert expected in told
    assert all(name for role, name in told if role in ("button", "link", "textbox", "table"))
    assert ("heading", "Ranking") in told
    assert all(name for role, name in told if role in ("checkbox", "combobox"))
    assert page.said == []


@pytest.mark.parametrize(("width", "dark"), [(390, True), (1100, False), (1100, True)])
def test_widths_and_colours(served, width, dark):
    _, server, page = served
    page.open(server.url, width, dark=dark)
    page.until("document.getElementById('engine').textContent === 'wasm-simd'")
    assert page.value("document.documentElement.scrollWidth") <= width
    ground, ink = (page.value(f"getComputedStyle(document.body).{name}")
                   for name in ("backgroundColor", "color"))  # fmt: skip
    light = [sum(int(part) for part in text[4:-1].split(",")) for text in (ground, ink)]
    assert (light[0] < light[1]) == dark
    assert abs(light[0] - light[1]) > 400
    assert page.said == []


def strange_models(folder):
    """Models of other kinds of inputs, each under a name that somebody might give it."""
    rng = np.random.default_rng(0)
    specs = {"\N{HOT PEPPER}": full_spec(9, 4), "b": full_spec(2**20, 4)}
    tables = {name: random_table(spec, "q4", rng, truncated=False, axis="row")
              for name, spec in specs.items()}  # fmt: skip
    yield write_model(folder / "\N{HOT PEPPER} <b>&.odm", specs, tables, [], {}, ["b.vector"])
    for seed in range(6):
        yield random_plan(seed, "f32").write(folder / f"{seed}.odm")


def test_other_models_are_measured_one_after_another(served):
    folder, server, page = served
    page.open(server.url, 1100)
    page.until("document.getElementById('engine').textContent === 'wasm-simd'")
    for path in strange_models(folder):
        before = set(server.folder.iterdir())
        page.give_file("#file", path)
        page.until(f"document.querySelector('#report p').textContent.startsWith({path.name!r})")
        page.until("document.querySelector('#report button, #report .warning')")
        assert page.value("document.querySelector('#report .warning')?.textContent") is None, path
        page.click("#report button")
        page.until("document.querySelector('#report [role=status]')?.textContent")
        sent = page.value("document.querySelector('#report [role=status]').textContent")
        assert sent.startswith("Sent"), sent
        report = kept(server, before)
        assert report.models[0].name == path.name
        assert report.models[0].files[0].sha256 == ondevice.model.sha256(path)
    damaged = folder / "damaged.odm"
    damaged.write_bytes(path.read_bytes()[:-9])
    page.give_file("#file", damaged)
    page.until("document.querySelector('#report .warning')")
    assert "damaged.odm: " in page.value("document.querySelector('#report').textContent")
    assert page.said == []
