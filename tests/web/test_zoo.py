"""Networks of the zoo in WebAssembly: the scores that numpy computes from the same files."""

import numpy as np
from support import web
from support.tools import needs
from zoo import (
    field_networks,
    gated_networks,
    matrix_networks,
    next_item_networks,
    sequence_networks,
    tabular_networks,
)
from zoo.comparison import convert_to, train

import ondevice

pytestmark = needs(web.NODE_LACKING, web.CLANG_LACKING)
ROWS = 67  # more than the engine takes at once
NETWORKS = (
    matrix_networks.AutoInt,
    field_networks.MMoE,  # several outputs
    sequence_networks.DIEN,  # a recurrence
    sequence_networks.BST,
    next_item_networks.NextItNet,  # convolutions
    gated_networks.MaskNet,
    tabular_networks.DLRM,  # numbers
)


def nested(array):
    """An array as lists; integers as texts, which the task reads as BigInts."""
    return (array.astype(str) if array.dtype.kind == "i" else array.astype(float)).tolist()


def test_networks_score_as_numpy_does(tmp_path):
    """Every other one with q4 tables; both builds of the engine."""
    web.builder().build(tmp_path / "dist")
    tasks, expected = [], []
    for number, network in enumerate(NETWORKS):
        trained = train(network, rows=256, epochs=1)
        folder = tmp_path / network.__name__
        convert_to(trained, folder, ("f32", "q4")[number % 2], targets=["odm"])
        values = trained.values(0, ROWS)
        model = ondevice.load(folder / "model.odm", engine="numpy")
        right = model.predict(values)
        expected.append(right if isinstance(right, dict) else {model.outputs[0]: right})
        request = {"inputs": {name: nested(array) for name, array in values.items()}}
        tasks.append({"do": "answers", "model": str(folder / "model.odm"), "requests": [request]})
    tasks += [{**task, "wasm": str(tmp_path / "dist" / "ondevice-plain.wasm")} for task in tasks]
    answers = web.in_node(tmp_path / "dist", tasks)
    for network, right, (answer,) in zip(NETWORKS * 2, expected * 2, answers, strict=True):
        got = answer if isinstance(answer, dict) else {next(iter(right)): answer}
        assert set(got) == set(right)
        for name, scores in right.items():
            np.testing.assert_allclose(
                np.array(got[name]), scores.ravel(), rtol=0, atol=1e-5, err_msg=network.__name__
            )
