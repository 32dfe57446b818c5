"""Modules that were trained on a GPU or under autocast: files compute as on the CPU in float32."""

import numpy as np
import pytest
import torch
from torch import nn

import ondevice
from ondevice.converters import convert

pytest.importorskip("onnxruntime")
pytest.importorskip("ai_edge_litert")

ITEM, USER = torch.arange(12) % 40, torch.arange(12) * 3 % 30
REQUEST = {"item": ITEM.numpy(), "user": USER.numpy()}
ENGINES = (("odm", "native"), ("odm", "numpy"), ("onnx", "onnx"), ("tflite", "tflite"))
# On a machine without a GPU, only names of GPUs can be tested: a call that used one would fail.
WITH_GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="this machine has no GPU")


@pytest.fixture(autouse=True)
def same_torch():
    """A mode that is left behind would have torch compute otherwise in later tests."""
    yield
    assert torch._C._len_torch_function_stack() == 0
    assert not torch.is_autocast_enabled("cpu")


class Clicks(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.items, self.users = nn.Embedding(40, 8), nn.Embedding(30, 8)
        self.head = nn.Sequential(nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 1))
        self.register_buffer("scale", torch.linspace(0.5, 1, 16))
        self.shift = torch.linspace(0, 1, 16)  # no buffer: `module.cuda()` leaves it behind

    def score(self, item, user, steps):
        both = torch.cat([self.items(item), self.users(user)], -1)
        both = both * self.scale + self.shift * steps
        return torch.sigmoid(self.head(both)).squeeze(-1)

    def forward(self, item, user):
        return self.score(item, user, torch.arange(16))


class ByAttribute(Clicks):
    device = "cuda:0"

    def forward(self, item, user):
        steps = torch.arange(16, device=self.device)
        return self.score(item.to(self.device), user.to(device=self.device), steps)


class ByDevice(ByAttribute):
    device = torch.device("cuda", 0)


class ByNumber(ByAttribute):
    device = 0


class OnAppleSilicon(ByAttribute):
    device = "mps"


class ByMethod(Clicks):
    def forward(self, item, user):
        steps = torch.zeros(16, dtype=torch.int64).cuda(non_blocking=True)
        steps += item.new_tensor(range(16), device="cuda")
        return self.score(item.cuda(), user.cuda(0), steps.to("cuda", torch.float32))


def assert_converts(module, folder, right=None):
    """Every file and engine must answer as the plain network with the same weights does."""
    right = Clicks().eval()(ITEM, USER) if right is None else right
    convert(module.eval(), {"item": ITEM, "user": USER}, folder, tables="f32")
    for suffix, engine in ENGINES:
        got = ondevice.load(folder / f"model.{suffix}", engine=engine).predict(REQUEST)
        np.testing.assert_allclose(
            got, right.detach().numpy(), atol=1e-5, err_msg=f"{suffix} in {engine}"
        )


@pytest.mark.parametrize("kind", [ByAttribute, ByDevice, ByNumber, OnAppleSilicon, ByMethod])
def test_calls_that_name_a_gpu(kind, tmp_path):
    assert_converts(kind(), tmp_path)


def test_tensors_are_made_on_another_device_by_default(tmp_path):
    module = Clicks().eval()
    right = module(ITEM, USER)
    torch.set_default_device("meta")  # whose tensors have no values
    try:
        assert_converts(module, tmp_path, right)
        assert torch.zeros(1).is_meta
    finally:
        torch.set_default_device(None)


class Autocast(Clicks):
    device = "cpu"

    def forward(self, item, user):
        with torch.autocast(self.device, dtype=torch.bfloat16):
            return super().forward(item, user).float()


class AutocastOfGpu(Autocast):
    device = "cuda"


class AutocastByDecorator(Clicks):
    @torch.autocast("cpu", dtype=torch.bfloat16)
    def forward(self, item, user):
        return super().forward(item, user)


@pytest.mark.filterwarnings("ignore:CUDA is not available")
@pytest.mark.parametrize("kind", [Autocast, AutocastOfGpu, AutocastByDecorator])
def test_autocast_is_left_out(kind, tmp_path):
    assert_converts(kind(), tmp_path)


def test_a_conversion_inside_autocast(tmp_path):
    module = Clicks().eval()
    right = module(ITEM, USER)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert_converts(module, tmp_path, right)
        assert module.head(torch.zeros(1, 16)).dtype == torch.bfloat16  # as before
    assert module.head(torch.zeros(1, 16)).dtype == torch.float32


@WITH_GPU
@pytest.mark.parametrize("kind", [ByAttribute, ByDevice, ByNumber, ByMethod])
def test_a_module_on_a_gpu(kind, tmp_path):
    module = kind().cuda()
    module.shift = module.shift.cuda()
    module.tied = module.items  # one table of two names
    with torch.no_grad():
        answers = module(ITEM.cuda(), USER.cuda()).cpu()
    convert(module.eval(), {"item": ITEM.cuda(), "user": USER.cuda()}, tmp_path, tables="f32")
    assert {item.device.type for item in module.parameters()} == {"cuda"}
    for suffix, engine in ENGINES:
        got = ondevice.load(tmp_path / f"model.{suffix}", engine=engine).predict(REQUEST)
        np.testing.assert_allclose(got, answers.numpy(), atol=1e-4)
