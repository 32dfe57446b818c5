"""The feature specification: raw strings, integers and numbers of each input field to IDs."""

from __future__ import annotations

import base64
import functools
from collections import Counter
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal, TypeGuard, get_args

import numpy as np
import numpy.typing as npt

from ondevice.cells import Cells, CellValue, RawKind
from ondevice.delimited import COMMAS, DelimitedFormat
from ondevice.errors import InputError, SpecError
from ondevice.hashing import hash_int64, hash_string
from ondevice.limits import MAX_LENGTH
from ondevice.times import EARLIEST, LATEST, TimeForm

Encoding = Literal["hash", "vocabulary", "id", "bucket"]
Unknown = Literal["oov", "hash"]
IdArray = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float64]

PADDING_ID = 0  # a missing value; also what fills a short sequence
OOV_ID = 1  # a value outside the vocabulary
FIRST_VOCABULARY_ID = 2
MISSING_BUCKET_ID = 1  # of a number that is missing or NaN: a trained row of its own
FIRST_BUCKET_ID = 2

NOT_INTEGERS = (bool, np.bool_, np.timedelta64)  # though Python or numpy derive them from integers


@dataclass(frozen=True)
class Field:
    """How one input field's raw values become IDs.

    kind: "string" (hashed as UTF-8), "integer" (hashed as 8 little-endian bytes) or "number" (an
        IEEE double, put into buckets).
    encoding:
        "hash": the XXH64 of the value with `seed`, any 64-bit pattern, read as int64;
        "vocabulary": 2 + the position of that hash in the sorted `vocabulary`, 1 if it is not
            there (out of vocabulary); with `unknown` "hash" it is that hash itself, which a table
            with a head of 2 + len(vocabulary) rows takes for the tail (but for a chance of one in
            2**64 a head row);
        "id": an integer that is an ID already;
        "bucket": 2 + how many of the ascending `boundaries` are less than or equal to the number,
            only by comparisons of doubles, so that every language agrees to the bit; a missing
            value (None) or NaN becomes 1.
    A missing value (None) becomes PADDING_ID (0) in every other encoding.
    length: None for a single value. Otherwise the field is a sequence of up to `length` values,
        oldest first: its IDs are [n, length], filled up with 0 at the end; of a longer sequence
        the last `length` values count.
    cells: how texts are read: a text in place of a value is a cell of the training log, so that
        "NA" is missing if it was missing in training. None: texts are values of the kind
        "string" as they are, and of no other kind (files written before cells were specified).
    """

    name: str
    kind: RawKind = "string"
    encoding: Encoding = "hash"
    seed: int = 0
    vocabulary: IdArray | None = None  # hashes as int64, ascending
    boundaries: FloatArray | None = None  # float64, ascending, finite
    length: int | None = None
    unknown: Unknown = "oov"
    cells: Cells | None = None

    def __post_init__(self) -> None:
        """Check every setting, and those that depend on each other. Raises SpecError."""
        faults = []
        if not isinstance(self.name, str) or not self.name:
            faults.append(f"name must be a non-empty string, got {self.name!r}")
        if self.kind not in get_args(RawKind):
            faults.append(f"kind must be 'string', 'integer' or 'number', got {self.kind!r}")
        if self.encoding not in get_args(Encoding):
            faults.append(f"encoding must be hash, vocabulary, id or bucket, got {self.encoding!r}")
        if self.encoding == "id" and self.kind != "integer":
            faults.append("encoding 'id' needs kind 'integer'")
        if (self.encoding == "bucket") != (self.kind == "number"):
            faults.append("kind 'number' and encoding 'bucket' need each other")
        if not isinstance(self.seed, int) or not 0 <= self.seed < 2**64:
            faults.append(f"seed must be an integer 0..2**64-1, got {self.seed!r}")
        if self.vocabulary is not None:
            vocabulary = self.vocabulary
            if self.encoding != "vocabulary":
                faults.append(f"encoding {self.encoding!r} takes no vocabulary")
            elif vocabulary.dtype != np.int64 or vocabulary.ndim != 1:
                faults.append("vocabulary must be a one-dimensional int64 array")
            elif np.any(vocabulary[1:] <= vocabulary[:-1]):
                faults.append("vocabulary must be strictly ascending")
        if self.unknown not in get_args(Unknown):
            faults.append(f"unknown must be 'oov' or 'hash', got {self.unknown!r}")
        elif self.unknown == "hash" and self.encoding != "vocabulary":
            faults.append("unknown 'hash' is for the encoding 'vocabulary'")
        if self.cells is not None and self.kind != "integer":
            if self.cells.part is not None or self.cells.form == "boolean":
                faults.append("a boolean or a part of a time needs kind 'integer'")
            elif self.cells.form is not None and self.kind != "number":
                faults.append("a time needs kind 'integer' or 'number'")
        faults += _boundary_faults(self.boundaries, self.encoding)
        if self.length is not None:
            whole = isinstance(self.length, int) and not isinstance(self.length, bool)
            if not whole or not 1 <= self.length <= MAX_LENGTH:
                faults.append(f"length must be 1..{MAX_LENGTH}, got {self.length!r}")
            elif self.encoding == "bucket":
                faults.append("a sequence of numbers is not supported")
        if faults:
            raise SpecError(f"field {self.name!r}: " + "; ".join(faults))

    def hashes(self, values: Sequence[Any] | npt.NDArray[Any]) -> IdArray:
        """XXH64 of raw values that are not missing, int64 [len(values)]. Raises InputError."""
        if self.kind == "number":
            raise InputError(f"field {self.name!r}: numbers are not hashed")
        if self.kind == "integer":
            return hash_int64(self._integers(values), self.seed)
        out = np.empty(len(values), dtype=np.int64)
        for number, value in enumerate(values):
            if not isinstance(value, str):
                raise InputError(
                    f"field {self.name!r}: expected strings, got {shown(value)} at {number}"
                )
            try:
                out[number] = hash_string(value, self.seed)
            except UnicodeEncodeError as error:
                raise InputError(
                    f"field {self.name!r}: {shown(value)} at {number} is not valid Unicode"
                ) from error
        return out

    def encode(self, values: Sequence[Any] | npt.NDArray[Any]) -> IdArray:
        """IDs int64 [len(values)] of raw values, [len(values), length] of a sequence field.

        None and NaN are missing values; in a sequence field each value is a list of values, None,
        NaN or the empty list when there are none. Integers may be Python's or an integer array (an
        unsigned one keeps its bits); 3.0 is not an integer, nor is True. With `cells`, a text is
        read as a cell of the training log is, whatever the kind.

        Raises:
            InputError: not a list or array of the right number of axes, a masked array, a value of
                the wrong type, an integer outside int64, or a field whose vocabulary or boundaries
                were not shipped with the model.
        """
        self._check_container(values)
        if self.length is not None:
            return self._encode_sequences(values, self.length)
        return self._encode_values(values)

    def read(self, text: str) -> Any:
        """The value of a cell's text, or the values of a sequence's; None if it is missing.

        Raises:
            InputError: the text is not of the field's kind, or the field has no `cells`.
        """
        if self.cells is None:
            raise InputError(f"field {self.name!r}: no specification of its texts")
        if self.length is None:
            return self._of_text(text, 0)
        texts = self.cells.split(text)
        return None if texts is None else [self._of_text(part, 0) for part in texts]

    def _of_text(self, text: str, number: int) -> CellValue:
        """The value of the text at `number`. Raises InputError."""
        if self.cells is None:
            return text
        try:
            return self.cells.value(text, self.kind)
        except ValueError as error:
            raise InputError(
                f"field {self.name!r}: expected {error}, got {shown(text)} at {number}"
            ) from error

    def _read_values(self, values: Sequence[Any] | npt.NDArray[Any]) -> Sequence[Any]:
        """The values, with texts read; None stands for a missing value."""
        return [
            self._of_text(value, number)
            if isinstance(value, str)
            else (None if _is_nan(value) else self._of_typed(value, number))
            for number, value in enumerate(values)
        ]

    def _of_typed(self, value: Any, number: int) -> Any:
        """The value at `number` that is no text and not missing. Raises InputError."""
        if value is None or self.cells is None or self.cells.form is None:
            return value
        if isinstance(value, datetime | np.datetime64) and value != value:
            return None  # NaT, of numpy and of pandas
        try:
            return self.cells.typed(value, self.kind)
        except ValueError as error:
            raise InputError(
                f"field {self.name!r}: expected {error}, got {shown(value)} at {number}"
            ) from error

    def numbers(self, values: Sequence[Any] | npt.NDArray[Any]) -> FloatArray:
        """Raw values of a field of numbers as float64 [len(values)], NaN where missing.

        Raises:
            InputError: as `encode` does.
        """
        self._check_container(values)
        if isinstance(values, np.ndarray) and values.dtype.kind in self._number_kinds():
            return self._numbers(values)
        if self._are_times(values):
            numbers, missing = self._of_times(values)
            return np.where(missing, np.nan, numbers.astype(np.float64))
        return self._numbers(self._read_values(values))

    def _are_times(self, values: Any) -> TypeGuard[npt.NDArray[np.datetime64]]:
        """Whether the values are numpy's times, of a field of times."""
        form = None if self.cells is None else self.cells.form
        is_times = isinstance(values, np.ndarray) and values.dtype.kind == "M"
        return is_times and form in get_args(TimeForm)

    def _of_times(
        self, values: npt.NDArray[np.datetime64]
    ) -> tuple[IdArray, npt.NDArray[np.bool_]]:
        """The field's integers int64 [n] of numpy's times, and which are missing.

        Raises:
            InputError: a time outside the years 1 to 9999.
        """
        missing = np.isnat(values)
        seconds = np.where(missing, 0, values.astype("datetime64[s]").astype(np.int64))
        wrong = (seconds < EARLIEST) | (seconds > LATEST)
        if wrong.any() or self.cells is None:
            number = int(np.argmax(wrong))
            raise InputError(
                f"field {self.name!r}: expected a time of the years 1 to 9999, "
                f"got {shown(values[number])} at {number}"
            )
        return self.cells.of_seconds(seconds), missing

    def _number_kinds(self) -> str:
        """Kinds of numpy's dtypes whose elements are values as they are."""
        if self.cells is not None and self.cells.form is not None:
            return ""  # they are times or booleans
        return "iuf" if self.kind == "number" else "iu"

    def _check_container(self, values: Any) -> None:
        """Refuse anything but a list or an array of values. Raises InputError."""
        fault = ""
        if isinstance(values, str | bytes | bytearray | Mapping | Set):
            fault = f"expected a list of raw values, got {type(values).__name__}"
        elif isinstance(values, np.ma.MaskedArray):
            fault = "masked arrays are not read; give None for a missing value"
        elif isinstance(values, np.ndarray):
            if values.ndim != 1 and not (values.ndim == 2 and self.length is not None):
                fault = f"expected one value per row, got an array of shape {list(values.shape)}"
        elif not (hasattr(values, "__len__") and hasattr(values, "__iter__")):
            fault = f"expected a list of raw values, got {type(values).__name__}"
        if fault:
            raise InputError(f"field {self.name!r}: {fault}")

    def _encode_values(self, values: Sequence[Any] | npt.NDArray[Any]) -> IdArray:
        if isinstance(values, np.ndarray) and values.dtype.kind in self._number_kinds():
            return self._buckets(values) if self.kind == "number" else self._encode_present(values)
        if self._are_times(values):
            if self.kind == "number":
                return self._buckets(self.numbers(values))
            times, is_missing = self._of_times(values)
            return np.where(is_missing, PADDING_ID, self._encode_present(times))
        listed = self._read_values(values)
        if self.encoding == "bucket":
            return self._buckets(listed)
        missing = np.fromiter((value is None for value in listed), dtype=bool, count=len(listed))
        ids = np.full(len(listed), PADDING_ID, dtype=np.int64)
        present = [value for value in listed if value is not None] if missing.any() else listed
        if len(present):
            ids[~missing] = self._encode_present(present)
        return ids

    def _encode_sequences(self, rows: Sequence[Any] | npt.NDArray[Any], length: int) -> IdArray:
        flat: list[Any] = []
        counts = np.zeros(len(rows), dtype=np.int64)
        for number, row in enumerate(rows):
            if isinstance(row, str) and self.cells is not None:
                row = self.cells.split(row)
            if row is None or _is_nan(row):
                continue
            is_list = isinstance(row, list | tuple)
            if not is_list and not (isinstance(row, np.ndarray) and row.ndim == 1):
                raise InputError(
                    f"field {self.name!r}: expected a list of values, got {shown(row)} at {number}"
                )
            last = list(row)[-length:]
            flat += last
            counts[number] = len(last)
        ids = np.full((len(rows), length), PADDING_ID, dtype=np.int64)
        ids[np.arange(length) < counts[:, None]] = self._encode_values(flat)
        return ids

    def _buckets(self, values: Sequence[Any] | npt.NDArray[Any]) -> IdArray:
        if self.boundaries is None:
            raise InputError(f"field {self.name!r}: its bucket boundaries are not in this file")
        return bucket_ids(self.boundaries, self._numbers(values))

    def _numbers(self, values: Sequence[Any] | npt.NDArray[Any]) -> FloatArray:
        if isinstance(values, np.ndarray) and values.dtype.kind in "iuf":
            return values.astype(np.float64)
        out = np.full(len(values), np.nan)
        for number, value in enumerate(values):
            if value is None:
                continue
            real = isinstance(value, int | float | np.integer | np.floating)
            if not real or isinstance(value, NOT_INTEGERS):
                raise InputError(
                    f"field {self.name!r}: expected numbers, got {shown(value)} at {number}"
                )
            try:
                out[number] = float(value)
            except OverflowError as error:
                raise InputError(
                    f"field {self.name!r}: the integer at {number} is too large for a double"
                ) from error
        return out

    def _encode_present(self, values: Sequence[Any] | npt.NDArray[Any]) -> IdArray:
        if self.encoding == "id":
            return self._integers(values)
        hashes = self.hashes(values)
        if self.encoding == "hash":
            return hashes
        if self.vocabulary is None:
            raise InputError(
                f"field {self.name!r}: its vocabulary is not in this file; "
                "give IDs, or convert with the vocabulary included"
            )
        return vocabulary_ids(self.vocabulary, hashes, self.unknown)

    def _integers(self, values: Sequence[Any] | npt.NDArray[Any]) -> IdArray:
        if isinstance(values, np.ndarray) and values.dtype.kind in "iu":
            return to_int64(values, self.name)
        out = np.empty(len(values), dtype=np.int64)
        for number, value in enumerate(values):
            if isinstance(value, NOT_INTEGERS) or not isinstance(value, int | np.integer):
                raise InputError(
                    f"field {self.name!r}: expected integers, got {shown(value)} at {number}"
                )
            if not -(2**63) <= int(value) < 2**63:
                raise InputError(
                    f"field {self.name!r}: {shown(value)} at {number} does not fit a signed 64-bit "
                    "integer"
                )
            out[number] = int(value)
        return out


