"""Rows for new values: vocabularies of a trained model grow, and its rows move to the new IDs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ondevice.features import (
    FIRST_VOCABULARY_ID,
    OOV_ID,
    FeatureSpec,
    split_vocabulary,
    vocabulary_ids,
)
from ondevice.limits import MAX_SECTIONS
from ondevice.models.data import FieldSettings, HashedLog
from ondevice.models.data.statistics import ValueCounts
from ondevice.models.network_config import EmbeddingConfig
from ondevice.models.networks import ClickModel, build, module_key

IdArray = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Grown:
    """A model with rows for new values.

    Attributes:
        model: with the rows; the model that was given where there are no new values.
        features: with the vocabularies that give the model's IDs.
        counts: per field int64 [rows], those that were given, at the new IDs; 0 for new values.
        added: by field, how many values are new.
    """

    model: ClickModel
    features: FeatureSpec
    counts: dict[str, IdArray]
    added: dict[str, int]


@dataclass(frozen=True)
class _Moves:
    """Where the rows of a larger table come from.

    Attributes:
        vocabulary: the larger one.
        groups: of it, the new values in the last; see `Field.vocabulary_groups`.
        sources: int64 [rows], which old row each row is a copy of.
        new: int64 [new values], the rows of new values.
        reads: int64 [new values], how many training rows have each.
    """

    vocabulary: IdArray
    groups: tuple[int, ...]
    sources: IdArray
    new: IdArray
    reads: IdArray


def grow(
    model: ClickModel,
    features: FeatureSpec,
    counts: Mapping[str, npt.NDArray[np.int64]],
    train: HashedLog,
) -> Grown:
    """Give a row to each new value of a field that has a row for every value of its vocabulary.

    A new value's row starts as a copy of the out-of-vocabulary row, which the value read until
    now: so a grown model predicts what it did before, and training moves on from there. A row of
    a masked table may be wider than that row: it keeps as many dimensions as rows do that the
    earlier training read as often, and those beyond the copy start at 0. Kept widths are fixed.

    New values are a group of their own at the end of the vocabulary, so that old ones keep their
    IDs and what devices fetch is small. A vocabulary has up to MAX_SECTIONS groups; then new values
    join the last one, which is ordered by hash, so IDs of old values in it change: their rows, kept
    widths, weights of the wide part and counts move along, and histories read the same table by the
    same IDs. Tables whose values share rows have a row for any value and stay as they are.

    Args:
        model: trained; its masks are frozen in place, the model itself is not changed otherwise.
        features: of the model.
        counts: of the earlier training; may be empty, and new rows of masked tables are then whole.
        train: the training part of new data; its settings' `min_count` says how many rows a value
            needs to be new.

    Raises:
        SpecError: a table would have more rows than a table may have.
    """
    for mask in model.masks().values():
        mask.freeze()
    candidates = {name: _moves(model, features, name, train) for name in model.fields}
    moves = {name: item for name, item in candidates.items() if item is not None}
    if not moves:
        return Grown(model, features, dict(counts), {})
    state = model.state_dict()
    tables = dict(model.config.embeddings)
    moved = dict(counts)
    for name, item in moves.items():
        table = tables[name]
        tables[name] = EmbeddingConfig(replace(table.spec, rows=len(item.sources)), table.mask)
        _move_rows(state, module_key(name), item, counts.get(name))
        if name in moved:
            moved[name] = moved[name][item.sources]
            moved[name][item.new] = 0
    with torch.device("meta"):  # shapes only: the weights are at hand
        grown = build(replace(model.config, embeddings=tables))
    grown.eval()
    grown.load_state_dict(state, assign=True)
    added = {name: len(item.new) for name, item in moves.items()}
    return Grown(grown, _with_vocabularies(features, moves), moved, added)


def _with_vocabularies(features: FeatureSpec, moves: Mapping[str, _Moves]) -> FeatureSpec:
    """The features with larger vocabularies, also of histories, which hash as their items do."""
    larger = {features[name].seed: item for name, item in moves.items()}
    fields = tuple(
        replace(
            field,
            vocabulary=larger[field.seed].vocabulary,
            vocabulary_groups=larger[field.seed].groups,
        )
        if field.vocabulary is not None and field.seed in larger
        else field
        for field in features.fields
    )
    return replace(features, fields=fields)


def _moves(model: ClickModel, features: FeatureSpec, name: str, train: HashedLog) -> _Moves | None:
    """How a field's table grows; None where it has no row for each value, or no value is new."""
    field, spec = features[name], model.embedding(name).spec
    known = field.vocabulary
    if known is None or field.unknown != "oov" or spec.scheme != "full":
        return None
    if spec.rows != len(known) + FIRST_VOCABULARY_ID or spec.oov_row != OOV_ID:
        return None
    seen = ValueCounts.of(train.hashes[name])
    enough = seen.counts >= train.settings.get(name, FieldSettings()).min_count
    fresh = enough & ~np.isin(seen.values, known)
    if not fresh.any():
        return None
    parts = [*split_vocabulary(known, field.vocabulary_groups), np.sort(seen.values[fresh])]
    parts = [part for part in parts if len(part)]
    if len(parts) > MAX_SECTIONS:
        parts[-2:] = [np.union1d(parts[-2], parts[-1])]
    vocabulary, groups = np.concatenate(parts), tuple(map(len, parts)) if len(parts) > 1 else ()
    sources = np.full(len(vocabulary) + FIRST_VOCABULARY_ID, OOV_ID, np.int64)
    sources[:FIRST_VOCABULARY_ID] = np.arange(FIRST_VOCABULARY_ID)
    old = vocabulary_ids(vocabulary, known, groups=groups)
    sources[old] = np.arange(len(known)) + FIRST_VOCABULARY_ID
    new = vocabulary_ids(vocabulary, seen.values[fresh], groups=groups)
    return _Moves(vocabulary, groups, sources, new, seen.counts[fresh])


