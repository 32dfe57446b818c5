"""The TFLite emitter: files run in LiteRT and agree with a plain reference, for extreme IDs too.

With ONDEVICE_LEGACY_DIR set, every case is also left in that folder, for tests/legacy.
"""

from __future__ import annotations

import os
import shutil
import threading
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
import tflite
from support.tflite import (
    BATCHES,
    INT64,
    SCHEME_CASES,
    Built,
    Lookup,
    build,
    constant,
    make_ids,
    reference,
    save_case,
)

from ondevice.converters import pipeline
from ondevice.converters.graph import PackedModel
from ondevice.converters.tables.draft import fill
from ondevice.converters.targets.merge import merge_lookups
from ondevice.converters.targets.tflite.emit import emit_tflite
from ondevice.converters.targets.tflite.writer import TfliteWriter
from ondevice.engines.tflite import TfliteEngine
from ondevice.errors import FileFormatError, InputError, UnsupportedError
from ondevice.spec import binary_code_spec, full_spec
from ondevice.tflite_file import check_structure, read_info

pytest.importorskip("ai_edge_litert", reason="LiteRT is not installed")

MULTIPLIER = 0x9E3779B97F4A7C15


def code(dim: int = 8, **settings: Any) -> Lookup:
    """A binary-code lookup; settings of the table and of the specification mixed."""
    table = {key: settings.pop(key) for key in list(settings) if key in Lookup.__dataclass_fields__}
    settings = {"code_bits": 24, "t": 6, **settings}
    return Lookup(binary_code_spec(dim, **settings), **table)


def full(rows: int, dim: int = 8, **settings: Any) -> Lookup:
    table = {key: settings.pop(key) for key in list(settings) if key in Lookup.__dataclass_fields__}
    return Lookup(full_spec(rows, dim, **settings), **table)


