"""rank of the native engine against predict of the numpy engine, for every split of the inputs."""

import subprocess
from pathlib import Path

import numpy as np
import pytest
from support.engine import needs_sanitizers
from support.random_plans import random_plan

from ondevice.dense import quantise_weight
from ondevice.engines.native import NativeEngine, is_compiled, kernels_available
from ondevice.engines.numpy import NumpyEngine
from ondevice.odm import open_odm

ROWS = 70  # more than a session takes at once
PLANS = 120
POISONED_PLANS = 40


def repeated(request, context, rows):
    """The request with row 0 of the context's inputs in every row."""
    return {n: np.repeat(v[:1], rows, axis=0) if n in context else v for n, v in request.items()}


def bounds(plan, values):
    """How far rank may be from predict: by rounding, and in q8 layers by half a step twice.

    Codes of a row are off by half a step at most, a 254th of its largest magnitude, in either way
    of scaling: all columns together, or the context's and the candidates' apart.
    """
    for name in plan.outputs:
        yield name, 1e-6 * (1 + np.abs(values[name]).max())
    for name, (source, weight) in plan.quantised.items():
        codes, scale = quantise_weight(weight)
        reach = np.abs(codes.astype(np.float32) * scale).sum(axis=0)
        largest = np.abs(values[source]).max(axis=1, keepdims=True)
        yield name, 2 * largest / 254 * reach * 1.001 + 1e-5


def references(plan, path, request):
    """Predictions of the numpy engine, and how far those of rank may be, by context."""
    sources = [source for source, _ in plan.quantised.values()]
    everything = NumpyEngine(open_odm(plan.write(path, extra=sources)))
    for context in plan.splits():
        values = everything.run(repeated(request, context, ROWS))
        yield context, values, dict(bounds(plan, values))


def check(plan, got, values, allowed, where):
    for name in plan.outputs:
        off = np.abs(got[name] - values[name])
        assert (off <= allowed[name]).all(), f"{where}: {name} is off by {off.max():.3g}"


@pytest.mark.skipif(not is_compiled(), reason="the native engine is not compiled")
@pytest.mark.parametrize("codec", ["f32", "q8"])
@pytest.mark.parametrize("part", range(4))
def test_rank_of_random_models(codec, part, tmp_path):
    """Every request in a session that ran nothing before; all kernels."""
    for seed in range(part, PLANS, 4):
        plan = random_plan(seed, codec)
        path, request = plan.write(tmp_path / "m.odm"), plan.request(ROWS)
        for context, values, allowed in references(plan, tmp_path / "all.odm", request):
            one = {n: request[n][:1] for n in context}
            others = {n: v for n, v in request.items() if n not in context}
            if not others:
                continue  # Python asks for a candidate at the least
            for kernels in kernels_available():
                engine = NativeEngine(path, kernels=kernels)
                got = engine.run_ranked(one, others)
                check(plan, got, values, allowed, f"seed {seed}, context {context}, {kernels}")


@needs_sanitizers
def test_rank_of_random_models_in_poisoned_memory(sanitized, tmp_path):
    """The same in C, under the sanitizers: what a request reads but did not write is NaN."""
    program = tmp_path / "rank_splits"
    sanitized(Path(__file__).with_name("rank_splits.c"), program)
    for seed in range(1000, 1000 + POISONED_PLANS):
        plan = random_plan(seed, ("f32", "q8")[seed % 2])
        path, request = plan.write(tmp_path / "m.odm"), plan.request(ROWS)
        expected = list(references(plan, tmp_path / "all.odm", request))
        (tmp_path / "in").write_bytes(
            b"".join(request[spec.name].tobytes() for spec in plan.inputs)
        )
        done = subprocess.run([program, path, str(ROWS), tmp_path / "in", tmp_path / "out"],
                              capture_output=True, text=True)  # fmt: skip
        assert done.returncode == 0, done.stderr
        results = np.fromfile(tmp_path / "out", np.float32)
        for kernels in done.stdout.split():
            for context, values, allowed in expected:
                got = {}
                for name in plan.outputs:
                    got[name], results = np.split(results, [values[name].size])
                    got[name] = got[name].reshape(values[name].shape)
                check(plan, got, values, allowed, f"seed {seed}, context {context}, {kernels}")
        assert not results.size
