"""Loads a model file as an MLflow model: `loader_module="ondevice.pyfunc"`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ondevice.errors import InputError
from ondevice.model import Model, load

# Of a folder, best first; it has at most one model's files of each kind.
KINDS = (".odm", ".onnx", ".tflite")


class PyFuncModel:
    """What MLflow calls: `predict` of data frames, whatever the kind of file."""

    def __init__(self, model: Model) -> None:
        self.model = model

    def predict(self, model_input: Any, params: Mapping[str, Any] | None = None) -> Any:
        """Scores of the rows of a data frame or mapping; see `Model.predict`.

        Args:
            model_input: raw values, if the file says how they are read, else IDs.
            params: {"raw": False} for IDs where the file could read raw values.

        Raises:
            InputError: as `Model.predict` does; a parameter other than "raw".
        """
        settings = dict(params or {})
        raw = settings.pop("raw", bool(self.model.features.fields))
        if settings or not isinstance(raw, bool):
            raise InputError(f"params: expected only raw, true or false; got {params}")
        return self.model.predict(model_input, raw=raw)


def _load_pyfunc(data_path: str) -> PyFuncModel:
    """What MLflow looks for: opens a model file, or the best one of a folder of one model.

    Raises:
        InputError: the folder holds no model file, or several of the best kind.
        FileFormatError, MissingDependencyError: as `ondevice.load` does.
    """
    path = Path(data_path)
    return PyFuncModel(load(_model_file(path) if path.is_dir() else path))


def _model_file(folder: Path) -> Path:
    for kind in KINDS:
        files = sorted(path for path in folder.iterdir() if path.suffix.lower() == kind)
        if len(files) > 1:
            names = ", ".join(path.name for path in files)
            raise InputError(f"{folder}: one model expected, got {names}; name the file")
        if files:
            return files[0]
    raise InputError(f"{folder}: expected a model file ({', '.join(KINDS)}), found none")
