"""Latency of the native engine against ONNX Runtime and LiteRT on one model, one thread.

The model: 26 fields x 16, binary-code hashing in 3 blocks over 1,000,000 IDs a field, rows cut as
AMTL does, q8 tables, MLP 400-400-400. Weights are random: time does not depend on them, beyond
the half of a ReLU's outputs that is zero in any case. All runtimes score the same rows and are
compared with each other. The stock runtimes get their best form: one matrix of IDs as the only
input, all fields merged into one lookup, dense layers in float32 and in int8 (dynamically
quantised); rows either in float32, which need no dequantising but undo the compression, or in int8
as a compressed file has them. Times are from Python call to Python result, in interleaved bursts;
a ratio is best stock p50 / native p50: `ratios` of all forms, `ratios_compressed` of those whose
tables stay in 8 bits.

    python benchmarks/latency.py [--json FILE]
"""

from __future__ import annotations

import argparse
import functools
import itertools
import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import tflite
import torch
from ai_edge_litert.interpreter import Interpreter
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import QuantType, quantize_dynamic
from torch import nn

import ondevice
from ondevice.codecs import quantise
from ondevice.converters.convert import convert
from ondevice.converters.targets.tflite import writer as tflite_writer
from ondevice.models import AdaptiveMask, BinaryCodeEmbedding

FIELDS, DIM, HIDDEN, CODE_BITS, T = 26, 16, 400, 20, 7
MULTIPLIER = 0x9E3779B97F4A7C15
CONTEXT_FIELDS = 13
BATCHES = (1, 128, 1024)
RANKED = 100  # candidates
COMPRESSED = "8-bit rows"
ROWS_IN = ("float rows", COMPRESSED)

Runner = Callable[[np.ndarray], np.ndarray]  # IDs int64 [batch, FIELDS] to probabilities
Call = Callable[[], Any]


class Network(nn.Module):
    """The benchmark's model, with row widths drawn from a geometric law (mean about 6)."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        rng = np.random.default_rng(0)
        rows = 2**7 + 2**7 + 2**6
        self.tables = nn.ModuleDict()
        for field in range(FIELDS):
            widths = np.minimum(DIM, rng.geometric(0.17, rows))
            mask = AdaptiveMask.from_widths(widths, DIM)
            self.tables[f"f{field}"] = BinaryCodeEmbedding(
                DIM, CODE_BITS, T, multiplier=MULTIPLIER, padding_id=None, std=0.5, mask=mask
            )
        sizes = [FIELDS * DIM, HIDDEN, HIDDEN, HIDDEN, 1]
        layers: list[nn.Module] = []
        for wide, narrow in itertools.pairwise(sizes):
            layers += [nn.Linear(wide, narrow), nn.ReLU()]
        self.mlp = nn.Sequential(*layers[:-1])

    def forward(self, ids: dict[str, torch.Tensor]) -> torch.Tensor:
        vectors = [self.tables[name](values) for name, values in ids.items()]
        return torch.sigmoid(self.mlp(torch.cat(vectors, dim=1))).squeeze(-1)


def merged(network: Network) -> tuple[np.ndarray, np.ndarray]:
    """All dequantised tables as one float32 table, and row offsets int32 [FIELDS, blocks]."""
    tables, offsets, start = [], [], 0
    for layer in network.tables.values():
        weight = layer.weight.detach().numpy()
        widths = layer.mask.widths().numpy()
        tables.append(quantise(weight, "q8", widths=widths).dequantise())
        offsets.append([start + block.offset for block in layer.spec.blocks])
        start += layer.spec.rows
    return np.concatenate(tables), np.array(offsets, dtype=np.int32)


def merged_codes(network: Network) -> tuple[np.ndarray, np.ndarray]:
    """All tables as one: int8 codes [rows, DIM] and their scales float32 [rows, 1]."""
    tables = []
    for layer in network.tables.values():
        weight, widths = layer.weight.detach().numpy(), layer.mask.widths().numpy()
        tables.append(quantise(weight, "q8", widths=widths, scale_axis="row"))
    scales = np.concatenate([table.scales for table in tables]).astype(np.float32)
    return np.concatenate([table.values for table in tables]), scales[:, None]


def dense_weights(network: Network) -> list[tuple[np.ndarray, np.ndarray]]:
    """(weight [units, features], bias [units]) of every layer."""
    linear = [layer for layer in network.mlp if isinstance(layer, nn.Linear)]
    return [(layer.weight.detach().numpy(), layer.bias.detach().numpy()) for layer in linear]


def block_bits(network: Network) -> tuple[list[int], list[int]]:
    """First bit and number of bits of every block of a field's binary code."""
    blocks = network.tables["f0"].spec.blocks
    return [block.start for block in blocks], [block.bits for block in blocks]


