"""q8 layers that read one value quantise it once: scores stay those of numpy, bit by bit."""

import numpy as np
import pytest
from support.native import dense_node, random_table, write_model

from ondevice.engines.native import NativeEngine, is_compiled, kernels_available
from ondevice.engines.numpy import NumpyEngine
from ondevice.odm import open_odm
from ondevice.plan import Node
from ondevice.spec import full_spec

pytestmark = pytest.mark.skipif(not is_compiled(), reason="the native engine is not compiled")
KERNELS = kernels_available() if is_compiled() else ()


def layers(rng, source, features, sizes, weights):
    """q8 layers over one value: narrow ones, wide ones and one with a single output."""
    return [
        dense_node(f"{source}.{i}", source, rng.normal(size=(features, units)).astype(np.float32),
                   rng.normal(size=units).astype(np.float32), "q8", weights, relu=i == 1)
        for i, units in enumerate(sizes)
    ]  # fmt: skip


def model(path, steps, sizes):
    """Layers over a lookup's vectors, or its steps, with other work between them."""
    rng = np.random.default_rng(4)
    specs = {"u": full_spec(60, 21), "s": full_spec(60, 7, padding_id=0)}
    tables = {n: random_table(s, "q8", rng, truncated=True, axis="row") for n, s in specs.items()}
    weights = {}
    of_row = layers(rng, "u.vector", 21, sizes, weights)
    of_steps = layers(rng, "s.vector", 7, sizes, weights)
    nodes = []
    for first, second in zip(of_row, of_steps, strict=True):
        nodes += [
            first,
            Node("Sigmoid", (first.outputs[0],), (f"{first.outputs[0]}.on",), {}),
            second,
        ]
    joined = tuple(node.outputs[0] for node in of_row)  # some parts are computed in place
    nodes.append(Node("Concat", joined, ("all",), {"axis": 1}))
    outputs = ["all", *(f"{name}.on" for name in joined), *(node.outputs[0] for node in of_steps)]
    return write_model(path, specs, tables, nodes, weights, outputs, shapes={"s": ("batch", steps)})


@pytest.mark.parametrize("sizes", [(32, 32, 32, 32), (40, 1, 150, 3, 200)], ids=["alike", "mixed"])
@pytest.mark.parametrize("steps", [1, 5, 64])
def test_layers_of_one_value(tmp_path, steps, sizes):
    path = model(tmp_path / "m.odm", steps, sizes)
    rng = np.random.default_rng(5)
    reference = NumpyEngine(open_odm(path))
    engines = [NativeEngine(path, kernels=kernels) for kernels in KERNELS]
    for rows in (1, 2, 7, 40, 131):
        ids = {"u": rng.integers(0, 60, rows), "s": rng.integers(0, 60, (rows, steps))}
        ids["s"][: rows // 2] = 0  # rows of zeros, which lists skip
        compare(engines, lambda engine, ids=ids: engine.run(ids), reference.run(ids), sizes)
        context = {"s": ids["s"][:1]}
        repeated = {"u": ids["u"], "s": np.repeat(context["s"], rows, axis=0)}
        compare(engines, lambda engine, c=context, ids=ids: engine.run_ranked(c, {"u": ids["u"]}),
                reference.run(repeated), sizes)  # fmt: skip


def compare(engines, run, right, sizes):
    """Bits of q8 layers; a layer with one output and Sigmoid may differ in the last place."""
    for engine in engines:
        for name, value in run(engine).items():
            if name.endswith(".on") or (1 in sizes and name == "all"):
                np.testing.assert_allclose(value, right[name], rtol=2e-6, atol=2e-6)
            else:
                np.testing.assert_array_equal(
                    value, right[name], err_msg=f"{engine.runtime} {name}"
                )
