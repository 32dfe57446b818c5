"""The report's page in a real browser: charts drawn, no console errors, readable on a phone."""

import subprocess
import sys

import pytest
from support.browser import LACKING, check_layout, lay_out
from support.runtime import write_small_model
from support.tools import needs

pytestmark = needs(LACKING)


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
        subprocess.run(command, cwd=folder, check=True, capture_output=True, timeout=600)
    command = [sys.executable, "-m", "ondevice", "bench", "a.json", "b.json", "--html", "page.html"]
    subprocess.run(command, cwd=folder, check=True, capture_output=True, timeout=600)
    return folder


@pytest.mark.parametrize("width", [320, 360, 768, 1280])
def test_the_page_is_laid_out(folder, width):
    check_layout(folder, width, charts=10)


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
