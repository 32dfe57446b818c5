"""Networks that step through a packed history by its batch_sizes: files equal torch."""

import warnings

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.nn.utils.rnn import (
    PackedSequence,
    pack_padded_sequence,
    pack_sequence,
    pad_packed_sequence,
    pad_sequence,
)

import ondevice
from ondevice.converters import convert
from ondevice.errors import UnsupportedError

STEPS, WIDTH, ITEMS = 4, 6, 30
ENGINES = {"native": "odm", "numpy": "odm", "onnx": "onnx", "tflite": "tflite"}


class Stepping(nn.Module):
    """Parts of the networks below, each of which writes its own loop."""

    def __init__(self):
        super().__init__()
        self.items, self.cell = nn.Embedding(ITEMS, 4), nn.GRUCell(4, WIDTH)
        self.back, self.lstm = nn.GRUCell(4, WIDTH), nn.LSTMCell(4, WIDTH)
        self.start, self.last = nn.Parameter(torch.randn(1, WIDTH)), nn.Linear(WIDTH, 1)

    def lengths(self, items):
        return (items != 0).sum(1).clamp(min=1)

    def packed(self, items):
        lengths = self.lengths(items).cpu()
        return pack_padded_sequence(self.items(items), lengths, True, enforce_sorted=False)

    def states(self, packed, state=None):
        """The last states, in the order of the packed rows, and those of every step."""
        begin, steps = 0, []
        state = torch.zeros(int(packed.batch_sizes[0]), WIDTH) if state is None else state
        for rows in packed.batch_sizes.tolist():
            new = self.cell(packed.data[begin : begin + rows], state[:rows])
            state = torch.cat([new, state[rows:]])
            steps.append(new)
            begin += rows
        return state, steps


class Assigned(Stepping):
    """Writes each step into an empty tensor of all steps; the last state is chosen by a mask."""

    def forward(self, items):
        data, sizes, order, undo = self.packed(items)
        weights = self.packed(items).data.mean(1)
        found = torch.zeros(data.size(0), WIDTH, dtype=data.dtype, device=data.device)
        state, begin = torch.zeros(int(sizes[0]), WIDTH), 0
        for rows in sizes:
            within = slice(begin, begin + rows)
            weight = torch.sigmoid(weights[within]).view(-1, 1)
            new = self.cell(data[within], state[0:rows])
            state = (1.0 - weight) * state[0:rows] + weight * new
            found[within] = state
            begin += rows
        steps, lengths = pad_packed_sequence(
            PackedSequence(found, sizes, order, undo), batch_first=True, total_length=STEPS
        )
        places = torch.arange(STEPS).repeat(items.size(0), 1)
        return self.last(steps[places == (lengths.view(-1, 1) - 1)])


class Split(Stepping):
    """Splits the data by the sizes; the start is a parameter; one LSTM layer norm for all steps."""

    def __init__(self):
        super().__init__()
        self.norm, self.into = nn.LayerNorm(4 * WIDTH), nn.Linear(4, 4 * WIDTH)
        self.within = nn.Linear(WIDTH, 4 * WIDTH, bias=False)

    def forward(self, items):
        packed = self.packed(items)
        steps = self.norm(self.into(packed.data)).split(packed.batch_sizes.tolist())
        hidden = cell = self.start.expand(packed.batch_sizes[0], -1)
        for step in steps:
            rows = len(step)
            enter, forget, new, leave = (step + self.within(hidden[:rows])).chunk(4, dim=-1)
            fresh = forget.sigmoid() * cell[:rows] + enter.sigmoid() * new.tanh()
            shown = leave.sigmoid() * fresh.tanh()
            hidden = torch.cat((shown, hidden[rows:]), dim=0)
            cell = torch.cat((fresh, cell[step.shape[0] :]), dim=0)
        return self.last((hidden * cell).index_select(0, packed.unsorted_indices))


