"""What is converted, where it is an .onnx file: a model from elsewhere, run in ONNX Runtime."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnx_ir as ir
import onnx_ir.passes.common as passes

from ondevice.converters.graph import CapturedModel
from ondevice.converters.pipeline import capture, cleaned
from ondevice.converters.source.arguments import BATCH
from ondevice.converters.source.export import OPSET
from ondevice.converters.source.names import name_values
from ondevice.converters.tables.packed_table import PackedTable
from ondevice.converters.verify.id_origins import input_ids
from ondevice.difference import largest_difference
from ondevice.errors import FileFormatError, ParityError, SpecError, UnsupportedError, needs_extra

Array = npt.NDArray[Any]
FloatArray = npt.NDArray[np.float32]

EXAMPLE_ROWS = 8
EXAMPLE_STEPS = 4  # of a free axis beside the batch
TOLERANCE = 1e-5  # between the file and its graph after it was simplified, both in ONNX Runtime
MOST_BYTES = 2**31 - 2**20  # of a model that ONNX Runtime takes from memory


class OnnxSource:
    """An .onnx file whose tables are float32 initializers."""

    kind = "onnx"

    def __init__(self, path: Path, example_inputs: Mapping[str, Any] | None = None) -> None:
        """Read the file.

        Args:
            path: the .onnx file, external data beside it.
            example_inputs: values [batch, ...] by input name, at least two rows; None: random IDs
                that the tables have, and random numbers in 0..1.

        Raises:
            FileFormatError: no such file, or not an ONNX model.
            SpecError: the examples do not fit its inputs.
            UnsupportedError: an output has no row for every row of the request.
        """
        self._path = path
        read = _read(path)
        self.names = tuple(str(value.name) for value in read.graph.inputs)
        self.outputs = tuple(str(value.name) for value in read.graph.outputs)
        self._original = _session(path)
        types = {item.name: item.type for item in self._original.get_inputs()}
        self._types = {name: _numpy_type(types[name]) for name in self.names}
        self._model = name_values(cleaned(read), self.names, self.outputs)
        self._session: tuple[object, Any] | None = None
        self.examples = self._examples(example_inputs)
        held = [value.const_value for value in self._model.graph.initializers.values()]
        self.weight_bytes = sum(item.nbytes for item in held if item is not None)

    def capture(self) -> CapturedModel:
        """The simplified graph with its lookups.

        Raises:
            UnsupportedError: it reads no embedding table.
            ParityError: ONNX Runtime gives other results for it than for the file.
        """
        expected, got = self(self.examples), self._run(self._simplified(), self.examples, False)
        for name, right in expected.items():
            found = largest_difference(got[name], right)
            if not found <= TOLERANCE:  # also catches NaN
                raise ParityError(
                    f"{self._path}: simplified, output {name!r} differs by {found:.3g}"
                )
        return self._captured()

    def _captured(self) -> CapturedModel:
        return capture(self._model, set(self._model.graph.initializers))

    def __call__(
        self, values: Mapping[str, Array], tables: Mapping[str, PackedTable] | None = None
    ) -> dict[str, FloatArray]:
        """Outputs float32 [batch, ...] by name; see Source."""
        if tables is None:
            return self._run(self._original, values, True)
        if self._session is None or self._session[0] is not tables:
            self._session = (tables, self._simplified(tables))
        return self._run(self._session[1], values, False)

    def _run(self, session: Any, values: Mapping[str, Array], typed: bool) -> dict[str, FloatArray]:
        given = {
            name: values[name].astype(self._types[name]) if typed else values[name]
            for name in self.names
        }
        try:
            found = session.run(None, given)
        except Exception as error:  # onnxruntime has no public base class for its errors
            raise SpecError(f"{self._path}: {' '.join(str(error).split())}") from error
        rows = len(next(iter(values.values())))
        arrays = [np.asarray(array, np.float32) for array in found]
        for name, array in zip(self.outputs, arrays, strict=True):
            if array.shape[:1] != (rows,):
                raise UnsupportedError(
                    f"{self._path}: output {name!r} has shape {list(array.shape)} for {rows} rows; "
                    "expected one value or vector for every row"
                )
        return dict(zip(self.outputs, arrays, strict=True))

    def _simplified(self, tables: Mapping[str, PackedTable] | None = None) -> Any:
        """A session of the simplified graph, with other values for some initializers."""
        model = self._model.clone()
        for name, table in (tables or {}).items():
            values = table.read(np.arange(table.rows))
            model.graph.initializers[name].const_value = ir.tensor(values, name=name)
        proto = ir.to_proto(model)
        if proto.ByteSize() > MOST_BYTES:
            raise UnsupportedError(f"{self._path}: more than 2 GB of tables and weights")
        return _session(proto.SerializeToString())

    def _examples(self, given: Mapping[str, Any] | None) -> dict[str, Array]:
        graph = self._model.graph
        if given is None:
            return self._random_examples()
        if set(given) != set(self.names):
            raise SpecError(
                f"example inputs are for {', '.join(sorted(given))}; {self._path.name} takes "
                + ", ".join(self.names)
            )
        examples = {}
        for value in graph.inputs:
            name = str(value.name)
            array = np.asarray(given[name])
            dtype = np.float32 if value.dtype == ir.DataType.FLOAT else np.int64
            if array.ndim != len(value.shape or ()) or len(array) < 2:
                raise SpecError(
                    f"example input {name!r}: shape {list(array.shape)}, expected "
                    f"{[str(size) for size in value.shape or ()]} with at least 2 rows"
                )
            examples[name] = array.astype(dtype)
        return examples

    def _random_examples(self) -> dict[str, Array]:
        rng = np.random.default_rng(0)
        shapes = {
            str(value.name): [
                EXAMPLE_ROWS,
                *(
                    size if isinstance(size, int) else EXAMPLE_STEPS
                    for size in list(value.shape or ())[1:]
                ),
            ]
            for value in self._model.graph.inputs
        }
        captured = self._captured()
        uses = input_ids(captured.model.graph, captured.lookups, shapes)
        examples: dict[str, Array] = {}
        for value in self._model.graph.inputs:
            name = str(value.name)
            columns = [
                rng.integers(0, min(int(limit), 2**31), EXAMPLE_ROWS).astype(np.float64)
                if limit > 0
                else rng.random(EXAMPLE_ROWS)
                for limit in uses[name].limits
            ]
            dtype = np.float32 if value.dtype == ir.DataType.FLOAT else np.int64
            examples[name] = np.stack(columns, 1).reshape(shapes[name]).astype(dtype)
        return examples


def _read(path: Path) -> ir.Model:
    """An ONNX model of this opset with known shapes, its batch free."""
    try:
        proto = onnx.load(path)
        if any(
            item.domain in ("", "ai.onnx") and item.version != OPSET for item in proto.opset_import
        ):
            proto = onnx.version_converter.convert_version(proto, OPSET)
        model = ir.from_proto(proto)
    except FileNotFoundError as error:
        raise FileFormatError(f"{path}: no such file, or its external data is missing") from error
    except (
        Exception
    ) as error:  # protobuf, the version converter and onnx_ir have errors of their own
        raise FileFormatError(
            f"{path}: not an ONNX model: {' '.join(str(error).split())}"
        ) from error
    graph = model.graph
    for value in [one for one in graph.inputs if one.name in graph.initializers]:
        graph.inputs.remove(value)  # old files list initializers among the inputs
    for value in graph.inputs:
        if value.shape is None or len(value.shape) < 1:
            raise UnsupportedError(f"{path}: input {value.name!r} has no known shape [batch, ...]")
        if isinstance(value.shape[0], int):
            raise UnsupportedError(
                f"{path}: input {value.name!r} is for {value.shape[0]} rows alone; export it with "
                "a free first axis"
            )
        value.shape = ir.Shape([BATCH, *list(value.shape)[1:]])
    for value in (*graph.outputs, *(one for node in graph for one in node.outputs)):
        value.shape = None  # of another batch, perhaps
    if not graph.inputs:
        raise UnsupportedError(f"{path}: it takes no inputs")
    passes.ShapeInferencePass()(model)
    return model


def _session(model: Path | bytes) -> Any:
    with needs_extra("converting an .onnx file", "onnx"):
        import onnxruntime as ort
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = 1
    given = str(model) if isinstance(model, Path) else model
    try:
        return ort.InferenceSession(given, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime has no public base class for its errors
        where = model if isinstance(model, Path) else "the simplified model"
        raise FileFormatError(
            f"{where}: ONNX Runtime cannot open it: {' '.join(str(error).split())}"
        ) from error


def _numpy_type(name: str) -> np.dtype[Any]:
    """The dtype of an ONNX Runtime type such as "tensor(int32)"."""
    inner = name.removeprefix("tensor(").removesuffix(")")
    kinds = {"float": "float32", "double": "float64"}
    try:
        return np.dtype(kinds.get(inner, inner))
    except TypeError as error:
        raise UnsupportedError(f"an input of type {name}") from error
