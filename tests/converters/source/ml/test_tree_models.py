"""Models as scikit-learn trains and exports them, in all targets, against ONNX Runtime."""

import numpy as np
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper
from sklearn.ensemble import GradientBoostingClassifier, RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.preprocessing import OneHotEncoder
from support.trees import ML, sklearn_trees, write_onnx

import ondevice
from ondevice.converters import convert
from ondevice.errors import UnsupportedError

TARGETS = ("odm", "onnx", "tflite")
FLOAT, INT, STRING = TensorProto.FLOAT, TensorProto.INT64, TensorProto.STRING
FEATURES = 5


def log(rows=1500, seed=0):
    """Features float32 [rows, 5], a click, and one of three classes."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(rows, FEATURES)).astype(np.float32)
    x[:, 4] = rng.integers(0, 6, rows)
    score = x[:, 0] + x[:, 1] * x[:, 2] + (x[:, 4] == 2) + rng.normal(size=rows) / 4
    return x, (score > 0).astype(int), np.digitize(score, [-0.5, 0.7])


def zipmap(source, target, **labels):
    return helper.make_node("ZipMap", [source], [target], domain=ML, **labels)


def boosting_onnx(path, model, labels):
    """Gradient boosting as skl2onnx writes it: labels, and a list of maps of probabilities."""
    stages = model.estimators_
    targets = stages.shape[1]
    pairs = [(tree, number) for stage in stages for number, tree in enumerate(stage)]
    trees = sklearn_trees(pairs, lambda values: values * model.learning_rate)
    prior = model.init_.class_prior_
    base = np.log(prior) if targets > 1 else np.log(prior[1:] / prior[:1])
    node = trees.classifier(
        labels,
        base_values=np.float32(base).tolist(),
        post_transform="SOFTMAX" if targets > 1 else "LOGISTIC",
    )
    kind = {"classlabels_int64s": labels} if isinstance(labels[0], int) else {
        "classlabels_strings": labels
    }  # fmt: skip
    nodes = [node, zipmap("scores", "probabilities", **kind)]
    outputs = {"label": INT if isinstance(labels[0], int) else STRING, "probabilities": "maps"}
    return write_onnx(path, nodes, outputs, features=FEATURES)


def answers(path, x):
    """Probabilities [rows, classes] of the original file, by their maps."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    maps = ort.InferenceSession(str(path), options).run(["probabilities"], {"x": x})[0]
    return np.array([list(item.values()) for item in maps], np.float32)


def check(folder, x, right, atol=1e-6):
    models = [ondevice.load(folder / f"model.{target}") for target in TARGETS]
    for model in (*models, ondevice.load(folder / "model.odm", engine="numpy")):
        np.testing.assert_allclose(model.predict({"x": x}), right, atol=atol)


@pytest.mark.parametrize("kind", ["clicks", "three classes"])
def test_gradient_boosting(kind, tmp_path):
    x, clicks, three = log()
    y = clicks if kind == "clicks" else three
    model = GradientBoostingClassifier(n_estimators=30, max_depth=4, random_state=0).fit(x, y)
    path = boosting_onnx(tmp_path / "in.onnx", model, sorted(int(i) for i in set(y)))
    report = convert(path, {"x": x[:100]}, tmp_path / "out")
    nodes = sum(tree.tree_.node_count for tree in model.estimators_.flat)
    leaves_of_all = sum(tree.get_n_leaves() for tree in model.estimators_.flat)
    classes = len(set(y))
    base = 1 if classes == 2 else classes
    # a node has six integers and a float, a leaf three and one
    assert report.weight_bytes == 52 * nodes + 28 * leaves_of_all + 4 * base + 8 * classes
    np.testing.assert_allclose(answers(path, x), model.predict_proba(x), atol=1e-5)
    check(tmp_path / "out", x, answers(path, x))


def test_labels_that_are_texts_are_left_out(tmp_path):
    x, clicks, _ = log()
    model = GradientBoostingClassifier(n_estimators=5, random_state=0).fit(x, clicks)
    path = boosting_onnx_of_texts(tmp_path / "in.onnx", model)
    with pytest.warns(UserWarning, match="in.onnx: 'label' is left out.* return 'scores'"):
        convert(path, None, tmp_path / "out")
    right = ort.InferenceSession(str(path)).run(["scores"], {"x": x})[0]
    check(tmp_path / "out", x, right)
    assert ondevice.load(tmp_path / "out" / "model.odm").outputs == ("scores",)


def boosting_onnx_of_texts(path, model):
    pairs = [(stage[0], 0) for stage in model.estimators_]
    trees = sklearn_trees(pairs, lambda values: values * model.learning_rate)
    node = trees.classifier(["none", "click"], post_transform="LOGISTIC")
    return write_onnx(path, [node], {"label": STRING, "scores": FLOAT}, features=FEATURES)


