"""Cross-compile the C engine as a static library: for apps on iOS and macOS, for bare processors.

    python release/c_library.py TARGET FOLDER
    python release/c_library.py xcframework FOLDER
    python release/c_library.py sizes

TARGET is macos-arm64, ios-arm64, ios-simulator-arm64, cortex-m4 or cortex-m33. `xcframework` packs
the three for Apple's systems as Xcode takes them, with headers and a module map for Swift; `sizes`
prints what the engine takes in a program. Needs the Python package ziglang.
"""

from __future__ import annotations

import plistlib
import re
import shutil
import struct
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
NATIVE = ROOT / "ondevice" / "native"
ZIG = (sys.executable, "-m", "ziglang")
NAME = "libondevice.a"
PLATFORM = ("posix.c", "mapped.c", "threads.c", "live.c")
SHF_ALLOC, SHT_NOBITS, LC_SEGMENT_64, S_ZEROFILL = 2, 8, 0x19, 1  # of ELF and of Mach-O
FLAGS = (
    "-std=c11", "-ffp-contract=off", "-fno-math-errno", "-fvisibility=hidden", "-g0",
    "-fno-sanitize=all", "-ffunction-sections", "-fdata-sections", "-fno-unwind-tables",
    "-fno-asynchronous-unwind-tables", "-Wall", "-Wextra", "-Werror",
    f"-I{NATIVE}", f"-I{NATIVE / 'include'}",
)  # fmt: skip
HEADERS = ("ondevice.h", "ondevice_features.h")


@dataclass(frozen=True)
class Target:
    """What a library is compiled for.

    Attributes:
        triple: as zig names it, with the oldest version of the system.
        flags: of this target only.
        platform: an XCFramework's word for the system; None: no operating system.
        variant: an XCFramework's word for a simulator.
    """

    triple: str
    flags: tuple[str, ...]
    platform: str | None = None
    variant: str | None = None

    @property
    def files(self) -> list[Path]:
        """The C files: the engine, the reader of raw values, the platform if there is one."""
        names = [*_listed("sources.txt"), *_listed("features/sources.txt")]
        if self.platform is not None:
            names += [f"platform/{name}" for name in PLATFORM]
        return [NATIVE / name for name in dict.fromkeys(names)]


# -Os: flash is small, and the kernels are portable ones
BARE = ("-Os", "-DONDEVICE_FREESTANDING", "-ffreestanding", "-fno-builtin")
TARGETS = {
    "macos-arm64": Target("aarch64-macos.11.0", ("-O2",), "macos"),
    "ios-arm64": Target("aarch64-ios.13.0", ("-O2",), "ios"),
    "ios-simulator-arm64": Target("aarch64-ios.14.0-simulator", ("-O2",), "ios", "simulator"),
    "cortex-m4": Target("thumb-freestanding-eabihf", (*BARE, "-mcpu=cortex_m4+vfp4d16sp")),
    "cortex-m33": Target("thumb-freestanding-eabihf", (*BARE, "-mcpu=cortex_m33+fp_armv8d16sp")),
}
APPLE = tuple(name for name, target in TARGETS.items() if target.platform is not None)


def build(name: str, folder: Path) -> Path:
    """The static library for a target, in `folder`, beside `include/` with headers and module map.

    Raises:
        subprocess.CalledProcessError: the compiler failed; its words are on stderr.
    """
    folder.mkdir(parents=True, exist_ok=True)
    library = folder / NAME
    library.unlink(missing_ok=True)
    with tempfile.TemporaryDirectory() as work:
        objects = [str(unit) for unit in _compile(name, Path(work))]
        subprocess.run([*ZIG, "ar", "rcsD", str(library), *objects], check=True)
    headers = folder / "include"
    headers.mkdir(exist_ok=True)
    names = [*HEADERS, *(("ondevice_live.h",) if TARGETS[name].platform is not None else ())]
    for header in names:
        shutil.copy(NATIVE / "include" / header, headers)
    lines = "".join(f'  header "{header}"\n' for header in names)
    module = f"module OnDevice {{\n{lines}  export *\n}}\n"
    (headers / "module.modulemap").write_text(module, "utf-8")
    return library


def _compile(name: str, folder: Path) -> list[Path]:
    """The objects of a target, in the order of its files."""
    command, objects = compiler(name), []
    for number, source in enumerate(TARGETS[name].files):
        objects.append(folder / f"{number}-{source.stem}.o")
        subprocess.run([*command, "-c", str(source), "-o", str(objects[-1])], check=True)
    return objects


