"""The reference engine: runs a native file with numpy only."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from ondevice.codecs import DenseArithmetic
from ondevice.dense import DENSE, DenseLayer
from ondevice.errors import FileFormatError
from ondevice.limits import MAX_UNPACKED_PER_BYTE
from ondevice.lookup import ReadRows, look_up
from ondevice.odm import OdmFile
from ondevice.ops import apply
from ondevice.plan import Node
from ondevice.records import RecordTable
from ondevice.shapes import check_plan, is_sized


class NumpyEngine:
    """Executes a plan node by node; threads share it freely, as it keeps no state of a request."""

    def __init__(self, model: OdmFile, dense: DenseArithmetic | None = None) -> None:
        """Take an opened native file; its arrays stay as they are, dense layers are unpacked.

        Args:
            model: the opened file.
            dense: as in `ondevice.load`.

        Raises:
            FileFormatError: a dense layer's arrays do not fit it, or layers unpack to more than
                MAX_UNPACKED_PER_BYTE bytes per byte of the file; what `check_plan` finds.
        """
        self.runtime = f"numpy {np.__version__}" + (f" {dense}" if dense else "")
        self._model = model
        self._weights = _weights_read(model)
        self._layers = _layers(model, self._weights, dense)
        self._constants: dict[str, npt.NDArray[Any]] = {}
        self._sizes: set[tuple[tuple[str, int], ...]] = set()  # of free axes, which were checked
        if is_sized(model.info.inputs):
            self._constants = check_plan(model.plan, model.info.inputs, self._weights, {})

    def check(self) -> None:
        """Compare every byte in use with the checksums. Raises FileFormatError."""
        self._model.verify()

    def run(self, inputs: Mapping[str, npt.NDArray[Any]]) -> dict[str, npt.NDArray[np.float32]]:
        """Outputs by name, as arrays of their own. Raises InputError for IDs that it rejects."""
        values = self.values(inputs)
        names = self._model.plan.outputs
        # an output may be an input, a constant or another output, or a view of one: the caller's
        # next request would change it, or it could not be written
        return {name: np.array(values[name], dtype=np.float32, order="C") for name in names}

    def values(self, inputs: Mapping[str, npt.NDArray[np.int64]]) -> dict[str, npt.NDArray[Any]]:
        """Every value of the plan by name, constants too. Raises InputError as `run` does."""
        plan, tables = self._model.plan, self._model.tables
        if not is_sized(self._model.info.inputs):
            self._check_sizes(inputs)
        values: dict[str, npt.NDArray[Any]] = {**self._weights, **self._constants, **inputs}
        for node in plan.nodes:
            if node.outputs[0] in self._constants:
                continue
            read = [values[name] for name in node.inputs]
            if node.lookup is not None and node.table is not None:
                table = tables[node.table]
                read_rows: ReadRows = table.read
                if node.lookup.retrieval is not None and isinstance(table, RecordTable):
                    read_rows = table.read_sums
                out = look_up(node.lookup, read[0], read_rows)
            elif node.op == DENSE:
                out = self._layers[node.outputs[0]](read[0])
            else:
                out = apply(node.op, read, node.attributes)
            values[node.outputs[0]] = out
        return values

    def _check_sizes(self, inputs: Mapping[str, npt.NDArray[Any]]) -> None:
        """Check the plan for sizes of free axes that are new. Raises FileFormatError."""
        sizes = {
            name: size
            for item in self._model.info.inputs
            for name, size in zip(item.shape[1:], inputs[item.name].shape[1:], strict=True)
            if isinstance(name, str)
        }
        key = tuple(sorted(sizes.items()))
        if key not in self._sizes:
            check_plan(self._model.plan, self._model.info.inputs, self._weights, sizes)
            self._sizes.add(key)


def _weights_read(model: OdmFile) -> dict[str, npt.NDArray[Any]]:
    """The weights that nodes read or that are outputs: a file may hold many others."""
    plan = model.plan
    names = dict.fromkeys(name for node in plan.nodes for name in node.inputs)
    read = [name for name in (*names, *plan.outputs) if name in model.weights]
    return {name: model.weights[name] for name in read}


def _layers(
    model: OdmFile,
    weights: Mapping[str, npt.NDArray[Any]],
    arithmetic: DenseArithmetic | None,
) -> dict[str, DenseLayer]:
    """Dense layers by output; nodes of equal weights and attributes share one."""
    layers: dict[str, DenseLayer] = {}
    shared: dict[str, DenseLayer] = {}
    left = MAX_UNPACKED_PER_BYTE * int(model.container.data.size)
    for node in model.plan.nodes:
        if node.op != DENSE:
            continue
        key = repr((node.inputs[1:], sorted(node.attributes.items())))
        if key not in shared:
            shared[key] = _layer(node, weights, arithmetic)
            left -= shared[key].weight.nbytes
            if left < 0:
                raise FileFormatError(
                    f"dense layer {node.outputs[0]!r}: the layers unpack to more than "
                    f"{MAX_UNPACKED_PER_BYTE} bytes for each byte of the file"
                )
        layers[node.outputs[0]] = shared[key]
    return layers


def _layer(
    node: Node, weights: Mapping[str, npt.NDArray[Any]], arithmetic: DenseArithmetic | None
) -> DenseLayer:
    if missing := [name for name in node.inputs[1:] if name not in weights]:
        raise FileFormatError(f"dense layer {node.outputs[0]!r}: {missing[0]!r} is not a constant")
    arrays = [weights[name] for name in node.inputs[1:]]
    return DenseLayer.read(arrays, node.attributes, arithmetic)
