"""Crafted .onnx and .tflite files: small ones that claim, nest, repeat or compute without bound.

Each stands in a file as ondevice writes it, with a description, test vectors and the digest that
fits: whoever forges a file can do that.
"""

import base64
import hashlib

import numpy as np
import onnx
from onnx import TensorProto, helper

from ondevice.deflated import deflate
from ondevice.info import InputSpec, ModelInfo, TestVectors, description_parts
from ondevice.onnx_content import DATA_MARK, METADATA_KEY, SEAL_KEY
from ondevice.sealed import UNSEALED, seal

ROWS = 4
DOMAIN = "crafted"
HUGE = 2**40
MOST = 2**63 - 1


def description():
    """Of a model that takes "a" and returns it as "score"."""
    ids = np.arange(ROWS)
    vectors = TestVectors({"a": ids}, {"score": ids.astype(np.float32)}, 1e-6)
    return ModelInfo((InputSpec("a"),), ("score",), vectors=vectors).to_bytes()


def node(kind, inputs, outputs, **attributes):
    """A node; names are given as one text, with spaces between."""
    return helper.make_node(kind, inputs.split(), outputs.split(), **attributes)


def call(name, inputs, outputs):
    """A call of a function of the file."""
    return node(name, inputs, outputs, domain=DOMAIN)


def function(name, *nodes):
    """A function of x that returns y."""
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid(DOMAIN, 1)]
    return helper.make_function(DOMAIN, name, ["x"], ["y"], nodes, opsets)


def ints(name, *values):
    """An int64 vector."""
    return helper.make_tensor(name, TensorProto.INT64, [len(values)], values)


def scalar(name, value, kind=TensorProto.INT64):
    """A tensor without axes."""
    return helper.make_tensor(name, kind, [], [value])


def claimed(name, *shape, kind=TensorProto.FLOAT):
    """A tensor of this shape with four bytes."""
    return TensorProto(name=name, data_type=kind, dims=shape, raw_data=bytes(4))


def model(nodes, held=(), functions=()):
    """A model of these nodes, which compute "score" of "x", the input as float32."""
    graph = helper.make_graph(
        [node("Cast", "a", "x", to=TensorProto.FLOAT), *nodes],
        "g",
        [helper.make_tensor_value_info("a", TensorProto.INT64, ["batch"])],
        [helper.make_tensor_value_info("score", TensorProto.FLOAT, ["batch"])],
        list(held),
    )
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid(DOMAIN, 1)]
    return helper.make_model(graph, opset_imports=opsets, functions=list(functions), ir_version=10)


def summed(*nodes, held=(), functions=()):
    """A model that adds the largest value of "y" to the input."""
    ends = [
        node("Cast", "y", "y_float", to=TensorProto.FLOAT),
        node("ReduceMax", "y_float", "most", keepdims=0),
        node("Add", "x most", "score"),
    ]
    return model([*nodes, *ends], held, functions)


def identity():
    """What is no attack."""
    return model([node("Identity", "x", "score")])


def _doubling(levels, last=("Identity", "x", "y")):
    """Functions of which each calls the next twice."""
    functions = [
        function(f"f{i}", call(f"f{i + 1}", "x", "h"), call(f"f{i + 1}", "h", "y"))
        for i in range(levels)
    ]
    return model(
        [call("f0", "x", "score")], functions=[*functions, function(f"f{levels}", node(*last))]
    )


def _circle(*names):
    """Functions that call one another in a circle."""
    following = (*names[1:], names[0])
    functions = [
        function(name, call(after, "x", "y")) for name, after in zip(names, following, strict=True)
    ]
    return model([call(names[0], "x", "score")], functions=functions)


def _branches(levels):
    """If inside If, by their bytes: the library refuses to write what is nested so deep."""
    held = [scalar("yes", True, TensorProto.BOOL)]
    inner = node("Identity", "x", "score").SerializeToString()
    for _ in range(levels):
        output = helper.make_tensor_value_info("score", TensorProto.FLOAT, None)
        graph = _field(1, inner) + _field(2, b"g") + _field(12, output.SerializeToString())
        branches = [
            _field(5, _field(1, name) + _field(6, graph) + b"\xa0\x01\x05")
            for name in (b"then_branch", b"else_branch")
        ]
        if levels > 10:  # the other branch would double the file with every level
            del branches[1]
        inner = _field(1, b"yes") + _field(2, b"score") + _field(4, b"If") + b"".join(branches)
    start = model([], held)
    graph = start.graph.SerializeToString() + _field(1, inner)
    start.ClearField("graph")
    return Raw(start.SerializeToString() + _field(7, graph))


