"""Cross-compile the wheels for macOS and Windows on Linux, by the compiler of the package ziglang.

    python release/cross_wheels.py macos-arm64|macos-x86_64|windows-x86_64|windows-arm64 FOLDER

Takes the wheel without a compiled part, adds the engine compiled for the system, and tags it. Needs
the Python packages ziglang, setuptools and wheel, and the headers of the running Python.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
NATIVE = ROOT / "ondevice" / "native"
FLAGS = (
    "-std=c11", "-O2", "-ffp-contract=off", "-fno-math-errno", "-fvisibility=hidden", "-g0",
    "-fno-sanitize=all", "-s", "-shared",
)  # fmt: skip
ZIG = (sys.executable, "-m", "ziglang")
INCLUDES = (f"-I{NATIVE}", f"-I{NATIVE / 'include'}", f"-I{sysconfig.get_path('include')}")
WARNINGS = ("-Wall", "-Wextra", "-Werror")


@dataclass(frozen=True)
class System:
    """A system that wheels are made for.

    Attributes:
        target: as zig names it, with the oldest version of the system.
        platform: the wheel's platform tag.
        machine: how zig's dlltool names the processor; None where nothing is imported by name.
    """

    target: str
    platform: str
    machine: str | None = None

    @property
    def is_windows(self) -> bool:
        """Whether it is Windows."""
        return self.machine is not None

    @property
    def suffix(self) -> str:
        """What the file names of extension modules end with."""
        return ".pyd" if self.is_windows else ".abi3.so"


SYSTEMS = {
    "macos-arm64": System("aarch64-macos.11.0", "macosx_11_0_arm64"),
    "macos-x86_64": System("x86_64-macos.11.0", "macosx_11_0_x86_64"),
    "windows-x86_64": System("x86_64-windows-gnu", "win_amd64", "i386:x86-64"),
    "windows-arm64": System("aarch64-windows-gnu", "win_arm64", "arm64"),
}


def build(system: System, folder: Path) -> Path:
    """The wheel for a system, in `folder`.

    Raises:
        subprocess.CalledProcessError: the compiler or a tool failed; its words are on stderr.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        pure = _pure_wheel(work)
        _run(sys.executable, "-m", "wheel", "unpack", str(pure), "--dest", str(work / "tree"))
        (tree,) = (work / "tree").iterdir()
        compile_modules(system, tree / "ondevice", work)
        (metadata,) = tree.glob("*.dist-info/WHEEL")
        text = metadata.read_text("utf-8").replace(
            "Root-Is-Purelib: true", "Root-Is-Purelib: false"
        )
        text = re.sub(r"(?m)^Tag: .*$", f"Tag: cp311-abi3-{system.platform}", text)
        metadata.write_text(text, "utf-8")
        packed = work / "packed"
        packed.mkdir()
        _run(sys.executable, "-m", "wheel", "pack", str(tree), "--dest-dir", str(packed))
        (wheel,) = packed.glob("*.whl")
        return Path(shutil.copy(wheel, folder))


def compile_modules(system: System, package: Path, work: Path) -> None:
    """Compile the extension modules into a package; `work` takes what is needed meanwhile."""
    files = ("windows.c",) if system.is_windows else ("posix.c", "mapped.c")
    engine = [
        *_listed("sources.txt"),
        *(NATIVE / "platform" / name for name in (*files, "threads.c")),
        *(NATIVE / "python" / name for name in ("module.c", "hashing.c")),
    ]
    if system.machine is not None:
        others = [
            "-include", str(ROOT / "release" / "windows_config.h"),
            str(_import_library(system.machine, work)), "-Wl,--dynamicbase",
        ]  # fmt: skip
    else:  # Python's functions are found in the running interpreter
        others = ["-undefined", "dynamic_lookup", "-fno-asynchronous-unwind-tables"]
    update = [*_listed("update/sources.txt"), NATIVE / "python" / "update.c"]
    for name, sources in (("_native", engine), ("_update", update)):
        _run(
            *ZIG, "cc", "-target", system.target, *FLAGS, *WARNINGS, *INCLUDES,
            *map(str, sources), *others, "-o", str(package / f"{name}{system.suffix}"),
        )  # fmt: skip


def _listed(name: str) -> list[Path]:
    """The C files that a list of sources names."""
    lines = (NATIVE / name).read_text("utf-8").splitlines()
    return [NATIVE / line for line in lines if line and not line.startswith("#")]


def python_names(work: Path) -> list[str]:
    """Names of the stable ABI that the binding takes from the interpreter, in order."""
    names: set[str] = set()
    for source in sorted((NATIVE / "python").glob("*.c")):
        unit = work / f"{source.stem}.o"
        _run(
            *ZIG, "cc", "-target", "x86_64-linux-gnu", "-O2", "-fPIC", "-fno-sanitize=all",
            *INCLUDES, "-c", str(source), "-o", str(unit),
        )  # fmt: skip
        listing = _run("nm", "--undefined-only", "--format=just-symbols", str(unit))
        names |= {name for name in listing.split() if re.fullmatch(r"_?Py\w+", name)}
    return sorted(names)


def _import_library(machine: str, work: Path) -> Path:
    """What a Windows linker needs to import those names from python3.dll."""
    definition, library = work / "python3.def", work / "libpython3.a"
    lines = ["LIBRARY python3.dll", "EXPORTS", *python_names(work)]
    definition.write_text("\n".join(lines) + "\n", "utf-8")
    _run(*ZIG, "dlltool", "-m", machine, "-d", str(definition), "-l", str(library))
    return library


def _pure_wheel(work: Path) -> Path:
    """The project's wheel without a compiled part, made from a copy of its sources."""
    copy = work / "source"
    skipped = shutil.ignore_patterns(
        "*.so", "__pycache__", "build", "dist", ".venv*", ".git", "tests", "demo-out", "*.egg-info"
    )
    shutil.copytree(ROOT, copy, ignore=skipped)
    environment = os.environ | {"ONDEVICE_PURE": "1"}
    command = [
        sys.executable,
        "setup.py",
        "--quiet",
        "bdist_wheel",
        "--dist-dir",
        str(work / "pure"),
    ]
    subprocess.run(command, cwd=copy, env=environment, check=True, capture_output=True)
    (wheel,) = (work / "pure").glob("*.whl")
    return wheel


def _run(*command: str) -> str:
    """Standard output of a command; what it says of errors goes to standard error."""
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout


if __name__ == "__main__":
    if len(sys.argv) != 3 or sys.argv[1] not in SYSTEMS:
        sys.exit(__doc__)
    sys.stdout.write(f"{build(SYSTEMS[sys.argv[1]], Path(sys.argv[2]))}\n")
