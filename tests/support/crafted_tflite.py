"""Crafted .tflite files: sizes by value, claims, graphs that call one another, shared vectors.

Each has the description, test vectors and digest of a file that ondevice writes.
"""

import struct

import flatbuffers
import numpy as np
from ai_edge_litert import schema_py_generated as schema
from support.crafted import HUGE, description

from ondevice.deflated import deflate
from ondevice.info import description_parts
from ondevice.sealed import UNSEALED, seal
from ondevice.tflite_file import METADATA_NAME, NEW_FILE

CODES, TYPES = schema.BuiltinOperator, schema.TensorType
KINDS = {"float32": TYPES.FLOAT32, "int32": TYPES.INT32, "int64": TYPES.INT64, "bool": TYPES.BOOL}
INT32_MOST = 2**31 - 1


class Draft:
    """A graph of the input "a" [batch] that is being written; tensors are numbers."""

    def __init__(self):
        """Start with the input, and with it as float32."""
        self.tensors, self.operators, self.codes = [], [], []
        self.buffers = [schema.BufferT()]
        self.a = self.tensor("int64", [1], "a", signature=[-1])
        self.x = self.op("CAST", [self.a], "float32", [1])

    def tensor(self, kind, shape, name="t", signature=None, buffer=0):
        """A tensor that is computed, or lies in a buffer."""
        made = schema.TensorT()
        made.shape, made.type, made.name = shape, KINDS[kind], name
        made.buffer, made.shapeSignature = buffer, signature
        self.tensors.append(made)
        return len(self.tensors) - 1

    def held(self, values, kind="int32", shape=None):
        """A tensor with these values; its shape may be another than theirs."""
        array = np.asarray(values, kind)
        buffer = schema.BufferT()
        buffer.data = np.frombuffer(array.tobytes(), np.uint8)
        self.buffers.append(buffer)
        shape = list(array.shape) if shape is None else shape
        return self.tensor(kind, shape, buffer=len(self.buffers) - 1)

    def op(self, code, inputs, kind="float32", shape=(), options=None, name="t"):
        """An operator with one output; options are a kind and fields by name."""
        number = getattr(CODES, code)
        made = schema.OperatorT()
        if number not in self.codes:
            self.codes.append(number)
        made.opcodeIndex = self.codes.index(number)
        made.inputs, made.outputs = inputs, [self.tensor(kind, list(shape), name)]
        if options is not None:
            kind_of, fields = options
            made.builtinOptionsType = getattr(schema.BuiltinOptions, kind_of)
            made.builtinOptions = getattr(schema, f"{kind_of}T")()
            vars(made.builtinOptions).update(fields)
        self.operators.append(made)
        return made.outputs[0]

    def summed(self, y):
        """Add the largest value of a tensor to the input."""
        y = self.op("CAST", [y], "float32", [1])
        most = self.op("REDUCE_MAX", [y, self.held([0])], "float32", [])
        return self.score("ADD", [self.x, most], options=("AddOptions", {}))

    def score(self, code, inputs, **settings):
        """The operator that computes the output."""
        self.output = self.op(code, inputs, "float32", [1], name="score", **settings)
        return self

    def bytes(self, graphs=1):
        """The file, whose graph stands there several times."""
        model, graph = schema.ModelT(), schema.SubGraphT()
        graph.tensors, graph.operators = self.tensors, self.operators
        graph.inputs, graph.outputs, graph.name = [self.a], [self.output], "main"
        model.version, model.subgraphs, model.buffers = 3, [graph] * graphs, self.buffers
        model.operatorCodes = [self._code(number) for number in self.codes]
        model.description = NEW_FILE + UNSEALED.decode()
        info, entry = schema.BufferT(), schema.MetadataT()
        info.data = np.frombuffer(deflate(*description_parts(description())), np.uint8)
        entry.name, entry.buffer = METADATA_NAME, len(self.buffers)
        model.metadata, model.buffers = [entry], [*self.buffers, info]
        builder = flatbuffers.Builder(1 << 16)
        builder.Finish(model.Pack(builder), b"TFL3")
        return bytes(builder.Output())

    @staticmethod
    def _code(number):
        made = schema.OperatorCodeT()
        made.builtinCode, made.version = number, 1
        made.deprecatedBuiltinCode = min(number, 127)
        return made


def identity():
    """What is no attack."""
    draft = Draft()
    return draft.score("ADD", [draft.x, draft.held(0, "float32")], options=("AddOptions", {}))


def _by_value(code, *more, kind="float32", first=None, options=None):
    """An operator whose result has the size that an input says: int32, or (values, dtype)."""
    draft = Draft()
    inputs = [] if first is None else [getattr(draft, first)]
    for item in more:
        inputs.append(draft.held(*item) if isinstance(item, tuple) else draft.held(item))
    return draft.summed(draft.op(code, inputs, kind, [1], options))