def onnx_lookup(
    network: Network, *, compressed: bool
) -> tuple[list[onnx.NodeProto], dict[str, np.ndarray]]:
    """Nodes from "ids" int64 [batch, FIELDS] to "x0" [batch, FIELDS * DIM], and their constants."""
    table, offsets = merged(network)
    starts, bits = block_bits(network)
    constants = {
        "multiplier": np.array(MULTIPLIER, np.uint64),
        "shifts": np.array(starts, np.uint64),
        "masks": np.array([2**b - 1 for b in bits], np.uint64),
        "offsets": offsets.astype(np.int64),
        "two": np.array([2], np.int64), "flat": np.array([-1, FIELDS * DIM], np.int64),
    }  # fmt: skip
    node = helper.make_node
    nodes = [
        node("Cast", ["ids"], ["u"], to=TensorProto.UINT64),
        node("Mul", ["u", "multiplier"], ["code"]), node("Unsqueeze", ["code", "two"], ["code3"]),
        node("BitShift", ["code3", "shifts"], ["shifted"], direction="RIGHT"),
        node("BitwiseAnd", ["shifted", "masks"], ["values"]),
        node("Cast", ["values"], ["signed"], to=TensorProto.INT64),
        node("Add", ["signed", "offsets"], ["rows"]),
    ]  # fmt: skip
    if compressed:
        constants["codes"], constants["scales"] = merged_codes(network)
        nodes += [
            node("Gather", ["codes", "rows"], ["raw"]),
            node("Gather", ["scales", "rows"], ["step"]),
            node("Cast", ["raw"], ["number"], to=TensorProto.FLOAT),
            node("Mul", ["number", "step"], ["read"]),
        ]  # fmt: skip
    else:
        constants["table"] = table
        nodes.append(node("Gather", ["table", "rows"], ["read"]))
    nodes += [
        node("ReduceSum", ["read", "two"], ["vectors"], keepdims=0),
        node("Reshape", ["vectors", "flat"], ["x0"]),
    ]
    return nodes, constants


def write_onnx(network: Network, path: Path, *, compressed: bool, named: bool = False) -> None:
    """The model as ONNX with merged lookups and float32 layers.

    Args:
        network: the weights.
        path: of the file.
        compressed: whether table rows are int8.
        named: an input [batch, 1] for every field, instead of one matrix "ids".
    """
    nodes, constants = onnx_lookup(network, compressed=compressed)
    node, layers = helper.make_node, dense_weights(network)
    inputs = {"ids": FIELDS}
    if named:
        inputs = {f"f{field}": 1 for field in range(FIELDS)}
        nodes.insert(0, node("Concat", list(inputs), ["ids"], axis=1))
    constants["last"] = np.array([-1], np.int64)
    for i, (weight, bias) in enumerate(layers):
        constants |= {f"w{i}": np.ascontiguousarray(weight.T), f"b{i}": bias}
        nodes += [
            node("MatMul", [f"x{i}", f"w{i}"], [f"m{i}"]),
            node("Add", [f"m{i}", f"b{i}"], [f"a{i}"]),
        ]
        if i + 1 < len(layers):
            nodes.append(node("Relu", [f"a{i}"], [f"x{i + 1}"]))
    nodes += [
        node("Squeeze", [f"a{len(layers) - 1}", "last"], ["z"]),
        node("Sigmoid", ["z"], ["p"]),
    ]
    graph = helper.make_graph(
        nodes, "ctr",
        [
            helper.make_tensor_value_info(name, TensorProto.INT64, ["batch", width])
            for name, width in inputs.items()
        ],
        [helper.make_tensor_value_info("p", TensorProto.FLOAT, ["batch"])],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )  # fmt: skip
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10), path
    )


def quantised_weight(
    writer: tflite_writer.TfliteWriter, name: str, weight: np.ndarray
) -> tflite_writer.Tensor:
    """int8 weights with a scale per unit, which LiteRT runs with quantised activations."""
    scales = (np.abs(weight).max(axis=1) / 127).astype(np.float32)
    codes = np.rint(weight / scales[:, None]).astype(np.int8)
    meaning = tflite_writer.Quantisation(tuple(scales.tolist()))
    return writer.table(name, codes, quantisation=meaning)


