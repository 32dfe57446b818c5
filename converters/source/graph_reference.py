"""A captured graph with any tables, computed in ONNX Runtime: what files are compared with.

Tables may be derived from parameters, so that a source cannot compute with the values that files
store. The graph can. It is sound as a reference because the source is asked for the same rows:
with the source's tables, the graph must give the source's answers.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ondevice.codecs import FloatArray, IntArray
from ondevice.converters.graph import CapturedModel
from ondevice.converters.tables.draft import fill
from ondevice.converters.tables.pack import pack
from ondevice.converters.tables.packed_table import PackedTable, float_table
from ondevice.converters.tables.table_source import TableSource
from ondevice.converters.targets.onnx.emit import emit_onnx
from ondevice.difference import largest_difference
from ondevice.errors import ParityError, SpecError, needs_extra

Array = npt.NDArray[Any]

TOLERANCE = 1e-5  # between the source and its graph, both with the source's float tables


class GraphReference:
    """A captured graph with float32 tables in ONNX Runtime."""

    def __init__(self, captured: CapturedModel) -> None:
        """Take the graph; nothing is written or opened before the first answer is asked for."""
        self._captured = captured
        self._float: _Session | None = None
        self._stored: tuple[object, _Session] | None = None

    def check(self, values: Mapping[str, Array], outputs: Mapping[str, FloatArray]) -> None:
        """Compare the graph, with the source's tables, with the source's outputs for a request.

        Raises:
            ParityError: they differ.
            SpecError: the graph refuses the request.
        """
        if self._float is None:
            self._float = _Session(self._captured, self._captured.tables)
        for (name, right), computed in zip(outputs.items(), self._float.run(values), strict=True):
            finite = np.isfinite(right)  # rows of other scores are left out of the comparison
            apart = largest_difference(computed[finite], right[finite])
            if not apart <= TOLERANCE:  # also catches NaN
                raise ParityError(
                    f"simplified, output {name!r} differs by {apart:.3g}, before anything is "
                    "rounded"
                )

    def __call__(
        self,
        values: Mapping[str, Array],
        outputs: Mapping[str, FloatArray],
        tables: Mapping[str, PackedTable],
    ) -> dict[str, FloatArray]:
        """Outputs by name with these tables.

        Args:
            values: a request.
            outputs: the source's outputs for it, in the graph's order.
            tables: by name.

        Raises:
            ParityError: with the source's tables the graph gives other outputs than the source.
        """
        self.check(values, outputs)
        if self._stored is None or self._stored[0] is not tables:
            stored = {name: _Stored(table) for name, table in tables.items()}
            self._stored = (tables, _Session(self._captured, stored))
        return dict(zip(outputs, self._stored[1].run(values), strict=True))


@dataclass(frozen=True)
class _Stored:
    """A packed table as a source of float32 rows: the values that files give back."""

    table: PackedTable

    @property
    def rows(self) -> int:
        """See TableSource."""
        return self.table.rows

    @property
    def dim(self) -> int:
        """See TableSource."""
        return self.table.dim

    def chunks(self) -> Iterator[FloatArray]:
        """See TableSource."""
        yield from self.table.dequantised()

    def read(self, rows: IntArray) -> FloatArray:
        """See TableSource."""
        return self.table.read(rows)


class _Session:
    """The graph as an .onnx file in a temporary folder, whose tables ONNX Runtime maps."""

    def __init__(self, captured: CapturedModel, tables: Mapping[str, TableSource]) -> None:
        with needs_extra("verifying derived tables", "onnx"):
            import onnxruntime as ort
        packed = {name: float_table(table) for name, table in tables.items()}
        self._folder = tempfile.TemporaryDirectory(prefix="ondevice.")
        file = Path(self._folder.name) / "graph.onnx"
        fill(emit_onnx(pack(captured, packed), file, b""))
        options = ort.SessionOptions()
        options.log_severity_level = 4
        options.intra_op_num_threads = 1
        self._session = ort.InferenceSession(str(file), options, ["CPUExecutionProvider"])

    def run(self, values: Mapping[str, Array]) -> list[FloatArray]:
        """The outputs in order. Raises SpecError when ONNX Runtime refuses the request."""
        names = {item.name for item in self._session.get_inputs()}
        try:
            outputs = self._session.run(None, {name: values[name] for name in names})
        except Exception as error:  # onnxruntime has no public base class for its errors
            raise SpecError(
                f"the graph refuses a request: {' '.join(str(error).split())}"
            ) from error
        return [np.asarray(array, np.float32) for array in outputs]
