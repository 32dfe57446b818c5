"""Tree ensembles of every form in all targets, against ONNX Runtime on the given file."""

import itertools

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper
from support.trees import ML, Trees, random_trees, write_onnx

import ondevice
from ondevice.converters import convert
from ondevice.converters.source.ml.tree_layout import stored_trees
from ondevice.converters.source.ml.tree_nodes import COMPARISONS, TreeNodes
from ondevice.errors import FileFormatError, UnsupportedError
from ondevice.limits import MAX_TREE_DEPTH, MAX_TREE_NODES

TARGETS = ("odm", "onnx", "tflite")
FLOAT = TensorProto.FLOAT
FEATURES = 3


def reference(path, x, name="scores"):
    """What ONNX Runtime gives for the original file, one thread."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    return ort.InferenceSession(str(path), options).run([name], {"x": x})[0]


def requests(rng, rows=400, grid=8):
    """Rows on thresholds, next to them, between them, and with missing and infinite values."""
    x = (rng.integers(-2 * grid - 1, 2 * grid + 1, (rows, FEATURES)) / grid).astype(np.float32)
    step = rng.integers(-1, 2, x.shape)
    towards = np.where(step < 0, -np.inf, np.inf).astype(np.float32)
    x = np.where(step == 0, x, np.nextafter(x, towards))
    x[rng.random(x.shape) < 0.05] = np.nan
    x[rng.random(x.shape) < 0.03] = np.inf
    x[rng.random(x.shape) < 0.03] = -np.inf
    return x


def check(path, folder, x, atol=2e-6, name="scores"):
    """Convert an .onnx file, and compare every target and engine with ONNX Runtime."""
    convert(path, None, folder)
    right = reference(path, x, name)
    models = [ondevice.load(folder / f"model.{target}") for target in TARGETS]
    models.append(ondevice.load(folder / "model.odm", engine="numpy"))
    for model in models:
        got = model.predict({"x": x})
        np.testing.assert_allclose(got, right, atol=atol, rtol=1e-6)
        single = np.concatenate([model.predict({"x": x[i : i + 1]}) for i in range(9)])
        np.testing.assert_allclose(single, right[:9], atol=atol, rtol=1e-6)


@pytest.mark.parametrize("mode", [*COMPARISONS, "mixed"])
@pytest.mark.parametrize("missing", [(0,), (1,), (0, 1)])
def test_every_comparison(mode, missing, tmp_path):
    rng = np.random.default_rng(1)
    modes = COMPARISONS if mode == "mixed" else (mode,)
    trees = random_trees(
        rng, trees=11, depth=5, features=FEATURES, targets=1, modes=modes, missing=missing
    )
    path = write_onnx(
        tmp_path / "in.onnx", [trees.regressor()], {"scores": FLOAT}, features=FEATURES
    )
    check(path, tmp_path / "out", requests(rng))


@pytest.mark.parametrize("aggregate", ["SUM", "AVERAGE", "MIN", "MAX"])
@pytest.mark.parametrize(("targets", "each", "base"), [(1, 1, ()), (1, 1, (0.5,)), (3, 3, ()),
                                                       (3, 3, (0.1, 0.2, -3.0))])  # fmt: skip
def test_every_aggregate(aggregate, targets, each, base, tmp_path):
    rng = np.random.default_rng(2)
    trees = random_trees(
        rng, trees=6, depth=4, features=FEATURES, targets=targets, modes=["BRANCH_LT"], each=each
    )
    node = trees.regressor(targets, aggregate_function=aggregate, base_values=base)
    path = write_onnx(tmp_path / "in.onnx", [node], {"scores": FLOAT}, features=FEATURES)
    check(path, tmp_path / "out", requests(rng))


def test_leaves_with_scores_for_some_targets(tmp_path):
    """One score in some leaves, several in others, none in one."""
    trees = Trees()
    trees.add(
        {0: (0, 0.5, "BRANCH_LEQ", 1, 2, 0), 1: (1, -0.25, "BRANCH_LEQ", 3, 4, 0)},
        [(2, 1, 0.5), (3, 0, 1.5), (3, 2, -2.0), (4, 2, 0.25), (4, 1, 0.125), (4, 0, 8.0)],
    )
    trees.add({}, [(0, 1, 16.0)])
    path = write_onnx(
        tmp_path / "in.onnx", [trees.regressor(3)], {"scores": FLOAT}, features=FEATURES
    )
    check(path, tmp_path / "out", requests(np.random.default_rng(3)))


@pytest.mark.parametrize("transform", ["NONE", "LOGISTIC", "SOFTMAX"])
@pytest.mark.parametrize("positive", [False, True])
@pytest.mark.parametrize(
    ("classes", "targets", "each", "base"),
    [
        (2, 1, 1, ()),
        (2, 1, 1, (0.25,)),
        (2, 2, 2, ()),
        (4, 4, 4, ()),
        (4, 4, 1, (1.0, 2.0, 3.0, 4.0)),
    ],
)
def test_classifiers(transform, positive, classes, targets, each, base, tmp_path):
    """Two classes of which one has scores, or both, and more classes; all transformations."""
    rng = np.random.default_rng(4)
    trees = random_trees(rng, trees=5, depth=3, features=FEATURES, targets=targets,
                         modes=["BRANCH_LEQ"], each=each)  # fmt: skip
    if positive:
        trees.scores = [(*place, abs(weight)) for *place, weight in trees.scores]
    node = trees.classifier(
        list(range(10, 10 + classes)), post_transform=transform, base_values=base
    )
    path = write_onnx(
        tmp_path / "in.onnx",
        [node],
        {"label": TensorProto.INT64, "scores": FLOAT},
        features=FEATURES,
    )
    check(path, tmp_path / "out", requests(rng))
    assert ondevice.load(tmp_path / "out" / "model.odm").outputs == ("scores",)


def test_one_score_for_the_second_class(tmp_path):
    """Where the scores name the second of two classes, the first one's is zero."""
    trees = random_trees(np.random.default_rng(5), trees=3, depth=2, features=FEATURES, targets=1,
                         modes=["BRANCH_LEQ"])  # fmt: skip
    trees.scores = [(tree, node, 1, weight) for tree, node, _, weight in trees.scores]
    node = trees.classifier([0, 1], post_transform="SOFTMAX")
    path = write_onnx(tmp_path / "in.onnx", [node], {"scores": FLOAT}, features=FEATURES)
    check(path, tmp_path / "out", requests(np.random.default_rng(5)))


