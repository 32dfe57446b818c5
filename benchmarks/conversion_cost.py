"""What converting costs beside the tables: imports, torch's export, verification, and the rest.

    python benchmarks/conversion_cost.py [--fields 26 100 300] [--layer plain codes]

A model of many small fields, whose tables take no time, is converted to all targets with q8 tables
and layers, in a new process with one thread for each number of fields. Process CPU seconds:

- imports: of torch, the converter, ONNX Runtime and LiteRT, and what torch's exporter loads at its
  first use, before anything is converted
- torch: `torch.onnx.export` by itself on the same module, without the converter
- export: the same inside the converter, with what it adds to it
- verification: every written file against torch, in every runtime
- rest: all that is left of the conversion; "own" is the rest and what the export costs more
"""

from __future__ import annotations

import argparse
import functools
import importlib
import json
import subprocess
import sys
import tempfile
import time
from typing import Any

DIM, HIDDEN, ROWS, CODE_BITS, T = 16, 64, 1000, 20, 7
LAYERS = ("plain", "codes")
COLUMNS = ("imports", "torch", "export", "verification", "rest", "own")


def measure_one(fields: int, layer: str) -> dict[str, float]:
    """CPU seconds of each phase, in this process."""
    start = time.process_time()
    import ai_edge_litert.interpreter  # noqa: F401
    import onnxruntime  # noqa: F401
    import torch

    from ondevice.converters import convert

    seconds: dict[str, float] = {}
    torch.set_num_threads(1)
    exported_by_torch(*network(1, layer))
    seconds["imports"] = time.process_time() - start
    module, example = network(fields, layer)
    start = time.process_time()
    exported_by_torch(module, example)
    seconds["torch"] = time.process_time() - start
    conversion = importlib.import_module("ondevice.converters.convert")
    timed(conversion, "measure_file", seconds, "verification")
    timed(torch.onnx, "export", seconds, "export")
    with tempfile.TemporaryDirectory() as folder:
        start = time.process_time()
        convert(module, (example,), folder, tables="q8", dense="q8")
        total = time.process_time() - start
    seconds["rest"] = total - seconds["export"] - seconds["verification"]
    seconds["own"] = seconds["rest"] + seconds["export"] - seconds["torch"]
    return seconds


def exported_by_torch(module: Any, example: dict[str, Any]) -> None:
    """What the converter asks of torch, without the converter."""
    import torch

    batch = {name: {0: torch.export.Dim.DYNAMIC} for name in example}
    torch.onnx.export(
        module, (example, {}), dynamo=True, opset_version=21, dynamic_shapes=(batch,),
        optimize=False, verbose=False,
    )  # fmt: skip


def timed(owner: Any, name: str, seconds: dict[str, float], phase: str) -> None:
    """Let a function of a module add its CPU time to a phase."""
    function = getattr(owner, name)

    @functools.wraps(function)
    def run(*args: Any, **kwargs: Any) -> Any:
        start = time.process_time()
        try:
            return function(*args, **kwargs)
        finally:
            seconds[phase] = seconds.get(phase, 0.0) + time.process_time() - start

    setattr(owner, name, run)


def network(fields: int, layer: str) -> tuple[Any, dict[str, Any]]:
    """A module of concatenated vectors and two layers, and its example inputs."""
    import torch
    from torch import nn

    from ondevice.models import BinaryCodeEmbedding

    def table() -> nn.Module:
        return (
            nn.Embedding(ROWS, DIM) if layer == "plain" else BinaryCodeEmbedding(DIM, CODE_BITS, T)
        )

    class Network(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.tables = nn.ModuleDict({f"f{number}": table() for number in range(fields)})
            self.mlp = nn.Sequential(
                nn.Linear(fields * DIM, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, 1)
            )

        def forward(self, ids: dict[str, torch.Tensor]) -> torch.Tensor:
            vectors = [self.tables[name](values) for name, values in ids.items()]
            return torch.sigmoid(self.mlp(torch.cat(vectors, 1))).squeeze(-1)

    return Network().eval(), {f"f{number}": torch.arange(1, 5) for number in range(fields)}


def main() -> None:
    """Measure every case in a new process and print a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--fields", type=int, nargs="+", default=[26, 100, 300])
    parser.add_argument("--layer", choices=LAYERS, nargs="+", default=list(LAYERS))
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        print(json.dumps(measure_one(int(args.one[0]), args.one[1])))
        return
    print(f"| layer | fields | {' | '.join(COLUMNS)} |")
    print("|---|---|" + "---|" * len(COLUMNS))
    for layer in args.layer:
        for fields in args.fields:
            command = [sys.executable, __file__, "--one", str(fields), layer]
            output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
            seconds = json.loads(output.splitlines()[-1])
            cells = " | ".join(f"{seconds[column]:.2f}" for column in COLUMNS)
            print(f"| {layer} | {fields} | {cells} |", flush=True)


if __name__ == "__main__":
    main()
