"""The conversion: `convert` runs the pipeline on a model and verifies the files that it writes."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import nn

import ondevice
from ondevice.codecs import BITS, DENSE_CODECS, DenseCodec
from ondevice.converters.dense.calibration import calibrate
from ondevice.converters.dense.layers import DensePlan, check_layers
from ondevice.converters.graph import CapturedModel, UncompressedTable
from ondevice.converters.lowering.unsupported import LackingOperatorsError, lacking
from ondevice.converters.one_thread import one_thread
from ondevice.converters.phases import counting, phase
from ondevice.converters.pipeline import INPUT_FORMS, InputForm, TargetModels
from ondevice.converters.pipeline import TARGETS as TARGET_STAGES
from ondevice.converters.random_states import same_random_states
from ondevice.converters.source.arguments import DynamicAxes
from ondevice.converters.source.on_cpu import new_tensors_on_cpu
from ondevice.converters.source.onnx_source import OnnxSource
from ondevice.converters.source.torch_source import Source, TorchSource
from ondevice.converters.tables.column_blocks import stored_tables
from ondevice.converters.tables.draft import Draft, fill
from ondevice.converters.tables.file_pages import release_file_pages
from ondevice.converters.tables.like import SLACK, Like
from ondevice.converters.tables.pack import (
    DEFAULT_CODEC,
    OTHERS,
    pack,
    pack_tables,
    table_codecs,
)
from ondevice.converters.tables.packed_table import PackedTable
from ondevice.converters.tables.progress import with_progress_bar
from ondevice.converters.tables.weights import Weights
from ondevice.converters.targets.odm import emit_odm
from ondevice.converters.targets.onnx.emit import emit_onnx
from ondevice.converters.targets.tflite.emit import emit_tflite
from ondevice.converters.targets.tflite.writer import check_file_size
from ondevice.converters.verify.model_card import model_card
from ondevice.converters.verify.number_inputs import limited, number_requests
from ondevice.converters.verify.readable_rows import reading_rows
from ondevice.converters.verify.report import ConversionReport, FittedTable, TargetReport
from ondevice.converters.verify.requests import (
    MOST_VECTOR_ROWS,
    VECTOR_ROWS,
    Domain,
    domain_of,
    input_specs,
    requests_of,
    vectors_of,
)
from ondevice.converters.verify.verification import (
    TOLERANCE,
    Expected,
    Validation,
    check_parity,
    checked_rows,
    expected_of,
    limits_of_numbers,
    measure_file,
)
from ondevice.errors import InputError, SpecError
from ondevice.features import FeatureSpec
from ondevice.held_bytes import mapped_files
from ondevice.info import ModelInfo
from ondevice.manifest import is_plain_name
from ondevice.publish import publishing
from ondevice.sections import TableCodec, codec_text, resolve_sections, table_codec

TARGETS = tuple(TARGET_STAGES)
# Largest difference, in units of the output's scale (of a probability: absolute), allowed by the
# codec of the dense layers, which the torch module does not round: f16 weights, and int8 weights
# with int8 activations (choices of this project). Measured as probabilities on networks trained on
# MovieLens: f16 up to 4e-5, q8 up to 4e-3, calibrated q8 9e-3; on three layers of 400 trained on
# Frappe: f16 5.5e-4.
DENSE_TOLERANCE: dict[DenseCodec, float] = {"f32": TOLERANCE, "f16": 2e-3, "q8": 2e-2}
# What to try where a codec of the dense layers takes more.
DENSE_HINT: dict[DenseCodec, str] = {
    "f32": "",
    "f16": "; try dense layers in f32, or --float-layers",
    "q8": "; try --float-layers, or calibrate with more rows",
}
BATCHES = (1, 2, 17, 1024)

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class _Request:
    """The settings of a conversion; see the arguments of `convert`."""

    targets: Sequence[str]
    tables: str | TableCodec | Mapping[str, str | TableCodec]
    dense: DenseCodec
    float_layers: tuple[str, ...]
    calibration: Mapping[str, Array] | None
    features: FeatureSpec | None
    name: str
    validation: Validation | None
    about: Mapping[str, str]
    fitted: tuple[FittedTable, ...]
    vectors: int
    like: Like | None
    inputs: InputForm
    card: str


@dataclass(frozen=True)
class _Prepared:
    """A model that is ready to be written.

    Attributes:
        models: its graph for each target.
        info: the description that every file contains.
        plan: how dense layers are stored.
        domain: what its inputs are.
        examples: example values of them.
        expected: the outputs with which those of the files are compared.
        calibration_rows: number of rows that determined the ranges of activations.
        weight_bytes: tables and weights of the trained module.
        rounding: the largest change of an output by the rounding of tables.
        uncompressed: large constants that IDs select from and that are no tables.
        like: an earlier file whose codes are kept.
    """

    models: TargetModels
    info: ModelInfo
    plan: DensePlan
    domain: Domain
    examples: Mapping[str, Array]
    expected: Expected
    calibration_rows: int
    weight_bytes: int
    rounding: float
    uncompressed: tuple[UncompressedTable, ...] = ()
    like: Like | None = None


@one_thread()
@same_random_states()
@new_tensors_on_cpu()
def convert(
    module: nn.Module | str | Path,
    example_inputs: Any,
    out_dir: str | Path,
    *,
    targets: Sequence[str] = TARGETS,
    tables: str | TableCodec | Mapping[str, str | TableCodec] = DEFAULT_CODEC,
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
    vectors: int = VECTOR_ROWS,
    like: str | Path | None = None,
    slack: float = SLACK,
    inputs: InputForm = "named",
    card: str | None = None,
) -> ConversionReport:
    """Convert a torch module to model files and verify each one in every runtime of this machine.

    The report, `name`.report.json, and the model card (`card`) are written beside the files, and
    manifest.json, which lists them all; the set is published as one (`ondevice.publish`). The
    module stays as it is, also where conversion fails, and so do the states of random numbers.

    Args:
        module: any module that `torch.onnx.export` can export. It takes IDs and numbers as
            tensors [batch, ...], one or several, or dictionaries or lists of them, and returns
            one or several tensors [batch, ...]. Or the path of an .onnx file.
        example_inputs: its arguments: a few ordinary rows, at least 2; a tuple of positional
            arguments, a dictionary, or a single tensor. Keys and parameters name the inputs. For an
            .onnx file: arrays by input name, or None for random ones.
        out_dir: folder for `name`.odm, `name`.onnx (with `name`.onnx.data) and `name`.tflite.
        targets: which of "odm", "onnx", "tflite" to write.
        tables: codec of the embedding tables: "q8", "q4", "q3", "q2", "q1", "f16" or "f32"; or
            sections of them, such as "q8:1000,q4x8:20000,q1" (`ondevice.sections`); or either by
            input or table, such as {"item": "q4", "*": "q8"}, where "*" stands for all others.
        dense: codec of dense layers: "f32", "f16", or "q8" (int8 weights, a scale per output
            channel, and int8 activations); each has its tolerance, DENSE_TOLERANCE.
        float_layers: module paths of dense layers that stay float32, such as "tower.4"; "tower"
            covers all layers below it.
        calibration: with dense="q8": ordinary values by input name, [rows, ...], a thousand rows
            or more: activations in .onnx and .tflite are then quantised by their ranges on these
            rows (and on unseen and extreme IDs). Without it, and always in .odm, dynamically.
        features: how raw values become IDs, stored in every file.
        dynamic_axes: axes of free size other than the batch, such as the length of a history:
            {"history": {1: "steps"}}.
        name: file name without suffix.
        validation: labelled rows; the AUC of the first output on them is reported.
        about: lines on the model and its data for the model card, text by label.
        weights: safetensors files with the module's weights: one file, an index beside several,
            or a folder with either. Tables are read from there row by row and never held in
            memory; the module may be on the meta device, and is not changed.
        original: the trained module that `compress_embeddings` compressed to `module`, or whose
            tables `module` has, rounded already: AUC and changes of outputs are then relative to
            it.
        fitted: what `compress_embeddings` reports on its tables, for the report and the card.
            Without it, all that `original` answers otherwise counts as rounding.
        vectors: rows of test vectors in every file, with the module's answers, that
            `ondevice verify` repeats on the device; fewer where they would take more than 64 KiB.
            0: none, and `verify` can only check bytes. Conversion verifies the same anyway.
        like: the .odm file that devices have: its scales, levels and, where they are still good,
            its codes are kept, so that an update is small (docs/updates.md).
        slack: with `like`: by how much of the distance of two codes the error of a value may be
            larger than need be, so that its code stays; 0 to 1.
        inputs: "matrix" makes the int64 inputs [batch] of .onnx and .tflite the columns of one
            input, "ids" int64 [batch, fields], in their order: stock runtimes charge for every
            input. "words": the same for .tflite; in .onnx they are the columns of "id_words" int32
            [batch, 2 x fields], the low word of each ID, then the high one, and lookups compute in
            32 bits, as OpenVINO does. `ondevice.load` takes named inputs anyway.
        card: file name of the model card, by default `name`.md; "README.md" makes the folder a
            repository for the Hugging Face Hub.

    Raises:
        UnsupportedError: targets cannot express the module: every operator that one of them lacks
            is listed, with its module path and what could replace it; or the tables exceed
            TFLite's limit of 2 GB.
        FileFormatError: the weights are damaged, or not those of the module.
        ParityError: a file differs from the module by more than its tolerance; no file is written.
        SpecError: the settings or the example inputs are wrong, or weights are not finite.
        InputError: the validation or calibration rows do not fit the module, or the disk is full.
        OutputError: the files cannot be written.
    """
    request = _Request(
        targets=targets,
        tables=tables,
        dense=dense,
        float_layers=tuple(float_layers),
        calibration=calibration,
        features=features,
        name=name,
        validation=validation,
        about=about or {},
        fitted=tuple(fitted),
        vectors=vectors,
        like=None if like is None else Like.read(Path(like), slack),
        inputs=inputs,
        card=f"{name}.md" if card is None else card,
    )
    _check_request(request)
    with counting() as seconds:
        release_file_pages()  # of imports
        source = _source(module, example_inputs, dynamic_axes, weights)
        trained = source
        if original is not None:
            trained = _source(original, example_inputs, dynamic_axes, None)
        captured = source.capture()
        release_file_pages()  # of the exporter
        packed_tables, models = _pack(captured, request)
        prepared = _prepare(source, trained, packed_tables, models, request)
        prepared = replace(prepared, uncompressed=captured.uncompressed)
        report = _write_verified(prepared, request, Path(out_dir))
    return replace(report, seconds=seconds)


def _pack(
    captured: CapturedModel, request: _Request
) -> tuple[dict[str, PackedTable], TargetModels]:
    """Pack a captured model's tables, in one pass over each table; rows are read again later."""
    if "tflite" in request.targets:
        check_file_size(_code_bytes(captured, table_codecs(captured, request.tables)))
    passes = 2 + (request.calibration is not None)
    captured = replace(captured, tables=with_progress_bar(captured.tables, passes))
    tables = pack_tables(captured, request.tables)
    if request.like is not None:
        tables = request.like.tables(tables)
    models = TargetModels(pack(captured, tables), inputs=request.inputs)
    return tables, models


