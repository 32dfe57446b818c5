"""Rows that files can read: a source may count a row number below 0 from the end of its table.

Files refuse such a number (docs/convert.md). The network may compute it, as in `table[ids // 8]`:
no limit of an input is known then, so the numbers are computed, and the request counts as refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
import onnx_ir.passes.common as passes

from ondevice.converters.graph import DOMAIN, CapturedModel, PackedLookup, PackedModel
from ondevice.converters.source.torch_source import Source
from ondevice.converters.tables.packed_table import PackedTable
from ondevice.errors import SpecError, needs_extra

Array = npt.NDArray[Any]


def reading_rows(source: Source, packed: PackedModel) -> Source:
    """A source that refuses requests whose computed row numbers are below 0; or the given one."""
    numbers = _row_numbers(packed)
    return source if numbers is None else _ReadableRows(source, numbers)


class _ReadableRows:
    """A source that refuses what no lookup of a file reads; see `Source`."""

    def __init__(self, source: Source, numbers: _RowNumbers) -> None:
        self._source, self._numbers = source, numbers
        self.kind, self.names, self.outputs = source.kind, source.names, source.outputs
        self.examples, self.weight_bytes = source.examples, source.weight_bytes

    def capture(self) -> CapturedModel:
        """See Source."""
        return self._source.capture()

    def __call__(
        self, values: Mapping[str, Array], tables: Mapping[str, PackedTable] | None = None
    ) -> dict[str, npt.NDArray[np.float32]]:
        """See Source."""
        outputs = self._source(values, tables)
        self._numbers.check(values)
        return outputs


class _RowNumbers:
    """The part of a graph that computes row numbers, in ONNX Runtime."""

    def __init__(self, session: Any, tables: list[str]) -> None:
        """Take a session whose outputs are row numbers of these tables."""
        self._session, self._tables = session, tables
        self._names = [item.name for item in session.get_inputs()]

    def check(self, values: Mapping[str, Array]) -> None:
        """Raise SpecError if a request reads a row below 0."""
        try:
            found = self._session.run(None, {name: values[name] for name in self._names})
        except Exception:  # files answer it or not: that is compared
            return
        for table, numbers in zip(self._tables, found, strict=True):
            if numbers.size and int(numbers.min()) < 0:
                raise SpecError(
                    f"the module reads row {int(numbers.min())} of table {table!r}, counted from "
                    "its end, which files refuse; add the number of rows in the module, as in "
                    "table[ids % len(table)]"
                )


def _row_numbers(packed: PackedModel) -> _RowNumbers | None:
    """What computes the row numbers of lookups; None where inputs are these numbers."""
    chosen = [lookup for lookup in packed.lookups if _counts_rows(lookup)]
    if not chosen:
        return None
    copy = packed.cloned()
    graph = copy.model.graph
    by_name = {node.name: node for node in graph}
    values = [by_name[lookup.node.name].inputs[0] for lookup in chosen]
    outputs = list(dict.fromkeys(value for value in values if value is not None))
    graph.outputs[:] = outputs
    passes.RemoveUnusedNodesPass()(copy.model)
    if any(node.domain == DOMAIN for node in graph) or any(item.dtype is None for item in outputs):
        return None  # rows that depend on vectors
    tables = {value: lookup.table for value, lookup in zip(values, chosen, strict=True)}
    session = _session(copy.model)
    return None if session is None else _RowNumbers(session, [tables[value] for value in outputs])


def _session(model: ir.Model) -> Any | None:
    """ONNX Runtime's session of a graph; None where it lacks a kernel, which TFLite may have."""
    with needs_extra("checking computed row numbers", "onnx"):
        import onnxruntime as ort
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    content = ir.to_proto(model).SerializeToString()
    try:
        return ort.InferenceSession(content, options, ["CPUExecutionProvider"])
    except Exception:  # of many types
        return None


def _counts_rows(lookup: PackedLookup) -> bool:
    """Whether a lookup's row numbers are computed, and are refused below 0."""
    spec = lookup.spec
    computed = lookup.node.inputs[0] is not None and lookup.node.inputs[0].producer() is not None
    refuses = spec.scheme == "full" and spec.oov_row is None and spec.padding_id is None
    return computed and refuses and spec.retrieval is None and len(lookup.specs) == 1
