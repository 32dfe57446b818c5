"""The state of an unfinished training, saved after each epoch, to go on from if it is killed."""

from __future__ import annotations

import copy
import hashlib
import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from ondevice.atomic import atomic_path
from ondevice.errors import PARSE_ERRORS, FileFormatError, InputError, OutputError, writing
from ondevice.models.data import HashedLog
from ondevice.models.data.statistics import CHUNK
from ondevice.models.networks import ClickModel
from ondevice.models.training.history import Epoch, History
from ondevice.models.training.metrics import Metrics

STATE_ERRORS: tuple[type[Exception], ...] = (*PARSE_ERRORS, SafetensorError)
SETTINGS = "settings.json"
FORMAT = "ondevice-training-state 2"


@dataclass(frozen=True)
class PhaseState:
    """Where one phase of a training is saved; see `TrainingState`."""

    path: Path
    owner: TrainingState

    def save(
        self,
        model: ClickModel,
        best: Mapping[str, Tensor],
        optimizers: Sequence[torch.optim.Optimizer],
        history: History,
        orders: torch.Generator,
    ) -> None:
        """Replace the saved state by that after an epoch, complete or not at all.

        Args:
            model: in training.
            best: the weights of the best epoch, which may be this one.
            optimizers: all of them, always in the same order.
            history: of the phase.
            orders: what draws the order of the rows; its state is saved, and torch's own.

        Raises:
            OutputError: the file cannot be written.
        """
        tensors = {f"model/{name}": value for name, value in model.state_dict().items()}
        if history.best.number != history.epochs[-1].number:
            tensors |= {f"best/{name}": value for name, value in best.items()}
        numbers = {}
        for name, value in _optimizer_values(optimizers):
            if isinstance(value, Tensor):
                tensors[name] = value
            else:
                numbers[name] = value
        device = next(model.parameters()).device
        tensors["random/orders"] = orders.get_state()
        tensors["random/cpu"] = torch.get_rng_state()
        if device.type == "cuda":
            tensors["random/cuda"] = torch.cuda.get_rng_state(device)
        data = {
            "format": FORMAT,
            "numbers": numbers,
            "epochs": [asdict(epoch) for epoch in history.epochs],
            "best": history.best.number,
        }
        self.owner.write_settings()
        with atomic_path(self.path) as temporary:
            plain = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
            try:
                save_file(plain, temporary, metadata={"state": json.dumps(data)})
            except SafetensorError as error:  # what it makes of an OSError
                raise OutputError(f"{self.path}: cannot be written: {error}") from error

    def restore(
        self,
        model: ClickModel,
        optimizers: Sequence[torch.optim.Optimizer],
        history: History,
        orders: torch.Generator,
    ) -> dict[str, Tensor] | None:
        """Put everything back as it was when it was saved, if it was.

        Args:
            model: as the phase began; it gets the saved weights.
            optimizers: fresh ones.
            history: empty; it gets the epochs.
            orders: what draws the order of the rows.

        Returns:
            The weights of the best epoch; None where nothing is saved.

        Raises:
            FileFormatError: the file is damaged, or of another model.
        """
        if not self.path.exists() or not TrainingState.exists(self.owner.folder):
            return None
        try:
            with safe_open(self.path, framework="pt", device="cpu") as file:
                data = json.loads(file.metadata()["state"])
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            if data["format"] != FORMAT:
                raise ValueError(f"expected the format {FORMAT!r}, got {data['format']!r}")
            model.load_state_dict(_below("model/", tensors))
            best = _below("best/", tensors)
            saved = {**data["numbers"], **tensors}
            for place, optimizer in enumerate(optimizers):
                _restore_optimizer(optimizer, _below(f"optimizer/{place}/", saved))
            history.epochs = [_epoch(item) for item in data["epochs"]]
            history.kept = history.epochs[data["best"] - 1]
            device = next(model.parameters()).device
            orders.set_state(tensors["random/orders"])
            torch.set_rng_state(tensors["random/cpu"])
            if device.type == "cuda":
                torch.cuda.set_rng_state(tensors["random/cuda"], device)
        except STATE_ERRORS as error:
            raise FileFormatError(
                f"{self.path}: no state of this training: {error}; remove {self.path.parent} and "
                "start anew"
            ) from error
        return best or copy.deepcopy(model.state_dict())


