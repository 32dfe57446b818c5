"""Pages in a real browser: what Chromium lays out, and what it says on its console."""

import json
import shutil
import subprocess

from support.tools import does_not_run

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))),
                None)  # fmt: skip
LACKING = does_not_run(CHROMIUM, "--version") if CHROMIUM else "not installed: Chromium"

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


def lay_out(folder, width):
    """What the browser made of page.html at a width, and what it said on its console."""
    (folder / "frame.html").write_text(FRAME % width)
    command = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr",
               "--allow-file-access-from-files", "--virtual-time-budget=60000",
               f"--user-data-dir={folder / 'profile'}", "--dump-dom",
               (folder / "frame.html").as_uri()]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=True)
    text = done.stdout.split('<pre id="seen">')[1].split("</pre>")[0]
    console = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    return json.loads(text.replace("&lt;", "<").replace("&amp;", "&")), console


def check_layout(folder, width, charts):
    """Check that page.html is laid out at a width: nothing cut, asked for or said to be wrong."""
    seen, console = lay_out(folder, width)
    assert console == []
    assert seen["requests"] == 0
    assert seen["width"] <= width  # nothing to scroll sideways
    assert len(seen["charts"]) >= charts
    for wide, high, shapes in seen["charts"]:
        assert 0 < wide <= width
        assert high > 0
        assert shapes > 0
    assert seen["outside"] == []
    assert seen["body"] >= 14
    assert min(seen["texts"]) >= 9  # CSS pixels, the height of a line of 8 px letters
