"""Updates a model file in its place: by a delta or a whole file, verified, rolled back if bad.

Beside MODEL lie MODEL.previous, the last good file, and MODEL.update.json, whose `state` is

    trying   the file has a new model that has not yet been loaded to the end (`boot`)
    good     `boot` loaded it, and it answered its test vectors

They change together (`ondevice.publish`); MODEL is the old file or the new one at any moment.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import sys
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from ondevice.atomic import atomic_path, copy_permissions
from ondevice.delta.apply import apply_delta
from ondevice.delta.layout import MAGIC
from ondevice.errors import (
    DowngradeError,
    FileFormatError,
    InputError,
    OnDeviceError,
    OutputError,
    ParityError,
    TrustError,
    writing,
)
from ondevice.limits import MAX_MANIFEST_BYTES
from ondevice.manifest import NAME as MANIFEST
from ondevice.manifest import FileRecord, Manifest, check, parse_manifest, read_manifest, record
from ondevice.model import Model, check_one_file, load
from ondevice.publish import finish, locked, publishing
from ondevice.trust import Keys, read_trust
from ondevice.verify import verify

if sys.platform != "win32":  # no locks there
    import fcntl

PREVIOUS = ".previous"
STATE = ".update.json"
TRIES = 3  # starts of a new model that end neither well nor in an error: a crash, or lost power
MAX_STATE_BYTES = 65_536
ATTEMPTS = 5  # of an update that other processes forestall


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

    def to_bytes(self) -> bytes:
        """The state file."""
        return json.dumps(asdict(self), indent=1).encode() + b"\n"


def update(
    model: str | Path,
    new: str | Path,
    *,
    engine: str = "auto",
    keys: Keys | None = None,
    state: str | Path | None = None,
    now: datetime | None = None,
    again: bool = False,
) -> FileRecord:
    """Replace a model by what a delta makes of it, or by another file.

    The new file is complete, on the disk and verified before it gets the model's name: the
    delta's base, the SHA-256 of the result, its test vectors in the engine. The old file stays as
    MODEL.previous. Memory: less than 1 MiB and what the engine needs. The manifest of the new set,
    which a delta brings along or which lies beside a whole file, replaces that of the model.

    Args:
        model: the file to update; if there is none, `new` must be a whole file.
        new: a .odd file, or a model of the same format.
        engine: runs the test vectors.
        keys: who must have signed the new set; see `ondevice.load`, also for `state` and `now`.
        state: what the device has seen.
        now: the time.
        again: take the model that was rolled back last, too. Everything else is checked as ever.

    Returns:
        Length and SHA-256 of the new file. If the model is that file already, only its manifest is
        replaced, and the previous file stays the last good one.

    Raises:
        BaseMismatchError: the delta was computed from another file.
        DowngradeError: the new set is older than the installed one, or this model was rolled back
            before.
        TrustError: the new set is not signed by `keys`; see `ondevice.load`.
        FileFormatError: the delta, the new model or its manifest is damaged.
        InputError: the model belongs to a set, and the update brings no manifest; or an .onnx file
            with external data, or what is no regular file.
        ParityError: the new model does not answer its test vectors.
        OutputError: the disk refuses. In every case the model is as it was.
    """
    target, source = _real(Path(model)), Path(new)
    for path in (target, source):
        if path.exists() and not path.is_file():
            raise InputError(f"{path}: not a regular file; expected the file of a model")
        check_one_file(path)
    trust = _Trust(keys, state, now)
    for _ in range(ATTEMPTS):
        with contextlib.suppress(_ForestalledError):
            return _update_once(target, source, engine, trust, again)
    raise _busy(target)


def _busy(target: Path) -> OutputError:
    return OutputError(f"{target}: cannot be written: other processes keep updating it")


@dataclass(frozen=True)
class _Trust:
    """Who must have signed an update; see `update`."""

    keys: Keys | None
    state: str | Path | None
    now: datetime | None


class _ForestalledError(Exception):
    """Another process changed the model, its manifest or its state since an update began."""


def _update_once(target: Path, source: Path, engine: str, trust: _Trust, again: bool) -> FileRecord:
    """Update a model, unless another process does so meanwhile; see `update`.

    Raises:
        _ForestalledError: nothing was changed.
    """
    finish(target.parent)
    seen = _identity(target)
    with publishing(target.parent, unless=lambda: _check_unchanged(target, seen)) as fresh:
        draft = fresh / target.name
        attached = _write_draft(draft, target, source)
        result = record(draft)
        before = read_update_state(target)
        if before is not None and before.rejected == result.sha256 and not again:
            raise DowngradeError(
                f"{source}: makes the model of SHA-256 {result.sha256}, which was rolled back; "
                "publish another one, or take it all the same: ondevice update --again"
            )
        manifest = _checked_manifest(attached, target, result, str(source))
        if trust.keys is not None:
            if manifest is None:
                raise TrustError(f"{source}: brings no manifest, so nothing says who signed it")
            read_trust(trust.keys, trust.state, trust.now).check_manifest(manifest, target.parent)
        _check_vectors(draft, engine, str(source))
        if manifest is not None:
            (fresh / MANIFEST).write_bytes(attached)
        if target.exists() and record(target) == result:
            draft.unlink()
            return result
        if target.exists() and (before is None or before.state == "good"):
            _keep(fresh, [target, target.with_name(MANIFEST)])
        rejected = "" if before is None or before.rejected == result.sha256 else before.rejected
        trying = UpdateState("trying", result.sha256, 0, rejected)
        (fresh / _beside(target, STATE).name).write_bytes(trying.to_bytes())
    return result


def _identity(target: Path) -> tuple[object, ...]:
    """What changes when a process updates a model, rolls it back, or boots it."""
    stats: list[object] = []
    for path in (target, target.with_name(MANIFEST), _beside(target, STATE)):
        try:
            status = path.stat()
            stats.append((status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns))
        except OSError:
            stats.append(None)
    return tuple(stats)


def _check_unchanged(target: Path, seen: tuple[object, ...]) -> None:
    if _identity(target) != seen:
        raise _ForestalledError


def rollback(model: str | Path) -> FileRecord:
    """Put the previous file back, and the manifest that it had.

    Returns:
        Its length and SHA-256.

    Raises:
        InputError: there is no previous file.
        OutputError: the disk refuses.
    """
    return _roll_back(_real(Path(model)), None)


def _roll_back(target: Path, seen: tuple[object, ...] | None) -> FileRecord:
    """See `rollback`.

    Raises:
        _ForestalledError: the model and its manifest are not those that were `seen`.
    """
    finish(target.parent)
    manifest = target.with_name(MANIFEST)
    previous = _beside(target, PREVIOUS)
    if not previous.is_file():
        raise InputError(f"{target}: there is no {previous.name} to go back to")
    restored = [item for item in (target, manifest) if _beside(item, PREVIOUS).is_file()]
    rejected = record(target).sha256 if target.is_file() else ""
    removed = [_beside(item, PREVIOUS).name for item in restored]
    if len(restored) == 1 and manifest.is_file() and _lists(manifest, target.name):
        removed.append(MANIFEST)  # it came with the file that goes

    def unless() -> None:
        if seen is not None and _identity(target)[:2] != seen:
            raise _ForestalledError

    with publishing(target.parent, removed=removed, unless=unless) as fresh:
        for item in restored:
            _link(_beside(item, PREVIOUS), fresh / item.name)
        result = record(fresh / target.name)
        good = UpdateState("good", result.sha256, 0, rejected)
        (fresh / _beside(target, STATE).name).write_bytes(good.to_bytes())
    return result


def boot(model: str | Path, *, engine: str = "auto", **options: Any) -> Model:
    """Load a model that may have been updated; an update that does not work is rolled back.

    The first load after an update also verifies it, while other processes that boot the model wait.
    If that ends in an error, or has begun TRIES times without ending, because the process crashed,
    the previous file is put back and loaded. On storage that cannot be written an update is
    verified every time, with a warning, and not counted.

    Args:
        model: the file.
        engine: runs it.
        options: other arguments of `ondevice.load`.

    Raises:
        OnDeviceError: the model cannot be loaded and there is no previous one; see `load`.
    """
    target = _real(Path(model))
    finish(target.parent)
    if _is_settled(target):
        return load(target, engine=engine, **options)
    for _ in range(ATTEMPTS):
        with contextlib.suppress(_ForestalledError), _one_at_a_time(target):
            finish(target.parent)
            if _is_settled(target):  # by the process that was waited for
                return load(target, engine=engine, **options)
            return _try(target, engine, options)
    raise _busy(target)


def _is_settled(target: Path) -> bool:
    state = read_update_state(target)
    return state is None or state.state == "good"


def _try(target: Path, engine: str, options: dict[str, Any]) -> Model:
    """Load a new model, or the previous one if it does not work; see `boot`.

    Raises:
        _ForestalledError: it did not work, but another process changed it meanwhile, so that
            nothing is known of either model.
    """
    seen = _identity(target)[:2]
    state = read_update_state(target)
    actual = record(target).sha256
    if state is None or actual != state.sha256:  # somebody put another file there by hand
        rejected = "" if state is None else state.rejected
        _write_state(target, state, UpdateState("good", actual, 0, rejected))
        return load(target, engine=engine, **options)
    has_previous = _beside(target, PREVIOUS).is_file()
    if state.tries >= TRIES and has_previous:
        _roll_back(target, seen)
        return load(target, engine=engine, **options)
    tried = UpdateState("trying", actual, state.tries + 1, state.rejected)
    _write_state(target, state, tried)
    try:
        _check_vectors(target, engine, str(target))
        loaded = load(target, engine=engine, **options)
    except OnDeviceError:
        if not has_previous:
            raise
        _roll_back(target, seen)
        return load(target, engine=engine, **options)
    _write_state(target, tried, UpdateState("good", actual, 0, state.rejected))
    return loaded


@contextlib.contextmanager
def _one_at_a_time(target: Path) -> Iterator[None]:
    """Wait until no other process tries a model; the system ends the wait if that one dies."""
    if sys.platform == "win32":
        yield
    else:
        with contextlib.ExitStack() as stack:
            with contextlib.suppress(OSError):  # no such file, or a file system without locks
                descriptor = os.open(target, os.O_RDONLY)
                stack.callback(os.close, descriptor)
                fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield


def read_update_state(model: Path) -> UpdateState | None:
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


def _write_draft(draft: Path, target: Path, source: Path) -> bytes:
    """Write the new model file, from a delta or as a copy of a whole file.

    Returns:
        The manifest that comes with it; empty: none.

    Raises:
        FileFormatError, BaseMismatchError: see `update`.
    """
    try:
        with source.open("rb") as given, draft.open("xb") as new:
            if given.read(len(MAGIC)) == MAGIC:
                given.seek(0)
                with target.open("rb") as old:
                    return apply_delta(given, old, new, (str(source), str(target))).manifest
            given.seek(0)
            shutil.copyfileobj(given, new)
    except FileNotFoundError as error:
        raise FileFormatError(f"{error.filename}: no such file") from error
    beside = source.with_name(MANIFEST)
    if not beside.is_file() or beside.resolve() == target.with_name(MANIFEST):
        return b""
    with beside.open("rb") as file:
        return file.read(MAX_MANIFEST_BYTES + 1)


def _checked_manifest(
    attached: bytes, target: Path, result: FileRecord, source: str
) -> Manifest | None:
    """The manifest that an update brings, compared with the files and the installed manifest.

    Raises:
        InputError, FileFormatError, DowngradeError: see `update`.
    """
    installed = target.with_name(MANIFEST)
    is_set = installed.is_file() and _lists(installed, target.name)
    if not attached:
        if is_set:
            raise InputError(
                f"{target}: belongs to the set of {installed}, and {source} brings no manifest"
            )
        return None
    where = f"{source}: {MANIFEST}"
    manifest = parse_manifest(attached, where)
    files = manifest.model_set.files
    if files.get(target.name) != result:
        raise FileFormatError(
            f"{where}: does not list {target.name} with {result.length} bytes and the SHA-256 "
            f"{result.sha256}"
        )
    others = [name for name in files if name != target.name and _is_model_file(name)]
    present = [name for name in others if (target.parent / name).exists()]
    try:
        check(manifest, target.parent, present)
    except FileFormatError as error:
        raise FileFormatError(
            f"{error}; an update replaces {target.name} only, so keep no other model file beside it"
        ) from error
    if is_set:
        old, new = read_manifest(installed).model_set.version, manifest.model_set.version
        if new < old:
            raise DowngradeError(f"{where}: version {new}; version {old} is installed")
    return manifest


def _is_model_file(name: str) -> bool:
    """Whether a set's file is part of a model; reports and cards may be older than it."""
    return name.endswith((".odm", ".onnx", ".onnx.data", ".tflite"))


