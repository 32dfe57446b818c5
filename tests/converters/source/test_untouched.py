"""The caller's module, examples and random numbers stay as they were, whatever forward does."""

import random

import numpy as np
import pytest
import torch
from support.module_state import state_of, surroundings
from torch import nn

import ondevice
from ondevice.converters import convert
from ondevice.errors import OnDeviceError, ParityError, UnsupportedError

pytest.importorskip("onnxruntime")
pytest.importorskip("ai_edge_litert")

ITEM, USER = torch.arange(12) % 40, torch.arange(12) * 3 % 29


class Clicks(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.items, self.users = nn.Embedding(40, 8), nn.Embedding(30, 8)
        self.head = nn.Sequential(nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 1))

    def forward(self, item, user):
        both = torch.cat([self.items(item), self.users(user)], -1)
        return torch.sigmoid(self.head(both)).squeeze(-1)


class LargeBuffer(Clicks):
    def __init__(self):
        super().__init__()
        self.register_buffer("calls", torch.zeros(400_000))

    def forward(self, item, user):
        self.calls += 1
        return super().forward(item, user)


class PaddingSetToZero(Clicks):
    def forward(self, item, user):
        with torch.no_grad():
            self.items.weight[0].fill_(0)
        return super().forward(item, user)


class TiedAndClamped(Clicks):
    def __init__(self):
        super().__init__()
        self.users.weight = self.items.weight

    def forward(self, item, user):
        with torch.no_grad():
            self.head[0].weight[2:].clamp_(-0.1, 0.1)
            self.users.weight.mul_(1.0).clamp_(-1, 1)
        return super().forward(item, user)


class Containers(Clicks):
    def __init__(self):
        super().__init__()
        self.calls, self.last, self.count = [], {"sizes": [0]}, 0

    def forward(self, item, user):
        self.calls.append("call")
        self.last["sizes"].append(1)
        self.count += 1
        return super().forward(item, user)


class BoundMethods(Clicks):
    def __init__(self):
        super().__init__()
        self.count = 0
        self.scorer = self.scored
        self.parts = [nn.Embedding(40, 8)]

    def scored(self, both):
        self.count += 1
        return self.head(both)

    def forward(self, item, user):
        both = torch.cat([self.items(item), self.users(user)], -1)
        return torch.sigmoid(self.scorer(both)).squeeze(-1)


class InputsWritten(Clicks):
    def forward(self, item, user):
        item.clamp_(max=20)
        user += 1
        return super().forward(item, user)


class Hooks(Clicks):
    def __init__(self):
        super().__init__()
        self.items.register_forward_hook(lambda part, args, out: setattr(part, "last", out))
        self.head[0].register_forward_pre_hook(lambda part, args: vars(part).update(seen=1))


CONVERTED = (
    LargeBuffer, PaddingSetToZero, TiedAndClamped, Containers, BoundMethods, InputsWritten, Hooks,
)  # fmt: skip


@pytest.mark.parametrize("kind", CONVERTED, ids=lambda kind: kind.__name__)
def test_forward_changes_only_the_copy(kind, tmp_path):
    module, examples = kind().train(), (ITEM.clone(), USER.clone())
    before = state_of(module), surroundings()
    convert(module, examples, tmp_path, tables="f32", targets=["odm"])
    assert (state_of(module), surroundings()) == before
    assert torch.equal(examples[0], ITEM)
    assert torch.equal(examples[1], USER)
    with torch.no_grad():
        right = module.eval()(ITEM.clone(), USER.clone()).numpy()
    got = ondevice.load(tmp_path / "model.odm").predict({"item": ITEM, "user": USER})
    np.testing.assert_allclose(got, right, atol=1e-6)


class DrawsNumbers(Clicks):
    def forward(self, item, user):
        noise = torch.rand(1) + random.random() + np.random.rand()  # noqa: S311
        return super().forward(item, user) + 0 * noise


class WritesToAView(Clicks):
    def __init__(self):
        super().__init__()
        self.part = self.head[0].weight.data[2:]  # another tensor over the same memory

    def forward(self, item, user):
        self.part.clamp_(-0.1, 0.1)
        return super().forward(item, user)


class FailsWhenExported(LargeBuffer):
    def forward(self, item, user):
        if torch.compiler.is_compiling():
            raise RuntimeError("not exported")
        return super().forward(item, user)


class LacksAnOperator(LargeBuffer):
    def forward(self, item, user):
        return super().forward(item, user) + torch.linalg.det(self.head[0].weight[:, :8] * user[0])


class OtherWhenExported(PaddingSetToZero):
    def forward(self, item, user):
        return super().forward(item, user) / (2 if torch.compiler.is_compiling() else 1)


class FailsOnItsExamples(PaddingSetToZero):
    def forward(self, item, user):
        return super().forward(item, user) @ torch.ones(7)


FAILING = {
    DrawsNumbers: UnsupportedError,
    WritesToAView: UnsupportedError,
    FailsWhenExported: UnsupportedError,
    LacksAnOperator: UnsupportedError,
    OtherWhenExported: ParityError,
    FailsOnItsExamples: OnDeviceError,
}


@pytest.mark.parametrize("kind", FAILING, ids=lambda kind: kind.__name__)
def test_a_conversion_that_fails_leaves_the_module(kind, tmp_path):
    module = kind().train()
    module.head.eval()
    before = state_of(module), surroundings()
    with pytest.raises(FAILING[kind]):
        convert(module, (ITEM, USER), tmp_path)
    assert (state_of(module), surroundings()) == before
