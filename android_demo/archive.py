"""Writes the ZIP archives of Android (APK, AAR): the same bytes every time, aligned entries."""

from __future__ import annotations

import struct
import zipfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from ondevice.atomic import atomic_path

LIBRARY_ALIGNMENT = 16384  # a stored library is mapped from the package: pages of up to 16 KiB
MODEL_ALIGNMENT = 4096  # a stored model too; the engine needs 4 bytes, pages are best
ALIGNMENT = 4  # everything else that is stored: what Android asks for
ALIGNMENT_FIELD = 0xD935  # ID of the extra field that zipalign and apksigner use for padding
DATE = (1981, 1, 1, 1, 1, 2)  # the date that Android's own tools write
HEADER_BYTES = 30  # of a local file header, before its name


@dataclass(frozen=True)
class Entry:
    """One file of an archive; `stored`: not compressed."""

    name: str
    data: bytes
    stored: bool = False


def entries_of(path: Path) -> list[Entry]:
    """The files of an archive that another tool wrote."""
    with zipfile.ZipFile(path) as archive:
        return [
            Entry(item.filename, archive.read(item), item.compress_type == zipfile.ZIP_STORED)
            for item in archive.infolist()
            if not item.is_dir()
        ]


def write_archive(entries: Iterable[Entry], path: Path) -> None:
    """Write entries in the order of their names, with one date, stored ones aligned."""
    with (
        atomic_path(path) as temporary,
        temporary.open("wb") as file,
        zipfile.ZipFile(file, "w") as archive,
    ):
        for entry in sorted(entries, key=lambda entry: entry.name):
            info = zipfile.ZipInfo(entry.name, DATE)
            info.external_attr = 0o100644 << 16
            info.compress_type = zipfile.ZIP_STORED if entry.stored else zipfile.ZIP_DEFLATED
            if entry.stored:
                info.extra = _padding(entry.name, file.tell())
            archive.writestr(info, entry.data, compresslevel=9)


def _padding(name: str, start: int) -> bytes:
    """The extra field after which the data of an entry that begins at `start` is aligned."""
    alignment = ALIGNMENT
    if name.endswith(".so"):
        alignment = LIBRARY_ALIGNMENT
    elif name.endswith(".odm"):
        alignment = MODEL_ALIGNMENT
    size = -(start + HEADER_BYTES + len(name.encode())) % alignment
    if not size:
        return b""
    while size < 6:  # the field's own header and the alignment
        size += alignment
    return struct.pack("<HHH", ALIGNMENT_FIELD, size - 4, alignment) + bytes(size - 6)
