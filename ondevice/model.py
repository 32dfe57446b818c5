"""A loaded model: checks a request, encodes raw values, scores it, whatever the engine."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ondevice.arrow_columns import decoded
from ondevice.codecs import DenseArithmetic
from ondevice.engines import CLOSED, Checkable, Engine, Refusing, open_engine
from ondevice.engines.native import NativeEngine
from ondevice.engines.native_sizes import SizedNativeEngine
from ondevice.engines.options import Options
from ondevice.engines.trusted import open_trusted
from ondevice.errors import FileFormatError, InputError
from ondevice.features import FeatureSpec, to_int64
from ondevice.frames import id_columns, is_table, raw_columns
from ondevice.hashing import IdArray
from ondevice.info import InputSpec, ModelInfo
from ondevice.model_path import model_path
from ondevice.notebook import model_html
from ondevice.trust import Keys, read_trust

Values = Sequence[Any] | npt.NDArray[Any]
# By input name, or a data frame or Arrow table with a column for every input.
Request = Mapping[str, Values] | Any
ValueArray = npt.NDArray[Any]  # int64 IDs or float32 values
FloatArray = npt.NDArray[np.float32]
Scores = FloatArray | dict[str, FloatArray]

CHECKS = ("open", "full", "background")

_DTYPES: dict[str, np.dtype[Any]] = {
    "int64": np.dtype(np.int64),
    "float32": np.dtype(np.float32),
}


def load(
    path: str | Path,
    *,
    engine: str = "auto",
    threads: int = 1,
    dense: DenseArithmetic | None = None,
    lock: bool = False,
    keys: Keys | None = None,
    state: str | Path | None = None,
    now: datetime | None = None,
    check: str = "open",
) -> Model:
    """Open a model file written by ondevice.

    With `keys`, the file opens only if the manifest beside it is signed, and the bytes that were
    checked are those that run: they are copied into memory, so loading takes time and memory for
    the whole file.

    Args:
        path: an .odm, .onnx or .tflite file.
        engine: "auto" takes the best engine for the file: "native" for .odm, or "numpy" where the
            native one is not compiled; "onnx"; "tflite".
        threads: how many threads the engine may use for one request. "native" shares the rows of
            requests of 256 rows and more, and computes the same bits for any number; "numpy" takes
            one.
        dense: "bf16" computes the dense layers that an .odm file stores in f32 or f16 with weights,
            rounded now, and inputs in bfloat16: up to twice as fast on processors with AVX512-BF16,
            with the same bits on all (docs/native.md). None: as they are stored.
        lock: copy the whole file into memory that the system never pages out, in huge pages where
            it has them (docs/native.md); "native" only. A child after fork has the memory, but not
            locked.
        keys: who must have signed the set of files (docs/signing.md): a public key, a file with
            one or several, a list of which any may have signed, or a root document.
        state: a file in which this device remembers the newest version that it used, so that older
            ones are refused; with `keys` only.
        now: the time for expiries, by default that of the system; with `keys` only.
        check: of native files above 8 MiB, whose arrays are not compared with their checksums when
            they are opened: "open" leaves it so; "full" compares them before `load` returns;
            "background" in a thread, which begins when `load` returns: once it finds damage, every
            request raises FileFormatError. All bytes of other files are compared in any case, and
            with `keys` those of all files.

    Raises:
        FileFormatError: the file is missing, damaged, or not written by ondevice; with `keys`, its
            manifest is missing or damaged, or says otherwise.
        TrustError: the set is not signed by `keys`, has expired, or is older than one seen.
        MissingDependencyError: the engine's runtime is not installed, or what checks signatures.
        LockError: the system does not let so much memory be locked; the message has its limit.
        InputError: no path, or the engine or the check is unknown, or the engine, `dense` or `lock`
            does not fit the file; `state` or `now` without `keys`.
    """
    location = model_path(path)
    if check not in CHECKS:
        raise InputError(f"unknown check {check!r}; choose {', '.join(CHECKS)}")
    options = Options(engine, threads, dense, lock)
    if keys is not None:
        trust = read_trust(keys, state, now)
        opened = open_trusted(location, options, trust)
    elif state is not None or now is not None:
        raise InputError("state and now belong to signatures: expected keys with them")
    else:
        opened = open_engine(location, options)
    name, runner, info = opened
    native = runner if isinstance(runner, NativeEngine | SizedNativeEngine) else None
    reopen = (options, check) if keys is None else None
    model = Model(location, name, runner, info, native, reopen)
    if check == "full" and keys is None:
        model.check()
    elif check == "background" and keys is None:
        threading.Thread(target=model._check_later, name="ondevice check", daemon=True).start()
    return model


def check_is_file(path: Path) -> None:
    """Raise FileFormatError unless a model's path is that of a file."""
    if not path.is_file():
        what = "a folder, not a model file" if path.is_dir() else "no such file"
        raise FileFormatError(f"{path}: {what}")


