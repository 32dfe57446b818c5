"""Converted files on the oldest supported packages: their test vectors must hold there too.

Needs only the ondevice runtime. ONDEVICE_LEGACY_DIR names the folder that test_convert.py and
test_operators.py of tests/converters, and tests/zoo, filled in another environment.
"""

import json
import os
from pathlib import Path

import numpy as np
import pytest

import ondevice
from ondevice.verify import verify

FOLDER = os.environ.get("ONDEVICE_LEGACY_DIR")
FILES = sorted(Path(FOLDER).glob("converted/*/model.*")) if FOLDER else []
FILES = [path for path in FILES if path.suffix in (".odm", ".onnx", ".tflite")]
pytestmark = pytest.mark.skipif(
    not FOLDER, reason="ONDEVICE_LEGACY_DIR is unset: no files from test_convert.py"
)


DENSE = sorted(Path(FOLDER).glob("dense/*/model.*")) if FOLDER else []
DENSE = [path for path in DENSE if path.suffix in (".odm", ".onnx", ".tflite")]
# networks of the zoo, and one file for every family of operators
NETWORKS = sorted(Path(FOLDER).glob("zoo/*/model.*")) if FOLDER else []
NETWORKS = [path for path in NETWORKS if path.suffix in (".odm", ".tflite")]
FAMILIES = sorted(Path(FOLDER).glob("operators/*/model.tflite")) if FOLDER else []


def test_every_codec_and_target_is_there():
    assert len(FILES) == 21
    assert len(DENSE) == 9
    assert len(NETWORKS) >= 2 * 36
    assert len(FAMILIES) >= 60


@pytest.mark.parametrize("path", FILES, ids=lambda path: f"{path.parent.name}-{path.suffix[1:]}")
def test_vectors_hold(path):
    result = verify(path)
    assert result.passed, result
    assert result.rows == 32


@pytest.mark.parametrize(
    "path", [*NETWORKS, *FAMILIES], ids=lambda path: f"{path.parent.name}-{path.suffix[1:]}"
)
def test_networks_and_operators_give_the_same_figures(path):
    assert verify(path).max_difference <= 1e-5


@pytest.mark.parametrize("path", DENSE, ids=lambda path: f"{path.parent.name}-{path.suffix[1:]}")
def test_quantised_layers_are_as_near_to_torch_as_where_they_were_made(path):
    """Wrong scales, as a runtime might take them, would be off by far more."""
    report = json.loads((path.parent / "model.report.json").read_text())
    there = report["targets"][path.suffix[1:]]["max_difference"]
    assert verify(path).max_difference <= 2 * there + 1e-5


@pytest.mark.parametrize("path", FILES, ids=lambda path: f"{path.parent.name}-{path.suffix[1:]}")
@pytest.mark.parametrize("rows", [1, 2, 17, 1024])
def test_batches_equal_row_by_row(path, rows):
    model = ondevice.load(path)
    vectors = model.info.vectors
    picked = np.random.default_rng(rows).integers(0, 32, rows)
    got = model.predict({name: ids[picked] for name, ids in vectors.inputs.items()})
    expected = vectors.outputs[model.info.outputs[0]][picked]
    np.testing.assert_allclose(got, expected, atol=1e-5)
