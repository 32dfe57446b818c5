"""The bound of a large network's request in WebAssembly: bare loops over its weights.

web_latency.py calls it. Each loop of web_floor.c runs in Node (CPU time), in headless Chromium (its
clock, so that other work of the machine counts) and natively, with the same vectors of 16 bytes;
the least of many windows counts.
"""

from __future__ import annotations

import base64
import json
import re
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx

SOURCE = Path(__file__).with_name("web_floor.c")
ANYWHERE = 1 << 22  # reach of a loop that reads weights from where they lie
NEAR = 1 << 14  # reach of a loop whose weights stay in the first cache
HEADER = """| network | loop | weights | native | Node | Chromium | this engine | of the bound |
|---|---|---|---|---|---|---|---|"""
WINDOWS = """
const measure = (loop, bytes, reach, clock) => {
  let least = Infinity;
  for (let window = 0; window < 40; window++) {
    const start = clock();
    for (let i = 0; i < 200; i++) loop(bytes, reach);
    least = Math.min(least, (clock() - start) / 200);
  }
  return least;
};
"""
NODE = """
import { readFile } from "node:fs/promises";
const { instance } = await WebAssembly.instantiate(await readFile(process.argv[2]));
const cpu = () => { const { user, system } = process.cpuUsage(); return user + system; };
instance.exports.fill();
const [loop, bytes, reach] = JSON.parse(process.argv[3]);
console.log(measure(instance.exports[loop], bytes, reach, cpu));
"""
PAGE = """<!doctype html><meta charset="utf-8"><pre id="said"></pre><script>
const bytes = Uint8Array.from(atob("MODULE"), (c) => c.charCodeAt(0));
const { exports } = new WebAssembly.Instance(new WebAssembly.Module(bytes));
const now = () => 1000 * performance.now();
exports.fill();
const said = TASKS.map(([loop, bytes, reach]) => measure(exports[loop], bytes, reach, now));
document.getElementById("said").textContent = JSON.stringify(said);
</script>"""
Task = tuple[str, int, int]  # a loop, its bytes, and its reach


def tasks_of(codec: str, read: int) -> dict[str, Task]:
    """The loops of a network by what they do; the last is its bound."""
    loop = "codes" if codec == "q8" else "floats"
    return {
        "reading": ("read", read, ANYWHERE),
        "multiply, add: weights in the first cache": (loop, read, NEAR),
        "multiply, add: weights where they lie": (loop, read, ANYWHERE),
    }


def bound_lines(folder: Path, engine_us: Mapping[Path, float]) -> list[str]:
    """Lines of the page's table for networks of dense layers, by their files and measured times.

    Beside each .odm file lies its .onnx file in float32; a file's name ends with its codec.
    """
    module = compile_wasm(folder)
    lines = []
    for model, us in engine_us.items():
        codec = model.stem.rsplit("-", 1)[-1]
        read = bytes_read(model.with_suffix(".onnx"), codec)
        tasks = tasks_of(codec, read)
        browser = in_chromium(folder, module, list(tasks.values()))
        for (what, task), page_us in zip(tasks.items(), browser, strict=True):
            times = (in_c(folder, task), in_node(folder, module, task), page_us)
            cells = " | ".join("-" if time is None else f"{time:.1f}" for time in times)
            last = task == list(tasks.values())[-1]
            ours = f"{us:.1f} | {times[1] / us:.0%}" if last else " | "
            lines.append(f"| {model.stem} | {what} | {read / 1e6:.2f} MB | {cells} | {ours} |")
    return lines


def bytes_read(path: Path, codec: str) -> int:
    """Bytes of weights that a request of ID 1 reads: those of features (q8: of groups of four) that
    are not all zero."""
    arrays = {a.name: onnx.numpy_helper.to_array(a) for a in onnx.load(path).graph.initializer}
    x, total, layer = arrays["t"][1], 0, 0
    while f"w{layer}" in arrays:
        weight = arrays[f"w{layer}"]
        if codec == "q8":
            total += 4 * int(x.reshape(-1, 4).any(1).sum()) * weight.shape[1]
        else:
            total += 4 * int(np.count_nonzero(x)) * weight.shape[1]
        x, layer = np.maximum(x @ weight + arrays[f"b{layer}"], 0), layer + 1
    return total


def compile_wasm(folder: Path) -> Path:
    """web_floor.c as a module for WebAssembly, by clang with wasm-ld."""
    target = folder / "web_floor.wasm"
    flags = ("-std=c11", "-O2", "-msimd128", "-ffreestanding", "-nostdlib", "-ffp-contract=off")
    command = ["clang", "--target=wasm32", *flags, "-Wl,--no-entry", str(SOURCE), "-o", str(target)]
    subprocess.run(command, check=True)
    return target


def in_c(folder: Path, task: Task) -> float | None:
    """Microseconds of a loop natively; None where there is no such loop."""
    loop, bytes_, reach = task
    if loop == "codes":  # its instruction is WebAssembly's
        return None
    program = folder / "web_floor"
    if not program.exists():
        flags = ("-std=c11", "-O2", "-march=native", "-ffp-contract=off")
        subprocess.run(["gcc", *flags, str(SOURCE), "-o", str(program)], check=True)
    command = [str(program), loop, str(bytes_), str(reach)]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def in_node(folder: Path, module: Path, task: Task) -> float:
    """Microseconds of CPU of a loop in a fresh Node process."""
    script = folder / "web_floor.mjs"
    script.write_text(WINDOWS + NODE, "utf-8")
    command = ["node", str(script), str(module), json.dumps(task)]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def in_chromium(folder: Path, module: Path, tasks: Sequence[Task]) -> Sequence[float | None]:
    """Microseconds of the loops in headless Chromium; None where it is not installed."""
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if chromium is None:
        return [None] * len(tasks)
    encoded = base64.b64encode(module.read_bytes()).decode()
    text = PAGE.replace("MODULE", encoded).replace("TASKS", json.dumps(tasks))
    page = folder / "web_floor.html"
    page.write_text(text.replace("<script>", f"<script>{WINDOWS}"), "utf-8")
    options = ("--headless", "--no-sandbox", "--disable-gpu", "--dump-dom",
               f"--user-data-dir={folder / 'profile'}")  # fmt: skip
    done = subprocess.run([chromium, *options, page.as_uri()], check=True, capture_output=True,
                          text=True, timeout=300)  # fmt: skip
    (said,) = re.findall(r'<pre id="said">(.*?)</pre>', done.stdout)
    times: list[float] = json.loads(said)
    return times
