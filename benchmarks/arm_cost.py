"""ARM cost without a board: executed instructions per request, and estimated cycles of two loops.

The first model is that of latency.py (26 fields x 16, binary codes, cut q8 rows, MLP 400-400-400),
where the stock runtimes get their best form; the others are networks of topologies.py, where LiteRT
gets the file that `convert` writes. A counting plugin of the emulator sees every instruction of a
whole Python call, in an unpacked Debian userland with the project's own ARM wheel: counts are exact
and repeat; emulated time is not measured. Cycles come from llvm-mca's model of a cortex-a76:
estimates, without cache misses.

    python benchmarks/arm_cost.py [--json FILE] [--processor cortex-a76] [--batch 1 128]
        [--only "MLP, codes" "DIN 50" GRU AutoInt]

Needs what tests/arm needs, with qemu-aarch64 of the package qemu-user, and llvm-mca if present.
"""

from __future__ import annotations

import argparse
import importlib.util
import itertools
import json
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import latency
import numpy as np
import topologies
import torch

from ondevice.converters import convert

ROOT = Path(__file__).parents[1]
ARM = ROOT / "tests" / "arm"
RELEASE = ROOT / "release"
NATIVE = ROOT / "ondevice" / "native"
BUILD = ROOT / "build" / "arm"
AGREE = 0.15  # q8: each runtime quantises activations in its own way
REQUESTS = 10  # counted twice as often, and the difference taken: the harness cancels out

CODES = "MLP, codes"  # the model of latency.py
TOPOLOGIES = ("DIN 50", "GRU", "AutoInt")

GUEST = """
import ctypes, sys
import numpy as np
engine, path, request = sys.argv[1], sys.argv[2], dict(np.load(sys.argv[3]))
if engine == "native":
    import ondevice
    model = ondevice.load(path, engine="native")
    run = lambda: model.predict(request)
else:
    if engine == "litert":
        from ai_edge_litert.interpreter import Interpreter
    else:
        from tflite_runtime.interpreter import Interpreter
    interpreter = Interpreter(model_path=path, num_threads=1)
    places = [(item["index"], request[item["name"]] if len(request) > 1 else [*request.values()][0])
              for item in interpreter.get_input_details()]
    for index, values in places:
        interpreter.resize_tensor_input(index, values.shape)
    interpreter.allocate_tensors()
    target = interpreter.get_output_details()[0]["index"]
    def run():
        for index, values in places:
            interpreter.set_tensor(index, values)
        interpreter.invoke()
        return interpreter.get_tensor(target)
mark = ctypes.CDLL(None).syscall
for _ in range(3):
    out = run()
for count in (int(sys.argv[5]), 2 * int(sys.argv[5])):
    mark(0x7001, count)
    for _ in range(count):
        run()
    mark(0x7001, count)
np.save(sys.argv[4], np.asarray(out).reshape(-1))
"""


def load(path: Path) -> ModuleType:
    """Import a file that belongs to no package."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def installed(name: str, packages: list[str], platforms: list[str]) -> Path:
    """Packages for the userland's Python, in a separate folder."""
    target = BUILD / name
    if not (target / ".installed").exists():
        subprocess.run(
            [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--upgrade",
             "--target", str(target), "--python-version=3.11", "--only-binary=:all:",
             *(f"--platform={platform}_aarch64" for platform in platforms), *packages], check=True,
        )  # fmt: skip
        (target / ".installed").touch()
    return target


def guest_setup() -> tuple[Path, list[Path]]:
    """The userland's root, and the folders to import from: wheel, LiteRT, tflite-runtime."""
    userland, wheels = load(RELEASE / "userland.py"), load(RELEASE / "arm_wheels.py")
    root = userland.unpack("arm64", BUILD / "arm64")
    site = BUILD / "site-benchmark"
    shutil.rmtree(site, ignore_errors=True)
    wheel = wheels.build("aarch64", root, BUILD / "wheel-benchmark")
    installed("site-benchmark", [str(wheel)], ["manylinux_2_17"])
    folders = [
        site,
        installed("stock-litert", ["ai-edge-litert==2.1.2", "flatbuffers", "backports.strenum",
                                   "typing_extensions"], ["manylinux_2_27", "manylinux_2_28"]),
        installed("stock-legacy", ["tflite-runtime==2.14.0"], ["manylinux_2_34"]),
    ]  # fmt: skip
    return root, folders


