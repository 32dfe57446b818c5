"""ARM cost without a board: executed instructions per request, and estimated cycles of two loops.

The model is that of latency.py (26 fields x 16, binary codes, cut q8 rows, MLP 400-400-400). A
counting plugin of the emulator sees every instruction of a whole Python call, in an unpacked Debian
userland with the project's own ARM wheel: counts are exact and repeat; emulated time is not
measured. The stock runtimes get their best form (see latency.py). Cycles come from llvm-mca's
model of a cortex-a76: estimates, without cache misses.

    python benchmarks/arm_cost.py [--json FILE] [--processor cortex-a76] [--batch 1 128]

Needs what tests/arm needs, with qemu-aarch64 of the package qemu-user, and llvm-mca if present.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch

from ondevice.converters import convert

ROOT = Path(__file__).parents[1]
ARM = ROOT / "tests" / "arm"
NATIVE = ROOT / "ondevice" / "native"
BUILD = ROOT / "build" / "arm"
REQUESTS = 10  # counted twice as often, and the difference taken: the harness cancels out

GUEST = """
import ctypes, sys
import numpy as np
engine, path, ids = sys.argv[1], sys.argv[2], np.load(sys.argv[3])
if engine == "native":
    import ondevice
    model = ondevice.load(path, engine="native")
    request = {f"f{i}": np.ascontiguousarray(ids[:, i]) for i in range(ids.shape[1])}
    run = lambda: model.predict(request)
else:
    if engine == "litert":
        from ai_edge_litert.interpreter import Interpreter
    else:
        from tflite_runtime.interpreter import Interpreter
    interpreter = Interpreter(model_path=path, num_threads=1)
    interpreter.allocate_tensors()
    source = interpreter.get_input_details()[0]["index"]
    target = interpreter.get_output_details()[0]["index"]
    def run():
        interpreter.set_tensor(source, ids)
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
    userland, wheels = load(ARM / "userland.py"), load(ARM / "wheels.py")
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
          engine: str, model: Path, ids: Path) -> tuple[float, np.ndarray]:  # fmt: skip
    """Instructions of one request, and its scores."""
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
         str(root / "usr" / "bin" / "python3.11"), "-P", "-c", GUEST, engine, str(model), str(ids),
         str(out), str(REQUESTS)], capture_output=True, text=True,
    )  # fmt: skip
    if completed.returncode:
        raise SystemExit(f"{engine} failed under emulation: {completed.stderr[-500:]}")
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
    subprocess.run(
        [compiler, "-std=c11", "-O2", "-ftree-vectorize", "-fvect-cost-model=dynamic",
         "-ffp-contract=off", f"-I{NATIVE}", f"-I{NATIVE / 'include'}", "-S",
         NATIVE / "kernels/neon_dotprod.c", "-o",
         assembly], check=True,
    )  # fmt: skip
    figures = {}
    for name, opcode in (("int8 product, per step", "sdot"), ("q8 row, per step", "scvtf")):
        loop = hottest_loop(assembly.read_text(), opcode)
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


def write_models(
    network: torch.nn.Module, ids: np.ndarray, work: Path, latency: ModuleType
) -> dict[str, tuple[str, Path]]:
    """Engine and file of each runtime for one batch; the native file is written only once.

    Args:
        network: the model of `latency`.
        ids: int64 [batch, fields].
        work: folder for the files.
        latency: the benchmark of that name, as a module.
    """
    native = work / "model.odm"
    if not native.exists():
        example = {f"f{i}": torch.from_numpy(ids[:1, i].repeat(4)) for i in range(ids.shape[1])}
        convert(network, (example,), work, targets=("odm",), dense="q8", name="model")
    files = {kind: work / f"{kind}.tflite" for kind in ("float", "int8")}
    for kind, file in files.items():
        latency.write_tflite(network, file, len(ids), integer=kind == "int8")
    return {
        "native q8": ("native", native),
        "litert int8": ("litert", files["int8"]),
        "litert float": ("litert", files["float"]),
        # its int8 layers with a scale per unit are silently wrong: float only
        "tflite-runtime float": ("tflite-runtime", files["float"]),
    }


def print_counts(batch: int, processor: str, counts: dict[str, float]) -> None:
    """A line for each runtime."""
    print(f"\nbatch {batch}: executed instructions per request, {processor}")
    for label, value in counts.items():
        print(f"  {label:22} {value:14,.0f}   {value / counts['native q8']:6.2f}x native")


def main() -> None:
    """Build the files, count, print the table, write the JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--json", type=Path)
    parser.add_argument("--processor", default="cortex-a76", help="of the emulator")
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 128])
    args = parser.parse_args()
    torch.set_num_threads(1)
    sys.path.insert(0, str(Path(__file__).parent))
    import latency

    root, folders = guest_setup()
    network = latency.Network().eval()
    report: dict[str, Any] = {"processor": args.processor, "instructions": {}, "ratios": {}}
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        plugin = work / "libcount.so"
        subprocess.run(
            ["gcc", "-O2", "-shared", "-fPIC", ARM / "count_instructions.c", "-o", plugin],
            check=True,
        )
        rng = np.random.default_rng(1)
        for batch in args.batch:
            ids = rng.integers(0, 1_000_000, (batch, latency.FIELDS))
            np.save(work / "ids.npy", ids)
            counts, scores = {}, {}
            for label, (engine, model) in write_models(network, ids, work, latency).items():
                counts[label], scores[label] = count(
                    root, folders, plugin, args.processor, work, engine, model, work / "ids.npy"
                )
                assert np.abs(scores[label] - scores["native q8"]).max() < 0.02, label
            stock = min(value for label, value in counts.items() if "native" not in label)
            report["instructions"][f"batch{batch}"] = counts
            report["ratios"][f"batch{batch}"] = stock / counts["native q8"]
            print_counts(batch, args.processor, counts)
        report["estimates"] = estimates(work)
    print("\nestimates of llvm-mca for a cortex-a76, not measurements:")
    for loop, values in report["estimates"].items():
        print(f"  {loop}: " + ", ".join(f"{key} {value:g}" for key, value in values.items()))
    if args.json:
        args.json.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
