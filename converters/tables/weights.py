"""A module's weights in safetensors files: one file, or several with an index."""

from __future__ import annotations

import contextlib
import copy
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import nn

from ondevice.converters.tables.table_source import FileTable
from ondevice.errors import PARSE_ERRORS, FileFormatError

INDEX_SUFFIX = ".index.json"
_HALVES = (torch.float16, torch.bfloat16)
FOLDER_NAMES = ("model.safetensors.index.json", "model.safetensors")


class Weights:
    """Tensors of safetensors files by name; opening reads only headers."""

    def __init__(self, path: str | Path) -> None:
        """Open a .safetensors file, an index (.index.json) beside its files, or a folder of either.

        Raises:
            FileFormatError: a file is missing or damaged, or the index does not fit the files.
        """
        self.path = _file_in(Path(path))
        self._files: dict[str, Path] = {}
        index = None
        if self.path.name.endswith(INDEX_SUFFIX):
            index = _read_index(self.path)
        for file in sorted({self.path} if index is None else set(index.values())):
            for name in _names(file):
                if index is None or index.get(name) == file:
                    self._files[name] = file
        if index is not None and (lacking := sorted(set(index) - set(self._files))):
            raise FileFormatError(f"{self.path}: not in the files it names: {', '.join(lacking)}")

    def tensors(self, expected: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """The tensors of a module's state, mapped: pages are read when they are used.

        Args:
            expected: the module's state, on any device; a name that is missing in the files may
                share its tensor with one that is not.

        Raises:
            FileFormatError: names, shapes or dtypes differ from those of the module.
        """
        prefix = self._prefix(expected)
        names = self._sources(expected)
        faults = [f"missing: {name}" for name in expected if name not in names]
        faults += [
            f"unknown: {name}"
            for name in self._files
            if not name.startswith(prefix) or name[len(prefix) :] not in expected
        ]
        mapped: dict[str, torch.Tensor] = {}
        for file in sorted(set(self._files.values())):
            with _opened(file) as opened:
                for name in sorted(set(names.values())):
                    if self._files[name] == file:
                        mapped[name] = opened.get_tensor(name)
        for name, source in names.items():
            wanted, stored = expected[name], mapped[source]
            if wanted.dtype == torch.float32 and stored.dtype in _HALVES:
                mapped[source] = stored = stored.to(torch.float32)
            if (wanted.shape, wanted.dtype) != (stored.shape, stored.dtype):
                faults.append(
                    f"{name}: expected {wanted.dtype} {list(wanted.shape)}, "
                    f"got {stored.dtype} {list(stored.shape)}"
                )
        if faults:
            raise FileFormatError(f"{self.path}: not this module's weights: {'; '.join(faults)}")
        parameters: dict[str, torch.Tensor] = {}
        for name, source in names.items():
            tensor, wanted = mapped[source], expected[name]
            if isinstance(wanted, nn.Parameter):  # names of a shared parameter share it again
                tensor = parameters.setdefault(source, nn.Parameter(tensor, wanted.requires_grad))
            mapped[source] = tensor
        return {name: mapped[source] for name, source in names.items()}

    def filled(self, module: nn.Module) -> nn.Module:
        """A copy of a module, perhaps on the meta device, with these weights, mapped.

        Raises:
            FileFormatError: see `tensors`; or a buffer without values that is not in the files.
        """
        state = module.state_dict(keep_vars=True)
        tensors = self.tensors(state)
        # a deep copy uses the objects in its memo instead of copying
        copied = copy.deepcopy(module, {id(state[name]): tensors[name] for name in state})
        if empty := [name for name, buffer in copied.named_buffers() if buffer.is_meta]:
            raise FileFormatError(
                f"{self.path}: no values for the buffers {', '.join(empty)}: create them "
                "with device='cpu', or make them part of the module's state"
            )
        return copied

    def tables(self, module: nn.Module) -> dict[str, FileTable]:
        """The float32 matrices among a module's weights, to be read from their files.

        Those that files hold in 16 bits are not among them: they are read into memory.
        """
        expected = module.state_dict(keep_vars=True)
        tables = {
            name: self._table(source, expected[name].shape)
            for name, source in self._sources(expected).items()
            if expected[name].dtype == torch.float32 and expected[name].ndim == 2
        }
        return {name: table for name, table in tables.items() if table is not None}

    def _prefix(self, expected: Mapping[str, torch.Tensor]) -> str:
        """What a wrapper (DataParallel, torch.compile, Lightning) put before every name."""
        if not self._files or not expected or set(self._files) & set(expected):
            return ""
        shortest = min(self._files, key=lambda name: (len(name), name))
        for place in range(1, len(shortest)):
            prefix = shortest[:place]
            if prefix.endswith(".") and shortest[place:] in expected:
                return prefix
        return ""

    def _sources(self, expected: Mapping[str, torch.Tensor]) -> dict[str, str]:
        """For every name of a module's state, the name of its tensor in the files."""
        prefix = self._prefix(expected)
        present = {
            id(tensor): prefix + name
            for name, tensor in expected.items()
            if prefix + name in self._files
        }
        sources = {}
        for name, tensor in expected.items():
            source = prefix + name if prefix + name in self._files else present.get(id(tensor))
            if source is not None:
                sources[name] = source
        return sources

    def _table(self, name: str, shape: torch.Size) -> FileTable | None:
        file = self._files[name]
        with file.open("rb") as opened:  # the library has checked the header
            length = int.from_bytes(opened.read(8), "little")
            entry = json.loads(opened.read(length))[name]
        if entry["dtype"] != "F32":
            return None
        return FileTable(file, 8 + length + int(entry["data_offsets"][0]), shape[0], shape[1])


def _file_in(path: Path) -> Path:
    """The index or the only file in a folder; the path itself where it is no folder."""
    if not path.is_dir():
        return path
    for name in FOLDER_NAMES:
        if (path / name).is_file():
            return path / name
    raise FileFormatError(f"{path}: holds neither {' nor '.join(FOLDER_NAMES)}")


def _read_index(path: Path) -> dict[str, Path]:
    """The file of each tensor.

    Names of files are untrusted: they must not leave the folder.

    Raises:
        FileFormatError: the file is no index, or names a file elsewhere.
    """
    try:
        entries: Any = json.loads(path.read_text(encoding="utf-8"))["weight_map"]
        index = {str(name): str(file) for name, file in entries.items()}
    except OSError as error:
        raise FileFormatError(f"{path}: cannot be read: {error.strerror}") from error
    except PARSE_ERRORS as error:
        raise FileFormatError(f"{path}: not an index of safetensors files: {error!r}") from error
    names = set(index.values())
    if outside := sorted(name for name in names if Path(name).name != name or name in ("", "..")):
        raise FileFormatError(f"{path}: files must be beside the index, not at {outside[0]!r}")
    return {name: path.parent / file for name, file in index.items()}


def _names(path: Path) -> list[str]:
    with _opened(path) as file:
        return list(file.keys())


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[Any]:
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            yield file
    except OSError as error:
        raise FileFormatError(f"{path}: cannot be read: {error.strerror or error}") from error
    except SafetensorError as error:
        raise FileFormatError(f"{path}: {_reason(path, error)}") from error


def _reason(path: Path, error: Exception) -> str:
    """Why a file is no safetensors file, and what to do if torch.save wrote it."""
    with contextlib.suppress(OSError), path.open("rb") as file:
        if file.read(4)[:2] in (b"PK", b"\x80\x02"):  # a zip of pickles; a bare pickle
            return (
                "written by torch.save, a pickle, which could run code and is never loaded; "
                "expected safetensors: safetensors.torch.save_file(torch.load("
                f"{path.name!r}, weights_only=True), 'model.safetensors') writes it"
            )
    return f"expected a safetensors file: {error}"