def _lists(manifest: Path, name: str) -> bool:
    """Whether a manifest of this project lists a file."""
    try:
        return name in read_manifest(manifest).model_set.files
    except FileFormatError:
        return False


def _check_vectors(path: Path, engine: str, name: str) -> None:
    """Verify a model. Raises ParityError or what `verify` raises; `name` is the model's in it."""
    try:
        result = verify(path, engine=engine)
    except OnDeviceError as error:
        raise type(error)(str(error).replace(str(path), name)) from error
    if not result.passed:
        raise ParityError(
            f"{name}: the new model does not answer its test vectors in {result.runtime}: largest "
            f"difference {result.max_difference:.2g}, of rank {result.rank_difference:.2g}, "
            f"tolerance {result.tolerance:g}"
        )


def _keep(fresh: Path, files: Sequence[Path]) -> None:
    """Give files that are about to be replaced a second name in the set that is published."""
    for item in files:
        if item.is_file():
            _link(item, fresh / _beside(item, PREVIOUS).name)


def _link(file: Path, second: Path) -> None:
    try:
        second.hardlink_to(file)
    except OSError:  # a file system without hard links
        shutil.copyfile(file, second)
        copy_permissions(second, file.stat())


def _write_state(target: Path, before: UpdateState | None, state: UpdateState) -> None:
    """Write the state, unless another process wrote one meanwhile: an update, or a rollback."""
    try:
        with writing(target), locked(target.parent):
            if _beside(target, STATE).is_file() and read_update_state(target) == before:
                with atomic_path(_beside(target, STATE)) as path:
                    path.write_bytes(state.to_bytes())
    except OutputError as error:
        warnings.warn(f"an update that is tried is not counted: {error}", RuntimeWarning, 4)


def _beside(model: Path, suffix: str) -> Path:
    return model.with_name(model.name + suffix)


def _real(model: Path) -> Path:
    """The file that a name stands for, behind symbolic links."""
    return Path(os.path.realpath(model))
