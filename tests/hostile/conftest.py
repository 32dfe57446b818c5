"""The library that records what processes do to files, and makes their calls fail."""

import subprocess
from pathlib import Path

import pytest
from support.engine import COMPILER
from support.tools import cannot_link, require

SOURCE = Path(__file__).parent / "crash" / "shim.c"


@pytest.fixture(scope="session")
def shim(tmp_path_factory):
    require(cannot_link(COMPILER, "-shared", "-fPIC"))
    library = tmp_path_factory.mktemp("shim") / "shim.so"
    command = [COMPILER, "-O1", "-Wall", "-shared", "-fPIC", SOURCE, "-o", library]
    subprocess.run([*command, "-ldl", "-pthread"], check=True)
    return library
