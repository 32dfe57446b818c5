"""Cross-compile an ARM wheel of this project and tag it with the glibc that it really needs.

    python release/arm_wheels.py aarch64|armv7l FOLDER

Needs the cross compiler (gcc-aarch64-linux-gnu, gcc-arm-linux-gnueabihf) and release/userland.py
for the Python headers. The wheel is compiled by the project's own setup.py.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SOURCES = ("pyproject.toml", "setup.py", "README.md", "LICENSE", "MANIFEST.in", "ondevice",
           "converters", "models", "web")  # fmt: skip
TRIPLETS = {"aarch64": "aarch64-linux-gnu", "armv7l": "arm-linux-gnueabihf"}
# The oldest glibc whose manylinux tag pip knows, by architecture (PEP 599, PEP 600).
OLDEST = (2, 17)
MODULES = ("_native", "_update")  # the engine, and what checks signatures and applies deltas


def build(architecture: str, userland: Path, folder: Path) -> Path:
    """The wheel for an architecture, compiled against the headers of an unpacked userland.

    Raises:
        subprocess.CalledProcessError: the compiler or setup.py failed.
        RuntimeError: the wheel came out without the engine.
    """
    compiler = f"{TRIPLETS[architecture]}-gcc"
    headers = userland / "usr" / "include"
    environment = os.environ | {
        "CC": compiler,
        "LDSHARED": f"{compiler} -shared",
        "CFLAGS": f"-I{headers / 'python3.11'} -I{headers / TRIPLETS[architecture]} -I{headers}",
        "_PYTHON_HOST_PLATFORM": f"linux-{architecture}",
    }
    with tempfile.TemporaryDirectory() as name:
        copy, made = Path(name) / "source", Path(name) / "made"
        copy.mkdir()
        for source in SOURCES:
            where = ROOT / source
            if where.is_dir():
                ignore = shutil.ignore_patterns("*.so", "__pycache__")
                shutil.copytree(where, copy / source, ignore=ignore)
            else:
                shutil.copy(where, copy)
        command = [sys.executable, "setup.py", "--quiet", "bdist_wheel", "--dist-dir", str(made)]
        subprocess.run(command, cwd=copy, env=environment, check=True, capture_output=True)
        (wheel,) = made.glob("*.whl")
        libraries = [extract_library(wheel, Path(name), module) for module in MODULES]
        major, minor = max(map(glibc_needed, libraries))
        tag = f"manylinux_{major}_{minor}_{architecture}"
        command = [sys.executable, "-m", "wheel", "tags", "--remove", "--platform-tag", tag]
        subprocess.run([*command, str(wheel)], check=True, capture_output=True)
        (wheel,) = made.glob("*.whl")
        folder.mkdir(parents=True, exist_ok=True)
        return Path(shutil.copy(wheel, folder))


def extract_library(wheel: Path, folder: Path, name: str = "_native") -> Path:
    """A shared library out of a wheel. Raises RuntimeError when one of the two is missing."""
    with zipfile.ZipFile(wheel) as archive:
        names = sorted(name for name in archive.namelist() if name.endswith(".so"))
        if names != [f"ondevice/{module}.abi3.so" for module in MODULES]:
            raise RuntimeError(f"{wheel.name}: expected the compiled {MODULES}, found {names}")
        return Path(archive.extract(f"ondevice/{name}.abi3.so", folder))


def glibc_needed(library: Path) -> tuple[int, int]:
    """The newest glibc version among a library's symbols, but none older than tags go."""
    text = _readelf("--version-info", library)
    versions = [(int(a), int(b)) for a, b in re.findall(r"GLIBC_(\d+)\.(\d+)", text)]
    return max([*versions, OLDEST])


def libraries_needed(library: Path) -> list[str]:
    """Names of the shared libraries that a library loads."""
    return re.findall(r"\(NEEDED\).*\[(.*)\]", _readelf("--dynamic", library))


def machine(library: Path) -> str:
    """Processor architecture in a library's ELF header, as readelf names it."""
    return re.findall(r"Machine: +(.*)", _readelf("--file-header", library))[0]


def _readelf(option: str, library: Path) -> str:
    command = ["readelf", "--wide", option, str(library)]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


if __name__ == "__main__":
    if len(sys.argv) != 3 or sys.argv[1] not in TRIPLETS:
        sys.exit(__doc__)
    sys.path.insert(0, str(Path(__file__).parent))
    from userland import UserlandError, unpack

    debian = {"aarch64": "arm64", "armv7l": "armhf"}[sys.argv[1]]
    try:
        root = unpack(debian, ROOT / "build" / "arm" / debian)
        sys.stdout.write(f"{build(sys.argv[1], root, Path(sys.argv[2]))}\n")
    except (UserlandError, RuntimeError, subprocess.CalledProcessError) as error:
        sys.exit(str(error))
