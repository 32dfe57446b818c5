"""Forms of an int8 network in ONNX Runtime and in the TFLite runtimes: error and time of each.

python benchmarks/dense_forms.py make FOLDER      needs the converters
python benchmarks/dense_forms.py run FOLDER       needs only a runtime, such as tflite-runtime
qemu-x86_64-static -cpu Haswell python benchmarks/dense_forms.py run FOLDER --repeat 1

The last shows what a processor without VNNI computes. Errors are relative to the standard deviation
of the float32 outputs. The converters use onnx-dynamic-u8, onnx-static-u8, tflite-dynamic and
tflite-static; the others are what they avoid.
"""

import argparse
import itertools
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

Runner = Callable[[np.ndarray], np.ndarray]
NETWORKS = {"large": (416, 400, 400, 400, 1), "small": (96, 128, 64, 1)}
ROWS = (1, 7, 128)
ONNX_FORMS = ("float", "dynamic-s8", "dynamic-u8", "static-u8")
TFLITE_FORMS = ("float", "hybrid-per-unit", "dynamic", "static")


def layers(sizes: tuple[int, ...]) -> list[tuple[np.ndarray, np.ndarray]]:
    """Weights [features, units], units of unequal size, and biases."""
    rng = np.random.default_rng(0)
    weights = []
    for features, units in itertools.pairwise(sizes):
        spread = rng.uniform(0.2, 2, units)
        weight = rng.normal(0, (2 / features) ** 0.5, (features, units)) * spread
        weights.append((weight.astype(np.float32), rng.normal(0, 0.1, units).astype(np.float32)))
    return weights


def graph(sizes: tuple[int, ...]) -> Any:
    """The network as ONNX IR, its inputs free in the batch."""
    import onnx_ir as ir

    float_type = ir.TensorType(ir.DataType.FLOAT)
    x = ir.Value(name="x", type=float_type, shape=ir.Shape(["batch", sizes[0]]))
    value, nodes, initializers = x, [], []
    for number, (weight, bias) in enumerate(layers(sizes)):
        parts = []
        for name, array in (("weight", weight), ("bias", bias)):
            tensor = ir.tensor(array, name=f"{name}{number}")
            parts.append(
                ir.Value(
                    name=tensor.name,
                    type=float_type,
                    shape=ir.Shape(array.shape),
                    const_value=tensor,
                )
            )
        initializers += parts
        nodes.append(ir.node("Gemm", [value, *parts], name=f"gemm{number}"))
        if number < len(sizes) - 2:
            nodes.append(ir.node("Relu", [nodes[-1].outputs[0]], name=f"relu{number}"))
        value = nodes[-1].outputs[0]
        value.name, value.type = f"y{number}", float_type
        value.shape = ir.Shape(["batch", weight.shape[1]])
    return ir.Graph(
        [x],
        [value],
        nodes=nodes,
        initializers=initializers,
        opset_imports={"": 21},
        name="network",
    )


def ranges(sizes: tuple[int, ...]) -> dict:
    """What a calibration on normal inputs finds."""
    from ondevice.converters.dense.layers import Range

    x = np.random.default_rng(1).normal(size=(512, sizes[0])).astype(np.float32)
    by_name = {}
    for number, (weight, bias) in enumerate(layers(sizes)):
        by_name[f"y{number}.input"] = Range(min(0.0, float(x.min())), float(x.max()))
        x = x @ weight + bias
        x = np.maximum(x, 0) if number < len(sizes) - 2 else x
        by_name[f"y{number}"] = Range(min(0.0, float(x.min())), float(x.max()))
    return by_name


