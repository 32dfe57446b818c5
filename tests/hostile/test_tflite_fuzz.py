"""Mutated .tflite files: refused or run, and never a crash of the process.

2,000 by each of two seeds; in `make fuzz` as many as fit in ONDEVICE_FUZZ_SECONDS.
"""

import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("ai_edge_litert", reason="needs a TFLite runtime")
pytest.importorskip("onnx_ir", reason="needs the converter")

from support.fuzzing import SECONDS, SEED
from support.tflite import build, hybrid, pooled

from ondevice.converters.tables.draft import fill
from ondevice.converters.targets.tflite.emit import emit_tflite
from ondevice.info import InputSpec, ModelInfo

CHILD = Path(__file__).with_name("fuzz_tflite.py")
MUTATIONS = 2000
MEMORY = 8 * 2**30


def limit_memory():
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))


@pytest.mark.parametrize("number", [0, 1])
def test_mutated_files_never_crash(tmp_path, number, record_property):
    path = tmp_path / "model.tflite"
    built = build([hybrid(codec="q4", widths="random"), pooled(hybrid(padding_id=0), "mean")])
    info = ModelInfo(tuple(map(InputSpec, built.inputs)), ("probability",))
    fill(emit_tflite(built.packed, path, info.to_bytes()))
    seed = 2 * SEED + number
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "PYTHONPATH": str(CHILD.parents[1])}
    done = subprocess.run(
        [sys.executable, CHILD, path, str(seed), str(MUTATIONS), str(SECONDS)],
        capture_output=True, text=True, preexec_fn=limit_memory, env=environment,
    )  # fmt: skip
    tried, opened = map(int, done.stdout.splitlines()[-1].split())
    assert done.returncode == 0, f"after {tried} mutations of seed {seed}: {done.stderr[-2000:]}"
    record_property("fuzzed", f"{tried} changed .tflite files of seed {seed}, {opened} opened")
    assert opened > tried / 50  # some pass the check and reach the runtime
