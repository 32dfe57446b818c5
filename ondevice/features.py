"""The feature specification: raw strings, integers and numbers of each input field to IDs."""

from __future__ import annotations

import functools
import itertools
from collections import Counter
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt

from ondevice.arrow_columns import arrow_array, column_of, pyarrow
from ondevice.attached_arrays import (
    ArrayPacker,
    Attached,
    Base64Packer,
    attached_hashes,
    attached_numbers,
)
from ondevice.cells import Cells, RawKind
from ondevice.delimited import COMMAS, DelimitedFormat
from ondevice.errors import FileFormatError, InputError, SpecError
from ondevice.hashing import IdArray, hash_int64
from ondevice.limits import MAX_LENGTH, MAX_SECTIONS
from ondevice.raw_values import (
    BoolArray,
    Column,
    FloatArray,
    as_array,
    as_list,
    is_missing,
    read_integers,
    read_numbers,
    read_strings,
    read_text,
    read_times,
    shown,
)
from ondevice.times import TimeForm

Encoding = Literal["hash", "vocabulary", "id", "bucket"]
Unknown = Literal["oov", "hash"]

PADDING_ID = 0  # a missing value; also what fills a short sequence
MAX_SHOWN = 60  # letters of a value in an error
OOV_ID = 1  # a value outside the vocabulary
FIRST_VOCABULARY_ID = 2
HASH_BITS = 64
# A vocabulary in a file keeps so few bits of its hashes that an unseen value is taken for one of
# its values with a chance of up to 2**-FALSE_MATCH_BITS; fewer still would not tell values apart.
FALSE_MATCH_BITS = 16
MISSING_BUCKET_ID = 1  # of a number that is missing or NaN: a trained row of its own
FIRST_BUCKET_ID = 2


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
            2**64 a head row). Of each hash its highest `hash_bits` count. A vocabulary in groups
            is sorted within each: so values of a kind, say the frequent ones, have consecutive
            IDs and their rows can be stored alike;
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
    vocabulary: IdArray | None = None  # hashes as int64, ascending, shifted right to hash_bits
    boundaries: FloatArray | None = None  # float64, ascending, finite
    length: int | None = None
    unknown: Unknown = "oov"
    cells: Cells | None = None
    hash_bits: int = HASH_BITS  # of each hash of the vocabulary, the highest ones
    # sizes of consecutive groups of the vocabulary, each ascending by itself; empty: one group
    vocabulary_groups: tuple[int, ...] = ()

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
        faults += _vocabulary_faults(self)
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

    def hashes(self, values: Column) -> IdArray:
        """XXH64 of raw values that are not missing, int64 [len(values)]. Raises InputError."""
        try:
            if self.kind == "number":
                raise InputError("numbers are not hashed")
            hashed, missing = self._hashed(values, None)
            if missing is not None and missing.any():
                number = int(missing.argmax())
                raise InputError(f"expected {self.kind}s, got a missing value at {number}")
            return hashed
        except InputError as error:
            raise self._named(error) from error.__cause__

    def encode(self, values: Column) -> IdArray:
        """IDs int64 [len(values)] of raw values, [len(values), length] of a sequence field.

        None and NaN are missing values; in a sequence field each value is a list of values, None,
        NaN or the empty list when there are none. Integers may be Python's or an integer array (an
        unsigned one keeps its bits); 3.0 is not an integer, nor is True. With `cells`, a text is
        read as a cell of the training log is, whatever the kind. Columns of pyarrow and polars
        are read as those of their tables (`encode_arrow`), others of the kind as arrays.

        Raises:
            InputError: not a list or array of the right number of axes, a masked array, a value of
                the wrong type, an integer outside int64, or a field whose vocabulary or boundaries
                were not shipped with the model.
        """
        if type(values) is not list and (array := arrow_array(values)) is not None:
            return self.encode_arrow(array)
        try:
            self._check_container(values)
            if self.length is not None:
                return self._encode_sequences(values, self.length)
            return self._encode_values(values)
        except InputError as error:
            raise self._named(error) from error.__cause__

    def encode_arrow(self, array: Any, first: int = 0) -> IdArray:
        """IDs int64 [len(array), ...] of a pyarrow Array, each distinct value read once.

        Args:
            array: raw values, as of `encode`; also decimals, bytes of UTF-8, and times.
            first: the number of its first row, from 0, for messages.

        Raises:
            InputError: values that are none of the field; names the row.
        """
        try:
            column = column_of(array)
        except (TypeError, UnicodeDecodeError, pyarrow().ArrowException) as error:
            raise InputError(f"input {self.name!r}: {error}") from error
        try:
            return column.spread(self.encode(column.values))
        except InputError:
            for place, value in enumerate(column.values):  # once more, to name the row
                try:
                    self.encode([value])
                except InputError as error:
                    row = first + column.first_row(place) + 1
                    raise InputError(f"row {row}: {error}") from error
            raise

    @property
    def column(self) -> str:
        """The column of the training log that the field is read from."""
        return (self.cells.column if self.cells is not None else None) or self.name

    def read(self, text: str) -> Any:
        """The value of a cell's text, or the values of a sequence's; None if it is missing.

        Raises:
            InputError: the text is not of the field's kind, or the field has no `cells`.
        """
        try:
            if self.cells is None:
                raise InputError("no specification of its texts")
            if self.length is None:
                return read_text(text, self.kind, self.cells, 0)
            texts = self.cells.split(text)
            if texts is None:
                return None
            return [read_text(part, self.kind, self.cells, 0) for part in texts]
        except InputError as error:
            raise self._named(error) from error.__cause__

    def numbers(self, values: Column) -> FloatArray:
        """Raw values of a field of numbers as float64 [len(values)], NaN where missing.

        Raises:
            InputError: as `encode` does.
        """
        try:
            self._check_container(values)
            return self._numbers(values)
        except InputError as error:
            raise self._named(error) from error.__cause__

    def _named(self, error: InputError) -> InputError:
        return InputError(f"field {self.name!r}: {error}")

    def _check_container(self, values: Any) -> None:
        """Refuse anything but a list or an array of values. Raises InputError."""
        if type(values) is list:  # the usual column, at a tenth of the price of the checks below
            return
        if isinstance(values, str | bytes | bytearray | Mapping | Set):
            raise InputError(f"expected a list of raw values, got {_described(values)}")
        if isinstance(values, np.ma.MaskedArray):
            raise InputError("masked arrays are not read; give None for a missing value")
        if isinstance(values, np.ndarray):
            if values.ndim != 1 and not (values.ndim == 2 and self.length is not None):
                shape = list(values.shape)
                raise InputError(f"expected one value per row, got an array of shape {shape}")
        elif not (hasattr(values, "__len__") and hasattr(values, "__iter__")):
            raise InputError(f"expected a list of raw values, got {_described(values)}")

    def _encode_values(self, values: Column) -> IdArray:
        if self.kind == "number":
            return self._buckets(values)
        if self.encoding == "id":
            ids, missing = self._integers(values, self.cells)
        else:
            ids, missing = self._hashed(values, self.cells)
        is_present = bool(len(ids)) if missing is None else not missing.all()
        if self.encoding == "vocabulary" and is_present:
            if self.vocabulary is None:
                raise InputError(
                    "its vocabulary is not in this file; "
                    "give IDs, or convert with the vocabulary included"
                )
            ids = vocabulary_ids(
                self.vocabulary, ids, self.unknown, self.hash_bits, self.vocabulary_groups
            )
        if missing is not None:
            ids[missing] = PADDING_ID
        return ids

    def _hashed(self, values: Column, cells: Cells | None) -> tuple[IdArray, BoolArray | None]:
        """Hashes int64 [n], and which values are missing. Raises InputError."""
        if self.kind == "integer":
            integers, missing = self._integers(values, cells)
            return hash_int64(integers, self.seed), missing
        array = as_array(values, "UO")
        return read_strings(as_list(values if array is None else array), self.seed, cells)

    def _integers(self, values: Column, cells: Cells | None) -> tuple[IdArray, BoolArray | None]:
        """Integers [n], and which values are missing. Raises InputError."""
        if cells is not None and cells.form is not None:
            if cells.form in get_args(TimeForm) and (times := as_array(values, "M")) is not None:
                return read_times(times, cells)
            return read_integers(as_list(values), cells)
        array = as_array(values, "iu")
        if array is not None:
            return to_int64(array, self.name), None
        return read_integers(as_list(values), cells)

    def _buckets(self, values: Column) -> IdArray:
        if self.boundaries is None:
            raise InputError("its bucket boundaries are not in this file")
        return bucket_ids(self.boundaries, self._numbers(values))

    def _numbers(self, values: Column) -> FloatArray:
        """Numbers float64 [n], NaN where missing. Raises InputError."""
        if self.cells is not None and self.cells.form is not None:
            integers, missing = self._integers(values, self.cells)
            numbers = integers.astype(np.float64)
            if missing is not None:
                numbers[missing] = np.nan
            return numbers
        array = as_array(values, "iuf")
        if array is not None:
            return array.astype(np.float64)
        return read_numbers(as_list(values), self.cells)

    def _encode_sequences(self, rows: Column, length: int) -> IdArray:
        """IDs int64 [len(rows), length]. Raises InputError."""
        ids = np.full((len(rows), length), PADDING_ID, dtype=np.int64)
        if isinstance(rows, np.ndarray) and rows.ndim == 2:
            last = rows[:, -length:]
            ids[:, : last.shape[1]] = self._encode_values(last.ravel()).reshape(last.shape)
            return ids
        lists = as_list(rows)
        if not set(map(type, lists)) <= {list, tuple}:
            lists = [self._elements(row, number) for number, row in enumerate(lists)]
        if max(map(len, lists), default=0) > length:
            lists = [row[-length:] for row in lists]
        counts = np.fromiter(map(len, lists), dtype=np.int64, count=len(lists))
        flat = list(itertools.chain.from_iterable(lists))
        ids[np.arange(length) < counts[:, None]] = self._encode_values(flat)
        return ids

    def _elements(self, row: Any, number: int) -> Sequence[Any]:
        """The values of a row of a sequence field; none where it is missing. Raises InputError."""
        if isinstance(row, str) and self.cells is not None:
            row = self.cells.split(row)
        if is_missing(row):
            return ()
        if isinstance(row, list | tuple):
            return row
        if isinstance(row, np.ndarray) and row.ndim == 1:
            return list(row) if row.dtype.kind == "u" else as_list(row)  # uint64 keeps its bits
        raise InputError(f"expected a list of values, got {shown(row)} at {number}")


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

    def encode(self, raw: Mapping[str, Column]) -> dict[str, IdArray]:
        """IDs of raw values, field by field. Raises InputError (see Field.encode)."""
        return {name: self[name].encode(values) for name, values in raw.items()}

    def with_short_hashes(self) -> FeatureSpec:
        """These features with vocabularies that keep as few bits of a hash as a file needs.

        IDs of the vocabulary's values stay; see FALSE_MATCH_BITS for others.
        """
        short: dict[int, tuple[IdArray, int]] = {}
        fields = []
        for field in self.fields:
            if field.vocabulary is None or field.hash_bits != HASH_BITS:
                fields.append(field)
                continue
            if (key := id(field.vocabulary)) not in short:
                bits = _bits_needed(np.sort(field.vocabulary))
                short[key] = (field.vocabulary >> (HASH_BITS - bits), bits)
            vocabulary, bits = short[key]
            fields.append(replace(field, vocabulary=vocabulary, hash_bits=bits))
        return replace(self, fields=tuple(fields))

    def to_json(self, packer: ArrayPacker | None = None) -> list[dict[str, Any]] | dict[str, Any]:
        """A JSON-ready list, one object a field. A vocabulary that an earlier field has too is
        stored once: the later one names the earlier as `vocabulary_of`. Where the log is no CSV
        with commas, a header and UTF-8, it is an object of that list as `fields`, of `text_format`
        and `columns`.

        Args:
            packer: where vocabularies and boundaries go; None: base64 in the JSON.
        """
        packer = packer or Base64Packer()
        owners: dict[tuple[int, tuple[int, ...]], str] = {}
        items = []
        for field in self.fields:
            owner = None
            if field.vocabulary is not None:
                key = id(field.vocabulary), field.vocabulary_groups
                owner = owners.setdefault(key, field.name)
            items.append(_field_to_json(field, owner if owner != field.name else None, packer))
        if self.text_format == COMMAS and self.columns is None:
            return items
        columns = None if self.columns is None else list(self.columns)
        return {"fields": items, "text_format": self.text_format.to_json(), "columns": columns}

    @classmethod
    def from_json(cls, data: Any, arrays: Attached | None = None) -> FeatureSpec:
        """Read what `to_json` wrote; `arrays` is what the packer attached. Raises SpecError."""
        arrays = Attached() if arrays is None else arrays
        if isinstance(data, dict):
            return cls._from_object(data, arrays)
        if not isinstance(data, list):
            raise SpecError(f"features: expected a list, got {type(data).__name__}")
        fields: dict[str, Field] = {}
        for number, item in enumerate(data):
            field = _field_from_json(item, fields, arrays)
            fields[field.name if field.name not in fields else f"{field.name} {number}"] = field
        return cls(tuple(fields.values()))

    @classmethod
    def _from_object(cls, data: dict[str, Any], arrays: Attached) -> FeatureSpec:
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
        return cls(cls.from_json(data["fields"], arrays).fields, text_format, columns)


