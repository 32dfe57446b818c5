"""What is converted: a torch module as a function of named arrays, its graph and its tables."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import replace
from itertools import chain
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
import torch
from torch import nn
from torch.utils import _pytree as pytree

from ondevice.converters.graph import CapturedModel
from ondevice.converters.pipeline import capture, cleaned
from ondevice.converters.source.arguments import Arguments, DynamicAxes, arguments_of
from ondevice.converters.source.export import (
    cause,
    evaluating,
    export,
    output_names,
)
from ondevice.converters.source.fold import origins
from ondevice.converters.source.graph_reference import GraphReference
from ondevice.converters.source.names import name_values
from ondevice.converters.source.prepared import name_keywords, prepared_module, unwrapped
from ondevice.converters.source.rounded_examples import check_rounded_examples
from ondevice.converters.source.written_tensors import copy_written_tensors
from ondevice.converters.tables.packed_table import PackedTable
from ondevice.converters.tables.row_tensor import RowTensor
from ondevice.converters.tables.table_source import ArrayTable, FileTable, TableSource
from ondevice.converters.tables.weights import Weights
from ondevice.errors import OnDeviceError, SpecError

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
        """Its outputs by name, computed with its own tables or with these, as files store them.

        Raises:
            SpecError: it fails on the values.
        """
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
        module = unwrapped(module)
        if weights is None:
            _check_values(module)
        filled = module if weights is None else weights.filled(module)
        self._module = prepared_module(filled)
        self._files = {} if weights is None else weights.tables(module)
        before, after = (dict(part.named_parameters()) for part in (filled, self._module))
        for name in [name for name in self._files if before.get(name) is not after.get(name)]:
            del self._files[name]  # its rows are no longer those of the file
        self._in_files: dict[str, FileTable] = {}
        self._reference: GraphReference | None = None
        self._axes = axes or {}
        self._arguments: Arguments = arguments_of(self._module, example_inputs, self._axes)
        name_keywords(self._module, self._arguments.kwargs)
        with evaluating(self._module), torch.inference_mode():
            copy_written_tensors(self._module, lambda: self._outputs(self._arguments.examples))
        self.names = self._arguments.names
        self.examples = self._arguments.examples
        self.outputs = output_names(self._module, self._arguments)
        self.weight_bytes = sum(item.nbytes for item in self._module.parameters())

    def capture(self) -> CapturedModel:
        """Its graph with a node for every lookup; tables in files stay there.

        Raises:
            UnsupportedError: the module cannot be exported.
            ParityError: float64 examples lose too much where files take float32.
        """
        exported = self.exported()
        sources = self.table_origins(exported)
        captured = capture(self.named(cleaned(exported)), sources)
        direct = self._direct_tables(captured, sources)
        self._in_files = {name: self._files[name] for name in direct if name in self._files}
        captured = replace(captured, tables={**captured.tables, **self._in_files})
        derived = set(captured.tables) - direct
        self._reference = GraphReference(captured) if derived else None
        check_rounded_examples(self, self.examples, self._arguments.doubles)
        return captured

    def exported(self) -> ir.Model:
        """The graph as torch's exporter leaves it."""
        return export(self._module, self._arguments, self._axes, self.outputs)

    def named(self, model: ir.Model) -> ir.Model:
        """A cleaned graph whose inputs and outputs have the names of this source."""
        return name_values(model, self.names, self.outputs)

    def table_origins(self, exported: ir.Model) -> dict[str, str]:
        """The parameter or buffer behind each constant part of an exported graph, by its name."""
        tensors = self._tensors()
        return {value: name for value, name in origins(exported.graph).items() if name in tensors}

    def _tensors(self) -> dict[str, torch.Tensor]:
        tensors: dict[str, torch.Tensor] = dict(
            self._module.named_parameters(remove_duplicate=False)
        )
        tensors.update(self._module.named_buffers(remove_duplicate=False))
        return tensors

    def _direct_tables(self, captured: CapturedModel, sources: Mapping[str, str]) -> set[str]:
        """Names of the tables that are a parameter as it is, which only lookups read.

        The module itself can compute with the values that files store of these.
        """
        tensors = self._tensors()
        graph = captured.model.graph
        readers = {lookup.node for lookup in captured.lookups}
        read = {
            sources.get(name, name)
            for name, value in graph.initializers.items()
            if any(use.node not in readers for use in value.uses())
        }
        return {
            name
            for name, table in captured.tables.items()
            if name in tensors and name not in read and _is_same(table, tensors[name])
        }

    def __call__(
        self, values: Mapping[str, Array], tables: Mapping[str, PackedTable] | None = None
    ) -> dict[str, FloatArray]:
        """Outputs float32 [batch, ...] by name; see Source.

        A single row is computed as one of two where the module cannot do it alone: many `squeeze()`
        axes of size 1, and then the batch with them.

        Raises:
            SpecError: the module fails on the values.
        """
        if tables is not None and self._reference is not None:
            return self._reference(values, self(values), tables)
        rows = len(next(iter(values.values())))
        read: dict[str, FileTable | PackedTable] = {**self._in_files, **(tables or {})}
        try:
            with evaluating(self._module), torch.inference_mode(), _reading(self._module, read):
                leaves = self._outputs(values) if rows > 1 else self._single_row(values)
        except OnDeviceError:
            raise
        except Exception as error:  # the module is somebody's code
            raise SpecError(f"the module fails on {rows} rows: {cause(error)}") from error
        arrays = [leaf.to(torch.float32).numpy() for leaf in leaves]
        return dict(zip(self.outputs, arrays, strict=True))

    def _outputs(self, values: Mapping[str, Array]) -> list[torch.Tensor]:
        args, kwargs = self._arguments.replaced(values)
        returned = self._module(*args, **kwargs)
        return [leaf for leaf in pytree.tree_leaves(returned) if leaf is not None]

    def _single_row(self, values: Mapping[str, Array]) -> list[torch.Tensor]:
        twice = {name: np.repeat(array, 2, 0) for name, array in values.items()}
        first = [leaf[:1] for leaf in self._outputs(twice)]
        with contextlib.suppress(Exception):
            alone = self._outputs(values)
            if [leaf.shape for leaf in alone] == [leaf.shape for leaf in first]:
                return alone
        return first