def compiler(name: str) -> list[str]:
    """The compiler for a target, with the engine's flags."""
    target = TARGETS[name]
    system = [] if target.platform != "ios" else ["-isystem", str(_darwin_headers())]
    return [*ZIG, "cc", "-target", target.triple, *FLAGS, *target.flags, *system]


def _darwin_headers() -> Path:
    """Headers of the C library that all of Apple's systems share; zig adds them for macOS only."""
    said = subprocess.run([*ZIG, "env"], check=True, capture_output=True, text=True).stdout
    match = re.search(r'\blib_dir"?\s*[:=]\s*"(.*?)"', said)
    if match is None:
        raise RuntimeError(f"`zig env` does not name its folder: {said}")
    return Path(match[1]) / "libc" / "include" / "any-darwin-any"


def build_xcframework(folder: Path) -> Path:
    """OnDevice.xcframework in `folder`: devices, simulators, Macs with Apple's processors."""
    framework = folder / "OnDevice.xcframework"
    shutil.rmtree(framework, ignore_errors=True)
    entries = []
    for name in APPLE:
        build(name, framework / name)
        target = TARGETS[name]
        entry = {
            "HeadersPath": "include",
            "LibraryIdentifier": name,
            "LibraryPath": NAME,
            "SupportedArchitectures": ["arm64"],
            "SupportedPlatform": target.platform,
        }
        if target.variant is not None:
            entry["SupportedPlatformVariant"] = target.variant
        entries.append(entry)
    about = {
        "AvailableLibraries": entries,
        "CFBundlePackageType": "XFWK",
        "XCFrameworkFormatVersion": "1.0",
    }
    (framework / "Info.plist").write_bytes(plistlib.dumps(about))
    return framework


def _listed(name: str) -> list[str]:
    lines = (NATIVE / name).read_text("utf-8").splitlines()
    return [line for line in lines if line and not line.startswith("#")]


def print_sizes() -> None:
    """Print bytes of code and constants: what a linker keeps at the most."""
    sys.stdout.write(f"{'':20}{'engine':>10}{'raw values':>12}{'platform':>10}\n")
    for name, target in TARGETS.items():
        sizes = dict.fromkeys(("engine", "features", "platform"), 0)
        with tempfile.TemporaryDirectory() as work:
            for source, unit in zip(target.files, _compile(name, Path(work)), strict=True):
                part = source.relative_to(NATIVE).parts[0]
                sizes[part if part in sizes else "engine"] += _loaded_bytes(unit.read_bytes())
        words = [f"{size:,}" for size in sizes.values()]
        sys.stdout.write(f"{name:20}{words[0]:>10}{words[1]:>12}{words[2]:>10}\n")


def _loaded_bytes(unit: bytes) -> int:
    """Bytes of an object's sections that a program holds in its file: code, constants, data."""
    if unit[:5] == b"\x7fELF\x01":  # 32 bits
        (start,) = struct.unpack_from("<I", unit, 32)
        size, count = struct.unpack_from("<HH", unit, 46)
        headers = [struct.unpack_from("<6I", unit, start + i * size) for i in range(count)]
        return sum(h[5] for h in headers if h[2] & SHF_ALLOC and h[1] != SHT_NOBITS)
    if unit[:4] == b"\xcf\xfa\xed\xfe":  # Mach-O of 64 bits: one segment holds all sections
        (count,) = struct.unpack_from("<I", unit, 16)
        at, total = 32, 0
        for _ in range(count):
            kind, size = struct.unpack_from("<II", unit, at)
            if kind == LC_SEGMENT_64:
                (sections,) = struct.unpack_from("<I", unit, at + 64)
                for section in range(at + 72, at + 72 + 80 * sections, 80):
                    (flags,) = struct.unpack_from("<I", unit, section + 64)
                    if flags & 0xFF != S_ZEROFILL:
                        total += struct.unpack_from("<Q", unit, section + 40)[0]
            at += size
        return total
    raise ValueError("expected an object of ELF (32 bits) or Mach-O (64 bits)")


def main(words: list[str]) -> int:
    """The command line."""
    if words == ["sizes"]:
        print_sizes()
    elif len(words) == 2 and words[0] == "xcframework":
        sys.stdout.write(f"{build_xcframework(Path(words[1]))}\n")
    elif len(words) == 2 and words[0] in TARGETS:
        sys.stdout.write(f"{build(words[0], Path(words[1]))}\n")
    else:
        sys.stderr.write(__doc__ or "")
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
