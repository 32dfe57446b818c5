"""Latency of the engine in Node, with vectors and without, beside the native engine, one thread.

The models: a file given with --model, and dense layers 384-1024-512-1, in q8 and in f32, over one
q8 table. Each engine runs in rounds by turns; the least round of each counts, so that other work of
the machine counts least.

    python benchmarks/web_latency.py [--model MODEL.odm] [--rounds 5]
"""

from __future__ import annotations

import argparse
import json
import subprocess
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

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
ROUND_SECONDS = 0.3
SIZES = (1024, 512, 1)
FIELDS, DIM, ROWS = 24, 16, 10_000  # 384 features

SCRIPT = """
const [script, file, wasm, rows, seconds] = process.argv.slice(2);
const { load } = await import(script);
const model = await load(file, { wasm });
const ids = (input) => [input.name, new Int32Array(rows * input.size)];
const request = Object.fromEntries(model.inputs.map(ids));
let calls = 0;
const measure = (limit) => {
  const start = performance.now();
  for (calls = 0; performance.now() - start < limit; calls++) model.predict(request);
  return (1000 * (performance.now() - start)) / calls;
};
measure(200);
console.log(JSON.stringify({ kernels: model.kernels, us: measure(1000 * seconds) }));
"""


def main() -> None:
    """Measure and print the least time of each model, batch and engine."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", type=Path)
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        build(folder)
        (folder / "measure.mjs").write_text(SCRIPT, "utf-8")
        models = [*([args.model] if args.model else [])]
        models += [write_network(folder / f"384-1024-512-1-{codec}.odm", codec)
                   for codec in ("q8", "f32")]  # fmt: skip
        for model in models:
            for batch in BATCHES:
                times = measured(folder, model, batch, args.rounds)
                line = "  ".join(f"{engine} {us:8.1f} us" for engine, us in times.items())
                print(f"{model.stem:20} batch {batch:3}  {line}")


def write_network(path: Path, codec: str) -> Path:
    """A model of one table read by FIELDS inputs, and dense layers of a codec over it."""
    rng = np.random.default_rng(0)
    spec = full_spec(ROWS, DIM)
    table = pack_records(quantise(rng.normal(size=(ROWS, DIM)).astype(np.float32), "q8"))
    names = [f"i{i}" for i in range(FIELDS)]
    nodes = [Node("Lookup", (name,), (f"{name}.v",), {}, "t", spec) for name in names]
    nodes.append(Node("Concat", tuple(f"{name}.v" for name in names), ("x0",), {"axis": 1}))
    weights: dict[str, np.ndarray] = {}
    width = FIELDS * DIM
    for i, units in enumerate(SIZES):
        weight = (rng.normal(size=(width, units)) / width**0.5).astype(np.float32)
        bias = np.zeros(units, np.float32)
        nodes.append(dense(i, weight, bias, codec, weights))
        width = units
    plan = Plan(
        tuple(names), (f"x{len(SIZES)}",), tuple(nodes), tuple(weights), {"t": table.layout}
    )
    inputs = tuple(InputSpec(name, id_limit=ROWS) for name in names)
    write_odm(path, plan, ModelInfo(inputs, plan.outputs), weights, {"t": table})
    return path


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


def measured(folder: Path, model: Path, rows: int, rounds: int) -> dict[str, float]:
    """Microseconds of a request by engine: the least of the rounds."""
    least: dict[str, float] = {}
    for _ in range(rounds):
        times = [native(model, rows)]
        times += [node(folder, model, wasm, rows) for wasm in ("ondevice", "ondevice-plain")]
        for engine, us in times:
            least[engine] = min(us, least.get(engine, us))
    return least


def native(path: Path, rows: int) -> tuple[str, float]:
    """The native engine from Python: its name, and microseconds of a request."""
    model = ondevice.load(path, engine="native")
    request = {
        item.name: np.zeros((rows, *item.shape[1:]), np.int64)
        for item in model.inputs
    }  # fmt: skip
    for seconds in (0.2, ROUND_SECONDS):  # the first warms up
        start, calls = time.perf_counter(), 0
        while (took := time.perf_counter() - start) < seconds:
            model.predict(request)
            calls += 1
    return "native", 1e6 * took / calls


def node(folder: Path, model: Path, wasm: str, rows: int) -> tuple[str, float]:
    """An engine in a fresh Node process: the kernels' name, and microseconds of a request."""
    command: Sequence[str] = (
        *("node", str(folder / "measure.mjs"), str(folder / "ondevice.js"), str(model)),
        *(str(folder / f"{wasm}.wasm"), str(rows), str(ROUND_SECONDS)),
    )
    said = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    return said["kernels"], said["us"]


if __name__ == "__main__":
    main()