CASES: dict[str, list[Lookup]] = {
    # row arithmetic
    "words_16": [code(code_bits=32, t=16, codec="q4")],
    "words_16_all": [code(4, code_bits=64, t=16, codec="q4", scale_axis="column")],
    "words_8": [code(code_bits=64, t=8)],
    "words_8_some": [code(code_bits=24, t=8, multiplier=MULTIPLIER)],
    "one_run": [code(code_bits=30, t=10)],
    "one_run_two_words": [code(code_bits=64, t=4)],
    "crosses_words": [code(code_bits=52, t=13)],
    "crosses_uneven": [code(code_bits=61, t=7, multiplier=MULTIPLIER)],
    "one_block": [code(code_bits=9, t=9)],
    "one_bit": [code(code_bits=1, t=1)],
    "skip_3_of_32": [code(code_bits=32, t=3, strategy="skip")],
    "skip_5_of_64": [code(code_bits=64, t=5, strategy="skip")],
    "skip_uneven": [code(code_bits=23, t=3, strategy="skip", multiplier=MULTIPLIER)],
    "skip_many": [code(code_bits=64, t=15, strategy="skip")],
    "skip_bits": [code(code_bits=64, t=63, strategy="skip", multiplier=3)],
    # tables large enough for a table of what each byte adds
    "skip_bytes": [code(32, code_bits=26, t=1, strategy="skip", codec="f32")],
    "skip_bytes_shared": [
        code(32, code_bits=37, t=2, strategy="skip", codec="f32", shared=True, multiplier=7)
    ],
    "skip_0": [code(code_bits=12, t=0, strategy="skip")],
    "shared": [code(code_bits=33, t=8, shared=True)],
    "multiplier_32": [code(code_bits=32, t=8, multiplier=MULTIPLIER)],
    "multiplier_largest": [code(code_bits=40, t=10, multiplier=2**64 - 1)],
    "sparse_words": [code(code_bits=64, t=11)],
    # fuse
    "concat": [code(16, fuse="concat")],
    "concat_columns": [code(16, fuse="concat", scale_axis="column", widths="random")],
    "concat_skip": [code(16, fuse="concat", t=3, strategy="skip")],
    "mean": [code(fuse="mean")],
    "mean_columns": [code(fuse="mean", scale_axis="column", multiplier=5)],
    # padding and out-of-vocabulary
    "code_padding_0": [code(padding_id=0)],
    "code_padding_min": [code(padding_id=int(INT64.min), fuse="mean")],
    "full": [full(100)],
    "full_oov": [full(100, oov_row=0)],
    "full_oov_last": [full(100, oov_row=99, widths="random", codec="q4")],
    "full_padding": [full(100, padding_id=0)],
    "full_padding_oov": [full(100, padding_id=0, oov_row=1)],
    "full_padding_outside": [full(1000, padding_id=-1)],
    "full_padding_truncated": [full(1000, padding_id=-7, widths="descending")],
    "full_one_row": [full(1, oov_row=0)],
    # widths, beyond 32,768 and beyond 65,536 rows
    "full_40k": [full(40_000, 16, oov_row=7, widths="random")],
    "full_70k": [full(70_000, 16, oov_row=7, widths="random", codec="q4")],
    "narrow": [full(2000, 16, oov_row=0, widths="one")],
    "half": [full(2000, 16, oov_row=0, widths="even", codec="f16")],
    "odd_dim": [full(2000, 7, oov_row=0, widths="random", codec="q4")],
    "odd_dim_whole": [full(2000, 7, oov_row=0, codec="q4")],
    "tiny_truncated": [full(20, 8, oov_row=0, widths="random")],
    "dim_1": [full(2000, 1, oov_row=0, codec="q4"), code(1)],
    # rows that share bytes
    "shared_1": [full(2001, 1, oov_row=0, codec="q4"), full(2001, 1, padding_id=-1, codec="q2")],
    "shared_3": [full(2001, 3, codec="q4", scale_axis="row"), full(2002, 3, codec="q2")],
    "shared_2": [full(2001, 2, oov_row=0, padding_id=0, sequence=3, codec="q2")],
    "shared_code": [code(1, t=12, codec="q4"), code(5, t=12, codec="q2", padding_id=0)],
    "shared_concat": [code(6, t=12, fuse="concat", codec="q4"), full(70_001, 7, codec="q4")],
    "q2": [full(70, 7, codec="q2", widths="random"), code(codec="q2"), code(8, t=3, codec="q2")],
    # shapes and sharing
    "sequence": [code(sequence=5), full(50, sequence=5, padding_id=0, oov_row=1)],
    "sequence_free": [code(sequence="steps", padding_id=0), full(50)],
    "same_table": [code(), code(table="table_0.weight"), code(ids="field_0", codec="f32")],
    "many": [code(), full(40, oov_row=0, codec="f32"), code(t=3, strategy="skip", codec="f16")],
}
CASES |= {
    f"{codec}_{axis}_{widths}_{rows}": [
        code(16, code_bits=bits, t=bits // 2, codec=codec, scale_axis=axis, widths=widths)
    ]
    for codec, axis in (
        ("f32", None),
        ("f16", None),
        ("q8", "row"),
        ("q8", "column"),
        ("q4", "row"),
        ("q4", "column"),
        ("q2", "column"),
    )
    for widths in ("whole", "random", "descending")
    for bits, rows in ((10, "small"), (20, "large"))
}
CASES |= SCHEME_CASES


def emit(built: Built, folder: Path, name: str = "model") -> Path:
    path = folder / f"{name}.tflite"
    packed = merge_lookups(built.packed) if name in SCHEME_CASES else built.packed
    fill(emit_tflite(pipeline.run(packed, pipeline.LOWERING), path, b"description"))
    return path


def assert_equal_outputs(outputs: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> None:
    assert outputs.keys() == expected.keys()
    for name, values in expected.items():
        assert outputs[name].dtype == np.float32
        np.testing.assert_allclose(outputs[name], values, rtol=2e-6, atol=2e-6, err_msg=name)


@pytest.mark.parametrize("name", CASES)
def test_case_agrees_with_reference(name: str, tmp_path: Path) -> None:
    built = build(CASES[name])
    path = emit(built, tmp_path, name)
    engine = TfliteEngine(path)
    batches = []
    for batch in (*BATCHES, 2):  # back to a size met before
        ids = make_ids(built, batch, seed=batch)
        expected = reference(built, ids)
        assert_equal_outputs(engine.run(ids), expected)
        batches.append((ids, expected))
    if folder := os.environ.get("ONDEVICE_LEGACY_DIR"):
        shutil.copy(path, folder)
        save_case(Path(folder), name, batches)


TABLES = {
    **{widths: full(1000, widths=widths) for widths in ("whole", "random", "descending")},
    "shared_1": full(1000, 1, codec="q2"),
    "shared_3": full(1000, 3, codec="q4"),
    "levels": full(1000, 3, codec="q3", scale_axis="levels"),
    "levels_1": full(1000, 1, codec="q1", scale_axis="levels"),
    "sections": full(1000, 3, codec="q8:10,q4x1:90,q1"),
    "sections_whole_last": full(1000, 8, codec="q1:10,q8"),
    "narrow": full(1000, 8, codec="q8x4"),
}


@pytest.mark.parametrize("table", TABLES)
@pytest.mark.parametrize("bad", [-1, 1000, 2**32, 2**32 + 5, -(2**32) + 5, INT64.min, INT64.max])
def test_id_outside_a_table_without_oov_row_is_rejected(
    bad: int, table: str, tmp_path: Path
) -> None:
    engine = TfliteEngine(emit(build([TABLES[table]]), tmp_path))
    good = np.array([1, 2, 3], dtype=np.int64)
    first = engine.run({"field_0": good})
    with pytest.raises(InputError, match="rejects the request"):
        engine.run({"field_0": np.array([1, bad, 3], dtype=np.int64)})
    np.testing.assert_array_equal(engine.run({"field_0": good})["vectors"], first["vectors"])


@pytest.mark.parametrize(
    "codec, per_row", [("f32", 64), ("f16", 32), ("q8", 18), ("q4", 10), ("q2", 6)]
)
def test_file_shows_quantisation(codec: str, per_row: int, tmp_path: Path) -> None:
    rows = 20_000
    size = emit(build([full(rows, 16, codec=codec, scale_axis="row")]), tmp_path).stat().st_size
    assert rows * per_row <= size <= rows * per_row + 20_000


@pytest.mark.parametrize("codec, bits", [("f32", 32), ("f16", 16), ("q8", 8), ("q4", 4)])
def test_file_shows_truncation(codec: str, bits: int, tmp_path: Path) -> None:
    rows, kept_blocks = 20_000, [0, 4, 8, 12, 16]
    built = build([full(rows, 16, codec=codec, scale_axis="column", widths="random")])
    widths = built.tables["table_0.weight"].widths
    assert widths is not None
    stored = sum(min(block for block in kept_blocks if block >= w) for w in widths.tolist())
    size = emit(built, tmp_path).stat().st_size
    payload = stored * bits // 8 + 2 * rows  # the permutation takes two bytes a row
    assert payload <= size <= payload + 20_000


def test_shared_table_is_stored_once(tmp_path: Path) -> None:
    single = emit(build([full(20_000, 16)]), tmp_path, "single").stat().st_size
    both = [full(20_000, 16), full(20_000, 16, table="table_0.weight")]
    assert emit(build(both), tmp_path, "both").stat().st_size < single + 5_000


def test_same_model_gives_same_bytes(tmp_path: Path) -> None:
    lookups = CASES["many"]
    first = emit(build(lookups), tmp_path, "first").read_bytes()
    assert emit(build(lookups), tmp_path, "second").read_bytes() == first


def test_model_is_left_as_it_was(tmp_path: Path) -> None:
    built = build(CASES["many"])
    before = str(built.packed.model.graph)
    emit(built, tmp_path)
    assert str(built.packed.model.graph) == before


def parsed(path: Path) -> Any:
    return tflite.Model.GetRootAs(path.read_bytes(), 0)


def test_data_is_aligned_and_the_lowest_versions_are_declared(tmp_path: Path) -> None:
    model = parsed(emit(build(CASES["many"] + CASES["full_40k"]), tmp_path))
    graph = model.Subgraphs(0)
    aligned = []
    for number in range(graph.TensorsLength()):
        tensor = graph.Tensors(number)
        buffer = model.Buffers(tensor.Buffer())
        if buffer.DataLength():
            start = buffer._tab.Vector(buffer._tab.Offset(4))
            aligned.append(start % (64 if b"table" in tensor.Name() else 16))
    assert len(aligned) > 10
    assert set(aligned) == {0}
    assert {model.OperatorCodes(i).Version() for i in range(model.OperatorCodesLength())} == {1}


def test_signature_has_the_graph_names(tmp_path: Path) -> None:
    from ai_edge_litert.interpreter import Interpreter

    path = emit(build([code(), full(50, sequence="steps")]), tmp_path)
    interpreter = Interpreter(model_path=str(path))
    assert interpreter.get_signature_list() == {
        "serving_default": {
            "inputs": ["field_0", "field_1"],
            "outputs": ["probability", "vectors"],
        }
    }
    details = {item["name"]: item for item in interpreter.get_input_details()}
    assert details["field_0"]["shape_signature"].tolist() == [-1]
    assert details["field_1"]["shape_signature"].tolist() == [-1, -1]
    assert details["field_0"]["dtype"] == np.int64


def test_every_fault_is_listed_with_its_module_path(tmp_path: Path) -> None:
    built = build([code()])
    graph = built.packed.model.graph
    vectors = graph.outputs[1]
    scopes = "['', 'tower', 'tower.act', 'asinh']"
    asinh = ir.node("Asinh", [vectors], metadata_props={"pkg.torch.onnx.name_scopes": scopes})
    onward = ir.node("Tanh", [asinh.outputs[0]], name="onward")
    acosh = ir.node("Acosh", [onward.outputs[0]], name="cosh_1")
    for node in (asinh, onward, acosh):
        graph.append(node)
    graph.outputs.append(acosh.outputs[0])
    with pytest.raises(UnsupportedError) as caught:
        emit(built, tmp_path)
    assert "Asinh at tower.act" in str(caught.value)
    assert "Acosh at cosh_1" in str(caught.value)
    assert "onward" not in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_file_over_2_gb_is_refused_before_writing(tmp_path: Path) -> None:
    writer = TfliteWriter()
    rows = np.broadcast_to(np.int8(0), (2**31, 1))  # no memory behind it
    writer.table("table", rows)
    with pytest.raises(UnsupportedError, match="limited to 2 GB"):
        writer.write(tmp_path / "model.tflite", b"")
    assert not list(tmp_path.iterdir())


# --- dense operators, each against numpy ---


def run_operator(
    folder: Path, op: str, arrays: list[Any], feed: list[str], **attributes: Any
) -> list[np.ndarray]:
    """Run one operator for batch sizes 1, 2, 17; arrays named in `feed` are inputs [batch, ...]."""
    constants: dict[str, ir.Value] = {}
    inputs, values = [], []
    for number, array in enumerate(arrays):
        name = f"x{number}"
        if name in feed:
            shape = ir.Shape(["batch", *array.shape[1:]])
            value = ir.Value(
                name=name, type=ir.TensorType(ir.DataType.from_numpy(array.dtype)), shape=shape
            )
            inputs.append(value)
        else:
            value = constant(constants, name, array)
        values.append(value)
    node = ir.node(op, values, attributes=attributes)
    node.outputs[0].name = "out"
    graph = ir.Graph(
        inputs,
        node.outputs,
        nodes=[node],
        initializers=list(constants.values()),
        opset_imports={"": 21},
        name="main",
    )
    path = folder / "operator.tflite"
    fill(
        emit_tflite(
            pipeline.run(PackedModel(ir.Model(graph, ir_version=10), (), {}), pipeline.LOWERING),
            path,
            b"",
        )
    )
    engine = TfliteEngine(path)
    outputs = []
    for batch in (1, 2, 17):
        feeds = {value.name: arrays[int(value.name[1:])][:batch] for value in inputs}
        outputs.append(engine.run(feeds)["out"])
    return outputs


X = np.random.default_rng(0).normal(size=(17, 3, 4)).astype(np.float32)
Y = np.random.default_rng(1).normal(size=(17, 3, 4)).astype(np.float32) + np.float32(3)
M = np.random.default_rng(2).normal(size=(17, 6)).astype(np.float32)
W = np.random.default_rng(3).normal(size=(6, 5)).astype(np.float32)
B = np.random.default_rng(4).normal(size=5).astype(np.float32)
N = np.random.default_rng(5).integers(-9, 9, size=(17, 4))


def ints(*values: int) -> np.ndarray:
    return np.array(values, dtype=np.int64)


def _softmax(x: np.ndarray, axis: int) -> np.ndarray:
    powers = np.exp(x.astype(np.float64))
    return powers / powers.sum(axis=axis, keepdims=True)


OPERATOR_CASES: dict[str, tuple[str, list[Any], list[str], dict[str, Any], Any]] = {
    "add": ("Add", [X, Y], ["x0", "x1"], {}, lambda x, y: x + y),
    "add_row": ("Add", [X, Y[0, 0]], ["x0"], {}, lambda x: x + Y[0, 0]),
    "add_int64": ("Add", [N, ints(7)], ["x0"], {}, lambda x: x + 7),
    "sub_left": ("Sub", [Y[0, 0], X], ["x1"], {}, lambda x: Y[0, 0] - x),
    "mul_scalar": ("Mul", [X, np.array(3, np.float32)], ["x0"], {}, lambda x: x * 3),
    "mul_column": ("Mul", [X, Y[:1, :, :1]], ["x0"], {}, lambda x: x * Y[:1, :, :1]),
    "div": ("Div", [X, Y], ["x0", "x1"], {}, lambda x, y: x / y),
    "square": ("Pow", [X, np.array(2, np.float32)], ["x0"], {}, lambda x: x * x),
    "cube": ("Pow", [X, np.array(3, np.float32)], ["x0"], {}, lambda x: x**3),
    "pow": ("Pow", [Y, X], ["x0", "x1"], {}, lambda x, y: x.astype(np.float64) ** y),
    "relu": ("Relu", [X], ["x0"], {}, lambda x: np.maximum(x, 0)),
    "sigmoid": ("Sigmoid", [X], ["x0"], {}, lambda x: 1 / (1 + np.exp(-x))),
    "tanh": ("Tanh", [X], ["x0"], {}, np.tanh),
    "identity": ("Identity", [X], ["x0"], {}, lambda x: x),
    "softmax": ("Softmax", [X], ["x0"], {"axis": -1}, lambda x: _softmax(x, -1)),
    "softmax_1": ("Softmax", [X], ["x0"], {"axis": 1}, lambda x: _softmax(x, 1)),
    "concat": (
        "Concat",
        [X, Y],
        ["x0", "x1"],
        {"axis": -1},
        lambda x, y: np.concatenate([x, y], -1),
    ),
    "concat_1": (
        "Concat",
        [X, Y],
        ["x0", "x1"],
        {"axis": 1},
        lambda x, y: np.concatenate([x, y], 1),
    ),
    "reshape": ("Reshape", [X, ints(-1, 12)], ["x0"], {}, lambda x: x.reshape(-1, 12)),
    "reshape_0": ("Reshape", [X, ints(0, -1)], ["x0"], {}, lambda x: x.reshape(len(x), 12)),
    "reshape_more": ("Reshape", [M, ints(0, 2, 3)], ["x0"], {}, lambda x: x.reshape(-1, 2, 3)),
    "flatten": ("Flatten", [X], ["x0"], {}, lambda x: x.reshape(len(x), -1)),
    "flatten_2": ("Flatten", [X], ["x0"], {"axis": 2}, lambda x: x.reshape(-1, 4)),
    "squeeze": ("Squeeze", [X[:, :1], ints(1)], ["x0"], {}, lambda x: x[:, 0]),
    "squeeze_last": ("Squeeze", [M[:, :1], ints(-1)], ["x0"], {}, lambda x: x[:, 0]),
    "squeeze_all": ("Squeeze", [X[:, :1]], ["x0"], {}, lambda x: x[:, 0]),
    "unsqueeze": ("Unsqueeze", [M, ints(1)], ["x0"], {}, lambda x: x[:, None]),
    "unsqueeze_two": ("Unsqueeze", [M, ints(0, -1)], ["x0"], {}, lambda x: x[None, ..., None]),
    "transpose": ("Transpose", [X], ["x0"], {"perm": [0, 2, 1]}, lambda x: x.transpose(0, 2, 1)),
    "transpose_all": ("Transpose", [M], ["x0"], {}, lambda x: x.T),
    "sum": ("ReduceSum", [X, ints(1)], ["x0"], {"keepdims": 0}, lambda x: x.sum(1)),
    "sum_kept": ("ReduceSum", [X, ints(-1)], ["x0"], {}, lambda x: x.sum(2, keepdims=True)),
    "sum_two": ("ReduceSum", [X, ints(1, 2)], ["x0"], {"keepdims": 0}, lambda x: x.sum((1, 2))),
    "mean": ("ReduceMean", [X, ints(1)], ["x0"], {"keepdims": 0}, lambda x: x.mean(1)),
    "mean_attribute": (
        "ReduceMean",
        [X],
        ["x0"],
        {"axes": [2], "keepdims": 0},
        lambda x: x.mean(2),
    ),
    "cast_float": ("Cast", [N], ["x0"], {"to": 1}, lambda x: x.astype(np.float32)),
    "cast_int64": ("Cast", [X * 9], ["x0"], {"to": 7}, lambda x: x.astype(np.int64)),
    "slice": ("Slice", [X, ints(1), ints(3), ints(2)], ["x0"], {}, lambda x: x[:, :, 1:3]),
    "slice_open": (
        "Slice",
        [X, ints(-2), ints(INT64.max), ints(1)],
        ["x0"],
        {},
        lambda x: x[:, -2:],
    ),
    "slice_step": (
        "Slice",
        [M, ints(0), ints(-1), ints(1), ints(2)],
        ["x0"],
        {},
        lambda x: x[:, 0:-1:2],
    ),
    "gemm": ("Gemm", [M, W, B], ["x0"], {}, lambda x: x @ W + B),
    "gemm_t": ("Gemm", [M, W.T.copy(), B], ["x0"], {"transB": 1}, lambda x: x @ W + B),
    "gemm_scaled": (
        "Gemm",
        [M, W, B],
        ["x0"],
        {"alpha": 0.5, "beta": 2.0},
        lambda x: 0.5 * (x @ W) + 2 * B,
    ),
    "gemm_one_bias": ("Gemm", [M, W, B[:1]], ["x0"], {}, lambda x: x @ W + B[0]),
    "gemm_bare": ("Gemm", [M, W], ["x0"], {}, lambda x: x @ W),
    "matmul": ("MatMul", [M, W], ["x0"], {}, lambda x: x @ W),
    "matmul_3": ("MatMul", [X, W[:4]], ["x0"], {}, lambda x: x @ W[:4]),
    "matmul_both": (
        "MatMul",
        [X, Y.transpose(0, 2, 1).copy()],
        ["x0", "x1"],
        {},
        lambda x, y: x @ y,
    ),
}


@pytest.mark.parametrize("name", OPERATOR_CASES)
def test_operator_agrees_with_numpy(name: str, tmp_path: Path) -> None:
    op, arrays, feed, attributes, expected = OPERATOR_CASES[name]
    for batch, got in zip(
        (1, 2, 17), run_operator(tmp_path, op, arrays, feed, **attributes), strict=True
    ):
        wanted = expected(*(arrays[int(item[1:])][:batch] for item in feed))
        assert got.shape == wanted.shape
        np.testing.assert_allclose(got, wanted, rtol=2e-6, atol=2e-6)


def test_relu_read_by_another_is_not_fused_away(tmp_path: Path) -> None:
    built = build([code()])
    graph = built.packed.model.graph
    gemm = next(node for node in graph if node.op_type == "Gemm")
    graph.outputs.append(gemm.outputs[0])
    name = str(gemm.outputs[0].name)
    ids = make_ids(built, 17, seed=1)
    outputs = TfliteEngine(emit(built, tmp_path)).run(ids)
    expected = reference(built, ids)
    np.testing.assert_allclose(outputs["probability"], expected["probability"], atol=2e-6)
    assert outputs[name].min() < 0


def test_output_named_twice_is_copied(tmp_path: Path) -> None:
    built = build([code()])
    graph = built.packed.model.graph
    for number in range(2):
        copy = ir.node("Identity", [graph.outputs[1]], name=f"copy_{number}")
        copy.outputs[0].name = f"copy_{number}"
        graph.append(copy)
        graph.outputs.append(copy.outputs[0])
    outputs = TfliteEngine(emit(built, tmp_path)).run(make_ids(built, 2, seed=1))
    np.testing.assert_array_equal(outputs["copy_0"], outputs["vectors"])
    np.testing.assert_array_equal(outputs["copy_1"], outputs["vectors"])


# --- engine and reader ---


def test_threads_share_an_engine(tmp_path: Path) -> None:
    built = build(CASES["many"])
    engine = TfliteEngine(emit(built, tmp_path))
    requests = [make_ids(built, 1 + number % 5, seed=number) for number in range(24)]
    expected = [reference(built, ids) for ids in requests]
    got: list[Any] = [None] * len(requests)

    def work(first: int) -> None:
        for number in range(first, len(requests), 4):
            got[number] = engine.run(requests[number])

    threads = [threading.Thread(target=work, args=(first,)) for first in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for outputs, wanted in zip(got, expected, strict=True):
        assert_equal_outputs(outputs, wanted)


def test_outputs_are_copies(tmp_path: Path) -> None:
    built = build([code()])
    engine = TfliteEngine(emit(built, tmp_path))
    ids = make_ids(built, 2, seed=0)
    first = engine.run(ids)["vectors"]
    before = first.copy()
    engine.run({name: values + 1 for name, values in ids.items()})
    np.testing.assert_array_equal(first, before)


def test_request_of_wrong_shape_is_rejected_and_the_engine_lives_on(tmp_path: Path) -> None:
    built = build([code(sequence=5)])
    engine = TfliteEngine(emit(built, tmp_path))
    ids = make_ids(built, 2, seed=0)
    for bad in (np.zeros((2, 6), np.int64), np.zeros(2, np.int64), np.zeros((2, 5), np.int32)):
        with pytest.raises(InputError, match="ai-edge-litert"):
            engine.run({"field_0": bad})
        assert_equal_outputs(engine.run(ids), reference(built, ids))
    with pytest.raises(InputError, match="missing inputs: field_0"):
        engine.run({})


def test_runtime_is_named(tmp_path: Path) -> None:
    from importlib import metadata

    engine = TfliteEngine(emit(build([code()]), tmp_path))
    assert engine.runtime == f"ai-edge-litert {metadata.version('ai-edge-litert')}"


@pytest.mark.parametrize("text", ["", "{}", "åß∂ \U0001f600", "x" * 100_000])
def test_description_comes_back(text: str, tmp_path: Path) -> None:
    path = tmp_path / "model.tflite"
    fill(emit_tflite(pipeline.run(build([code()]).packed, pipeline.LOWERING), path, text.encode()))
    assert read_info(path) == text.encode()


def test_files_of_others_are_told_apart(tmp_path: Path) -> None:
    path = tmp_path / "model.tflite"
    for content, message in (
        (b"", "too short"),
        (b"\x1c\x00\x00\x00ABCD" + bytes(40), "not a TFLite file"),
        (b"\xff\xff\xff\xffTFL3" + bytes(40), "damaged or truncated"),
    ):
        path.write_bytes(content)
        for function in (read_info, check_structure, TfliteEngine):
            with pytest.raises(FileFormatError, match=message):
                function(path)
    with pytest.raises(FileFormatError, match="cannot be read"):
        read_info(tmp_path / "missing.tflite")
    fill(emit_tflite(pipeline.run(build([code()]).packed, pipeline.LOWERING), path, b"text"))
    path.write_bytes(path.read_bytes().replace(b"ondevice.info\x00", b"somebody.else\x00"))
    with pytest.raises(FileFormatError, match="not one written by ondevice"):
        read_info(path)


def test_truncated_file_is_refused(tmp_path: Path) -> None:
    path = emit(build([full(5000)]), tmp_path)
    data = path.read_bytes()
    for size in (*range(8, 4000, 97), len(data) // 2, len(data) - 70):
        path.write_bytes(data[:size])
        with pytest.raises(FileFormatError):
            TfliteEngine(path)


def test_damaged_bytes_never_escape_as_another_error(tmp_path: Path) -> None:
    path = emit(build([code(codec="q4", widths="random"), full(20)]), tmp_path)
    check_structure(path)
    data = path.read_bytes()
    end = data.find(b"serving_default") + 4000
    rng = np.random.default_rng(0)
    refused = 0
    for _ in range(1500):
        damaged = bytearray(data)
        start = int(rng.integers(0, end))
        damaged[start : start + 4] = rng.choice(
            [b"\xff\xff\xff\xff", b"\xff\xff\xff\x7f", b"\x00\x00\x00\x80", rng.bytes(4)]
        )
        path.write_bytes(bytes(damaged))
        for function in (read_info, check_structure):
            try:
                function(path)
            except FileFormatError:
                refused += 1
    assert refused > 300
