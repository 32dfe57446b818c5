"""Verification of tree ensembles: its requests lie on thresholds, and find wrong comparisons."""

import sys

import numpy as np
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper
from support.trees import ML, random_trees, write_onnx

import ondevice
from ondevice.converters.source.onnx_source import OnnxSource
from ondevice.converters.tables.pack import pack, pack_tables
from ondevice.converters.verify.requests import domain_of, requests_of
from ondevice.errors import ParityError
from ondevice.trees import (
    BRANCH,
    EQUAL,
    LESS,
    UNORDERED,
    index_of,
    kind_of,
    links,
    outcomes_of,
    place_of,
    tree_ensemble,
)

# `ondevice.converters.convert` is also the name of the function
conversion = sys.modules["ondevice.converters.convert"]

FLOAT = TensorProto.FLOAT
FEATURES = 3
EXAMPLES = {"x": np.random.default_rng(9).normal(size=(50, FEATURES)).astype(np.float32)}


def tree_file(path, missing=(0, 1), trees=3):
    ensemble = random_trees(
        np.random.default_rng(0),
        trees=trees,
        depth=3,
        features=FEATURES,
        targets=1,
        modes=["BRANCH_LEQ"],
        missing=missing,
        grid=1000,
    )
    return write_onnx(path, [ensemble.regressor()], {"scores": FLOAT}, features=FEATURES), ensemble


def requests_for(path, examples, rows):
    source = OnnxSource(path, examples)
    captured = source.capture()
    packed = pack(captured, pack_tables(captured, "f32"))
    return requests_of(source, domain_of(packed, source), rows).answered


def test_requests_lie_on_thresholds_and_next_to_them(tmp_path):
    path, ensemble = tree_file(tmp_path / "in.onnx")
    x = requests_for(path, EXAMPLES, 1024)["x"]
    assert np.isnan(x).any(0).all()
    nodes = ensemble.nodes
    for feature in range(FEATURES):
        limits = {
            np.float32(value)
            for value, at, mode in zip(
                nodes["values"], nodes["featureids"], nodes["modes"], strict=True
            )
            if at == feature and mode != "LEAF"
        }
        assert limits
        for limit in limits:
            for number in (limit, np.nextafter(limit, np.inf), np.nextafter(limit, -np.inf)):
                assert (x[:, feature] == np.float32(number)).any()


def test_integers_lie_on_both_sides_of_thresholds(tmp_path):
    """IDs int64 that are cast for a tree: the integers around each threshold."""
    ensemble = random_trees(np.random.default_rng(1), trees=4, depth=2, features=1, targets=1,
                            modes=["BRANCH_LEQ"], grid=2)  # fmt: skip
    node = ensemble.regressor()
    node.input[0] = "numbers"
    path = write_onnx(
        tmp_path / "in.onnx",
        [helper.make_node("Cast", ["x"], ["numbers"], to=FLOAT), node],
        {"scores": FLOAT},
        features=1,
        inputs=[("x", TensorProto.INT64, [None, 1])],
    )
    x = requests_for(path, {"x": np.zeros((4, 1), np.int64)}, 256)["x"]
    for value, mode in zip(ensemble.nodes["values"], ensemble.nodes["modes"], strict=True):
        if mode != "LEAF":
            assert {int(np.floor(value)), int(np.floor(value)) + 1} <= set(x[:, 0].tolist())


def with_fault(monkeypatch, fault):
    """Let every target write another ensemble: fault(thresholds, links) changes both arrays."""
    plain = conversion.TargetModels.of

    def faulty(models, target):
        packed = plain(models, target).cloned()
        (node,) = [node for node in packed.model.graph if node.op_type == "TreeEnsemble"]
        arrays = [np.array(value.const_value.numpy()) for value in node.inputs[1:3]]
        fault(*arrays)
        for value, array in zip(node.inputs[1:3], arrays, strict=True):
            value.const_value = ir.tensor(array, name=value.name)
        return packed

    monkeypatch.setattr(conversion.TargetModels, "of", faulty)


