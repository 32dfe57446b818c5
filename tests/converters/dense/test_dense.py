"""Dense layers with float16 and int8 weights in every target, against torch and against the files.

tests/legacy/test_converted_files.py checks the same files on the oldest packages.
"""

import hashlib
import itertools
import json
import shutil
import sys

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from safetensors.torch import save_file
from support.converters import legacy_dir
from torch import nn

import ondevice
from ondevice.cli import main
from ondevice.converters import convert
from ondevice.converters.targets.onnx.dense import unsaturated_weight
from ondevice.errors import InputError, ParityError, SpecError
from ondevice.odm import open_odm

TARGETS = ("odm", "onnx", "tflite")
FORMS = ("f16", "q8", "q8-static")


class Tower(nn.Module):
    """Layers over [batch, fields, dim] and over [batch, units]; units of very unequal size."""

    def __init__(self, spread=1.0):
        super().__init__()
        torch.manual_seed(3)
        self.users, self.items = nn.Embedding(300, 24), nn.Embedding(500, 24)
        self.each = nn.Linear(24, 20, bias=False)
        self.tower = nn.Sequential(nn.Linear(40, 48), nn.BatchNorm1d(48), nn.ReLU())
        self.mid, self.last = nn.Linear(48, 33), nn.Linear(33, 1)
        nn.init.normal_(self.tower[1].running_mean, std=0.1)
        self.register_buffer("factors", spread ** torch.linspace(-1, 1, 33))
        with torch.no_grad():  # forward divides again
            self.mid.weight *= self.factors[:, None]
            self.mid.bias *= self.factors

    def forward(self, user, item):
        x = torch.stack([self.users(user), self.items(item)], 1)
        x = torch.relu(self.each(x)).flatten(1)
        x = torch.relu(self.mid(self.tower(x)) / self.factors)
        return torch.sigmoid(self.last(x)).squeeze(-1)


def ids(rows, seed=0):
    rng = np.random.default_rng(seed)
    return {"user": rng.integers(0, 300, rows), "item": rng.integers(0, 500, rows)}


def tensors(batch):
    return tuple(torch.from_numpy(values) for values in batch.values())


def written(module, folder, form, **options):
    dense, calibrated = form.split("-")[0], form.endswith("static")
    calibration = ids(2000, seed=1) if calibrated else None
    options = {"tables": "f32", "dense": dense, "calibration": calibration} | options
    return convert(module.eval(), tensors(ids(8)), folder, **options)


@pytest.fixture(scope="module", params=FORMS)
def converted(request, tmp_path_factory):
    module = Tower()
    folder = tmp_path_factory.mktemp(request.param)
    report = written(module, folder, request.param)
    if legacy := legacy_dir():
        target = legacy.parent / "dense" / request.param
        target.parent.mkdir(exist_ok=True)
        shutil.copytree(folder, target)
    return request.param, module, folder, report


@pytest.mark.parametrize("target", TARGETS)
def test_probabilities(converted, target):
    form, module, folder, report = converted
    batch = ids(700, seed=2)
    if form == "f16":  # the module with rounded weights computes the same
        module = Tower().eval()
        with torch.no_grad():  # batch normalisation is part of the weights that are rounded
            norm, first = module.tower[1], module.tower[0]
            factor = norm.weight / torch.sqrt(norm.running_var + norm.eps)
            first.bias.copy_((first.bias - norm.running_mean) * factor + norm.bias)
            first.weight.mul_(factor[:, None])
            module.tower[1] = nn.Identity()
            for layer in (module.each, first, module.mid, module.last):
                layer.weight.copy_(layer.weight.half().float())
    with torch.inference_mode():
        expected = module(*tensors(batch)).numpy()
    got = ondevice.load(folder / f"model.{target}").predict(batch)
    difference = np.abs(got - expected).max()
    assert difference <= (2e-6 if form == "f16" else 3e-3)
    if form != "f16":
        assert report.targets[target].max_difference > 1e-5  # it did round


