"""Rows of a log as an Arrow record batch, one column for each of its arrays, and back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from ondevice.errors import needs_extra
from ondevice.models.data.builder import Rows

with needs_extra("reading Parquet and Arrow", "train"):
    import pyarrow as pa

Array = npt.NDArray[Any]


class HasRows(Protocol):
    """Rows, or a log: see Rows."""

    @property
    def hashes(self) -> Mapping[str, npt.NDArray[np.int64]]:
        """By field."""

    @property
    def labels(self) -> npt.NDArray[np.float32]:
        """Of each row."""

    @property
    def times(self) -> npt.NDArray[np.int64] | None:
        """When a row happened."""

    @property
    def weights(self) -> npt.NDArray[np.float32] | None:
        """What a row counts for."""

    @property
    def keys(self) -> Mapping[str, npt.NDArray[np.int64]]:
        """Further columns."""


def batch_of(rows: HasRows) -> Any:
    """Rows as a record batch that shares their memory.

    Its columns are `field NAME` (int64, or lists of them), `labels`, `times`, `weights` and
    `key NAME`.
    """
    arrays = {f"field {name}": arrow_array(values) for name, values in rows.hashes.items()}
    arrays["labels"] = arrow_array(rows.labels)
    if rows.times is not None:
        arrays["times"] = arrow_array(rows.times)
    if rows.weights is not None:
        arrays["weights"] = arrow_array(rows.weights)
    arrays |= {f"key {name}": arrow_array(values) for name, values in rows.keys.items()}
    return pa.RecordBatch.from_arrays(list(arrays.values()), names=list(arrays))


def rows_of(batch: Any) -> Rows:
    """The rows of a record batch of `batch_of`, sharing its memory. Raises KeyError, ValueError."""
    columns = {name: _numpy(batch.column(name)) for name in batch.schema.names}
    return Rows(
        hashes=_of_prefix("field ", columns),
        labels=columns["labels"],
        times=columns.get("times"),
        weights=columns.get("weights"),
        keys=_of_prefix("key ", columns),
    )


def arrow_array(values: Array) -> Any:
    """An array [n] or [n, length] as Arrow's, without a copy."""
    flat = np.ascontiguousarray(values).reshape(-1)
    kind = pa.from_numpy_dtype(flat.dtype)
    array = pa.Array.from_buffers(kind, len(flat), [None, pa.py_buffer(flat)])
    return array if values.ndim == 1 else pa.FixedSizeListArray.from_arrays(array, values.shape[1])


def _numpy(array: Any) -> Array:
    """The values [n] or [n, length] of an array without missing values, in its memory."""
    if pa.types.is_fixed_size_list(array.type):
        size = array.type.list_size
        flat: Array = array.flatten().to_numpy(zero_copy_only=True)
        return flat.reshape(-1, size)
    values: Array = array.to_numpy(zero_copy_only=True)
    return values


def _of_prefix(prefix: str, columns: dict[str, Array]) -> dict[str, Array]:
    return {
        name.removeprefix(prefix): values
        for name, values in columns.items()
        if name.startswith(prefix)
    }
