"""Attacks on the verification: faults are put into what targets write, and must be found.

A mutant is a packed model with one fault, between the stages of a conversion and the emission. One
that changes a score of an independent sample of requests by more than the tolerance must raise
ParityError. The others are equivalent: the test prints them.
"""

import sys
import warnings
from collections import Counter
from dataclasses import dataclass, replace

import numpy as np
import onnx_ir as ir
import pytest
import torch
from torch import nn
from torch.nn import functional

import ondevice
from ondevice.converters.source.torch_source import TorchSource
from ondevice.converters.verify.verification import TOLERANCE, check_parity
from ondevice.difference import largest_difference
from ondevice.errors import InputError, OnDeviceError, ParityError, SpecError

# `ondevice.converters.convert` is also the name of the function
conversion = sys.modules["ondevice.converters.convert"]

TARGETS = ("odm", "onnx", "tflite")
MUTANTS = 48  # of every module and target
SAMPLE = 3000


class Clicks(nn.Module):
    """Two tables and a network whose weights are large, so that faults show."""

    def __init__(self, width=16, padding=None):
        super().__init__()
        torch.manual_seed(3)
        self.items = nn.Embedding(50, 8, padding_idx=padding)
        self.users = nn.Embedding(40, 8)
        self.net = nn.Sequential(nn.Linear(width, 8), nn.ReLU(), nn.Linear(8, 1))

    def score(self, *parts):
        return torch.sigmoid(self.net(torch.cat(parts, -1))).squeeze(-1)


class Plain(Clicks):
    """Table lookups and a network."""

    def forward(self, item, user):
        return self.score(self.items(item), self.users(user))


class Computed(Clicks):
    """IDs that the model divides, compares, clamps and makes positive."""

    def forward(self, item, user):
        row = torch.div(item, 10, rounding_mode="floor") % 50
        other = torch.where(user > 100_000, user.abs() % 40, user.clamp(0, 39))
        return self.score(self.items(row), self.users(other))


