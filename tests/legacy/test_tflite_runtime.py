"""Files written by the TFLite emitter, run in tflite-runtime 2.14 under numpy 1.

Needs only numpy, tflite-runtime and the ondevice runtime. ONDEVICE_LEGACY_DIR names the folder
that tests/converters/targets/test_tflite.py filled in another environment.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ondevice.engines.tflite import TfliteEngine
from ondevice.errors import InputError
from ondevice.tflite_file import read_info

pytest.importorskip("tflite_runtime", reason="tflite-runtime is not installed")

FOLDER = os.environ.get("ONDEVICE_LEGACY_DIR")
CASES = sorted(Path(FOLDER).glob("*.tflite")) if FOLDER else []
needs_cases = pytest.mark.skipif(
    not FOLDER, reason="ONDEVICE_LEGACY_DIR is unset: no files from test_tflite.py"
)


def batches(path: Path) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """Inputs and expected outputs of every request saved beside a file."""
    found: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {}
    with np.load(path.with_suffix(".npz")) as saved:
        for key in saved.files:
            number, side, name = key.split("/", 2)
            found.setdefault(number, ({}, {}))[side == "out"][name] = saved[key]
    return [found[number] for number in sorted(found, key=int)]


@needs_cases
def test_there_are_cases() -> None:
    assert len(CASES) > 50, f"{FOLDER} holds {len(CASES)} .tflite files"


@needs_cases
@pytest.mark.parametrize("path", CASES, ids=lambda path: path.stem)
def test_case_agrees_with_reference(path: Path) -> None:
    engine = TfliteEngine(path)
    assert engine.runtime.startswith("tflite-runtime 2.14")
    assert read_info(path) == b"description"
    for ids, expected in batches(path):
        outputs = engine.run(ids)
        assert outputs.keys() == expected.keys()
        for name, values in expected.items():
            np.testing.assert_allclose(outputs[name], values, rtol=2e-6, atol=2e-6, err_msg=name)


@needs_cases
@pytest.mark.parametrize("name", ["full", "full_padding", "full_padding_truncated"])
@pytest.mark.parametrize("bad", [-1, 1000, 2**32, 2**32 + 5, -(2**63), 2**63 - 1])
def test_id_outside_a_table_without_oov_row_is_rejected(name: str, bad: int) -> None:
    engine = TfliteEngine(Path(str(FOLDER)) / f"{name}.tflite")
    with pytest.raises(InputError, match="rejects the request"):
        engine.run({"field_0": np.array([1, bad, 3], dtype=np.int64)})
