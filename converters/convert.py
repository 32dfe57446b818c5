"""The conversion: capture, pack, emit every target, verify each file, then put it in place."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn
from torch.utils import _pytree as pytree

import ondevice
from ondevice.codecs import CODECS, Codec
from ondevice.converters.capture import capture, evaluating, input_names
from ondevice.converters.column_blocks import stored_tables
from ondevice.converters.emit_odm import emit_odm
from ondevice.converters.emit_onnx import emit_onnx
from ondevice.converters.emit_tflite import emit_tflite
from ondevice.converters.graph import PackedModel
from ondevice.converters.merge import merge_lookups
from ondevice.converters.pack import pack
from ondevice.converters.probe import probe_ids
from ondevice.dense import DENSE_CODECS, DenseCodec
from ondevice.errors import ParityError, SpecError
from ondevice.features import FeatureSpec
from ondevice.info import InputSpec, ModelInfo, TestVectors
from ondevice.model import file_bytes

TARGETS = ("odm", "onnx", "tflite")
# Largest |probability difference| between the torch module, computing with the dequantised
# tables, and a converted file: float32 sums in another order stay two magnitudes below it.
TOLERANCE = 1e-5
# The same for a native file by the codec of its dense layers, which the torch module does not
# round: f16 weights, and int8 weights with int8 activations (choices of this project).
DENSE_TOLERANCE: dict[DenseCodec, float] = {"f32": TOLERANCE, "f16": 2e-3, "q8": 5e-2}
BATCHES = (1, 2, 17, 1024)
VECTOR_ROWS = 64

IdArray = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float32]


@dataclass(frozen=True)
class TargetReport:
    """One written file.

    Attributes:
        path: where it lies.
        bytes: its size, with the external data of an ONNX file.
        runtime: what it was verified in.
        max_difference: largest |probability difference| from the torch module.
        checked_rows: how many rows were compared.
    """

    path: Path
    bytes: int
    runtime: str
    max_difference: float
    checked_rows: int


@dataclass(frozen=True)
class ConversionReport:
    """What a conversion wrote.

    Attributes:
        targets: a report for every target.
        codec: how table values are stored.
        quantisation_difference: largest |probability difference| between the torch module with
            its own tables and with the dequantised ones, over the same rows.
        made_by: versions of the packages that wrote the files.
    """

    targets: dict[str, TargetReport]
    codec: str
    quantisation_difference: float
    made_by: dict[str, str] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """A JSON-ready object."""
        data = asdict(self)
        for target in data["targets"].values():
            target["path"] = str(target["path"])
        return data


def convert(
    module: nn.Module,
    example_inputs: tuple[Any, ...],
    out_dir: str | Path,
    *,
    targets: Sequence[str] = TARGETS,
    tables: Codec = "q8",
    dense: DenseCodec = "f32",
    features: FeatureSpec | None = None,
    name: str = "model",
) -> ConversionReport:
    """Convert a torch module to model files and verify each one in its runtime.

    Args:
        module: takes int64 IDs (tensors, or a dict of them by field) and returns click
            probabilities float32 [batch].
        example_inputs: positional arguments for the module; a few ordinary rows, at least 2.
        out_dir: folder for `name`.odm, `name`.onnx (with `name`.onnx.data) and `name`.tflite.
        targets: which of "odm", "onnx", "tflite" to write.
        tables: codec of the embedding tables: "q8", "q4", "f16" or "f32".
        dense: codec of dense layers in the native file: "f32", "f16", or "q8" (int8 weights and
            dynamically quantised activations; its tolerance is DENSE_TOLERANCE["q8"]).
        features: how raw values become IDs, stored in every file.
        name: file name without suffix.

    Raises:
        UnsupportedError: a target cannot express the module; lists every operator.
        ParityError: a file differs from the module by more than TOLERANCE; nothing is left.
        SpecError: the settings or the example inputs are wrong.
    """
    _check_settings(targets, tables, dense)
    names = input_names(module, example_inputs)
    packed = pack(capture(module, example_inputs), tables)
    inputs = _input_specs(packed)
    leaves = [leaf.numpy() for leaf in pytree.tree_leaves(example_inputs)]
    examples = dict(zip(names, leaves, strict=True))
    source = _Source(module, example_inputs, names)
    outputs = tuple(str(value.name) for value in packed.model.graph.outputs)
    batches = [probe_ids(inputs, examples, _paddings(packed), rows) for rows in BATCHES]
    travelling = probe_ids(inputs, examples, _paddings(packed), VECTOR_ROWS)
    with _dequantised(module, packed):
        expected = [source(batch) for batch in batches]
        vectors = TestVectors(travelling, {outputs[0]: source(travelling)}, TOLERANCE)
    original = [source(batch) for batch in batches]
    info = ModelInfo(
        inputs=inputs,
        outputs=outputs,
        features=_checked_features(features, names),
        vectors=vectors,
        made_by=_versions(),
    )
    reports = _write(packed, Path(out_dir), name, targets, info, batches, expected, dense)
    return ConversionReport(
        targets=reports,
        codec=tables,
        quantisation_difference=max(map(_difference, expected, original)),
        made_by=info.made_by,
    )


def _check_settings(targets: Sequence[str], tables: str, dense: str) -> None:
    faults = []
    if unknown := [target for target in targets if target not in TARGETS]:
        faults.append(f"unknown targets {', '.join(unknown)}; choose from {', '.join(TARGETS)}")
    if not targets:
        faults.append("no targets")
    if tables not in CODECS:
        faults.append(f"unknown codec {tables!r}; choose from {', '.join(CODECS)}")
    if dense not in DENSE_CODECS:
        faults.append(f"unknown dense codec {dense!r}; choose from {', '.join(DENSE_CODECS)}")
    if faults:
        raise SpecError("conversion: " + "; ".join(faults))


class _Source:
    """The torch module as a function of IDs by input name."""

    def __init__(
        self, module: nn.Module, example_inputs: tuple[Any, ...], names: list[str]
    ) -> None:
        self._module = module
        self._structure = pytree.tree_structure(example_inputs)
        self._names = names

    def __call__(self, ids: Mapping[str, IdArray]) -> FloatArray:
        leaves = [torch.from_numpy(ids[name]) for name in self._names]
        arguments = pytree.tree_unflatten(leaves, self._structure)
        with evaluating(self._module), torch.inference_mode():
            output = self._module(*arguments)
        if not isinstance(output, torch.Tensor):
            raise SpecError(f"the module must return one tensor, got {type(output).__name__}")
        return output.numpy()


@contextlib.contextmanager
def _dequantised(module: nn.Module, packed: PackedModel) -> Iterator[None]:
    """Let the module compute with the tables as the files store them."""
    parameters = dict(module.named_parameters())
    kept = {name: parameters[name].detach().clone() for name in packed.tables}
    try:
        with torch.no_grad():
            for name, table in packed.tables.items():
                parameters[name].copy_(torch.from_numpy(table.dequantise()))
        yield
    finally:
        with torch.no_grad():
            for name, values in kept.items():
                parameters[name].copy_(values)


def _input_specs(packed: PackedModel) -> tuple[InputSpec, ...]:
    specs = []
    for value in packed.model.graph.inputs:
        sizes = [size if isinstance(size, int) else str(size) for size in value.shape or ()]
        limits = [
            lookup.spec.rows
            for lookup in packed.lookups
            if lookup.node.inputs[0] is value
            and lookup.spec.scheme == "full"
            and lookup.spec.oov_row is None
        ]
        shape = ("batch", *sizes[1:])
        specs.append(InputSpec(str(value.name), shape, min(limits, default=None)))
    return tuple(specs)


def _paddings(packed: PackedModel) -> dict[str, int]:
    """The padding ID of each input that has one."""
    return {
        str(lookup.node.inputs[0].name): lookup.spec.padding_id
        for lookup in packed.lookups
        if lookup.spec.padding_id is not None and lookup.node.inputs[0] is not None
    }


def _checked_features(features: FeatureSpec | None, names: list[str]) -> FeatureSpec:
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


def _write(
    packed: PackedModel,
    out: Path,
    name: str,
    targets: Sequence[str],
    info: ModelInfo,
    batches: list[dict[str, IdArray]],
    expected: list[FloatArray],
    dense: DenseCodec,
) -> dict[str, TargetReport]:
    """Write and verify all targets in a temporary folder, then move them into `out`."""
    reports = {}
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{name}.", dir=out) as folder:
        for target in targets:
            file = Path(folder) / f"{name}.{target}"
            _emit(target, packed, file, info, dense)
            tolerance = DENSE_TOLERANCE[dense] if target == "odm" else TOLERANCE
            reports[target] = _verify(file, batches, expected, tolerance)
        for file in sorted(Path(folder).iterdir(), reverse=True):  # external data first
            file.replace(out / file.name)
    return {
        target: replace(report, path=out / report.path.name) for target, report in reports.items()
    }


def _emit(target: str, packed: PackedModel, file: Path, info: ModelInfo, dense: DenseCodec) -> None:
    if target == "odm":
        if info.vectors is not None:
            vectors = replace(info.vectors, tolerance=DENSE_TOLERANCE[dense])
            info = replace(info, vectors=vectors)
        emit_odm(packed, file, info, dense=dense)
        return
    merged = merge_lookups(packed)
    emit = emit_onnx if target == "onnx" else emit_tflite
    emit(merged, file, replace(info, tables=stored_tables(merged)).to_text())


def _verify(
    file: Path,
    batches: list[dict[str, IdArray]],
    expected: list[FloatArray],
    tolerance: float,
) -> TargetReport:
    """Compare a file with the torch module in every engine of this machine that runs it."""
    models = [ondevice.load(file)]
    if models[0].engine == "native":
        models.append(ondevice.load(file, engine="numpy"))
    largest = 0.0
    for model in models:
        for batch, right in zip(batches, expected, strict=True):
            difference = _difference(model.predict(batch), right)
            if not difference <= tolerance:  # also catches NaN
                raise ParityError(
                    f"{file.name}: probabilities differ from the torch module by "
                    f"{difference:.3g} in {model.runner.runtime}, more than {tolerance:g}; "
                    "nothing was written"
                )
            largest = max(largest, difference)
    return TargetReport(
        path=file,
        bytes=file_bytes(file),
        runtime=", ".join(model.runner.runtime for model in models),
        max_difference=largest,
        checked_rows=sum(len(right) for right in expected),
    )


def _difference(left: FloatArray, right: FloatArray) -> float:
    if left.shape != right.shape:
        raise ParityError(f"output shape {list(left.shape)} instead of {list(right.shape)}")
    return float(np.abs(left - right).max())