def _prepare(
    source: Source,
    trained: Source,
    tables: Mapping[str, PackedTable],
    models: TargetModels,
    request: _Request,
) -> _Prepared:
    """Compute the outputs that files are compared with, and choose how dense layers are stored.

    Args:
        source: the module or .onnx file to convert.
        trained: the source from which AUC and changes of a probability are counted.
        tables: packed tables by name.
        models: the packed graphs.
        request: the settings.

    Raises:
        SpecError: settings do not fit the model, or weights are not finite.
        InputError: validation or calibration rows do not fit the model.
    """
    packed = models.packed
    reading = reading_rows(source, packed)
    source, trained = reading, reading if trained is source else trained
    plan = DensePlan(request.dense, request.float_layers)
    check_layers(packed, models.of("odm"), plan)
    domain = domain_of(packed, source)
    inputs = domain.inputs
    requests = [requests_of(source, domain, rows) for rows in BATCHES]
    batches = [item.answered for item in requests]
    info = ModelInfo(
        inputs=inputs,
        outputs=source.outputs,
        features=_checked_features(request.features, source.names),
        vectors=vectors_of(
            source,
            domain,
            tables,
            request.vectors,
            _tolerance(request),
            None if request.like is None else request.like.file.info.vectors,
        ),
        made_by=_versions(),
    )
    own = [item.answers for item in requests]
    expected = expected_of(source, trained, batches, own, tables, request.validation, inputs)
    expected = replace(expected, refused=[item.refused for item in requests])
    if request.dense == "f32":  # rounded layers have no accuracy far from their examples
        numbers = number_requests(source, tables, domain.uses, domain.constants)
        expected = replace(expected, numbers=numbers)
    rounding = max(map(expected.difference, expected.stored, expected.own))
    if trained is not source and not request.fitted:
        changes = [expected.difference(source(rows, tables), own) for rows, own in expected.trained]
        rounding = max(rounding, *changes)
    calibration_rows = 0
    if request.calibration is not None:
        rows = checked_rows("calibration", inputs, request.calibration)
        calibration_rows = len(next(iter(rows.values())))
        plan = replace(plan, ranges=calibrate(models.lowered(), info, rows, batches))
    return _Prepared(
        models=models,
        info=info,
        plan=plan,
        domain=domain,
        examples=source.examples,
        expected=expected,
        calibration_rows=calibration_rows,
        weight_bytes=trained.weight_bytes,
        rounding=rounding,
        like=request.like,
    )


