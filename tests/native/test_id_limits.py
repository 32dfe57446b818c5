"""The engine refuses IDs outside the limits of the description by itself, whoever calls it."""

import itertools
import json
import os
import subprocess

import numpy as np
import pytest
from support.engine import NATIVE, needs_sanitizers
from support.runtime import small_ids, write_small_model

import ondevice
from ondevice.engines.native import NativeEngine, is_compiled
from ondevice.errors import FileFormatError, InputError
from ondevice.info import InputSpec, ModelInfo
from ondevice.odm import write_odm
from ondevice.plan import Node, Plan

compiled = pytest.mark.skipif(not is_compiled(), reason="the native engine is not compiled")

LEAST, TOP = -(2**63), 2**63 - 1
INPUTS = (
    InputSpec("day", id_limit=8, id_low=-7, id_computed=True),
    InputSpec("negative", id_limit=0, id_low=LEAST, id_computed=True),
    InputSpec("late", id_limit=TOP + 1, id_low=5, id_computed=True),
    InputSpec("history", ("batch", 3), id_limit=10, id_computed=True),
    InputSpec("columns", ("batch", 3), id_limit=(4, None, 3), id_low=(0, 0, -2)),
    InputSpec("matrix", ("batch", 2, 1), id_limit=(5, None), dtype="float32"),
    InputSpec("free"),
)
ROWS = 70  # more than a session takes at once
LEGAL = {"day": -7, "negative": -1, "late": 5, "history": [9, 0, 3], "columns": [3, TOP, -2],
         "matrix": [[4.5], [1e30]], "free": LEAST}  # fmt: skip

# By input and element of a row: values that are legal, and values that are not.
CASES = {
    ("day", 0): ([-7, 0, 7], [-8, 8, LEAST, TOP]),
    ("negative", 0): ([LEAST, -1], [0, TOP]),
    ("late", 0): ([5, TOP], [4, LEAST]),
    ("history", 0): ([0, 9], [-1, 10]),
    ("history", 2): ([0, 9], [-1, 10, TOP]),
    ("columns", 0): ([0, 3], [-1, 4]),
    ("columns", 1): ([LEAST, TOP], []),
    ("columns", 2): ([-2, 2], [-3, 3, LEAST]),
    ("matrix", 0): ([-0.5, 4.999], [-1.0, 5.0, np.nan, np.inf, -np.inf]),
    ("matrix", 1): ([np.nan, np.inf, -1.0], []),
}


def write_computed(path, inputs=INPUTS):
    """A model that computes with its IDs and looks nothing up: their sum."""
    nodes, parts = [], []
    for spec in inputs:
        name, width = spec.name, int(np.prod(spec.shape[1:], dtype=int))
        nodes.append(Node("Cast", (name,), (f"{name}.float",), {"to": 1}))
        nodes.append(Node("Reshape", (f"{name}.float", f"{name}.shape"), (f"{name}.row",), {}))
        parts.append((f"{name}.row", f"{name}.shape", width))
    weights = {shape: np.array([-1, width], np.int64) for _, shape, width in parts}
    weights["axes"] = np.array([1], np.int64)
    nodes.append(Node("Concat", tuple(part for part, _, _ in parts), ("all",), {"axis": 1}))
    nodes.append(Node("ReduceSum", ("all", "axes"), ("sum",), {"keepdims": 0}))
    plan = Plan(tuple(s.name for s in inputs), ("sum",), tuple(nodes), tuple(weights), {})
    write_odm(path, plan, ModelInfo(tuple(inputs), ("sum",)), weights, {})
    return path


def legal_request(rows):
    dtypes = {spec.name: spec.dtype for spec in INPUTS}
    return {name: np.array([row] * rows, dtypes[name]) for name, row in LEGAL.items()}


def requests():
    """Every case, in the last row: name, request, whether it is legal."""
    for (name, element), (legal, illegal) in CASES.items():
        for value in [*legal, *illegal]:
            request = legal_request(ROWS)
            request[name].reshape(ROWS, -1)[-1, element] = value
            yield name, request, value in legal or (value != value and not illegal)


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return write_computed(tmp_path_factory.mktemp("computed") / "m.odm")


@compiled
def test_every_caller_of_the_engine_is_refused(path):
    """`od_run` and `od_rank` without the checks of Python; Python says the same of every case."""
    engine, checked = NativeEngine(path), ondevice.load(path, engine="numpy")
    for name, request, legal in requests():
        single = {name: request[name][-1:]}
        others = {key: array for key, array in request.items() if key != name}
        user = {key: array[:1] for key, array in others.items()}
        calls = [
            lambda request=request: engine.run(request)["sum"],
            lambda single=single, others=others: engine.run_ranked(single, others)["sum"],
            lambda user=user, name=name, request=request: engine.run_ranked(
                user, {name: request[name]}
            )["sum"],
            lambda request=request: checked.predict(request),
        ]
        for call in calls:
            if legal:
                assert call().shape == (ROWS,)
            else:
                with pytest.raises(InputError, match=f"{name}.*outside"):
                    call()


