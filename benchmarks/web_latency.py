"""CPU time of a request in Node: this engine, with vectors and without, and ONNX Runtime.

The models: files given with --model, and dense layers 384-1024-512-1, in q8 and in f32, over one
q8 table. Engines run in rounds by turns, each in a fresh process with one thread; the least round
of each counts, so that other work of the machine counts least.

For the dense layers, bare loops over the weights of one row follow (web_floor.py): the bound of the
engine's time.

    npm install --prefix PEERS onnxruntime-web
    python benchmarks/web_latency.py --model MODEL.odm --peers PEERS --out docs/evidence/browser.md

ONNX Runtime reads the .onnx file beside MODEL.odm, which `ondevice convert` writes; for the dense
layers the benchmark writes one, in float32.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from web_floor import HEADER, bound_lines

import ondevice
from ondevice.codecs import quantise
from ondevice.dense import pack_dense
from ondevice.info import InputSpec, ModelInfo
from ondevice.odm import write_odm
from ondevice.plan import Node, Plan
from ondevice.records import pack_records
from ondevice.spec import full_spec
from ondevice.web.build import build

BATCHES = (1, 128)
ROUND_SECONDS = 2.5
TOLERANCE = 0.05  # of scores: 8-bit layers of random weights beside float32
PAGE = """# Latency in browsers' engines, measured

`python benchmarks/web_latency.py`: microseconds of CPU a request, one thread, {versions}. The
least of {rounds} rounds, each in a fresh process, because other work ran on the machine. "native"
is the C engine called from Python. The last column says how many times as long ONNX Runtime takes
as this engine with vectors. It computes in float32; dense layers of "q8" are 8-bit ones of this
engine. Each measurement checks the scores, too.

LiteRT.js 2.5.3, tried by hand in headless Chromium, refuses int64 inputs and free batch sizes,
so it opens no file of this project. Of 384-1024-512-1 in float32 over numbers, with fixed sizes, a
request took it 98 us (1 row) and 4,950 us (128 rows), this engine 56 and 5,300 us beside it
(wall clock, least of 15 windows).

| model | rows | {header} | ratio |
|---|---|---|---|---|---|---|
{lines}

## What bounds a row of a large network

Of 384-1024-512-1, one row reads each weight once, where its input is not zero. The loops of
`benchmarks/web_floor.c` do only that, over as many bytes, with the vectors of 16 bytes that
WebAssembly has: microseconds, the least of 40 windows. The last loop of a network is its bound: it
multiplies and adds, and does nothing else. "of the bound" is Node's time of it divided by this
engine's, which also looks the row up, lists the inputs that are not zero, and in q8 quantises them.

{bounds}

- **The order of reading matters.** One sequence through the weights takes about twice as long as
  two or four side by side: the processor fetches several sequences ahead of a loop. So the engine
  takes four features (q8: four groups of four) through all outputs, and adds them in the order of
  the features: sums are the same to the bit.
- **Arithmetic takes as long.** A multiplication and an addition are two instructions for 4 numbers.
  Fused multiply-add of relaxed SIMD would be one, but rounds differently from device to device.
  8-bit weights need another instruction, which makes them numbers of 16 bits.
"""
SIZES = (1024, 512, 1)
FIELDS, DIM, ROWS = 1, 384, 2000  # one input: stock runtimes take long for each

# Each script measures one engine in a process: node SCRIPT FOLDER MODEL REQUEST SECONDS.
MEASURE = """
import { readFile } from "node:fs/promises";
const [, , folder, model, request, seconds] = process.argv;
const inputs = JSON.parse(await readFile(request, "utf-8"));
const pairs = Object.entries(inputs);
const given = (array) => Object.fromEntries(pairs.map(([name, ids]) => [name, array(ids)]));
const cpu = () => { const { user, system } = process.cpuUsage(); return user + system; };
// The least of several windows: compiling in the background counts as CPU time, too.
async function measure(call, wait) {
  let least = Infinity;
  for (let window = 0; window < WINDOWS; window++) {
    const end = performance.now() + (1000 * seconds) / WINDOWS, before = cpu();
    let calls = 0;
    for (; performance.now() < end; calls++)
      if (wait) await call();
      else call();
    least = Math.min(least, (cpu() - before) / calls);
  }
  return least;
}
const WINDOWS = 20;
"""
SCRIPTS = {
    "ondevice": MEASURE
    + """
const wasm = `${folder}/ENGINE.wasm`;
const { load } = await import(`${folder}/ondevice.js`);
const opened = await load(model, { wasm });
const asked = given((ids) => Int32Array.from(ids));
const us = await measure(() => opened.predict(asked), false);
console.log(JSON.stringify({ us, scores: Array.from(opened.predict(asked)) }));
""",
    "onnxruntime-web": MEASURE
    + """
