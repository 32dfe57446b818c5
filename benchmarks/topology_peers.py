"""Other runtimes for topologies.py: torch, OpenVINO, ExecuTorch, MNN, and files made by hand.

Each gets the form that its own tools make of the float32 module, or of the .onnx that `convert`
wrote. In q8 dense layers are in int8 where the runtime has them, activations quantised at each
call; tables are in float32, which needs no dequantising, but is not small. What is not installed,
or cannot take a network, is left out; of the latter a line says so.
"""

from __future__ import annotations

import importlib.util
import subprocess
import sys
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import onnxruntime as ort
import torch
from ai_edge_litert.interpreter import Interpreter
from onnxruntime.quantization import QuantType, quantize_dynamic
from torch import nn

from ondevice.converters import convert

Request = Mapping[str, np.ndarray]
Call = Callable[[], np.ndarray]
LARGEST_BATCH = 1024
EXAMPLE_ROWS = 4

# mnnconvert ends the process that it fails in, so it runs in one of its own. The module behind the
# command is called: the command also installs packages and reports its use.
MNN_CONVERT = """
import sys, _tools
_tools.mnnconvert(["mnnconvert", "-f", "ONNX", "--bizCode", "ctr", "--keepInputFormat", "1",
                   "--modelFile", sys.argv[1], "--MNNModel", sys.argv[2], *sys.argv[3:]])
"""


def peers(
    module: nn.Module, precision: str, files: Path, float_onnx: Path, request: Request
) -> dict[str, Call]:
    """Calls of every runtime that is installed and takes the network, by name and precision.

    Args:
        module: the float32 network, in eval mode.
        precision: "q8" or "f32".
        files: folder of the files of `convert` in this precision; others are kept there.
        float_onnx: the .onnx that `convert` wrote in float32.
        request: inputs by name, in the module's order.
    """
    makers: dict[str, Callable[[], Call]] = {
        "torch": lambda: torch_call(module, precision, request),
        "hand-made onnxruntime": lambda: by_hand_onnx(module, precision, files, request),
        "hand-made litert": lambda: by_hand_litert(module, precision, files, request),
    }
    if importlib.util.find_spec("openvino"):
        makers["openvino"] = lambda: openvino_call(files / "model.onnx", request)
    if importlib.util.find_spec("executorch"):
        makers["executorch"] = lambda: executorch_call(module, precision, files, request)
    if importlib.util.find_spec("MNN"):
        makers["mnn"] = lambda: mnn_call(float_onnx, precision, files, request)
    calls: dict[str, Call] = {}
    for name, make in makers.items():
        try:
            call = make()
            call()
            calls[f"{name} {precision}"] = call
        except Exception as error:
            lines = str(error).strip().splitlines() or [""]
            print(f"{name} {precision}: {type(error).__name__}: {lines[0][:150]}", flush=True)
    return calls


def onnx_call(path: Path, request: Request) -> Call:
    """An .onnx file in ONNX Runtime."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    feed = dict(zip([item.name for item in session.get_inputs()], request.values(), strict=True))
    return lambda: session.run(None, feed)[0]


def litert_call(path: Path, request: Request) -> Call:
    """A .tflite file in LiteRT, resized to the request once."""
    interpreter = Interpreter(model_path=str(path), num_threads=1)
    places = [(item["index"], request[item["name"]]) for item in interpreter.get_input_details()]
    for index, values in places:
        interpreter.resize_tensor_input(index, values.shape, strict=True)
    interpreter.allocate_tensors()
    out = interpreter.get_output_details()[0]["index"]

    def run() -> np.ndarray:
        for index, values in places:
            interpreter.set_tensor(index, values)
        interpreter.invoke()
        return interpreter.get_tensor(out)

    return run


def tensors(request: Request, rows: int | None = None) -> tuple[torch.Tensor, ...]:
    """A request as the module's arguments, or its first rows, repeated where there are fewer."""
    arrays = [v if rows is None else np.resize(v, (rows, *v.shape[1:])) for v in request.values()]
    return tuple(map(torch.from_numpy, arrays))


def torch_call(module: nn.Module, precision: str, request: Request) -> Call:
    """The module itself, traced and frozen; q8: dense layers in int8, quantised dynamically."""
    inputs = tensors(request)
    if precision == "q8":
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            module = torch.ao.quantization.quantize_dynamic(module, {nn.Linear}, torch.qint8)
    with torch.no_grad():
        traced = torch.jit.freeze(torch.jit.trace(module, inputs))

    def run() -> np.ndarray:
        with torch.inference_mode():
            return traced(*inputs).numpy()

    return run


def openvino_call(path: Path, request: Request) -> Call:
    """The .onnx file in OpenVINO, in float32 and one thread."""
    import openvino

    hints = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 1}
    model = openvino.Core().compile_model(path, "CPU", hints)
    inference = model.create_infer_request()
    return lambda: inference.infer(request)[0]