class Plain(nn.Module):
    """Dense layers and nothing else behind a table, units of unequal size."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(1)
        self.table = nn.Embedding(300, 32)
        self.layers = nn.ModuleList([nn.Linear(32, 64), nn.Linear(64, 48), nn.Linear(48, 1)])
        with torch.no_grad():
            self.layers[0].weight.mul_(torch.exp(torch.randn(64, 1)))
            self.layers[2].weight.mul_(3)

    def forward(self, user):
        x = self.table(user)
        for layer in self.layers[:-1]:
            x = torch.relu(layer(x))
        return torch.sigmoid(self.layers[-1](x))


def rounded(x, axis, low=None, high=None):
    """Numbers in 256 steps of one size from their (or a given) least to greatest, 0 included."""
    low = x.min(axis, keepdims=True) if low is None else low
    high = x.max(axis, keepdims=True) if high is None else high
    low, high = np.minimum(low, 0), np.maximum(high, 0)
    scale = ((high - low) / 255).astype(np.float32)
    zero = np.rint(-low / scale)
    return (np.clip(np.rint(x / scale) + zero, 0, 255) - zero) * scale.astype(np.float64)


def by_rows_symmetric(x):
    scale = np.abs(x).max(1, keepdims=True) / np.float32(127)
    return np.rint(x / scale) * scale.astype(np.float64)


def in_numpy(module, ids, inputs, weights):
    """The module with every layer's inputs and weights rounded, written for this test."""
    x = module.table.weight.detach().numpy()[ids]
    for number, layer in enumerate(module.layers):
        weight, bias = layer.weight.detach().numpy(), layer.bias.detach().numpy()
        x = (inputs(x, number) @ weights(weight).T + bias).astype(np.float32)
        x = np.maximum(x, 0) if number < 2 else x
    return 1 / (1 + np.exp(-x))


def test_every_form_against_its_arithmetic_in_numpy(tmp_path):
    """Not near float32 by luck: each file rounds what it says, where it says, and nothing else."""
    module = Plain().eval()
    ids = np.random.default_rng(0).integers(0, 300, 200)
    ranges, x = [], module.table.weight.detach()  # of the inputs of each layer, over all IDs
    for layer in module.layers:
        ranges.append((x.min().item(), x.max().item()))
        x = torch.relu(layer(x)).detach()

    def int8(weight):
        scale = (np.abs(weight).max(1, keepdims=True) / np.float32(127)).astype(np.float64)
        return np.rint(weight / scale) * scale

    def in_pairs(weight):
        scale = (largest_pair(weight.T) / np.float32(127))[:, None].astype(np.float64)
        return np.rint(weight / scale) * scale

    expected = {
        ("f16", "all"): (lambda x, _: x, lambda w: w.astype(np.float16).astype(np.float32)),
        ("q8", "odm"): (lambda x, _: by_rows_symmetric(x), int8),
        ("q8", "onnx"): (lambda x, _: rounded(x, None), in_pairs),
        ("q8", "tflite"): (lambda x, _: rounded(x, 1), int8),  # LiteRT: each row by its range
        ("static", "odm"): (lambda x, _: by_rows_symmetric(x), int8),
        ("static", "onnx"): (lambda x, n: rounded(x, None, *ranges[n]), in_pairs),
    }
    size = {}
    for form in ("f32", "f16", "q8", "static"):
        calibration = {"user": np.arange(300)} if form == "static" else None
        options = {"dense": form.replace("static", "q8"), "calibration": calibration}
        report = convert(module, torch.arange(8), tmp_path, tables="f32", name=form, **options)
        for target in TARGETS:
            size[form, target] = report.targets[target].bytes
            key = (form, "all") if form == "f16" else (form, target)
            if key not in expected:
                continue
            got = ondevice.load(tmp_path / f"{form}.{target}").predict({"user": ids})
            right = in_numpy(module, ids, *expected[key])
            assert np.abs(got - right).max() < 1e-6, key
            change = np.abs(got - in_numpy(module, ids, lambda x, _: x, lambda w: w)).max()
            assert (1e-5 if form == "f16" else 1e-3) < change < 2e-2
    weights = 32 * 64 + 64 * 48 + 48
    for target in TARGETS:  # what is saved is most of 2 or 3 bytes a weight
        assert size["f32", target] - size["f16", target] > 1.9 * weights
        assert size["f32", target] - size["q8", target] > 2.6 * weights