@compiled
def test_the_refusal_names_input_value_place_and_limits(path):
    engine = NativeEngine(path)
    request = legal_request(ROWS)
    request["columns"][66, 2] = 3
    with pytest.raises(
        InputError, match=r"'columns': ID 3 in row 66, element 2 is outside -2\.\.2"
    ):
        engine.run(request)


@compiled
def test_what_a_lookup_refuses_is_named_by_its_input(tmp_path):
    """Nothing is compared before the request where a lookup refuses by itself."""
    write_small_model(tmp_path / "m.odm")
    engine, ids = NativeEngine(tmp_path / "m.odm"), small_ids(ROWS)
    ids["slot"][ROWS - 1] = 5
    single = {"user": ids["user"][:1], "colour": ids["colour"][:1]}
    for call in (
        lambda: engine.run(ids),
        lambda: engine.run_ranked(single, {"slot": ids["slot"]}),
        lambda: engine.run_ranked({"slot": ids["slot"][-1:]},
                                  {name: ids[name] for name in single}),
    ):  # fmt: skip
        with pytest.raises(InputError, match=r"'slot': ID 5 in row \d+, .* outside 0\.\.4"):
            call()


@compiled
def test_the_quick_way_of_python_is_taken_and_refuses(path):
    """A dict of plain arrays goes straight to the engine; a fault is told as everywhere."""
    model = ondevice.load(path, engine="native")
    assert model._quick is not None
    request = legal_request(1)
    np.testing.assert_array_equal(model.predict(request), NativeEngine(path).run(request)["sum"])
    request["day"][0] = 8
    with pytest.raises(InputError, match=r"'day': ID 8 at \[0\] is outside -7\.\.7"):
        model.predict(request)


FAULTS = [
    {"id_limit": 2**63 + 1}, {"id_limit": -(2**63)}, {"id_limit": "5"}, {"id_limit": 1.5},
    {"id_limit": True}, {"id_limit": [1, 2]}, {"id_limit": [1, 2, "3"]}, {"id_limit": {}},
    {"id_low": 2**63}, {"id_low": -(2**63) - 1}, {"id_low": None}, {"id_low": [0, 0]},
    {"id_low": [0, 0, None]}, {"id_computed": 1}, {"id_computed": None},
]  # fmt: skip


@compiled
@pytest.mark.parametrize("fault", FAULTS, ids=json.dumps)
def test_both_readers_refuse_the_same_limits(fault, tmp_path, monkeypatch):
    """What is no bound of an ID, or not one for each element."""
    spec = InputSpec("x", ("batch", 3), id_limit=5)
    data = json.loads(ModelInfo((spec,), ("sum",)).to_bytes())
    data["inputs"][0] |= fault
    monkeypatch.setattr(ModelInfo, "to_bytes", lambda self: json.dumps(data).encode())
    path = write_computed(tmp_path / "m.odm", [spec])
    for engine in ("native", "numpy"):
        with pytest.raises(FileFormatError):
            ondevice.load(path, engine=engine)
    del data["inputs"][0]["id_limit"]
    write_computed(path, [spec])
    for engine in ("native", "numpy"):
        with pytest.raises(FileFormatError):
            ondevice.load(path, engine=engine)


@needs_sanitizers
def test_the_runner_refuses_them(sanitized, path, tmp_path):
    """It calls the engine without Python, and says InputError; under the sanitizers."""
    program = tmp_path / "runner"
    sanitized(NATIVE / "runner" / "runner.c", program, NATIVE / "runner" / "posix.c")
    some = itertools.islice(requests(), 0, None, 3)
    outcomes = set()
    leaks = os.environ | {"ASAN_OPTIONS": "detect_leaks=0"}  # it ends without releasing memory
    for name, request, legal in some:
        arrays = [request[spec.name] for spec in INPUTS]
        (tmp_path / "requests").write_bytes(b"".join(array.tobytes() for array in arrays))
        command = [program, "latency", path, tmp_path / "requests", ROWS, "-", 0, 0, 1, 0.001]
        done = subprocess.run(list(map(str, command)), capture_output=True, text=True, env=leaks)
        answer = json.loads(done.stdout)
        if legal:
            assert done.returncode == 0 and "workers" in answer, answer
        else:
            assert answer["error"] == "InputError" and f"'{name}'" in answer["message"]
        outcomes.add(legal)
    assert outcomes == {True, False}