def _write_verified(prepared: _Prepared, request: _Request, out: Path) -> ConversionReport:
    """Write all files, and publish them as one set once they have passed verification.

    Raises:
        ParityError: a file differs from the module by more than its tolerance.
    """
    with publishing(out, with_manifest=True) as folder:
        with mapped_files():  # which nobody else writes, and which may exceed the memory
            written = _write(prepared, request, folder)
        check_parity(
            written.values(),
            probabilities=prepared.expected.probabilities,
            hint=DENSE_HINT[request.dense],
        )
        targets = {key: replace(item, path=out / item.path.name) for key, item in written.items()}
        report = _report(prepared, request, targets)
        (folder / f"{request.name}.report.json").write_text(report.to_text(), encoding="utf-8")
        card = model_card(request.name, prepared.models.packed, report, request.about)
        (folder / request.card).write_text(card, encoding="utf-8")
    return report


def _write(prepared: _Prepared, request: _Request, folder: Path) -> dict[str, TargetReport]:
    """Write every target's files to a folder, and compare each with the source."""
    places = {target: folder / f"{request.name}.{target}" for target in request.targets}
    drafts = _filled_drafts(prepared, places, folder)
    if limits := limits_of_numbers(places.values(), prepared.expected):
        uses = limited(prepared.domain.uses, limits, prepared.examples)
        inputs = input_specs(prepared.models.packed, uses)
        prepared = replace(prepared, info=replace(prepared.info, inputs=inputs))
        drafts = _filled_drafts(prepared, places, folder)
    release_file_pages()  # of torch
    tolerance = _tolerance(request)
    with phase("verification"):
        return {
            target: replace(
                measure_file(file, prepared.expected, tolerance), layers=drafts[target].layers
            )
            for target, file in places.items()
        }