def _loop(count=MOST):
    body = helper.make_graph(
        [node("Identity", "go", "still"), node("Add", "v one", "w")],
        "body",
        [
            helper.make_tensor_value_info("i", TensorProto.INT64, []),
            helper.make_tensor_value_info("go", TensorProto.BOOL, []),
            helper.make_tensor_value_info("v", TensorProto.FLOAT, None),
        ],
        [
            helper.make_tensor_value_info("still", TensorProto.BOOL, []),
            helper.make_tensor_value_info("w", TensorProto.FLOAT, None),
        ],
    )
    loop = helper.make_node("Loop", ["count", "yes", "x"], ["score"], body=body)
    held = [
        scalar("count", count),
        scalar("yes", True, TensorProto.BOOL),
        scalar("one", 1.0, TensorProto.FLOAT),
    ]
    return loop, held


def loop_in_graph():
    """A loop that does not end."""
    loop, held = _loop()
    return model([loop], held)


def loop_in_function():
    """The same, in a function."""
    loop, held = _loop()
    loop.output[0] = "y"
    constants = [helper.make_node("Constant", [], [item.name], value=item) for item in held]
    return model([call("f", "x", "score")], functions=[function("f", *constants, loop)])


def scan():
    """Scan over 2^31 rows of a computed matrix."""
    body = helper.make_graph(
        [node("Add", "s r", "t")],
        "body",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in "sr"],
        [helper.make_tensor_value_info("t", TensorProto.FLOAT, None)],
    )
    nodes = [
        node("ConstantOfShape", "size", "long"),
        helper.make_node("Scan", ["x", "long"], ["score"], body=body, num_scan_inputs=1),
    ]
    return model(nodes, [ints("size", 2**31)])


def _outer(levels):
    """A vector as long as 2 to the levels, by joining it to itself; sizes that no shape tells."""
    nodes = [node("Concat", f"v{i} v{i}", f"v{i + 1}", axis=0) for i in range(levels)]
    return summed(node("Identity", "x", "v0"), *nodes, node("Identity", f"v{levels}", "y"))


def _many(count):
    """The same node over and over: nobody comes to see that they are all called alike."""
    start = model([])
    again = _field(1, node("Identity", "x", "score").SerializeToString())
    graph = start.graph.SerializeToString() + again * count
    start.ClearField("graph")
    return Raw(start.SerializeToString() + _field(7, graph))


def _sparse():
    made = summed(node("Identity", "s", "y"))
    made.graph.sparse_initializer.add(
        values=helper.make_tensor("s", TensorProto.FLOAT, [1], [1.0]),
        indices=ints("i", 5),
        dims=[HUGE],
    )
    return made


def _deep_type(levels):
    made = identity()
    kind = made.graph.value_info.add(name="t").type
    for _ in range(levels):
        kind = kind.sequence_type.elem_type
    kind.tensor_type.elem_type = TensorProto.FLOAT
    return made


def _two_graphs():
    data = identity().SerializeToString()
    graph = identity().graph.SerializeToString()
    return Raw(data + _field(7, graph))


def _attribute_in_file(location):
    """A constant whose values are in another file."""
    tensor = TensorProto(name="c", data_type=TensorProto.FLOAT, dims=[4])
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value=location)
    return summed(helper.make_node("Constant", [], ["y"], value=tensor))


def _external(location, shape=(4,), **entries):
    made = summed(node("Identity", "w", "y"))
    tensor = made.graph.initializer.add(name="w", data_type=TensorProto.FLOAT, dims=shape)
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in {"location": location, **entries}.items():
        tensor.external_data.add(key=key, value=value)
    return made


class Raw(bytes):
    """The bytes of a model that the library does not write."""

    def SerializeToString(self):
        return bytes(self)


def _field(number, content):
    """A field of protobuf that has a length."""
    size, length = len(content), b""
    while size > 127:
        length += bytes([size & 127 | 128])
        size >>= 7
    return bytes([number << 3 | 2]) + length + bytes([size]) + content


def _sized(kind, *shape, **attributes):
    """An operator whose result has the size that an input says."""
    return summed(node(kind, "x size", "y", **attributes), held=[ints("size", *shape)])


