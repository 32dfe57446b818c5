"""Models that go on from trained ones: rows by hand, pruned units, sizes before training."""

import numpy as np
import pytest
import torch

from ondevice import load
from ondevice.errors import SpecError
from ondevice.models.checkpoint import load_checkpoint
from ondevice.models.data.synthetic import synthetic_log
from ondevice.models.networks import ClickModel
from ondevice.models.search.adapted import adapted
from ondevice.models.search.design_sizes import DesignSizes
from ondevice.models.search.run_trial import (
    folder_of,
    run_trial,
    size_before_training,
    written_axes,
)
from ondevice.models.search.table_design import TableDesign
from ondevice.models.search.trial import Trial
from ondevice.models.search.trial_data import prepare
from ondevice.models.training.pruning import prune_units
from ondevice.models.training.refit import Refit

VOCABULARIES = {"user": 400, "item": 150, "hour": 24}


@pytest.fixture(scope="module")
def data():
    torch.set_num_threads(1)
    return prepare(synthetic_log(4000, VOCABULARIES))


@pytest.fixture(scope="module")
def trained(data, tmp_path_factory):
    """A trial of 60 users, its result, folder and model."""
    folder = tmp_path_factory.mktemp("trials")
    tables = {name: TableDesign(2, "q4") for name in data.values}
    tables["user"] = TableDesign(2, "q4", head=60)
    trial = Trial(tables, epochs=2, hidden=(32, 16), refit=Refit((10.0,), 1))
    result = run_trial(data, trial, folder, progress=False)
    model = load_checkpoint(folder_of(data, trial, folder) / "checkpoint").model
    return trial, result, folder, model


def heads(trial, **heads):
    tables = {name: TableDesign(2, "q4", heads.get(name)) for name in trial.tables}
    return Trial(tables, epochs=2, hidden=trial.hidden, refit=trial.refit)


@pytest.mark.parametrize("users", [25, 90])
def test_rows_follow_their_values(users, data, trained):
    before, _, _, model = trained
    trial = heads(before, user=users)
    splits = data.encoded(trial)
    new = adapted(model, before, trial, data, splits.train).embedding("user")
    known = np.sort(data.values["user"][:60]).tolist()
    weight, rows = model.embedding("user").weight, new.weight
    for place, value in enumerate(np.sort(data.values["user"][:users]).tolist()):
        row = 2 + known.index(value) if value in known else 1
        torch.testing.assert_close(rows[2 + place], weight[row])
    shared = weight[1]
    if users < 60:  # the mean of all that read the row of unseen values in training
        train = data.parts[0].hashes["user"]
        lost = data.values["user"][users:].tolist()
        reads = [int((train == v).sum()) for v in lost]
        vectors = [weight[2 + known.index(v)] if v in known else weight[1] for v in lost]
        shared = sum(r * v for r, v in zip(reads, vectors, strict=True)) / sum(reads)
    torch.testing.assert_close(rows[1], shared)
    torch.testing.assert_close(rows[0], weight[0])


def test_rows_follow_their_values_into_sections(data, trained):
    before, _, _, model = trained
    design = TableDesign(2, "q4", 90, sections=((32, "q4"), (None, "q2")))
    trial = Trial({**before.tables, "user": design}, epochs=2, hidden=before.hidden)
    splits = data.encoded(trial)
    new = adapted(model, before, trial, data, splits.train)
    weight, moved = model.embedding("user").weight, new.embedding("user").weight
    old_ids, ids = data.encoded(before).test.ids["user"], splits.test.ids["user"]
    had = old_ids != 1
    torch.testing.assert_close(moved[ids[had]], weight[old_ids[had]])
    assert set(ids[data.parts[2].hashes["user"] == data.values["user"][0]]) <= set(range(2, 32))
    back = adapted(new, trial, before, data, data.encoded(before).train).embedding("user").weight
    torch.testing.assert_close(back[2:], weight[2:])
    # sections in other places, the same number of rows
    other = Trial({**before.tables, "user": TableDesign(2, "q4", 90)}, hidden=before.hidden)
    again = adapted(new, trial, other, data, data.encoded(other).train).embedding("user").weight
    torch.testing.assert_close(again[data.encoded(other).test.ids["user"]], moved[ids])


def test_what_cannot_go_on(data, trained):
    before, _, _, model = trained
    other = heads(before)
    tables = dict(other.tables) | {"user": TableDesign(4, "q4")}
    with pytest.raises(SpecError, match="'user' cannot go on from"):
        adapted(model, before, Trial(tables), data, data.encoded(other).train)


