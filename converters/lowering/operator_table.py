"""Prints docs/operators.md, operators by target, from the registries of the code."""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Collection, Iterator

from ondevice.converters.lowering.rules.table import RULES
from ondevice.converters.source.ml.rewrite import RULES as ML_RULES
from ondevice.converters.targets.tflite.kernel_types import KERNEL_TYPES, VALUE_TYPES
from ondevice.converters.targets.tflite.ops import OPERATORS as TFLITE
from ondevice.ops import OPERATORS as NATIVE

HEAD = """# Operators by target

Written by `python -m ondevice.converters.lowering.operator_table`. ONNX files keep whatever the
exporter made: ONNX Runtime runs all of it. "direct": an operator of its own. "rewritten": at
conversion, when its sizes, axes and parameters are constant, by the operators that stay. An
operator outside this table, or a form that a target cannot run, fails the conversion: one error
lists all such nodes of all targets, with their module paths and what could replace them. A row of
the request must never mix with another: an operator across the batch runs in numpy and the stock
runtimes, and the C engine refuses it. GRU and LSTM need a fixed number of steps, no free axis
(`dynamic_axes`, or that of an .onnx file). Sin, Cos and Tan of numbers beyond 100,000 are wrong
in native and TFLite files: give a time as a part of its day or year.

| operator | ONNX | native | TFLite |
|---|---|---|---|
"""
ML_HEAD = """
## Operators of ai.onnx.ml

In .onnx files of [scikit-learn, LightGBM and XGBoost](convert.md#trees-and-linear-models). They are
rewritten by the operators above when a file is read; tree ensembles by `TreeEnsemble`, an operator
of this project whose form in ONNX files is a TreeEnsembleRegressor. `ZipMap` is left out.

"""
TYPES_HEAD = """
## Element types of TFLite's kernels

Whether a TFLite file can express an operator depends on the type of its values too. IDs are int64,
truth values bool. Where a kernel lacks a type, the converter uses others: the absolute value of an
int64 is a maximum, a quotient by a constant is exact by a remainder and a product. A quotient or
remainder of integers by a computed divisor cannot be expressed.

| element types | TFLite operators |
|---|---|
"""
# Operators of this project, which only lowering makes.
PROJECT_OPERATORS = ("ExpandRows", "TopKIndices")


def table() -> str:
    """The page."""
    names = sorted({*RULES, *TFLITE, *NATIVE} - set(PROJECT_OPERATORS))
    rows = (f"| {name} | yes | {_how(name, NATIVE)} | {_how(name, TFLITE)} |" for name in names)
    ml = textwrap.fill(", ".join(sorted(ML_RULES)) + ".", 100) + "\n"
    return HEAD + "\n".join(rows) + "\n" + ML_HEAD + ml + TYPES_HEAD + "\n".join(_types()) + "\n"


def _types() -> Iterator[str]:
    """A line for every set of element types that TFLite operators take."""
    for types in dict.fromkeys(KERNEL_TYPES.values()):
        names = ", ".join(name for name, taken in KERNEL_TYPES.items() if taken == types)
        yield f"| {'all' if types == VALUE_TYPES else ', '.join(types)} | {names} |"


def _how(name: str, direct: Collection[str]) -> str:
    return "direct" if name in direct else "rewritten" if name in RULES else "no"


if __name__ == "__main__":
    sys.stdout.write(table())