class InPlace(Stepping):
    """Writes states in place; takes rows by narrow."""

    def forward(self, items):
        packed, begin = self.packed(items), 0
        hidden, cell = torch.zeros(len(items), WIDTH), torch.zeros(items.shape[0], WIDTH)
        for rows in packed.batch_sizes:
            step = packed.data.narrow(0, begin, rows)
            begin = begin + rows
            new, fresh = self.lstm(step, (hidden[:rows], cell[:rows]))
            new = functional.relu(new.mul_(2.0), inplace=True)
            new += hidden[:rows]
            new[new > 1.5] = 1.5
            hidden[:rows].copy_(new)
            cell[:rows] = fresh
        return self.last((hidden + cell)[packed.unsorted_indices])


class Kept(Stepping):
    """Keeps each step's states, and writes to what it has joined of them."""

    def forward(self, items):
        packed, begin, kept = self.packed(items), 0, []
        state = self.start.repeat(int(packed.batch_sizes[0]), 1)
        for rows in packed.batch_sizes.tolist():
            new = self.cell(packed.data[begin : begin + rows], state[:rows])
            kept.append(new)
            state = torch.cat([new, state[rows:]])
            state[:rows] += 0.5 * new.square()
            begin += rows
        data = torch.cat(kept)
        data[: packed.batch_sizes[0]] *= 2.0
        steps, _ = pad_packed_sequence(packed._replace(data=data), True, total_length=STEPS)
        first = kept[0][packed.unsorted_indices]
        return self.last(steps.sum(1) - first + state[packed.unsorted_indices])


class Shrinking(Stepping):
    """Puts the states of ended rows aside, and joins all in the end."""

    def forward(self, items):
        packed, begin, ended = self.packed(items), 0, []
        before = packed.batch_sizes[0]
        states = (torch.zeros(int(before), WIDTH), torch.ones(int(before), WIDTH))
        for rows in packed.batch_sizes:
            fewer = before - rows
            if fewer > 0:
                ended.append(tuple(state[-fewer:] for state in states))
                states = tuple(state[:-fewer] for state in states)
            before = rows
            states = self.lstm(packed.data[begin : begin + rows], states)
            begin += rows
        ended.append(states)
        ended.reverse()
        hidden, cell = (torch.cat(parts, 0) for parts in zip(*ended, strict=True))
        return self.last((hidden - cell)[packed.unsorted_indices])


class BothWays(Stepping):
    """One cell forwards and one backwards, whose states side by side are padded."""

    def forward(self, items):
        packed = self.packed(items)
        sizes = packed.batch_sizes.numpy()
        places = np.cumsum([0, *sizes])
        onward = list(self.states(packed)[1])
        state, backward = torch.zeros(0, WIDTH), []
        zeros = torch.zeros(int(sizes[0]), WIDTH)
        state = zeros[: packed.batch_sizes[-1]]
        for step in reversed(range(len(sizes))):
            if sizes[step] > state.size(0):
                state = torch.cat((state, zeros[state.size(0) : sizes[step]]), 0)
            state = self.back(packed.data[places[step] : places[step + 1]], state)
            backward.insert(0, state)
        both = torch.cat([torch.cat(onward), torch.cat(backward)], dim=1)
        steps, lengths = pad_packed_sequence(
            packed._replace(data=both), batch_first=True, total_length=STEPS + 1
        )
        found = steps.sum(1) / lengths.unsqueeze(1)
        return self.last(found[:, :WIDTH] * found[:, WIDTH:] + state[packed.unsorted_indices])


class Ordered(Stepping):
    """Orders rows by length itself, with a query, and puts them back in three ways."""

    def forward(self, items):
        vectors, ends = self.items(items), self.lengths(items)
        lengths, order = ends.sort(0, descending=True)
        query = (self.start * items[:, :1])[order]
        moved, firsts, inverse = vectors[order], torch.zeros_like(ends), torch.empty_like(order)
        moved[:, 0] = moved[:, 0] * 2.0
        firsts[order] = items[:, 0][order]
        inverse[order] = torch.arange(items.size(0))
        packed = pack_padded_sequence(moved, lengths.tolist(), True)
        found = torch.zeros(items.shape[0], WIDTH)
        found[order] = self.states(packed, query.tanh())[0]
        state = self.states(packed)[0]
        other = self.items.weight[firsts] + vectors[torch.arange(len(items)), ends - 1]
        found = found + state[order.argsort()] * state[inverse]
        return self.last(found + functional.pad(other + vectors[:, 0], (0, 2)))


