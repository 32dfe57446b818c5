"""Tree models as .onnx files: a writer of ai.onnx.ml nodes, and scikit-learn's trees."""

from dataclasses import dataclass, field

import numpy as np
import onnx
from onnx import TensorProto, helper

ML = "ai.onnx.ml"
NODE_LISTS = ("treeids", "nodeids", "featureids", "values", "modes", "truenodeids", "falsenodeids",
              "missing_value_tracks_true")  # fmt: skip


@dataclass
class Trees:
    """The attributes of a TreeEnsembleClassifier or TreeEnsembleRegressor, node by node."""

    nodes: dict = field(default_factory=lambda: {name: [] for name in NODE_LISTS})
    scores: list = field(default_factory=list)  # tree, node, target, weight
    trees: int = 0

    def add(self, branches, scores):
        """A tree.

        Args:
            branches: by node number: feature, value, mode, true node, false node, missing.
            scores: node, target, weight; nodes without a branch are leaves.
        """
        leaves = {node for node, *_ in scores} - set(branches)
        for number in sorted({*branches, *leaves}):
            feature, value, mode, true, false, missing = branches.get(
                number, (0, 0.0, "LEAF", 0, 0, 0)
            )
            values = (self.trees, number, feature, value, mode, true, false, missing)
            for name, item in zip(NODE_LISTS, values, strict=True):
                self.nodes[name].append(item)
        self.scores += [(self.trees, *score) for score in scores]
        self.trees += 1

    def attributes(self, kind):
        """The attributes, "target" or "class" being the kind of scores; modes stay texts."""
        named = {f"nodes_{name}": list(items) for name, items in self.nodes.items()}
        columns = zip(*self.scores, strict=True)
        for name, items in zip(("treeids", "nodeids", "ids", "weights"), columns, strict=True):
            named[f"{kind}_{name}"] = list(items)
        return named

    def regressor(self, targets=1, **attributes):
        """A TreeEnsembleRegressor of x and scores."""
        given = {**self.attributes("target"), "n_targets": targets, **_stated(attributes)}
        return helper.make_node("TreeEnsembleRegressor", ["x"], ["scores"], domain=ML, **given)

    def classifier(self, labels, **attributes):
        """A TreeEnsembleClassifier of x, label and scores."""
        kind = "strings" if isinstance(labels[0], str) else "int64s"
        given = {**self.attributes("class"), f"classlabels_{kind}": labels, **_stated(attributes)}
        return helper.make_node(
            "TreeEnsembleClassifier", ["x"], ["label", "scores"], domain=ML, **given
        )


def _stated(attributes):
    """Attributes without empty lists, which have no type."""
    return {name: value for name, value in attributes.items() if value != ()}


def random_trees(rng, *, trees, depth, features, targets, modes, missing=(0, 1), grid=8, each=1):
    """Random trees whose thresholds are multiples of 1 / grid, with `each` scores a leaf."""
    ensemble = Trees()
    for _ in range(trees):
        branches, scores, waiting, count = {}, [], [(0, 0)], 1
        while waiting:
            number, level = waiting.pop()
            if level < depth and (level == 0 or rng.random() < 0.8):
                value = float(np.float32(rng.integers(-2 * grid, 2 * grid) / grid))
                test = (int(rng.integers(features)), value, str(rng.choice(modes)))
                branches[number] = (*test, count, count + 1, int(rng.choice(missing)))
                waiting += [(count, level + 1), (count + 1, level + 1)]
                count += 2
                continue
            chosen = rng.permutation(targets)[:each]
            scores += [(number, int(i), float(np.float32(rng.normal()))) for i in chosen]
        ensemble.add(branches, scores)
    return ensemble


def sklearn_trees(estimators, weights):
    """Fitted trees of scikit-learn.

    Args:
        estimators: (tree, target) pairs; target None: a vector of scores at every leaf.
        weights: the scores of a leaf, from its node's values.
    """
    ensemble = Trees()
    for estimator, target in estimators:
        tree, branches, scores = estimator.tree_, {}, []
        for i in range(tree.node_count):
            if tree.children_left[i] >= 0:
                # scikit-learn compares float32 features with float64 thresholds
                limit = np.float32(tree.threshold[i])
                if limit > tree.threshold[i]:
                    limit = np.nextafter(limit, np.float32(-np.inf))
                children = int(tree.children_left[i]), int(tree.children_right[i])
                branches[i] = (int(tree.feature[i]), float(limit), "BRANCH_LEQ", *children, 0)
                continue
            held = np.atleast_1d(weights(tree.value[i].reshape(-1)))
            places = range(len(held)) if target is None else [target]
            scores += [(i, place, float(score)) for place, score in zip(places, held, strict=True)]
        ensemble.add(branches, scores)
    return ensemble


def write_onnx(path, nodes, outputs, *, features, inputs=None, initializers=(), opset=18, ml=3):
    """An .onnx file of nodes that read x float32 [batch, features].

    Args:
        path: where to.
        nodes: the nodes.
        outputs: element type by name; "maps" for a list of maps.
        features: columns of x.
        inputs: other inputs in the place of x, (name, element type, shape).
        initializers: constant tensors.
        opset: of the standard operators.
        ml: of ai.onnx.ml.
    """
    given = inputs or [("x", TensorProto.FLOAT, [None, features])]
    results = [_output(name, kind) for name, kind in outputs.items()]
    graph = helper.make_graph(
        list(nodes),
        "trees",
        [helper.make_tensor_value_info(*item) for item in given],
        results,
        list(initializers),
    )
    opsets = [helper.make_opsetid("", opset), helper.make_opsetid(ML, ml)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=9), path)
    return path


def _output(name, kind):
    if kind != "maps":
        return helper.make_tensor_value_info(name, kind, None)
    keys = helper.make_map_type_proto(
        TensorProto.INT64, helper.make_tensor_type_proto(TensorProto.FLOAT, [])
    )
    return helper.make_value_info(name, helper.make_sequence_type_proto(keys))
