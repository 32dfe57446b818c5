"""Checkpoints: a directory of safetensors files and config.json, never a pickle."""

from __future__ import annotations

import hashlib
import json
import signal
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

import numpy as np
import numpy.typing as npt
import torch
from safetensors import SafetensorError, safe_open
from safetensors.numpy import load_file as load_counts
from safetensors.numpy import save_file as save_counts
from safetensors.torch import save_file
from torch import Tensor
from tqdm import tqdm

from ondevice.converters.source.on_cpu import new_tensors_on_cpu
from ondevice.errors import FileFormatError, OutputError, SpecError
from ondevice.features import FeatureSpec
from ondevice.models.layers.replacements import RotatedEmbedding
from ondevice.models.network_config import ModelConfig
from ondevice.models.networks import ClickModel, build
from ondevice.publish import HIDDEN, finish, publishing

FORMAT = "ondevice-checkpoint"
VERSION = 2
WEIGHTS = "model.safetensors"
COUNTS = "counts.safetensors"
CONFIG = "config.json"
CHECKED_BYTES = 2**20  # at once
# Number types that may hold NaN or infinity, as safetensors names them.
FLOATS = {"F16": "<f2", "F32": "<f4", "F64": "<f8"}
_KEYS = {"format", "version", "weights_sha256", "counts_sha256", "model", "features", "extra"}


@dataclass(frozen=True)
class Checkpoint:
    """A model as it was saved.

    Attributes:
        model: in evaluation mode, on the CPU.
        features: how raw values become the model's IDs.
        extra: whatever JSON was saved beside it, such as metrics.
        counts: per field int64 [rows], how often the training split read each row of its table;
            empty if they were not saved.
        weights_sha256: of the file of weights, in hexadecimal.
    """

    model: ClickModel
    features: FeatureSpec
    extra: dict[str, Any]
    counts: dict[str, npt.NDArray[np.int64]] = field(default_factory=dict)
    weights_sha256: str = ""


def save_checkpoint(
    directory: str | Path,
    model: ClickModel,
    features: FeatureSpec,
    extra: Mapping[str, Any] | None = None,
    *,
    counts: Mapping[str, npt.NDArray[np.int64]] | None = None,
) -> None:
    """Write a checkpoint directory, complete or not at all (`ondevice.publish`).

    An older checkpoint of that name is replaced; anything else of that name, and a checkpoint with
    other files beside it, is not touched.

    Raises:
        SpecError: `extra` is not plain JSON, the features or the counts are not the model's, a
            weight is not finite, or `directory` exists and is not a checkpoint.
        OutputError: the disk refuses.
    """
    target = Path(directory)
    if target.exists() and not is_replaceable(target):
        raise SpecError(f"{target} exists and is not just a checkpoint; choose another name")
    if any(isinstance(table, RotatedEmbedding) for table in model.tables()):
        raise SpecError(
            "a model with rotated tables has no checkpoint: convert it, or fit it with rotate=False"
        )
    names = {field.name for field in features.fields}
    if names != set(model.inputs):
        raise SpecError(f"the features {sorted(names)} are not the model's {sorted(model.inputs)}")
    for mask in model.masks().values():
        mask.widths()  # brings the stored widths up to date
    tensors = {name: value.cpu().contiguous() for name, value in model.state_dict().items()}
    if faults := _values_not_finite(tensors):
        raise SpecError(f"not saved, values that are not finite in: {', '.join(faults)}")
    if counts and (faults := _count_faults(model, counts)):
        raise SpecError(f"not saved, counts: {'; '.join(faults)}")
    with publishing(target, removed=() if counts else (COUNTS,)) as folder:
        try:
            save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})
            if counts:
                save_counts(dict(counts), folder / COUNTS)
        except SafetensorError as error:  # what it makes of an OSError
            raise OutputError(f"{target}: cannot be written: {error}") from error
        config = {
            "format": FORMAT,
            "version": VERSION,
            "weights_sha256": _digest(folder / WEIGHTS),
            "counts_sha256": _digest(folder / COUNTS) if counts else None,
            "model": json.loads(model.config.to_json()),
            "features": features.to_json(),
            "extra": dict(extra or {}),
        }
        (folder / CONFIG).write_text(_to_json(config), encoding="utf-8")