@dataclass(frozen=True)
class FeatureSpec:
    """The input fields of a model, in order, and the layout of the log they are read from.

    Attributes:
        fields: the fields.
        text_format: how the log is cut into cells.
        columns: the log's column names where it has no header.
    """

    fields: tuple[Field, ...] = ()
    text_format: DelimitedFormat = COMMAS
    columns: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        counts = Counter(field.name for field in self.fields)
        if doubled := sorted(name for name, count in counts.items() if count > 1):
            raise SpecError(f"fields named twice: {', '.join(doubled)}")

    @functools.cached_property
    def _by_name(self) -> dict[str, Field]:
        return {field.name: field for field in self.fields}

    def __getitem__(self, name: str) -> Field:
        """The field called `name`. Raises InputError when there is none."""
        if name in self._by_name:
            return self._by_name[name]
        known = ", ".join(field.name for field in self.fields) or "none"
        raise InputError(f"no field {name!r}; the model's fields are: {known}")

    def encode(self, raw: Mapping[str, Sequence[Any] | npt.NDArray[Any]]) -> dict[str, IdArray]:
        """IDs of raw values, field by field. Raises InputError (see Field.encode)."""
        return {name: self[name].encode(values) for name, values in raw.items()}

    def to_json(self) -> list[dict[str, Any]] | dict[str, Any]:
        """A JSON-ready list, one object a field; a vocabulary as base64 of its little-endian
        int64 values, boundaries likewise as doubles. A vocabulary that an earlier field has too
        is stored once: the later one names the earlier as `vocabulary_of`. Where the log is no
        CSV with commas, a header and UTF-8, it is an object of that list as `fields`, of
        `text_format` and `columns`.
        """
        owners: dict[int, str] = {}
        items = []
        for field in self.fields:
            owner = None
            if field.vocabulary is not None:
                owner = owners.setdefault(id(field.vocabulary), field.name)
            items.append(_field_to_json(field, owner if owner != field.name else None))
        if self.text_format == COMMAS and self.columns is None:
            return items
        columns = None if self.columns is None else list(self.columns)
        return {"fields": items, "text_format": self.text_format.to_json(), "columns": columns}

    @classmethod
    def from_json(cls, data: Any) -> FeatureSpec:
        """Read what `to_json` wrote. Raises SpecError."""
        if isinstance(data, dict):
            return cls._from_object(data)
        if not isinstance(data, list):
            raise SpecError(f"features: expected a list, got {type(data).__name__}")
        fields: dict[str, Field] = {}
        for number, item in enumerate(data):
            field = _field_from_json(item, fields)
            fields[field.name if field.name not in fields else f"{field.name} {number}"] = field
        return cls(tuple(fields.values()))

    @classmethod
    def _from_object(cls, data: dict[str, Any]) -> FeatureSpec:
        """Read the form of `to_json` that names the log's layout. Raises SpecError."""
        if set(data) != {"fields", "text_format", "columns"} or isinstance(data["fields"], dict):
            raise SpecError(
                "features: expected a list, or an object of fields, text_format, columns"
            )
        columns = data["columns"]
        if columns is not None:
            if not isinstance(columns, list) or not all(isinstance(n, str) for n in columns):
                raise SpecError(f"features: columns must be strings, got {shown(columns)}")
            columns = tuple(columns)
        text_format = DelimitedFormat.from_json(data["text_format"])
        return cls(cls.from_json(data["fields"]).fields, text_format, columns)


