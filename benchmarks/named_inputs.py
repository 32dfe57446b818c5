"""The .onnx and .tflite that `convert` writes beside files made by hand, with the same inputs.

The network of latency.py in q8: 26 fields x 16, binary codes in three blocks, truncated tables,
416-400-400-400-1. By hand: one int8 table with a scale a row, one gather, rows that are not
truncated; with one matrix of IDs as input, and with an input for each field. A runtime charges for
every input, so each file of `convert` is compared with the one that has the same inputs. Process
CPU time of a call, least mean of interleaved bursts, one thread.

    python benchmarks/named_inputs.py [--batch 1 128] [--seconds 1] [--core N]
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import latency
import numpy as np
import topologies
import torch
from onnxruntime.quantization import QuantType, quantize_dynamic
from topology_peers import Call, litert_call, onnx_call

from ondevice.converters import convert

FORMS = ("matrix", "named")
TOLERANCE = 0.02  # of a probability: each runtime quantises activations in its own way


def written(folder: Path, batches: list[int]) -> None:
    """All files: "convert FORM", and "hand FORM" of which .tflite files are for one batch."""
    network = latency.Network().eval()
    example = {f"f{field}": torch.arange(1, 5) for field in range(latency.FIELDS)}
    for form in FORMS:
        convert(network, (example,), folder, name=f"convert {form}", targets=("onnx", "tflite"),
                tables="q8", dense="q8", inputs=form)  # type: ignore[arg-type] # fmt: skip
        named = form == "named"
        plain, path = folder / "float.onnx", folder / f"hand {form}.onnx"
        latency.write_onnx(network, plain, compressed=True, named=named)
        quantize_dynamic(plain, path, weight_type=QuantType.QInt8, per_channel=True,
                         op_types_to_quantize=["MatMul"])  # fmt: skip
        for batch in batches:
            path = folder / f"hand {form} {batch}.tflite"
            latency.write_tflite(network, path, batch, integer=True, compressed=True, named=named)


def calls_of(folder: Path, batch: int) -> dict[str, Call]:
    """Calls on the same rows by runtime, maker and form; all must agree."""
    rng = np.random.default_rng(1)
    matrix = rng.integers(0, 2**62, (batch, latency.FIELDS))
    columns = {f"f{i}": np.ascontiguousarray(matrix[:, i]) for i in range(latency.FIELDS)}
    by_hand = {name: values[:, None] for name, values in columns.items()}
    calls: dict[str, Call] = {}
    for form in FORMS:
        ours = {"ids": matrix} if form == "matrix" else columns
        hand = {"ids": matrix} if form == "matrix" else by_hand
        calls |= {
            f"onnx convert {form}": onnx_call(folder / f"convert {form}.onnx", ours),
            f"onnx hand {form}": onnx_call(folder / f"hand {form}.onnx", hand),
            f"tflite convert {form}": litert_call(folder / f"convert {form}.tflite", ours),
            f"tflite hand {form}": litert_call(folder / f"hand {form} {batch}.tflite", hand),
        }
    expected = calls["onnx hand matrix"]()
    for name, call in calls.items():
        worst = float(np.abs(call() - expected).max())
        assert worst < TOLERANCE, (name, worst)
    return calls


def main() -> None:
    """Write, check, measure, and print a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 128])
    parser.add_argument("--seconds", type=float, default=1.0)
    parser.add_argument("--core", type=int)
    args = parser.parse_args()
    topologies.pin(args.core)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        written(folder, args.batch)
        times = {
            batch: topologies.measure(calls_of(folder, batch), args.seconds) for batch in args.batch
        }
    print(f"| file, inputs | {' | '.join(f'batch {b}' for b in args.batch)} |")
    print("|---|" + "---|" * len(args.batch))
    for kind in ("tflite", "onnx"):
        for form in FORMS:
            for maker in ("hand", "convert"):
                cells = []
                for batch in args.batch:
                    time = times[batch][f"{kind} {maker} {form}"]["cpu"]
                    over = time / times[batch][f"{kind} hand {form}"]["cpu"]
                    cells.append(f"{time:.1f}" + (f" ({over:.2f})" if maker == "convert" else ""))
                print(f"| .{kind}, {form}, {maker} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