class OneHot(Clicks):
    """A weekday and an hour as one-hot vectors, the hour behind a bound."""

    def __init__(self):
        super().__init__(8 + 7 + 4)

    def forward(self, item, day, hour):
        days = functional.one_hot(day, 7).float()
        quarter = functional.one_hot(torch.fmod(hour, 24).abs() // 6, 4).float()
        return self.score(self.items(item), days, quarter)


class Attention(Clicks):
    """Attention of a candidate over a history with padding."""

    def forward(self, item, history):
        query, steps = self.items(item), self.items(history)
        weights = (steps * query.unsqueeze(1)).sum(-1) / 8**0.5
        weights = weights.masked_fill(history == 0, -1e4).softmax(-1)
        return self.score(query, (steps * weights.unsqueeze(-1)).sum(1))


class Lengths(Clicks):
    """A mean, a maximum and the last of the first steps, whose number is an input."""

    def __init__(self):
        super().__init__(24, padding=0)

    def forward(self, history, length):
        steps = self.items(history)
        known = (torch.arange(5) < length.clamp(1, 5).unsqueeze(1)).unsqueeze(-1)
        mean = torch.where(known, steps, 0.0).sum(1) / known.float().sum(1)
        top = torch.where(known, steps, -9.0).amax(1)
        last = steps[torch.arange(history.shape[0]), length.clamp(1, 5) - 1]
        return self.score(mean, top, last)


class Recurrent(Clicks):
    """A GRU over a history."""

    def __init__(self):
        super().__init__()
        self.gru = nn.GRU(8, 8, batch_first=True)

    def forward(self, user, history):
        steps, _ = self.gru(self.items(history))
        return self.score(self.users(user), steps[:, -1])


class Thresholds(Clicks):
    """Numbers that are compared, clipped, rounded to buckets and divided, beside a table."""

    def __init__(self):
        super().__init__(8 + 5)

    def forward(self, item, price):
        cheap = torch.where(price < 0.4, price * 2.0, 0.25 - price)
        bucket = torch.floor(price.clamp(0.1, 0.9) * 8.0) / 8.0
        odd = ((price > 0.3) & (price <= 0.7)) | (price >= 0.95)
        near = torch.remainder(price * 3.0, 0.5) - (price - 0.5).abs()
        steps = torch.round(price * 4.0).sign() * torch.maximum(price, 1.0 - price)
        parts = [cheap, bucket, odd.float(), near, steps]
        return self.score(self.items(item), *(part.unsqueeze(-1) for part in parts))


class Heads(Clicks):
    """Two outputs by name, of other scales and shapes: a probability, and two prices."""

    def __init__(self):
        super().__init__()
        self.prices = nn.Linear(8, 2)

    def forward(self, item, user):
        body = self.net[1](self.net[0](torch.cat([self.items(item), self.users(user)], -1)))
        click = torch.sigmoid(self.net[2](body)).squeeze(-1)
        prices = torch.exp(torch.tanh(self.prices(body))) * torch.tensor([1.0, 40.0])
        return {"click": click, "prices": prices + click.unsqueeze(-1)}


def examples(module):
    rng = np.random.default_rng(5)
    values = {
        "item": rng.integers(1, 50, 16),
        "user": rng.integers(0, 40, 16),
        "day": rng.integers(0, 7, 16),
        "hour": rng.integers(0, 24, 16),
        "length": rng.integers(1, 6, 16),
        "history": rng.integers(0, 50, (16, 5)),
        "price": np.linspace(0, 1, 16, dtype=np.float32),
    }
    names = module.forward.__code__.co_varnames[1 : module.forward.__code__.co_argcount]
    return {name: torch.from_numpy(values[name]) for name in names}


# Faults


@dataclass(frozen=True)
class Mutation:
    """One fault of one node: what it is called, and what it does to a graph's node."""

    kind: str
    node: str
    change: object


FLIPPED = {
    "Less": "LessOrEqual", "LessOrEqual": "Less", "Greater": "GreaterOrEqual",
    "GreaterOrEqual": "Greater", "Max": "Min", "Min": "Max", "Add": "Sub", "Sub": "Add",
    "And": "Or", "Or": "And", "ReduceMax": "ReduceMin", "ReduceSum": "ReduceMean",
    "Tanh": "Sigmoid", "Sigmoid": "Tanh", "Equal": "Less", "Floor": "Ceil", "Ceil": "Floor",
    "Round": "Floor", "Abs": "Neg", "Neg": "Abs", "Exp": "Tanh", "Mul": "Add",
}  # fmt: skip
SWAPPED = ("Concat", "Div", "Less", "Lookup", "MatMul", "Sub", "Where")


def mutations(graph):
    """Every fault that can be put into a graph."""
    for node in graph:
        name = f"{node.op_type} {node.name}"
        source, output = node.inputs[0] if node.inputs else None, node.outputs[0]
        if source is not None and source.dtype == output.dtype and source.shape == output.shape:
            yield Mutation("bypassed", name, lambda node: bypass(node))
        if node.op_type in FLIPPED:
            yield Mutation(f"to {FLIPPED[node.op_type]}", name, lambda node: flip(node))
        if "axis" in node.attributes:
            yield Mutation("axis", name, lambda node: move_axis(node))
        for place, value in enumerate(node.inputs):
            array = (
                None if value is None or value.const_value is None else value.const_value.numpy()
            )
            if array is None or not array.size:
                continue
            if array.dtype.kind == "i":
                for step in (1, -1):
                    yield Mutation(
                        f"constant {place} {step:+}",
                        name,
                        lambda node, place=place, step=step: shift(node, place, step),
                    )
            elif array.dtype.kind == "f":
                yield Mutation(
                    f"constant {place} times 1.1",
                    name,
                    lambda node, place=place: scale(node, place),
                )
                if array.ndim == 2 and min(array.shape) > 1:
                    yield Mutation(
                        f"columns of {place}", name, lambda node, place=place: swap(node, place)
                    )
        if node.op_type in SWAPPED and len(node.inputs) > 1:
            yield Mutation("operands swapped", name, lambda node: swap_inputs(node))


def bypass(node):
    ir.convenience.replace_all_uses_with(node.outputs[0], node.inputs[0])
    if node.outputs[0].is_graph_output():
        raise ValueError("the graph's output")


def flip(node):
    node.op_type = FLIPPED[node.op_type]


def move_axis(node):
    axis, shape = node.attributes.get_int("axis", 0), node.inputs[0].shape
    rank = 0 if shape is None else len(shape)
    if rank < 3:
        raise ValueError("no other axis beside the rows")
    node.attributes["axis"] = ir.AttrInt64("axis", 1 if axis % rank != 1 else 2)


def replaced(node, place, array):
    old = node.inputs[place]
    fresh = ir.Value(
        name=f"{old.name}_mutated_{place}",
        type=old.type,
        shape=ir.Shape(array.shape),
        const_value=ir.tensor(np.ascontiguousarray(array), name=f"{old.name}_mutated_{place}"),
    )
    node.graph.register_initializer(fresh)
    node.replace_input_with(place, fresh)


def shift(node, place, step):
    replaced(node, place, node.inputs[place].const_value.numpy() + step)


def scale(node, place):
    array = node.inputs[place].const_value.numpy().copy()
    flat = array.reshape(-1)
    flat[len(flat) // 2] *= 1.1
    replaced(node, place, array.astype(np.float32))


def swap(node, place):
    array = node.inputs[place].const_value.numpy().copy()
    array[:, [0, 1]] = array[:, [1, 0]]
    replaced(node, place, array)


def swap_inputs(node):
    left, right = node.inputs[-2:]
    node.replace_input_with(len(node.inputs) - 2, right)
    node.replace_input_with(len(node.inputs) - 1, left)


class Mutated:
    """The models of a conversion, one of them with a fault."""

    def __init__(self, models, target, number):
        self.packed = models.packed
        self._models, self._target = models, target
        packed = models.of(target).cloned()
        self.mutation = list(mutations(packed.model.graph))[number]
        node = next(
            node
            for node in packed.model.graph
            if f"{node.op_type} {node.name}" == self.mutation.node
        )
        self.mutation.change(node)
        self._mutant = packed

    def of(self, target):
        return self._mutant if target == self._target else self._models.of(target)


# The independent sample


def sample(source, inputs, rows=SAMPLE, seed=77):
    """Requests drawn otherwise than the verification's; those that the source answers."""
    rng = np.random.default_rng(seed)
    batch = {}
    for spec in inputs:
        shape = (rows, *spec.shape[1:])
        if spec.dtype == "float32":  # between the examples', as far as verification promises
            low, high = source.examples[spec.name].min(), source.examples[spec.name].max()
            numbers = rng.uniform(low, high, shape)
            rounded = rng.random(shape) < 0.3  # to the thresholds too
            batch[spec.name] = np.where(rounded, numbers.round(2), numbers).astype(np.float32)
            continue
        if spec.id_limit is not None:
            batch[spec.name] = rng.integers(spec.id_low, spec.id_limit, shape)
            continue
        bits = rng.integers(1, 64, shape)
        wide = rng.integers(-(2**63), 2**63 - 1, shape, dtype=np.int64) >> (64 - bits)
        near = rng.integers(-60, 120, shape)
        batch[spec.name] = np.where(rng.random(shape) < 0.5, wide, near)
    try:
        source(batch)
    except SpecError:
        pytest.fail("the source refuses values within the stated limits")
    return batch


MODULES = (Plain, Computed, OneHot, Attention, Lengths, Recurrent, Thresholds, Heads)


@pytest.mark.parametrize("kind", MODULES, ids=lambda kind: kind.__name__)
def test_every_fault_that_changes_a_score_is_found(kind, tmp_path, capsys):
    module = kind().eval()
    request = conversion._Request(
        targets=TARGETS, tables="f32", dense="f32", float_layers=(), calibration=None,
        features=None, name="model", validation=None, about={}, fitted=(), vectors=32,
        like=None, inputs="named", card="model.md",
    )  # fmt: skip
    source = TorchSource(module, examples(module))
    tables, models = conversion._pack(source.capture(), request)
    prepared = conversion._prepare(source, source, tables, models, request)
    check_parity(
        conversion._write(prepared, request, tmp_path).values(),
        probabilities=prepared.expected.probabilities,
    )
    others = sample(source, prepared.info.inputs)
    right = source(others, tables)
    counts, survivors, equivalent = Counter(), [], []
    for target in TARGETS:
        for number in chosen(models.of(target).model.graph, target):
            try:
                mutant = Mutated(models, target, number)
            except ValueError:
                continue  # no such fault at this node
            what = f"{target}: {mutant.mutation.kind} of {mutant.mutation.node}"
            outcome = tried(mutant, prepared, request, target, tmp_path, others, right)
            counts[outcome] += 1
            if outcome == "survived":
                survivors.append(what)
            elif outcome == "equivalent":
                equivalent.append(what)
    with capsys.disabled():
        listed = "; ".join(equivalent) or "none"
        sys.stdout.write(f"\n{kind.__name__}: {dict(counts)}; equivalent: {listed}\n")
    assert not survivors
    assert counts["caught"] >= 30


def chosen(graph, target):
    """Numbers of mutations, of every kind of operator and fault as many as there is room for."""
    every = list(mutations(graph))
    rng = np.random.default_rng(len(every) + len(target))
    groups = {}
    for number in rng.permutation(len(every)).tolist():
        groups.setdefault((every[number].kind, every[number].node.split()[0]), []).append(number)
    turns = [[group[turn] for group in groups.values() if turn < len(group)] for turn in range(9)]
    return [number for turn in turns for number in turn][:MUTANTS]


def tried(mutant, prepared, request, target, folder, others, right):
    """What comes of a mutant: caught, refused (it cannot be written or loaded), or survived."""
    only = replace(request, targets=(target,))
    path = folder / f"model.{target}"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            written = conversion._write(replace(prepared, models=mutant), only, folder)
            check_parity(written.values(), probabilities=prepared.expected.probabilities)
    except ParityError:
        return "caught"
    except (OnDeviceError, ValueError, TypeError, IndexError):
        return "refused"
    try:
        got = ondevice.load(path).predict(others)
    except InputError:
        return "survived"
    got = got if isinstance(got, dict) else {next(iter(right)): got}
    scales = prepared.expected.scales
    worst = max(largest_difference(got[name], right[name], scales[name]) for name in right)
    return "equivalent" if worst <= TOLERANCE else "survived"
