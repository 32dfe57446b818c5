"""An .onnx file as the source of a conversion, run in ONNX Runtime."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnx.inliner
import onnx_ir as ir
import onnx_ir.passes.common as passes

from ondevice.converters.graph import CapturedModel
from ondevice.converters.lowering.unsupported import HINTS
from ondevice.converters.pipeline import CAREFUL_CLEANING, CLEANING, capture, run
from ondevice.converters.source.arguments import BATCH
from ondevice.converters.source.export import OPSET
from ondevice.converters.source.fold import origins
from ondevice.converters.source.graph_reference import GraphReference
from ondevice.converters.source.half_precision import in_single_precision
from ondevice.converters.source.ml.operands import parameter_bytes
from ondevice.converters.source.ml.outputs import number_outputs
from ondevice.converters.source.names import name_values
from ondevice.converters.source.rounded_examples import check_rounded_examples
from ondevice.converters.source.simplify import quiet
from ondevice.converters.source.single_precision import HalfWeightsError
from ondevice.converters.tables.packed_table import PackedTable
from ondevice.converters.verify.id_origins import input_ids
from ondevice.difference import largest_difference
from ondevice.errors import (
    FileFormatError,
    OnDeviceError,
    ParityError,
    SpecError,
    UnsupportedError,
    needs_extra,
)
from ondevice.held_bytes import mapped_files, read_file
from ondevice.onnx_file import check_external, check_structure

Array = npt.NDArray[Any]
FloatArray = npt.NDArray[np.float32]

_BRANCHES = {"If"}  # operators with graphs that run at most once; folding may choose one of them
EXAMPLE_ROWS = 8
HALF_TOLERANCE = 0.05  # of an output's scale; layers of 16 bits keep three digits
EXAMPLE_STEPS = 4  # of a free axis beside the batch


class OnnxSource:
    """An .onnx file: its graph, and its outputs in ONNX Runtime."""

    kind = "onnx"

    def __init__(self, path: Path, example_inputs: Mapping[str, Any] | None = None) -> None:
        """Read the file, and find a graph for it that computes what the file does.

        Args:
            path: the .onnx file, external data beside it.
            example_inputs: values [batch, ...] by input name, at least two rows; None: random IDs
                that the tables have, and random numbers in 0..1.

        Raises:
            FileFormatError: no such file, or not an ONNX model.
            SpecError: the examples do not fit its inputs.
            UnsupportedError: an output has no row for every row of the request, or is no tensor.
            ParityError: ONNX Runtime gives other results for its simplified graph, or float64
                examples lose too much where files take float32.
        """
        self._path = path
        proto = _loaded(path)
        _warn_of_labels(path, proto, number_outputs(proto))
        try:
            self._open(proto, example_inputs)
        except HalfWeightsError:
            self._open_in_single_precision(proto, example_inputs)

    def _open(
        self,
        proto: onnx.ModelProto,
        example_inputs: Mapping[str, Any] | None,
        changed: bool = False,
    ) -> None:
        """Take the content of the file, or what it was changed to."""
        answers = number_outputs(proto)
        read = _read(self._path, answers)
        self.names = tuple(str(value.name) for value in read.graph.inputs)
        self.outputs = tuple(str(value.name) for value in read.graph.outputs)
        self._original = _Session(self._path, answers if changed or answers is not proto else None)
        held = [value.const_value for value in read.graph.initializers.values()]
        self.weight_bytes = sum(item.nbytes for item in held if item is not None)
        self.weight_bytes += parameter_bytes(read.graph)
        given = None if example_inputs is None else self._given_examples(read, example_inputs)
        self._captured, self._reference, self.examples = self._equal_graph(read, given)
        if given is not None and example_inputs is not None:
            doubles = {name: np.asarray(array) for name, array in example_inputs.items()}
            check_rounded_examples(self._run, self.examples, doubles)

    def _open_in_single_precision(
        self, proto: onnx.ModelProto, example_inputs: Mapping[str, Any] | None
    ) -> None:
        """Take the file's numbers in float32, and say how far its own outputs are from that.

        Raises:
            ParityError: by more than sixteen bits explain.
        """
        rounded = _Session(self._path, None)
        self._open(in_single_precision(proto), example_inputs, changed=True)
        outputs = self._run(self.examples)
        apart = max(
            largest_difference(array, np.asarray(right, np.float32))
            for array, right in zip(outputs.values(), rounded(self.examples), strict=True)
        )
        text = (
            f"{self._path.name}: its layers compute in 16 bits, and model files in 32: the outputs "
            f"of the two differ by up to {apart:.2g} of their scale"
        )
        if not apart <= HALF_TOLERANCE:
            raise ParityError(f"{text}; expected at most {HALF_TOLERANCE:g}")
        warnings.warn(text, stacklevel=2)

    def _equal_graph(
        self, read: ir.Model, given: dict[str, Array] | None
    ) -> tuple[CapturedModel, GraphReference, dict[str, Array]]:
        """The graph with its lookups, simplified as far as it still computes what the file does."""
        faults: list[Exception] = []
        for stages in (CLEANING, CAREFUL_CLEANING):
            try:
                model = name_values(run(read, stages), self.names, self.outputs)
                captured = capture(model, origins(read.graph))
                examples = given or _random_examples(captured)
                reference = GraphReference(captured)
                reference.check(examples, self._run(examples))
            except UnsupportedError:
                raise
            except Exception as error:  # onnxscript and onnx_ir have errors of every kind
                faults.append(error)
            else:
                return captured, reference, examples
        if isinstance(faults[0], OnDeviceError):
            raise type(faults[0])(f"{self._path}: {faults[0]}") from faults[0]
        text = " ".join(str(faults[0]).split())
        raise UnsupportedError(f"{self._path}: its graph cannot be simplified: {text}")

    def capture(self) -> CapturedModel:
        """The graph with its lookups."""
        return self._captured

    def __call__(
        self, values: Mapping[str, Array], tables: Mapping[str, PackedTable] | None = None
    ) -> dict[str, FloatArray]:
        """Outputs float32 [batch, ...] by name; see Source.

        Raises:
            SpecError: ONNX Runtime refuses the values, or a lookup does: an ID below 0, which
                ONNX counts from a table's end, is out of range here.
        """
        outputs = self._run(values)
        if tables is None:
            self._reference.check(values, outputs)
            return outputs
        return self._reference(values, outputs, tables)

    def _run(self, values: Mapping[str, Array]) -> dict[str, FloatArray]:
        """Outputs of the file as it is, float32 [rows, ...] by name.

        Raises:
            SpecError: ONNX Runtime refuses the values.
            UnsupportedError: an output has no row for every row of the request.
        """
        results = self._original(values)
        rows = len(next(iter(values.values())))
        arrays = [np.asarray(array, np.float32) for array in results]
        for name, array in zip(self.outputs, arrays, strict=True):
            if array.shape[:1] != (rows,):
                raise UnsupportedError(
                    f"{self._path}: output {name!r} has shape {list(array.shape)} for {rows} rows; "
                    "expected one value or vector for every row"
                )
        return dict(zip(self.outputs, arrays, strict=True))

    def _given_examples(self, read: ir.Model, given: Mapping[str, Any]) -> dict[str, Array]:
        if set(given) != set(self.names):
            raise SpecError(
                f"example inputs are for {', '.join(sorted(given))}; {self._path.name} takes "
                + ", ".join(self.names)
            )
        examples = {}
        for value in read.graph.inputs:
            name = str(value.name)
            array = np.asarray(given[name])
            dtype = np.float32 if _is_float(value) else np.int64
            if array.ndim != len(value.shape or ()) or len(array) < 2:
                raise SpecError(
                    f"example input {name!r}: shape {list(array.shape)}, expected "
                    f"{[str(size) for size in value.shape or ()]} with at least 2 rows"
                )
            examples[name] = array.astype(dtype)
        return examples


def _random_examples(captured: CapturedModel) -> dict[str, Array]:
    """IDs that tables have, numbers in 0..1, and 0 or 1 for any other integer."""
    rng = np.random.default_rng(0)
    graph = captured.model.graph
    shapes = {
        str(value.name): [
            EXAMPLE_ROWS,
            *(
                size if isinstance(size, int) else EXAMPLE_STEPS
                for size in list(value.shape or ())[1:]
            ),
        ]
        for value in graph.inputs
    }
    uses = input_ids(graph, captured.lookups, shapes)
    most = max((lookup.spec.rows for lookup in captured.lookups), default=0)
    examples: dict[str, Array] = {}
    for value in graph.inputs:
        name = str(value.name)
        use = uses[name]
        columns = [
            rng.integers(max(use.lowest, 0), min(int(limit), most), EXAMPLE_ROWS)
            if limit > 0
            else (
                rng.random(EXAMPLE_ROWS) if _is_float(value) else rng.integers(0, 2, EXAMPLE_ROWS)
            )
            for limit in use.limits
        ]
        dtype = np.float32 if _is_float(value) else np.int64
        examples[name] = np.stack(columns, 1).reshape(shapes[name]).astype(dtype)
    return examples


def _is_float(value: ir.Value) -> bool:
    return value.dtype is not None and value.dtype.is_floating_point()


def _loaded(path: Path) -> onnx.ModelProto:
    """The content of an .onnx file.

    Raises:
        FileFormatError: it is none, or claims what it does not hold (`ondevice.onnx_file`).
        UnsupportedError: it holds a loop, which no target can express and which may not end.
    """
    _check_claims(path)
    try:
        return onnx.load(path)
    except FileNotFoundError as error:
        raise FileFormatError(f"{path}: no such file, or its external data is missing") from error
    except Exception as error:  # protobuf has errors of its own
        raise FileFormatError(
            f"{path}: not an ONNX model: {' '.join(str(error).split())}"
        ) from error


def _check_claims(path: Path) -> None:
    """Check a file before anything is built of it; raises as `_loaded` does."""
    with mapped_files():
        structure = check_structure(path, read_file(path))
    for name in structure.external:
        with contextlib.suppress(OSError):  # onnx.load says so
            check_external(path, structure, name, (path.parent / name).stat().st_size)
    if loops := sorted(structure.with_graphs - _BRANCHES):
        hint = HINTS.get(loops[0], HINTS["Loop"])
        raise UnsupportedError(
            f"{path}: holds {', '.join(loops)}: operators with a graph of their own are no part of "
            f"any model file; what could replace {loops[0]}: {hint}"
        )


def _warn_of_labels(path: Path, given: onnx.ModelProto, used: onnx.ModelProto) -> None:
    """Say which outputs are left out: the labels of a classifier's likeliest class."""
    kept = {value.name for value in used.graph.output}
    labels = [value.name for value in given.graph.output if value.name not in kept]
    if labels:
        warnings.warn(
            f"{path.name}: {', '.join(map(repr, labels))} is left out, the label of the class of "
            f"the greatest score; the files return {', '.join(map(repr, kept))}",
            stacklevel=2,
        )


