"""One error for all operators that the chosen targets lack: where each is, and what replaces it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import onnx_ir as ir

from ondevice.converters.graph import module_path
from ondevice.errors import UnsupportedError

REASON = "ondevice.reason"  # metadata of a node: why it could not be rewritten

_STEPS = "a fixed number of steps (no free axis there), and weights that are parameters"
_MASK = "a mask, which keeps every row's size: torch.where, or a product with (x != 0)"
_PARTS = "torch.where with a mask, or torch.cat of the parts"
_POOLS = "slices and torch.maximum or a mean, or amax or mean over the whole axis"
_LOOP = "a Python loop over a fixed number of steps; torch.where for a condition"
_BAGS = "a matrix of IDs [batch, bag], filled up with padding_idx, without offsets"
_DRAWN = "numbers drawn once, in a buffer of the module"
_COMPLEX = "its real and imaginary part as two tensors"
_WAVES = "products with constant matrices of cosines and sines, kept in buffers of the module"
_FIXED = "sizes and indices that do not depend on the values of a request"

# What can stand in for an operator that is missing.
HINTS: dict[str, str] = {
    **dict.fromkeys(("GRU", "LSTM", "RNN"), _STEPS),
    **dict.fromkeys(("Compress", "NonZero", "Unique"), _MASK),
    **dict.fromkeys(("ScatterElements", "ScatterND", "TensorScatter"), _PARTS),
    **dict.fromkeys(("Loop", "Scan"), f"{_LOOP}; for bags with offsets {_BAGS}"),
    "If": _LOOP,
    **dict.fromkeys(
        ("AveragePool", "GlobalAveragePool", "GlobalMaxPool", "LpPool", "MaxPool"), _POOLS
    ),
    **dict.fromkeys(
        (
            "Bernoulli",
            "Multinomial",
            "RandomNormal",
            "RandomNormalLike",
            "RandomUniform",
            "RandomUniformLike",
        ),
        _DRAWN,
    ),
    **dict.fromkeys(
        (
            "ConcatFromSequence",
            "SequenceAt",
            "SequenceConstruct",
            "SequenceEmpty",
            "SequenceInsert",
            "SequenceMap",
            "SplitToSequence",
        ),
        "torch.cat or torch.stack of a fixed number of tensors",
    ),
    **dict.fromkeys(("ComplexMul", "ComplexMulConj"), _COMPLEX),
    **dict.fromkeys(("DFT", "STFT"), _WAVES),
    **dict.fromkeys(("Range", "Reshape", "Expand", "ConstantOfShape", "Shape", "Size"), _FIXED),
    "Acosh": "torch.log(x + torch.sqrt(x * x - 1))",
    "Asinh": "torch.log(x + torch.sqrt(x * x + 1))",
    "Atanh": "0.5 * torch.log((1 + x) / (1 - x))",
    "BatchNormalization": "running statistics (track_running_stats=True), not those of the request",
    "BitShift": "a product or a floor division by a power of two",
    "BitwiseAnd": "a remainder by a power of two, or logical operators on booleans",
    "Conv": "nn.Unfold and nn.Linear, or fixed sizes beside the batch",
    "ConvTranspose": "nn.Linear over the flattened axes",
    **dict.fromkeys(
        (
            "DequantizeLinear",
            "DynamicQuantizeLinear",
            "MatMulInteger",
            "QLinearMatMul",
            "QuantizeLinear",
        ),
        "the float model, with tables=... and dense=... of the conversion",
    ),
    "Det": "products of the elements",
    "Einsum": "torch.matmul with transpose and reshape",
    "GatherND": "torch.gather, or a lookup along one axis",
    "GridSample": "a lookup in an nn.Embedding",
    "OneHot": "(x.unsqueeze(-1) == torch.arange(n)).float(), or an nn.Embedding",
    "Resize": "repeat_interleave, or a product with a constant matrix",
    "ReverseSequence": "torch.flip, with padding in front of the sequence",
    "StringNormalizer": "features=..., which encode raw text before the model",
    "TopK": "a constant k, or torch.max",
    "Trilu": "a product with a constant mask in a buffer",
}
_ELSE = "operators of docs/operators.md"


@dataclass(frozen=True)
class Fault:
    """A node that a target lacks.

    Attributes:
        kind: the ONNX operator.
        path: where it is in the module.
        reason: what of it is not possible; empty where it is the whole operator.
    """

    kind: str
    path: str
    reason: str


class LackingOperatorsError(UnsupportedError):
    """A target lacks operators of a model.

    Attributes:
        faults: all of them.
    """

    def __init__(self, target: str, faults: Sequence[Fault]) -> None:
        """Say what one target lacks."""
        self.faults = tuple(faults)
        super().__init__(_message({target: self.faults}, ()))


def fault(node: ir.Node, reason: str = "") -> Fault:
    """A node as a fault; why its rewriting failed takes precedence over `reason`."""
    return Fault(node.op_type, module_path(node), node.metadata_props.get(REASON, reason))


def lacking(
    errors: Mapping[str, LackingOperatorsError], targets: Sequence[str]
) -> UnsupportedError:
    """One error for several targets; it names those of `targets` that express the whole model."""
    faults = {target: error.faults for target, error in errors.items()}
    return UnsupportedError(_message(faults, [name for name in targets if name not in errors]))


def _message(faults: Mapping[str, Sequence[Fault]], others: Sequence[str]) -> str:
    """Every node once, with the targets that lack it."""
    reasons_at: dict[tuple[str, str], dict[str, list[str]]] = {}
    for target, listed in faults.items():
        for item in listed:
            by_target = reasons_at.setdefault((item.kind, item.path), {})
            by_target.setdefault(target, []).append(item.reason)
    nodes = []
    for (kind, path), reasons in reasons_at.items():
        count = max(map(len, reasons.values()))
        times = f"{count} x " if count > 1 else ""
        nodes.append(f"{times}{kind} at {path} ({_where(reasons, len(faults))})")
    kinds = dict.fromkeys(kind for kind, _ in reasons_at)
    hints = [f"{kind}: {HINTS.get(kind, _ELSE)}" for kind in kinds]
    works = f"; {' and '.join(others)} can be written, with targets={list(others)}"
    return (
        f"operators that {' and '.join(faults)} cannot express: {'; '.join(nodes)}. "
        f"What could replace them: {'; '.join(hints)}{works if others else ''}"
    )


def _where(reasons: Mapping[str, Sequence[str]], targets: int) -> str:
    """Why, and in which targets where it is not all of them."""
    why = dict.fromkeys(reason for listed in reasons.values() for reason in listed if reason)
    text = ", ".join(why) or "no such operator"
    return text if len(reasons) == targets else f"{' and '.join(reasons)}: {text}"