class Gathered(Stepping):
    """Makes padded steps of the states of every step in three ways."""

    def forward(self, items):
        packed = self.packed(items)
        steps = self.states(packed)[1]
        rows = items.shape[0]
        filled = [torch.cat([step, torch.zeros(rows - len(step), WIDTH)]) for step in steps]
        padded = [functional.pad(step, (0, 0, 0, rows - len(step))) for step in steps]
        written = torch.zeros(rows, STEPS, WIDTH)
        for place, step in enumerate(steps):
            written[: packed.batch_sizes[place], place] = step
        found = torch.stack(filled, 1) * torch.stack(padded, 1)
        found = found + written[:, : len(steps)] - pad_sequence(steps).mul(0.5)
        return self.last(found.sum(1)[packed.unsorted_indices])


class Embedded(Stepping):
    """Packs IDs, looks up, and steps over the outputs of a GRU layer; empty histories are left."""

    def __init__(self):
        super().__init__()
        self.layer = nn.GRU(4, 4, bidirectional=True)
        self.joined = nn.Linear(8, 4)

    def lengths(self, items):
        return (items != 0).sum(1)

    def forward(self, items):
        filled = (items != 0).any(1)
        found = torch.zeros(items.shape[0], WIDTH)
        ids = pack_padded_sequence(
            items[filled].T, self.lengths(items)[filled].cpu(), enforce_sorted=False
        )
        packed, _ = self.layer(ids._replace(data=self.items(ids.data)))
        packed = packed._replace(data=functional.dropout(self.joined(packed.data), 0.5, False))
        found[filled] = self.states(packed)[0][packed.unsorted_indices]
        return self.last(found)


def _histories(rows, seed=0):
    """Histories of every length from the fullest to none, again and again."""
    draw = torch.Generator().manual_seed(seed)
    lengths = (STEPS - torch.arange(rows)) % (STEPS + 1)
    items = torch.randint(1, ITEMS, (rows, STEPS), generator=draw)
    return items * (torch.arange(STEPS) < lengths.unsqueeze(1))


def _scores(module, items):
    """What torch computes; without any history, `Embedded` has none to pack."""
    with torch.no_grad():
        if isinstance(module, Embedded) and not items.any():
            return module.last.bias.expand(len(items), 1).numpy()
        return module(items).numpy()


@pytest.mark.parametrize(
    "network",
    [Assigned, Split, InPlace, Kept, Shrinking, BothWays, Ordered, Gathered, Embedded],
)
def test_files_equal_torch_at_every_length(network, tmp_path):
    torch.manual_seed(3)
    module = network().eval()
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)  # the C engine must run it
        convert(module, (_histories(7),), tmp_path, tables="f32")
    models = [
        ondevice.load(tmp_path / f"model.{suffix}", engine=engine)
        for engine, suffix in ENGINES.items()
    ]
    alone = _histories(STEPS + 1, seed=9).unsqueeze(1)
    assert _scores(module, _histories(50)).std() > 1e-2
    for items in (_histories(3), _histories(50), *alone):
        expected = _scores(module, items)
        for model in models:
            scores = model.predict({"items": items.numpy()})
            np.testing.assert_allclose(scores, expected, atol=1e-5)


class Unfinished(Stepping):
    """Returns the states of the last step, which not all rows have."""

    def forward(self, items):
        return self.last(self.states(self.packed(items))[1][-1])


class Counted(Stepping):
    """Steps row by row."""

    def forward(self, items):
        packed = self.packed(items)
        rows = [self.cell(packed.data[row]) for row in range(int(packed.batch_sizes[0]))]
        return self.last(torch.stack(rows)[packed.unsorted_indices])