def vocabulary_ids(vocabulary: IdArray, hashes: IdArray, unknown: Unknown = "oov") -> IdArray:
    """IDs of value hashes in a sorted vocabulary of hashes.

    Where a hash is absent, OOV_ID or, with `unknown` "hash", the hash.
    """
    absent = hashes if unknown == "hash" else np.full(hashes.shape, OOV_ID, dtype=np.int64)
    if not len(vocabulary):
        return absent.copy()
    position = np.minimum(np.searchsorted(vocabulary, hashes), len(vocabulary) - 1)
    is_known = vocabulary[position] == hashes
    return np.where(is_known, position + FIRST_VOCABULARY_ID, absent).astype(np.int64)


def bucket_ids(boundaries: FloatArray, numbers: FloatArray) -> IdArray:
    """Bucket IDs int64 of float64 numbers: see Field's encoding "bucket"."""
    buckets = np.searchsorted(boundaries, numbers, side="right") + FIRST_BUCKET_ID
    return np.where(np.isnan(numbers), MISSING_BUCKET_ID, buckets).astype(np.int64)


def to_int64(values: npt.NDArray[Any], name: str) -> IdArray:
    """IDs as int64 of this machine's byte order, aligned; uint64 keeps its 64-bit pattern.

    Raises:
        InputError: another dtype; a float is not an ID, even a whole one.
    """
    if values.dtype.kind not in "iu":
        raise InputError(f"input {name!r}: expected integer IDs, got dtype {values.dtype}")
    unsigned = values.dtype.kind == "u" and values.dtype.itemsize == 8
    whole = np.require(values, np.uint64 if unsigned else np.int64, ["A"])
    return whole.view(np.int64) if unsigned else whole