def make(folder: Path) -> None:
    """Write every form of every network."""
    import onnx_ir as ir
    import tflite

    from ondevice.converters import pipeline
    from ondevice.converters.dense.layers import DensePlan
    from ondevice.converters.graph import PackedModel
    from ondevice.converters.targets.onnx.dense import quantise_dense
    from ondevice.converters.targets.tflite.emit import emit_tflite
    from ondevice.converters.targets.tflite.writer import FREE, Quantisation, TfliteWriter
    from ondevice.dense import quantise_weight

    folder.mkdir(parents=True, exist_ok=True)
    for name, sizes in NETWORKS.items():
        for form in ONNX_FORMS:
            model = ir.Model(graph(sizes), ir_version=10)
            codec = "f32" if form == "float" else "q8"
            static = ranges(sizes) if form.startswith("static") else {}
            quantise_dense(model.graph, DensePlan(codec, ranges=static))
            if form.endswith("s8"):
                as_signed(model.graph)
            ir.save(model, folder / f"{name}-{form}.onnx")
        for form in set(TFLITE_FORMS) - {"hybrid-per-unit"}:
            model = PackedModel(ir.Model(graph(sizes), ir_version=10), (), {})
            codec = "f32" if form == "float" else "q8"
            plan = DensePlan(codec, ranges=ranges(sizes) if form == "static" else {})
            emit_tflite(
                pipeline.run(model, pipeline.LOWERING), folder / f"{name}-{form}.tflite", b"", plan
            )
        writer = TfliteWriter()
        x = writer.input("x", (FREE, sizes[0]), np.float32)
        for number, (weight, bias) in enumerate(layers(sizes)):
            codes, scales = quantise_weight(weight)
            stored = writer.table(
                f"w{number}", codes.T, quantisation=Quantisation(tuple(scales.tolist()))
            )
            relu = number < len(sizes) - 2
            kind = tflite.ActivationFunctionType.RELU if relu else 0
            inputs = [x, stored, writer.constant(bias, np.float32)]
            shape = (FREE, weight.shape[1])
            options = {"fused_activation_function": kind}
            x = writer.op("FULLY_CONNECTED", inputs, shape, np.float32, **options)
        writer.output(x, "y")
        writer.write(folder / f"{name}-hybrid-per-unit.tflite", "")


def as_signed(network: Any) -> None:
    """uint8 weights with zero point 128 as the int8 weights that they stand for."""
    import onnx_ir as ir

    for node in network:
        if node.op_type == "MatMulInteger":
            codes = node.inputs[1]
            signed = codes.const_value.numpy().astype(np.int16) - 128
            codes.const_value = ir.tensor(signed.astype(np.int8), name=codes.name)
            codes.type = ir.TensorType(ir.DataType.INT8)
            zero = node.inputs[3]
            zero.const_value = ir.tensor(np.int8(0), name=zero.name)
            zero.type = ir.TensorType(ir.DataType.INT8)


def onnx_runner(path: Path) -> Runner:
    """A function of x."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return lambda x: session.run(None, {"x": x})[0]


def tflite_runner(path: Path) -> Runner:
    """A function of x."""
    try:
        from ai_edge_litert.interpreter import Interpreter
    except ImportError:
        from tflite_runtime.interpreter import Interpreter
    interpreter = Interpreter(model_path=str(path), num_threads=1)
    place = interpreter.get_input_details()[0]["index"]
    out = interpreter.get_output_details()[0]["index"]

    def run(x: np.ndarray) -> np.ndarray:
        if tuple(interpreter.get_input_details()[0]["shape"]) != x.shape or not run.ready:
            interpreter.resize_tensor_input(place, x.shape)
            interpreter.allocate_tensors()
            run.ready = True
        interpreter.set_tensor(place, x)
        interpreter.invoke()
        return interpreter.get_tensor(out)

    run.ready = False
    return run


def measure(folder: Path, repeat: int) -> None:
    """Print error and median time of every form that a runtime here can run."""
    for suffix, forms, runner in (
        ("onnx", ONNX_FORMS, onnx_runner),
        ("tflite", TFLITE_FORMS, tflite_runner),
    ):
        for name, sizes in NETWORKS.items():
            reference = {}
            for form in forms:
                try:
                    run = runner(folder / f"{name}-{form}.{suffix}")
                except ImportError as error:
                    print(f"{suffix}: skipped, {error}")
                    break
                cells = []
                for rows in ROWS:
                    x = np.random.default_rng(rows).normal(size=(rows, sizes[0]))
                    x = x.astype(np.float32)
                    got = run(x)
                    right = reference.setdefault(rows, got)
                    times = []
                    for _ in range(repeat):
                        started = time.perf_counter()
                        run(x)
                        times.append(time.perf_counter() - started)
                    error = np.abs(got - right).max() / max(right.std(), 1e-9)
                    shown = "" if rows == 1 else f" error {error:.2f}"
                    cells.append(f"{rows} rows {np.median(times) * 1e6:.0f} us{shown}")
                print(f"{name} {suffix}-{form}: {', '.join(cells)}", flush=True)


parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("what", choices=("make", "run"))
parser.add_argument("folder", type=Path)
parser.add_argument("--repeat", type=int, default=200)
args = parser.parse_args()
if args.what == "make":
    make(args.folder)
else:
    measure(args.folder, args.repeat)
