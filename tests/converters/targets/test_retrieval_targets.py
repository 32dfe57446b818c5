"""Retrieval structures in the stock targets, against the golden vectors and the numpy executor."""

from dataclasses import replace

import numpy as np
import pytest
from support.retrieval import CASES, case_name, golden, random_structure
from support.tflite import Lookup, build

from ondevice.converters import pipeline
from ondevice.converters.tables.draft import fill
from ondevice.converters.targets.onnx.emit import emit_onnx
from ondevice.converters.targets.tflite.emit import emit_tflite
from ondevice.engines.onnx import OnnxEngine
from ondevice.engines.tflite import TfliteEngine
from ondevice.lookup import look_up
from ondevice.records import pack_records

TABLE = "table_0.weight"


def engines(specs, table, folder):
    """Both stock engines for a model whose lookups read one table; pooled ones, five IDs."""
    lookups = [
        Lookup(spec, table.codec, sequence=None if spec.pooling == "none" else 5, table=TABLE)
        for spec in specs
    ]
    models = pipeline.TargetModels(replace(build(lookups).packed, tables={TABLE: table}))
    fill(
        emit_onnx(models.of("onnx"), folder / "model.onnx", b""),
        emit_tflite(models.of("tflite"), folder / "model.tflite", b""),
    )
    return OnnxEngine(folder / "model.onnx"), TfliteEngine(folder / "model.tflite")


@pytest.mark.parametrize("case", CASES, ids=case_name)
def test_golden_vectors(case, tmp_path):
    spec, table, ids, vectors = golden(case)
    for engine in engines([spec], table, tmp_path):
        got = engine.run({"field_0": ids})["vectors"]
        np.testing.assert_array_equal(got, vectors, err_msg=engine.runtime)


@pytest.mark.parametrize("dim", [1, 2, 9])
@pytest.mark.parametrize(
    ("codec", "bits", "levels"),
    [("q4", 0, False), ("q4", 4, False), ("q2", 4, False), ("q2", 1, False), ("q8", 8, False),
     ("q3", 3, False), ("q1", 2, False), ("q4", 4, True), ("q3", 0, True), ("q1", 3, True)],
)  # fmt: skip
def test_retrieval_in_stock_runtimes(codec, bits, levels, dim, tmp_path):
    """Known, unknown and padding IDs, alone and pooled, with rows that share bytes."""
    rng = np.random.default_rng(dim)
    built, known, *_ = random_structure(codec, dim, 900, bits=bits, seed=dim, levels=levels)
    specs = [replace(built.spec, pooling=pooling) for pooling in ("none", "sum", "mean")]
    ids = {}
    for number, shape in enumerate([(200,), (200, 5), (200, 5)]):
        other = np.where(rng.random(shape) < 0.3, 0, rng.integers(-(2**63), 2**63, shape))
        ids[f"field_{number}"] = np.where(rng.random(shape) < 0.5, rng.choice(known, shape), other)
    read = pack_records(built.table).read_sums
    expected = [look_up(spec, ids[f"field_{number}"], read) for number, spec in enumerate(specs)]
    for engine in engines(specs, built.table, tmp_path):
        got = engine.run(ids)["vectors"]
        np.testing.assert_allclose(
            got, np.concatenate(expected, axis=1), rtol=2e-6, atol=2e-6, err_msg=engine.runtime
        )