ONNX = {
    # functions and graphs
    "40 levels of doubling": lambda: _doubling(40),
    "16 levels of doubling": lambda: _doubling(16),
    "2,000 functions in a row": lambda: model(
        [call("f0", "x", "score")],
        functions=[
            *(function(f"f{i}", call(f"f{i + 1}", "x", "y")) for i in range(2000)),
            function("f2000", node("Identity", "x", "y")),
        ],
    ),
    "function calls itself": lambda: _circle("f"),
    "functions in a circle": lambda: _circle("f", "g", "h"),
    "graphs 90 levels deep": lambda: _branches(90),
    "graphs 3 levels deep": lambda: _branches(3),
    "200,000 nodes": lambda: _many(200_000),
    "types 90 levels deep": lambda: _deep_type(90),
    "two graphs": _two_graphs,
    # loops
    "loop": loop_in_graph,
    "loop in a function": loop_in_function,
    "scan": scan,
    # claims
    "2^62 values": lambda: summed(node("Identity", "w", "y"), held=[claimed("w", 2**31, 2**31)]),
    "2^124 values": lambda: summed(node("Identity", "w", "y"), held=[claimed("w", 2**62, 2**62)]),
    "2 GB of values": lambda: summed(node("Identity", "w", "y"), held=[claimed("w", 2**29)]),
    "negative size": lambda: summed(node("Identity", "w", "y"), held=[claimed("w", -1)]),
    "claim in a constant": lambda: summed(
        helper.make_node("Constant", [], ["y"], value=claimed("w", HUGE))
    ),
    "claim in a function": lambda: model(
        [call("f", "x", "score")],
        functions=[
            function(
                "f",
                helper.make_node("Constant", [], ["c"], value=claimed("w", HUGE)),
                node("Add", "x c", "y"),
            )
        ],
    ),
    "sparse": _sparse,
    "strings": lambda: summed(
        node("StringNormalizer", "w", "t"),
        node("Cast", "t", "y", to=TensorProto.FLOAT),
        held=[helper.make_tensor("w", TensorProto.STRING, [1], [b"1" * 10_000_000])],
    ),
    "a name of 10 MB": lambda: model(
        [node("Identity", "x", "n" * 10_000_000), node("Identity", "n" * 10_000_000, "score")]
    ),
    "an operator of 10 MB": lambda: model([node("I" * 10_000_000, "x", "score")]),
    # sizes by value
    "ConstantOfShape": lambda: summed(
        node("ConstantOfShape", "size", "y"), held=[ints("size", HUGE)]
    ),
    "ConstantOfShape past 2^63": lambda: summed(
        node("ConstantOfShape", "size", "y"), held=[ints("size", 2**32, 2**32, 2**32)]
    ),
    "ConstantOfShape of 12 GB": lambda: summed(
        node("ConstantOfShape", "size", "y"), held=[ints("size", 3 * 2**30)]
    ),
    "Range": lambda: summed(
        node("Range", "zero end one", "y"),
        held=[scalar("zero", 0), scalar("end", HUGE), scalar("one", 1)],
    ),
    "Range without step": lambda: summed(
        node("Range", "zero end zero", "y"), held=[scalar("zero", 0), scalar("end", HUGE)]
    ),
    "Tile": lambda: _sized("Tile", HUGE),
    "Expand": lambda: _sized("Expand", HUGE, 1),
    "Reshape": lambda: _sized("Reshape", HUGE),
    "Resize": lambda: summed(
        helper.make_node("Resize", ["x", "", "", "size"], ["y"]), held=[ints("size", HUGE)]
    ),
    "Pad": lambda: _sized("Pad", 0, HUGE),
    "OneHot": lambda: summed(
        node("OneHot", "a depth pair", "y"),
        held=[
            scalar("depth", HUGE),
            helper.make_tensor("pair", TensorProto.FLOAT, [2], [0.0, 1.0]),
        ],
    ),
    "RandomNormal": lambda: summed(node("RandomNormal", "", "y", shape=[HUGE])),
    "size computed": lambda: summed(
        node("Mul", "part part", "size"),
        node("ConstantOfShape", "size", "y"),
        held=[ints("part", 2**20)],
    ),
    "Concat 40 times": lambda: _outer(40),
    # data in other files
    "data outside": lambda: _external("../secret"),
    "data in a circle": lambda: _external("circle"),
    "data in a folder": lambda: _external("folder"),
    "data in a device": lambda: _external("device"),
    "data is the file": lambda: _external("model.onnx"),
    "data too short": lambda: _external("data", (HUGE,)),
    "data from 2^62 on": lambda: _external("data", offset=str(2**62), length="16"),
    "data from -16 on": lambda: _external("data", offset="-16", length="16"),
    "data of 2^62 bytes": lambda: _external("data", length=str(2**62)),
    "data in a constant": lambda: _attribute_in_file("../secret"),
    "data in a constant beside it": lambda: _attribute_in_file("data"),
}

HARMLESS = "no attack"


def write_onnx(folder, name):
    """Write a crafted file of ONNX, with what it refers to; returns its path."""
    folder.mkdir()
    made = identity() if name == HARMLESS else ONNX[name]()
    (folder / "data").write_bytes(bytes(16))
    (folder / "circle").symlink_to(folder / "circle")
    (folder / "folder").mkdir()
    (folder / "device").symlink_to("/dev/zero")
    (folder.parent / "secret").write_bytes(bytes(16))
    described = deflate(*description_parts(description()))
    digest = hashlib.sha256((folder / "data").read_bytes()).hexdigest()
    entries = {
        METADATA_KEY: base64.b64encode(described).decode(),
        SEAL_KEY: (UNSEALED + DATA_MARK).decode() + digest,
    }
    tail = onnx.ModelProto()
    for key, value in entries.items():
        tail.metadata_props.add(key=key, value=value)
    path = folder / "model.onnx"
    path.write_bytes(made.SerializeToString() + tail.SerializeToString())
    seal(path)
    return path
