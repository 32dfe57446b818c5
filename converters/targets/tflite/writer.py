"""Builds a TFLite model of one subgraph, with a signature and metadata, and writes its file."""

from __future__ import annotations

import hashlib
import math
import mmap
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import flatbuffers
import numpy as np
import numpy.typing as npt
import tflite

from ondevice.converters.targets.tflite.kernel_types import VALUES_INPUT, check_kernel
from ondevice.deflated import deflate
from ondevice.errors import UnsupportedError
from ondevice.info import description_parts
from ondevice.sealed import UNSEALED
from ondevice.tflite_file import METADATA_NAME, NEW_FILE

FREE = -1  # a size that is known only when the model runs
SCHEMA_VERSION = 3
FILE_IDENTIFIER = b"TFL3"
SIGNATURE_KEY = "serving_default"

# Flatbuffer offsets are 31 bits; some are left for the graph itself.
GRAPH_BYTES = 2**24
MAX_BUFFER_BYTES = 2**31 - GRAPH_BYTES
TENSOR_ALIGNMENT = 16  # what the TFLite runtimes assume of constant data
TABLE_ALIGNMENT = 64  # a cache line

Shape = tuple[int, ...]
Array = npt.NDArray[Any]

TYPES = {
    "float32": tflite.TensorType.FLOAT32,
    "float16": tflite.TensorType.FLOAT16,
    "int8": tflite.TensorType.INT8,
    "uint8": tflite.TensorType.UINT8,
    "int16": tflite.TensorType.INT16,
    "uint16": tflite.TensorType.UINT16,
    "int32": tflite.TensorType.INT32,
    "uint32": tflite.TensorType.UINT32,
    "int64": tflite.TensorType.INT64,
    "bool": tflite.TensorType.BOOL,
}

# The options table of every operator that the emitter uses.
_OPTIONS = {
    "ABS": "AbsOptions",
    "ADD": "AddOptions",
    "ARG_MAX": "ArgMaxOptions",
    "ARG_MIN": "ArgMinOptions",
    "BATCH_MATMUL": "BatchMatMulOptions",
    "BITCAST": "BitcastOptions",
    "CAST": "CastOptions",
    "CEIL": None,
    "CONCATENATION": "ConcatenationOptions",
    "CUMSUM": "CumsumOptions",
    "DEQUANTIZE": "DequantizeOptions",
    "DIV": "DivOptions",
    "EQUAL": "EqualOptions",
    "EXP": "ExpOptions",
    "EXPAND_DIMS": "ExpandDimsOptions",
    "FILL": "FillOptions",
    "FLOOR": None,
    "FLOOR_MOD": "FloorModOptions",
    "FULLY_CONNECTED": "FullyConnectedOptions",
    "GATHER": "GatherOptions",
    "GATHER_ND": "GatherNdOptions",
    "GREATER": "GreaterOptions",
    "GREATER_EQUAL": "GreaterEqualOptions",
    "LEAKY_RELU": "LeakyReluOptions",
    "LESS": "LessOptions",
    "LESS_EQUAL": "LessEqualOptions",
    "LOG": None,
    "LOGICAL_AND": "LogicalAndOptions",
    "LOGICAL_NOT": "LogicalNotOptions",
    "LOGICAL_OR": "LogicalOrOptions",
    "LOGISTIC": None,
    "MAXIMUM": "MaximumMinimumOptions",
    "MEAN": "ReducerOptions",
    "MINIMUM": "MaximumMinimumOptions",
    "MUL": "MulOptions",
    "NEG": "NegOptions",
    "NOT_EQUAL": "NotEqualOptions",
    "PACK": "PackOptions",
    "PADV2": "PadV2Options",
    "POW": "PowOptions",
    "QUANTIZE": "QuantizeOptions",
    "REDUCE_MAX": "ReducerOptions",
    "REDUCE_MIN": "ReducerOptions",
    "REDUCE_PROD": "ReducerOptions",
    "RELU": None,
    "RESHAPE": "ReshapeOptions",
    "RIGHT_SHIFT": "RightShiftOptions",
    "ROUND": None,
    "SELECT_V2": "SelectV2Options",
    "SHAPE": "ShapeOptions",
    "SLICE": "SliceOptions",
    "SOFTMAX": "SoftmaxOptions",
    "SQRT": None,
    "SQUEEZE": "SqueezeOptions",
    "STRIDED_SLICE": "StridedSliceOptions",
    "SUB": "SubOptions",
    "SUM": "ReducerOptions",
    "TANH": None,
    "TOPK_V2": "TopKV2Options",
    "TRANSPOSE": "TransposeOptions",
    "UNPACK": "UnpackOptions",
}


