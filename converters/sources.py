"""What is converted: a torch module as a function of named arrays, its graph and its tables."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import nn
from torch.func import functional_call
from torch.utils import _pytree as pytree

from ondevice.converters.arguments import Arguments, DynamicAxes, arguments_of
from ondevice.converters.capture import capture, evaluating, output_names
from ondevice.converters.graph import CapturedModel
from ondevice.converters.packed_table import PackedTable
from ondevice.converters.row_tensor import RowTensor
from ondevice.converters.table_source import FileTable
from ondevice.converters.weights import Weights

Array = npt.NDArray[Any]
FloatArray = npt.NDArray[np.float32]


class Source(Protocol):
    """A model to convert.

    Attributes:
        kind: what it is, for reports: "torch" or "onnx".
        names: its inputs.
        outputs: its outputs.
        examples: example values of every input, int64 or float32 [batch, ...].
        weight_bytes: what its tables and weights take, each once.
    """

    kind: str
    names: tuple[str, ...]
    outputs: tuple[str, ...]
    examples: dict[str, Array]
    weight_bytes: int

    def capture(self) -> CapturedModel:
        """Its graph, with a node for every lookup."""
        ...

    def __call__(
        self, values: Mapping[str, Array], tables: Mapping[str, PackedTable] | None = None
    ) -> dict[str, FloatArray]:
        """Its outputs by name, computed with its own tables or with these, as files store them."""
        ...


class TorchSource:
    """A torch module, in evaluation mode."""

    kind = "torch"

    def __init__(
        self,
        module: nn.Module,
        example_inputs: Any,
        axes: DynamicAxes | None = None,
        weights: Weights | None = None,
    ) -> None:
        """Name the module's inputs and outputs; with `weights`, take its tensors from there.

        Raises:
            SpecError: the example inputs do not fit.
            UnsupportedError: the module returns something else than rows.
            FileFormatError: the weights are not those of the module.
        """
        self._files = {} if weights is None else weights.tables(module)
        self._in_files: dict[str, FileTable] = {}
        self._module = module if weights is None else weights.filled(module)
        self._given, self._axes = example_inputs, axes or {}
        self._arguments: Arguments = arguments_of(self._module, example_inputs, self._axes)
        self.names = self._arguments.names
        self.examples = self._arguments.examples
        self.outputs = output_names(self._module, self._arguments)
        self.weight_bytes = sum(item.nbytes for item in self._module.parameters())

    def capture(self) -> CapturedModel:
        """See `ondevice.converters.capture.capture`; tables in files stay there."""
        found = capture(self._module, self._given, self._axes)
        self._in_files = {name: self._files[name] for name in found.tables if name in self._files}
        return replace(found, tables={**found.tables, **self._in_files})

    def __call__(
        self, values: Mapping[str, Array], tables: Mapping[str, PackedTable] | None = None
    ) -> dict[str, FloatArray]:
        """Outputs float32 [batch, ...] by name; see Source."""
        read: dict[str, FileTable | PackedTable] = {**self._in_files, **(tables or {})}
        stored: dict[str, torch.Tensor] = {
            name: RowTensor(table.read, table.rows, table.dim) for name, table in read.items()
        }
        args, kwargs = self._arguments.replaced(values)
        with evaluating(self._module), torch.inference_mode():
            returned = functional_call(self._module, stored, args, kwargs)
        leaves = [leaf for leaf in pytree.tree_leaves(returned) if leaf is not None]
        rows = len(next(iter(values.values())))
        arrays = []
        for leaf in leaves:
            array = leaf.to(torch.float32).numpy()
            # squeeze() without an axis also takes the batch of a single row
            alone = rows == 1 and array.shape[:1] != (1,)
            arrays.append(array[None] if alone else array)
        return dict(zip(self.outputs, arrays, strict=True))
