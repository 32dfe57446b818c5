"""`od_live`: a file that is replaced under 8 threads; ONDEVICE_SWITCHES sets how often."""

import os
import subprocess
from pathlib import Path

import numpy as np
import pytest
from support.engine import COMPILER, NATIVE, NO_SOURCES, POSIX, WARNED, needs_sanitizers
from support.native import write_hybrids
from support.odm_parts import put_together, take_apart
from support.runtime import small_ids, write_small_model
from support.tools import cannot_link, needs

from ondevice.odm import open_odm

LIVE = str(NATIVE / "platform" / "live.c")
SOURCE = Path(__file__).with_name("live.c")
SWITCHES = int(os.environ.get("ONDEVICE_SWITCHES", "10000"))
THREADS = 8
needs_threads = needs(cannot_link(COMPILER, "-pthread"), NO_SOURCES)
needs_race_detector = needs(cannot_link(COMPILER, "-fsanitize=thread"), NO_SOURCES)


@pytest.fixture
def folder(tmp_path):
    """What the program replaces the file by, and the request."""
    write_small_model(tmp_path / "0.odm", vectors=False)
    parts = take_apart(tmp_path / "0.odm")
    parts.arrays["weight.b2"] = np.float32([0.5])
    put_together(tmp_path / "1.odm", parts)
    write_hybrids(tmp_path / "other")
    (tmp_path / "broken").write_bytes((tmp_path / "0.odm").read_bytes()[:-100])
    ids = small_ids(4)
    names = [item.name for item in open_odm(tmp_path / "0.odm").info.inputs]
    (tmp_path / "in").write_bytes(b"".join(np.int64(ids[name]).tobytes() for name in names))
    return tmp_path


def run(program, folder, switches):
    """Switches, requests by version, the most models open at once, the growth of memory in kB."""
    # one arena: else each thread's may keep up to 128 kB of what it has freed, and when is chance
    environment = {**os.environ, "MALLOC_ARENA_MAX": "1"}
    command = [program, folder, str(switches)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=3000, env=environment)
    assert done.returncode == 0, done.stderr[-3000:]
    return [int(number) for number in done.stdout.split()]


def build(program, *flags):
    command = [COMPILER, *WARNED, "-Werror", *flags, "-pthread", str(SOURCE), LIVE, *POSIX]
    subprocess.run([*command, "-o", program], check=True)


@needs_threads
def test_requests_go_on_while_the_file_is_replaced(folder, record_property):
    """No request fails or mixes versions; a file that cannot serve is refused."""
    build(folder / "live")
    switches, first, second, models, growth = run(folder / "live", folder, SWITCHES)
    assert switches >= SWITCHES
    assert first > 0 and second > 0
    assert models <= THREADS + 2  # each request holds one, the current one, and the new one
    assert growth < 1000
    record_property("live", f"{switches} switches, {first + second} requests, {growth} kB more")


@needs_race_detector
def test_no_races(folder):
    build(folder / "live", "-g", "-fsanitize=thread")
    run(folder / "live", folder, min(SWITCHES, 1000))


@needs_sanitizers
def test_nothing_is_lost_or_used_after_its_end(sanitized, folder):
    sanitized(SOURCE, folder / "live", LIVE, "-pthread")
    run(folder / "live", folder, min(SWITCHES, 500))