def _doubled(levels):
    draft = Draft()
    last = draft.x
    for _ in range(levels):
        last = draft.op("CONCATENATION", [last, last], "float32", [1],
                        ("ConcatenationOptions", {"axis": 0}))  # fmt: skip
    return draft.summed(last)


def _control(code, options, fields):
    draft = Draft()
    yes = draft.held([True], "bool")
    return draft.score(code, [yes, draft.x], options=(options, fields))


def _claimed(shape):
    draft = Draft()
    return draft.summed(draft.held([1.0], "float32", shape))


def _computed(shape):
    draft = Draft()
    return draft.summed(draft.op("ADD", [draft.x, draft.x], "float32", shape, ("AddOptions", {})))


def _shared_vectors():
    """2,000 operators that are one, which reads 100,000 tensors: 20 kB of offsets, 10^8 reads."""
    draft = identity()
    draft.operators[1:1] = [schema.OperatorT() for _ in range(2000)]
    for number, made in enumerate(draft.operators[1:2001]):
        made.opcodeIndex, made.outputs = 0, []
        made.inputs = [draft.a] * 100_000 if number == 0 else [draft.a]
    data = bytearray(draft.bytes())
    vector = data.index(struct.pack("<I", 2002))  # the vector of operators, by its length
    target = vector + 8 + struct.unpack_from("<I", data, vector + 8)[0]
    for place in range(vector + 8, vector + 8 + 4 * 2000, 4):
        struct.pack_into("<I", data, place, (target - place) % 2**32)
    return bytes(data)


TFLITE = {
    # sizes by value
    "Fill": lambda: _by_value("FILL", ([HUGE], "int64"), (1.0, "float32")),
    "Fill past 2^63": lambda: _by_value("FILL", ([2**32] * 3, "int64"), (1.0, "float32")),
    "Fill of 8 GB": lambda: _by_value("FILL", [INT32_MOST], (1.0, "float32")),
    "Fill below 0": lambda: _by_value("FILL", [-5], (1.0, "float32")),
    "BroadcastTo": lambda: _by_value("BROADCAST_TO", [INT32_MOST, 1], first="x"),
    "Tile": lambda: _by_value("TILE", [INT32_MOST], first="x"),
    "Tile past 2^31": lambda: _by_value("TILE", ([HUGE], "int64"), first="x"),
    "Range": lambda: _by_value("RANGE", 0, INT32_MOST, 1, kind="int32"),
    "Range without step": lambda: _by_value("RANGE", 0, INT32_MOST, 0, kind="int32"),
    "Reshape": lambda: _by_value("RESHAPE", [INT32_MOST], first="x"),
    "Pad": lambda: _by_value("PAD", [[0, INT32_MOST]], first="x"),
    "Pad below 0": lambda: _by_value("PAD", [[0, -100]], first="x"),
    "OneHot": lambda: _by_value(
        "ONE_HOT", INT32_MOST, (1.0, "float32"), (0.0, "float32"), first="a"
    ),
    "RandomUniform": lambda: _by_value("RANDOM_UNIFORM", [INT32_MOST]),
    "Concatenation 40 times": lambda: _doubled(40),
    "Gather outside": lambda: _by_value("GATHER", [INT32_MOST], first="x"),
    "Gather below 0": lambda: _by_value("GATHER", [-(2**31)], first="x"),
    "Transpose outside": lambda: _by_value("TRANSPOSE", [77], first="x"),
    "Slice outside": lambda: _by_value("SLICE", [0], [INT32_MOST], first="x"),
    "ScatterNd outside": lambda: _by_value("SCATTER_ND", [[10**6]], ([1.0], "float32"), [4]),
    "ExpandDims outside": lambda: _by_value("EXPAND_DIMS", 1000, first="x"),
    # claims
    "2^31 values held": lambda: _claimed([INT32_MOST]),
    "2^62 values held": lambda: _claimed([INT32_MOST, INT32_MOST]),
    "2^93 values held": lambda: _claimed([INT32_MOST] * 3),
    "values below 0": lambda: _claimed([-7]),
    "2^31 values computed": lambda: _computed([INT32_MOST]),
    "2^62 values computed": lambda: _computed([INT32_MOST, INT32_MOST]),
    # graphs
    "While": lambda: _control(
        "WHILE", "WhileOptions", {"condSubgraphIndex": 0, "bodySubgraphIndex": 0}
    ),
    "If": lambda: _control("IF", "IfOptions", {"thenSubgraphIndex": 0, "elseSubgraphIndex": 0}),
    "CallOnce": lambda: _control("CALL_ONCE", "CallOnceOptions", {"initSubgraphIndex": 0}),
    "shared vectors": _shared_vectors,
    "two graphs": lambda: identity().bytes(graphs=2),
}


def write_tflite(path, name):
    """Write a crafted file; returns its path."""
    made = identity() if name == "identity" else TFLITE[name]()
    path.write_bytes(made if isinstance(made, bytes) else made.bytes())
    seal(path)
    return path
