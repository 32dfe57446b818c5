"""The C sources as every build takes them: the engine's, and those of the reader of raw values."""

import shutil
import struct
from pathlib import Path

from support.tools import cannot_link, needs

import ondevice

NATIVE = Path(ondevice.__file__).parent / "native"
INCLUDES = [f"-I{NATIVE}", f"-I{NATIVE / 'include'}"]
COMPILER = shutil.which("gcc") or shutil.which("clang")
WARNED = ["-std=c11", "-O1", "-ffp-contract=off", "-Wall", "-Wextra", *INCLUDES]


def listed(name):
    """The C files that a list of sources names, in its order; none where it is not installed."""
    path = NATIVE / name  # not in a wheel
    lines = path.read_text().splitlines() if path.exists() else []
    return [str(NATIVE / line) for line in lines if line and not line.startswith("#")]


ENGINE = listed("sources.txt")  # needs no operating system
FEATURES = listed("features/sources.txt")
PLATFORM = [str(NATIVE / "platform" / name) for name in ("posix.c", "mapped.c")]
POSIX = [*ENGINE, *PLATFORM] if ENGINE else []
SANITIZERS = ("-fsanitize=address,undefined", "-fno-sanitize-recover")
NO_SOURCES = "" if ENGINE else "no sources beside the package"
needs_compiler = needs(cannot_link(COMPILER), NO_SOURCES)
needs_sanitizers = needs(cannot_link(COMPILER, *SANITIZERS), NO_SOURCES)


def loaded_bytes(library):
    """Bytes of an ELF library that are mapped to run it: its loadable segments, without padding."""
    data = Path(library).read_bytes()
    wide = data[4] == 2
    start, size, count = (
        struct.unpack_from("<Q", data, 32)[0] if wide else struct.unpack_from("<I", data, 28)[0],
        *struct.unpack_from("<HH", data, 54 if wide else 42),
    )
    total = 0
    for i in range(count):
        header = start + i * size
        if struct.unpack_from("<I", data, header)[0] == 1:  # PT_LOAD
            place, form = (header + 32, "<Q") if wide else (header + 16, "<I")
            total += struct.unpack_from(form, data, place)[0]
    return total
