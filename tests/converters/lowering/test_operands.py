"""What is read of a node's operands at conversion."""

import numpy as np
import onnx_ir as ir
import pytest
import torch

from ondevice.converters.lowering.operands import batch_norm_factors, constant_array


def constant(**attributes):
    return ir.node("Constant", [], attributes=attributes).outputs[0]


def initializer(name, array):
    return ir.Value(name=name, const_value=ir.tensor(array, name=name))


@pytest.mark.parametrize(
    ("attributes", "expected"),
    [
        ({"value": ir.tensor(np.eye(2, dtype=np.float32))}, np.eye(2, dtype=np.float32)),
        ({"value_int": 3}, np.array(3, np.int64)),
        ({"value_ints": [3, 4]}, np.array([3, 4], np.int64)),
        ({"value_float": 0.5}, np.array(0.5, np.float32)),
        ({"value_floats": [0.5, 1.5]}, np.array([0.5, 1.5], np.float32)),
    ],
)
def test_a_constant_node_is_read(attributes, expected):
    got = constant_array(constant(**attributes))
    assert got.dtype == expected.dtype
    np.testing.assert_array_equal(got, expected)


def test_an_initializer_is_read():
    np.testing.assert_array_equal(constant_array(initializer("w", np.arange(3))), np.arange(3))


def test_what_is_no_constant_of_numbers_is_none():
    assert constant_array(None) is None
    assert constant_array(constant(value_string="text")) is None
    assert constant_array(ir.node("Relu", [constant(value_float=0.5)]).outputs[0]) is None


def test_batch_norm_factors_are_those_of_torch():
    torch.manual_seed(1)
    layer = torch.nn.BatchNorm1d(5, eps=1e-3).eval()
    for parameter in (layer.weight, layer.bias, layer.running_mean, layer.running_var):
        torch.nn.init.uniform_(parameter, 0.5, 2)
    arrays = (layer.weight, layer.bias, layer.running_mean, layer.running_var)
    x = torch.randn(7, 5)
    inputs = [ir.Value(name="x")] + [
        initializer(f"p{i}", array.detach().numpy()) for i, array in enumerate(arrays)
    ]
    node = ir.node("BatchNormalization", inputs, attributes={"epsilon": 1e-3})
    scale, shift = batch_norm_factors(node)
    assert scale.dtype == shift.dtype == np.float32
    np.testing.assert_allclose(x.numpy() * scale + shift, layer(x).detach().numpy(), atol=1e-6)
    with torch.no_grad():  # torch's rounding of both shows where the rest is zero
        np.testing.assert_array_equal(layer(torch.zeros(1, 5))[0].numpy(), shift)
        layer.bias.zero_()
        layer.running_mean.zero_()
        np.testing.assert_array_equal(layer(torch.ones(1, 5))[0].numpy(), scale)


def test_batch_norm_of_computed_parameters_has_no_factors():
    inputs = [ir.Value(name="x"), *(ir.Value(name=name) for name in ("g", "b", "m", "v"))]
    assert batch_norm_factors(ir.node("BatchNormalization", inputs)) is None
