"""Prints docs/operators.md, operators by target, from the registries of the code."""

from __future__ import annotations

import sys
from collections.abc import Collection

from ondevice.converters.lowering.rules.table import RULES
from ondevice.converters.targets.tflite.ops import OPERATORS as TFLITE
from ondevice.ops import OPERATORS as NATIVE

HEAD = """# Operators by target

Written by `python -m ondevice.converters.lowering.operator_table`. ONNX files keep whatever the
exporter made: ONNX Runtime runs all of it. "direct": an operator of its own. "rewritten": at
conversion, when its sizes, axes and parameters are constant, by the operators that stay. "numpy":
the native file holds it, and only its numpy engine runs it. An operator outside this table, or a
form that a target cannot run, fails the conversion: one error lists all such nodes of all targets,
with their module paths and what could replace them. A row of the request must never mix with
another: an operator across the batch runs in numpy and the stock runtimes, and the C engine refuses
it. It also refuses free axes beside the batch (`dynamic_axes`, or those of an .onnx file), which
the numpy engine and the stock runtimes run; GRU and LSTM need a fixed number of steps everywhere.

| operator | ONNX | native | TFLite |
|---|---|---|---|
"""
# Operators of this project, which only lowering makes.
PROJECT_OPERATORS = ("ExpandRows", "TopKIndices")
# Operators of the native plan that only the numpy engine runs.
NUMPY_ONLY = ("Shape",)


def table() -> str:
    """The page."""
    names = sorted({*RULES, *TFLITE, *NATIVE} - set(PROJECT_OPERATORS))
    rows = (f"| {name} | yes | {_how(name, NATIVE)} | {_how(name, TFLITE)} |" for name in names)
    return HEAD + "\n".join(rows) + "\n"


def _how(name: str, direct: Collection[str]) -> str:
    if direct is NATIVE and name in NUMPY_ONLY:
        return "numpy"
    return "direct" if name in direct else "rewritten" if name in RULES else "no"


if __name__ == "__main__":
    sys.stdout.write(table())