@pytest.mark.parametrize(("targets", "base"), [(1, (0.25,)), (3, ())])
def test_a_label_that_is_the_only_output(targets, base, tmp_path):
    """It stays: the label of the greatest score."""
    rng = np.random.default_rng(6)
    trees = random_trees(rng, trees=4, depth=3, features=FEATURES, targets=targets,
                         modes=["BRANCH_LEQ"], each=targets)  # fmt: skip
    node = trees.classifier([7, 3, 9][: max(targets, 2)], base_values=base)
    path = write_onnx(tmp_path / "in.onnx", [node], {"label": TensorProto.INT64}, features=FEATURES)
    check(path, tmp_path / "out", requests(rng), name="label")


def test_float64_thresholds(tmp_path):
    """They lie between float32 numbers: features on both sides, and equal to no threshold."""
    rng = np.random.default_rng(7)
    values = np.float32(rng.normal(size=6)).astype(np.float64)
    values[1::2] += 1e-12  # between two float32 numbers
    for mode, missing in itertools.product(COMPARISONS, (0, 1)):
        trees = Trees()
        for number, value in enumerate(values):
            branch = (number % FEATURES, value, mode, 1, 2, missing)
            trees.add({0: branch}, [(1, 0, 2.0**number), (2, 0, -(2.0**number))])
        attributes = trees.attributes("target")
        for name in ("nodes_values", "target_weights"):
            array = np.array(attributes.pop(name), np.float64)
            attributes[f"{name}_as_tensor"] = onnx.numpy_helper.from_array(array)
        node = helper.make_node(
            "TreeEnsembleRegressor", ["x"], ["scores"], domain=ML, n_targets=1, **attributes
        )
        path = write_onnx(
            tmp_path / "in.onnx",
            [node],
            {"scores": FLOAT},
            features=FEATURES,
            inputs=[("x", TensorProto.DOUBLE, [None, FEATURES])],
        )
        x = values.astype(np.float32).reshape(2, FEATURES)
        x = np.concatenate([x, np.nextafter(x, np.float32(9)), np.nextafter(x, np.float32(-9))])
        x = np.concatenate([x, np.full((1, FEATURES), np.nan, np.float32)])
        convert(path, None, tmp_path / "out")
        right = reference(path, x.astype(np.float64))
        for target in TARGETS:
            got = ondevice.load(tmp_path / "out" / f"model.{target}").predict({"x": x})
            np.testing.assert_array_equal(got, right, err_msg=f"{target} {mode} {missing}")