def test_only_labels_that_are_texts(tmp_path):
    x, clicks, _ = log(300)
    model = GradientBoostingClassifier(n_estimators=2, random_state=0).fit(x, clicks)
    pairs = [(stage[0], 0) for stage in model.estimators_]
    node = sklearn_trees(pairs, lambda values: values).classifier(["none", "click"])
    path = write_onnx(tmp_path / "in.onnx", [node], {"label": STRING}, features=FEATURES)
    with pytest.raises(UnsupportedError, match="'label' is a tensor of strings"):
        convert(path, None, tmp_path / "out")


def test_random_forest(tmp_path):
    """Leaves with a probability for each class; thresholds that rows lie on exactly."""
    x, _, three = log()
    model = RandomForestClassifier(n_estimators=20, random_state=0).fit(x, three)
    count = len(model.estimators_)
    trees = sklearn_trees(
        [(tree, None) for tree in model.estimators_], lambda v: v / v.sum() / count
    )
    path = write_onnx(
        tmp_path / "in.onnx",
        [
            trees.classifier([0, 1, 2]),
            zipmap("scores", "probabilities", classlabels_int64s=[0, 1, 2]),
        ],
        {"label": INT, "probabilities": "maps"},
        features=FEATURES,
    )
    convert(path, {"x": x[:100]}, tmp_path / "out")
    thresholds = model.estimators_[0].tree_.threshold.astype(np.float32)
    at = np.random.default_rng(1).choice(thresholds, (500, FEATURES))
    rows = np.concatenate([x, at, np.nextafter(at, np.float32(9))])
    check(tmp_path / "out", rows, answers(path, rows))


def leaf_onnx(path, boosting, weights, intercept):
    """Boosting in front of logistic regression, by hand: a leaf's number of every tree, and its
    weight in a table.

    Args:
        path: where to.
        boosting: fitted gradient boosting of two classes.
        weights: of every leaf of every tree, one after the other, as `leaves` numbers them.
        intercept: of the logistic regression.
    """
    nodes, names, offset = [], [], 0
    for number, (tree,) in enumerate(boosting.estimators_):
        leaf_numbers = iter(range(10**6))
        trees = sklearn_trees([(tree, 0)], lambda _, n=leaf_numbers: float(next(n)))
        node = trees.regressor()
        node.output[0] = f"leaf.{number}"
        names.append(f"leaf.{number}")
        nodes.append(node)
    starts = []
    for (tree,) in boosting.estimators_:
        starts.append(offset)
        offset += int(tree.get_n_leaves())
    nodes += [
        helper.make_node("Concat", names, ["leaves"], axis=1),
        helper.make_node("Cast", ["leaves"], ["numbers"], to=INT),
        helper.make_node("Add", ["numbers", "starts"], ["rows"]),
        helper.make_node("Gather", ["weights", "rows"], ["chosen"], axis=0),
        helper.make_node("ReduceSum", ["chosen", "axis"], ["sum"], keepdims=0),
        helper.make_node("Add", ["sum", "intercept"], ["logit"]),
        helper.make_node("Sigmoid", ["logit"], ["click"]),
    ]
    constants = {
        "starts": np.array(starts, np.int64),
        "weights": np.float32(weights)[:, None],
        "axis": np.array([1], np.int64),
        "intercept": np.float32([intercept]),
    }
    held = [numpy_helper.from_array(array, name) for name, array in constants.items()]
    return write_onnx(path, nodes, {"click": FLOAT}, features=FEATURES, initializers=held)


def leaves(boosting, x):
    """The number of every row's leaf among those of its tree, in the order of the tree's nodes."""
    columns = []
    for number, (tree,) in enumerate(boosting.estimators_):
        leaf = np.flatnonzero(tree.tree_.children_left < 0)
        columns.append(np.searchsorted(leaf, boosting.apply(x)[:, number, 0].astype(int)))
    return np.stack(columns, 1)


def test_boosting_in_front_of_logistic_regression(tmp_path):
    """The classic model of click-through rates: leaves of trees, one-hot, as features."""
    x, clicks, _ = log(3000)
    boosting = GradientBoostingClassifier(n_estimators=12, max_depth=4, random_state=0)
    boosting.fit(x[:1000], clicks[:1000])
    encoder = OneHotEncoder(
        categories=[list(range(tree.get_n_leaves())) for (tree,) in boosting.estimators_]
    )
    features = encoder.fit_transform(leaves(boosting, x))
    regression = LogisticRegression(max_iter=1000).fit(features[1000:2000], clicks[1000:2000])
    path = leaf_onnx(tmp_path / "in.onnx", boosting, regression.coef_[0], regression.intercept_[0])
    convert(path, {"x": x[:100]}, tmp_path / "out", tables="f32")
    expected = regression.predict_proba(features)[:, 1]
    right = ort.InferenceSession(str(path)).run(["click"], {"x": x})[0]
    np.testing.assert_allclose(right[:, 0], expected, atol=1e-5)
    check(tmp_path / "out", x, right)
    plan = ondevice.odm.open_odm(tmp_path / "out" / "model.odm").plan
    assert [node.op for node in plan.nodes].count("TreeEnsemble") == 1  # all trees step together
    got = ondevice.load(tmp_path / "out" / "model.odm").predict({"x": x[2000:]})[:, 0]
    assert roc_auc_score(clicks[2000:], got) > 0.85
