"""TreeEnsemble in the native engine and in numpy, against a walk in plain Python."""

import numpy as np
import pytest
from support.native import random_ensemble

from ondevice.engines.native import NativeEngine, is_compiled
from ondevice.engines.numpy import NumpyEngine
from ondevice.errors import FileFormatError, InputError, UnsupportedError
from ondevice.info import InputSpec, ModelInfo
from ondevice.limits import MAX_TREE_DEPTH
from ondevice.odm import open_odm, write_odm
from ondevice.plan import Node, Plan
from ondevice.trees import BRANCH, SCORE, VECTOR, links

pytestmark = pytest.mark.skipif(not is_compiled(), reason="the native engine is not compiled")
FEATURES = 4


def write_trees(path, arrays, targets, aggregate="SUM"):
    node = Node(
        "TreeEnsemble",
        ("x", "thresholds", "links", "roots", "vectors"),
        ("y",),
        {"targets": targets, "aggregate": aggregate},
    )
    plan = Plan(("x",), ("y",), (node,), tuple(arrays), {})
    info = ModelInfo(inputs=(InputSpec("x", ("batch", FEATURES), None, "float32"),), outputs=("y",))
    write_odm(path, plan, info, arrays, {})
    return path


def walked(arrays, x, targets, aggregate):
    """The definition of the operator, node by node."""
    join = {"SUM": lambda a, b: np.float32(a + b), "MIN": min, "MAX": max}[aggregate]
    start = {"SUM": 0.0, "MIN": np.inf, "MAX": -np.inf}[aggregate]
    out = np.full((len(x), targets), start, np.float32)
    for row, root in np.ndindex(len(x), len(arrays["roots"])):
        at = int(arrays["roots"][root])
        while True:
            link, limit = int(arrays["links"][at]), arrays["thresholds"][at]
            kind, index, place = link >> 60, link >> 32 & 0xFFFFFF, link & 0xFFFFFFFF
            if kind != BRANCH:
                break
            value = x[row, index]
            outcome = 0 if value < limit else 1 if value == limit else 2 if value > limit else 3
            at = place if link >> 56 & 15 & 1 << outcome else place + 1
        scores = {index: limit} if kind == SCORE else dict(enumerate(arrays["vectors"][place]))
        for target, score in scores.items():
            out[row, target] = join(out[row, target], score)
    return out


def requests(rng, rows):
    x = (rng.integers(-5, 6, (rows, FEATURES)) / 4).astype(np.float32)
    x[rng.random(x.shape) < 0.1] = np.nan
    return x


@pytest.mark.parametrize("outcomes", [None, [3, 11], [1, 9], [3], [1], [1, 3], [12, 4], [2]])
@pytest.mark.parametrize("targets", [1, 3])
@pytest.mark.parametrize("aggregate", ["SUM", "MIN", "MAX"])
def test_every_test_of_a_branch(outcomes, targets, aggregate, tmp_path):
    rng = np.random.default_rng(0)
    arrays = random_ensemble(
        rng, features=FEATURES, trees=11, depth=6, targets=targets, outcomes=outcomes
    )
    path = write_trees(tmp_path / "trees.odm", arrays, targets, aggregate)
    for rows in (1, 7, 8, 9, 70):
        x = requests(rng, rows)
        right = walked(arrays, x, targets, aggregate)
        np.testing.assert_array_equal(NumpyEngine(open_odm(path)).run({"x": x})["y"], right)
        np.testing.assert_array_equal(NativeEngine(path).run({"x": x})["y"], right)


def test_more_paths_than_are_followed_at_once(tmp_path):
    """Numpy holds a place for every tree of a number of rows: more of them than one part has."""
    rng = np.random.default_rng(1)
    arrays = random_ensemble(rng, features=FEATURES, trees=3, depth=3, targets=1)
    arrays["roots"] = np.tile(arrays["roots"], 2**17)
    path = write_trees(tmp_path / "trees.odm", arrays, 1)
    x = requests(rng, 5)
    single = dict(arrays, roots=arrays["roots"][:3])
    right = walked(single, x, 1, "SUM") * 2.0**17
    np.testing.assert_allclose(NumpyEngine(open_odm(path)).run({"x": x})["y"], right, rtol=1e-2)
    np.testing.assert_allclose(NativeEngine(path).run({"x": x})["y"], right, rtol=1e-2)