def count(root: Path, folders: list[Path], plugin: Path, processor: str, work: Path,
          case: Case) -> tuple[float, np.ndarray]:  # fmt: skip
    """Instructions of one request, and its scores."""
    request = work / "request.npz"
    np.savez(request, **case.request)
    libraries = root / "usr" / "lib" / "aarch64-linux-gnu"
    emulator = shutil.which("qemu-aarch64")
    if emulator is None:
        raise SystemExit("not installed: qemu-aarch64 (package qemu-user)")
    log, out = work / "count.log", work / "out.npy"
    paths = [f"{libraries}/{name}" for name in ("blas", "lapack", "")]
    completed = subprocess.run(
        [emulator, "-cpu", processor, "-plugin", f"{plugin},out={log}", "-L", str(root),
         "-E", f"LD_LIBRARY_PATH={':'.join(paths)}", "-E", "OMP_NUM_THREADS=1",
         # without a fixed seed, dictionaries and so counts would differ from run to run
         "-E", "PYTHONHASHSEED=0", "-E", f"PYTHONPATH={':'.join(map(str, folders))}",
         str(root / "usr" / "bin" / "python3.11"), "-P", "-c", GUEST, case.engine, str(case.model),
         str(request), str(out), str(REQUESTS)], capture_output=True, text=True,
    )  # fmt: skip
    if completed.returncode:
        raise SystemExit(f"{case.engine} failed under emulation: {completed.stderr[-500:]}")
    marks = [int(line.split()[2]) for line in log.read_text().splitlines() if "MARK" in line]
    return ((marks[3] - marks[2]) - (marks[1] - marks[0])) / REQUESTS, np.load(out)


def hottest_loop(assembly: str, opcode: str) -> str:
    """The innermost loop with the most uses of an opcode."""
    blocks = re.split(r"^(\.L\w+):", assembly, flags=re.MULTILINE)
    best, most_uses = "", 0
    for label, body in zip(blocks[1::2], blocks[2::2], strict=True):
        lines = [line for line in body.splitlines() if re.match(r"\t[a-z]", line)]
        ends = [i for i, x in enumerate(lines) if re.search(rf"^\tb\S*\t.*{re.escape(label)}$", x)]
        uses = sum(line.split()[0] == opcode for line in lines[: ends[0]]) if ends else 0
        if uses > most_uses:
            best, most_uses = "\n".join(lines[: ends[0] + 1]), uses
    return f".Lloop:\n{re.sub(r'.L[0-9]+$', '.Lloop', best)}\n"


def estimates(work: Path) -> dict[str, dict[str, float]]:
    """llvm-mca on the hottest loop of the int8 product and of the row reader."""
    tool, compiler = shutil.which("llvm-mca"), shutil.which("aarch64-linux-gnu-gcc")
    if tool is None or compiler is None:
        return {}
    assembly = work / "kernels.s"
    figures = {}
    for name, opcode, kernels in (
        ("int8 product, per step", "sdot", "neon_dotprod.c"),
        ("q8 row, per step", "scvtf", "neon.c"),
    ):
        subprocess.run(
            [compiler, "-std=c11", "-O2", "-ftree-vectorize", "-fvect-cost-model=dynamic",
             "-ffp-contract=off", f"-I{NATIVE}", f"-I{NATIVE / 'include'}", "-S",
             NATIVE / "kernels" / kernels, "-o", assembly], check=True,
        )  # fmt: skip
        loop = hottest_loop(assembly.read_text(), opcode)
        if opcode not in loop:  # the compiler made no loop of one block
            continue
        completed = subprocess.run(
            [tool, "-mtriple=aarch64", "-mcpu=cortex-a76", "-mattr=+dotprod", "-iterations=100"],
            input=loop, capture_output=True, text=True, check=True,
        )  # fmt: skip
        values = dict(re.findall(r"^([\w ]+): +([\d.]+)$", completed.stdout, re.MULTILINE))
        figures[name] = {
            "instructions": float(values["Instructions"]) / 100,
            opcode: float(sum(line.split()[:1] == [opcode] for line in loop.splitlines())),
            "estimated_cycles": float(values["Total Cycles"]) / 100,
        }
    return figures


