"""The C reader of raw values on emulated ARM processors of 64 and 32 bits: the golden cells."""

import json
from pathlib import Path

import pytest
from support.arm import COMPILERS, build, cannot_build
from support.engine import FEATURES
from support.raw_values import answers, golden_value, request
from support.tools import require

TESTS = Path(__file__).parents[1]
GOLDEN = json.loads((TESTS / "golden" / "cells.json").read_text("utf-8"))


@pytest.mark.parametrize("architecture", COMPILERS)
def test_golden_cells(architecture, tmp_path):
    require(cannot_build(architecture))
    program = build(architecture, tmp_path, TESTS / "native" / "encode_raw.c", *FEATURES)
    description = tmp_path / "description.json"
    description.write_text(json.dumps({"version": 1, "features": GOLDEN["features"]}))
    cases = GOLDEN["cases"]
    lines = [request(case["field"], golden_value(case["type"], case["value"])) for case in cases]
    replies = answers([f"qemu-{architecture}-static", program, description], lines)
    ids = [None if isinstance(reply, str) else reply for reply in replies]
    assert ids == [case["ids"] for case in cases]