def chain(depth):
    """A path of this many branches: each test fails, and the next node is the next branch."""
    kinds = [BRANCH, SCORE] * depth + [SCORE]
    places = [place for i in range(depth) for place in (2 * i + 1, 0)] + [0]
    return {
        "thresholds": np.arange(len(kinds), dtype=np.float32),
        "links": links(kinds, places, [0] * len(kinds), [0] * len(kinds)),
        "roots": np.zeros(1, np.int64),
        "vectors": np.zeros((0, 1), np.float32),
    }


def test_the_longest_path_and_one_branch_more(tmp_path):
    for depth in (MAX_TREE_DEPTH, MAX_TREE_DEPTH + 1):
        path = write_trees(tmp_path / "trees.odm", chain(depth), 1)
        for rows in (1, 9):
            x = np.zeros((rows, FEATURES), np.float32)
            for engine in (NativeEngine(path), NumpyEngine(open_odm(path))):
                if depth == MAX_TREE_DEPTH:
                    np.testing.assert_array_equal(engine.run({"x": x})["y"], 2 * depth)
                else:
                    with pytest.raises(InputError, match=f"more than {MAX_TREE_DEPTH} branches"):
                        engine.run({"x": x})


SMALL = {
    "thresholds": np.float32([0.5, 1.0, 2.0]),
    "links": links([BRANCH, SCORE, VECTOR], [1, 0, 0], [3, 0, 0], [3, 0, 0]),
    "roots": np.zeros(1, np.int64),
    "vectors": np.float32([[4.0, 5.0]]),
}
HOSTILE = {
    "child is the node": {"links": links([0, 1, 2], [0, 0, 0], [3, 0, 0], [3, 0, 0])},
    "child beyond": {"links": links([0, 1, 2], [2, 0, 0], [3, 0, 0], [3, 0, 0])},
    "child far beyond": {"links": links([0, 1, 2], [2**32 - 1, 0, 0], [3, 0, 0], [3, 0, 0])},
    "feature beyond": {"links": links([0, 1, 2], [1, 0, 0], [FEATURES, 0, 0], [3, 0, 0])},
    "target beyond": {"links": links([0, 1, 2], [1, 0, 0], [3, 2, 0], [3, 0, 0])},
    "vector beyond": {"links": links([0, 1, 2], [1, 0, 1], [3, 0, 0], [3, 0, 0])},
    "kind unknown": {"links": links([0, 3, 2], [1, 0, 0], [3, 0, 0], [3, 0, 0])},
    "negative link": {"links": np.array([-1, -1, -1])},
    "root negative": {"roots": np.array([-1])},
    "root beyond": {"roots": np.array([3])},
    "no roots": {"roots": np.zeros(0, np.int64)},
    "fewer thresholds": {"thresholds": np.float32([0.5])},
    "links of floats": {"links": np.zeros(3, np.float32)},
    "vectors of another width": {"vectors": np.zeros((1, 3), np.float32)},
    "vectors of one axis": {"vectors": np.zeros(2, np.float32)},
}


def test_the_small_ensemble_runs(tmp_path):
    path = write_trees(tmp_path / "trees.odm", SMALL, 2)
    x = np.float32([[0, 0, 0, 0.5], [0, 0, 0, 0.75]])
    for engine in (NativeEngine(path), NumpyEngine(open_odm(path))):
        np.testing.assert_array_equal(engine.run({"x": x})["y"], [[1, 0], [4, 5]])


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_ensembles_are_refused(case, tmp_path):
    """By both engines, when they open the file."""
    path = write_trees(tmp_path / "trees.odm", {**SMALL, **HOSTILE[case]}, 2)
    with pytest.raises((FileFormatError, UnsupportedError)):
        NativeEngine(path)
    with pytest.raises(FileFormatError):
        NumpyEngine(open_odm(path))


@pytest.mark.parametrize(
    ("targets", "aggregate"), [(0, "SUM"), (-1, "SUM"), (2**24 + 1, "SUM"), (2, "MEAN"), (2, 3)]
)
def test_attributes_that_mean_nothing(targets, aggregate, tmp_path):
    path = write_trees(tmp_path / "trees.odm", SMALL, targets, aggregate)
    with pytest.raises((FileFormatError, UnsupportedError)):
        NativeEngine(path)
    with pytest.raises(FileFormatError):
        NumpyEngine(open_odm(path))
