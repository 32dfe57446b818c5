"""A trial's model from another trial's trained one: fewer or more rows, fewer hidden units."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt
import torch

from ondevice.errors import SpecError
from ondevice.features import FIRST_VOCABULARY_ID, OOV_ID
from ondevice.models.click_log import ClickLog
from ondevice.models.layers.embeddings import Embedding
from ondevice.models.networks import ClickModel
from ondevice.models.search.table_design import TableDesign
from ondevice.models.search.trial import Trial
from ondevice.models.search.trial_data import TrialData
from ondevice.models.training.pruning import prune_units

# Training rows on which units are weighed.
PRUNING_ROWS = 20_000


def adapted(
    trained: ClickModel, before: Trial, trial: Trial, data: TrialData, train: ClickLog
) -> ClickModel:
    """A model of `trial`'s designs and hidden sizes, with rows and weights of a trained one.

    A value that loses its row adds to the row of unseen values, which becomes the mean of all that
    read it in training; a value that gains one starts there.

    Args:
        trained: of the trial `before`; not changed.
        before: the trial it is of.
        trial: the same fields, widths, tails and kind of IDs.
        data: the log of both.
        train: the training part, encoded for `trial`.

    Raises:
        SpecError: the trials differ in something else than rows, codecs and hidden sizes.
    """
    tables = {}
    for name in data.fields:
        old, new = before.tables[name], trial.tables[name]
        same = (old.dim, old.tail, old.size) == (new.dim, new.tail, new.size)
        if not same or before.ranked != trial.ranked:
            raise SpecError(
                f"trial: {name!r} cannot go on from {old} as {new}: only rows and codecs may differ"
            )
        values = data.rows_of_values(name)
        table = Embedding(trial.spec(name, values, number=name in data.numbers))
        weight = trained.embedding(name).weight.numpy(force=True)
        rows = _rows(name, weight, old, new, data, ranked=trial.ranked)
        with torch.no_grad():
            table.weight.copy_(torch.from_numpy(rows))
        tables[name] = table
    network = replace(trained.settings, hidden=tuple(before.hidden))
    model = ClickModel(tables, network, labels=trained.labels)
    model.network.load_state_dict(trained.network.state_dict())
    if trial.hidden != before.hidden:
        model = prune_units(
            model, train.take(np.arange(min(PRUNING_ROWS, len(train)))), trial.hidden
        )
    return model


def _rows(
    name: str,
    weight: npt.NDArray[np.float32],
    old: TableDesign,
    new: TableDesign,
    data: TrialData,
    *,
    ranked: bool,
) -> npt.NDArray[np.float32]:
    """The rows float32 [rows, dim] of the new table of a field, from those of the old one."""
    values = data.rows_of_values(name)
    before, after = old.rows_owned(values), new.rows_owned(values)
    if before == after and (ranked or old.groups(values) == new.groups(values)):
        return weight
    if new.tail != "shared" and not {before, after}.isdisjoint({0, values}):
        raise SpecError(f"trial: {name!r} cannot go on with {after} rows of values from {before}")
    order_before, order_after = (
        np.arange(design.rows_owned(values))
        if ranked or name in data.numbers
        else np.argsort(design.order(data.values[name]))
        for design in (old, new)
    )  # of the value of each frequency rank, its row, less two
    kept = min(before, after)
    head = np.repeat(weight[OOV_ID][None], after + FIRST_VOCABULARY_ID, axis=0)
    head[:FIRST_VOCABULARY_ID] = weight[:FIRST_VOCABULARY_ID]
    head[FIRST_VOCABULARY_ID + order_after[:kept]] = weight[
        FIRST_VOCABULARY_ID + order_before[:kept]
    ]
    if after < before and new.tail == "shared":
        counts = data.counts[name].astype(np.float64)
        dropped = weight[FIRST_VOCABULARY_ID + order_before[after:]]
        unseen = counts[before:].sum()
        total = counts[after:before] @ dropped + unseen * weight[OOV_ID]
        head[OOV_ID] = (total / max(counts[after:].sum(), 1)).astype(np.float32)
    tail = weight[before + FIRST_VOCABULARY_ID :] if new.tail != "shared" else weight[:0]
    return np.concatenate([head, tail])
