"""The Dockerfile, which no test builds: its rules, and that its files make the whole package."""

import fnmatch
import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from support.tools import needs

ROOT = Path(__file__).parents[2]
DOCKERFILE = ROOT / "Dockerfile"
pytestmark = needs("" if DOCKERFILE.is_file() else "an installation without the repository's files")


def instructions():
    """Pairs of word and rest; lines that go on behind a backslash are one."""
    text = re.sub(r"(?m)^#.*\n", "", DOCKERFILE.read_text())
    return [tuple(line.split(None, 1)) for line in text.replace("\\\n", " ").splitlines() if line]


def ignored(path):
    """What .dockerignore says of a path: its last rule that names the path or a folder above."""
    verdict = False
    for line in (ROOT / ".dockerignore").read_text().splitlines():
        if not line or line.startswith("#"):
            continue
        pattern, keeps = line.removeprefix("!"), line.startswith("!")
        names = [path, *path.parents][:-1]
        for name in names:
            whole = fnmatch.fnmatchcase(name.as_posix(), pattern)
            if pattern.startswith("**/"):
                whole = fnmatch.fnmatchcase(name.name, pattern[3:])
            elif "/" not in pattern and len(name.parts) > 1:
                whole = False
            if whole:
                verdict = not keeps
    return verdict


def test_its_rules():
    steps = instructions()
    bases = [rest.split()[0] for word, rest in steps if word == "FROM"]
    assert len(bases) == 2 and all(re.search(r":3\.11-\w", base) for base in bases)  # no "latest"
    runs = [rest for word, rest in steps if word == "RUN"]
    for rest in runs:
        for install in re.findall(r"pip install .*?(?=&&|$)", rest):
            assert "--require-hashes" in install or install.rstrip().endswith(
                "--no-build-isolation ."
            )
            assert "--no-deps" in install and "--no-cache-dir" in install
        if "apt-get install" in rest:
            assert "apt-get update" in rest and "--no-install-recommends" in rest
            assert "rm -rf /var/lib/apt/lists" in rest
        assert "sudo" not in rest and "curl" not in rest
    words = [word for word, _ in steps]
    assert "ADD" not in words
    last = len(words) - 1 - words[::-1].index("FROM")
    final = dict(steps[last:])
    assert final["USER"] not in ("root", "0")
    assert json.loads(final["ENTRYPOINT"]) == ["ondevice"]
    assert json.loads(final["CMD"]) == ["--help"]
    for word, rest in steps:
        if word == "COPY" and not rest.startswith("--from"):
            for name in rest.split()[:-1]:
                assert name == "." or ((ROOT / name).is_file() and not ignored(Path(name))), name


@pytest.mark.parametrize(
    ("name", "out"),
    [
        ("ondevice/cli.py", False), ("ondevice/native/core/run.c", False), ("setup.py", False),
        ("ondevice/_native.abi3.so", True), ("models/data/__pycache__/x.pyc", True), (".git", True),
        (".git/config", True), ("tests/conftest.py", True), (".venv/bin/python", True),
        ("web/dist/ondevice.js", True), ("web/ondevice.js", False), ("key.pem", True),
    ],
)  # fmt: skip
def test_what_the_build_is_given(name, out):
    assert ignored(Path(name)) == out


def test_the_files_it_is_given_make_the_whole_package(tmp_path):
    """A wheel of what .dockerignore lets through has the modules that one of the checkout has."""
    source = tmp_path / "source"
    source.mkdir()
    for path in ROOT.iterdir():
        if not ignored(Path(path.name)):
            if path.is_dir():
                shutil.copytree(
                    path, source / path.name,
                    ignore=lambda folder, names: [
                        n for n in names if ignored((Path(folder) / n).relative_to(ROOT))
                    ],
                )  # fmt: skip
            else:
                shutil.copy(path, source)
    command = [sys.executable, "setup.py", "--quiet", "bdist_wheel", "--dist-dir", str(tmp_path)]
    environment = os.environ | {"ONDEVICE_PURE": "1"}
    subprocess.run(command, cwd=source, env=environment, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    packed = {name for name in zipfile.ZipFile(wheel).namelist() if name.endswith(".py")}
    for folder, place in (("ondevice", ""), ("converters", "ondevice/"), ("models", "ondevice/")):
        modules = {f"{place}{path.relative_to(ROOT)}" for path in (ROOT / folder).rglob("*.py")}
        assert modules <= packed
    assert (source / "ondevice" / "native" / "sources.txt").is_file()
