"""Codes of values' places: planned bytes, distinct codes, raw values of the file, the search."""

from dataclasses import replace

import numpy as np
import pytest
import torch

import ondevice
from ondevice.errors import SpecError
from ondevice.features import FeatureSpec, Field
from ondevice.lookup import table_rows
from ondevice.models.checkpoint import load_checkpoint
from ondevice.models.data.hashed import HashedLog
from ondevice.models.data.synthetic import synthetic_log
from ondevice.models.search.bit_plan import by_rank
from ondevice.models.search.design_sizes import DesignSizes
from ondevice.models.search.frontier import described
from ondevice.models.search.goal import Goal
from ondevice.models.search.place_codes import code_lookup, coded_designs, field_weights
from ondevice.models.search.run_trial import folder_of, run_trial
from ondevice.models.search.search import Search
from ondevice.models.search.table_design import TableDesign
from ondevice.models.search.trial import Trial
from ondevice.models.search.trial_data import prepare
from ondevice.models.training.refit import Refit

BASE = Trial({}, hidden=(16,), epochs=1, batch=256, refit=Refit((3.0,), epochs=1))
BUDGET = 180


@pytest.fixture(scope="module")
def data():
    """A log with a field of numbers, and one of which every value is missing."""
    torch.set_num_threads(1)
    log = synthetic_log(6000, {"user": 1500, "item": 600, "hour": 24})
    rows = len(log.labels)
    price = np.random.default_rng(0).exponential(5, rows)
    others = (Field("price", "number", "bucket"), Field("empty", "integer", "hash", hash_bits=64))
    hashes = {"price": price.view(np.int64), "empty": np.zeros(rows, np.int64)}
    features = FeatureSpec((*log.features.fields, *others))
    return prepare(HashedLog("odd", features, {**log.hashes, **hashes}, log.labels))


@pytest.fixture(scope="module")
def weights(data, tmp_path_factory):
    trial = replace(BASE, tables={name: TableDesign(1, "f32") for name in data.fields})
    folder = tmp_path_factory.mktemp("probe")
    run_trial(data, trial, folder, progress=False)
    model = load_checkpoint(folder_of(data, trial, folder) / "checkpoint").model
    return field_weights(by_rank(model, data), data)


@pytest.mark.parametrize("budget", [60, 100, BUDGET, 300, 500])
def test_designs_fit_their_budget(budget, data, weights):
    designs = coded_designs(weights, data, budget)
    assert set(designs) == set(data.fields)
    assert DesignSizes(data).total(designs, dict.fromkeys(designs, "column")) <= budget
    assert any(design.places for design in designs.values())
    assert designs["price"].head is None
    assert coded_designs(weights, data, 5) is None
    assert coded_designs(weights, data, 50_000) is None  # every value can have a row


def test_telling_fields_get_the_bytes(data, weights):
    def tell(user, item):
        return coded_designs({**weights, "user": user, "item": item}, data, 250)

    assert tell(1.0, 1e-6)["item"] == TableDesign(1, "q4", 0)  # one row for all values
    assert tell(1.0, 9.0)["item"].dim > tell(9.0, 1.0)["item"].dim


@pytest.mark.parametrize(("values", "blocks"), [(1, 1), (6040, 2), (6040, 3), (1022, 2)])
def test_every_place_has_its_own_rows(values, blocks):
    spec = code_lookup(values, blocks, 2)
    rows = table_rows(spec, np.arange(values + 2))
    assert len(np.unique(rows, axis=0)) == values + 2
    assert rows.max() < spec.rows


def test_the_file_reads_raw_values_by_their_place(data, weights, tmp_path):
    designs = coded_designs(weights, data, BUDGET)
    planned = DesignSizes(data).total(designs, dict.fromkeys(designs, "column"))
    trial = replace(BASE, tables=designs, round_epochs=1)
    assert Trial.from_json(trial.to_json()) == trial
    result = run_trial(data, trial, tmp_path, progress=False)
    assert result.table_bytes == planned
    folder = folder_of(data, trial, tmp_path)
    file, checkpoint = ondevice.load(folder / "model.odm"), load_checkpoint(folder / "checkpoint")
    name = max(designs, key=lambda item: designs[item].dim)
    assert designs[name].places
    field, known = checkpoint.features[name], data.values[name]
    raw_of = dict(zip(field.hashes(list(range(1500))).tolist(), range(1500), strict=True))
    frequent = [raw_of[value] for value in known[:4].tolist()]
    ids = field.encode(frequent)
    # 16 groups of falling frequency, in each the order of the hashes
    order = sorted(known[: len(known) // 16].tolist())
    assert ids.tolist() == [order.index(value) + 2 for value in known[:4].tolist()]
    weight = checkpoint.model.embedding(name).weight.detach().numpy()
    vectors = weight[table_rows(checkpoint.model.embedding(name).spec, ids)].reshape(4, -1)
    module = checkpoint.model.embedding(name)(torch.from_numpy(ids)).detach().numpy()
    np.testing.assert_allclose(module, vectors)
    fields = checkpoint.features.fields
    raw = {item.name: [2.5 if item.name == "price" else 1] * 5 for item in fields}
    raw[name] = [*frequent, 10**9]  # the last was never seen
    encoded = {item.name: item.encode(raw[item.name]) for item in fields}
    with torch.no_grad():
        expected = checkpoint.model({key: torch.from_numpy(v) for key, v in encoded.items()})
    np.testing.assert_allclose(file.predict(raw, raw=True), expected.numpy(), atol=5e-4)


def test_places_need_a_lookup():
    with pytest.raises(SpecError, match="places need the tail 'lookup'"):
        TableDesign(1, "q4", 0, places=True)


def test_a_search_below_a_bit_a_value_tries_codes(data, tmp_path):
    search = Search(data, Goal(budget=120), tmp_path, BASE, widths=(2, 1), trials=9)
    results = list(search.run(lambda text: None))
    coded = [
        item for item in results if any(design.places for design in item.trial.tables.values())
    ]
    assert coded
    assert all(item.table_bytes <= 120 for item in coded)
    assert "(binary code)" in described(coded[0].trial.tables)
