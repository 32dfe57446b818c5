"""Which element types the kernels of both TFLite runtimes take, by operator.

Measured in tflite-runtime 2.14 and LiteRT 2.3, whose stock kernels refuse the others when a file is
loaded or run; tests/converters/targets/test_kernel_types.py measures them again.
"""

from __future__ import annotations

import numpy as np

from ondevice.errors import UnsupportedError

VALUE_TYPES = ("float32", "int32", "int64", "bool")  # of a graph; tables travel as others

_NUMBERS = ("float32", "int32", "int64")
_KERNELS: dict[tuple[str, ...], str] = {
    VALUE_TYPES: "CAST CONCATENATION EQUAL EXPAND_DIMS FILL GATHER NOT_EQUAL RESHAPE SELECT_V2 "
    "SHAPE SLICE SQUEEZE STRIDED_SLICE TRANSPOSE",
    _NUMBERS: "ADD CUMSUM FLOOR_MOD GATHER_ND GREATER GREATER_EQUAL LESS LESS_EQUAL MAXIMUM MEAN "
    "MINIMUM MUL NEG PACK PADV2 REDUCE_MAX REDUCE_MIN REDUCE_PROD SUB SUM TOPK_V2",
    ("float32", "int32", "bool"): "ARG_MAX ARG_MIN",
    ("float32", "int32"): "ABS DIV POW",
    ("float32",): "BATCH_MATMUL CEIL EXP FLOOR LEAKY_RELU LOG LOGISTIC RELU ROUND SOFTMAX SQRT "
    "TANH",
    ("int32",): "RIGHT_SHIFT",
    ("bool",): "LOGICAL_AND LOGICAL_NOT LOGICAL_OR",
}
KERNEL_TYPES = {name: types for types, names in _KERNELS.items() for name in names.split()}
# The input that has the type of the operator's values, where it is not the first.
VALUES_INPUT = {"FILL": 1, "SELECT_V2": 1}


def check_kernel(opcode: str, dtype: np.dtype[np.generic]) -> None:
    """Raise UnsupportedError where a runtime refuses an operator on values of a type."""
    taken = KERNEL_TYPES.get(opcode, VALUE_TYPES)
    if dtype.name in VALUE_TYPES and dtype.name not in taken:
        raise UnsupportedError(f"{opcode} of {dtype.name}: the kernels take {', '.join(taken)}")
