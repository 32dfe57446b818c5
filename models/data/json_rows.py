"""Rows of JSON lines: one object a line, as requests are read when a model is served."""

from __future__ import annotations

import io
import json
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

from ondevice.compression import damage, decompressed
from ondevice.errors import DataError
from ondevice.models.data.chunks import BadRows, ObjectChunk
from ondevice.models.data.rows import CHUNK_ROWS, opened, progress
from ondevice.strict_json import unique_keys


def read_objects(path: Path, used: Collection[str], bad_rows: BadRows) -> Iterator[ObjectChunk]:
    """The objects of a file in chunks; .gz, .xz, ... are decompressed, empty lines are skipped.

    Args:
        path: the file.
        used: the keys that every object must have; a missing value is null.
        bad_rows: counts lines that are no such object, which are left out.

    Raises:
        DataError: no such file, a damaged compression, text that is not UTF-8, a bad line.
    """
    needed = tuple(used)
    names: tuple[str, ...] = ()
    lines: list[int] = []
    rows: list[dict[str, Any]] = []
    number = 0
    with opened(path) as raw, progress(path) as bar:
        text = io.TextIOWrapper(decompressed(raw, path.suffix), "utf-8-sig", newline="")
        try:
            for number, line in enumerate(text, start=1):
                if not line.strip():
                    continue
                try:
                    rows.append(_object(path, number, line, needed))
                    names = names or tuple(rows[0])
                    lines.append(number)
                except DataError as error:
                    bad_rows.refuse(error)
                if len(rows) == CHUNK_ROWS:
                    yield ObjectChunk(path, names, lines, rows)
                    lines, rows = [], []
                    bar.update(raw.tell() - bar.n)
        except UnicodeError as error:
            raise DataError(f"{path}, after line {number}: expected UTF-8: {error}") from error
        except damage() as error:
            reason = error or type(error).__name__
            raise DataError(
                f"{path}: damaged or truncated after line {number}: {reason}"
            ) from error
        finally:
            text.detach()
    if rows:
        yield ObjectChunk(path, names, lines, rows)


def _object(path: Path, number: int, line: str, names: Collection[str]) -> dict[str, Any]:
    """The object of a line. Raises DataError where it is none, or lacks a key."""
    try:
        row = json.loads(line, object_pairs_hook=unique_keys)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}, line {number}: not valid JSON: {error}") from error
    if not isinstance(row, dict):
        raise DataError(f"{path}, line {number}: expected a JSON object, got {line.strip()[:40]}")
    if absent := [name for name in names if name not in row]:
        raise DataError(
            f"{path}, line {number}: no key {', '.join(map(repr, absent))}; a missing value is null"
        )
    return row
