"""The feature specification: raw strings and integers of each input field to int64 IDs."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from ondevice.errors import InputError, SpecError
from ondevice.hashing import hash_int64, hash_string

RawKind = Literal["string", "integer"]
Encoding = Literal["hash", "vocabulary", "id"]
IdArray = npt.NDArray[np.int64]

PADDING_ID = 0  # a missing value; also what fills a short sequence
OOV_ID = 1  # a value outside the vocabulary
FIRST_VOCABULARY_ID = 2


@dataclass(frozen=True)
class Field:
    """How one input field's raw values become IDs.

    kind: "string" (hashed as UTF-8) or "integer" (hashed as 8 little-endian bytes).
    encoding:
        "hash": the XXH64 of the value with `seed`, any 64-bit pattern, read as int64;
        "vocabulary": 2 + the position of that hash in the sorted `vocabulary`, 1 if it is not
            there (out of vocabulary);
        "id": an integer that is an ID already.
    A missing value (None) becomes PADDING_ID (0) whatever the encoding.
    """

    name: str
    kind: RawKind = "string"
    encoding: Encoding = "hash"
    seed: int = 0
    vocabulary: IdArray | None = None  # hashes as int64, ascending

    def __post_init__(self) -> None:
        faults = []
        if not isinstance(self.name, str) or not self.name:
            faults.append(f"name must be a non-empty string, got {self.name!r}")
        if self.kind not in ("string", "integer"):
            faults.append(f"kind must be 'string' or 'integer', got {self.kind!r}")
        if self.encoding not in ("hash", "vocabulary", "id"):
            faults.append(f"encoding must be hash, vocabulary or id, got {self.encoding!r}")
        if self.encoding == "id" and self.kind != "integer":
            faults.append("encoding 'id' needs kind 'integer'")
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
        if faults:
            raise SpecError(f"field {self.name!r}: " + "; ".join(faults))

    def hashes(self, values: Sequence[Any] | npt.NDArray[Any]) -> IdArray:
        """XXH64 of raw values that are not missing, int64 [len(values)]. Raises InputError."""
        if self.kind == "integer":
            return hash_int64(self._integers(values), self.seed)
        out = np.empty(len(values), dtype=np.int64)
        for number, value in enumerate(values):
            if not isinstance(value, str):
                raise InputError(
                    f"field {self.name!r}: expected strings, got {_shown(value)} at {number}"
                )
            try:
                out[number] = hash_string(value, self.seed)
            except UnicodeEncodeError as error:
                raise InputError(
                    f"field {self.name!r}: {_shown(value)} at {number} is not valid Unicode"
                ) from error
        return out

    def encode(self, values: Sequence[Any] | npt.NDArray[Any]) -> IdArray:
        """IDs int64 [len(values)] of raw values; None is a missing value.

        Raises:
            InputError: a value of the wrong type, an integer outside int64, or a vocabulary
                field whose vocabulary was not shipped with the model.
        """
        listed = list(values) if not isinstance(values, np.ndarray) else values
        missing = np.fromiter((value is None for value in listed), dtype=bool, count=len(listed))
        ids = np.full(len(listed), PADDING_ID, dtype=np.int64)
        present = [value for value in listed if value is not None] if missing.any() else listed
        if len(present):
            ids[~missing] = self._encode_present(present)
        return ids

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
        return vocabulary_ids(self.vocabulary, hashes)

    def _integers(self, values: Sequence[Any] | npt.NDArray[Any]) -> IdArray:
        if isinstance(values, np.ndarray) and values.dtype.kind in "iu":
            return to_int64(values, self.name)
        out = np.empty(len(values), dtype=np.int64)
        for number, value in enumerate(values):
            if isinstance(value, bool | np.bool_) or not isinstance(value, int | np.integer):
                raise InputError(
                    f"field {self.name!r}: expected integers, got {_shown(value)} at {number}"
                )
            if not -(2**63) <= int(value) < 2**63:
                raise InputError(
                    f"field {self.name!r}: {value} at {number} does not fit a signed 64-bit integer"
                )
            out[number] = int(value)
        return out


@dataclass(frozen=True)
class FeatureSpec:
    """The input fields of a model, in order."""

    fields: tuple[Field, ...] = ()

    def __post_init__(self) -> None:
        names = [field.name for field in self.fields]
        doubled = sorted({name for name in names if names.count(name) > 1})
        if doubled:
            raise SpecError(f"fields named twice: {', '.join(doubled)}")

    def __getitem__(self, name: str) -> Field:
        """The field called `name`. Raises InputError when there is none."""
        for field in self.fields:
            if field.name == name:
                return field
        known = ", ".join(field.name for field in self.fields) or "none"
        raise InputError(f"no field {name!r}; the model's fields are: {known}")

    def encode(self, raw: Mapping[str, Sequence[Any] | npt.NDArray[Any]]) -> dict[str, IdArray]:
        """IDs of raw values, field by field. Raises InputError (see Field.encode)."""
        return {name: self[name].encode(values) for name, values in raw.items()}

    def to_json(self) -> list[dict[str, Any]]:
        """A JSON-ready list, one object a field; a vocabulary as base64 of its little-endian
        int64 values.
        """
        return [_field_to_json(field) for field in self.fields]

    @classmethod
    def from_json(cls, data: Any) -> FeatureSpec:
        """Read what `to_json` wrote. Raises SpecError."""
        if not isinstance(data, list):
            raise SpecError(f"features: expected a list, got {type(data).__name__}")
        return cls(tuple(_field_from_json(item) for item in data))


def vocabulary_ids(vocabulary: IdArray, hashes: IdArray) -> IdArray:
    """IDs of value hashes in a sorted vocabulary of hashes; OOV_ID where a hash is absent."""
    if not len(vocabulary):
        return np.full(hashes.shape, OOV_ID, dtype=np.int64)
    position = np.minimum(np.searchsorted(vocabulary, hashes), len(vocabulary) - 1)
    found = vocabulary[position] == hashes
    return np.where(found, position + FIRST_VOCABULARY_ID, OOV_ID).astype(np.int64)


def to_int64(values: npt.NDArray[Any], name: str) -> IdArray:
    """IDs as int64; uint64 keeps its 64-bit pattern. Raises InputError for other dtypes."""
    if values.dtype.kind not in "iu":
        raise InputError(f"input {name!r}: expected integer IDs, got dtype {values.dtype}")
    if values.dtype == np.uint64:
        return values.view(np.int64) if values.flags.c_contiguous else values.astype(np.int64)
    return values.astype(np.int64, copy=False)


def _field_to_json(field: Field) -> dict[str, Any]:
    item: dict[str, Any] = {
        "name": field.name,
        "kind": field.kind,
        "encoding": field.encoding,
        "seed": field.seed,
    }
    if field.vocabulary is not None:
        data = field.vocabulary.astype("<i8").tobytes()
        item["vocabulary"] = base64.b64encode(data).decode("ascii")
    return item


def _field_from_json(item: Any) -> Field:
    if not isinstance(item, dict):
        raise SpecError(f"features: expected an object for each field, got {_shown(item)}")
    known = {"name", "kind", "encoding", "seed", "vocabulary"}
    if unknown := sorted(set(item) - known):
        raise SpecError(f"features: unknown keys {', '.join(map(str, unknown))}")
    settings = dict(item)
    encoded = settings.pop("vocabulary", None)
    try:
        if encoded is not None:
            data = base64.b64decode(encoded, validate=True)
            vocabulary = np.frombuffer(data, dtype="<i8").astype(np.int64)
            return Field(**settings, vocabulary=vocabulary)
        return Field(**settings)
    except (TypeError, ValueError) as error:
        raise SpecError(f"features: {error}") from error


def _shown(value: Any) -> str:
    text = repr(value)
    return f"{type(value).__name__} {text if len(text) <= 40 else text[:37] + '...'}"
