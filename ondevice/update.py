"""Updates a model file in its place: by a delta or a whole file, verified, rolled back if bad.

Beside MODEL lie MODEL.previous, the last good file, and MODEL.update.json, whose `state` is

    trying   the file has a new model that has not yet been loaded to the end (`boot`)
    good     `boot` loaded it, and it answered its test vectors

Every step is a rename, so that MODEL is the old file or the new one at any moment, and complete.
"""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ondevice.atomic import atomic_path, sync
from ondevice.delta.apply import apply_delta
from ondevice.delta.layout import MAGIC
from ondevice.errors import (
    DowngradeError,
    FileFormatError,
    InputError,
    OnDeviceError,
    ParityError,
    writing,
)
from ondevice.manifest import FileRecord, record
from ondevice.model import Model, load
from ondevice.temporary import temporary_folder
from ondevice.verify import verify

PREVIOUS = ".previous"
STATE = ".update.json"
TRIES = 3  # starts of a new model that end neither well nor in an error: a crash, or lost power
MAX_STATE_BYTES = 65_536


@dataclass(frozen=True)
class UpdateState:
    """What is known of a model file that was updated.

    Attributes:
        state: "trying" or "good".
        sha256: of the file that this is about.
        tries: how often `boot` began to load it while "trying".
        rejected: SHA-256 of the file that was rolled back last; empty: none.
    """

    state: str
    sha256: str
    tries: int = 0
    rejected: str = ""


def update(model: str | Path, new: str | Path, *, engine: str = "auto") -> FileRecord:
    """Replace a model by what a delta makes of it, or by another file.

    The new file is complete, on the disk and verified before it gets the model's name: the
    delta's base, the SHA-256 of the result, its test vectors in the engine. The old file stays as
    MODEL.previous. Memory: less than 1 MiB and what the engine needs.

    Args:
        model: the file to update; if there is none, `new` must be a whole file.
        new: a .odd file, or a model of the same format.
        engine: runs the test vectors.

    Returns:
        Length and SHA-256 of the new file.

    Raises:
        BaseMismatchError: the delta was computed from another file.
        DowngradeError: this model was rolled back before.
        FileFormatError: the delta or the new model is damaged.
        ParityError: the new model does not answer its test vectors.
        OutputError: the disk refuses. In every case the model is as it was.
    """
    target, source = _real(Path(model)), Path(new)
    with writing(target), temporary_folder(target.parent) as folder:
        draft = folder / f"new{target.suffix}"
        _write_draft(draft, target, source)
        result = record(draft)
        before = read_state(target)
        if before is not None and before.rejected == result.sha256:
            raise DowngradeError(
                f"{source}: makes the model of SHA-256 {result.sha256}, which was rolled back"
            )
        _check_vectors(draft, engine, str(source))
        sync(draft)
        rejected = "" if before is None else before.rejected
        if target.exists():
            shutil.copymode(target, draft)
            if before is None or before.state == "good":
                _keep(target, folder)
        _write_state(target, UpdateState("trying", result.sha256, 0, rejected))
        draft.replace(target)
        sync(target.parent)
    return result


def rollback(model: str | Path) -> FileRecord:
    """Put the previous file back.

    Returns:
        Its length and SHA-256.

    Raises:
        InputError: there is no previous file.
        OutputError: the disk refuses.
    """
    target = _real(Path(model))
    previous = _beside(target, PREVIOUS)
    if not previous.is_file():
        raise InputError(f"{target}: there is no {previous.name} to go back to")
    result = record(previous)
    with writing(target):
        rejected = record(target).sha256 if target.is_file() else ""
        previous.replace(target)
        sync(target.parent)
        _write_state(target, UpdateState("good", result.sha256, 0, rejected))
    return result


def boot(model: str | Path, *, engine: str = "auto", **options: Any) -> Model:
    """Load a model that may have been updated; an update that does not work is rolled back.

    The first load after an update also verifies it. If that ends in an error, or has begun TRIES
    times without ending, because the process crashed, the previous file is put back and loaded.

    Args:
        model: the file.
        engine: runs it.
        options: other arguments of `ondevice.load`.

    Raises:
        OnDeviceError: the model cannot be loaded and there is no previous one; see `load`.
    """
    target = _real(Path(model))
    state = read_state(target)
    if state is None or state.state == "good":
        return load(target, engine=engine, **options)
    actual = record(target).sha256
    if actual != state.sha256:  # power was lost before the new file had the name
        _write_state(target, UpdateState("good", actual, 0, state.rejected))
        return load(target, engine=engine, **options)
    has_previous = _beside(target, PREVIOUS).is_file()
    if state.tries >= TRIES and has_previous:
        rollback(target)
        return load(target, engine=engine, **options)
    _write_state(target, UpdateState("trying", actual, state.tries + 1, state.rejected))
    try:
        _check_vectors(target, engine, str(target))
        loaded = load(target, engine=engine, **options)
    except OnDeviceError:
        if not has_previous:
            raise
        rollback(target)
        return load(target, engine=engine, **options)
    _write_state(target, UpdateState("good", actual, 0, state.rejected))
    return loaded


def read_state(model: Path) -> UpdateState | None:
    """What is known of a model's update; None: it was never updated.

    A state that cannot be read counts as that of a file that was not loaded yet.
    """
    path = _beside(model, STATE)
    try:
        with path.open("rb") as file:
            data = json.loads(file.read(MAX_STATE_BYTES))
        state = UpdateState(**data)
        texts = (state.state, state.sha256, state.rejected)
        if all(type(text) is str for text in texts) and type(state.tries) is int:
            return state
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError, RecursionError):
        pass
    return UpdateState("trying", record(model).sha256)


def _write_draft(draft: Path, target: Path, source: Path) -> None:
    """The new model file, from a delta or as a copy of a whole file. Raises FileFormatError."""
    try:
        with source.open("rb") as given, draft.open("xb") as new:
            if given.read(len(MAGIC)) != MAGIC:
                given.seek(0)
                shutil.copyfileobj(given, new)
                return
            given.seek(0)
            with target.open("rb") as old:
                apply_delta(given, old, new, (str(source), str(target)))
    except FileNotFoundError as error:
        raise FileFormatError(f"{error.filename}: no such file") from error


def _check_vectors(path: Path, engine: str, name: str) -> None:
    """Verify a model. Raises ParityError or what `verify` raises; `name` is the model's in it."""
    result = verify(path, engine=engine)
    if not result.passed:
        raise ParityError(
            f"{name}: the new model does not answer its test vectors in {result.runtime}: largest "
            f"difference {result.max_difference:.2g}, of rank {result.rank_difference:.2g}, "
            f"tolerance {result.tolerance:g}"
        )


def _keep(target: Path, folder: Path) -> None:
    """Give the model's file a second name, MODEL.previous, through a temporary folder beside it."""
    second = folder / "previous"
    try:
        second.hardlink_to(target)
    except OSError:  # a file system without hard links
        shutil.copy2(target, second)
        sync(second)
    second.replace(_beside(target, PREVIOUS))


def _write_state(target: Path, state: UpdateState) -> None:
    with atomic_path(_beside(target, STATE)) as path:
        path.write_text(json.dumps(asdict(state), indent=1) + "\n", encoding="utf-8")


def _beside(model: Path, suffix: str) -> Path:
    return model.with_name(model.name + suffix)


def _real(model: Path) -> Path:
    """The file that a name stands for, behind symbolic links."""
    return Path(os.path.realpath(model))