def _filled_drafts(
    prepared: _Prepared, places: Mapping[str, Path], folder: Path
) -> dict[str, Draft]:
    """Write every target's file with its tables; raises UnsupportedError or InputError."""
    drafts = _drafts(prepared, places)
    _check_room(folder)
    fill(*drafts.values())
    return drafts


def _report(
    prepared: _Prepared, request: _Request, targets: dict[str, TargetReport]
) -> ConversionReport:
    """The report of a conversion; `targets` are the measured files at their final paths."""
    expected, validation = prepared.expected, request.validation
    vectors = prepared.info.vectors
    return ConversionReport(
        targets=targets,
        codec=_codecs_text(request.tables),
        dense=request.dense,
        float_layers=request.float_layers,
        calibration_rows=prepared.calibration_rows,
        quantisation_difference=prepared.rounding,
        weight_bytes=prepared.weight_bytes,
        validation_rows=0 if validation is None else len(validation),
        validation_source="" if validation is None else validation.source,
        source_auc=expected.auc,
        probabilities=expected.probabilities,
        fitted=request.fitted,
        fitted_auc=expected.own_auc if request.fitted else None,
        uncompressed=prepared.uncompressed,
        made_by=prepared.info.made_by,
        vector_rows=0 if vectors is None else len(next(iter(vectors.inputs.values()))),
    )