class Case(NamedTuple):
    """A file, the runtime that opens it, and the inputs of a request by name."""

    engine: str
    model: Path
    request: dict[str, np.ndarray]


def codes_cases(batch: int, work: Path) -> dict[str, Case]:
    """The model of latency.py; the native file is written only once.

    Args:
        batch: rows of the request.
        work: folder for the files.
    """
    ids = np.random.default_rng(1).integers(0, 1_000_000, (batch, latency.FIELDS))
    fields = {f"f{i}": np.ascontiguousarray(ids[:, i]) for i in range(ids.shape[1])}
    native = work / "model.odm"
    torch.manual_seed(0)
    network = latency.Network().eval()
    if not native.exists():
        example = {name: torch.from_numpy(values[:1].repeat(4)) for name, values in fields.items()}
        convert(network, (example,), work, targets=("odm",), dense="q8", name="model")
    files = {kind: work / f"{kind}.tflite" for kind in ("float", "int8")}
    for kind, file in files.items():
        latency.write_tflite(network, file, batch, integer=kind == "int8")
    matrix = {"ids": ids}
    return {
        "native q8": Case("native", native, fields),
        "litert int8": Case("litert", files["int8"], matrix),
        "litert float": Case("litert", files["float"], matrix),
        # its int8 layers with a scale per unit are silently wrong: float only
        "tflite-runtime float": Case("tflite-runtime", files["float"], matrix),
    }


def topology_cases(name: str, batch: int, work: Path) -> dict[str, Case]:
    """A network of topologies.py in q8 and in f32: the native file and LiteRT's."""
    request = topologies.TOPOLOGIES[name].request(np.random.default_rng(1), batch)
    cases = {}
    for precision in topologies.PRECISIONS:
        files = topologies.converted(name, precision, work)
        cases[f"native {precision}"] = Case("native", files / "model.odm", request)
        cases[f"litert {precision}"] = Case("litert", files / "model.tflite", request)
    return cases


def native_of(label: str, counts: dict[str, float]) -> float:
    """The native count of the same precision; of q8 where there is no other."""
    return counts.get(f"native {label.split()[-1]}", counts["native q8"])


def print_counts(title: str, processor: str, counts: dict[str, float]) -> None:
    """A line for each runtime."""
    print(f"\n{title}: executed instructions per request, {processor}", flush=True)
    for label, value in counts.items():
        print(f"  {label:22} {value:14,.0f}   {value / native_of(label, counts):6.2f}x native")


def count_all(
    cases: dict[str, Case], root: Path, folders: list[Path], plugin: Path, processor: str,
    work: Path,
) -> dict[str, float]:  # fmt: skip
    """Instructions of every case; all must agree on the scores."""
    counts, expected = {}, None
    for label, case in cases.items():
        counts[label], scores = count(root, folders, plugin, processor, work, case)
        expected = scores if expected is None else expected
        assert np.abs(scores - expected).max() < AGREE, label
    return counts


def main() -> None:
    """Build the files, count, print the table, write the JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    models = (CODES, *TOPOLOGIES)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--processor", default="cortex-a76", help="of the emulator")
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 128])
    parser.add_argument("--only", nargs="+", choices=models, default=models)
    args = parser.parse_args()
    torch.set_num_threads(1)
    root, folders = guest_setup()
    report: dict[str, Any] = {"processor": args.processor, "instructions": {}, "ratios": {}}
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        plugin = work / "libcount.so"
        subprocess.run(
            ["gcc", "-O2", "-shared", "-fPIC", ARM / "count_instructions.c", "-o", plugin],
            check=True,
        )
        for model, batch in itertools.product(args.only, args.batch):
            cases = (
                codes_cases(batch, work) if model == CODES else topology_cases(model, batch, work)
            )
            counts = count_all(cases, root, folders, plugin, args.processor, work)
            title = f"{model}, batch {batch}"
            report["instructions"][title] = counts
            report["ratios"][title] = {
                label: value / native_of(label, counts) for label, value in counts.items()
            }
            print_counts(title, args.processor, counts)
        report["estimates"] = estimates(work)
    print("\nestimates of llvm-mca for a cortex-a76, not measurements:")
    for loop, values in report["estimates"].items():
        print(f"  {loop}: " + ", ".join(f"{key} {value:g}" for key, value in values.items()))
    if args.json:
        args.json.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