def _boundary_faults(boundaries: FloatArray | None, encoding: str) -> list[str]:
    if boundaries is None:
        return []
    if encoding != "bucket":
        return [f"encoding {encoding!r} takes no boundaries"]
    if boundaries.dtype != np.float64 or boundaries.ndim != 1:
        return ["boundaries must be a one-dimensional float64 array"]
    if not np.isfinite(boundaries).all() or np.any(boundaries[1:] <= boundaries[:-1]):
        return ["boundaries must be finite and strictly ascending"]
    return []


def _field_to_json(field: Field, vocabulary_of: str | None) -> dict[str, Any]:
    """A JSON-ready object; settings at their defaults are left out.

    Args:
        field: what to write; arrays become base64 of little-endian bytes.
        vocabulary_of: an earlier field that has the same vocabulary, named instead of its values.
    """
    item: dict[str, Any] = {
        "name": field.name,
        "kind": field.kind,
        "encoding": field.encoding,
        "seed": field.seed,
    }
    if vocabulary_of is not None:
        item["vocabulary_of"] = vocabulary_of
    elif field.vocabulary is not None:
        item["vocabulary"] = _base64(field.vocabulary.astype("<i8"))
    if field.boundaries is not None:
        item["boundaries"] = _base64(field.boundaries.astype("<f8"))
    if field.length is not None:
        item["length"] = field.length
    if field.unknown != "oov":
        item["unknown"] = field.unknown
    if field.cells is not None:
        item["cells"] = field.cells.to_json()
    return item


