"""Verification: the torch module beside every written file, in every runtime of this machine."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn
from torch.func import functional_call
from torch.utils import _pytree as pytree

import ondevice
from ondevice.converters.capture import evaluating
from ondevice.converters.packed_table import PackedTable
from ondevice.converters.report import Parity, TargetReport
from ondevice.converters.row_tensor import RowTensor
from ondevice.engines.tflite import RUNTIMES, TfliteEngine
from ondevice.errors import (
    InputError,
    MissingDependencyError,
    ParityError,
    SpecError,
    needs_extra,
)
from ondevice.inspection import stored_tables
from ondevice.model import Model, file_bytes, model_files, sha256

SCORE_BATCH = 8192
# Largest |probability difference| between the torch module, computing with the dequantised
# tables, and a converted file: float32 sums in another order stay two magnitudes below it.
TOLERANCE = 1e-5

IdArray = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Validation:
    """Labelled rows that a conversion is judged by.

    Attributes:
        inputs: IDs by input name, int64 [rows, ...].
        labels: float32 [rows], 0 or 1, both present.
        source: what the rows are, for the model card.

    Raises:
        InputError: another shape, other labels, or one label alone.
    """

    inputs: dict[str, IdArray]
    labels: FloatArray
    source: str = "validation rows"

    def __post_init__(self) -> None:
        labels = self.labels
        if labels.ndim != 1 or not np.isin(labels, (0, 1)).all():
            raise InputError("validation: labels must be a list of 0 and 1")
        if len(np.unique(labels)) != 2:
            raise InputError(f"validation: an AUC needs both labels, got {len(labels)} rows of one")
        if wrong := [name for name, ids in self.inputs.items() if len(ids) != len(labels)]:
            raise InputError(f"validation: not one value per label in {', '.join(wrong)}")

    def __len__(self) -> int:
        """Number of rows."""
        return len(self.labels)

    def auc(self, scores: FloatArray) -> float:
        """Area under the ROC curve of scores float32 [rows]."""
        with needs_extra("the AUC of a validation set", "train"):
            from sklearn.metrics import roc_auc_score
        return float(roc_auc_score(self.labels, scores))

    def batches(self) -> Iterator[dict[str, IdArray]]:
        """The inputs, SCORE_BATCH rows at a time."""
        for start in range(0, len(self), SCORE_BATCH):
            yield {name: ids[start : start + SCORE_BATCH] for name, ids in self.inputs.items()}


@dataclass(frozen=True)
class Expected:
    """What the torch module says, which every file is compared with.

    Attributes:
        batches: inputs, one batch after another.
        stored: outputs of the module that computes with the tables as files store them.
        original: outputs of the module as it came.
        validation: labelled rows, if any.
        scores: the original module's outputs on them.
    """

    batches: list[dict[str, IdArray]]
    stored: list[FloatArray]
    original: list[FloatArray]
    validation: Validation | None = None
    scores: FloatArray | None = None

    @property
    def auc(self) -> float | None:
        """AUC of the module as it came; None without validation rows."""
        if self.validation is None or self.scores is None:
            return None
        return self.validation.auc(self.scores)


class Source:
    """The torch module as a function of IDs by input name."""

    def __init__(
        self,
        module: nn.Module,
        example_inputs: tuple[Any, ...],
        names: list[str],
        tables: Mapping[str, torch.Tensor] | None = None,
    ) -> None:
        """Take a module and, by parameter name, tables that it is to compute with instead."""
        self._module = module
        self._structure = pytree.tree_structure(example_inputs)
        self._names = names
        self._tables = dict(tables or {})

    def __call__(
        self, ids: Mapping[str, IdArray], tables: Mapping[str, torch.Tensor] | None = None
    ) -> FloatArray:
        """Outputs float32 [batch]; `tables` stand in for parameters of those names.

        Raises:
            SpecError: the module returns no single tensor.
        """
        leaves = [torch.from_numpy(ids[name]) for name in self._names]
        arguments = pytree.tree_unflatten(leaves, self._structure)
        with evaluating(self._module), torch.inference_mode():
            output = functional_call(self._module, {**self._tables, **(tables or {})}, arguments)
        if not isinstance(output, torch.Tensor):
            raise SpecError(f"the module must return one tensor, got {type(output).__name__}")
        return output.numpy()

    def scores(self, validation: Validation) -> FloatArray:
        """Outputs on the validation rows. Raises InputError when an input is missing."""
        if missing := [name for name in self._names if name not in validation.inputs]:
            raise InputError(f"validation: no values for {', '.join(missing)}")
        return np.concatenate([self(batch) for batch in validation.batches()])


def dequantised(tables: Mapping[str, PackedTable]) -> dict[str, torch.Tensor]:
    """The tables as the files give them back, for a module to compute with."""
    return {name: RowTensor(table.read, table.rows, table.dim) for name, table in tables.items()}


def verify_file(file: Path, expected: Expected, tolerance: float) -> TargetReport:
    """Compare a file with the torch module in every engine of this machine that runs it.

    Raises:
        ParityError: a probability differs by more than `tolerance`.
        MissingDependencyError: no runtime for the file is installed.
    """
    models, not_checked = _models(file)
    parity, change = [], 0.0
    for model in models:
        largest = 0.0
        for batch, stored, original in zip(
            expected.batches, expected.stored, expected.original, strict=True
        ):
            got = model.predict(batch)
            largest = max(largest, _checked_difference(file, model, got, stored, tolerance))
            change = max(change, difference(got, original))
        rows = sum(len(right) for right in expected.stored)
        parity.append(Parity(model.runner.runtime, rows, largest, tolerance))
    auc = None
    if expected.validation is not None and expected.scores is not None:
        scores = np.concatenate([models[0].predict(b) for b in expected.validation.batches()])
        change = max(change, difference(scores, expected.scores))
        auc = expected.validation.auc(scores)
    return TargetReport(
        path=file,
        bytes=file_bytes(file),
        table_bytes=sum(table.total for table in stored_tables(file)),
        parity=tuple(parity),
        not_checked=not_checked,
        max_change=change,
        auc=auc,
        files={item.name: (item.stat().st_size, sha256(item)) for item in model_files(file)},
    )


def _models(file: Path) -> tuple[list[Model], tuple[str, ...]]:
    """The file in every runtime that claims to run it, and the runtimes that are missing here."""
    first = ondevice.load(file)
    models, missing = [first], []
    if first.engine == "native":
        models.append(ondevice.load(file, engine="numpy"))
    elif first.engine == "numpy":
        missing.append("the native engine (not compiled here)")
    elif first.engine == "tflite":
        for runtime in RUNTIMES:
            if first.runner.runtime.startswith(runtime):
                continue
            try:
                models.append(replace(first, runner=TfliteEngine(file, runtime=runtime)))
            except MissingDependencyError:
                missing.append(f"{runtime} (not available here)")
    return models, tuple(missing)


def _checked_difference(
    file: Path, model: Model, got: FloatArray, right: FloatArray, tolerance: float
) -> float:
    found = difference(got, right)
    if not found <= tolerance:  # also catches NaN
        hint = "" if tolerance <= TOLERANCE else "; keep layers exact by --float-layers"
        raise ParityError(
            f"{file.name}: probabilities differ from the torch module by "
            f"{found:.3g} in {model.runner.runtime}, more than {tolerance:g}; "
            f"nothing was written{hint}"
        )
    return found


def difference(left: FloatArray, right: FloatArray) -> float:
    """Largest |left - right|. Raises ParityError for unequal shapes."""
    if left.shape != right.shape:
        raise ParityError(f"output shape {list(left.shape)} instead of {list(right.shape)}")
    return float(np.abs(left - right).max())
