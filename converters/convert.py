"""The conversion: capture, pack, emit every target, verify each file, then put it in place."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import nn

import ondevice
from ondevice.codecs import BITS, CODECS, DENSE_CODECS, Codec, DenseCodec
from ondevice.converters.dense.absorb import absorb_rotations
from ondevice.converters.dense.calibration import calibrate
from ondevice.converters.dense.layers import DensePlan, check_layers
from ondevice.converters.graph import CapturedModel, PackedModel
from ondevice.converters.lowering.unsupported import LackingOperatorsError, lacking
from ondevice.converters.one_thread import one_thread
from ondevice.converters.source.arguments import DynamicAxes
from ondevice.converters.source.onnx_source import OnnxSource
from ondevice.converters.source.torch_source import Source, TorchSource
from ondevice.converters.tables.column_blocks import stored_tables
from ondevice.converters.tables.draft import Draft, fill
from ondevice.converters.tables.file_pages import release_file_pages
from ondevice.converters.tables.pack import DEFAULT_CODEC, OTHERS, pack, pack_tables, table_codecs
from ondevice.converters.tables.progress import watched
from ondevice.converters.tables.weights import Weights
from ondevice.converters.targets.merge import merge_lookups
from ondevice.converters.targets.odm import emit_odm
from ondevice.converters.targets.onnx.emit import emit_onnx
from ondevice.converters.targets.tflite.emit import emit_tflite
from ondevice.converters.targets.tflite.writer import check_file_size
from ondevice.converters.verify.id_origins import InputIds, input_ids
from ondevice.converters.verify.model_card import model_card
from ondevice.converters.verify.probe import ANY, probe_inputs
from ondevice.converters.verify.report import ConversionReport, FittedTable
from ondevice.converters.verify.verification import (
    TOLERANCE,
    Validation,
    check_parity,
    checked_rows,
    difference,
    expected_of,
    measure_file,
)
from ondevice.errors import InputError, SpecError
from ondevice.features import FeatureSpec
from ondevice.info import InputSpec, ModelInfo, TestVectors

TARGETS = ("odm", "onnx", "tflite")
# Largest |probability difference| allowed by the codec of the dense layers, which the torch module
# does not round: f16 weights, and int8 weights with int8 activations (choices of this project).
# Measured on networks trained on MovieLens: f16 up to 4e-5, q8 up to 4e-3, calibrated q8 9e-3.
DENSE_TOLERANCE: dict[DenseCodec, float] = {"f32": TOLERANCE, "f16": 5e-4, "q8": 2e-2}
BATCHES = (1, 2, 17, 1024)
VECTOR_ROWS = 64

Array = npt.NDArray[Any]


@one_thread()
def convert(
    module: nn.Module | str | Path,
    example_inputs: Any,
    out_dir: str | Path,
    *,
    targets: Sequence[str] = TARGETS,
    tables: Codec | Mapping[str, Codec] = DEFAULT_CODEC,
    dense: DenseCodec = "f32",
    float_layers: Sequence[str] = (),
    calibration: Mapping[str, Array] | None = None,
    features: FeatureSpec | None = None,
    dynamic_axes: DynamicAxes | None = None,
    name: str = "model",
    validation: Validation | None = None,
    about: Mapping[str, str] | None = None,
    weights: str | Path | None = None,
    original: nn.Module | None = None,
    fitted: Sequence[FittedTable] = (),
) -> ConversionReport:
    """Convert a torch module to model files and verify each one in every runtime of this machine.

    Beside the files lie the report, `name`.report.json, and the model card, `name`.md.

    Args:
        module: any module that `torch.onnx.export` can export. It takes IDs and numbers as
            tensors [batch, ...], one or several, or dictionaries or lists of them, and returns
            one or several tensors [batch, ...]. Or the path of an .onnx file.
        example_inputs: its arguments: a few ordinary rows, at least 2; a tuple of positional
            arguments, a dictionary, or a single tensor. Keys and parameters name the inputs. For an
            .onnx file: arrays by input name, or None for random ones.
        out_dir: folder for `name`.odm, `name`.onnx (with `name`.onnx.data) and `name`.tflite.
        targets: which of "odm", "onnx", "tflite" to write.
        tables: codec of the embedding tables: "q8", "q4", "q2", "f16" or "f32"; or one by input
            or table, such as {"item": "q4", "*": "q8"}, where "*" stands for all others.
        dense: codec of dense layers: "f32", "f16", or "q8" (int8 weights, a scale per output
            channel, and int8 activations); each has its tolerance, DENSE_TOLERANCE.
        float_layers: module paths of dense layers that stay float32, such as "tower.4"; "tower"
            covers all layers below it.
        calibration: with dense="q8": ordinary values by input name, [rows, ...], a thousand rows
            or more: activations in .onnx and .tflite are then quantised by the ranges seen on
            them (and on unseen and extreme IDs). Without it, and always in .odm, dynamically.
        features: how raw values become IDs, stored in every file.
        dynamic_axes: axes of free size beside the batch, such as a history's length:
            {"history": {1: "steps"}}.
        name: file name without suffix.
        validation: labelled rows; the AUC of the first output on them is reported.
        about: lines on the model and its data for the model card, text by label.
        weights: safetensors files with the module's weights: one file, an index beside several,
            or a folder with either. Tables are read from there row by row and never held in
            memory; the module may be on the meta device, and is not changed.
        original: the trained module from which `compress_embeddings` made `module`: AUC and
            changes of a probability are then counted from there.
        fitted: what `compress_embeddings` says of its tables, for the report and the card.

    Raises:
        UnsupportedError: targets cannot express the module: every operator that one of them lacks
            is listed, with its module path and what could replace it; or the tables exceed
            TFLite's limit of 2 GB.
        FileFormatError: the weights are damaged, or not those of the module.
        ParityError: a file differs from the module by more than its tolerance; nothing is left.
        SpecError: the settings or the example inputs are wrong, or weights are not finite.
        InputError: the validation or calibration rows do not fit the module; or the files the
            disk.
    """
    _check_settings(targets, tables, dense, calibrated=calibration is not None)
    plan = DensePlan(dense, tuple(float_layers))
    release_file_pages()  # of imports
    source = _source(module, example_inputs, dynamic_axes, weights)
    captured = source.capture()
    release_file_pages()  # of the exporter
    absorb_rotations(captured.model.graph)
    if "tflite" in targets:
        check_file_size(_code_bytes(captured, table_codecs(captured, tables)))
    passes = 2 + (calibration is not None)
    captured = replace(captured, tables=watched(captured.tables, passes))
    packed_tables = pack_tables(captured, tables)
    packed = pack(captured, packed_tables)
    check_layers(packed, plan)
    uses = _uses(packed, source.examples)
    inputs = _input_specs(packed, uses)
    batches = [_probe(source, inputs, uses, rows) for rows in BATCHES]
    travelling = _probe(source, inputs, uses, VECTOR_ROWS)
    vectors = TestVectors(travelling, source(travelling, packed_tables), DENSE_TOLERANCE[dense])
    trained = source
    if original is not None:
        trained = _source(original, example_inputs, dynamic_axes, None)
    expected = expected_of(source, trained, batches, packed_tables, validation, inputs)
    info = ModelInfo(
        inputs=inputs,
        outputs=source.outputs,
        features=_checked_features(features, source.names),
        vectors=vectors,
        made_by=_versions(),
    )
    if calibration is not None:
        rows = checked_rows("calibration", inputs, calibration)
        plan = replace(plan, ranges=calibrate(packed, info, rows, batches))
    out = Path(out_dir)
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{name}.", dir=out) as temporary:
        folder = Path(temporary)
        places = {target: folder / f"{name}.{target}" for target in targets}
        drafts = _drafts(packed, places, info, plan)
        _check_room(folder)
        fill(*drafts.values())
        release_file_pages()  # of torch
        written = {
            key: replace(
                measure_file(file, expected, DENSE_TOLERANCE[dense]), layers=drafts[key].layers
            )
            for key, file in places.items()
        }
        check_parity(written.values())
        report = ConversionReport(
            targets={
                key: replace(item, path=out / item.path.name) for key, item in written.items()
            },
            codec=_described(tables),
            dense=dense,
            float_layers=tuple(float_layers),
            calibration_rows=0 if calibration is None else len(next(iter(rows.values()))),
            quantisation_difference=max(map(difference, expected.stored, expected.own)),
            weight_bytes=trained.weight_bytes,
            validation_rows=0 if validation is None else len(validation),
            validation_source="" if validation is None else validation.source,
            source_auc=expected.auc,
            fitted=tuple(fitted),
            fitted_auc=expected.own_auc,
            made_by=info.made_by,
        )
        (folder / f"{name}.report.json").write_text(report.to_text(), encoding="utf-8")
        card = model_card(name, packed, report, about or {})
        (folder / f"{name}.md").write_text(card, encoding="utf-8")
        for file in sorted(folder.iterdir(), reverse=True):  # external data first
            file.replace(out / file.name)
    return report


def _described(tables: Codec | Mapping[str, Codec]) -> str:
    """Codecs as text: one, or "item q4, others q8"."""
    if isinstance(tables, str):
        return tables
    parts = {"others" if name == OTHERS else name: codec for name, codec in tables.items()}
    return ", ".join(f"{name} {codec}" for name, codec in parts.items())


def _check_settings(
    targets: Sequence[str], tables: Codec | Mapping[str, Codec], dense: str, *, calibrated: bool
) -> None:
    faults = []
    if unknown := [target for target in targets if target not in TARGETS]:
        faults.append(f"unknown targets {', '.join(unknown)}; choose from {', '.join(TARGETS)}")
    if not targets:
        faults.append("no targets")
    if isinstance(tables, str) and tables not in CODECS:
        faults.append(f"unknown codec {tables!r}; choose from {', '.join(CODECS)}")
    if dense not in DENSE_CODECS:
        faults.append(f"unknown dense codec {dense!r}; choose from {', '.join(DENSE_CODECS)}")
    if calibrated and dense != "q8":
        faults.append(f"calibration rows are for q8 layers, but dense is {dense!r}")
    if faults:
        raise SpecError("conversion: " + "; ".join(faults))


def _code_bytes(captured: CapturedModel, codecs: Mapping[str, Codec]) -> int:
    """What the codes of all tables take at least, scales aside."""
    values = {
        lookup.table: lookup.spec.rows * lookup.spec.row_dim
        if lookup.widths is None
        else int(lookup.widths.sum(dtype=np.int64))
        for lookup in captured.lookups
    }
    return sum(count * BITS[codecs[name]] for name, count in values.items()) // 8


def _source(
    module: nn.Module | str | Path,
    example_inputs: Any,
    dynamic_axes: DynamicAxes | None,
    weights: str | Path | None,
) -> Source:
    if isinstance(module, nn.Module):
        files = None if weights is None else Weights(weights)
        return TorchSource(module, example_inputs, dynamic_axes, files)
    if weights is not None:
        raise SpecError("an .onnx file has weights of its own; give none")
    if dynamic_axes is not None:
        raise SpecError("dynamic axes of an .onnx file are those of its inputs; name none")
    if example_inputs is not None and not isinstance(example_inputs, Mapping):
        raise SpecError("example inputs of an .onnx file are a dictionary of arrays by input name")
    return OnnxSource(Path(module), example_inputs)


def _uses(packed: PackedModel, examples: Mapping[str, Array]) -> dict[str, InputIds]:
    shapes = {name: array.shape for name, array in examples.items()}
    return input_ids(packed.model.graph, packed.lookups, shapes)


def _input_specs(packed: PackedModel, uses: Mapping[str, InputIds]) -> tuple[InputSpec, ...]:
    specs = []
    for value in packed.model.graph.inputs:
        sizes = [size if isinstance(size, int) else str(size) for size in value.shape or ()]
        dtype = "int64" if value.dtype is None else value.dtype.numpy().name
        name, use = str(value.name), uses[str(value.name)]
        limits = [None if limit in (-1, ANY) else int(limit) for limit in use.limits]
        shape = ("batch", *sizes[1:])
        free = any(isinstance(size, str) for size in sizes[1:])
        if free or (not use.added and len(set(limits)) <= 1):  # one limit for all elements
            limit = min((one for one in limits if one is not None), default=None)
            specs.append(InputSpec(name, shape, limit, dtype))
        elif not any(limits):
            specs.append(InputSpec(name, shape, None, dtype))
        else:
            specs.append(InputSpec(name, shape, tuple(limits), dtype))
    return tuple(specs)


def _probe(
    source: Source, inputs: tuple[InputSpec, ...], uses: Mapping[str, InputIds], rows: int
) -> dict[str, Array]:
    """Requests of `rows` rows; one for which the source has no finite answer is replaced."""
    batch = probe_inputs(inputs, uses, source.examples, rows)
    answered = _answered(source, batch)
    if answered.all():
        return batch
    count = len(next(iter(source.examples.values())))
    for name, example in source.examples.items():
        ordinary = example[np.arange(rows) % count]
        batch[name][~answered] = ordinary[~answered]
    if not _answered(source, batch).all():
        raise SpecError("the model fails, or returns NaN or infinity, for its own example inputs")
    return batch


def _answered(source: Source, batch: Mapping[str, Array]) -> npt.NDArray[np.bool_]:
    """For which rows a source has a finite answer; where it fails, each half is tried alone."""
    rows = len(next(iter(batch.values())))
    try:
        outputs = source(batch)
    except SpecError:
        if rows == 1:
            return np.array([False])
        halves = slice(0, rows // 2), slice(rows // 2, rows)
        tried = ({name: array[half] for name, array in batch.items()} for half in halves)
        return np.concatenate([_answered(source, half) for half in tried])
    finite = [np.isfinite(array.reshape(rows, -1)).all(1) for array in outputs.values()]
    together: npt.NDArray[np.bool_] = np.logical_and.reduce(finite)
    return together


def _checked_features(features: FeatureSpec | None, names: Sequence[str]) -> FeatureSpec:
    if features is None:
        return FeatureSpec()
    if {item.name for item in features.fields} != set(names):
        known = ", ".join(item.name for item in features.fields)
        raise SpecError(f"features are for {known}; the module's inputs are {', '.join(names)}")
    return features


def _versions() -> dict[str, str]:
    packages = ("torch", "onnx", "onnx-ir", "onnxruntime", "ai-edge-litert", "numpy")
    versions = {"ondevice-ctr": ondevice.__version__}
    for package in packages:
        with contextlib.suppress(metadata.PackageNotFoundError):
            versions[package] = metadata.version(package)
    return versions


def _drafts(
    packed: PackedModel, places: Mapping[str, Path], info: ModelInfo, plan: DensePlan
) -> dict[str, Draft]:
    """Every target's file without its tables.

    Raises:
        UnsupportedError: what any of the targets lacks.
    """
    drafts: dict[str, Draft] = {}
    errors: dict[str, LackingOperatorsError] = {}
    for target, file in places.items():
        try:
            drafts[target] = _emit(target, packed, file, info, plan)
        except LackingOperatorsError as error:
            errors[target] = error
    if errors:
        raise lacking(errors, list(places))
    return drafts


def _check_room(folder: Path) -> None:
    """Check that the disk holds the files of a folder, whose tables are not written yet.

    Raises:
        InputError: it does not.
    """
    needed = sum(file.stat().st_size for file in folder.iterdir())
    if needed > (free := shutil.disk_usage(folder).free):
        raise InputError(
            f"{folder.parent}: the files take {needed:,} bytes, the disk has {free:,} bytes free"
        )


def _emit(target: str, packed: PackedModel, file: Path, info: ModelInfo, plan: DensePlan) -> Draft:
    if target == "odm":
        return emit_odm(packed, file, info, plan)
    merged = merge_lookups(packed)
    emit = emit_onnx if target == "onnx" else emit_tflite
    return emit(merged, file, replace(info, tables=stored_tables(merged)).to_text(), plan)