@dataclass(frozen=True, eq=False)
class Tensor:
    """A value of the subgraph; FREE marks sizes that are known only at run time."""

    index: int
    shape: Shape
    dtype: np.dtype[Any]


@dataclass(frozen=True)
class Quantisation:
    """What the integers of a tensor mean: value = scale * (integer - zero_point).

    Either a single scale, or one for each index of axis 0.
    """

    scales: tuple[float, ...]
    zero_point: int = 0


@dataclass(frozen=True)
class _Operator:
    opcode: str
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    options: dict[str, Any]


@dataclass
class _Reserved:
    """Room for an array in the file.

    Attributes:
        from_end: bytes between the array's start and the end of the file, known once written.
    """

    nbytes: int
    from_end: int = 0

    @property
    def size(self) -> int:
        """Bytes; the same as the size of an array of bytes."""
        return self.nbytes


@dataclass
class _TensorRecord:
    name: str
    tensor: Tensor
    buffer: int
    quantisation: Quantisation | None = None


class TfliteWriter:
    """Collects the operators of a graph, then writes it as a flatbuffer.

    Every operator is declared at version 1, the lowest: tflite-runtime 2.14 rejects a file that
    requires versions it does not know, and both runtimes look at types, not at versions.
    """

    def __init__(self) -> None:
        """Start an empty graph."""
        self._tensors: list[_TensorRecord] = []
        self._buffers: list[tuple[Array | _Reserved, int]] = [
            (np.empty(0, np.uint8), 1)
        ]  # 0: no data
        self._operators: list[_Operator] = []
        self._inputs: list[int] = []
        self._outputs: list[int] = []
        self._constants: dict[tuple[str, Shape, bytes], Tensor] = {}
        self._known: dict[tuple[Any, ...], Tensor] = {}
        self._size = 0  # of the file, once written

    def input(self, name: str, shape: Shape, dtype: npt.DTypeLike) -> Tensor:
        """Add a graph input."""
        tensor = self._tensor(name, shape, np.dtype(dtype), 0)
        self._inputs.append(tensor.index)
        return tensor

    def output(self, tensor: Tensor, name: str) -> None:
        """Make a tensor a graph output under `name`; see `can_be_output`."""
        self._tensors[tensor.index].name = name
        self._outputs.append(tensor.index)

    def constant(self, values: npt.ArrayLike, dtype: npt.DTypeLike, name: str = "") -> Tensor:
        """A constant; without a name it gets a number. Equal constants are stored once."""
        array = np.array(values, dtype=dtype, order="C")
        digest = hashlib.sha256(array.tobytes()).digest()
        key = (array.dtype.name, array.shape, digest)
        if key not in self._constants:
            alignment = TENSOR_ALIGNMENT if array.ndim < 2 else TABLE_ALIGNMENT
            name = name or f"constant_{len(self._constants)}"
            self._constants[key] = self.table(name, array, alignment)
        return self._constants[key]

    def table(
        self,
        name: str,
        array: Array,
        alignment: int = TABLE_ALIGNMENT,
        quantisation: Quantisation | None = None,
    ) -> Tensor:
        """A named constant, which is never shared.

        Args:
            name: its name.
            array: its values.
            alignment: the data starts at a multiple of this in the file.
            quantisation: what its integers mean.
        """
        self._buffers.append((array, alignment))
        tensor = self._tensor(name, array.shape, array.dtype, len(self._buffers) - 1)
        self._tensors[tensor.index].quantisation = quantisation
        return tensor

    def reserve(self, name: str, shape: Shape, dtype: npt.DTypeLike) -> Tensor:
        """A constant whose data the caller writes into the file, at `offset`, after `write`."""
        nbytes = math.prod(shape) * np.dtype(dtype).itemsize
        self._buffers.append((_Reserved(nbytes), TABLE_ALIGNMENT))
        return self._tensor(name, shape, dtype, len(self._buffers) - 1)

    def offset(self, tensor: Tensor) -> int:
        """Byte of the written file at which a reserved constant begins."""
        buffer, _ = self._buffers[self._tensors[tensor.index].buffer]
        if not isinstance(buffer, _Reserved):
            raise TypeError(
                f"tensor {tensor.index} holds data; only reserved tensors have an offset"
            )
        return self._size - buffer.from_end

    def op(
        self,
        opcode: str,
        inputs: Sequence[Tensor],
        shape: Shape,
        dtype: npt.DTypeLike,
        first: npt.DTypeLike | None = None,
        quantisation: Quantisation | None = None,
        **options: Any,
    ) -> Tensor:
        """Add an operator with one output of the given shape and dtype.

        The same operator on the same inputs is added once: operators have no side effects.

        Args:
            opcode: a name of the schema's BuiltinOperator.
            inputs: its input tensors.
            shape: the output's shape, FREE where unknown.
            dtype: the output's dtype.
            first: dtype of an unused output of the same shape that precedes it.
            quantisation: what the output's integers mean.
            options: fields of the operator's options table, in the schema's snake case.

        Raises:
            UnsupportedError: the runtimes have no kernel for these values.
        """
        check_kernel(opcode, inputs[VALUES_INPUT.get(opcode, 0)].dtype)
        indices = tuple(tensor.index for tensor in inputs)
        key = (opcode, indices, np.dtype(dtype), quantisation, *sorted(options.items()))
        if key not in self._known:
            name = f"{opcode.lower()}_{len(self._operators)}"
            unused = [] if first is None else [self._tensor(f"{name}_first", shape, first, 0)]
            output = self._known[key] = self._tensor(name, shape, dtype, 0)
            self._tensors[output.index].quantisation = quantisation
            places = tuple(tensor.index for tensor in (*unused, output))
            self._operators.append(_Operator(opcode, indices, places, options))
        return self._known[key]

    def cast(self, tensor: Tensor, dtype: npt.DTypeLike) -> Tensor:
        """Add a CAST, unless the tensor has that dtype already."""
        target = np.dtype(dtype)
        if tensor.dtype == target:
            return tensor
        types = {"in_data_type": TYPES[tensor.dtype.name], "out_data_type": TYPES[target.name]}
        return self.op("CAST", [tensor], tensor.shape, target, **types)

    def quantisation(self, tensor: Tensor) -> Quantisation:
        """What the integers of a tensor mean; raises ValueError where that was not set."""
        quantisation = self._tensors[tensor.index].quantisation
        if quantisation is None:
            raise ValueError(f"tensor {tensor.index} has no quantisation")
        return quantisation

    def can_be_output(self, tensor: Tensor) -> bool:
        """Whether `output` accepts a tensor: not an input, a constant or an output already."""
        taken = tensor.index in (*self._inputs, *self._outputs)
        return not taken and not self._tensors[tensor.index].buffer

    def write(self, path: Path, info: bytes) -> None:
        """Write the file, with `info` in its metadata.

        Raises:
            UnsupportedError: the file would exceed TFLite's limit of 2 GB.
        """
        described = np.frombuffer(deflate(*description_parts(info)), np.uint8)
        payload = [*self._buffers, (described, TENSOR_ALIGNMENT)]
        total = sum(array.nbytes + alignment for array, alignment in payload)
        check_file_size(total)
        builder = flatbuffers.Builder(0)
        # large enough never to grow; pages that are not written take no memory
        builder.Bytes = mmap.mmap(-1, total + GRAPH_BYTES)
        builder.head = len(builder.Bytes)
        # a flatbuffer grows towards its start: data that is written first follows the graph
        buffers = [_buffer(builder, array, alignment) for array, alignment in payload]
        _finish_model(builder, self, buffers)
        whole = memoryview(builder.Bytes)
        self._size = len(whole) - builder.Head()
        with path.open("wb") as file:
            start = builder.Head()
            for buffer in reversed([item for item, _ in payload if isinstance(item, _Reserved)]):
                stop = len(whole) - buffer.from_end
                file.write(whole[start:stop])
                file.seek(buffer.nbytes, os.SEEK_CUR)
                start = stop + buffer.nbytes
            file.write(whole[start:])
            file.truncate(self._size)

    def _tensor(self, name: str, shape: Shape, dtype: npt.DTypeLike, buffer: int) -> Tensor:
        tensor = Tensor(len(self._tensors), tuple(shape), np.dtype(dtype))
        self._tensors.append(_TensorRecord(name, tensor, buffer))
        return tensor