def _read(path: Path, proto: onnx.ModelProto) -> ir.Model:
    """An ONNX model of this opset with known shapes, its batch free."""
    _check_tensors(path, proto.graph)
    try:
        if any(
            item.domain in ("", "ai.onnx") and item.version != OPSET for item in proto.opset_import
        ):
            proto = onnx.inliner.inline_local_functions(proto)  # the converter drops functions
            proto = onnx.version_converter.convert_version(proto, OPSET)
        model = ir.from_proto(proto)
    except Exception as error:  # the version converter and onnx_ir have errors of their own
        raise FileFormatError(
            f"{path}: cannot be read as ONNX of opset {OPSET}: {' '.join(str(error).split())}"
        ) from error
    graph = model.graph
    for value in [item for item in graph.inputs if item.name in graph.initializers]:
        graph.inputs.remove(value)  # old files list initializers among the inputs
    for value in graph.inputs:
        if value.shape is None or len(value.shape) < 1:
            raise UnsupportedError(f"{path}: input {value.name!r} has no known shape [batch, ...]")
        if isinstance(value.shape[0], int):
            raise UnsupportedError(
                f"{path}: input {value.name!r} takes only {value.shape[0]} rows; export it with "
                "a free first axis"
            )
        value.shape = ir.Shape([BATCH, *list(value.shape)[1:]])
    for value in (*graph.outputs, *(output for node in graph for output in node.outputs)):
        value.shape = None  # it may be that of a fixed batch
    if not graph.inputs:
        raise UnsupportedError(f"{path}: it takes no inputs")
    with quiet():
        passes.ShapeInferencePass()(model)
    return model