@pytest.mark.parametrize("target", TARGETS)
def test_report_says_what_every_layer_became(converted, target):
    form, _, _, report = converted
    layers = report.targets[target].layers
    assert [layer.path for layer in layers] == ["each", "tower.1", "mid", "last"]
    shapes = [(layer.features, layer.units) for layer in layers]
    assert shapes == [(24, 20), (40, 48), (48, 33), (33, 1)]
    assert {layer.codec for layer in layers} == {form.split("-")[0]}
    kinds = ["float" if form == "f16" else "dynamic"] * 4
    if form == "q8-static" and target == "onnx":
        kinds = ["static"] * 4
    if form == "q8-static" and target == "tflite":
        kinds[1] = "static"  # the only one whose result goes to a layer and nowhere else
    assert [layer.activations for layer in layers] == kinds


def test_onnx_holds_standard_integer_arithmetic(converted):
    form, module, folder, _ = converted
    onnx.checker.check_model(str(folder / "model.onnx"), full_check=True)
    model = onnx.load(folder / "model.onnx")
    kinds = [node.op_type for node in model.graph.node if node.domain == ""]
    arrays = {item.name: numpy_helper.to_array(item) for item in model.graph.initializer}
    if form == "f16":
        assert sorted(a.shape for a in arrays.values() if a.dtype == np.float16) == sorted(
            [(24, 20), (40, 48), (48, 33), (33, 1)]
        )
        return
    assert kinds.count("MatMulInteger") == 4
    assert kinds.count("QuantizeLinear" if form == "q8-static" else "DynamicQuantizeLinear") == 4
    codes = [array for name, array in arrays.items() if name.endswith(".codes")]
    assert {array.dtype for array in codes} == {np.dtype(np.int8)}
    for array in codes:  # on x86 without VNNI, pairs of products are added in int16
        assert largest_pair(array.astype(np.float64)).max() * 255 < 2**15
    mid = next(array for array in codes if array.shape == (48, 33)).astype(np.float64)
    weight = module.mid.weight.detach().numpy().T.astype(np.float64)
    scales = largest_pair(weight) / 127
    assert np.abs(mid * scales - weight).max() <= (scales / 2 * (1 + 1e-5)).max()


def largest_pair(weight):
    """By unit, the largest sum of two weights of the same sign, or of one, in fours of features."""
    largest = np.abs(weight).max(0)
    for first in range(0, len(weight), 4):
        for one, other in itertools.combinations(weight[first : first + 4], 2):
            largest = np.where(one * other > 0, np.maximum(largest, np.abs(one + other)), largest)
    return largest


def test_uint8_by_int8_products_do_not_saturate():
    """Weights of one sign are the worst case: every pair of products is as large as it can be."""
    weight = np.ones((10, 3), np.float32) * np.float32([1, -1, 0])
    codes, scales = unsaturated_weight(weight)
    assert np.abs(codes.astype(int)[:, :2]).max() == 64
    assert not codes[:, 2].any()
    assert np.abs(codes * scales - weight).max() < 1e-2


def test_units_have_scales_of_their_own(tmp_path):
    """With one scale for all units, the small ones of `mid` would be lost."""
    module = Tower(spread=100.0)
    written(module, tmp_path, "q8")
    batch = ids(300, seed=4)
    with torch.inference_mode():
        expected = module(*tensors(batch)).numpy()
    for target in TARGETS:
        got = ondevice.load(tmp_path / f"model.{target}").predict(batch)
        assert np.abs(got - expected).max() < 5e-3
    with torch.no_grad():
        weight = module.mid.weight
        scale = weight.abs().max() / 127
        weight.copy_((weight / scale).round() * scale)
        assert np.abs(module(*tensors(batch)).numpy() - expected).max() > 2e-2