def check_file_size(data_bytes: int) -> None:
    """Check that tables and weights of this size fit a TFLite file.

    Raises:
        UnsupportedError: they exceed its limit of 2 GB.
    """
    if data_bytes > MAX_BUFFER_BYTES:
        raise UnsupportedError(
            f"the TFLite file would hold {data_bytes:,} bytes of tables and weights; a TFLite file "
            f"is limited to 2 GB ({MAX_BUFFER_BYTES:,} bytes of data): leave this target out, or "
            "store the tables with fewer bits"
        )


def _finish_model(builder: Any, graph: TfliteWriter, buffers: list[int]) -> None:
    """Write the schema's Model around buffers that are written, at the offsets `buffers`."""
    opcodes = sorted({operator.opcode for operator in graph._operators})
    subgraph = _subgraph(builder, graph, opcodes)
    metadata = _table(
        builder, "Metadata", Name=builder.CreateString(METADATA_NAME), Buffer=len(buffers) - 1
    )
    model = _table(
        builder,
        "Model",
        Version=SCHEMA_VERSION,
        OperatorCodes=_offsets(builder, [_operator_code(builder, name) for name in opcodes]),
        Subgraphs=_offsets(builder, [subgraph]),
        Description=builder.CreateString(NEW_FILE + UNSEALED.decode()),
        Buffers=_offsets(builder, buffers),
        Metadata=_offsets(builder, [metadata]),
        SignatureDefs=_offsets(builder, [_signature(builder, graph)]),
    )
    builder.Finish(model, FILE_IDENTIFIER)


