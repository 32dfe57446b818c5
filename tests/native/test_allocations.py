"""Every allocation of the C engine fails in turn: a typed error, and no memory is lost."""

import subprocess
from pathlib import Path

import pytest
from support.engine import FEATURES, NATIVE, needs_sanitizers
from support.native import write_hybrids, write_sections
from support.runtime import write_small_model

WRAPPED = "-Wl,--wrap=malloc,--wrap=calloc,--wrap=posix_memalign"


@pytest.fixture(scope="module")
def program(sanitized, tmp_path_factory):
    path = tmp_path_factory.mktemp("program") / "allocations"
    source = Path(__file__).with_name("allocations.c")
    sanitized(source, path, str(NATIVE / "platform" / "threads.c"), *FEATURES, WRAPPED, "-pthread")
    return path


@needs_sanitizers
@pytest.mark.parametrize("write", [write_small_model, write_hybrids, write_sections])
def test_every_allocation_may_fail(program, tmp_path, write):
    write(tmp_path / "m.odm")
    done = subprocess.run(
        [program, tmp_path / "m.odm"], capture_output=True, text=True, timeout=3000
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert int(done.stdout) > 20