class Chosen(Stepping):
    """Reads last states by numbers of rows computed as tensors."""

    def forward(self, items):
        packed = self.packed(items)
        steps = torch.cat(self.states(packed)[1])
        zero = torch.zeros(1, dtype=torch.int64)
        begins = torch.cat([zero, packed.batch_sizes.cumsum(0)[:-1]])
        return self.last(steps[begins[self.lengths(items) - 1]])


class Mixed(Stepping):
    """A mean over the rows of all steps."""

    def forward(self, items):
        packed = self.packed(items)
        state, _ = self.states(packed._replace(data=packed.data - packed.data.mean(0)))
        return self.last(state[packed.unsorted_indices])


class Softmax(Stepping):
    """A softmax over the rows of all steps."""

    def forward(self, items):
        packed = self.packed(items)
        state, _ = self.states(packed._replace(data=packed.data.softmax(dim=0)))
        return self.last(state[packed.unsorted_indices])


class Uncut(Stepping):
    """Adds a tensor of the whole batch to the rows of a step, which fits in full batches."""

    def forward(self, items):
        packed, query = self.packed(items), self.start * items[:, :1]
        steps = self.states(packed)[1]
        return self.last((steps[1] + query)[packed.unsorted_indices])


class Repeated(Stepping):
    """Reads numbers of rows as numbers to compute with."""

    def forward(self, items):
        packed = self.packed(items)
        state, _ = self.states(packed)
        return self.last(state[packed.unsorted_indices] * packed.batch_sizes[1].item())


class CutAnyhow(Stepping):
    """Takes the first two rows of a step."""

    def forward(self, items):
        packed = self.packed(items)
        return self.last(self.states(packed)[0]) + packed.data[:2].sum()


class InPython(Stepping):
    """Reads the lengths in Python."""

    def forward(self, items):
        lengths = self.lengths(items).tolist()
        packed = pack_padded_sequence(self.items(items)[:, : max(lengths)], lengths, True, False)
        return self.last(self.states(packed)[0][packed.unsorted_indices])


class Shortened(Stepping):
    """Cuts the history to the longest of the batch."""

    def forward(self, items):
        lengths = self.lengths(items)
        vectors = self.items(items)[:, : lengths.max()]
        packed = pack_padded_sequence(vectors, lengths, True, False)
        return self.last(self.states(packed)[0][packed.unsorted_indices])


class RowByRow(Stepping):
    """Packs a list of the rows."""

    def forward(self, items):
        pairs = zip(self.items(items), self.lengths(items), strict=True)
        packed = pack_sequence([row[:length] for row, length in pairs], enforce_sorted=False)
        return self.last(self.states(packed)[0][packed.unsorted_indices])


@pytest.mark.parametrize(
    ("network", "message"),
    [
        (Unfinished, r"returns rows of its steps.*pad_packed_sequence"),
        (Counted, r"a loop over the rows of a step.*all rows of a step at once \(at .*\.py:\d+\)"),
        (Chosen, r"cat of batch_sizes and other tensors.*batch_sizes\.tolist\(\)"),
        (Mixed, r"mean mixes or moves the rows"),
        (Softmax, r"softmax along the rows"),
        (Uncut, r"rows of a step and a tensor of the whole batch; cut that by batch_sizes too"),
        (Repeated, r"mul with a number of rows; zeros, ones, full"),
        (CutAnyhow, r"rows are cut at a place that is no number of rows of a step"),
        (InPython, r"integers of all rows are read in Python.*compute with the tensor"),
        (Shortened, r"give it a fixed one.*lengths\.max\(\)"),
        (RowByRow, r"\(at .*test_packed_steps\.py:\d+\).*reads values of a tensor in Python"),
    ],
)
def test_what_no_graph_has_ends_with_what_to_write(network, message, tmp_path):
    torch.manual_seed(3)
    items = torch.randint(1, ITEMS, (6, STEPS))  # all of full length, as no fault would show
    with pytest.raises(UnsupportedError, match=message):
        convert(network().eval(), (items,), tmp_path, targets=["onnx"])
    assert not list(tmp_path.glob("model*"))
