"""The module that is converted: unwrapped, with plain parameters; the caller's stays as it was."""

import dataclasses
from typing import NamedTuple

import numpy as np
import pytest
import torch
import torch.distributed.fsdp
from safetensors.torch import save_file
from support.module_state import state_of, surroundings
from torch import nn
from torch.nn.utils import parametrizations, parametrize, prune
from torch.optim.swa_utils import AveragedModel

import ondevice
from ondevice.converters import convert
from ondevice.errors import FileFormatError, SpecError, UnsupportedError

pytest.importorskip("onnxruntime")
pytest.importorskip("ai_edge_litert")

ITEM, USER = torch.arange(12) % 40, torch.arange(12) * 3 % 30
ENGINES = (("odm", "native"), ("odm", "numpy"), ("onnx", "onnx"), ("tflite", "tflite"))


class Clicks(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.items, self.users = nn.Embedding(40, 8), nn.Embedding(30, 8)
        self.head = nn.Sequential(nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 1))

    def forward(self, item, user):
        both = torch.cat([self.items(item), self.users(user)], -1)
        return torch.sigmoid(self.head(both)).squeeze(-1)


def assert_equal_everywhere(module, folder, right, request):
    for suffix, engine in ENGINES:
        got = ondevice.load(folder / f"model.{suffix}", engine=engine).predict(request)
        np.testing.assert_allclose(got, right, atol=1e-5, err_msg=f"{suffix} in {engine}")


def weight_normed(module):
    parametrizations.weight_norm(module.items)


def weight_normed_by_hooks(module):
    with pytest.warns(FutureWarning):
        nn.utils.weight_norm(module.head[0])


def spectral_normed(module):
    parametrizations.spectral_norm(module.head[0])


def spectral_normed_by_hooks(module):
    nn.utils.spectral_norm(module.items)


def orthogonal(module):
    parametrizations.orthogonal(module.head[2])


def pruned(module):
    prune.l1_unstructured(module.items, "weight", amount=0.4)
    prune.random_structured(module.head[0], "weight", amount=0.25, dim=0)


class Doubled(nn.Module):
    def forward(self, weight):
        return 2 * weight


def custom(module):
    parametrize.register_parametrization(module.users, "weight", Doubled())


def limited(module):
    module.items.max_norm = 1.0


REWRITES = (weight_normed, weight_normed_by_hooks, spectral_normed, spectral_normed_by_hooks,
            orthogonal, pruned, custom, limited)  # fmt: skip


@pytest.mark.parametrize("rewrite", REWRITES, ids=lambda rewrite: rewrite.__name__)
def test_computed_parameters_become_quantised_tables(rewrite, tmp_path):
    module = Clicks()
    rewrite(module)
    module.train()
    with torch.no_grad():
        module(ITEM, USER)  # spectral norm iterates in training
    before = state_of(module), surroundings()
    report = convert(module, (ITEM, USER), tmp_path, tables="f32")
    assert (state_of(module), surroundings()) == before
    small = convert(module, (ITEM, USER), tmp_path / "small", tables="q8", targets=["odm"])
    assert report.targets["odm"].table_bytes > 2.5 * small.targets["odm"].table_bytes
    with torch.no_grad():
        right = module.eval()(ITEM, USER).numpy()  # after: max_norm changes the module itself
    request = {"item": ITEM.numpy(), "user": USER.numpy()}
    assert_equal_everywhere(module, tmp_path, right, request)


class AnyArguments(Clicks):
    def forward(self, *ids, **others):
        return super().forward(*ids, **others)


class CompiledInside(Clicks):
    def __init__(self):
        super().__init__()
        self.head = torch.compile(self.head)


WRAPPERS = {
    "compiled": lambda module: torch.compile(module),
    "parallel": lambda module: nn.DataParallel(module),
    "both": lambda module: torch.compile(nn.DataParallel(module)),
    "compiled inside": lambda module: CompiledInside(),
    "averaged": lambda module: AveragedModel(module),
    "traced": lambda module: torch.fx.symbolic_trace(module),
    "of any arguments": lambda module: AnyArguments(),
}


