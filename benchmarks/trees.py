"""Latency of a tree ensemble in every target against ONNX Runtime on the given file, one thread.

The model: gradient boosting of two classes as exporters write it (TreeEnsembleClassifier), 100
complete trees of depth 6 over 30 features. Thresholds and scores are random: every row takes a path
of its own. Times are from Python call to Python result, in interleaved bursts over changing rows.

    python benchmarks/trees.py [--trees 100] [--depth 6]
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper

import ondevice
from ondevice.converters.convert import convert

FEATURES = 30
BATCHES = (1, 128)
ROUNDS, BURST_SECONDS = 15, 0.1
ROWS = 20_000


def main() -> None:
    """Convert the model, and print a line of times for each way to run it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trees", type=int, default=100)
    parser.add_argument("--depth", type=int, default=6)
    args = parser.parse_args()
    rng = np.random.default_rng(0)
    x = rng.normal(size=(ROWS, FEATURES)).astype(np.float32)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        given = folder / "given.onnx"
        onnx.save(boosting(args.trees, args.depth, rng), given)
        report = convert(given, {"x": x[:100]}, folder)
        calls = runners(folder, given)
        for batch in BATCHES:
            times = measured(calls, x, batch)
            for form, seconds in times.items():
                micros = statistics.median(seconds) * 1e6
                print(f"batch {batch:4}  {form:24} p50 {micros:9.1f} us")
        for target, item in report.targets.items():
            print(f"{target:7} {item.bytes:,} bytes, largest difference {item.max_difference:.1e}")


def boosting(trees: int, depth: int, rng: np.random.Generator) -> onnx.ModelProto:
    """A TreeEnsembleClassifier of complete trees, whose nodes are numbered level by level."""
    branches, count = 2**depth - 1, 2 ** (depth + 1) - 1
    number = np.tile(np.arange(count), trees)
    is_branch = number < branches
    leaves = np.flatnonzero(~is_branch)
    tree = np.repeat(np.arange(trees), count)
    attributes: dict[str, Any] = {
        "nodes_treeids": tree,
        "nodes_nodeids": number,
        "nodes_featureids": rng.integers(0, FEATURES, trees * count),
        "nodes_values": rng.normal(size=trees * count) / 2,
        "nodes_truenodeids": np.where(is_branch, 2 * number + 1, 0),
        "nodes_falsenodeids": np.where(is_branch, 2 * number + 2, 0),
        "class_treeids": tree[leaves],
        "class_nodeids": number[leaves],
        "class_ids": np.zeros(len(leaves), np.int64),
        "class_weights": rng.normal(size=len(leaves)) / 10,
    }
    node = helper.make_node(
        "TreeEnsembleClassifier",
        ["x"],
        ["label", "scores"],
        domain="ai.onnx.ml",
        nodes_modes=["BRANCH_LEQ" if item else "LEAF" for item in is_branch],
        classlabels_int64s=[0, 1],
        post_transform="LOGISTIC",
        **{name: array.tolist() for name, array in attributes.items()},
    )
    shape = [None, FEATURES]
    graph = helper.make_graph(
        [node],
        "boosting",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, None)],
    )
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("ai.onnx.ml", 3)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=9)


def runners(folder: Path, given: Path) -> dict[str, Callable[[dict[str, Any]], Any]]:
    """What runs the model, by name: the written files, and ONNX Runtime on the given file."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(str(given), options)
    odm = ondevice.load(folder / "model.odm")
    return {
        "native, .odm": odm.predict,
        "ONNX Runtime, given file": lambda values: session.run(None, values),
        "ONNX Runtime, .onnx": ondevice.load(folder / "model.onnx").predict,
        "LiteRT, .tflite": ondevice.load(folder / "model.tflite").predict,
        "numpy, .odm": ondevice.load(folder / "model.odm", engine="numpy").predict,
    }


def measured(
    calls: dict[str, Callable[[dict[str, Any]], Any]], x: np.ndarray, batch: int
) -> dict[str, list[float]]:
    """Seconds of calls by name, in bursts that take turns."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    start = 0
    for _ in range(ROUNDS):
        for name, call in calls.items():
            end = time.perf_counter() + BURST_SECONDS
            while time.perf_counter() < end:
                start = (start + batch) % (ROWS - batch)
                rows = {"x": x[start : start + batch]}
                begun = time.perf_counter()
                call(rows)
                times[name].append(time.perf_counter() - begun)
    return times


if __name__ == "__main__":
    main()