def _move_rows(
    state: dict[str, Tensor], key: str, moves: _Moves, counts: npt.NDArray[np.int64] | None
) -> None:
    """Replace a field's tensors by those of its larger table.

    Args:
        state: of the model, changed: new tensors take the place of old ones.
        key: of the field's modules.
        moves: where the rows come from.
        counts: of the old rows, int64; None where unknown.
    """
    sources, new = torch.from_numpy(moves.sources), torch.from_numpy(moves.new)
    for name in (f"embeddings.{key}.weight", f"wide.{key}.weight", f"embeddings.{key}.mask.kept"):
        if name in state:
            state[name] = state[name].index_select(0, sources.to(state[name].device))
    weight, kept = state[f"embeddings.{key}.weight"], state.get(f"embeddings.{key}.mask.kept")
    if kept is None:
        return
    whole = weight.shape[1]
    weight[new, int(kept[OOV_ID]) :] = 0.0
    if counts is None:
        kept[new] = whole
        return
    old = np.flatnonzero(moves.sources != OOV_ID)[1:]  # the rows of old values, without padding
    widths = kept.numpy(force=True)[old].astype(np.int64)
    chosen = _widths_by_count(widths, counts[moves.sources[old]], moves.reads, whole)
    kept[new] = torch.from_numpy(chosen).to(kept)


def _widths_by_count(widths: IdArray, counts: IdArray, reads: IdArray, whole: int) -> IdArray:
    """For each number of reads, the widest row among those with the next higher (else the highest)
    count, int64 like `reads`; whole rows where there are none.
    """
    if not len(widths):
        return np.full(len(reads), whole, np.int64)
    order = np.lexsort((-widths, counts))
    ordered = counts[order]
    highest = ordered.searchsorted(ordered[-1])  # its first row is the widest of its count
    chosen: IdArray = widths[order[np.minimum(ordered.searchsorted(reads), highest)]]
    return chosen
