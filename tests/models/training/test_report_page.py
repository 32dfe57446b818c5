"""The page of a training: its sentences, and its layout in a real browser."""

import numpy as np
import pytest
from support.browser import LACKING, check_layout
from support.tools import needs

from ondevice.cli import main
from ondevice.models.training.metrics import Bin
from ondevice.models.training.report_charts import Curve, Dot, calibration, curves, dots

COUNTRIES = ("DE", "US", "<script>x.y</script>", "a country of a name that no chart has room for")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The page of a short training on two labels, with segments of difficult names."""
    folder = tmp_path_factory.mktemp("training")
    draws = np.random.default_rng(1)
    lines = ["click,buy,item,price,user,country"]
    for number in range(4000):
        item, user = draws.integers(0, 60, 2)
        click = int(draws.random() < 0.1 + 0.01 * item)
        buy = int(click and draws.random() < 0.5)
        lines.append(f"{click},{buy},{item},{number},{user},{COUNTRIES[number % 4]}")
    (folder / "log.csv").write_text("\n".join(lines) + "\n")
    (folder / "log.toml").write_text(
        'labels = ["click", "buy"]\nnegative_sampling = 0.5\nignore = ["user", "country"]\n'
        '[fields]\nitem = "integer"\nprice = "number"\n'
    )
    command = ["train", "--data", "log", "--path", str(folder / "log.csv"), "--columns",
               str(folder / "log.toml"), "--gauc", "user", "--segment", "country", "--epochs", "2",
               "--batch", "128", "--report", str(folder / "page.html"), "--out",
               str(folder / "checkpoint")]  # fmt: skip
    assert main(command) == 0
    return folder


def test_the_page_begins_with_sentences(folder):
    page = (folder / "page.html").read_text()
    lead = page.split('<p class="lead">')[1].split("</p>")[0]
    assert lead.startswith("For click, the model puts an impression with a click above one without")
    assert "The log holds 0.5 of its rows without a click" in page
    assert "AUC within each user" in page
    assert "<script" not in page
    assert "&lt;script&gt;x.y" in page
    assert "http" not in page.replace("http-equiv", "")


@needs(LACKING)
@pytest.mark.parametrize("width", [320, 390, 768, 1280])
def test_the_page_is_laid_out(folder, width):
    check_layout(folder, width, charts=8)


def test_charts_take_extreme_values():
    """One epoch, equal values, probabilities of 0, segments without an AUC."""
    for chart in (
        curves([Curve("a", 0, [(1, 0.5)], [1])], "one"),
        curves([Curve("a", 0, [(n, 0.5) for n in range(1, 60)])], "equal"),
        calibration([Bin(10, 0.0, 0.0)], 0, "nothing"),
        calibration([Bin(10, 1e-7, 2e-7), Bin(10, 3e-7, 3e-7)], 0, "rare"),
        dots([Dot("x", None, "one label", "", False)], 0.5, "none"),
        dots([Dot("x", 0.5, "", "", True), Dot("y", 1.0, "", "", True)], 0.5, "ends"),
    ):
        assert chart.startswith("<svg")
        assert "nan" not in chart
        assert "inf" not in chart