def _base64(array: npt.NDArray[Any]) -> str:
    return base64.b64encode(array.tobytes()).decode("ascii")


def _field_from_json(item: Any, earlier: Mapping[str, Field]) -> Field:
    """Read what `_field_to_json` wrote; an `earlier` field may own its vocabulary.

    Raises:
        SpecError: not an object, unknown keys, or values that are no field.
    """
    if not isinstance(item, dict):
        raise SpecError(f"features: expected an object for each field, got {shown(item)}")
    known = {"name", "kind", "encoding", "seed"}
    known |= {"vocabulary", "vocabulary_of", "boundaries", "length", "unknown", "cells"}
    if unknown := sorted(set(item) - known):
        raise SpecError(f"features: unknown keys {', '.join(map(str, unknown))}")
    settings = dict(item)
    try:
        for name, stored, dtype in (("vocabulary", "<i8", "i8"), ("boundaries", "<f8", "f8")):
            if settings.get(name) is not None:
                data = base64.b64decode(settings[name], validate=True)
                settings[name] = np.frombuffer(data, dtype=stored).astype(dtype)
        if (owner := settings.pop("vocabulary_of", None)) is not None:
            if owner not in earlier or settings.get("vocabulary") is not None:
                raise SpecError(f"features: no field {owner!r} to take the vocabulary of")
            settings["vocabulary"] = earlier[owner].vocabulary
        if (cells := settings.get("cells")) is not None:
            settings["cells"] = Cells.from_json(cells)
        return Field(**settings)
    except (TypeError, ValueError) as error:
        raise SpecError(f"features: {error}") from error


def _is_nan(value: Any) -> bool:
    return isinstance(value, float | np.floating) and bool(value != value)


def shown(value: Any) -> str:
    """A value for an error message: its type and the beginning of its text."""
    try:
        text = repr(value[:40] if isinstance(value, str) else value)
    except (
        ValueError,
        RecursionError,
    ):  # an integer of more digits than Python prints, a deep list
        return f"{type(value).__name__} too long to print"
    return f"{type(value).__name__} {text if len(text) <= 40 else text[:37] + '...'}"