const ort = await import(`${folder}/node_modules/onnxruntime-web/dist/ort.node.min.mjs`);
ort.env.wasm.numThreads = 1;
ort.env.wasm.proxy = false;
const data = await readFile(`${model}.data`).catch(() => null);
const externalData = data ? [{ path: model.split("/").at(-1) + ".data", data }] : undefined;
const bytes = new Uint8Array(await readFile(model));
const options = { executionProviders: ["wasm"], externalData };
const session = await ort.InferenceSession.create(bytes, options);
const tensor = (ids) => new ort.Tensor("int64", BigInt64Array.from(ids, BigInt), [ids.length]);
const asked = given(tensor);
const call = () => session.run(asked);
const us = await measure(call, true);
console.log(JSON.stringify({ us, scores: Array.from(Object.values(await call())[0].data) }));
""",
}
ENGINES = {  # by name: script, suffix of the file, and which engine
    "with vectors": ("ondevice", ".odm", "ondevice"),
    "without": ("ondevice", ".odm", "ondevice-plain"),
    "onnxruntime-web": ("onnxruntime-web", ".onnx", ""),
}


def main() -> None:
    """Measure, print, and write the page."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", type=Path, action="append", default=[])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--peers", type=Path, help="folder with node_modules of stock runtimes")
    parser.add_argument("--out", type=Path, help="Markdown file to write")
    args = parser.parse_args()
    lines, ours = [], {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        prepare(folder, args.peers)
        networks = [write_network(folder / f"384-1024-512-1-{codec}.odm", codec)
                    for codec in ("q8", "f32")]  # fmt: skip
        for model in [*args.model, *networks]:
            for batch in BATCHES:
                times = measured(folder, model, batch, args.rounds)
                lines.append(row(model.stem, batch, times))
                print(lines[-1], flush=True)
                if batch == 1 and model in networks:
                    ours[model] = times["with vectors"]
        bounds = [*HEADER.splitlines(), *bound_lines(folder, ours)]
        print("\n".join(bounds), flush=True)
    if args.out:
        args.out.write_text(page(lines, bounds, args), "utf-8")


def prepare(folder: Path, peers: Path | None) -> None:
    """Fill a folder with what the scripts need: this engine, and links to the stock runtimes."""
    build(folder)
    if peers:
        (folder / "node_modules").symlink_to(peers.resolve() / "node_modules")
    for name, (script, _, engine) in ENGINES.items():
        text = SCRIPTS[script].replace("ENGINE", engine)
        (folder / f"{name}.mjs").write_text(text, "utf-8")


def request_of(model: ondevice.Model, rows: int) -> dict[str, np.ndarray]:
    """IDs that every model takes, different from row to row."""
    steps = np.arange(rows) * 7919 + 1
    return {
        spec.name: (steps + 31 * i) % (spec.id_limit or 1000) for i, spec in enumerate(model.inputs)
    }


def measured(folder: Path, model: Path, rows: int, rounds: int) -> dict[str, float]:
    """Microseconds of CPU a request by engine, the least of the rounds; engines must agree."""
    opened = ondevice.load(model, engine="native")
    request = request_of(opened, rows)
    (folder / "request.json").write_text(
        json.dumps({n: ids.tolist() for n, ids in request.items()})
    )
    expected = np.ravel(opened.predict(request))
    least = {"native": min(native(opened, request) for _ in range(rounds))}
    for _ in range(rounds):
        for name, (_, suffix, _) in ENGINES.items():
            file = model.with_suffix(suffix)
            if suffix != ".odm" and not ((folder / "node_modules").exists() and file.exists()):
                continue
            said = node(folder, name, file)
            np.testing.assert_allclose(said["scores"], expected, atol=TOLERANCE, err_msg=name)
            least[name] = min(said["us"], least.get(name, said["us"]))
    return least


def native(model: ondevice.Model, request: dict[str, np.ndarray]) -> float:
    """The native engine from Python: microseconds of CPU a request, the least of some windows."""
    least = float("inf")
    for _ in range(5):
        end, start, calls = time.perf_counter() + 0.1, time.process_time(), 0
        while time.perf_counter() < end:
            model.predict(request)
            calls += 1
        least = min(least, 1e6 * (time.process_time() - start) / calls)
    return least


def node(folder: Path, engine: str, model: Path) -> dict[str, Any]:
    """An engine in a fresh Node process: microseconds of CPU a request, and scores."""
    command = ("node", str(folder / f"{engine}.mjs"), str(folder), str(model),
               str(folder / "request.json"), str(ROUND_SECONDS))  # fmt: skip
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    said: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return said


def row(model: str, rows: int, times: Mapping[str, float]) -> str:
    """A line of the table; the last column is how many times as long the stock runtime takes."""
    cells = [f"{times[name]:,.1f}" if name in times else "-" for name in ("native", *ENGINES)]
    peer = times.get("onnxruntime-web")
    ratio = "-" if peer is None else f"{peer / times['with vectors']:.1f}"
    return f"| {model} | {rows} | {' | '.join(cells)} | {ratio} |"


def page(lines: Sequence[str], bounds: Sequence[str], args: argparse.Namespace) -> str:
    """The evidence, as Markdown."""
    versions = f"Node {said_by('node', '--version')}"
    if args.peers:
        package = args.peers / "node_modules" / "onnxruntime-web" / "package.json"
        versions += f", onnxruntime-web {json.loads(package.read_text('utf-8'))['version']}"
    return PAGE.format(
        versions=versions,
        rounds=args.rounds,
        lines="\n".join(lines),
        bounds="\n".join(bounds),
        header=" | ".join(("native", *ENGINES)),
    )


def said_by(*command: str) -> str:
    """What a program prints."""
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def write_network(path: Path, codec: str) -> Path:
    """A model of one table read by FIELDS inputs, and dense layers of a codec over it."""
    rng = np.random.default_rng(0)
    spec = full_spec(ROWS, DIM)
    quantised = quantise(rng.normal(size=(ROWS, DIM)).astype(np.float32), "q8")
    table, table_values = pack_records(quantised), quantised.dequantise()
    names = [f"i{i}" for i in range(FIELDS)]
    nodes = [Node("Lookup", (name,), (f"{name}.v",), {}, "t", spec) for name in names]
    nodes.append(Node("Concat", tuple(f"{name}.v" for name in names), ("x0",), {"axis": 1}))
    weights: dict[str, np.ndarray] = {}
    layers = []
    width = FIELDS * DIM
    for i, units in enumerate(SIZES):
        weight = (rng.normal(size=(width, units)) / width**0.5).astype(np.float32)
        bias = np.zeros(units, np.float32)
        nodes.append(dense(i, weight, bias, codec, weights))
        layers.append((weight, bias))
        width = units
    plan = Plan(
        tuple(names), (f"x{len(SIZES)}",), tuple(nodes), tuple(weights), {"t": table.layout}
    )
    inputs = tuple(InputSpec(name, id_limit=ROWS) for name in names)
    write_odm(path, plan, ModelInfo(inputs, plan.outputs), weights, {"t": table})
    write_onnx(path.with_suffix(".onnx"), names, table_values, layers)
    return path


def write_onnx(
    path: Path,
    names: Sequence[str],
    table: np.ndarray,
    layers: Sequence[tuple[np.ndarray, np.ndarray]],
) -> None:
    """The same network in float32, for stock runtimes."""
    make, array = onnx.helper, onnx.numpy_helper.from_array
    weights = [array(table, "t")]
    nodes = [make.make_node("Gather", ["t", name], [f"{name}.v"]) for name in names]
    nodes.append(make.make_node("Concat", [f"{name}.v" for name in names], ["x0"], axis=1))
    for i, (weight, bias) in enumerate(layers):
        last = i + 1 == len(layers)
        weights += [array(weight, f"w{i}"), array(bias, f"b{i}")]
        out = f"x{i + 1}" if last else f"y{i}"
        nodes.append(make.make_node("Gemm", [f"x{i}", f"w{i}", f"b{i}"], [out]))
        if not last:
            nodes.append(make.make_node("Relu", [out], [f"x{i + 1}"]))
    kinds = onnx.TensorProto
    inputs = [make.make_tensor_value_info(name, kinds.INT64, ["batch"]) for name in names]
    outputs = [make.make_tensor_value_info(f"x{len(layers)}", kinds.FLOAT, ["batch", 1])]
    graph = make.make_graph(nodes, "network", inputs, outputs, weights)
    model = make.make_model(graph, opset_imports=[make.make_opsetid("", 21)], ir_version=10)
    onnx.save(model, path)


def dense(
    number: int, weight: np.ndarray, bias: np.ndarray, codec: str, weights: dict[str, np.ndarray]
) -> Node:
    """The dense layer x{number} -> x{number + 1}; its packed arrays are added to `weights`."""
    packed = pack_dense(weight, bias, codec)
    parts = {"weight": packed.weight, "bias": packed.bias}
    if packed.scale is not None:
        parts["scale"] = packed.scale
    weights.update({f"d{number}.{part}": array for part, array in parts.items()})
    features, units = weight.shape
    attributes = {"codec": codec, "features": features, "units": units,
                  "relu": int(number + 1 < len(SIZES))}  # fmt: skip
    sources = (f"x{number}", *(f"d{number}.{part}" for part in parts))
    return Node("Dense", sources, (f"x{number + 1}",), attributes)


if __name__ == "__main__":
    main()