def model_files(path: Path) -> tuple[Path, ...]:
    """The files of a model: the file itself, and the external data of an .onnx file."""
    data = path.with_name(path.name + ".data")
    return (path, data) if data.is_file() else (path,)


def check_one_file(path: Path) -> None:
    """Refuse a model of two files, of which an update in place would replace one.

    Raises:
        InputError: says what to do.
    """
    if len(files := model_files(path)) > 1:
        raise InputError(
            f"{path}: its weights are in {files[1].name}, so both change together, but an update "
            "replaces one file: update an .odm or .tflite file, or publish both files in a new "
            "folder and switch a link to it"
        )


def file_bytes(path: Path) -> int:
    """Size of a model on disk, all its files together."""
    return sum(file.stat().st_size for file in model_files(path))


def sha256(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@dataclass(frozen=True, eq=False)
class Model:
    """A click-through-rate model ready to score requests; safe to use from several threads.

    Two models are equal where they are the same object, and a copy is the model itself. Pickling
    keeps the path and the options of `load`; unpickling, in a worker process say, opens the file
    that lies there.
    """

    path: Path
    engine: str
    runner: Engine
    info: ModelInfo
    _native: NativeEngine | SizedNativeEngine | None = field(default=None, repr=False)
    # How `load` was asked; None: opened with keys.
    _reopen: tuple[Options, str] | None = field(default=None, repr=False)
    # The engine that takes a dict of arrays unchecked: it finds every fault itself. It returns only
    # the first output, and takes one size of every axis.
    _quick: NativeEngine | None = field(default=None, init=False, repr=False)

    def __post_init__(self) -> None:
        if len(self.outputs) == 1 and isinstance(self._native, NativeEngine):
            object.__setattr__(self, "_quick", self._native)

    def __copy__(self) -> Model:
        """The model itself: nothing but `close` and a failed check change it."""
        return self

    def __deepcopy__(self, _: dict[int, Any]) -> Model:
        """The model itself, as `__copy__`."""
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        """For pickle: the path and the options of `load`, and nothing of the file.

        Raises:
            InputError: the model is closed, or was opened with keys, whose check belongs to the
                process that runs it.
        """
        if self.runner is CLOSED:
            raise InputError("the model is closed")
        if self._reopen is None:
            raise InputError(
                f"{self.path}: a model that was loaded with keys is not pickled; "
                "load it in each process, which then checks its signature"
            )
        return _reopened, (str(self.path.absolute()), *self._reopen)

    def __repr__(self) -> str:
        """One line: the file, the engine, inputs and outputs."""
        inputs = ", ".join(
            f"{item.name}[{', '.join(map(str, item.shape))}]" for item in self.inputs
        )
        return (
            f"<ondevice.Model {self.path} on {self.runner.runtime}: {inputs} -> "
            f"{', '.join(self.outputs)}>"
        )

    def _repr_html_(self) -> str:
        """A table of the inputs, for notebooks."""
        return model_html(self.path, self.runner.runtime, self.info)

    def __enter__(self) -> Model:
        """The model, which `with` closes at its end."""
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Take no more requests, and release the file and its memory once the running ones end.

        Without it the memory goes with the last reference to the model.
        """
        self._refuse(CLOSED)

    def _refuse(self, engine: Engine) -> None:
        """Let this engine, which refuses every request, take all from now on."""
        for name, value in (("_quick", None), ("_native", None), ("runner", engine)):
            object.__setattr__(self, name, value)

    def check(self) -> None:
        """Compare every byte of the file in use with the checksums in it.

        For native files above 8 MiB, of which `load` checks only the header and all sizes: takes
        0.4 ms a MB, while other threads go on scoring. ONNX and TFLite files were compared with
        their digests when they were opened.

        Raises:
            FileFormatError: the file is damaged, or was changed; so does every request from then
                on, since no score can be trusted.
            InputError: the model is closed.
        """
        try:
            if isinstance(self.runner, Checkable):
                self.runner.check()
        except FileFormatError as error:
            self._refuse(Refusing(error))
            raise

    def _check_later(self) -> None:
        """Check in a thread of its own, where nobody takes the error: requests raise it."""
        try:
            self.check()
        except (InputError, FileFormatError):
            return  # closed meanwhile, or damaged: then requests raise it
        except MemoryError:
            self._refuse(Refusing(FileFormatError(f"{self.path}: no memory was left to check it")))

    @property
    def inputs(self) -> tuple[InputSpec, ...]:
        """The inputs, in order."""
        return self.info.inputs

    @property
    def features(self) -> FeatureSpec:
        """How raw values become IDs."""
        return self.info.features

    @property
    def outputs(self) -> tuple[str, ...]:
        """Names of the outputs; `predict` returns a dict if there are several."""
        return self.info.outputs

    def predict(self, inputs: Request, *, raw: bool = False) -> Any:
        """Click probabilities.

        Args:
            inputs: for every input, integer IDs [batch, ...] (any 64-bit pattern; unsigned ones
                keep their bits) or, where the model takes them, numbers; or with `raw` the raw
                strings or integers. A mapping by input name; a pandas or polars frame, an Arrow
                table or record batch, whose other columns are ignored; of a model with one input,
                the values themselves.
            raw: encode the values by the model's feature specification first.

        Returns:
            float32 [batch, ...]; of a model with several outputs, a dict of them by name.

        Raises:
            InputError: a missing or unknown input, a wrong dtype or shape, an empty batch, an ID
                that the model rejects, or the model is closed.
            MissingDependencyError: a table, and pyarrow is not installed.
        """
        request = self._encoded(inputs)[0] if raw else inputs
        if (engine := self._quick) is not None:  # arrays that need no conversion
            try:
                quick = engine.predict(request)
            except InputError:  # an ID: the checks below say of which input
                quick = None
            if quick is not None:
                return quick
        (named,) = self._named(request)
        return self._scores(self.runner.run(checked_inputs(self.inputs, named)))

    def rank(self, context: Request, candidates: Request, *, raw: bool = False) -> Any:
        """Click probabilities of N candidates for one context, [N, ...], as from `predict`.

        Args:
            context: inputs that are the same for all candidates, one value each.
            candidates: the other inputs, N values each. Either may be a table, as in `predict`.
            raw: as in `predict`.

        Raises:
            InputError: as in `predict`; also a context value that is not single, or an input
                named in both.
            MissingDependencyError: as in `predict`.
        """
        shared, varied = self._encoded(context, candidates) if raw else (context, candidates)
        if (engine := self._quick) is not None:
            try:
                quick = engine.rank(shared, varied)
            except InputError:
                quick = None
            if quick is not None:
                return quick
        shared, varied = self._named(shared, varied)
        single = {name: _array(str(name), values) for name, values in shared.items()}
        many = {name: _array(str(name), values) for name, values in varied.items()}
        if both := sorted(str(name) for name in single if name in many):
            raise InputError(f"inputs given as context and as candidates: {', '.join(both)}")
        if not many:
            raise InputError("no candidate inputs; give at least one input with N values")
        for name, array in single.items():
            if array.shape[:1] != (1,):
                raise InputError(
                    f"context input {name!r}: expected one value (a list of length 1), "
                    f"got shape {list(array.shape)}"
                )
        count = max(len(np.atleast_1d(array)) for array in many.values())
        repeated = {name: np.repeat(array, count, axis=0) for name, array in single.items()}
        checked = checked_inputs(self.inputs, {**many, **repeated})
        if (native := self._native) is None:
            outputs = self.runner.run(checked)
        else:
            first = {name: np.ascontiguousarray(checked[name][:1]) for name in single}
            outputs = native.run_ranked(first, checked)
        return self._scores(outputs)

    def _scores(self, outputs: dict[str, FloatArray]) -> Scores:
        names = self.info.outputs
        return outputs[names[0]] if len(names) == 1 else {name: outputs[name] for name in names}

    def _encoded(self, *requests: Request) -> list[Mapping[str, IdArray]]:
        """The IDs of requests of raw values, by input name. Raises InputError."""
        named = [item if is_table(item) else self._mapping(item) for item in requests]
        if any(map(is_table, named)):
            given = {name for item in named if not is_table(item) for name in item}
            fields = [self.features[spec.name] for spec in self.inputs if spec.name not in given]
            columns = raw_columns(named, fields)
        else:
            columns = named
        return [
            ids if is_table(request) else self.features.encode(ids)
            for request, ids in zip(named, columns, strict=True)
        ]

    def _named(self, *requests: Request) -> list[Mapping[str, Any]]:
        """Requests of IDs and numbers by input name. Raises InputError."""
        return [
            id_columns(item, self.inputs) if is_table(item) else self._mapping(item)
            for item in requests
        ]

    def _mapping(self, request: Request) -> Mapping[str, Any]:
        """A request by input name. Raises InputError where nothing says which input it is."""
        if isinstance(request, Mapping):
            return request
        if len(self.inputs) == 1 and hasattr(request, "__len__") and not isinstance(request, str):
            return {self.inputs[0].name: request}
        names = ", ".join(item.name for item in self.inputs)
        raise InputError(
            f"expected a mapping of input names, or a table; got {type(request).__name__}"
            f"{_advice(request)}; the model takes: {names}"
        )


def _reopened(path: str, options: Options, check: str) -> Model:
    """A model that was pickled."""
    return load(path, **dataclasses.asdict(options), check=check)


def _advice(request: Any) -> str:
    """How to make a table of what somebody may take for one."""
    if hasattr(request, "to_frame"):
        return " (one row of a data frame: frame.iloc[[0]] is a table)"
    if hasattr(request, "collect"):
        return " (collect it first)"
    if isinstance(request, Sequence) and request and isinstance(request[0], Mapping):
        return " (a data frame of these rows is a table)"
    return ""


def checked_inputs(
    specs: Sequence[InputSpec], inputs: Mapping[str, Values]
) -> dict[str, ValueArray]:
    """The inputs of a request as arrays of the types that a model takes.

    Raises:
        InputError: a missing or unknown input, a wrong dtype or shape, an empty batch, or an ID
            that the model rejects.
    """
    names = [item.name for item in specs]
    known = set(names)
    missing = [name for name in names if name not in inputs]
    unknown = [str(name) for name in inputs if name not in known]
    if missing or unknown:
        faults = [f"missing inputs: {', '.join(missing)}"] if missing else []
        faults += [f"unknown inputs: {', '.join(unknown)}"] if unknown else []
        raise InputError(f"{'; '.join(faults)}; the model takes: {', '.join(names)}")
    checked = {item.name: _checked_values(item, inputs[item.name]) for item in specs}
    _check_sizes(specs, checked)
    return checked


def _checked_values(spec: InputSpec, values: Values) -> ValueArray:
    """An input's values as a contiguous, aligned array of its dtype. Raises InputError."""
    if (
        type(values) is np.ndarray
        and values.dtype == _DTYPES[spec.dtype]
        and values.ndim == len(spec.shape)
        and values.size
        and values.flags.c_contiguous
        and values.flags.aligned
        and spec.id_limit is None
    ):
        return values  # the usual request, at a fifth of the price of the checks below
    array = _array(spec.name, values)
    expected = "[" + ", ".join(map(str, spec.shape)) + "]"
    if array.ndim != len(spec.shape):
        raise InputError(f"input {spec.name!r}: expected shape {expected}, got {list(array.shape)}")
    if array.size == 0:
        raise InputError(f"input {spec.name!r}: the batch is empty; expected at least one row")
    if spec.dtype == "float32":
        if array.dtype.kind not in "fiub":
            raise InputError(f"input {spec.name!r}: expected numbers, got dtype {array.dtype}")
        checked: ValueArray = _float32(spec.name, array)
    else:
        checked = np.require(to_int64(array, spec.name), np.int64, ["C", "A"])
    if spec.id_limit is not None:
        _check_limits(spec, checked)
    return checked


def _array(name: str, values: Values) -> ValueArray:
    """The values as an array. Raises InputError where they are ragged, masked or no values."""
    if isinstance(values, np.ma.MaskedArray):
        raise InputError(f"input {name!r}: masked arrays are not read; fill the masked values")
    try:
        array = np.asarray(decoded(values))
    except Exception as error:  # whatever the type of the values raises
        raise InputError(f"input {name!r}: {error}") from error
    if array.ndim > 1 and _holds_masked(values, array.ndim):
        raise InputError(f"input {name!r}: masked arrays are not read; fill the masked values")
    return array


def _holds_masked(values: Any, depth: int) -> bool:
    """Whether masked arrays are among lists, of which numpy reads the masked values too."""
    if isinstance(values, np.ma.MaskedArray):
        return True
    inside = depth > 1 and isinstance(values, list | tuple)
    return inside and any(_holds_masked(value, depth - 1) for value in values)


def _float32(name: str, array: ValueArray) -> FloatArray:
    """Numbers as an aligned float32 array. Raises InputError where one becomes infinite."""
    with np.errstate(over="ignore"):
        numbers: FloatArray = np.require(array, np.float32, ["C", "A"])
    if array.dtype.itemsize > 4 and (np.isinf(numbers) & np.isfinite(array)).any():
        raise InputError(f"input {name!r}: a number is too large for float32")
    return numbers


def _check_limits(spec: InputSpec, values: ValueArray) -> None:
    """Check IDs against the limits of their tables, column by column; NaN is never an ID."""
    flat = values.reshape(len(values), -1)
    low, high, limited = _bounds(spec, flat.shape[1])
    outside = (flat < low) | (flat > high)
    if spec.dtype == "float32":
        outside |= np.isnan(flat) & limited
    if outside.any():
        row, column = np.argwhere(outside)[0].tolist()
        place = np.unravel_index(column, values.shape[1:]) if values.ndim > 1 else ()
        limit = spec.id_limit[column] if isinstance(spec.id_limit, tuple) else spec.id_limit
        least = spec.id_low[column] if isinstance(spec.id_low, tuple) else spec.id_low
        raise InputError(
            f"input {spec.name!r}: ID {flat[row, column]} at {[row, *map(int, place)]} is "
            f"outside {least}..{int(limit or 0) - 1}, and the model has no out-of-vocabulary row "
            "for it"
        )


@functools.lru_cache(maxsize=1024)
def _bounds(spec: InputSpec, columns: int) -> tuple[Any, Any, npt.NDArray[np.bool_]]:
    """Lowest and highest legal value of every element of a row, and which are IDs with a limit."""
    limits = spec.id_limit if isinstance(spec.id_limit, tuple) else (spec.id_limit,) * columns
    limited = np.array([limit is not None for limit in limits])
    top, dtype = 2**63 - 1, _DTYPES[spec.dtype]
    lows = spec.id_low if isinstance(spec.id_low, tuple) else (spec.id_low,) * columns
    low = np.array(
        [-top - 1 if limit is None else lowest for limit, lowest in zip(limits, lows, strict=True)],
        np.int64,
    )
    high = np.array([top if limit is None else limit - 1 for limit in limits], np.int64)
    if dtype.kind == "f":  # a fraction is dropped, so -0.5 is ID 0 and 9.9 is ID 9
        below = np.nextafter(low.astype(np.float32) - 1, np.float32(np.inf), dtype=np.float32)
        above = np.nextafter(high.astype(np.float32) + 1, np.float32(-np.inf), dtype=np.float32)
        infinity = np.float32(np.inf)
        return np.where(limited, below, -infinity), np.where(limited, above, infinity), limited
    return low, high, limited


def _check_sizes(specs: Sequence[InputSpec], arrays: Mapping[str, ValueArray]) -> None:
    """Each fixed size must match, and each named one must be the same in all inputs."""
    shapes = {array.shape for array in arrays.values()}
    if len(shapes) == 1 and len(next(iter(shapes))) == 1:
        return  # single IDs, one batch size: the usual request
    seen: dict[str, tuple[int, str]] = {}
    for spec in specs:
        for expected, size in zip(spec.shape, arrays[spec.name].shape, strict=True):
            if isinstance(expected, int):
                if size != expected:
                    raise InputError(f"input {spec.name!r}: expected size {expected}, got {size}")
                continue
            first_size, first_name = seen.setdefault(expected, (size, spec.name))
            if size != first_size:
                raise InputError(
                    f"inputs differ in {expected} size: {first_name!r} has {first_size}, "
                    f"{spec.name!r} has {size}"
                )
