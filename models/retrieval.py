"""Replaces a trained model's vocabularies by retrieval structures: hashed IDs, and no map."""

from __future__ import annotations

import copy
from collections.abc import Collection, Mapping
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from ondevice.codecs import FITTED_CODECS, FLOAT_CODECS, Codec, QuantTable, ScaleAxis, quantise
from ondevice.converters.tables.retrieval import build_retrieval
from ondevice.errors import InputError, ParityError
from ondevice.features import (
    FIRST_VOCABULARY_ID,
    OOV_ID,
    PADDING_ID,
    FeatureSpec,
    Field,
    vocabulary_ids,
)
from ondevice.models.layers.embeddings import Embedding
from ondevice.models.layers.retrieval import RetrievalEmbedding
from ondevice.models.networks import ClickModel, module_key

IdArray = npt.NDArray[np.int64]


def without_vocabularies(
    model: ClickModel,
    features: FeatureSpec,
    codec: Codec | Mapping[str, Codec],
    *,
    fingerprint_bits: int = 4,
    fields: Collection[str] | None = None,
) -> tuple[ClickModel, FeatureSpec]:
    """A copy of a model that reads hashes of raw values, with its tables quantised in cells.

    A value of the vocabulary reads its row as `codec` rounds it, and so does a missing one, or the
    zero vector where the table has a padding ID. Other values read the row for unknown ones, but
    for one in 2 ** fingerprint_bits, which reads some sum of rows. The copy cannot be trained.

    Args:
        model: a trained model; it stays as it is.
        features: how raw values become its IDs.
        codec: of the tables, an integer one: of all fields, or by field.
        fingerprint_bits: 0..8; see `build_retrieval`.
        fields: whose vocabularies to replace; by default all that `replaceable` names.

    Raises:
        InputError: a field without a vocabulary, or a codec that is not for cells.
        ParityError: a value does not read its row (which would be a fault of this project).
    """
    possible = replaceable(model, features)
    chosen = set(possible if fields is None else fields)
    if wrong := sorted(chosen - set(possible)):
        raise InputError(
            f"no vocabulary with a full table to replace: {', '.join(wrong)}; there are those of "
            f"{', '.join(possible) or 'no field'}"
        )
    smaller = copy.deepcopy(model).eval()
    for name in sorted(chosen):
        stored = codec if isinstance(codec, str) else codec[name]
        vocabulary, key = features[name].vocabulary, module_key(name)
        for tables in (smaller.embeddings, smaller.wide):
            for other, table in list(tables.items()):
                if other == key and isinstance(table, Embedding) and vocabulary is not None:
                    tables[key] = _replacement(table, vocabulary, stored, fingerprint_bits)
    hashed = chosen | {name for name, target in model.histories.items() if target in chosen}
    fields_without = tuple(
        replace(item, encoding="hash", vocabulary=None, vocabulary_groups=())
        if item.name in hashed
        else item
        for item in features.fields
    )
    return smaller, replace(features, fields=fields_without)


class HashedModel(nn.Module):
    """A trained model that reads the hashes of its copy of `without_vocabularies`, to compare them.

    It only answers: a conversion cannot export it.
    """

    def __init__(self, model: ClickModel, features: FeatureSpec, hashed: FeatureSpec) -> None:
        """Take the trained model with its features, and the features of the copy."""
        super().__init__()
        self.model = model
        self.fields = tuple(
            item for item in features.fields if hashed[item.name].encoding != item.encoding
        )

    def forward(self, ids: dict[str, Tensor]) -> Tensor | dict[str, Tensor]:
        """What the trained model answers; see `ClickModel.forward`."""
        known = dict(ids)
        for item in self.fields:
            if item.vocabulary is not None:
                hashes = ids[item.name].numpy(force=True)
                rows = vocabulary_ids(item.vocabulary, hashes, item.unknown, item.hash_bits)
                rows[hashes == PADDING_ID] = PADDING_ID
                known[item.name] = torch.from_numpy(rows)
        return self.model(known)  # type: ignore[no-any-return]


def replaceable(model: ClickModel, features: FeatureSpec) -> tuple[str, ...]:
    """Fields whose vocabulary can go: each value has a row of a full table, others share one."""
    return tuple(name for name in model.fields if _fits(model.embedding(name), features[name]))


def hashed_ids(field: Field, ids: IdArray) -> IdArray:
    """The hashes of IDs of a field's vocabulary; an unknown value's is that of no value in it.

    Raises:
        InputError: the field has no vocabulary.
    """
    vocabulary = field.vocabulary
    if vocabulary is None:
        raise InputError(f"field {field.name!r} has no vocabulary")
    unknown = next(number for number in range(1, len(vocabulary) + 2) if number not in vocabulary)
    codes = np.concatenate([[PADDING_ID, unknown], vocabulary]).astype(np.int64)
    is_known = (ids >= 0) & (ids < len(codes))
    return np.where(is_known, codes[np.where(is_known, ids, OOV_ID)], unknown)


def _fits(table: Embedding, field: Field) -> bool:
    spec = table.spec
    if field.vocabulary is None or field.unknown != "oov":
        return False
    rows = FIRST_VOCABULARY_ID + len(field.vocabulary)
    whole = (spec.scheme, spec.rows, spec.oov_row) == ("full", rows, OOV_ID)
    return whole and spec.padding_id in (None, PADDING_ID)


def _replacement(
    table: Embedding, vocabulary: IdArray, codec: Codec, fingerprint_bits: int
) -> RetrievalEmbedding:
    """The cells of a full table of a vocabulary's values."""
    if codec in FLOAT_CODECS:
        raise InputError(f"tables without a map hold codes of up to 8 bits, not {codec}")
    rows = _quantised(table, codec)
    keys = np.concatenate([[PADDING_ID, OOV_ID], vocabulary]).astype(np.int64)
    stored = keys != PADDING_ID
    stored[:FIRST_VOCABULARY_ID] = table.spec.padding_id is None, False  # a row for missing values
    values = QuantTable(rows.codec, rows.values[stored], rows.scales)
    built = build_retrieval(
        keys[stored],
        values,
        fingerprint_bits=fingerprint_bits,
        unknown=rows.values[OOV_ID],
        padding_id=table.spec.padding_id,
    )
    layer = RetrievalEmbedding(built.spec, built.table).eval()
    with torch.no_grad():
        read = layer(torch.from_numpy(keys[stored])).numpy()
    if not np.array_equal(read, values.dequantise()):
        raise ParityError("values of the vocabulary do not read their rows from the cells")
    return layer


def _quantised(table: Embedding, codec: Codec) -> QuantTable:
    """A full table's rows as codes with column scales or levels, whichever is nearer."""
    weight = table.weight.detach().numpy()
    if table.mask is not None:
        kept = np.arange(table.spec.dim) < table.mask.widths().numpy()[:, None]
        weight = np.where(kept, weight, np.float32(0))
    axes: tuple[ScaleAxis, ...] = ("column",)
    if codec in FITTED_CODECS:
        axes = ("column", "levels")
    tables = [quantise(weight, codec, scale_axis=axis) for axis in axes]
    return min(tables, key=lambda item: float(np.square(item.dequantise() - weight).sum()))
