"""Random small models of the native format whose dense layers read every kind of concatenation."""

from dataclasses import dataclass, field, replace

import numpy as np
from support.native import dense_node, random_table

from ondevice.info import InputSpec, ModelInfo
from ondevice.odm import write_odm
from ondevice.plan import Node, Plan
from ondevice.records import pack_records
from ondevice.spec import binary_code_spec, full_spec

INPUT_KINDS = ("id", "code", "sequence", "computed", "number", "table of numbers")
STEPS = (
    *("unary", "view", "slice", "sum", "rows", "softmax", "copy", "outer"),
    *("concat",) * 5, *("dense",) * 4,
)  # fmt: skip


@dataclass
class RandomPlan:
    """A model under construction, and what a test needs of it.

    Attributes:
        values: names of float32 values [batch, width] that a step may read, with their widths.
        outputs: names of the model's outputs.
        quantised: for each q8 layer (an output) the value that it reads and its weight.
    """

    rng: np.random.Generator
    codec: str
    nodes: list = field(default_factory=list)
    weights: dict = field(default_factory=dict)
    inputs: list = field(default_factory=list)
    tables: dict = field(default_factory=dict)
    values: list = field(default_factory=list)
    outputs: list = field(default_factory=list)
    quantised: dict = field(default_factory=dict)

    def choose(self, options):
        """One of the options."""
        return options[self.rng.integers(len(options))]

    def add(self, op, inputs, **attributes):
        """Append a node; returns the name of its output."""
        name = f"v{len(self.nodes)}"
        self.nodes.append(Node(op, tuple(inputs), (name,), attributes))
        return name

    def weight(self, array):
        """Add a constant; returns its name."""
        name = f"w{len(self.weights)}"
        self.weights[name] = array
        return name

    def longs(self, *numbers):
        """Add a list of int64; returns its name."""
        return self.weight(np.array(numbers, np.int64))

    def offer(self, name, width):
        """Let later steps read a value, and now and then make it an output."""
        self.values.append((name, width))
        if self.rng.random() < 0.1:
            self.outputs.append(name)

    def input(self, kind):
        """Add an input of a kind and what makes [batch, width] of it."""
        name, width = f"i{len(self.inputs)}", int(self.choose([1, 2, 3, 4, 8]))
        if kind == "number":
            self.inputs.append(InputSpec(name, ("batch", width), None, "float32"))
            self.offer(name, width)
            return
        if kind == "table of numbers":
            self.inputs.append(InputSpec(name, ("batch", 2, width), None, "float32"))
            self.offer(self.add("Reshape", (name, self.longs(0, -1))), 2 * width)
            return
        spec = binary_code_spec(width, code_bits=8, t=4) if kind == "code" else full_spec(
            9, width, padding_id=0, oov_row=1
        )  # fmt: skip
        shape = ("batch", 3) if kind == "sequence" else ("batch",)
        self.inputs.append(InputSpec(name, shape, None))
        ids = name
        if kind == "sequence":
            spec = replace(spec, pooling="mean")
        if kind == "computed":
            ids = self.add("Add", (name, self.longs(1)))
        table = random_table(spec, "f32", self.rng, truncated=bool(self.rng.integers(2)))
        self.tables[name] = pack_records(table)
        vector = f"v{len(self.nodes)}"
        self.nodes.append(Node("Lookup", (ids,), (vector,), {}, name, spec))
        self.offer(vector, width)

    def step(self, kind):
        """Add one random step of a kind."""
        name, width = self.choose(self.values)
        if kind == "unary":
            self.offer(self.add(self.choose(["Relu", "Tanh", "Neg"]), (name,)), width)
        elif kind == "view":
            if self.rng.random() < 0.5:
                self.offer(self.add("Identity", (name,)), width)
            else:
                deep = self.add("Unsqueeze", (name, self.longs(1)))
                self.offer(self.add("Squeeze", (deep, self.longs(1))), width)
        elif kind == "slice":
            start = int(self.rng.integers(width))
            cut = (name, self.longs(start), self.longs(width), self.longs(1))
            self.offer(self.add("Slice", cut), width - start)
        elif kind == "sum":
            same = [other for other, size in self.values if size == width]
            constant = self.weight(self.rng.normal(size=width).astype(np.float32))
            other = constant if self.rng.random() < 0.3 else self.choose(same)
            self.offer(self.add("Add", (name, other)), width)
        elif kind == "rows":
            constant = self.weight(self.rng.normal(size=(1, width)).astype(np.float32))
            self.offer(self.add("ExpandRows", (constant, name)), width)
        elif kind == "softmax":
            self.offer(self.add("Softmax", (name,), axis=-1), width)
        elif kind == "copy":
            flipped = (name, self.longs(-1), self.longs(-(10**6)), self.longs(1), self.longs(-1))
            self.offer(self.add("Slice", flipped), width)
        elif kind == "outer":
            self._join_inside(width)
        elif kind == "concat":
            self.concat()
        else:
            self.dense(name, width)

    def _join_inside(self, width):
        """A concatenation whose parts are not whole columns: [batch, width, 1 + 1 + ...]."""
        same = [name for name, size in self.values if size == width]
        parts = [self.choose(same) for _ in range(self.rng.integers(2, 4))]
        deep = [self.add("Unsqueeze", (part, self.longs(2))) for part in parts]
        joined = self.add("Concat", deep, axis=2)
        flat = self.add("Reshape", (joined, self.longs(0, -1)))
        self.offer(flat, width * len(parts))

    def concat(self):
        """Join one to five values, the same one twice now and then."""
        parts = [self.choose(self.values) for _ in range(self.rng.integers(1, 6))]
        width = sum(size for _, size in parts)
        name = self.add("Concat", [part for part, _ in parts], axis=int(self.choose([1, -1])))
        self.offer(name, width)
        for _ in range(self.choose([0, 1, 1, 2])):
            self.dense(name, width)

    def dense(self, name, width):
        """Add a dense layer; those of q8 are outputs that nothing else reads."""
        units = int(self.choose([1, 3, 16, 21]))
        weight = (self.rng.normal(size=(width, units)) / width**0.5).astype(np.float32)
        bias = self.rng.normal(size=units).astype(np.float32)
        codec = self.codec if self.rng.random() < 0.7 else "f32"
        out, relu = f"v{len(self.nodes)}", bool(self.rng.integers(2))
        self.nodes.append(dense_node(out, name, weight, bias, codec, self.weights, relu=relu))
        self.outputs.append(out)
        if codec == "q8":
            self.quantised[out] = (name, weight)
        else:
            self.values.append((out, units))

    def write(self, path, extra=()):
        """Write the model, with further outputs if asked."""
        outputs = tuple(dict.fromkeys([*self.outputs, *extra]))
        plan = Plan(
            inputs=tuple(spec.name for spec in self.inputs),
            outputs=outputs,
            nodes=tuple(self.nodes),
            weights=tuple(self.weights),
            tables={name: table.layout for name, table in self.tables.items()},
        )
        info = ModelInfo(inputs=tuple(self.inputs), outputs=outputs)
        write_odm(path, plan, info, self.weights, self.tables)
        return path

    def request(self, rows):
        """Random values of every input."""
        return {
            spec.name: self.rng.normal(size=(rows, *spec.shape[1:])).astype(np.float32)
            if spec.dtype == "float32"
            else self.rng.integers(0, 12, (rows, *spec.shape[1:]))
            for spec in self.inputs
        }

    def splits(self):
        """Every choice of inputs as the context."""
        names = [spec.name for spec in self.inputs]
        for bits in range(2 ** len(names)):
            yield [name for i, name in enumerate(names) if bits >> i & 1]


def random_plan(seed, codec):
    """A model of 2 to 4 inputs and up to a dozen steps, with a dense layer at the least."""
    plan = RandomPlan(np.random.default_rng(seed), codec)
    kinds = [plan.choose(INPUT_KINDS) for _ in range(plan.rng.integers(2, 5))]
    for kind in kinds:
        plan.input(kind)
    for _ in range(plan.rng.integers(3, 10)):
        plan.step(plan.choose(STEPS))
    plan.concat()
    plan.dense(*plan.values[-1])
    return plan