@pytest.mark.parametrize("target", TARGETS)
def test_a_row_scores_the_same_alone_and_among_others(converted, target):
    """But for dynamic quantisation in ONNX, which has one scale for the whole batch."""
    form, _, folder, _ = converted
    model = ondevice.load(folder / f"model.{target}")
    batch = ids(50, seed=5)
    single = [model.predict({k: v[i : i + 1] for k, v in batch.items()})[0] for i in range(50)]
    difference = np.abs(model.predict(batch) - single).max()
    if (form, target) == ("q8", "onnx"):
        assert 1e-6 < difference < 3e-3
    else:
        assert difference < 2e-7


def test_layers_kept_in_float(tmp_path):
    module = Tower()
    report = written(module, tmp_path, "q8", float_layers=["tower", "last"])
    for target in TARGETS:
        codecs = {layer.path: layer.codec for layer in report.targets[target].layers}
        assert codecs == {"each": "q8", "tower.1": "f32", "mid": "q8", "last": "f32"}
    plan = open_odm(tmp_path / "model.odm").plan
    dense = [node.attributes for node in plan.nodes if node.op == "Dense"]
    stored = {attributes["units"]: attributes["codec"] for attributes in dense}
    model = onnx.load(tmp_path / "model.onnx")
    arrays = [numpy_helper.to_array(item) for item in model.graph.initializer]
    assert any(a.dtype == np.float32 and sorted(a.shape) == [1, 33] for a in arrays)
    assert not any(a.dtype == np.float32 and sorted(a.shape) == [33, 48] for a in arrays)
    assert stored[48] == "f32"
    assert stored[33] == "q8"


def test_wrong_settings(tmp_path):
    with pytest.raises(SpecError, match=r"no dense layer 'head'.*each, tower.1, mid, last"):
        written(Tower(), tmp_path, "q8", float_layers=["head"])
    with pytest.raises(InputError, match="calibration: missing inputs: item"):
        written(Tower(), tmp_path, "q8", calibration={"user": np.arange(3)})
    with pytest.raises(InputError, match="calibration: input 'user': the batch is empty"):
        written(Tower(), tmp_path, "q8", calibration=ids(0))
    for wrong, fault in (
        ({"user": np.zeros((3, 2), int), "item": np.arange(3)}, "'user': expected shape"),
        ({"user": np.array([5000]), "item": np.arange(1)}, "calibration: input 'user': ID 5000"),
        ({"user": ["a"], "item": ["b"]}, "calibration: input 'user'"),
        ({"user": np.arange(3), "item": np.arange(4)}, "differ in batch size"),
    ):
        with pytest.raises(InputError, match=fault):
            written(Tower(), tmp_path, "q8", calibration=wrong)
    with pytest.raises(SpecError, match="calibration rows are for q8 layers, but dense is 'f16'"):
        written(Tower(), tmp_path, "f16", calibration=ids(20))
    with pytest.raises(SpecError, match="dense codec 'q5'"):
        written(Tower(), tmp_path, "q5")
    assert list(tmp_path.iterdir()) == []


def test_a_layer_that_int8_cannot_hold_is_refused(tmp_path):
    module = Tower()
    with torch.no_grad():  # one input of `last` rules its scale, the small ones decide
        module.mid.bias[0] = 3e4
        module.last.bias -= module.last.weight[0, 0] * 3e4
    with pytest.raises(ParityError, match="try --float-layers"):
        written(module, tmp_path, "q8")
    with pytest.raises(ParityError, match="try dense layers in f32"):
        written(module, tmp_path, "f16")
    assert list(tmp_path.iterdir()) == []
    report = written(module, tmp_path, "q8", float_layers=["last"])
    assert max(item.max_difference for item in report.targets.values()) < 1e-2