def _subgraph(builder: Any, graph: TfliteWriter, opcodes: list[str]) -> int:
    tensors = [_tensor_table(builder, record) for record in graph._tensors]
    operators = [_operator(builder, item, opcodes) for item in graph._operators]
    return _table(
        builder,
        "SubGraph",
        Tensors=_offsets(builder, tensors),
        Inputs=_int32s(builder, graph._inputs),
        Outputs=_int32s(builder, graph._outputs),
        Operators=_offsets(builder, operators),
        Name=builder.CreateString("main"),
    )


def _buffer(builder: Any, array: Array | _Reserved, alignment: int) -> int:
    """Write the schema's Buffer; a reserved one is skipped over, and its place noted."""
    if not array.size:
        return _table(builder, "Buffer")
    if isinstance(array, _Reserved):
        builder.Prep(alignment, array.nbytes)
        builder.StartVector(1, array.nbytes, 1)
        builder.head = builder.Head() - array.nbytes
        array.from_end = int(builder.Offset())
        return _table(builder, "Buffer", Data=builder.EndVector())
    little_endian = array.astype(array.dtype.newbyteorder("<"), copy=False)
    data = np.ascontiguousarray(little_endian).reshape(-1).view(np.uint8)
    builder.Prep(alignment, data.size)
    return _table(builder, "Buffer", Data=builder.CreateNumpyVector(data))


