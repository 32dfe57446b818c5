"""The engine's limits (core/limits.h) and its codecs are those of the Python package."""

import re

import numpy as np
import pytest
from support.engine import NATIVE

from ondevice import codecs, container, dense, limits, odm, records, spec

pytestmark = pytest.mark.skipif(not NATIVE.exists(), reason="no sources beside the package")

RANK_HEADER = NATIVE / "include" / "ondevice.h"
SAME = {
    **{name: getattr(limits, name) for name in dir(limits) if name.startswith("MAX_")},
    "HIGH_BITS": spec.HIGH_BITS,
    "UNIT_BLOCK": dense.UNIT_BLOCK,
    "FEATURE_GROUP": dense.FEATURE_GROUP,
    "FULL_CHECK_BYTES": odm.FULL_CHECK_BYTES,
    "TAIL_BYTES": records.TAIL_BYTES,
}
# Limits of other formats and of the Python side only.
PYTHON_ONLY = {
    "MAX_TFLITE_ELEMENTS", "MAX_UNPACKED_PER_BYTE",
    "MAX_ONNX_NODES", "MAX_ONNX_DEPTH", "MAX_TENSOR_RANK",
}  # fmt: skip
# Limits of the engine only: files within Python's limits that it refuses, or its own workings.
NATIVE_ONLY = {
    "MAX_CHECKED_MEMBERS", "MAX_FEATURES",
    "MAX_CONSTANT_INPUTS", "MAX_CODE_BITS", "MAX_PLACED_VALUES", "MAX_PLACINGS",
    "MIN_CHUNK_ROWS", "MAX_CHUNK_ROWS", "CHUNK_BYTES",
}  # fmt: skip


def limits_in_c():
    text = (NATIVE / "core" / "limits.h").read_text()
    text += re.search(r"^#define OD_MAX_RANK \d+$", RANK_HEADER.read_text(), re.MULTILINE)[0]
    return {
        name: int(n) for name, n in re.findall(r"^#define OD_(\w+) (\d+)\b", text, re.MULTILINE)
    }


def test_limits_of_the_format_are_those_of_python():
    expected = {name: value for name, value in SAME.items() if name not in PYTHON_ONLY}
    found = limits_in_c()
    assert {name: found.get(name) for name in expected} == expected
    assert set(found) == {*expected, *NATIVE_ONLY}
    assert set(SAME) >= PYTHON_ONLY


def test_the_number_of_axes_is_that_of_containers(tmp_path):
    """Written as a literal there: the largest shape is read, one axis more is refused."""
    header = (NATIVE / "include" / "ondevice.h").read_text()
    rank = int(re.search(r"^#define OD_MAX_RANK (\d+)$", header, re.MULTILINE)[1])
    for axes, accepted in ((rank, True), (rank + 1, False)):
        path = tmp_path / "axes"
        container.write_container(path, {"a": np.zeros((1,) * axes, np.float32)}, {})
        if accepted:
            assert container.open_container(path).array("a").ndim == rank
        else:
            with pytest.raises(container.FileFormatError, match="list of up to 8 sizes"):
                container.open_container(path)


def test_codes_have_as_many_bits_as_in_python():
    most = limits_in_c()["MAX_CODE_BITS"]
    assert spec.binary_code_spec(4, code_bits=most, t=8).code_bits == most
    with pytest.raises(spec.SpecError, match="code"):
        spec.binary_code_spec(4, code_bits=most + 1, t=8)


def test_codecs_are_those_of_python():
    text = (NATIVE / "core" / "codecs.c").read_text()
    rows = re.findall(r'\[OD_CODEC_\w+\] = \{"(\w+)", (\d+), ([01]), ([01]), OD_(\w+)\}', text)
    assert {name: int(bits) for name, bits, *_ in rows} == codecs.BITS
    assert {name for name, _, scaled, *_ in rows if scaled == "1"} == set(codecs.CODE_RANGE)
    assert tuple(name for name, *_, layer, _ in rows if layer == "1") == dense.DENSE_CODECS


def test_limits_are_written_nowhere_else():
    """As a number of that size, in decimal, or as a shifted 1."""
    large = {n for n in limits_in_c().values() if n > 1000}
    literal = re.compile(r"(?<![\w.])(\d+)u?(?: ?<< ?(\d+)u?)?(?![\w.])")
    for path in [
        path for part in ("core", "ops", "python") for path in NATIVE.glob(f"{part}/*.[ch]")
    ]:
        if path.name in ("limits.h", "maths.c", "hash.c"):
            continue
        for number, shift in literal.findall(path.read_text()):
            value = int(number) << int(shift or 0)
            assert value not in large, f"{path.name}: {number} << {shift or 0}"