class TrainingState:
    """A folder with a file for each phase of a training, and its settings.

    The same training, started again, takes from each phase's file what it had reached, and gives
    the same weights to the bit as one that was never interrupted.
    """

    def __init__(self, folder: Path, settings: Mapping[str, Any]) -> None:
        """Open the folder, or name one that the first epoch will make.

        Args:
            folder: of nothing else.
            settings: all that the result depends on, as JSON.

        Raises:
            InputError: the folder is of a training with other settings; names them.
            FileFormatError: its file of settings is damaged.
        """
        self.folder = folder
        self._settings = json.loads(json.dumps(settings))
        self._phases = 0
        path = folder / SETTINGS
        if not path.exists():
            return
        try:
            saved = json.loads(path.read_text(encoding="utf-8"))
        except PARSE_ERRORS as error:
            raise FileFormatError(f"{path}: cannot be read as JSON: {error}") from error
        if faults := list(_differences("", saved, self._settings)):
            raise InputError(
                f"the unfinished training in {folder} had other settings: {'; '.join(faults)}; "
                "give the same, or start anew with --force and without --resume"
            )

    @staticmethod
    def exists(folder: Path) -> bool:
        """Whether an epoch of a training is saved there."""
        return (folder / SETTINGS).exists()

    @staticmethod
    def remove(folder: Path) -> None:
        """Remove it: the training is finished, or starts anew.

        The settings go last: what is left without them is of no training, see `write_settings`.

        Raises:
            OutputError: the disk refuses.
        """
        if not folder.is_dir():
            return
        with writing(folder):
            for path in folder.iterdir():
                if path.is_dir():
                    shutil.rmtree(path)
                elif path.name != SETTINGS:
                    path.unlink()
            shutil.rmtree(folder)

    def phase(self, name: str) -> PhaseState:
        """The state of the next phase, which is called `name`."""
        self._phases += 1
        label = name.replace(" ", "-")
        return PhaseState(self.folder / f"{self._phases}-{label}.safetensors", self)

    def write_settings(self) -> None:
        """Make the folder, if this is the first epoch. Raises OutputError."""
        if not self.exists(self.folder):
            self.remove(self.folder)  # phases whose settings are gone would be taken for this one's
            with atomic_path(self.folder / SETTINGS) as temporary:
                temporary.write_text(json.dumps(self._settings, indent=1), encoding="utf-8")


def log_digest(log: HashedLog) -> str:
    """BLAKE2b of all that training reads of a log, in hexadecimal."""
    digest = hashlib.blake2b(digest_size=16)
    columns: dict[str, npt.NDArray[Any] | None] = {
        **{f"field {name}": values for name, values in log.hashes.items()},
        "labels": log.labels,
        "times": log.times,
        "weights": log.weights,
    }
    plain = [log.features.to_json(), log.bounds, log.label_names, log.negative_sampling]
    settings = {name: asdict(item) for name, item in log.settings.items()}
    digest.update(json.dumps([plain, settings, list(columns)]).encode())
    for values in columns.values():
        if values is not None:
            for start in range(0, len(values), CHUNK):
                digest.update(np.ascontiguousarray(values[start : start + CHUNK]).data)
    return digest.hexdigest()


def _optimizer_values(
    optimizers: Sequence[torch.optim.Optimizer],
) -> Iterator[tuple[str, Tensor | float]]:
    """What optimizers remember of each parameter, by names with their numbers."""
    for place, optimizer in enumerate(optimizers):
        for number, values in optimizer.state_dict()["state"].items():
            for name, value in values.items():
                yield f"optimizer/{place}/{number}/{name}", value


def _restore_optimizer(optimizer: torch.optim.Optimizer, saved: Mapping[str, Any]) -> None:
    state: dict[int, dict[str, Any]] = {}
    for key, value in saved.items():
        number, name = key.split("/")
        state.setdefault(int(number), {})[name] = value
    groups = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": state, "param_groups": groups})


def _below(prefix: str, values: Mapping[str, Any]) -> dict[str, Any]:
    return {name[len(prefix) :]: value for name, value in values.items() if name.startswith(prefix)}


def _epoch(data: dict[str, Any]) -> Epoch:
    by_label = {name: Metrics(**item) for name, item in data["by_label"].items()}
    return Epoch(**{**data, "validation": Metrics(**data["validation"]), "by_label": by_label})


def _differences(path: str, saved: Any, given: Any) -> Iterator[str]:
    """How settings differ, by their dotted names."""
    if isinstance(saved, dict) and isinstance(given, dict):
        for name in {**saved, **given}:
            yield from _differences(
                f"{path}.{name}" if path else name, saved.get(name), given.get(name)
            )
    elif saved != given:
        yield f"{path} was {saved!r} and is {given!r}"
