"""A module of the user by name, "package.module:factory", and its example inputs."""

from __future__ import annotations

import importlib
import inspect
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from ondevice.converters.source.array_files import ARRAY_FILE_ERRORS
from ondevice.errors import FileFormatError, InputError, SpecError


def load_module(name: str) -> nn.Module:
    """Import a module of the user's.

    Args:
        name: "package.module:attribute": an `nn.Module`, or a function (or class) without
            arguments that returns one. Like `python -m`, it is looked for in the working directory
            too, and importing it runs the user's code.

    Raises:
        InputError: it cannot be imported, or is no module.
    """
    path, _, attribute = name.partition(":")
    if not path or path.startswith(".") or not attribute:
        raise InputError(f"{name}: expected package.module:attribute, such as net:make")
    sys.path.insert(0, str(Path.cwd()))
    try:
        target: Any = importlib.import_module(path)
        for part in attribute.split("."):
            target = getattr(target, part)
        module = target if isinstance(target, nn.Module) else target()
    except (Exception, SystemExit) as error:  # the user's code may raise anything, or sys.exit
        raise InputError(f"{name}: {_described(error)}") from error
    finally:
        sys.path.pop(0)
    if not isinstance(module, nn.Module):
        raise InputError(f"{name}: expected a torch.nn.Module, got {type(module).__name__}")
    return module.eval()


def _described(error: BaseException) -> str:
    """An error of the user's code in one line, also where its __str__ raises."""
    try:
        text = " ".join(str(error).split())
    except Exception:  # its __str__ raises too
        text = ""
    if isinstance(error, SystemExit):
        text = f"it ends the program{f' ({text})' if text else ''} instead of returning a module"
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def load_arrays(path: Path) -> dict[str, np.ndarray[Any, Any]]:
    """The arrays of an .npz file by name; pickled objects are refused.

    Raises:
        FileFormatError: not an .npz file of plain arrays.
    """
    if path.suffix.lower() != ".npz":
        raise FileFormatError(f"{path}: expected .npz: arrays by input name (numpy.savez)")
    try:
        with np.load(path, allow_pickle=False) as stored:
            return {name: stored[name] for name in stored.files}
    except ARRAY_FILE_ERRORS as error:
        raise FileFormatError(f"{path}: not an .npz file of plain arrays: {error}") from error


def example_tensors(module: nn.Module, arrays: dict[str, np.ndarray[Any, Any]]) -> Any:
    """Example inputs for `convert`, named as forward's parameters or as keys of the only one.

    Raises:
        SpecError: the names fit neither.
    """
    tensors = {name: torch.from_numpy(array) for name, array in arrays.items()}
    parameters = inspect.signature(module.forward).parameters
    if set(tensors) <= set(parameters):
        return tensors
    if len(parameters) != 1:
        raise SpecError(
            f"example inputs are named {', '.join(tensors)}; forward takes {', '.join(parameters)}"
        )
    return (next(iter(tensors.values())),) if len(tensors) == 1 else (tensors,)
