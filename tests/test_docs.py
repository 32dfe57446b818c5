"""What the pages of this repository promise about it: links that resolve, and paths that exist."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *ROOT.glob("*/README.md")])
FENCE = re.compile(r"^```.*?^```", re.DOTALL | re.MULTILINE)
LINK = re.compile(r"\]\(([^()\s]+)\)")
HEADING = re.compile(r"^#{1,6} +(.+?) *$", re.MULTILINE)
BUILT = {"build", "dist", "demo-out"}  # whether they are there is chance
FOLDERS = sorted(
    path.name
    for path in ROOT.iterdir()
    if path.is_dir() and path.name[0] != "." and path.name not in BUILT
)
# A path below a folder of this repository: a folder with its slash, or a file of a kind we write.
PATH = re.compile(
    rf"(?<![\w/.~-])((?:{'|'.join(map(re.escape, FOLDERS))})/"
    r"(?:[\w.*-]+/)*(?:[\w.*-]+\.(?:py|pyi|c|h|java|js|mjs|ts|md|csv|png|toml|txt|yml|gradle))?)"
    r"(?![\w/*-])"
)


def anchors(page):
    """The anchors that GitHub gives the headings of a page."""
    text = FENCE.sub("", page.read_text(encoding="utf-8"))
    found = set()
    for heading in HEADING.findall(text):
        plain = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", heading).lower()
        anchor = re.sub(r"[^\w\- ]", "", plain).replace(" ", "-")
        repeats = 0
        while (name := f"{anchor}-{repeats}" if repeats else anchor) in found:
            repeats += 1
        found.add(name)
    return found


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_resolve(page):
    broken = []
    for target in LINK.findall(FENCE.sub("", page.read_text(encoding="utf-8"))):
        if target.startswith(("https://", "http://", "mailto:")):
            continue
        name, _, anchor = target.partition("#")
        path = (page.parent / name).resolve() if name else page
        inside = path.is_relative_to(ROOT) and path.exists()
        if not inside or (anchor and anchor not in anchors(path)):
            broken.append(target)
    assert not broken


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_paths_exist(page):
    """A page that sends its reader to a file that has moved is worse than none."""
    named = set(PATH.findall(page.read_text(encoding="utf-8")))
    patterns = {path: path.rstrip("/").replace("NAME", "*") for path in named}
    lacking = sorted(path for path, pattern in patterns.items() if not list(ROOT.glob(pattern)))
    assert not lacking


def test_the_checks_see_what_they_should(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("# One `two`, three\n\n## A.B\n\n## A.B\n\n```\n# no heading\n```\n")
    assert anchors(page) == {"one-two-three", "ab", "ab-1"}
    text = "see `tests/gone.py`, docs/format.md and models/layers/; not a/tests/x.py, models/a.odm"
    assert PATH.findall(text) == ["tests/gone.py", "docs/format.md", "models/layers/"]
    assert LINK.findall("[a](b.md#c) and ![d](e.png)") == ["b.md#c", "e.png"]