def by_hand_onnx(module: nn.Module, precision: str, files: Path, request: Request) -> Call:
    """What torch's exporter writes, with float tables; q8: quantised by ONNX Runtime's own tool."""
    path = files / "exported.onnx"
    if not path.exists():
        rows = torch.export.Dim("batch")
        program = torch.onnx.export(
            module, tensors(request, EXAMPLE_ROWS), dynamo=True, opset_version=21, verbose=False,
            dynamic_shapes=tuple({0: rows} for _ in request),
        )  # fmt: skip
        assert program is not None
        program.optimize()
        program.save(path)
    if precision == "q8":
        quantised = files / "exported_q8.onnx"
        if not quantised.exists():
            quantize_dynamic(path, quantised, weight_type=QuantType.QInt8, per_channel=True,
                             op_types_to_quantize=["MatMul", "Gemm"])  # fmt: skip
        path = quantised
    return onnx_call(path, request)


def by_hand_litert(module: nn.Module, precision: str, files: Path, request: Request) -> Call:
    """A .tflite with tables in float32 beside the layers of this precision."""
    folder = files / "float tables"
    if not (folder / "model.tflite").exists():
        example = dict(zip(request, tensors(request, EXAMPLE_ROWS), strict=True))
        convert(module, example, folder, targets=("tflite",), tables="f32", dense=precision)  # type: ignore[arg-type]
    return litert_call(folder / "model.tflite", request)


def executorch_call(module: nn.Module, precision: str, files: Path, request: Request) -> Call:
    """XNNPACK in ExecuTorch, of any batch where its passes allow that, else of this one."""
    from executorch.runtime import Runtime

    inputs = tensors(request)
    rows = len(inputs[0])
    any_batch, this_batch = files / "executorch.pte", files / f"executorch_{rows}.pte"
    if not any_batch.exists() and not this_batch.exists():
        try:
            program = executorch_program(module, precision, tensors(request, EXAMPLE_ROWS), True)
            any_batch.write_bytes(program)
        except Exception as error:
            print(f"executorch: one batch only: {str(error).splitlines()[0][:120]}", flush=True)
            this_batch.write_bytes(executorch_program(module, precision, inputs, False))
    path = any_batch if any_batch.exists() else this_batch
    data = path.read_bytes()
    program_of_file = Runtime.get().load_program(data)
    method = program_of_file.load_method("forward")
    assert method is not None
    alive = (data, program_of_file)  # the method reads their memory
    return lambda: method.execute(inputs)[0].numpy() if alive else np.empty(0)


def executorch_program(
    module: nn.Module, precision: str, inputs: tuple[torch.Tensor, ...], free: bool
) -> bytes:
    """The bytes of a .pte file for XNNPACK; q8: int8 weights by unit, activations at each call.

    Args:
        module: the float32 network.
        precision: "q8" or "f32".
        inputs: an example.
        free: whether the number of rows is free.
    """
    from executorch.backends.xnnpack.partition.config.xnnpack_config import ConfigPrecisionType
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
    from executorch.backends.xnnpack.quantizer import xnnpack_quantizer
    from executorch.exir import to_edge_transform_and_lower
    from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e

    rows = torch.export.Dim("batch", max=LARGEST_BATCH)
    shapes = tuple({0: rows} for _ in inputs) if free else None
    partitioners = [XnnpackPartitioner()]
    with torch.no_grad():
        exported = torch.export.export(module, inputs, dynamic_shapes=shapes)
        if precision == "q8":
            config = xnnpack_quantizer.get_symmetric_quantization_config(
                is_per_channel=True, is_dynamic=True
            )
            quantizer = xnnpack_quantizer.XNNPACKQuantizer().set_global(config)
            prepared = prepare_pt2e(exported.module(), quantizer)
            prepared(*inputs)
            exported = torch.export.export(convert_pt2e(prepared), inputs, dynamic_shapes=shapes)
            dynamic = ConfigPrecisionType.DYNAMIC_QUANT
            partitioners.insert(0, XnnpackPartitioner(config_precisions=dynamic, per_op_mode=True))
        return (
            to_edge_transform_and_lower(exported, partitioner=partitioners).to_executorch().buffer
        )


def mnn_call(float_onnx: Path, precision: str, files: Path, request: Request) -> Call:
    """MNN with its own conversion of the float32 .onnx; q8: weights in 8 bits, by its converter."""
    path = files / "model.mnn"
    if not path.exists():
        bits = ["--weightQuantBits", "8"] if precision == "q8" else []
        command = [sys.executable, "-c", MNN_CONVERT, float_onnx, path, *bits]
        subprocess.run(command, check=False, capture_output=True)
        if not path.exists():
            raise RuntimeError("mnnconvert refuses the .onnx")
    import MNN.expr
    import MNN.nn

    runtime = MNN.nn.create_runtime_manager(({"backend": 0, "numThread": 1, "precision": "high"},))
    session = ort.InferenceSession(str(float_onnx), providers=["CPUExecutionProvider"])
    outputs = [item.name for item in session.get_outputs()]
    net = MNN.nn.load_module_from_file(str(path), list(request), outputs, runtime_manager=runtime)
    inputs = []
    for values in request.values():
        inputs.append(MNN.expr.placeholder(list(values.shape), MNN.expr.NCHW, MNN.expr.int))
        inputs[-1].write(values.astype(np.int32))

    def run() -> np.ndarray:
        assert runtime is not None  # which the module uses
        scores = net.forward(inputs)
        scores = scores[0] if isinstance(scores, list | tuple) else scores
        return np.array(scores.read())

    return run
