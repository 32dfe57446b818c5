"""The encoded log as an Arrow IPC file: written once, mapped whenever that log is read again."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

from ondevice.atomic import atomic_path
from ondevice.errors import FileFormatError, SpecError, needs_extra
from ondevice.features import FeatureSpec
from ondevice.models.data.description import LogDescription
from ondevice.models.data.hashed import FieldSettings, HashedLog
from ondevice.models.data.parts import LogFile
from ondevice.models.data.row_batches import batch_of, rows_of
from ondevice.models.data.splits import SplitRule

with needs_extra("reading Parquet and Arrow", "train"):
    import pyarrow as pa

VERSION = 1  # of how a row becomes hashes, and of the file's layout
_KEY = b"ondevice"
_FACTS = ("name", "bounds", "label_names", "negative_sampling", "refused")


def cache_key(
    files: Sequence[LogFile],
    description: LogDescription,
    split: SplitRule | None,
    limits: tuple[int | None, int],
) -> str:
    """A name for what these files become: of their paths, sizes and times, and all settings.

    Args:
        files: the files that are read.
        description: of their columns.
        split: how rows are divided.
        limits: how many rows are read, and how many of them may be refused.
    """
    stats = [(str(file.path.resolve()), file.path.stat()) for file in files]
    facts = {
        "version": VERSION,
        "files": [(path, stat.st_size, stat.st_mtime_ns) for path, stat in stats],
        "values": [file.values for file in files],
        "description": asdict(description),
        "split": None if split is None else asdict(split),
        "limits": limits,
    }
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:32]


def cached_log(folder: Path, key: str, read: Callable[[], HashedLog]) -> HashedLog:
    """The log of a key, mapped from the folder's file; read and written there the first time.

    A file that cannot be read is written anew. An interrupted write leaves no file.

    Raises:
        OutputError: the folder cannot be written.
        DataError: the source cannot be read.
    """
    path = folder / f"log-{key}.arrow"
    if path.is_file():
        try:
            return load_log(path)
        except FileFormatError:
            pass  # of another version, or damaged
    save_log(path, read())
    return load_log(path)


def save_log(path: Path, log: HashedLog) -> None:
    """Write a log as one record batch, complete or not at all. Raises OutputError."""
    facts = {name: getattr(log, name) for name in _FACTS}
    facts["features"] = log.features.to_json()
    facts["settings"] = {name: asdict(asked) for name, asked in log.settings.items()}
    facts["key_texts"] = log.key_texts
    facts["version"] = VERSION
    batch = batch_of(log).replace_schema_metadata({_KEY: json.dumps(facts).encode()})
    with (
        atomic_path(path) as temporary,
        pa.OSFile(str(temporary), "wb") as sink,
        pa.ipc.new_file(sink, batch.schema) as writer,
    ):
        writer.write_batch(batch)


def load_log(path: Path) -> HashedLog:
    """Map a log that `save_log` wrote. Raises FileFormatError where the file is none."""
    try:
        with pa.memory_map(str(path)) as source:
            batch = pa.ipc.open_file(source).get_batch(0)
        facts = json.loads(batch.schema.metadata[_KEY])
        if facts["version"] != VERSION:
            raise FileFormatError(f"{path}: an encoded log of version {facts['version']}")
        rows = rows_of(batch)
        return HashedLog(
            name=facts["name"],
            features=FeatureSpec.from_json(facts["features"]),
            hashes=dict(rows.hashes),
            labels=rows.labels,
            times=rows.times,
            weights=rows.weights,
            keys=rows.keys,
            label_names=tuple(facts["label_names"]),
            bounds=None if facts["bounds"] is None else tuple(facts["bounds"]),
            settings={n: FieldSettings(**asked) for n, asked in facts["settings"].items()},
            negative_sampling=facts["negative_sampling"],
            refused=facts["refused"],
            key_texts={
                key: {int(value): text for value, text in texts.items()}
                for key, texts in facts.get("key_texts", {}).items()
            },
        )
    except (pa.ArrowException, OSError, KeyError, TypeError, ValueError, SpecError) as error:
        raise FileFormatError(f"{path}: no encoded log: {error}") from error
