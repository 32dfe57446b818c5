"""Wheels for macOS and Windows, cross-compiled: tags, symbols, systems; the engine in Wine."""

import ctypes
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from support.mach_o import MACOS, built_for, load_commands
from support.tools import missing, needs
from support.zig import zig_environment

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "release" / "cross_wheels.py"
MODULES = ("_native", "_update")
LC_LOAD_DYLIB, LC_CODE_SIGNATURE = 0xC, 0x1D

pytestmark = needs("" if SCRIPT.is_file() else "no release tools beside the package")


@pytest.fixture(scope="module")
def tool():
    """An environment whose Python has the compiler."""
    return zig_environment()


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


def test_wheel_for_macos(tool, tmp_path):
    wheel = build("macos-arm64", tmp_path, tool)
    assert wheel.name.endswith("-cp311-abi3-macosx_11_0_arm64.whl")
    for library in extracted(wheel, ".abi3.so", tmp_path / "tree"):
        kind, commands = load_commands(library.read_bytes())
        assert kind == 0x0100000C  # 64-bit ARM
        assert built_for(commands) == (MACOS, 11, 0)
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