@pytest.mark.parametrize("target", TARGETS)
def test_a_refused_file_leaves_those_of_an_earlier_run(tmp_path, target, capfd):
    """By the command: exit code, one line that names file and runtime, the old files untouched."""
    module = Tower()
    save_file(module.state_dict(), tmp_path / "good.safetensors")
    with torch.no_grad():  # as above
        module.mid.bias[0] = 3e4
        module.last.bias -= module.last.weight[0, 0] * 3e4
    save_file(module.state_dict(), tmp_path / "bad.safetensors")
    np.savez(tmp_path / "rows.npz", **ids(8))

    def run(weights):
        options = ("--force", "--out", tmp_path / "out", "--dense", "q8", "--targets", target)
        files = ("--weights", tmp_path / f"{weights}.safetensors", "--example", "rows.npz")
        return main(["convert", "test_dense:Tower", *map(str, (*files, *options))])

    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path)
        patch.setitem(sys.modules, "test_dense", sys.modules[__name__])
        assert run("good") == 0
        before = {file.name: file.read_bytes() for file in (tmp_path / "out").iterdir()}
        capfd.readouterr()
        assert run("bad") == 1
    last = capfd.readouterr().err.strip().splitlines()[-1]
    assert last.startswith("ondevice: probabilities differ from the torch module's by more than")
    assert f"model.{target} by 0." in last
    assert "nothing was written" in last
    assert {file.name: file.read_bytes() for file in (tmp_path / "out").iterdir()} == before


def test_every_file_and_runtime_beyond_its_tolerance_is_named(tmp_path):
    module = Tower()
    with torch.no_grad():
        module.mid.bias[0] = 3e4
        module.last.bias -= module.last.weight[0, 0] * 3e4
    with pytest.raises(ParityError) as caught:
        written(module, tmp_path, "q8")
    for place in ("model.odm by", "in numpy", "model.onnx by", "model.tflite by"):
        assert place in str(caught.value)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite(tmp_path, value):
    module = Tower()
    with torch.no_grad():
        module.mid.weight[3, 2] = value
    for form in ("f32", "q8"):
        with pytest.raises(SpecError, match="dense layer 'mid': 1 of 1584 values are NaN or inf"):
            written(module, tmp_path, form)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("target", TARGETS)
def test_weights_beyond_float16(tmp_path, target):
    module = Tower()
    with torch.no_grad():
        module.mid.weight[3] *= 1e7
        module.last.weight[:, 3] *= 1e-7
    with pytest.raises(SpecError, match=r"'mid': f16 holds values up to 65504.*--float-layers mid"):
        written(module, tmp_path, "f16", targets=[target])
    written(module, tmp_path, "f16", targets=[target], float_layers=["mid", "last"])


@pytest.mark.parametrize("form", FORMS)
def test_a_unit_of_zeros(tmp_path, form):
    module = Tower()
    with torch.no_grad():
        module.mid.weight[3] = 0
        module.mid.bias[3] = 0
    report = written(module, tmp_path, form)
    assert max(item.max_difference for item in report.targets.values()) < 5e-3


def test_same_input_same_bytes(converted, tmp_path):
    form, _, folder, _ = converted
    written(Tower(), tmp_path, form)
    first, second = (
        {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in where.iterdir()}
        for where in (folder, tmp_path)
    )
    assert first == second
    assert len(first) == 7  # manifest.json too


def test_card_lists_the_layers(converted):
    form, _, folder, _ = converted
    card = (folder / "model.md").read_text()
    codec = form.split("-")[0]
    kind = {"f16": "float", "q8": "dynamic", "q8-static": "static"}[form]
    assert f"| model.onnx | `mid` | 48 x 33 | {codec} | {kind} |" in card
    report = json.loads((folder / "model.report.json").read_text())
    assert report["dense"] == codec


class TopLevelLinear(nn.Module):
    """torch's exporter names the result of `linear` as its weights begin: "linear"."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.table, self.linear = nn.Embedding(9, 4), nn.Linear(4, 3)

    def forward(self, item):
        return torch.sigmoid(self.linear(self.table(item)).sum(-1))


@pytest.mark.parametrize(("codec", "tolerance"), [("f16", 5e-4), ("q8", 2e-2)])
def test_quantised_constants_do_not_collide_with_parameters(codec, tolerance, tmp_path):
    module, items = TopLevelLinear().eval(), torch.arange(9)
    convert(module, (items,), tmp_path, tables="f32", dense=codec, targets=("onnx",))
    with torch.inference_mode():
        expected = module(items).numpy()
    scores = ondevice.load(tmp_path / "model.onnx").predict({"item": items.numpy()})
    np.testing.assert_allclose(scores, expected, atol=tolerance)
