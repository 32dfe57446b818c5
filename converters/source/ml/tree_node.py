"""Adds the node `ondevice::TreeEnsemble`, with its arrays as constants."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from ondevice.converters.graph import DOMAIN, TREE_ENSEMBLE
from ondevice.converters.lowering.builder import NodeBuilder
from ondevice.converters.source.ml.operands import sizes_of


def add_ensemble(
    builder: NodeBuilder,
    x: ir.Value,
    arrays: Sequence[npt.NDArray[Any]],
    targets: int,
    aggregate: str,
) -> ir.Value:
    """The scores float32 [rows, targets] of an ensemble.

    Args:
        builder: for the nodes.
        x: features float32 [rows, features].
        arrays: thresholds, links, roots and vectors; see `ondevice.trees`.
        targets: how many.
        aggregate: "SUM", "MIN" or "MAX".
    """
    constants = [builder.constant(array, np.asarray(array).dtype) for array in arrays]
    scores = builder.typed_op(
        TREE_ENSEMBLE,
        [x, *constants],
        [sizes_of(x)[0], targets],
        ir.DataType.FLOAT,
        targets=targets,
        aggregate=aggregate,
    )
    builder.nodes[-1].domain = DOMAIN
    return scores