def _check_tensors(path: Path, graph: onnx.GraphProto) -> None:
    """Raise UnsupportedError if an input or output of a file is no tensor of numbers."""
    producers = {name: node.op_type for node in graph.node for name in node.output}
    for kind, values in (("input", graph.input), ("output", graph.output)):
        for value in values:
            form = value.type.WhichOneof("value")
            text = (
                form == "tensor_type"
                and value.type.tensor_type.elem_type == onnx.TensorProto.STRING
            )
            if form in ("tensor_type", None) and not text:
                continue
            what = "a tensor of strings" if text else _form(value.type)
            producer = f", made by {producers[value.name]}" if value.name in producers else ""
            hint = (
                "; make the tensor of numbers before it the output, such as a classifier's scores"
                if kind == "output"
                else "; give numbers or IDs in its place"
            )
            raise UnsupportedError(
                f"{path}: {kind} {value.name!r} is {what}{producer}, and model files take and "
                f"return tensors of numbers{hint}"
            )


def _form(kind: onnx.TypeProto) -> str:
    """What a value is that is no tensor, such as "a sequence of maps"."""
    name = str(kind.WhichOneof("value")).removesuffix("_type").replace("_", " ")
    if name == "sequence":
        inner = str(kind.sequence_type.elem_type.WhichOneof("value")).removesuffix("_type")
        return f"a sequence of {inner}s"
    return f"an {name} value" if name == "optional" else f"a {name}"


