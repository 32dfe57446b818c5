"""The C engine and numpy on changed plans: they open the same files and give the same scores.

600 plans of each source; in `make fuzz` as many as fit in ONDEVICE_FUZZ_SECONDS.
"""

import warnings

import numpy as np
import pytest
from support.fuzzing import SEED, attempts
from support.native import write_hybrids, write_sections
from support.odm_parts import put_together, take_apart
from support.plan_mutants import mutant
from support.random_plans import random_plan
from support.runtime import write_small_model

from ondevice.engines.native import NativeEngine, is_compiled
from ondevice.engines.numpy import NumpyEngine
from ondevice.errors import FileFormatError, InputError, UnsupportedError
from ondevice.model import checked_inputs
from ondevice.odm import open_odm

pytestmark = pytest.mark.skipif(not is_compiled(), reason="the native engine is not compiled")
MUTANTS = 600
SOURCES = ("small", "hybrids", "sections", "f32", "q8")
ROWS = 3
STEP = 0.03  # of the largest score: some codes of a q8 layer's input, each a 127th of the largest


def write_source(kind, path, seed):
    if kind == "small":
        write_small_model(path, vectors=False)
    elif kind == "hybrids":
        write_hybrids(path)
    elif kind == "sections":
        write_sections(path)
    else:
        random_plan(seed, kind).write(path)
    return take_apart(path)


def opened(open_engine):
    """The engine, or the type of the error with which it refuses the file."""
    try:
        return open_engine()
    except (FileFormatError, UnsupportedError) as error:
        return error


def request_for(info):
    rng = np.random.default_rng(1)
    return {
        item.name: rng.normal(size=(ROWS, *item.shape[1:])).astype(np.float32)
        if item.dtype == "float32"
        else rng.integers(0, 5, (ROWS, *item.shape[1:]))
        for item in info.inputs
    }


def scores(engine, info, request):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        try:
            return engine.run(checked_inputs(info.inputs, request))
        except (InputError, FileFormatError) as error:
            return type(error).__name__


def disagreement(path):
    """What the engines see differently in a file, or None; and whether both ran it."""
    native = opened(lambda: NativeEngine(path))
    numpy = opened(lambda: NumpyEngine(open_odm(path)))
    if isinstance(numpy, Exception):
        if not isinstance(native, Exception):
            return f"only native opens it; numpy: {numpy}", False
        return None, False
    if isinstance(native, FileFormatError):
        return f"only numpy opens it; native: {native}", False
    if isinstance(native, UnsupportedError):
        return None, False  # C can do less: its scores of every row must be independent
    file = open_odm(path)
    request = request_for(file.info)
    ours, theirs = scores(native, file.info, request), scores(numpy, file.info, request)
    if isinstance(ours, str) or isinstance(theirs, str):
        return (None, False) if ours == theirs else (f"native: {ours}; numpy: {theirs}", False)
    rounded = rounded_values(file.plan)
    for name, expected in theirs.items():
        if ours[name].shape != expected.shape:
            return f"{name}: native {ours[name].shape}, numpy {expected.shape}", True
        scale = np.abs(expected[np.isfinite(expected)]).max(initial=1)
        atol = (STEP if name in rounded else 1e-4) * scale
        if not np.allclose(ours[name], expected, rtol=2e-3, atol=atol, equal_nan=True):
            return f"{name}: native {ours[name]}, numpy {expected}", True
    return None, True


def rounded_values(plan):
    """Values that depend on a q8 layer, which rounds its input to codes.

    Where an input is half a code, as is one half of the largest, the last place of a sum decides
    which code it gets, and engines add in different orders.
    """
    names = set()
    for node in plan.nodes:
        if node.attributes.get("codec") == "q8" or names & set(node.inputs):
            names |= set(node.outputs)
    return names


@pytest.mark.parametrize("kind", SOURCES)
def test_changed_plans(kind, tmp_path, record_property):
    rng = np.random.default_rng([SEED, SOURCES.index(kind)])
    path, ran, tried = tmp_path / "mutant.odm", 0, 0
    for number in attempts(MUTANTS):
        if number % 50 == 0:
            source = write_source(kind, tmp_path / "source.odm", SEED + number)
        put_together(path, mutant(source, rng))
        fault, both_ran = disagreement(path)
        assert fault is None, f"mutant {number} of seed {SEED}: {fault}"
        ran += both_ran
        tried = number + 1
    record_property("fuzzed", f"{kind}: {tried} changed plans of seed {SEED}, {ran} ran in both")
    assert ran > tried / 50  # some changes are harmless
