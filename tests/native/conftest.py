"""The engine under the sanitizers, with memory that is poisoned before every request."""

import subprocess

import pytest
from support.engine import COMPILER, POSIX, SANITIZERS, WARNED


@pytest.fixture(scope="session")
def sanitized(tmp_path_factory):
    """Compile a program with the core under the sanitizers; the core is compiled once."""
    folder = tmp_path_factory.mktemp("core")
    command = [COMPILER, *WARNED, "-DOD_POISON", *SANITIZERS]
    subprocess.run([*command, "-c", *POSIX], check=True, cwd=folder)
    objects = sorted(map(str, folder.glob("*.o")))

    def build(source, program, *more):
        subprocess.run([*command, str(source), *more, *objects, "-o", program], check=True)

    return build
