"""Compiles the engine to web/dist: ondevice.wasm with vectors, ondevice-plain.wasm without.

python web/build.py [--out FOLDER]

It needs clang and wasm-ld (Debian: clang, lld), or the Python package ziglang.
"""

import argparse
import importlib.util
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

WEB = Path(__file__).resolve().parent
NATIVE = WEB.parent / "ondevice" / "native"
SCRIPTS = ("ondevice.js", "ondevice.d.ts", "package.json", "README.md")

FLAGS = (
    *("-std=c11", "-ffreestanding", "-fno-builtin", "-ffp-contract=off", "-fno-math-errno"),
    *("-DONDEVICE_FREESTANDING", "-Wall", "-Wextra", "-Werror"),
    *(f"-I{NATIVE}", f"-I{NATIVE / 'include'}"),
)
# The stack lies first, so that what overruns it traps in place of writing over data.
LINK = ("--no-entry", "--gc-sections", "--strip-all", "-z", "stack-size=262144", "--stack-first",
        "--max-memory=2147483648")  # fmt: skip
BUILDS = {"ondevice.wasm": ("-msimd128",), "ondevice-plain.wasm": ()}
# What requests spend their time in is compiled for speed, in either build, all else for size. (The
# vectors of other operators are written out, so that size costs them nothing.)
FAST = ("kernels/wasm_simd.c", "kernels/portable.c")


class NoCompilerError(RuntimeError):
    """Neither clang with wasm-ld nor ziglang is installed, or the C sources are not here."""


def sources() -> list[Path]:
    """The C files of the module: the engine, the reader of raw values, and web/wasm/module.c."""
    lists = (NATIVE / "sources.txt", NATIVE / "features" / "sources.txt")
    if not lists[0].is_file():
        raise NoCompilerError("the engine's C files, which a checkout has and a wheel has not")
    lines = [line for path in lists for line in path.read_text(encoding="utf-8").splitlines()]
    files = [NATIVE / line for line in lines if line and not line.startswith("#")]
    return [*files, WEB / "wasm" / "module.c"]


def tools() -> tuple[list[str], list[str]]:
    """The commands that compile and link. Raises NoCompilerError."""
    if shutil.which("clang") and shutil.which("wasm-ld"):
        return ["clang", "--target=wasm32"], ["wasm-ld"]
    if importlib.util.find_spec("ziglang"):
        zig = [sys.executable, "-m", "ziglang"]
        return [*zig, "cc", "-target", "wasm32-freestanding"], [*zig, "wasm-ld"]
    raise NoCompilerError("clang with wasm-ld, or the Python package ziglang")


def build(out: Path) -> list[Path]:
    """Compile both modules and copy the scripts beside them. Raises NoCompilerError."""
    compiler, linker = tools()
    out.mkdir(parents=True, exist_ok=True)
    for name, more in BUILDS.items():
        with tempfile.TemporaryDirectory() as folder:
            objects = []
            for number, source in enumerate(sources()):
                place = source.as_posix()
                level = "-O2" if any(f"native/{part}" in place for part in FAST) else "-Oz"
                target = Path(folder, f"{number}.o")
                command = [*compiler, *FLAGS, *more, level, "-c", str(source), "-o", str(target)]
                subprocess.run(command, check=True)
                objects.append(str(target))
            subprocess.run([*linker, *LINK, *objects, "-o", str(out / name)], check=True)
    for name in SCRIPTS:
        if (WEB / name).is_file():
            shutil.copyfile(WEB / name, out / name)
    return [out / name for name in BUILDS]


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, default=WEB / "dist")
    try:
        for path in build(parser.parse_args().out):
            print(f"{path}: {path.stat().st_size} bytes")  # noqa: T201
    except NoCompilerError as error:
        sys.exit(f"web/build.py needs {error}")


if __name__ == "__main__":
    main()
