"""Retrieval structures for tests: the golden ones, and one that is built for random IDs."""

import json
from pathlib import Path

import numpy as np
import pytest

from ondevice.codecs import BITS, CODE_RANGE, QuantTable
from ondevice.errors import MissingDependencyError
from ondevice.spec import LookupSpec

CASES = json.loads((Path(__file__).parents[1] / "golden" / "retrieval.json").read_text("utf-8"))


def case_name(case):
    spec = json.loads(case["spec"])
    return f"{case['codec']}-{spec['dim']}-{spec['retrieval']['fingerprints']}-{spec['rows']}"


def golden(case):
    """Specification, table, IDs and vectors of a golden case."""
    scales = np.array(case["scales"], np.float32)
    table = QuantTable(case["codec"], np.array(case["codes"], np.int8), scales)
    ids = np.array([int(number) for number in case["ids"]])
    return LookupSpec.from_json(case["spec"]), table, ids, np.array(case["vectors"], np.float32)


def random_structure(codec, dim, count, *, bits, seed=0, padding_id=0, levels=False):
    """A structure of `count` random IDs: itself, the IDs, their vectors and the unknown one's.

    The converters build it: where they are not installed, as on a board, the test is skipped.
    """
    try:
        from ondevice.converters.tables.retrieval import build_retrieval
    except (ImportError, MissingDependencyError) as error:
        pytest.skip(f"structures are built by the converters: {error}")
    rng = np.random.default_rng(seed)
    low, high = (0, 2 ** BITS[codec] - 1) if levels else CODE_RANGE[codec]
    ids = rng.integers(-(2**63), 2**63, count)
    codes = rng.integers(low, high + 1, (count + 1, dim)).astype(np.int8)
    shape = (dim, 2 ** BITS[codec]) if levels else (dim,)
    scales = rng.normal(size=shape).astype(np.float32)
    rows = QuantTable(codec, codes[:-1], scales)
    built = build_retrieval(
        ids, rows, fingerprint_bits=bits, unknown=codes[-1], padding_id=padding_id
    )
    vectors = scales[np.arange(dim), codes] if levels else codes.astype(np.float32) * scales
    return built, ids, vectors[:-1], vectors[-1]
