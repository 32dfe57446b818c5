"""Wheels for macOS and Windows, cross-compiled: tags, symbols, systems; the engine in Wine."""

import ctypes
import os
import re
import struct
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
from support.engine import ENGINE, INCLUDES, NATIVE
from support.native import write_model
from support.tools import missing, needs, require

from ondevice.codecs import quantise
from ondevice.spec import full_spec

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "release" / "cross_wheels.py"
ZIG = "ziglang==0.17.1"
WINE = "/usr/lib/wine/wine64"  # Debian's package puts it beside the path
MODULES = ("_native", "_update")
LC_LOAD_DYLIB, LC_BUILD_VERSION, LC_CODE_SIGNATURE = 0xC, 0x32, 0x1D

pytestmark = needs("" if SCRIPT.is_file() else "no release tools beside the package")


@pytest.fixture(scope="module")
def tool():
    """The script, and a Python that has the compiler, installed beside the other builds."""
    folder = ROOT / "build" / "zig"
    if not (folder / "ziglang").is_dir():
        command = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", "install",
                   "--target", str(folder), ZIG]  # fmt: skip
        done = subprocess.run(command, capture_output=True, text=True)
        require(f"{ZIG} cannot be installed: {done.stderr[-200:]}" if done.returncode else "")
    path = os.pathsep.join(filter(None, [str(folder), os.environ.get("PYTHONPATH")]))
    return os.environ | {"PYTHONPATH": path}


def build(system, folder, environment):
    done = subprocess.run(
        [sys.executable, str(SCRIPT), system, str(folder)], env=environment, capture_output=True,
        text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return Path(done.stdout.strip())


def extracted(wheel, suffix, folder):
    """The compiled modules of a wheel, whose metadata must say that it has them."""
    with zipfile.ZipFile(wheel) as archive:
        (metadata,) = [name for name in archive.namelist() if name.endswith(".dist-info/WHEEL")]
        text = archive.read(metadata).decode()
        compiled = sorted(n for n in archive.namelist() if n.endswith((".so", ".pyd", ".dylib")))
        assert compiled == [f"ondevice/{name}{suffix}" for name in MODULES]
        archive.extractall(folder)
    assert "Root-Is-Purelib: false" in text
    assert re.findall(r"^Tag: (.*)$", text, re.MULTILINE) == [wheel.stem.split("-", 2)[2]]
    return [folder / name for name in compiled]


def load_commands(library):
    """Load commands of a Mach-O library: pairs of number and bytes."""
    data = library.read_bytes()
    assert data[:4] == b"\xcf\xfa\xed\xfe"
    (count,) = struct.unpack_from("<I", data, 16)
    at, commands = 32, []
    for _ in range(count):
        number, size = struct.unpack_from("<II", data, at)
        commands.append((number, data[at : at + size]))
        at += size
    return struct.unpack_from("<I", data, 4)[0], commands


def test_wheel_for_macos(tool, tmp_path):
    wheel = build("macos-arm64", tmp_path, tool)
    assert wheel.name.endswith("-cp311-abi3-macosx_11_0_arm64.whl")
    for library in extracted(wheel, ".abi3.so", tmp_path / "tree"):
        kind, commands = load_commands(library)
        assert kind == 0x0100000C  # 64-bit ARM
        (version,) = [data for number, data in commands if number == LC_BUILD_VERSION]
        platform, oldest = struct.unpack_from("<II", version, 8)
        assert (platform, oldest >> 16, oldest >> 8 & 255) == (1, 11, 0)
        libraries = [data[24:].split(b"\0")[0] for n, data in commands if n == LC_LOAD_DYLIB]
        assert libraries == [b"/usr/lib/libSystem.B.dylib"]
        signed = [number for number, _ in commands if number == LC_CODE_SIGNATURE]
        assert signed == [LC_CODE_SIGNATURE]  # Apple's processors run nothing unsigned


def imports(library):
    """Names that a Windows library takes from others, by the others' names."""
    listing = subprocess.run(
        ["objdump", "-p", str(library)], capture_output=True, text=True, check=True
    ).stdout
    found = {}
    for part in listing.split("DLL Name: ")[1:]:
        name, _, rest = part.partition("\n")
        found[name.lower()] = re.findall(r"^\t[0-9a-f]+\s+\d+\s+(\S+)", rest, re.MULTILINE)
    return found


@needs(missing("objdump", "nm"))
def test_wheel_for_windows(tool, tmp_path):
    wheel = build("windows-x86_64", tmp_path, tool)
    assert wheel.name.endswith("-cp311-abi3-win_amd64.whl")
    for library in extracted(wheel, ".pyd", tmp_path / "tree"):
        found = imports(library)
        names = found.pop("python3.dll")  # the library of the stable ABI, for any Python from 3.11
        assert "PyModule_Create2" in names
        assert [name for name in names if not hasattr(ctypes.pythonapi, name)] == []
        allowed = re.compile(r"kernel32\.dll|api-ms-win-crt-[a-z]+-l1-1-0\.dll")
        assert [name for name in found if not allowed.fullmatch(name)] == []


@needs("" if Path(WINE).is_file() else "not installed: wine64")
def test_the_engine_in_wine_scores_as_here(tool, tmp_path):
    """C on Windows: small and mapped files, and files that are none."""
    program = tmp_path / "predict.exe"
    sources = [NATIVE / "examples" / "predict.c", NATIVE / "platform" / "windows.c", *ENGINE]
    command = [sys.executable, "-m", "ziglang", "cc", "-target", "x86_64-windows-gnu"]
    command += ["-std=c11", "-O2", "-ffp-contract=off", *INCLUDES]
    subprocess.run([*command, *map(str, sources), "-o", str(program)], env=tool, check=True)
    values = np.random.default_rng(3).normal(size=(600_000, 4)).astype(np.float32)
    files = {}
    for name, rows in (("read.odm", 50), ("mapped.odm", 600_000)):  # mapped from 8 MiB on
        spec, table = full_spec(rows, 4), quantise(values[:rows], "f32")
        files[name] = write_model(tmp_path / name, {"a": spec}, {"a": table}, [], {}, ["a.vector"])
    for path in files.values():
        done = in_wine(program, path)
        assert done.returncode == 0, done.stderr
        assert re.fullmatch(r"a\.vector \(\w+\): (\S+)\s+", done.stdout)[1] == f"{values[1, 0]:.6f}"
    cut = tmp_path / "cut.odm"
    cut.write_bytes(files["read.odm"].read_bytes()[:-1])
    for path, said in ((cut, "bytes"), (tmp_path / "none.odm", "cannot be read"),
                       (tmp_path, "cannot be read")):  # fmt: skip
        done = in_wine(program, path)
        assert done.returncode == 1
        assert said in done.stderr


def in_wine(program, path):
    """Run a program for Windows on a file, in a system folder of its own."""
    environment = os.environ | {"WINEPREFIX": str(program.parent / "wine"), "WINEDEBUG": "-all"}
    command = [WINE, str(program), str(path)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