def _check_values(module: nn.Module) -> None:
    """Raise SpecError where a module's tensors have no values."""
    for name, tensor in chain(module.named_parameters(), module.named_buffers()):
        if tensor.is_meta:
            raise SpecError(
                f"{name} has no values: give the files with them as `weights`, or pass a module "
                "that has them"
            )


def _is_same(table: TableSource, tensor: torch.Tensor) -> bool:
    """Whether a table holds the values of a tensor; memory that they share is not read."""
    if tuple(tensor.shape) != (table.rows, table.dim):
        return False
    if tensor.dtype == torch.bfloat16:  # numpy has no such type
        tensor = tensor.float()
    array = tensor.detach().numpy()
    if isinstance(table, ArrayTable) and table.array.dtype == array.dtype:
        same = table.array.__array_interface__["data"] == array.__array_interface__["data"]
        if same and table.array.strides == array.strides:
            return True
    start = 0
    for chunk in table.chunks():
        if not np.array_equal(chunk, array[start : start + len(chunk)].astype(np.float32)):
            return False
        start += len(chunk)
    return True


@contextlib.contextmanager
def _reading(module: nn.Module, tables: Mapping[str, FileTable | PackedTable]) -> Iterator[None]:
    """Let a module read these tables in the place of its own, under every name that these have.

    `torch.func.functional_call` leaves them behind where one submodule has two names.
    """
    if not tables:  # the names of hundreds of tables take longer than a call
        yield
        return
    own: dict[str, torch.Tensor] = dict(module.named_parameters(remove_duplicate=False))
    own.update(module.named_buffers(remove_duplicate=False))
    fresh = {
        own[name]: RowTensor(table.read, table.rows, table.dim, own[name].dtype)
        for name, table in tables.items()
    }
    holders: list[dict[str, Any]] = []
    for part in module.modules():
        holders += [part._parameters, part._buffers]
    found = [
        (holder, key, tensor)
        for holder in holders
        for key, tensor in holder.items()
        if tensor is not None and tensor in fresh
    ]
    try:
        for holder, key, tensor in found:
            holder[key] = fresh[tensor]
        yield
    finally:
        for holder, key, tensor in found:
            holder[key] = tensor