def write_tflite(
    network: Network,
    path: Path,
    batch: int,
    *,
    integer: bool,
    compressed: bool = False,
    named: bool = False,
) -> None:
    """The model as TFLite for one batch size, with merged lookups.

    Args: as of write_onnx; integer: int8 layers.
    """
    table, offsets = merged(network)
    starts, bits = block_bits(network)
    blocks = len(starts)
    w = tflite_writer.TfliteWriter()
    i32, f32 = np.int32, np.float32
    if named:
        fields = [w.input(f"f{field}", (batch, 1), np.int64) for field in range(FIELDS)]
        ids = w.op("CONCATENATION", fields, (batch, FIELDS), np.int64, axis=1)
    else:
        ids = w.input("ids", (batch, FIELDS), np.int64)
    factor = w.constant(np.array(MULTIPLIER, np.uint64).view(np.int64), np.int64)
    code = w.op("MUL", [ids, factor], (batch, FIELDS), np.int64)
    halves = w.op("BITCAST", [code], (batch, FIELDS, 2), i32)
    size = (batch, FIELDS, 1)
    low = w.op("SLICE", [halves, w.constant([0, 0, 0], i32), w.constant(size, i32)], size, i32)
    shape = (batch, FIELDS, blocks)
    repeated = w.op(
        "RIGHT_SHIFT", [low, w.constant(np.tile(starts, (*shape[:2], 1)), i32)], shape, i32
    )
    value = w.op("FLOOR_MOD", [repeated, w.constant([2**b for b in bits], i32)], shape, i32)
    rows = w.op("ADD", [value, w.constant(offsets[None], i32)], shape, i32)
    if compressed:
        codes, scales = merged_codes(network)
        raw = w.op("GATHER", [w.table("codes", codes), rows], (*shape, DIM), np.int8, axis=0)
        step = w.op("GATHER", [w.table("scales", scales), rows], (*shape, 1), f32, axis=0)
        number = w.op("CAST", [raw], (*shape, DIM), f32)
        read = w.op("MUL", [number, step], (*shape, DIM), f32)
    else:
        read = w.op("GATHER", [w.table("table", table), rows], (*shape, DIM), f32, axis=0)
    x = w.op("SUM", [read, w.constant([2], i32)], (batch, FIELDS, DIM), f32, keep_dims=False)
    x = w.op("RESHAPE", [x, w.constant([batch, FIELDS * DIM], i32)], (batch, FIELDS * DIM), f32)
    layers = dense_weights(network)
    for i, (weight, bias) in enumerate(layers):
        weights = quantised_weight(w, f"w{i}", weight) if integer else w.constant(weight, f32)
        relu = tflite.ActivationFunctionType.RELU if i + 1 < len(layers) else 0
        x = w.op("FULLY_CONNECTED", [x, weights, w.constant(bias, f32)], (batch, len(bias)), f32,
                 fused_activation_function=relu)  # fmt: skip
    x = w.op("RESHAPE", [x, w.constant([batch], i32)], (batch,), f32)
    w.output(w.op("LOGISTIC", [x], (batch,), f32), "p")
    w.write(path, b"")


def onnx_runner(path: Path) -> Runner:
    """An .onnx file in ONNX Runtime."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return lambda ids: session.run(None, {"ids": ids})[0]


def litert_runner(path: Path) -> Runner:
    """A .tflite file in LiteRT."""
    interpreter = Interpreter(model_path=str(path), num_threads=1)
    interpreter.allocate_tensors()
    ids, out = (
        d[0]["index"] for d in (interpreter.get_input_details(), interpreter.get_output_details())
    )

    def run(values: np.ndarray) -> np.ndarray:
        interpreter.set_tensor(ids, values)
        interpreter.invoke()
        return interpreter.get_tensor(out)

    return run


def measure(runs: dict[str, Call], seconds: float = 1.0) -> dict[str, dict[str, float]]:
    """p50, p95 and the spread of burst medians in microseconds; bursts take turns."""
    times: dict[str, list[np.ndarray]] = {name: [] for name in runs}
    counts = {}
    for name, run in runs.items():
        run()
        start = time.perf_counter()
        run()
        counts[name] = max(3, int(seconds / 10 / max(time.perf_counter() - start, 1e-6)))
    for _ in range(10):
        for name, run in runs.items():
            burst = np.empty(min(counts[name], 4000))
            for i in range(len(burst)):
                start = time.perf_counter_ns()
                run()
                burst[i] = time.perf_counter_ns() - start
            times[name].append(burst / 1000)
    result = {}
    for name, bursts in times.items():
        together, medians = np.concatenate(bursts), [float(np.median(b)) for b in bursts]
        result[name] = {
            "p50": float(np.median(together)), "p95": float(np.percentile(together, 95)),
            "lowest": min(medians), "highest": max(medians),
        }  # fmt: skip
    return result


MEMORY_PROGRAM = """
import json, sys, time
import numpy as np, ondevice
def fields():
    with open('/proc/self/smaps_rollup') as f:
        return {l.split()[0][:-1]: int(l.split()[1]) for l in f if l.split()[1].isdigit()}