def vocabulary_ids(
    vocabulary: IdArray,
    hashes: IdArray,
    unknown: Unknown = "oov",
    hash_bits: int = HASH_BITS,
    groups: Sequence[int] = (),
) -> IdArray:
    """IDs of value hashes in a vocabulary of the highest `hash_bits` of hashes.

    The vocabulary is sorted, or each of its consecutive `groups` (their sizes) is. Where a hash is
    absent, OOV_ID or, with `unknown` "hash", the hash.
    """
    absent = hashes if unknown == "hash" else OOV_ID
    if not len(vocabulary):
        return np.full(hashes.shape, absent, dtype=np.int64)
    keys = hashes if hash_bits == HASH_BITS else hashes >> (HASH_BITS - hash_bits)
    ids: Any = absent
    first = FIRST_VOCABULARY_ID
    for group in split_vocabulary(vocabulary, groups):
        position = group.searchsorted(keys)
        is_known = group.take(position, mode="clip") == keys
        position += first
        ids = np.where(is_known, position, ids)
        first += len(group)
    found: IdArray = ids.astype(np.int64, copy=False)
    return found


def _described(value: Any) -> str:
    """What somebody gave in place of a list; of a single value, the list that was meant."""
    name = type(value).__name__
    if isinstance(value, str | int | float):
        return f"{name}; one value is [{value!r}]" if len(repr(value)) < MAX_SHOWN else name
    return name


