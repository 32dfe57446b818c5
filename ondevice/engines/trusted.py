"""Opens a model file of a signed set, from copies that were checked and cannot change."""

from __future__ import annotations

from pathlib import Path

from ondevice.engines import Engine, open_engine
from ondevice.engines.options import Options
from ondevice.errors import FileFormatError, LockError, TrustError, UnsupportedError
from ondevice.info import ModelInfo
from ondevice.private_copies import private_copies
from ondevice.publish import finish
from ondevice.trust import Trust


def open_trusted(path: Path, options: Options, trust: Trust) -> tuple[str, Engine, ModelInfo]:
    """Open a file as `ondevice.engines.open_engine` does, if its set is trusted.

    Raises:
        TrustError: the set is not trusted, or the file is not of it.
        FileFormatError, InputError, LockError, MissingDependencyError, UnsupportedError: as
            `open_engine` and `ondevice.private_copies.private_copies`.
        OutputError: the state file cannot be written.
    """
    finish(path.parent)
    trusted = trust.check(path.parent)
    files = trusted.manifest.model_set.files
    if path.name not in files:
        raise TrustError(f"{path}: the signed manifest beside it does not list it")
    names = [name for name in (path.name, f"{path.name}.data") if name in files]
    with private_copies(path.parent, {name: files[name] for name in names}) as copies:
        try:
            opened = open_engine(path, options, copies)
        except (FileFormatError, LockError, UnsupportedError) as error:
            text = str(error).replace(str(copies[path.name]), str(path))
            raise type(error)(text) from error
    trust.remember(trusted)
    return opened
