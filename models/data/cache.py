"""The encoded log as an Arrow IPC file: written once, mapped whenever that log is read again."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ondevice.atomic import atomic_path
from ondevice.errors import FileFormatError, SpecError, needs_extra
from ondevice.features import FeatureSpec
from ondevice.models.data.description import LogDescription
from ondevice.models.data.hashed import FieldSettings, HashedLog
from ondevice.models.data.parts import LogFile
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
    arrays: dict[str, Any] = {f"field {name}": _arrow(v) for name, v in log.hashes.items()}
    arrays["labels"] = _arrow(log.labels)
    if log.times is not None:
        arrays["times"] = _arrow(log.times)
    if log.weights is not None:
        arrays["weights"] = _arrow(log.weights)
    arrays |= {f"key {name}": _arrow(values) for name, values in log.keys.items()}
    facts = {name: getattr(log, name) for name in _FACTS}
    facts["features"] = log.features.to_json()
    facts["settings"] = {name: asdict(asked) for name, asked in log.settings.items()}
    facts["key_texts"] = log.key_texts
    facts["version"] = VERSION
    batch = pa.RecordBatch.from_arrays(list(arrays.values()), names=list(arrays))
    batch = batch.replace_schema_metadata({_KEY: json.dumps(facts).encode()})
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
        columns = {name: _numpy(batch.column(name)) for name in batch.schema.names}
        return HashedLog(
            name=facts["name"],
            features=FeatureSpec.from_json(facts["features"]),
            hashes=_of_prefix("field ", columns),
            labels=columns["labels"],
            times=columns.get("times"),
            weights=columns.get("weights"),
            keys=_of_prefix("key ", columns),
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


def _arrow(values: npt.NDArray[Any]) -> Any:
    """An array [n] or [n, length] as Arrow's, without a copy."""
    flat = np.ascontiguousarray(values).reshape(-1)
    kind = pa.from_numpy_dtype(flat.dtype)
    array = pa.Array.from_buffers(kind, len(flat), [None, pa.py_buffer(flat)])
    return array if values.ndim == 1 else pa.FixedSizeListArray.from_arrays(array, values.shape[1])


def _numpy(array: Any) -> npt.NDArray[Any]:
    """The mapped values [n] or [n, length] of an array without missing values."""
    if pa.types.is_fixed_size_list(array.type):
        size = array.type.list_size
        flat: npt.NDArray[Any] = array.flatten().to_numpy(zero_copy_only=True)
        return flat.reshape(-1, size)
    values: npt.NDArray[Any] = array.to_numpy(zero_copy_only=True)
    return values


def _of_prefix(prefix: str, columns: dict[str, npt.NDArray[Any]]) -> dict[str, npt.NDArray[Any]]:
    return {
        name.removeprefix(prefix): values
        for name, values in columns.items()
        if name.startswith(prefix)
    }