def split_vocabulary(vocabulary: IdArray, groups: Sequence[int]) -> list[IdArray]:
    """The sorted groups of a vocabulary, of these sizes; it is one group where none are given."""
    edges = list(itertools.accumulate(groups[:-1]))
    return np.split(vocabulary, edges) if edges else [vocabulary]


def bucket_ids(boundaries: FloatArray, numbers: FloatArray) -> IdArray:
    """Bucket IDs int64 of float64 numbers: see Field's encoding "bucket"."""
    buckets = boundaries.searchsorted(numbers, side="right").astype(np.int64, copy=False)
    buckets += FIRST_BUCKET_ID
    buckets[np.isnan(numbers)] = MISSING_BUCKET_ID
    return buckets


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


def _bits_needed(vocabulary: IdArray) -> int:
    """Of sorted hashes, how many of the highest bits tell them apart and from other values."""
    differing = (vocabulary[1:] ^ vocabulary[:-1]).view(np.uint64)
    least = int(differing.min(initial=2**HASH_BITS - 1))
    apart = HASH_BITS + 1 - least.bit_length()
    others = max(0, len(vocabulary) - 1).bit_length() + FALSE_MATCH_BITS
    return min(HASH_BITS, max(apart, others))


def _vocabulary_faults(field: Field) -> list[str]:
    """What is wrong with a field's vocabulary and its hash bits."""
    bits, vocabulary, groups = field.hash_bits, field.vocabulary, field.vocabulary_groups
    if type(bits) is not int or not 1 <= bits <= HASH_BITS:
        return [f"hash_bits must be 1..{HASH_BITS}, got {bits!r}"]
    if vocabulary is None:
        return ["vocabulary_groups without a vocabulary"] if groups else []
    if field.encoding != "vocabulary":
        return [f"encoding {field.encoding!r} takes no vocabulary"]
    if vocabulary.dtype != np.int64 or vocabulary.ndim != 1:
        return ["vocabulary must be a one-dimensional int64 array"]
    sizes = all(type(size) is int and size >= 1 for size in groups)
    if not isinstance(groups, tuple) or not sizes or len(groups) > MAX_SECTIONS:
        return [f"vocabulary_groups must be up to {MAX_SECTIONS} sizes of 1 or more"]
    if groups and sum(groups) != len(vocabulary):
        return [f"vocabulary_groups of {sum(groups)} values in all, of {len(vocabulary)}"]
    parts = split_vocabulary(vocabulary, groups)
    if any(np.any(part[1:] <= part[:-1]) for part in parts):
        return ["vocabulary must be strictly ascending" + (" in each group" if groups else "")]
    if len(parts) > 1:
        ordered = np.sort(vocabulary)
        if np.any(ordered[1:] == ordered[:-1]):
            return ["a hash is in two groups of the vocabulary"]
    ends = [end for part in parts if len(part) for end in part[[0, -1]].tolist()]
    if any(end >> (bits - 1) not in (0, -1) for end in ends):
        return [f"vocabulary must hold signed numbers of {bits} bits"]
    return []


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


