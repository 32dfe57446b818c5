"""The order of a conversion: every stage from the exported graph to what each target writes.

A stage takes a model and returns one; it never changes the model that it was given. To add a
stage, write such a function in the matching folder, and put it into one of the lists below where
its reason to stand there holds.

    torch module or .onnx file --export, read-->            ir.Model       source/
      CLEANING                 --ir.Model -> ir.Model
      names of inputs, outputs --ir.Model -> ir.Model                      source/names.py
      lookups recognised       --ir.Model -> CapturedModel                 source/recognise.py
      CAPTURED                 --CapturedModel -> CapturedModel
      tables packed            --CapturedModel -> PackedModel              tables/pack.py
      TARGETS                  --PackedModel -> PackedModel, for each target
      the file emitted         --PackedModel -> draft, its tables filled   targets/, tables/draft.py

Inputs get their names after cleaning, which may replace them; lookups are recognised after that,
because a table keeps its name in every file. Dense layers are found and quantised by the emitters:
each target stores them in a form of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Generic, Literal, TypeVar, get_args

import onnx_ir as ir

from ondevice.converters.dense.absorb import absorb_rotations
from ondevice.converters.dense.differences import absorb_differences
from ondevice.converters.graph import CapturedModel, PackedModel
from ondevice.converters.lowering.batch_first.rewrite import batch_first
from ondevice.converters.lowering.replace import replace_operators
from ondevice.converters.source.boolean_selections import boolean_selections
from ondevice.converters.source.fold import fold_constants
from ondevice.converters.source.ml.rewrite import replace_ml
from ondevice.converters.source.narrow_integers import widen_integers
from ondevice.converters.source.narrow_rows import widen_rows
from ondevice.converters.source.one_hot_layers import split_one_hot_layers
from ondevice.converters.source.recognise import recognise_lookups
from ondevice.converters.source.simplify import simplify, simplify_carefully
from ondevice.converters.source.single_precision import single_precision
from ondevice.converters.targets.cells import split_cells
from ondevice.converters.targets.matrix import matrix_input, word_input
from ondevice.converters.targets.merge import merge_lookups
from ondevice.converters.targets.onnx.exact_integers import exact_integers

Form = TypeVar("Form", ir.Model, CapturedModel, PackedModel)


@dataclass(frozen=True)
class Stage(Generic[Form]):
    """One step of a conversion.

    Attributes:
        name: what messages and tests call it.
        run: computes the next model; the given one stays as it is.
        reason: why it stands where it stands.
    """

    name: str
    run: Callable[[Form], Form]
    reason: str


_REPLACE_ML = Stage(
    "replace ai.onnx.ml",
    replace_ml,
    "First: all other stages know the standard operators only.",
)
CLEANING: tuple[Stage[ir.Model], ...] = (
    _REPLACE_ML,
    Stage(
        "simplify",
        simplify,
        "Before all others: they look for constants and for known shapes, which folding and shape "
        "inference settle.",
    ),
    Stage(
        "boolean selections",
        boolean_selections,
        "After simplifying, which knows types; before folding, which runs ONNX Runtime.",
    ),
    Stage(
        "fold constants",
        fold_constants,
        "After simplifying, which folds small constants and knows shapes; before lookups are "
        "recognised, whose tables are constants.",
    ),
    Stage(
        "widen rows",
        widen_rows,
        "Before single precision, which refuses weights of 16 bits: tables of them become float32.",
    ),
    Stage(
        "widen integers",
        widen_integers,
        "After rows are widened, which are narrow too; before lookups are recognised: IDs are "
        "int64.",
    ),
    Stage(
        "single precision",
        single_precision,
        "After folding, so that constants of a float64 model are rounded once, when they are "
        "final; before lookups are recognised, which are float32.",
    ),
    Stage(
        "split one-hot layers",
        split_one_hot_layers,
        "After folding, so that weights are constants; before lookups are recognised, which "
        "the products become.",
    ),
)

CAREFUL_CLEANING: tuple[Stage[ir.Model], ...] = (
    _REPLACE_ML,
    Stage(
        "simplify carefully",
        simplify_carefully,
        "In the place of simplifying, for a graph that it would change.",
    ),
    *CLEANING[2:],
)

CAPTURED: tuple[Stage[CapturedModel], ...] = (
    Stage(
        "absorb rotations",
        absorb_rotations,
        "While lookups are single nodes over float tables: merging joins them and moves columns "
        "of the layer that reads them.",
    ),
)

_MERGE = Stage(
    "merge lookups",
    merge_lookups,
    "Stock runtimes pay for every operator, the native engine does not. Before lowering: it looks "
    "for a Concat that one layer reads, which lowering may rewrite.",
)
_CELLS = Stage(
    "split cells",
    split_cells,
    "Stock runtimes add codes as plain numbers; the native engine reads cells with their scales. "
    "Before merging, which looks at the tables as they are stored.",
)
_EXACT = Stage(
    "exact integers",
    exact_integers,
    "After merging, which looks for the operators of the exporter.",
)
_MATRIX = Stage(
    "matrix input",
    matrix_input,
    "After merging, so that a merged lookup reads the matrix as it is.",
)
_WORDS = Stage(
    "word input",
    word_input,
    "After merging, so that a merged lookup reads the words of all its IDs at once.",
)
LOWERING: tuple[Stage[PackedModel], ...] = (
    Stage(
        "batch first",
        batch_first,
        "The native engine computes row by row. It moves axes through operators as the exporter "
        "left them, so it runs before these are replaced.",
    ),
    Stage(
        "replace operators",
        replace_operators,
        "Last: its rules rely on the batch being the first axis, and it leaves only operators that "
        "the native engine and TFLite have.",
    ),
)
_DIFFERENCES = Stage(
    "absorb differences",
    absorb_differences,
    "After lowering, whose model is calibrated for all targets, with differences. The native "
    "engine computes what repeats in the layer's input once a row: a third of the layer goes.",
)
_NATIVE = (*LOWERING, _DIFFERENCES)
TARGETS: dict[str, tuple[Stage[PackedModel], ...]] = {
    "odm": _NATIVE,
    "onnx": (_CELLS, _MERGE, _EXACT),  # ONNX Runtime has all of ONNX's operators
    "tflite": (_CELLS, _MERGE, *LOWERING),
}
InputForm = Literal["named", "matrix", "words"]
INPUT_FORMS: tuple[InputForm, ...] = get_args(InputForm)
# Stock runtimes with one matrix of IDs as input; the native engine takes named inputs. Words are
# for runtimes that read .onnx files and compute integers in 32 bits.
_MATRIX_TARGETS = {
    "odm": _NATIVE,
    "onnx": (_CELLS, _MERGE, _MATRIX, _EXACT),
    "tflite": (_CELLS, _MERGE, _MATRIX, *LOWERING),
}
TARGETS_BY_INPUT: dict[InputForm, dict[str, tuple[Stage[PackedModel], ...]]] = {
    "named": TARGETS,
    "matrix": _MATRIX_TARGETS,
    "words": _MATRIX_TARGETS | {"onnx": (_CELLS, _MERGE, _WORDS, _EXACT)},
}


def run(model: Form, stages: Iterable[Stage[Form]]) -> Form:
    """The model after all stages, in their order."""
    for stage in stages:
        model = stage.run(model)
    return model


def cleaned(model: ir.Model) -> ir.Model:
    """An exported or read model after the stages of CLEANING."""
    return run(model, CLEANING)


def capture(model: ir.Model, origins: Mapping[str, str] | None = None) -> CapturedModel:
    """A cleaned and named model with its lookups recognised, after the stages of CAPTURED.

    Args:
        model: the graph; it is not changed.
        origins: names of parameters by the names of the constants that come from them.
    """
    return run(recognise_lookups(model, origins), CAPTURED)


class TargetModels:
    """A packed model as each target takes it; a stage on the same model runs once for all."""

    def __init__(self, packed: PackedModel, *, inputs: InputForm = "named") -> None:
        """Start with the packed model; no stage runs before its result is asked for.

        Args:
            packed: the model.
            inputs: in what form IDs enter the files of stock runtimes.
        """
        self.packed = packed
        self._targets = TARGETS_BY_INPUT[inputs]
        self._after: dict[tuple[str, ...], PackedModel] = {(): packed}

    def of(self, target: str) -> PackedModel:
        """The model after the stages of a target; one of TARGETS."""
        return self._after_all(self._targets[target])

    def lowered(self) -> PackedModel:
        """The model after LOWERING, whose dense layers are those of all targets, and some more."""
        return self._after_all(LOWERING)

    def _after_all(self, stages: Iterable[Stage[PackedModel]]) -> PackedModel:
        names: tuple[str, ...] = ()
        for stage in stages:
            before, names = self._after[names], (*names, stage.name)
            if names not in self._after:
                self._after[names] = stage.run(before)
        return self._after[names]
