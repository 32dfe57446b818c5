"""Standard error while LiteRT starts: its start line is held back, everything else is kept."""

import os
import subprocess
import sys

import pytest

from ondevice.engines.quiet import NOISE, without_start_line


def test_only_the_start_line_is_held_back(capfd):
    with without_start_line():
        os.write(2, b"before\n" + NOISE + b"\nafter\nno end of line")
    assert capfd.readouterr().err == "before\nafter\nno end of line"


def test_what_was_logged_before_an_error_is_kept(capfd):
    with pytest.raises(ValueError, match="broken"), without_start_line():
        os.write(2, b"why\n")
        raise ValueError("broken")
    os.write(2, b"later\n")
    assert capfd.readouterr().err == "why\nlater\n"


def test_without_a_standard_error():
    code = (
        "import os; os.close(2)\n"
        "from ondevice.engines.quiet import without_start_line\n"
        "with without_start_line(): print('ran')"
    )
    try:
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    except OSError:
        pytest.skip("this Python cannot start another one: it runs in an emulator")
    assert (done.returncode, done.stdout) == (0, "ran\n")
