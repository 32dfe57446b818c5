"""The engine's folder: the lists of sources are complete, and comments name files that exist."""

import re

import pytest
from support.engine import ENGINE, FEATURES, NATIVE

pytestmark = pytest.mark.skipif(not ENGINE, reason="no sources beside the package")
SYSTEM = re.compile(r"^\s*#include <")
FILE = re.compile(r"\b[\w/]+\.[ch]\b")


@pytest.mark.parametrize(
    ("sources", "folders"), [(ENGINE, ("core", "kernels", "ops")), (FEATURES, ("features",))]
)
def test_every_source_is_listed_once_and_nothing_else(sources, folders):
    present = [str(path) for folder in folders for path in NATIVE.glob(f"{folder}/**/*.c")]
    assert sources == sorted(present)


def test_files_begin_with_their_name_and_name_only_files_that_exist():
    files = list(NATIVE.rglob("*.[ch]"))
    assert files
    names = {path.name for path in files} | {"jni.c", "system.c"}  # of android_demo
    for path in files:
        text = path.read_text()
        assert text.startswith(f"/* {path.name}: "), path
        lines = [line for line in text.splitlines() if not SYSTEM.match(line)]
        for name in FILE.findall("\n".join(lines)):
            assert name.rsplit("/", 1)[-1] in names, f"{path} names {name}"