def test_a_refit_of_fewer_rows_trains_nothing_anew(data, trained):
    before, result, folder, model = trained
    trial = heads(before, user=50)
    trial = Trial(**{**trial.__dict__, "start": folder_of(data, before, folder).name})
    assert trial.is_refit and Trial.from_json(trial.to_json()) == trial
    smaller = run_trial(data, trial, folder, progress=False)
    assert smaller.table_bytes == result.table_bytes - 10  # 10 rows of 2 values of 4 bits
    assert abs(smaller.validation_auc - result.validation_auc) < 0.02
    again = load_checkpoint(folder_of(data, trial, folder) / "checkpoint").model
    for layer, old in zip(again.network, model.network, strict=True):
        if isinstance(layer, torch.nn.Linear):
            torch.testing.assert_close(layer.weight, old.weight)


def test_sizes_before_training_are_those_of_the_file(data, trained):
    before, result, folder, _ = trained
    start = folder_of(data, before, folder).name
    for trial in (
        Trial(**{**heads(before, user=33).__dict__, "start": start}),
        Trial(
            **{
                **heads(before, user=20).__dict__,
                "start": start,
                "pruned": True,
                "hidden": (16, 16),
                "dense": "q8",
                "epochs": 1,
            }
        ),
    ):
        planned = size_before_training(data, trial, folder)
        written = run_trial(data, trial, folder, progress=False)
        # the description is compressed, and so are test vectors, which training changes
        assert abs(planned.file_bytes - written.file_bytes) < 200
        assert written.file_bytes < result.file_bytes
        assert planned.table_bytes == written.table_bytes
        assert planned.network_bytes == written.network_bytes
        axes = written_axes(data, trial, folder)
        assert DesignSizes(data).total(trial.tables, axes) == written.table_bytes
        parts = (written.table_bytes, written.map_bytes, written.network_bytes)
        assert written.header_bytes == written.file_bytes - sum(parts) > 0
        assert len(written.resampled) == 100 and written.test_error > 0
    assert not list(folder.glob(".ondevice-*"))  # what was written to measure it is gone


def test_files_without_a_vocabulary(data, trained):
    before, _, folder, _ = trained
    heads_of = {"user": 150, "item": 90}
    start = folder_of(data, before, folder).name
    with_map = Trial(**{**heads(before, **heads_of).__dict__, "start": start})
    without = Trial(**{**with_map.__dict__, "map": "retrieval"})
    assert without.retrieved("user", 400) and not without.retrieved("hour", 24)
    assert Trial.from_json(without.to_json()) == without
    first, second = (
        run_trial(data, trial, folder, progress=False) for trial in (with_map, without)
    )
    assert second.map_bytes < first.map_bytes / 4  # that of hours is left
    assert second.table_bytes + second.map_bytes < first.table_bytes + first.map_bytes
    assert abs(second.validation_auc - first.validation_auc) < 0.01
    sizes = DesignSizes(data, "file", map="retrieval")
    planned = sizes.total(without.tables, dict.fromkeys(data.values, "column"))
    assert planned == pytest.approx(second.table_bytes + 8 * 24, rel=0.1)
    # cells are read by the hashes of raw values
    path = folder_of(data, without, folder) / "model.odm"
    features = load(path).features
    assert {item.name: item.encoding for item in features.fields} == {
        **dict.fromkeys(("user", "item"), "hash"),
        "hour": "vocabulary",
    }
    with pytest.raises(SpecError, match="retrieval for raw values only"):
        Trial({}, ranked=True, map="retrieval")


def test_units_that_nothing_reads_are_pruned_first(data, trained):
    before, _, _, model = trained
    rows = data.encoded(before).validation
    first, second, _ = (m for m in model.network if isinstance(m, torch.nn.Linear))
    with torch.no_grad():
        second.weight[:, 5:21] = 0  # 16 units of the first layer, unread
        first.bias[0], first.weight[0] = -1, 0  # one that never fires
        first.bias[1], first.weight[1] = -1, 0
    pruned = prune_units(model, rows, (16, 16))
    assert pruned.settings.hidden == (16, 16)
    ids = {name: torch.from_numpy(values) for name, values in rows.ids.items()}
    torch.testing.assert_close(pruned(ids), model(ids), atol=1e-6, rtol=1e-5)
    for hidden in ((64, 16), (16,), (0, 16)):
        with pytest.raises(SpecError, match="pruning takes a dnn"):
            prune_units(model, rows, hidden)
    assert isinstance(pruned, ClickModel)
