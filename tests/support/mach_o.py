"""Reads Mach-O files, the libraries and objects of Apple's systems: what they say of themselves."""

import struct

LC_BUILD_VERSION = 0x32
MACOS, IOS, IOS_SIMULATOR = 1, 2, 7
ARM64 = 0x0100000C


def load_commands(data):
    """Processor, and the load commands as pairs of number and bytes."""
    assert data[:4] == b"\xcf\xfa\xed\xfe"
    (count,) = struct.unpack_from("<I", data, 16)
    at, commands = 32, []
    for _ in range(count):
        number, size = struct.unpack_from("<II", data, at)
        commands.append((number, data[at : at + size]))
        at += size
    return struct.unpack_from("<I", data, 4)[0], commands


def built_for(commands):
    """System, and major and minor of its oldest version."""
    (version,) = [data for number, data in commands if number == LC_BUILD_VERSION]
    system, oldest = struct.unpack_from("<II", version, 8)
    return system, oldest >> 16, oldest >> 8 & 255


def members(archive):
    """Names and bytes of the objects in a static library."""
    assert archive[:8] == b"!<arch>\n"
    at, found = 8, []
    while at < len(archive):
        header = archive[at : at + 60]
        name, size, at = header[:16].decode().strip(), int(header[48:58]), at + 60
        data = archive[at : at + size]
        at += size + size % 2
        if name.startswith("#1/"):  # the name stands before the bytes
            length = int(name[3:])
            name, data = data[:length].rstrip(b"\0").decode(), data[length:]
        if not name.startswith(("__.SYMDEF", "/")):
            found.append((name, data))
    return found