def test_infinite_and_missing_thresholds(tmp_path):
    trees = Trees()
    values = (np.inf, -np.inf, np.nan, 0.0, -0.0)
    for number, test in enumerate(itertools.product(values, COMPARISONS, (0, 1))):
        value, mode, missing = test
        scores = [(1, number % 8, 1.0), (2, number % 8, -3.0)]
        trees.add({0: (0, value, mode, 1, 2, missing)}, scores)
    path = write_onnx(
        tmp_path / "in.onnx", [trees.regressor(8)], {"scores": FLOAT}, features=FEATURES
    )
    x = np.float32([0.0, -0.0, 1e-45, -1e-45, 3, -3, np.inf, -np.inf, np.nan])
    check(path, tmp_path / "out", np.stack([x] * FEATURES, 1))


def version_5(tmp_path, **changed):
    """A TreeEnsemble of two trees, three branches, five leaves."""
    attributes = {
        "tree_roots": [0, 2],
        "nodes_featureids": [0, 1, 2],
        "nodes_splits": onnx.numpy_helper.from_array(np.float32([0.5, -0.25, 1.0])),
        "nodes_modes": onnx.numpy_helper.from_array(np.uint8([0, 3, 1])),
        "nodes_truenodeids": [1, 0, 3],
        "nodes_trueleafs": [0, 1, 1],
        "nodes_falsenodeids": [2, 1, 4],
        "nodes_falseleafs": [1, 1, 1],
        "nodes_missing_value_tracks_true": [1, 0, 1],
        "leaf_targetids": [0, 1, 0, 1, 0],
        "leaf_weights": onnx.numpy_helper.from_array(np.float32([1, 2, 4, 8, 16])),
        "n_targets": 2,
        **changed,
    }
    node = helper.make_node("TreeEnsemble", ["x"], ["scores"], domain=ML, **attributes)
    return write_onnx(
        tmp_path / "in.onnx", [node], {"scores": FLOAT}, features=FEATURES, opset=21, ml=5
    )


def test_the_operator_of_version_5(tmp_path):
    path = version_5(tmp_path)
    check(path, tmp_path / "out", requests(np.random.default_rng(8)))


def test_refused_forms_are_named(tmp_path):
    trees = random_trees(np.random.default_rng(9), trees=2, depth=2, features=FEATURES, targets=2,
                         modes=["BRANCH_LEQ"], each=2)  # fmt: skip
    sparse = random_trees(np.random.default_rng(9), trees=2, depth=2, features=FEATURES, targets=2,
                          modes=["BRANCH_LEQ"], each=1)  # fmt: skip
    single = random_trees(np.random.default_rng(9), trees=2, depth=2, features=FEATURES, targets=1,
                          modes=["BRANCH_LEQ"])  # fmt: skip
    for node, expected in (
        (trees.regressor(2, post_transform="PROBIT"), "expected post_transform NONE.*got PROBIT"),
        (trees.classifier([0, 1], post_transform="SOFTMAX_ZERO"), "got SOFTMAX_ZERO"),
        (trees.classifier([0, 1], base_values=[1.0, 2.0]), "2 base values"),
        (single.classifier([0, 1], base_values=[1.0, 2.0]), "2 base values for one score"),
        (sparse.regressor(2, aggregate_function="MIN"), "every leaf has a score for each target"),
    ):
        path = write_onnx(tmp_path / "in.onnx", [node], {"scores": FLOAT}, features=FEATURES)
        with pytest.raises(UnsupportedError, match=expected):
            convert(path, None, tmp_path / "out")
    member = version_5(
        tmp_path,
        nodes_modes=onnx.numpy_helper.from_array(np.uint8([6, 3, 1])),
        membership_values=onnx.numpy_helper.from_array(np.float32([1, 2, np.nan])),
    )
    with pytest.raises(UnsupportedError, match="BRANCH_MEMBER"):
        convert(member, None, tmp_path / "out")
    numbered = version_5(tmp_path, post_transform=1)
    with pytest.raises(UnsupportedError, match="number it differently"):
        convert(numbered, None, tmp_path / "out")


def nodes_of(mode, true, false, roots=(0,), value=0.5):
    """Nodes of one feature, and a score of 1 at every leaf."""
    mode = np.array(mode)
    leaves = np.flatnonzero(mode == len(COMPARISONS))
    return TreeNodes(
        mode=mode,
        feature=np.zeros(len(mode), np.int64),
        value=np.full(len(mode), value, np.float32),
        true=np.array(true),
        false=np.array(false),
        missing=np.zeros(len(mode), bool),
        roots=np.array(roots),
        leaf=leaves,
        target=np.zeros(len(leaves), np.int64),
        weight=np.ones(len(leaves), np.float32),
        targets=1,
    )


