"""The report's page in a real browser: charts drawn, no console errors, readable on a phone."""

import json
import shutil
import subprocess
import sys

import pytest
from support.runtime import write_small_model
from support.tools import does_not_run, needs

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))),
                None)  # fmt: skip
pytestmark = needs(does_not_run(CHROMIUM, "--version") if CHROMIUM else "not installed: Chromium")

# Loads the page in a frame of the width to test, and writes what the browser laid out.
FRAME = """<!doctype html><meta charset="utf-8"><body><iframe id="page" src="page.html"
 style="border:0;width:%dpx;height:2000px"></iframe><pre id="seen"></pre><script>
const frame = document.getElementById("page");
frame.onload = () => {
  const page = frame.contentDocument, box = (x) => x.getBoundingClientRect();
  page.querySelectorAll("details").forEach((x) => (x.open = true));
  const seen = {width: page.documentElement.scrollWidth, charts: [], texts: [], outside: []};
  for (const chart of page.querySelectorAll("svg")) {
    const around = box(chart);
    const shapes = chart.querySelectorAll("rect,path,line").length;
    seen.charts.push([around.width, around.height, shapes]);
    for (const text of chart.querySelectorAll("text")) {
      const at = box(text);
      seen.texts.push(at.height);
      if (at.left < around.left - 1 || at.right > around.right + 1)
        seen.outside.push(text.textContent);
    }
  }
  seen.body = parseFloat(getComputedStyle(page.body).fontSize);
  seen.requests = frame.contentWindow.performance.getEntriesByType("resource").length;
  document.getElementById("seen").textContent = JSON.stringify(seen);
};</script></body>"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A page of two real reports, with every kind of chart."""
    folder = tmp_path_factory.mktemp("page")
    write_small_model(folder / "small.odm")
    for name in ("a", "b"):
        command = [sys.executable, "-m", "ondevice", "bench", "small.odm", "--batch", "1", "8",
                   "--rank", "4", "--seconds", "0.1", "--processes", "2", "--profile",
                   "--gap-ms", "0", "5", "--accuracy", "small.odm:AUC=0.7",
                   "--json", f"{name}.json"]  # fmt: skip
        subprocess.run(command, cwd=folder, check=True, capture_output=True, timeout=120)
    command = [sys.executable, "-m", "ondevice", "bench", "a.json", "b.json", "--html", "page.html"]
    subprocess.run(command, cwd=folder, check=True, capture_output=True, timeout=60)
    return folder


def lay_out(folder, width):
    """What the browser made of the page at a width, and what it said on its console."""
    (folder / "frame.html").write_text(FRAME % width)
    command = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr",
               "--allow-file-access-from-files", "--virtual-time-budget=5000",
               f"--user-data-dir={folder / 'profile'}", "--dump-dom",
               (folder / "frame.html").as_uri()]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    text = done.stdout.split('<pre id="seen">')[1].split("</pre>")[0]
    console = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    return json.loads(text.replace("&lt;", "<").replace("&amp;", "&")), console


@pytest.mark.parametrize("width", [320, 360, 768, 1280])
def test_the_page_is_laid_out(folder, width):
    seen, console = lay_out(folder, width)
    assert console == []
    assert seen["requests"] == 0
    assert seen["width"] <= width  # nothing to scroll sideways
    assert len(seen["charts"]) >= 10
    for wide, high, shapes in seen["charts"]:
        assert 0 < wide <= width
        assert high > 0
        assert shapes > 0
    assert seen["outside"] == []
    assert seen["body"] >= 14
    assert min(seen["texts"]) >= 9  # CSS pixels, the height of a line of 8 px letters


def test_a_console_error_would_be_seen(folder):
    """The check above can fail: a page with a fault, and one that is too wide."""
    page = (folder / "page.html").read_text()
    (folder / "faulty").mkdir()
    broken = page.replace("</body>", "<script>x.y</script><div style='width:5000px'>a</div></body>")
    assert broken != page
    (folder / "faulty" / "page.html").write_text(broken)
    seen, console = lay_out(folder / "faulty", 360)
    assert console
    assert seen["width"] > 360