before = fields(); start = time.perf_counter()
model = ondevice.load(sys.argv[1]); load = time.perf_counter() - start; after = fields()
start = time.perf_counter(); model = ondevice.load(sys.argv[1]); again = time.perf_counter() - start
rng = np.random.default_rng(0)
for _ in range(10000):
    model.predict({i.name: rng.integers(0, 2**62, 1) for i in model.inputs})
end = fields()
print(json.dumps({'load_ms': load * 1e3, 'load_again_ms': again * 1e3,
  'anonymous_kb': after['Anonymous'] - before['Anonymous'],
  'rss_kb': end['Rss'], 'pss_kb': end['Pss'],
  'rss_before_kb': before['Rss']}))
"""


def memory(path: Path) -> dict[str, float]:
    """Load time and memory of a native file, in a fresh process."""
    completed = subprocess.run(
        [sys.executable, "-c", MEMORY_PROGRAM, str(path)],
        capture_output=True,
        text=True,
        check=True,
    )
    return json.loads(completed.stdout) | {"file_bytes": path.stat().st_size}


def floor_us(folder: Path) -> float | None:
    """The bare loop's time, None without a compiler or AVX-512 VNNI."""
    compiler = shutil.which("gcc")
    if compiler is None or "avx512_vnni" not in Path("/proc/cpuinfo").read_text():
        return None
    source, program = Path(__file__).with_name("floor.c"), folder / "floor"
    subprocess.run(
        [compiler, "-std=c11", "-O3", "-march=native", source, "-o", program], check=True
    )
    return float(subprocess.run([program], capture_output=True, text=True, check=True).stdout)


def large_file(folder: Path) -> Path:
    """A native file of about 200 MB: 26 fields, one table row an ID."""
    from ondevice.info import InputSpec, ModelInfo
    from ondevice.odm import write_odm
    from ondevice.plan import Node, Plan
    from ondevice.records import pack_records
    from ondevice.spec import binary_code_spec

    rng, path = np.random.default_rng(0), folder / "large.odm"
    spec = binary_code_spec(DIM, code_bits=64, t=16, multiplier=MULTIPLIER)
    values = rng.normal(size=(spec.rows, DIM)).astype(np.float32)
    table = pack_records(quantise(values, "f16"))
    names = [f"f{i}" for i in range(FIELDS)]
    nodes = [Node("Lookup", (n,), (f"{n}.v",), {}, n, spec) for n in names]
    nodes += [Node("Concat", tuple(f"{n}.v" for n in names), ("x",), {"axis": 1}),
              Node("ReduceSum", ("x", "axes"), ("z",), {"keepdims": 0}),
              Node("Sigmoid", ("z",), ("p",), {})]  # fmt: skip
    plan = Plan(tuple(names), ("p",), tuple(nodes), ("axes",), dict.fromkeys(names, table.layout))
    info = ModelInfo(tuple(InputSpec(n) for n in names), ("p",))
    write_odm(path, plan, info, {"axes": np.array([1], np.int64)}, dict.fromkeys(names, table))
    return path


def native_models(
    network: Network, request: dict[str, np.ndarray], folder: Path
) -> dict[str, ondevice.Model]:
    """The native engine by the codec of its dense layers."""
    example = {key: torch.from_numpy(value[:4]) for key, value in request.items()}
    models = {}
    for dense in ("q8", "f32"):
        convert(network, (example,), folder, targets=("odm",), dense=dense, name=dense)  # type: ignore[arg-type]
        models[dense] = ondevice.load(folder / f"{dense}.odm", engine="native")
    return models


def onnx_runners(network: Network, folder: Path) -> dict[str, Runner]:
    """Every form in ONNX Runtime, for all batch sizes."""
    runners = {}
    for rows_in in ROWS_IN:
        plain, quantised = folder / f"float {rows_in}.onnx", folder / f"int8 {rows_in}.onnx"
        write_onnx(network, plain, compressed=rows_in == COMPRESSED)
        quantize_dynamic(plain, quantised, weight_type=QuantType.QInt8, per_channel=True,
                         op_types_to_quantize=["MatMul"])  # fmt: skip
        for path in (plain, quantised):
            runners[f"onnxruntime {path.stem}"] = onnx_runner(path)
    return runners


