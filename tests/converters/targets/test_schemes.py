"""Row schemes and pooling in the stock targets, against plain Python and the golden vectors."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from support.tflite import BATCHES, SCHEME_CASES, Lookup, build, make_ids, reference

from ondevice.codecs import quantise
from ondevice.converters import pipeline
from ondevice.converters.tables.draft import fill
from ondevice.converters.targets.merge import merge_lookups
from ondevice.converters.targets.onnx.emit import emit_onnx
from ondevice.converters.targets.tflite.emit import emit_tflite
from ondevice.engines.onnx import OnnxEngine
from ondevice.engines.tflite import TfliteEngine
from ondevice.spec import LookupSpec

GOLDEN = Path(__file__).parents[2] / "golden" / "schemes.json"
SCHEMES = json.loads(GOLDEN.read_text("utf-8"))


@pytest.mark.parametrize("name", SCHEME_CASES)
def test_onnx_agrees_with_reference(name, tmp_path):
    """The same cases run in TFLite in test_tflite.py."""
    built = build(SCHEME_CASES[name])
    fill(emit_onnx(merge_lookups(built.packed), tmp_path / "model.onnx", b"description"))
    engine = OnnxEngine(tmp_path / "model.onnx")
    for batch in BATCHES:
        ids = make_ids(built, batch, seed=batch)
        outputs = engine.run(ids)
        for key, values in reference(built, ids).items():
            np.testing.assert_allclose(outputs[key], values, rtol=2e-6, atol=2e-6, err_msg=key)


@pytest.mark.parametrize("name", [name for name in SCHEME_CASES if name.startswith("merged")])
def test_lookups_are_merged(name):
    assert len(merge_lookups(build(SCHEME_CASES[name]).packed).lookups) == 1


def test_a_table_that_a_history_reads_too_is_stored_once():
    """Merging a field's lookup would store its table again, inside the joined one."""
    cases = [*SCHEME_CASES["pooled_shared"], SCHEME_CASES["multi_hash_head"][0]]
    packed = build(cases).packed
    merged = merge_lookups(packed)
    assert set(merged.tables) == set(packed.tables)
    assert len(merged.lookups) == 3


@pytest.mark.parametrize("case", SCHEMES, ids=lambda c: f"{c['method']}-{c['settings']}")
def test_golden_vectors(case, tmp_path):
    """One model reads one table three ways: vectors, their sums and their means."""
    spec = LookupSpec.from_json(case["spec"])
    name = "table_0.weight"
    lookups = [Lookup(spec, "f32")]
    for pooling in case["pooled"]:
        lookups.append(Lookup(replace(spec, pooling=pooling), sequence=5, table=name))
    built = build(lookups)
    row, column = np.ogrid[: spec.rows, : spec.row_dim]
    table = ((5 * row + 3 * column + row // 7) % 11 - 5).astype(np.float32)
    packed = replace(built.packed, tables={name: quantise(table, "f32")})
    merged = merge_lookups(packed)
    assert list(merged.tables) == [name]
    sequences = np.array([[int(number) for number in row] for row in case["sequences"]])
    count = len(sequences)
    ids = {"field_0": np.array([int(number) for number in case["ids"][:count]])}
    ids |= {"field_1": sequences, "field_2": sequences}
    expected = np.concatenate([case["vectors"][:count], *case["pooled"].values()], axis=1)
    fill(
        emit_onnx(merged, tmp_path / "model.onnx", b""),
        emit_tflite(pipeline.run(merged, pipeline.LOWERING), tmp_path / "model.tflite", b""),
    )
    for engine in (OnnxEngine(tmp_path / "model.onnx"), TfliteEngine(tmp_path / "model.tflite")):
        got = engine.run(ids)["vectors"]
        np.testing.assert_allclose(got, expected, rtol=1e-6, atol=1e-6, err_msg=engine.runtime)
        rest = np.array([int(number) for number in case["ids"][count:]])
        steps = sequences[np.arange(len(rest)) % count]
        got = engine.run({"field_0": rest, "field_1": steps, "field_2": steps})["vectors"]
        np.testing.assert_allclose(got[:, : spec.dim], case["vectors"][count:], rtol=1e-6)