class _Session:
    """ONNX Runtime with a file, or with what its content was changed to."""

    def __init__(self, path: Path, changed: onnx.ModelProto | None) -> None:
        """Open it. Raises FileFormatError where ONNX Runtime does not."""
        with needs_extra("converting an .onnx file", "onnx"):
            import onnxruntime as ort
        options = ort.SessionOptions()
        options.log_severity_level = 4  # a failed request is raised
        options.intra_op_num_threads = 1
        self._path = path
        try:
            model = str(path) if changed is None else changed.SerializeToString()
            self._session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime has no public base class for its errors
            raise FileFormatError(
                f"{path}: ONNX Runtime cannot open it: {' '.join(str(error).split())}"
            ) from error
        self._types = {item.name: _numpy_type(item.type) for item in self._session.get_inputs()}

    def __call__(self, values: Mapping[str, Array]) -> list[Any]:
        """All outputs. Raises SpecError where ONNX Runtime refuses the values."""
        given = {name: values[name].astype(kind) for name, kind in self._types.items()}
        try:
            return list(self._session.run(None, given))
        except Exception as error:  # onnxruntime has no public base class for its errors
            raise SpecError(f"{self._path}: {' '.join(str(error).split())}") from error


def _numpy_type(name: str) -> np.dtype[Any]:
    """The dtype of an ONNX Runtime type such as "tensor(int32)"."""
    inner = name.removeprefix("tensor(").removesuffix(")")
    kinds = {"float": "float32", "double": "float64"}
    try:
        return np.dtype(kinds.get(inner, inner))
    except TypeError as error:
        raise UnsupportedError(f"expected inputs of numbers, got type {name}") from error
