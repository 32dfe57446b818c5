"""Threads that share the rows of a request: the same bits and errors, nothing raced or lost."""

import os
import subprocess
import threading
from pathlib import Path

import numpy as np
import pytest
from support.engine import COMPILER, NO_SOURCES, POSIX, WARNED, needs_sanitizers
from support.native import random_table, write_model
from support.random_plans import random_plan
from support.tools import cannot_link, needs

import ondevice
from ondevice.engines.native import NativeEngine, is_compiled
from ondevice.errors import InputError
from ondevice.spec import full_spec

THREADS = str(Path(ondevice.__file__).parent / "native" / "platform" / "threads.c")
ROWS = 700
compiled = pytest.mark.skipif(not is_compiled(), reason="the native engine is not compiled")
needs_race_detector = needs(cannot_link(COMPILER, "-fsanitize=thread"), NO_SOURCES)


@compiled
@pytest.mark.parametrize("codec", ["f32", "q8"])
def test_any_number_of_threads_gives_the_same_bits(codec, tmp_path):
    for seed in range(20):
        plan = random_plan(seed, codec)
        path = plan.write(tmp_path / "m.odm")
        engines = [NativeEngine(path, threads=count) for count in (1, 2, 5)]
        for rows in (1, 255, 256, ROWS):
            request = plan.request(rows)
            right, *others = [engine.run(request) for engine in engines]
            for got in others:
                for name in plan.outputs:
                    np.testing.assert_array_equal(got[name], right[name])
            for context in plan.splits():
                one = {n: request[n][:1] for n in context}
                rest = {n: v for n, v in request.items() if n not in context}
                if not rest:
                    continue
                right, *others = [engine.run_ranked(one, rest) for engine in engines]
                for got in others:
                    for name in plan.outputs:
                        np.testing.assert_array_equal(got[name], right[name])


def table_model(folder):
    """A model of one table of nine rows that refuses other IDs, and its path."""
    spec = full_spec(9, 4)
    table = random_table(spec, "q8", np.random.default_rng(0), truncated=False, axis="row")
    return write_model(folder / "m.odm", {"a": spec}, {"a": table}, [], {}, ["a.vector"])


@compiled
def test_the_first_fault_by_rows_is_reported(tmp_path):
    path = table_model(tmp_path)
    ids = np.arange(2000) % 9
    ids[1500], ids[900] = 77, 55
    texts = set()
    for count in (1, 2, 3, 8):
        model = ondevice.load(path, threads=count)
        for _ in range(20):
            with pytest.raises(InputError) as caught:
                model.predict({"a": ids})
            texts.add(str(caught.value))
        assert len(model.predict({"a": ids % 9})) == 2000
    assert len(texts) == 1
    assert "55" in texts.pop()


@compiled
@pytest.mark.parametrize("count", [0, -1, 1025, 10**12])
def test_numbers_of_threads_that_are_refused(count, tmp_path):
    with pytest.raises(InputError, match=r"threads must be 1\.\.1024"):
        ondevice.load(table_model(tmp_path), threads=count)


@compiled
def test_requests_at_once_and_after_fork(tmp_path):
    """While the pool serves one request the others take a thread each; a child has no pool."""
    path = table_model(tmp_path)
    model, alone = ondevice.load(path, threads=3), ondevice.load(path)
    ids = np.arange(3000) % 9
    right, faults = alone.predict({"a": ids}), []

    def work():
        for _ in range(200):
            if not np.array_equal(model.predict({"a": ids}), right):
                faults.append(1)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not faults
    child = os.fork()
    if child == 0:  # a pool whose threads are gone must not be waited for
        same = False
        try:
            same = np.array_equal(model.predict({"a": ids}), right)
        finally:
            os._exit(0 if same else 1)
    assert os.waitpid(child, 0)[1] == 0


def scored_by_pools(program, folder, plans):
    """Run the C program on random models."""
    for seed in range(plans):
        plan = random_plan(seed, ("f32", "q8")[seed % 2])
        path, request = plan.write(folder / "m.odm"), plan.request(ROWS)
        (folder / "in").write_bytes(b"".join(request[item.name].tobytes() for item in plan.inputs))
        done = subprocess.run([program, path, str(ROWS), folder / "in"],
                              capture_output=True, text=True, timeout=3000)  # fmt: skip
        assert done.returncode == 0, f"seed {seed}: {done.stderr[-3000:]}"


@needs_sanitizers
def test_pools_in_poisoned_memory(sanitized, tmp_path):
    sanitized(Path(__file__).with_name("pools.c"), tmp_path / "pools", THREADS, "-pthread")
    scored_by_pools(tmp_path / "pools", tmp_path, 6)


@needs_race_detector
def test_pools_have_no_races(tmp_path):
    source = Path(__file__).with_name("pools.c")
    command = [COMPILER, *WARNED, "-g", "-fsanitize=thread", "-pthread", str(source), THREADS]
    subprocess.run([*command, *POSIX, "-o", str(tmp_path / "pools")], check=True)
    scored_by_pools(tmp_path / "pools", tmp_path, 4)