def _tolerance(request: _Request) -> float:
    """The largest difference allowed: larger in the measure in which kept q8 codes may be off."""
    tolerance = DENSE_TOLERANCE[request.dense]
    if request.like is None or request.dense != "q8":
        return tolerance
    return tolerance * (1 + request.like.slack)


def _codecs_text(tables: str | TableCodec | Mapping[str, str | TableCodec]) -> str:
    """Codecs as text: "q8", or "item q4, others q8"."""
    if not isinstance(tables, Mapping):
        return codec_text(table_codec(tables))
    parts = {"others" if name == OTHERS else name: codec for name, codec in tables.items()}
    return ", ".join(f"{name} {codec_text(table_codec(codec))}" for name, codec in parts.items())


def _check_request(request: _Request) -> None:
    """Raise SpecError that names every setting that is wrong."""
    targets, tables, dense = request.targets, request.tables, request.dense
    faults = []
    if unknown := [target for target in targets if target not in TARGETS]:
        faults.append(f"unknown targets {', '.join(unknown)}; choose from {', '.join(TARGETS)}")
    if not targets:
        faults.append("no targets")
    for codec in tables.values() if isinstance(tables, Mapping) else [tables]:
        try:
            table_codec(codec)
        except SpecError as error:
            faults.append(str(error))
    if dense not in DENSE_CODECS:
        faults.append(f"unknown dense codec {dense!r}; choose from {', '.join(DENSE_CODECS)}")
    if request.calibration is not None and dense != "q8":
        faults.append(f"calibration rows are for q8 layers, but dense is {dense!r}")
    if type(request.vectors) is not int or not 0 <= request.vectors <= MOST_VECTOR_ROWS:
        faults.append(f"vectors must be 0..{MOST_VECTOR_ROWS} rows, got {request.vectors!r}")
    if request.inputs not in INPUT_FORMS:
        faults.append(f"unknown inputs {request.inputs!r}; choose from {', '.join(INPUT_FORMS)}")
    for what, name, suffix in (("name", request.name, ".odm"), ("card", request.card, "")):
        if not name or not is_plain_name(name + suffix):
            faults.append(f"{what}: expected a plain file name, got {name!r}")
    if not request.card.lower().endswith(".md"):
        faults.append(f"card: expected a name that ends in .md, got {request.card!r}")
    if faults:
        raise SpecError("conversion: " + "; ".join(faults))


def _code_bytes(captured: CapturedModel, codecs: Mapping[str, TableCodec]) -> int:
    """The least number of bytes of the codes of all tables, without scales."""
    widths = {lookup.table: lookup.widths for lookup in captured.lookups}
    shapes = {lookup.table: (lookup.spec.rows, lookup.spec.row_dim) for lookup in captured.lookups}
    return sum(_code_bits(codecs[name], *shapes[name], widths[name]) for name in shapes) // 8


