"""Compiles the engine to web/dist: with vectors, without, and what checks signatures.

python web/build.py [--out FOLDER]

It needs clang and wasm-ld (Debian: clang, lld), or the Python package ziglang. wasm-opt (Debian:
binaryen), if it is installed, makes the modules a tenth smaller.
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
SCRIPTS = (
    "ondevice.js",
    "signatures.js",
    "sources.js",
    "ondevice.d.ts",
    "package.json",
    "README.md",
)

FLAGS = (
    *("-std=c11", "-ffreestanding", "-fno-builtin", "-ffp-contract=off", "-fno-math-errno"),
    *("-DONDEVICE_FREESTANDING", "-Wall", "-Wextra", "-Werror"),
    *(f"-I{NATIVE}", f"-I{NATIVE / 'include'}"),
)
# Every engine that runs ondevice.js has them: Chrome 93, Firefox 92, Safari 15.4, Node 18.
FEATURES = ("-msign-ext", "-mnontrapping-fptoint", "-mbulk-memory", "-mmutable-globals")
# The stack lies first, so that what overruns it traps in place of writing over data.
LINK = ("--no-entry", "--gc-sections", "--strip-all", "-z", "stack-size=262144", "--stack-first",
        "--max-memory=2147483648", "--compress-relocations")  # fmt: skip
ENGINE = (("sources.txt", "features/sources.txt"), "module.c")
SIGNATURES = (("update/sources.txt",), "signatures.c")
# Each module: lists of C files in the folder of the engine, its exports in web/wasm, and flags.
BUILDS: dict[str, tuple[tuple[tuple[str, ...], str], tuple[str, ...]]] = {
    "ondevice.wasm": (ENGINE, (*FEATURES, "-msimd128")),
    "ondevice-plain.wasm": (ENGINE, FEATURES),
    "signatures.wasm": (SIGNATURES, FEATURES),
}
SHARED = ("memory.c", "multiply.c")  # in web/wasm
# All is compiled for size: the vectors of what requests spend their time in are written out, and
# their loops are unrolled by pragmas. Strength reduction of loops gives each address a variable of
# its own, which makes modules larger and no faster.
SMALL = ("-Oz", "-mllvm", "-disable-lsr")
# What wasm-opt may use: the features that clang uses by default, and vectors.
SHRINK = ("-Oz", "--enable-simd", "--enable-bulk-memory", "--enable-sign-ext",
          "--enable-mutable-globals", "--enable-nontrapping-float-to-int")  # fmt: skip


class NoCompilerError(RuntimeError):
    """Neither clang with wasm-ld nor ziglang is installed, or the C sources are not here."""


def sources(lists: tuple[str, ...], exports: str) -> list[Path]:
    """The C files of a module. Raises NoCompilerError: they are not here."""
    if not (NATIVE / lists[0]).is_file():
        raise NoCompilerError("the engine's C files, which a checkout has and a wheel has not")
    lines = [
        line for name in lists for line in (NATIVE / name).read_text(encoding="utf-8").splitlines()
    ]
    files = [NATIVE / line for line in lines if line and not line.startswith("#")]
    return [*files, *(WEB / "wasm" / name for name in (*SHARED, exports))]


def tools() -> tuple[list[str], list[str]]:
    """The commands that compile and link. Raises NoCompilerError."""
    if shutil.which("clang") and shutil.which("wasm-ld"):
        return ["clang", "--target=wasm32"], ["wasm-ld"]
    if importlib.util.find_spec("ziglang"):
        zig = [sys.executable, "-m", "ziglang"]
        return [*zig, "cc", "-target", "wasm32-freestanding"], [*zig, "wasm-ld"]
    raise NoCompilerError("clang with wasm-ld, or the Python package ziglang")


def build(out: Path) -> list[Path]:
    """Compile all modules and copy the scripts beside them.

    Raises:
        NoCompilerError: there is no compiler, or it does not compile the C files.
    """
    out.mkdir(parents=True, exist_ok=True)
    for name in BUILDS:
        build_module(name, out / name)
    for script in SCRIPTS:
        if (WEB / script).is_file():
            shutil.copyfile(WEB / script, out / script)
    return [out / name for name in BUILDS]


def build_module(name: str, target: Path) -> None:
    """Compile and link one module of BUILDS. Raises NoCompilerError."""
    (lists, exports), flags = BUILDS[name]
    compiler, linker = tools()
    with tempfile.TemporaryDirectory() as folder:
        objects = []
        for number, source in enumerate(sources(lists, exports)):
            compiled = str(Path(folder, f"{number}.o"))
            _run([*compiler, *FLAGS, *flags, *SMALL, "-c", str(source), "-o", compiled])
            objects.append(compiled)
        _run([*linker, *LINK, *objects, "-o", str(target)])
    if optimiser := shutil.which("wasm-opt"):
        _run([optimiser, *SHRINK, str(target), "-o", str(target)])


def _run(command: list[str]) -> None:
    try:
        subprocess.run(command, check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        raise NoCompilerError(f"a clang that compiles for wasm32: {error}") from error


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