def chain(depth):
    """Branches whose true child is the next branch; the last leaf is every false child."""
    leaf = len(COMPARISONS)
    return nodes_of([0] * depth + [leaf], [*range(1, depth + 1), 0], [depth] * depth + [0])


def test_limits_of_depth_and_nodes():
    assert stored_trees(chain(MAX_TREE_DEPTH), "SUM").depth == MAX_TREE_DEPTH
    with pytest.raises(UnsupportedError, match=f"more than {MAX_TREE_DEPTH} branches"):
        stored_trees(chain(MAX_TREE_DEPTH + 1), "SUM")
    with pytest.raises(UnsupportedError, match=f"more than {MAX_TREE_DEPTH} branches"):
        stored_trees(nodes_of([0, len(COMPARISONS)], [0, 0], [1, 0]), "SUM")  # a circle
    depth = MAX_TREE_NODES.bit_length()  # both children of a branch are the next: 2^depth leaves
    double = nodes_of(
        [0] * depth + [len(COMPARISONS)], [*range(1, depth + 1), 0], [*range(1, depth + 1), 0]
    )
    with pytest.raises(UnsupportedError, match=f"more than {MAX_TREE_NODES} nodes"):
        stored_trees(double, "SUM")


def test_contradicting_attributes(tmp_path):
    """ONNX Runtime opens some of these files; none is converted."""
    good = {"nodes_featureids": [0, 0, 0], "nodes_truenodeids": [1, 0, 0],
            "nodes_falsenodeids": [2, 0, 0], "nodes_modes": ["BRANCH_LEQ", "LEAF", "LEAF"],
            "nodes_nodeids": [0, 1, 2], "target_ids": [0, 0], "target_weights": [1.0, 2.0],
            "target_nodeids": [1, 2]}  # fmt: skip
    for name, value in (
        ("nodes_featureids", [0, 0]),
        ("nodes_featureids", [-1, 0, 0]),
        ("nodes_truenodeids", [9, 0, 0]),
        ("nodes_falsenodeids", [1, 0, 0]),
        ("nodes_nodeids", [0, 1, 1]),
        ("target_ids", [0, 1]),
        ("target_ids", [0, -1]),
        ("target_weights", [1.0]),
        ("target_weights", [1.0, float("nan")]),
        ("target_nodeids", [1, 7]),
        ("target_nodeids", [1, 0]),
    ):
        trees = Trees()
        trees.add({0: (0, 0.5, "BRANCH_LEQ", 1, 2, 0)}, [(1, 0, 1.0), (2, 0, 2.0)])
        attributes = {**trees.attributes("target"), "n_targets": 1, **good, name: value}
        node = helper.make_node("TreeEnsembleRegressor", ["x"], ["scores"], domain=ML, **attributes)
        path = write_onnx(tmp_path / "in.onnx", [node], {"scores": FLOAT}, features=FEATURES)
        with pytest.raises((FileFormatError, UnsupportedError)):
            convert(path, None, tmp_path / "out")


@pytest.mark.parametrize("case", ["plain", "cast", "vectors", "other features", "an average"])
def test_ensembles_side_by_side(case, tmp_path):
    """They become a single one where each leaf has a score; else they stay as they are."""
    rng = np.random.default_rng(10)
    nodes, parts = [], []
    for number, targets in enumerate((1, 3, 2)):
        each = 2 if case == "vectors" and number else 1
        size = {"trees": 2 + number, "depth": 3, "features": FEATURES, "targets": targets}
        trees = random_trees(rng, **size, modes=COMPARISONS, each=each)
        aggregate = "AVERAGE" if case == "an average" and number == 1 else "SUM"
        node = trees.regressor(targets, aggregate_function=aggregate)
        node.output[0] = f"part.{number}"
        if case == "other features" and number == 2:
            node.input[0] = "turned"
            nodes.append(helper.make_node("Neg", ["x"], ["turned"]))
        nodes.append(node)
        parts.append(node.output[0])
        if case == "cast":
            parts[-1] = f"cast.{number}"
            nodes.append(
                helper.make_node("Cast", [node.output[0]], [parts[-1]], to=TensorProto.INT64)
            )
    nodes.append(helper.make_node("Concat", parts, ["scores"], axis=-1 if case == "plain" else 1))
    kind = TensorProto.INT64 if case == "cast" else FLOAT
    path = write_onnx(tmp_path / "in.onnx", nodes, {"scores": kind}, features=FEATURES)
    check(path, tmp_path / "out", requests(rng))
    plan = ondevice.odm.open_odm(tmp_path / "out" / "model.odm").plan
    count = [node.op for node in plan.nodes].count("TreeEnsemble")
    assert count == (1 if case in ("plain", "cast") else 3)
