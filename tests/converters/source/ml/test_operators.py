"""The other operators of ai.onnx.ml in all targets, against ONNX Runtime on the given file."""

import numpy as np
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper
from support.trees import ML, write_onnx

import ondevice
from ondevice.converters import convert
from ondevice.errors import UnsupportedError

TARGETS = ("odm", "onnx", "tflite")
FLOAT, INT = TensorProto.FLOAT, TensorProto.INT64
X = np.random.default_rng(0).normal(size=(40, 3)).astype(np.float32)
X[3] = 0
X[4] = -np.abs(X[4])


def node(kind, inputs, outputs, **attributes):
    return helper.make_node(kind, inputs.split(), outputs.split(), domain=ML, **attributes)


def check(path, folder, x=X, given=None):
    """Convert an .onnx file, and compare every target and engine with ONNX Runtime."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    right = ort.InferenceSession(str(path), options).run(["y"], given or {"x": x})[0]
    convert(path, None, folder)
    models = [ondevice.load(folder / f"model.{target}") for target in TARGETS]
    for model in (*models, ondevice.load(folder / "model.odm", engine="numpy")):
        got = model.predict({"x": x} if given is None else given)
        np.testing.assert_allclose(got, right, atol=1e-6, rtol=1e-6)


LINEAR = {"coefficients": [1.0, -0.5, 2.0], "intercepts": [0.25]}
CASES = {
    "Scaler": {"offset": [0.5, -1.0, 0.0], "scale": [2.0, 0.25, -1.0]},
    "Scaler of one number": {"offset": [0.5], "scale": [3.0]},
    "Normalizer MAX": {"norm": "MAX"},
    "Normalizer L1": {"norm": "L1"},
    "Normalizer L2": {"norm": "L2"},
    "Binarizer": {"threshold": 0.25},
    "Imputer of a number": {"imputed_value_floats": [7.0, 8.0, 9.0], "replaced_value_float": 0.0},
    "LinearRegressor": {**LINEAR, "targets": 1},
    "LinearRegressor of one target": {**LINEAR, "targets": 1, "post_transform": "LOGISTIC"},
    "LinearRegressor of three": {"coefficients": X[:3].ravel().tolist(), "targets": 3,
                                 "post_transform": "SOFTMAX"},
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_operators_of_one_matrix(case, tmp_path):
    nodes = [node(case.split()[0], "x", "y", **CASES[case])]
    check(write_onnx(tmp_path / "in.onnx", nodes, {"y": FLOAT}, features=3), tmp_path / "out")


def test_missing_values_that_are_replaced(tmp_path):
    x = X.copy()
    x[::3, 1] = np.nan
    nodes = [node("Imputer", "x", "y", imputed_value_floats=[5.0], replaced_value_float=np.nan)]
    check(write_onnx(tmp_path / "in.onnx", nodes, {"y": FLOAT}, features=3), tmp_path / "out", x)


@pytest.mark.parametrize("p", [1, 2])
def test_the_norm_of_standard_onnx(p, tmp_path):
    """LpNormalization, which scikit-learn's classifiers of one class against the others have."""
    nodes = [helper.make_node("LpNormalization", ["x"], ["y"], p=p, axis=1)]
    check(write_onnx(tmp_path / "in.onnx", nodes, {"y": FLOAT}, features=3), tmp_path / "out")


@pytest.mark.parametrize("transform", ["NONE", "LOGISTIC", "SOFTMAX"])
@pytest.mark.parametrize("classes", [1, 2, 3])
def test_linear_classifiers(transform, classes, tmp_path):
    """Two classes with one row of weights, with two rows, and three classes."""
    weights = X[: 3 * classes].ravel()[: 3 * classes].tolist()
    labels = list(range(max(classes, 2)))
    attributes = {"coefficients": weights, "intercepts": [0.5, -0.25, 0.0][:classes],
                  "classlabels_ints": labels, "post_transform": transform}  # fmt: skip
    nodes = [node("LinearClassifier", "x", "label y", **attributes)]
    path = write_onnx(tmp_path / "in.onnx", nodes, {"label": INT, "y": FLOAT}, features=3)
    check(path, tmp_path / "out")
    label = [node("LinearClassifier", "x", "y scores", **attributes)]
    check(write_onnx(tmp_path / "in.onnx", label, {"y": INT}, features=3), tmp_path / "label")


def test_columns_joined_chosen_and_one_hot(tmp_path):
    """IDs int64 in a column of their own, as one-hot vectors beside scaled numbers."""
    places = numpy_helper.from_array(np.array([2, 0], np.int64), "places")
    shape = numpy_helper.from_array(np.array([0, 4], np.int64), "shape")
    nodes = [
        node("ArrayFeatureExtractor", "x places", "chosen"),
        node("Scaler", "chosen", "scaled", offset=[0.0, 1.0], scale=[1.0, 2.0]),
        node("OneHotEncoder", "id", "vectors", cats_int64s=[1, 5, 7, 9], zeros=1),
        helper.make_node("Reshape", ["vectors", "shape"], ["flat"]),
        node("FeatureVectorizer", "scaled flat", "joined", inputdimensions=[2, 4]),
        node("LinearRegressor", "joined", "y", targets=1, coefficients=[1.0, 2, 3, 4, 5, 6]),
    ]
    inputs = [("x", FLOAT, [None, 3]), ("id", INT, [None, 1])]
    path = write_onnx(tmp_path / "in.onnx", nodes, {"y": FLOAT}, features=3, inputs=inputs,
                      initializers=[places, shape])  # fmt: skip
    ids = np.random.default_rng(1).integers(0, 11, (40, 1))
    check(path, tmp_path / "out", given={"x": X, "id": ids})


def test_operators_that_do_not_convert_are_listed(tmp_path):
    nodes = [
        node("LabelEncoder", "x", "a", keys_floats=[1.0], values_floats=[2.0]),
        node("SVMRegressor", "a", "y", coefficients=[1.0, 2.0, 3.0], rho=[0.0], n_supports=0,
             kernel_type="LINEAR", kernel_params=[1.0, 0.0, 3.0]),
    ]  # fmt: skip
    path = write_onnx(tmp_path / "in.onnx", nodes, {"y": FLOAT}, features=3)
    with pytest.raises(UnsupportedError, match="LabelEncoder, SVMRegressor; those that convert"):
        convert(path, None, tmp_path / "out")


def test_texts_are_refused_with_their_operator(tmp_path):
    nodes = [node("OneHotEncoder", "x", "y", cats_strings=["a", "b"], zeros=1)]
    inputs = [("x", TensorProto.STRING, [None, 1])]
    path = write_onnx(tmp_path / "in.onnx", nodes, {"y": FLOAT}, features=1, inputs=inputs)
    with pytest.raises(UnsupportedError, match="'x' is a tensor of strings"):
        convert(path, None, tmp_path / "out")