def _field_to_json(field: Field, vocabulary_of: str | None, packer: ArrayPacker) -> dict[str, Any]:
    """A JSON-ready object; settings at their defaults are left out.

    Args:
        field: what to write.
        vocabulary_of: an earlier field that has the same vocabulary, named instead of its values.
        packer: where arrays go.
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
        parts = split_vocabulary(field.vocabulary, field.vocabulary_groups)
        stored = [packer.hashes(part, field.hash_bits) for part in parts]
        item["vocabulary"] = stored if field.vocabulary_groups else stored[0]
    if field.hash_bits != HASH_BITS:
        item["hash_bits"] = field.hash_bits
    if field.boundaries is not None:
        item["boundaries"] = packer.numbers(field.boundaries)
    if field.length is not None:
        item["length"] = field.length
    if field.unknown != "oov":
        item["unknown"] = field.unknown
    if field.cells is not None:
        item["cells"] = field.cells.to_json()
    return item


def _field_from_json(item: Any, earlier: Mapping[str, Field], arrays: Attached) -> Field:
    """Read what `_field_to_json` wrote; an `earlier` field may own its vocabulary.

    Raises:
        SpecError: not an object, unknown keys, or values that are no field.
    """
    if not isinstance(item, dict):
        raise SpecError(f"features: expected an object for each field, got {shown(item)}")
    known = {"name", "kind", "encoding", "seed"}
    known |= {"vocabulary", "vocabulary_of", "hash_bits", "boundaries", "length", "unknown"}
    known |= {"cells"}
    if unknown := sorted(set(item) - known):
        raise SpecError(f"features: unknown keys {', '.join(map(str, unknown))}")
    settings = dict(item)
    try:
        if (stored := settings.get("vocabulary")) is not None:
            bits = settings.get("hash_bits", HASH_BITS)
            settings |= _stored_vocabulary(stored, arrays, bits)
        if (stored := settings.get("boundaries")) is not None:
            settings["boundaries"] = attached_numbers(stored, arrays, "float64")
        if (owner := settings.pop("vocabulary_of", None)) is not None:
            if owner not in earlier or settings.get("vocabulary") is not None:
                raise SpecError(f"features: no field {owner!r} to take the vocabulary of")
            settings["vocabulary"] = earlier[owner].vocabulary
            settings["vocabulary_groups"] = earlier[owner].vocabulary_groups
        if (cells := settings.get("cells")) is not None:
            settings["cells"] = Cells.from_json(cells)
        return Field(**settings)
    except (FileFormatError, KeyError, TypeError, ValueError) as error:
        raise SpecError(f"features: {error}") from error


def _stored_vocabulary(stored: Any, arrays: Attached, bits: int) -> dict[str, Any]:
    """The settings `vocabulary` and `vocabulary_groups` of what the JSON has for a vocabulary.

    Raises:
        SpecError: a list of no groups or of too many. Otherwise as `attached_hashes` does.
    """
    if not isinstance(stored, list):
        return {"vocabulary": attached_hashes(stored, arrays, bits)}
    if not 1 <= len(stored) <= MAX_SECTIONS:
        raise SpecError(f"features: a vocabulary has 1 to {MAX_SECTIONS} groups, got {len(stored)}")
    parts = [attached_hashes(part, arrays, bits) for part in stored]
    groups = tuple(map(len, parts))
    return {"vocabulary": np.concatenate(parts), "vocabulary_groups": groups}