@new_tensors_on_cpu()
def load_checkpoint(directory: str | Path) -> Checkpoint:
    """Read a checkpoint directory; nothing in it is executed or trusted before it is checked.

    Raises:
        FileFormatError: a file is missing, damaged, of another format or version, or names,
            shapes, dtypes or values of tensors differ from what the configuration says.
    """
    folder = Path(directory)
    finish(folder)
    config = _read_config(folder / CONFIG)
    try:
        model_config = ModelConfig.from_dict(config["model"])
        features = FeatureSpec.from_json(config["features"])
    except SpecError as error:
        raise FileFormatError(f"{folder / CONFIG}: {error}") from error
    inputs = {*model_config.embeddings, *model_config.histories}
    if {field.name for field in features.fields} != inputs:
        _refuse(folder / CONFIG, "the features are not those of the model")
    with torch.device("meta"):  # shapes only: a forged configuration must not allocate anything
        model = build(model_config)
    tensors = _read_tensors(folder / WEIGHTS, config["weights_sha256"], model.state_dict())
    model.eval()
    trained = {name for name, value in model.named_parameters() if value.requires_grad}
    model.load_state_dict(tensors, assign=True)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name in trained)
    _check_masks(folder / WEIGHTS, model)
    counts = {}
    if config["counts_sha256"] is not None:
        counts = _read_counts(folder / COUNTS, config["counts_sha256"], model)
    return Checkpoint(model, features, config["extra"], counts, config["weights_sha256"])


def _read_config(path: Path) -> dict[str, Any]:
    try:
        config = json.loads(path.read_text(encoding="utf-8"), parse_constant=_no_constant)
    except FileNotFoundError as error:
        raise FileFormatError(f"{path.parent} is not a checkpoint: no {CONFIG}") from error
    except (OSError, ValueError, RecursionError) as error:
        raise FileFormatError(f"{path}: cannot be read as JSON: {error}") from error
    if not isinstance(config, dict) or config.get("format") != FORMAT:
        _refuse(path, f"expected an object with format {FORMAT!r}")
    if config.get("version") != VERSION:
        _refuse(path, f"expected version {VERSION}, got {config.get('version')!r}")
    if set(config) != _KEYS:
        _refuse(path, f"expected the keys {sorted(_KEYS)}, got {sorted(config)}")
    if not isinstance(config["extra"], dict):
        _refuse(path, "'extra' must be an object")
    return config


