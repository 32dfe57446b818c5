"""Networks that pack their histories: the files score each row as torch does at its length."""

import warnings

import pytest
import torch
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

import ondevice
from ondevice.converters import convert
from ondevice.converters.source.torch_source import TorchSource

STEPS = 5


class Packed(nn.Module):
    """A recurrent layer over a packed history, read where `read` says."""

    def __init__(self, kind, read, **options):
        super().__init__()
        self.batch_first = options.get("batch_first", False)
        self.items, self.layer = nn.Embedding(30, 4), kind(4, 6, **options)
        self.read, self.last = read, nn.LazyLinear(1)

    def forward(self, items):
        lengths = (items != 0).sum(1).clamp(min=1)
        vectors = self.items(items)
        if not self.batch_first:
            vectors = vectors.transpose(0, 1)
        packed = pack_padded_sequence(
            vectors, lengths.cpu(), batch_first=self.batch_first, enforce_sorted=False
        )
        outputs, states = self.layer(packed)
        if self.read == "outputs":
            steps, lengths = pad_packed_sequence(
                outputs, batch_first=True, padding_value=0.5, total_length=STEPS + 1
            )
            found = steps.sum(1) / lengths.unsqueeze(1)
        elif self.read == "cell":
            found = states[1].transpose(0, 1).flatten(1)
        else:
            found = (states[0] if isinstance(states, tuple) else states)[-1]
        return torch.sigmoid(self.last(found)).squeeze(1)


@pytest.mark.parametrize(
    ("kind", "read", "options"),
    [
        (nn.GRU, "last", {"batch_first": True}),
        (nn.GRU, "outputs", {"num_layers": 2, "bias": False}),
        (nn.LSTM, "outputs", {"batch_first": True, "bidirectional": True}),
        (nn.LSTM, "cell", {"num_layers": 2, "bidirectional": True}),
        (nn.RNN, "last", {"nonlinearity": "relu"}),
    ],
)
def test_files_equal_torch_at_every_length(kind, read, options, tmp_path):
    torch.manual_seed(3)
    module = Packed(kind, read, **options)
    lengths = torch.arange(10) % STEPS + 1
    items = torch.randint(1, 30, (10, STEPS)) * (torch.arange(STEPS) < lengths.unsqueeze(1))
    module(items)
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)  # the C engine must run it
        convert(module.eval(), (items,), tmp_path, tables="f32")
    expected = TorchSource(module, (items,))({"items": items.numpy()})["output"]
    assert expected.std() > 1e-3
    for suffix in ("odm", "onnx", "tflite"):
        for rows in (1, 10):
            found = ondevice.load(tmp_path / f"model.{suffix}").predict(
                {"items": items[:rows].numpy()}
            )
            assert abs(found - expected[:rows]).max() < 1e-5


def test_packing_is_as_before_after_an_export(tmp_path):
    module = Packed(nn.GRU, "last", batch_first=True)
    items = torch.tensor([[4, 7, 0, 0, 0], [1, 2, 3, 4, 5]])
    before = module.eval()(items)
    convert(module, (items,), tmp_path, targets=["onnx"])
    assert torch.equal(module(items), before)
    packed = pack_padded_sequence(torch.ones(2, 3, 1), torch.tensor([1, 3]), True, False)
    assert packed.data.shape == (4, 1)


def test_lengths_beyond_the_steps_end_with_an_error():
    class Given(Packed):
        def forward(self, items, lengths):
            packed = pack_padded_sequence(self.items(items), lengths, True, False)
            return self.layer(packed)[1][-1]

    items, lengths = torch.ones(2, STEPS, dtype=torch.int64), torch.tensor([1, 2**40])
    source = TorchSource(Given(nn.GRU, "last", batch_first=True), (items, lengths.clamp(max=STEPS)))
    with pytest.raises(Exception, match="expected lengths up to 5 steps, got 1099511627776"):
        source({"items": items.numpy(), "lengths": lengths.numpy()})