def litert_runners(network: Network, rows: int, folder: Path) -> dict[str, Runner]:
    """Every form in LiteRT, for one batch size."""
    runners = {}
    for kind, rows_in in itertools.product(("float", "int8"), ROWS_IN):
        file = folder / f"{kind}_{rows}_{ROWS_IN.index(rows_in)}.tflite"
        write_tflite(network, file, rows, integer=kind == "int8", compressed=rows_in == COMPRESSED)
        runners[f"litert {kind} {rows_in}"] = litert_runner(file)
    return runners


def native_call(model: ondevice.Model, request: dict[str, np.ndarray], rank: bool) -> Call:
    """A prediction, or a ranking whose context is the first row of the first fields."""
    if not rank:
        return lambda: model.predict(request)
    names = list(request)
    context = {name: request[name][:1] for name in names[:CONTEXT_FIELDS]}
    candidates = {name: request[name] for name in names[CONTEXT_FIELDS:]}
    return lambda: model.rank(context, candidates)


def compare(
    native: dict[str, ondevice.Model], stock: dict[str, Runner], ids: np.ndarray, seconds: float
) -> dict[str, dict[str, float]]:
    """Check that all runtimes agree on a request, then measure them; see `measure`."""
    request = by_field(ids)
    expected = native["f32"].predict(request)
    for label, runner in stock.items():
        worst = float(np.abs(runner(ids) - expected).max())
        assert worst < 0.02, (label, worst)
    runs: dict[str, Call] = {
        label: functools.partial(runner, ids) for label, runner in stock.items()
    }
    for dense, model in native.items():
        runs[f"native {dense}"] = native_call(model, request, rank=len(ids) == RANKED)
    return measure(runs, seconds)


def ratio(times: dict[str, dict[str, float]], ending: str) -> float:
    """The best p50 of the stock forms whose label has this ending over that of the native q8."""
    stock = [
        figures["p50"]
        for label, figures in times.items()
        if not label.startswith("native") and label.endswith(ending)
    ]
    return min(stock) / times["native q8"]["p50"]


def print_times(key: str, times: dict[str, dict[str, float]]) -> None:
    """A line for each runtime, then the ratios."""
    print(f"\n{key}  (us)                        p50      p95   burst medians")
    for label, figures in times.items():
        print(
            f"  {label:30} {figures['p50']:9.2f} {figures['p95']:9.2f}"
            f"   {figures['lowest']:.2f}-{figures['highest']:.2f}"
        )
    print(
        f"  best stock / native q8: {ratio(times, ''):.2f}; "
        f"with compressed tables: {ratio(times, COMPRESSED):.2f}"
    )


def by_field(ids: np.ndarray) -> dict[str, np.ndarray]:
    """The columns of IDs [rows, FIELDS] by the name of their input."""
    return {f"f{i}": np.ascontiguousarray(ids[:, i]) for i in range(FIELDS)}


def main() -> None:
    """Build the files, check that they agree, measure, print, and write the JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--json", type=Path)
    parser.add_argument("--seconds", type=float, default=1.0, help="per runtime and batch size")
    args = parser.parse_args()
    torch.set_num_threads(1)
    network = Network().eval()
    rng = np.random.default_rng(1)
    requests = {rows: rng.integers(0, 1_000_000, (rows, FIELDS)) for rows in (*BATCHES, RANKED)}
    report: dict[str, Any] = {"times_us": {}, "ratios": {}, "ratios_compressed": {}}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        native = native_models(network, by_field(requests[128]), folder)
        runners = onnx_runners(network, folder)
        for rows, ids in requests.items():
            stock = runners | litert_runners(network, rows, folder)
            times = compare(native, stock, ids, args.seconds)
            key = f"rank{rows}" if rows == RANKED else f"batch{rows}"
            report["times_us"][key] = times
            report["ratios"][key] = ratio(times, "")
            report["ratios_compressed"][key] = ratio(times, COMPRESSED)
            print_times(key, times)
        report["floor_us"] = floor_us(folder)
        if report["floor_us"]:
            share = report["times_us"]["batch1"]["native q8"]["p50"] / report["floor_us"]
            report["over_floor"] = share
            print(f"\nbare C loop: {report['floor_us']:.2f} us; native q8: {share:.2f} times that")
        report["large_file"] = memory(large_file(folder))
        print("\nlarge file:", json.dumps(report["large_file"]))
    library = next(Path(ondevice.__file__).parent.glob("_native*.so"))
    report["library_bytes"] = library.stat().st_size
    print(f"library: {report['library_bytes']:,} bytes")
    if args.json:
        args.json.write_text(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