@pytest.mark.parametrize("name", WRAPPERS)
def test_wrappers_are_left_out(name, tmp_path):
    module = Clicks().eval()
    with torch.no_grad():
        right = module(ITEM, USER).numpy()  # before a wrapper moves it to a GPU
    convert(WRAPPERS[name](module), (ITEM, USER), tmp_path, tables="f32")
    names = ("ids_0", "ids_1") if name == "of any arguments" else ("item", "user")
    request = dict(zip(names, (ITEM.numpy(), USER.numpy()), strict=True))
    assert_equal_everywhere(module, tmp_path, right, request)


def without_values():
    with torch.device("meta"):
        return Clicks()


def exported():
    return torch.export.export(Clicks().eval(), (ITEM, USER))


NOT_CONVERTED = {
    "exported": (exported, UnsupportedError, r"pass the nn\.Module that it was made from"),
    "an exported module": (lambda: exported().module(), UnsupportedError, "that it was made from"),
    "quantised": (
        lambda: torch.ao.quantization.quantize_dynamic(Clicks().eval(), {nn.Linear}),
        UnsupportedError,
        r"head\.0 is quantised already",
    ),
    "without values": (without_values, SpecError, r"items\.weight has no values: give the files"),
    "a number": (lambda: 3, SpecError, r"expected a torch\.nn\.Module, got int"),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", NOT_CONVERTED)
def test_what_has_no_weights_or_code_to_read_is_refused(name, tmp_path):
    make, kind, message = NOT_CONVERTED[name]
    with pytest.raises(kind, match=message):
        convert(make(), (ITEM, USER), tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(not torch.distributed.is_available(), reason="torch without distribution")
@pytest.mark.filterwarnings("ignore")
def test_sharded_parameters_are_refused(tmp_path):
    place = f"file://{tmp_path / 'store'}"
    torch.distributed.init_process_group("gloo", init_method=place, rank=0, world_size=1)
    try:
        sharded = Clicks()
        torch.distributed.fsdp.fully_shard(sharded)
        with pytest.raises(UnsupportedError, match=r"parameter items\.weight is spread over"):
            convert(sharded, (ITEM, USER), tmp_path / "out")
        flat = torch.distributed.fsdp.FullyShardedDataParallel(
            Clicks(), device_id=torch.device("cpu")
        )
        with pytest.raises(UnsupportedError, match="wrapped by FullyShardedDataParallel"):
            convert(flat, (ITEM, USER), tmp_path / "out")
    finally:
        torch.distributed.destroy_process_group()


def test_what_is_no_module_to_export_is_refused(tmp_path):
    traced = torch.jit.trace(Clicks().eval(), (ITEM, USER))
    with pytest.raises(UnsupportedError, match=r"pass the nn\.Module that it was made from"):
        convert(traced, (ITEM, USER), tmp_path)


@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.", "module._orig_mod.", "model."])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_weights_of_wrapped_modules_and_in_16_bits(prefix, dtype, tmp_path):
    module = Clicks().eval()
    stored = {prefix + name: tensor.to(dtype) for name, tensor in module.state_dict().items()}
    save_file(stored, tmp_path / "w.safetensors")
    convert(
        Clicks().to("meta"),
        (ITEM, USER),
        tmp_path,
        tables="f32",
        weights=tmp_path / "w.safetensors",
    )
    with torch.no_grad():
        right = module.to(dtype).float()(ITEM, USER).numpy()
    assert_equal_everywhere(module, tmp_path, right, {"item": ITEM.numpy(), "user": USER.numpy()})


def test_pickled_weights_say_what_to_do(tmp_path):
    for name, options in (("zip.pt", {}), ("old.pt", {"_use_new_zipfile_serialization": False})):
        torch.save(Clicks().state_dict(), tmp_path / name, **options)
        with pytest.raises(FileFormatError, match=r"torch\.save, a pickle.*safetensors"):
            convert(Clicks(), (ITEM, USER), tmp_path / "out", weights=tmp_path / name)
    assert not (tmp_path / "out").exists()


class Heads(NamedTuple):
    ctr: torch.Tensor
    logit: torch.Tensor


@dataclasses.dataclass
class Scores:
    ctr: torch.Tensor
    logit: torch.Tensor
    note: torch.Tensor | None = None


@dataclasses.dataclass
class Request:
    item: torch.Tensor
    user: torch.Tensor


class TwoHeads(Clicks):
    kind = Heads

    def forward(self, item, user):
        score = super().forward(item, user)
        return self.kind(score, torch.logit(score))


class TwoHeadsInADataclass(TwoHeads):
    kind = Scores


@pytest.mark.parametrize("network", [TwoHeads, TwoHeadsInADataclass])
def test_fields_of_results_name_outputs(network, tmp_path):
    convert(network().eval(), (ITEM, USER), tmp_path)
    for suffix, engine in ENGINES:
        model = ondevice.load(tmp_path / f"model.{suffix}", engine=engine)
        assert model.outputs == ("ctr", "logit")
        got = model.predict({"item": [1, 2], "user": [3, 4]})
        np.testing.assert_allclose(got["logit"], np.log(got["ctr"] / (1 - got["ctr"])), atol=1e-4)


class OfADataclass(Clicks):
    def forward(self, request):
        return super().forward(request.item, request.user)


class OfKeywords(Clicks):
    def forward(self, **features):
        return super().forward(features["item"], features["user"])


class OfOutput(Clicks):
    def forward(self, features):
        return super().forward(features["output"], features["user"])


def test_names_of_inputs(tmp_path):
    cases = {
        OfADataclass: (Request(ITEM, USER), ("item", "user"), ("output",)),
        OfKeywords: ({"item": ITEM, "user": USER}, ("item", "user"), ("output",)),
        OfOutput: (({"output": ITEM, "user": USER},), ("output", "user"), ("output_output",)),
    }
    for network, (example, inputs, outputs) in cases.items():
        module = network().eval()
        convert(module, example, tmp_path / network.__name__, tables="f32")
        for suffix, engine in ENGINES:
            model = ondevice.load(tmp_path / network.__name__ / f"model.{suffix}", engine=engine)
            assert tuple(item.name for item in model.inputs) == inputs
            assert model.outputs == outputs
            got = model.predict(dict(zip(inputs, ([1, 2], [3, 4]), strict=True)))
            with torch.no_grad():
                right = Clicks.forward(module, torch.tensor([1, 2]), torch.tensor([3, 4])).numpy()
            np.testing.assert_allclose(got, right, atol=1e-5)


def test_one_tensor_for_two_inputs(tmp_path):
    module, dummy = Clicks().eval(), torch.tensor([1, 2, 3])
    convert(module, (dummy, dummy), tmp_path, tables="f32")
    request = {"item": np.array([1, 2]), "user": np.array([5, 6])}
    with torch.no_grad():
        right = module(torch.tensor([1, 2]), torch.tensor([5, 6])).numpy()
    assert_equal_everywhere(module, tmp_path, right, request)


def test_what_is_no_module(tmp_path):
    with pytest.raises((SpecError, FileFormatError)):
        convert({"a": 1}, (ITEM,), tmp_path)


class NamedAsInGraphs(Clicks):
    """Parts that are called as attributes of torch's exported graphs."""

    def __init__(self):
        super().__init__()
        self.graph, self.meta = nn.Linear(16, 16), nn.Parameter(torch.rand(16))
        self.register_buffer("code", torch.rand(16))
        self.meta_ = 0.5

    def forward(self, item, user):
        both = torch.cat([self.items(item), self.users(user)], -1)
        both = self.graph(both * self.meta + self.code * self.meta_)
        return torch.sigmoid(self.head(both)).squeeze(-1)


def test_parts_may_be_called_as_torch_calls_its_own(tmp_path):
    module = NamedAsInGraphs().eval()
    convert(module, (ITEM, USER), tmp_path, tables="f32")
    with torch.no_grad():
        right = module(ITEM, USER).numpy()
    assert_equal_everywhere(module, tmp_path, right, {"item": ITEM.numpy(), "user": USER.numpy()})