def changed(at, nodes, *, outcomes=None):
    """The link of a branch with other outcomes."""
    link = nodes[at]
    nodes[at] = links(BRANCH, place_of(link), index_of(link), outcomes(outcomes_of(link)))


@pytest.mark.parametrize("target", ["odm", "onnx", "tflite"])
def test_less_in_the_place_of_less_or_equal(target, tmp_path, monkeypatch):
    path, _ = tree_file(tmp_path / "in.onnx", missing=(0,))

    def strict(thresholds, nodes):
        for at in np.flatnonzero(kind_of(nodes) == BRANCH):
            changed(at, nodes, outcomes=lambda outcomes: outcomes & ~EQUAL)

    with_fault(monkeypatch, strict)
    with pytest.raises(ParityError):
        conversion.convert(path, EXAMPLES, tmp_path / "out", targets=[target])


FAULTS = {
    "less": lambda t, n, at: changed(at, n, outcomes=lambda outcomes: outcomes & ~EQUAL),
    "missing": lambda t, n, at: changed(at, n, outcomes=lambda outcomes: outcomes ^ UNORDERED),
    "a threshold above": lambda t, n, at: t.__setitem__(at, np.nextafter(t[at], np.float32(9))),
    "a threshold below": lambda t, n, at: t.__setitem__(at, np.nextafter(t[at], np.float32(-9))),
    "never": lambda t, n, at: changed(at, n, outcomes=lambda outcomes: outcomes & ~(LESS | EQUAL)),
}


def everywhere(thresholds, nodes):
    """Rows of every outcome of all tests: thresholds, the numbers next to them, and NaN."""
    branch = kind_of(nodes) == BRANCH
    columns = []
    for feature in range(FEATURES):
        at = thresholds[branch & (index_of(nodes) == feature)]
        near = [np.nextafter(at, np.float32(9)), np.nextafter(at, np.float32(-9))]
        columns.append(np.unique(np.concatenate([at, *near, [np.float32(np.nan)]])))
    grid = np.meshgrid(*columns, indexing="ij")
    return np.stack([axis.ravel() for axis in grid], 1).astype(np.float32)


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_of_a_single_node(fault, tmp_path, monkeypatch):
    """At every root and every child of a root; a fault that changes no row's scores is left out."""
    path, _ = tree_file(tmp_path / "in.onnx")
    conversion.convert(path, EXAMPLES, tmp_path / "plain", targets=["odm"])
    file = ondevice.odm.open_odm(tmp_path / "plain" / "model.odm")
    (node,) = [node for node in file.plan.nodes if node.op == "TreeEnsemble"]
    thresholds, nodes, roots, vectors = (file.weights[name] for name in node.inputs[1:])
    x = everywhere(thresholds, nodes)
    right = tree_ensemble([x, thresholds, nodes, roots, vectors], node.attributes)
    near = [int(at) for root in roots for at in (root, root + 1, root + 2)]
    tried = 0
    for at in near:
        arrays = [thresholds.copy(), nodes.copy()]
        if kind_of(nodes)[at] == BRANCH:
            FAULTS[fault](*arrays, at)
        scores = tree_ensemble([x, *arrays, roots, vectors], node.attributes)
        if np.abs(scores - right).max() < 1e-3:
            continue
        tried += 1
        with monkeypatch.context() as patch:
            with_fault(patch, lambda t, n, at=at: FAULTS[fault](t, n, at))
            with pytest.raises(ParityError):
                conversion.convert(path, EXAMPLES, tmp_path / "out", targets=["odm"])
    assert tried >= 5


def test_features_that_are_computed(tmp_path):
    """Nothing is known of numbers that reach a computed feature's thresholds: it converts."""
    _, ensemble = tree_file(tmp_path / "in.onnx")
    scaler = helper.make_node(
        "Scaler", ["x"], ["scaled"], domain=ML, offset=[0.5] * FEATURES, scale=[2.0] * FEATURES
    )
    node = ensemble.regressor()
    node.input[0] = "scaled"
    path = write_onnx(
        tmp_path / "scaled.onnx", [scaler, node], {"scores": FLOAT}, features=FEATURES
    )
    conversion.convert(path, EXAMPLES, tmp_path / "out")