def _code_bits(
    codec: TableCodec, rows: int, dim: int, widths: npt.NDArray[np.integer] | None
) -> int:
    """Bits of the codes of a table [rows, dim] with kept widths [rows]."""
    if isinstance(codec, str):
        return BITS[codec] * (rows * dim if widths is None else int(widths.sum(dtype=np.int64)))
    bits, start = 0, 0
    for section in resolve_sections(codec, rows, dim):
        count, width = section.rows or 0, section.width or dim
        part = None if widths is None else np.minimum(widths[start : start + count], width)
        bits += _code_bits(section.codec, count, width, part)
        start += count
    return bits


def _source(
    module: nn.Module | str | Path,
    example_inputs: Any,
    dynamic_axes: DynamicAxes | None,
    weights: str | Path | None,
) -> Source:
    """The torch module or .onnx file to convert; see `convert`.

    Raises:
        SpecError: an argument is for the other kind of source.
        FileFormatError: a file is damaged.
    """
    if not isinstance(module, str | Path):
        files = None if weights is None else Weights(weights)
        return TorchSource(module, example_inputs, dynamic_axes, files)
    if weights is not None:
        raise SpecError("weights are for a torch module; an .onnx file contains its weights")
    if dynamic_axes is not None:
        raise SpecError(
            "dynamic axes are for a torch module; an .onnx file declares those of its inputs"
        )
    if example_inputs is not None and not isinstance(example_inputs, Mapping):
        raise SpecError(
            "example inputs of an .onnx file must be a dictionary of arrays by input name, got "
            f"{type(example_inputs).__name__}"
        )
    return OnnxSource(Path(module), example_inputs)


def _checked_features(features: FeatureSpec | None, names: Sequence[str]) -> FeatureSpec:
    """The features, none by default; raises SpecError where they are not of these inputs."""
    if features is None:
        return FeatureSpec()
    features = features.with_short_hashes()
    if {item.name for item in features.fields} != set(names):
        known = ", ".join(item.name for item in features.fields)
        raise SpecError(f"features are for {known}; the module's inputs are {', '.join(names)}")
    return features


def _versions() -> dict[str, str]:
    """Versions of this package and of those that the conversion depends on."""
    packages = ("torch", "onnx", "onnx-ir", "onnxruntime", "ai-edge-litert", "numpy")
    versions = {"ondevice-ctr": ondevice.__version__}
    for package in packages:
        with contextlib.suppress(metadata.PackageNotFoundError):
            versions[package] = metadata.version(package)
    return versions


def _drafts(prepared: _Prepared, places: Mapping[str, Path]) -> dict[str, Draft]:
    """Write every target's file without its tables.

    Raises:
        UnsupportedError: operators that any of the targets lacks, all listed.
    """
    drafts: dict[str, Draft] = {}
    errors: dict[str, LackingOperatorsError] = {}
    for target, file in places.items():
        try:
            drafts[target] = _emit(target, prepared, file)
        except LackingOperatorsError as error:
            errors[target] = error
    if errors:
        raise lacking(errors, list(places))
    return drafts


def _check_room(folder: Path) -> None:
    """Check that the disk has room for the files of a folder, whose tables are not written yet.

    Raises:
        InputError: it has not.
    """
    needed = sum(file.stat().st_size for file in folder.iterdir())
    if needed > (free := shutil.disk_usage(folder).free):
        raise InputError(
            f"{folder.parents[2]}: the files take {needed:,} bytes, the disk has {free:,} bytes "
            "free"
        )


def _emit(target: str, prepared: _Prepared, file: Path) -> Draft:
    """Write one target's file without its tables."""
    model = prepared.models.of(target)
    if target == "odm":
        return emit_odm(model, file, prepared.info, prepared.plan, prepared.like)
    emit = emit_onnx if target == "onnx" else emit_tflite
    info = replace(prepared.info, tables=stored_tables(model))
    return emit(model, file, info.to_bytes(), prepared.plan)
