"""Tools that tests need: where one is missing, or there in part, the test is skipped.

In CI, which installs them all, such a test runs and fails.
"""

import functools
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest

IN_CI = os.environ.get("CI") == "true"
PROGRAM = '#include <stdio.h>\nint main(void) { return puts("") < 0; }\n'
FUZZER_PROGRAM = (
    "#include <stddef.h>\n#include <stdint.h>\n"
    "int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) "
    "{ return data == NULL && size != 0; }\n"
)


def needs(*reasons):
    """Skip a test outside CI where there is a reason not to run it; empty ones do not count."""
    reason = "; ".join(filter(None, reasons))
    return pytest.mark.skipif(bool(reason) and not IN_CI, reason=reason)


def require(*reasons):
    """The same inside a test or fixture: skip it, or fail in CI."""
    reason = "; ".join(filter(None, reasons))
    if reason and IN_CI:
        pytest.fail(reason)
    if reason:
        pytest.skip(reason)


def missing(*programs):
    """Which of these programs are not installed, as a reason; empty: all are there."""
    lacking = [name for name in programs if shutil.which(name) is None]
    return f"not installed: {', '.join(lacking)}" if lacking else ""


@functools.cache
def cannot_link(compiler, *flags, program=PROGRAM):
    """Why a compiler does not link a small program with these flags; empty: it does.

    A compiler may be installed without what its flags need: the sanitizers' runtime, libFuzzer,
    the C library of another processor.
    """
    if compiler is None or shutil.which(compiler) is None:
        return f"not installed: {compiler or 'a C compiler'}"
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "small.c"
        source.write_text(program)
        command = [compiler, *flags, str(source), "-o", str(Path(folder) / "small")]
        done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode == 0:
        return ""
    said = [line for line in done.stderr.splitlines() if "error" in line or "cannot" in line]
    command = " ".join([compiler, *flags])
    return f"`{command}` cannot link a small program: {(said or ['no reason given'])[0]}"


@functools.cache
def does_not_run(*command):
    """Why a program does not even print its version; empty: it does."""
    if reason := missing(command[0]):
        return reason
    done = subprocess.run(command, capture_output=True, text=True)
    return "" if done.returncode == 0 else f"{' '.join(command)} fails: {done.stderr[-200:]}"


def absent(*paths):
    """Which of these files are not there, as a reason; empty: all are."""
    lacking = [str(path) for path in paths if not path.exists()]
    return f"not installed: {', '.join(lacking)}" if lacking else ""
