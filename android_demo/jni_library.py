"""Builds libondevice.so for every Android processor without an NDK, and checks what it asks for."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from tool import ToolError, locked
from tool import run_tool as run

HERE = Path(__file__).resolve().parent
ENGINE = HERE.parent / "ondevice" / "native"
JNI = HERE / "ondevice-android" / "src" / "main" / "c"
PAGE = 16384  # Android 15 devices may have pages of 16 KiB

# As in CMakeLists.txt, which builds the same library with Android's tools.
FLAGS = (
    *("-std=c11", "-O2", "-ffreestanding", "-fno-builtin", "-fPIC", "-ffp-contract=off"),
    *("-fno-math-errno", "-fno-stack-protector", "-fvisibility=hidden", "-ffunction-sections"),
    *("-fdata-sections", "-nostdlibinc", "-DONDEVICE_FREESTANDING", "-DOD_API="),
    *("-Wall", "-Wextra", "-Werror"),
)
LINK_FLAGS = (
    *("-fuse-ld=lld", "-shared", "-nostdlib", f"-Wl,-z,max-page-size={PAGE}", "-Wl,--no-undefined"),
    *("-Wl,--gc-sections", "-Wl,--build-id=none", "-Wl,-soname,libondevice.so", "-s"),
)


@dataclass(frozen=True)
class Abi:
    """A processor as Android names it, and as clang does; options of single files by their name."""

    name: str
    target: str
    flags: tuple[str, ...] = ()
    file_flags: tuple[tuple[str, str], ...] = ()


ABIS = (
    Abi(
        "arm64-v8a",
        "aarch64-linux-android24",
        file_flags=(
            ("neon_dotprod.c", "-march=armv8.2-a+dotprod"),
            ("neon_i8mm.c", "-march=armv8.2-a+dotprod+i8mm"),
        ),
    ),
    Abi(
        "armeabi-v7a",
        "armv7a-linux-androideabi24",
        ("-mfpu=neon-vfpv4", "-mcpu=cortex-a7"),
        # clang 14 combines this file's operations in another order every time it runs
        file_flags=(("portable.c", "-fno-slp-vectorize"),),
    ),
    Abi("x86_64", "x86_64-linux-android24"),
)
TOOLS = ("clang", "ld.lld", "readelf", "javac")


def build(abi: Abi, folder: Path) -> Path:
    """Compile the library of one processor into `folder`, if anything has changed since.

    Two builds give the same bytes.

    Raises:
        ToolError: it does not compile, or see `check`.
    """
    with locked(folder):
        return _build(abi, folder)


def _build(abi: Abi, folder: Path) -> Path:
    """Compile every source in parallel and link them; nothing if the sources are the same."""
    library, stamp, objects = folder / "libondevice.so", folder / "stamp", folder / "objects"
    headers = jni_headers()
    includes = [f"-isystem{JNI / 'freestanding'}", *(f"-isystem{path}" for path in headers)]
    includes += [f"-I{ENGINE}", f"-I{ENGINE / 'include'}", f"-I{JNI}"]
    lists = (ENGINE / "sources.txt", ENGINE / "update" / "sources.txt")  # they share files
    listed = dict.fromkeys(line for path in lists for line in path.read_text("utf-8").splitlines())
    sources = [ENGINE / line for line in listed if line and not line.startswith("#")]
    sources += sorted(JNI.glob("*.c"))
    digest = _digest([*sources, *ENGINE.rglob("*.h"), *JNI.rglob("*.h"), Path(__file__)])
    if library.exists() and stamp.exists() and stamp.read_text() == digest:
        return library
    objects.mkdir(parents=True, exist_ok=True)

    def compile_one(source: Path) -> str:
        options = [flag for name, flag in abi.file_flags if name == source.name]
        if "\nOD_FOR_SIZE\n" in source.read_text("utf-8"):
            options.append("-Os")
        compiled = objects / f"{source.stem}.o"
        # options of a file come last: -O2 switches on what they switch off
        flags = [f"--target={abi.target}", *abi.flags, *FLAGS, *options, *includes]
        run(["clang", *flags, "-c", str(source), "-o", str(compiled)])
        return str(compiled)

    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        compiled = list(pool.map(compile_one, sources))
    run(["clang", f"--target={abi.target}", *abi.flags, *LINK_FLAGS, *compiled, "-o", str(library)])
    shutil.rmtree(objects)
    check(library)
    stamp.write_text(digest)
    return library


def _digest(paths: list[Path]) -> str:
    digest = hashlib.sha256()
    for path in sorted(paths):
        digest.update(path.read_bytes())
    return digest.hexdigest()


def check(library: Path) -> None:
    """Nothing needed, nothing undefined, segments for 16 KiB pages, only JNI functions exported.

    Raises:
        ToolError: says what is wrong.
    """
    dynamic = run(["readelf", "--dynamic", "--segments", "--wide", str(library)])
    if needed := re.findall(r"\(NEEDED\).*\[(.*)\]", dynamic):
        raise ToolError(f"{library}: needs {', '.join(needed)}")
    if "TEXTREL" in dynamic:
        raise ToolError(f"{library}: text relocations, which Android refuses")
    alignments = re.findall(r"^ +LOAD .* (0x[0-9a-f]+)$", dynamic, re.MULTILINE)
    if not alignments or any(int(alignment, 16) % PAGE for alignment in alignments):
        raise ToolError(f"{library}: segments are aligned to {alignments}, not {PAGE}")
    names = [
        line.split()[4:8]
        for line in run(["readelf", "--dyn-syms", "--wide", str(library)]).splitlines()
        if re.match(r" *[1-9]\d*:", line)
    ]
    odd = [name for _, _, index, name in names if index == "UND" or not name.startswith("Java_")]
    if odd or not names:
        raise ToolError(f"{library}: undefined or exported for no reason: {odd}")


def jni_headers() -> tuple[Path, Path]:
    """The folders of jni.h and jni_md.h of the Java that `javac` belongs to."""
    compiler = shutil.which("javac")
    if compiler is None:
        raise ToolError("javac is not installed: a JDK has jni.h beside it")
    folder = Path(compiler).resolve().parents[1] / "include"
    return folder, folder / "linux"