def _read_tensors(path: Path, digest: object, expected: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """All tensors of a weights file, read only after its shapes and its digest were checked.

    Args:
        path: the safetensors file.
        digest: the SHA-256 that the configuration states.
        expected: by name a tensor of the shape and dtype that the model needs.

    Raises:
        FileFormatError: unreadable, or other names, shapes, dtypes or bytes than expected, or
            values that are not finite.
    """
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118
            shapes = {name: list(entry.get_shape()) for name, entry in slices.items()}
            _check_shapes(path, shapes, expected)
            actual, faults = _scan(path)
            if actual != digest:
                _refuse(path, f"its SHA-256 is {actual}, the configuration says {digest!r}")
            with _ctrl_c_waits():
                tensors = {name: file.get_tensor(name) for name in shapes}
    except (OSError, SafetensorError) as error:
        raise FileFormatError(f"{path}: cannot be read: {error}") from error
    wrong = [
        f"{name} ({expected[name].dtype}, got {value.dtype})"
        for name, value in tensors.items()
        if value.dtype != expected[name].dtype
    ]
    if wrong:
        _refuse(path, f"wrong dtypes: {', '.join(wrong)}")
    if faults:
        _refuse(path, f"values that are not finite in: {', '.join(faults)}")
    return tensors


@contextmanager
def _ctrl_c_waits() -> Iterator[None]:
    """Ctrl-C takes effect after the block: torch turns one inside its C++ into a ValueError."""
    before = signal.getsignal(signal.SIGINT)
    main = threading.current_thread() is threading.main_thread()
    if not main or not callable(before):  # only the main thread is interrupted, if any
        yield
        return
    pressed: list[tuple[int, FrameType | None]] = []
    signal.signal(signal.SIGINT, lambda number, frame: pressed.append((number, frame)))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
    if pressed:
        before(*pressed[0])


def _read_counts(path: Path, digest: object, model: ClickModel) -> dict[str, npt.NDArray[np.int64]]:
    try:
        if (actual := _digest(path)) != digest:
            _refuse(path, f"its SHA-256 is {actual}, the configuration says {digest!r}")
        counts = load_counts(path)
    except (OSError, SafetensorError) as error:
        raise FileFormatError(f"{path}: cannot be read: {error}") from error
    if faults := _count_faults(model, counts):
        _refuse(path, "; ".join(faults))
    return counts


def _count_faults(model: ClickModel, counts: Mapping[str, npt.NDArray[np.int64]]) -> list[str]:
    if set(counts) != set(model.fields):
        return [f"expected the fields {sorted(model.fields)}, got {sorted(counts)}"]
    faults = []
    for name, values in counts.items():
        rows = model.embedding(name).spec.rows
        if values.dtype != np.int64 or values.shape != (rows,):
            faults.append(f"{name!r} must be int64 [{rows}], got {values.dtype} {values.shape}")
        elif values.min() < 0:
            faults.append(f"{name!r} has a negative count")
    return faults


def _check_shapes(
    path: Path, actual: Mapping[str, list[int]], expected: Mapping[str, Tensor]
) -> None:
    if missing := sorted(set(expected) - set(actual)):
        _refuse(path, f"missing tensors: {', '.join(missing)}")
    if unknown := sorted(set(actual) - set(expected)):
        _refuse(path, f"unknown tensors: {', '.join(unknown)}")
    wrong = [
        f"{name} (expected {list(expected[name].shape)}, got {shape})"
        for name, shape in actual.items()
        if shape != list(expected[name].shape)
    ]
    if wrong:
        _refuse(path, f"wrong shapes: {', '.join(wrong)}")


def _check_masks(path: Path, model: ClickModel) -> None:
    for name, mask in model.masks().items():
        low, high = (int(bound) for bound in torch.aminmax(mask.kept))
        if low < 1 or high > mask.dim:
            _refuse(path, f"field {name!r}: widths must be 1..{mask.dim}, got {low}..{high}")
        if mask.level_of_row is None:
            continue
        low, high = (int(bound) for bound in torch.aminmax(mask.level_of_row))
        if low < 0 or high >= mask.levels:
            _refuse(path, f"field {name!r}: levels must be 0..{mask.levels - 1}")


def _scan(path: Path) -> tuple[str, list[str]]:
    """SHA-256 of a safetensors file, and its tensors with values that are not finite.

    Read once, not mapped: the library has checked the header, and pages would count as memory.
    """
    digest = hashlib.sha256()
    faults: set[str] = set()
    size = path.stat().st_size
    bar = tqdm(total=size, desc="checkpoint", unit="B", unit_scale=True, disable=None, delay=1.0)
    with path.open("rb") as file, bar:
        head = file.read(8)
        text = file.read(int.from_bytes(head, "little"))
        digest.update(head + text)
        bar.update(len(head + text))
        entries = {
            tuple(entry["data_offsets"]): (name, FLOATS.get(entry["dtype"]))
            for name, entry in json.loads(text).items()
            if name != "__metadata__"
        }
        for (start, stop), (name, dtype) in sorted(entries.items()):  # without holes
            for position in range(start, stop, CHECKED_BYTES):
                part = file.read(min(CHECKED_BYTES, stop - position))
                digest.update(part)
                if dtype and not np.isfinite(np.frombuffer(part, dtype)).all():
                    faults.add(name)
                bar.update(len(part))
        digest.update(file.read())
    return digest.hexdigest(), sorted(faults)


def _values_not_finite(tensors: Mapping[str, Tensor]) -> list[str]:
    return [
        name
        for name, value in tensors.items()
        if value.is_floating_point() and not bool(torch.isfinite(value).all())
    ]


def is_replaceable(target: Path) -> bool:
    """Whether a folder is empty or holds a checkpoint and nothing else, so that no file is lost."""
    if not target.is_dir():
        return False
    names = {path.name for path in target.iterdir() if not HIDDEN.fullmatch(path.name)}
    return not names or (CONFIG in names and names <= {CONFIG, WEIGHTS, COUNTS})


def _to_json(config: Mapping[str, Any]) -> str:
    try:
        return json.dumps(config, allow_nan=False, indent=1)
    except (TypeError, ValueError, RecursionError) as error:
        raise SpecError(f"'extra' must be plain JSON: {error}") from error


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a number that JSON knows")


def _refuse(path: Path, reason: str) -> NoReturn:
    raise FileFormatError(f"{path}: {reason}")
