"""Quotients and remainders of integers are torch's, over the whole range, in every file."""

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from support.converters import legacy_dir
from torch import nn

import ondevice
from ondevice.converters import convert
from ondevice.engines.tflite import RUNTIMES, TfliteEngine
from ondevice.errors import InputError, MissingDependencyError, UnsupportedError

TOP, LEAST = 2**63 - 1, -(2**63)
DIVISORS = (
    1, -1, 2, -2, 3, -3, 7, 10, -10, 12, 97, 2**31, -(2**31), 2**32, 3 * 2**33, 5 * -(2**40), 2**62,
    -(10**18), TOP, -TOP, LEAST,
)  # fmt: skip
PRIMES = (65521, 65519, 65497, 65479)  # residues by all of them tell any two int64 apart


def whole_range(rows=3000, seed=1):
    """Integers of every magnitude and sign, the extremes and borders of floats among them."""
    rng = np.random.default_rng(seed)
    magnitudes = np.exp2(rng.uniform(0, 63, rows)).astype(np.uint64)
    values = np.where(rng.random(rows) < 0.5, -1, 1) * magnitudes.astype(np.int64)
    borders = [0, 1, -1, TOP, TOP - 1, LEAST, LEAST + 1]
    borders += [s * 2**p + d for p in (24, 31, 32, 53, 62) for s in (1, -1) for d in (-1, 0, 1)]
    return np.concatenate([np.array(borders, np.int64), values])


class Exact(nn.Module):
    """Residues of integers computed from IDs, which float32 scores hold exactly."""

    def __init__(self, compute):
        super().__init__()
        self.users = nn.Embedding(50, 4)
        self.compute = compute

    def forward(self, item, user):
        numbers = torch.stack(self.compute(item), -1)
        residues = [torch.remainder(numbers, prime).float() for prime in PRIMES]
        scores = torch.sigmoid(self.users(user).sum(-1, keepdim=True))
        return {"numbers": torch.cat(residues, -1), "score": scores}


def truncated(a, b):
    """torch's quotient rounded towards zero; the least integer by -1 ends torch's process."""
    return torch.div(a, b, rounding_mode="trunc") if b != -1 else -a


FORMS = {
    "floor": lambda a, b: torch.div(a, b, rounding_mode="floor"),
    "operator": lambda a, b: a // b,
    "floor_divide": lambda a, b: a.floor_divide(b),
    "trunc": truncated,
    "remainder": lambda a, b: a % b,
    "fmod": lambda a, b: torch.fmod(a, b),
}


def converted(compute, folder, targets=("odm", "onnx", "tflite"), dtype=torch.int64):
    module = Exact(compute).eval()
    item = torch.tensor([1, 2, 3, 40], dtype=dtype)
    examples = {"item": item, "user": torch.tensor([1, 2, 3, 4])}
    convert(module, examples, folder, targets=targets, tables="f32")
    return module


def models(folder, targets=("odm", "onnx", "tflite")):
    """Every file in every engine of this machine."""
    for target in targets:
        model = ondevice.load(folder / f"model.{target}")
        yield target, model.predict
        if target == "odm":
            yield "numpy", ondevice.load(folder / "model.odm", engine="numpy").predict
        if target == "tflite":
            for runtime in RUNTIMES:
                try:
                    engine = TfliteEngine(folder / "model.tflite", runtime=runtime)
                except MissingDependencyError:
                    continue
                yield runtime, lambda ids, engine=engine: engine.run(ids)


def check(module, folder, ids, targets=("odm", "onnx", "tflite")):
    users = np.full(len(ids), 3)
    with torch.inference_mode():
        right = module(torch.from_numpy(ids), torch.from_numpy(users))["numbers"].numpy()
    count = 0
    for name, predict in models(folder, targets):
        got = predict({"item": ids.astype(np.int64), "user": users})
        wrong = np.argwhere(np.asarray(got["numbers"]) != right)
        assert not len(wrong), (name, ids[wrong[0][0]], wrong[0])
        count += 1
    return count


@pytest.mark.parametrize("form", FORMS)
def test_constants_divide_the_whole_range(form, tmp_path):
    divisors = [one for one in DIVISORS if (form, one) != ("fmod", LEAST)]
    operators = legacy_dir("operators")  # whose test vectors are checked in tflite-runtime too
    folder = tmp_path if operators is None else operators / f"integer_{form}"
    module = converted(lambda a: [FORMS[form](a, b) for b in divisors], folder)
    assert check(module, folder, whole_range()) >= 4


def test_int32_is_divided_exactly(tmp_path):
    divisors = (1, 3, -10, 2**20, 2**31 - 1)
    names = ("floor", "operator", "trunc", "remainder", "fmod")
    module = converted(
        lambda a: [FORMS[name](a, b) for name in names for b in divisors],
        tmp_path,
        dtype=torch.int32,
    )
    ids = whole_range()
    check(module, tmp_path, ids[np.abs(ids + 0.5) < 2**31].astype(np.int32))


@pytest.mark.parametrize("form", ["floor", "operator", "remainder", "fmod"])
def test_tensors_divide_the_whole_range(form, tmp_path):
    targets = ("odm", "onnx")

    def compute(item):
        return [FORMS[form](item, item // 2**33 + 2**40), FORMS[form](item, item * 0 - 1)]

    module = converted(compute, tmp_path, targets)
    check(module, tmp_path, whole_range(), targets)


def test_no_node_divides_by_minus_one(tmp_path):
    """ONNX Runtime before 1.32 ends the process for the least integer, in Mod as in Div."""

    def compute(item):
        minus = item * 0 - 1
        taken = item.clone()
        taken %= minus
        rests = [item % -1, item % minus, 7 % minus, item.remainder(minus), taken]
        return [*rests, item // -1, item // minus, 7 // minus]

    module = converted(compute, tmp_path, ("odm", "onnx"))
    ids = whole_range(50)
    check(module, tmp_path, ids, ("odm", "onnx"))
    model = onnx.load(tmp_path / "model.onnx")
    divisors = {node.input[1] for node in model.graph.node if node.op_type in ("Div", "Mod")}
    assert len(divisors) > 2
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in divisors)
    session = onnxruntime.InferenceSession(model.SerializeToString())
    feed = {"item": ids[ids != LEAST], "user": np.full(np.count_nonzero(ids != LEAST), 3)}
    for name, values in zip(divisors, session.run(list(divisors), feed), strict=True):
        assert not (np.asarray(values) == -1).any(), name


def test_number_divided_by_a_tensor(tmp_path):
    targets = ("odm", "onnx")
    module = converted(lambda item: [1000 // item, 10**18 % item], tmp_path, targets)
    ids = whole_range()
    check(module, tmp_path, ids[ids != 0], targets)
    for _, predict in models(tmp_path, targets):
        with pytest.raises(InputError):
            predict({"item": [0], "user": [1]})


def test_tflite_refuses_divisors_that_are_computed(tmp_path):
    with pytest.raises(UnsupportedError, match=r"tflite .*number that is not constant"):
        converted(lambda item: [item // (item % 7 + 1)], tmp_path)