def _tensor_table(builder: Any, record: _TensorRecord) -> int:
    """Write the schema's Tensor; free sizes are 1 in its shape and -1 in its signature."""
    shape = record.tensor.shape
    fields: dict[str, Any] = {
        "Shape": _int32s(builder, [1 if size == FREE else size for size in shape]),
        "Type": TYPES[record.tensor.dtype.name],
        "Buffer": record.buffer,
        "Name": builder.CreateString(record.name),
        "HasRank": True,
    }
    if (quantisation := record.quantisation) is not None:
        scales = np.asarray(quantisation.scales, dtype=np.float32)
        zeros = np.full(len(scales), quantisation.zero_point, dtype=np.int64)
        fields["Quantization"] = _table(
            builder,
            "QuantizationParameters",
            Scale=int(builder.CreateNumpyVector(scales)),
            ZeroPoint=int(builder.CreateNumpyVector(zeros)),
            QuantizedDimension=0,
        )
    if FREE in shape:
        fields["ShapeSignature"] = _int32s(builder, shape)
    return _table(builder, "Tensor", **fields)


def _operator_code(builder: Any, opcode: str) -> int:
    code = getattr(tflite.BuiltinOperator, opcode)
    # readers older than the int32 field read the int8 field, which is capped at a placeholder
    return _table(
        builder,
        "OperatorCode",
        DeprecatedBuiltinCode=min(code, tflite.BuiltinOperator.PLACEHOLDER_FOR_GREATER_OP_CODES),
        Version=1,
        BuiltinCode=code,
    )


def _operator(builder: Any, operator: _Operator, opcodes: list[str]) -> int:
    fields: dict[str, Any] = {
        "OpcodeIndex": opcodes.index(operator.opcode),
        "Inputs": _int32s(builder, operator.inputs),
        "Outputs": _int32s(builder, operator.outputs),
    }
    name = _OPTIONS[operator.opcode]
    if name is not None:
        options = {
            _camel_case(key): _int32s(builder, value) if isinstance(value, tuple) else value
            for key, value in operator.options.items()
        }
        fields["BuiltinOptionsType"] = getattr(tflite.BuiltinOptions, name)
        fields["BuiltinOptions"] = _table(builder, name, **options)
    return _table(builder, "Operator", **fields)


def _signature(builder: Any, graph: TfliteWriter) -> int:
    maps = []
    for indices in (graph._inputs, graph._outputs):
        entries = []
        for index in indices:
            name = builder.CreateString(graph._tensors[index].name)
            entries.append(_table(builder, "TensorMap", Name=name, TensorIndex=index))
        maps.append(_offsets(builder, entries))
    key = builder.CreateString(SIGNATURE_KEY)
    return _table(
        builder, "SignatureDef", Inputs=maps[0], Outputs=maps[1], SignatureKey=key, SubgraphIndex=0
    )


def _table(builder: Any, table: str, **fields: Any) -> int:
    """Write a table of the schema; the values of vectors, strings and tables are their offsets."""
    getattr(tflite, f"{table}Start")(builder)
    for field, value in fields.items():
        getattr(tflite, f"{table}Add{field}")(builder, value)
    return int(getattr(tflite, f"{table}End")(builder))


def _offsets(builder: Any, offsets: Sequence[int]) -> int:
    builder.StartVector(4, len(offsets), 4)
    for offset in reversed(offsets):
        builder.PrependUOffsetTRelative(offset)
    return int(builder.EndVector())


def _int32s(builder: Any, values: Sequence[int]) -> int:
    return int(builder.CreateNumpyVector(np.asarray(values, dtype=np.int32)))


def _camel_case(name: str) -> str:
    return re.sub(r"(?:^|_)([a-z])", lambda match: match.group(1).upper(), name)
