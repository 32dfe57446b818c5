"""Bits by frequency in the search: raw values, number fields, bytes planned and written."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

import ondevice
from ondevice.features import FeatureSpec, Field
from ondevice.models.checkpoint import load_checkpoint
from ondevice.models.data.hashed import HashedLog
from ondevice.models.data.synthetic import synthetic_log
from ondevice.models.search.bit_plan import plan_bits, planned_for_raw_values
from ondevice.models.search.design_sizes import DesignSizes
from ondevice.models.search.frontier import Frontier
from ondevice.models.search.goal import Goal
from ondevice.models.search.probe import Point, Probe
from ondevice.models.search.proposals import Descent, Proposals
from ondevice.models.search.run_trial import folder_of, run_trial
from ondevice.models.search.search import Search
from ondevice.models.search.size_fitter import Network, SizeFitter
from ondevice.models.search.table_design import TableDesign
from ondevice.models.search.trial import Trial, TrialResult
from ondevice.models.search.trial_data import prepare
from ondevice.models.training.refit import Refit

VOCABULARIES = {"user": 1500, "item": 600}
BASE = Trial({}, hidden=(16,), epochs=1, batch=256, refit=Refit((3.0,), epochs=1))


@pytest.fixture(scope="module")
def data():
    """A log with a field of numbers, a fifth of them missing."""
    torch.set_num_threads(1)
    log = synthetic_log(6000, VOCABULARIES)
    rng = np.random.default_rng(0)
    price = np.where(rng.random(len(log.labels)) < 0.2, np.nan, rng.exponential(5, len(log.labels)))
    return prepare(
        HashedLog(
            "with prices",
            FeatureSpec((*log.features.fields, Field("price", "number", "bucket"))),
            {**log.hashes, "price": price.view(np.int64)},
            log.labels,
        )
    )


@pytest.fixture(scope="module")
def probe(data, tmp_path_factory):
    """A trained model with whole tables of one dimension, and the folder of its trial."""
    folder = tmp_path_factory.mktemp("trials")
    trial = replace(BASE, tables={name: TableDesign(1, "f32") for name in data.fields})
    result = run_trial(data, trial, folder, progress=False)
    return folder, folder_of(data, trial, folder).name, result


def fitter(data, probe, measure):
    folder, _, result = probe
    each = result.map_bytes / sum(map(len, data.values.values()))
    sizes = DesignSizes(data, measure, each)
    return SizeFitter(data, folder, BASE, sizes, result.header_bytes)


def test_raw_values_get_the_bits_of_their_frequency(data, probe):
    """The plan is that of the same rows in the order of frequency ranks, moved by hand."""
    model = load_checkpoint(probe[0] / probe[1] / "checkpoint").model
    ranked = load_checkpoint(probe[0] / probe[1] / "checkpoint").model
    for name, hashes in data.values.items():
        by_hash = dict(zip(sorted(hashes.tolist()), range(len(hashes)), strict=True))
        with torch.no_grad():
            for rank, value in enumerate(hashes.tolist()):
                ranked.embedding(name).weight[rank + 2] = model.embedding(name).weight[
                    by_hash[value] + 2
                ]
    owned = {name: data.rows_of_values(name) for name in data.fields}
    expected = plan_bits(ranked, data.ranked, 400, owned)
    designs = planned_for_raw_values(model, data, 400)
    assert designs == {**expected, "price": replace(expected["price"], head=None)}


@pytest.mark.parametrize("most", [400, 700])
def test_tables_take_the_bytes_that_were_planned(most, data, probe):
    folder, start, _ = probe
    sizes = fitter(data, probe, "tables")
    trial = sizes.with_bits_by_frequency(replace(BASE, tables={}), start, most)
    assert len({codec for item in trial.tables.values() for _, codec in item.sections}) > 1
    planned = sizes.sizes.total(trial.tables, {})
    result = run_trial(data, trial, folder, progress=False)
    assert 0.99 * most <= planned == result.table_bytes <= most
    assert sizes.with_bits_by_frequency(replace(BASE, tables={}), start, 20) is None


def test_a_file_has_the_size_that_was_fitted_before_training(data, probe):
    folder, start, whole = probe
    sizes = fitter(data, probe, "file")
    most = whole.file_bytes - 5500
    tables = {name: TableDesign(1, "q4", 100) for name in data.values}
    trial = replace(BASE, tables={**tables, "price": TableDesign(1, "q4")}, dense="q8")
    fitted = sizes.with_bits_by_frequency(trial, start, most)
    result = run_trial(data, fitted, folder, progress=False)
    assert 0.99 * most <= result.file_bytes <= most


def test_rows_that_cost_bytes_of_the_map_are_fewer(data, probe):
    model = load_checkpoint(probe[0] / probe[1] / "checkpoint").model
    free = planned_for_raw_values(model, data, 600)
    paid = planned_for_raw_values(model, data, 600, 1.0)
    rows = sum(paid[name].head for name in data.values)
    assert rows < sum(free[name].head for name in data.values) / 2
    assert DesignSizes(data, "file", 1.0).total(paid, {}) <= 600
    assert DesignSizes(data, "file", 1.0).total(paid, {}) >= 0.95 * 600


def test_sections_lose_rows_and_get_some_from_the_last():
    design = TableDesign(1, "q4", 28, sections=((10, "q4"), (20, "q1")))
    assert design.with_head(40) == TableDesign(1, "q4", 40, sections=((10, "q4"), (32, "q1")))
    assert design.with_head(12) == TableDesign(1, "q4", 12, sections=((10, "q4"), (4, "q1")))
    assert design.with_head(8) == TableDesign(1, "q4", 8, sections=((10, "q4"),))
    assert design.with_head(3) == TableDesign(1, "q4", 3, sections=((5, "q4"),))
    assert TableDesign(1, "q4", 28).with_head(3) == TableDesign(1, "q4", 3)


def test_sections_that_miss_a_size_are_cut_and_grown_to_the_byte(data):
    tables = {
        "user": TableDesign(1, "q4", 298, sections=((100, "q4"), (200, "q1"))),
        "item": TableDesign(1, "q4", 98, sections=((100, "q4"),)),
        "price": TableDesign(1, "q4"),
    }
    sizes = DesignSizes(data)
    size = sizes.total(tables, {})
    smaller = sizes.shrunk(tables, {}, 11)
    assert size - 16 <= sizes.total(smaller, {}) <= size - 11  # a section ends at 4 bytes
    larger = sizes.grown(tables, {}, 11)
    assert size + 8 <= sizes.total(larger, {}) <= size + 11
    assert larger["user"].head > 298


def test_sizes_shrink_while_a_loss_holds_and_are_taught_where_it_does_not(data, probe):
    _, start, whole = probe
    results = {start: replace(whole, validation_auc=0.7, table_bytes=1000)}
    sizes = fitter(data, probe, "tables")
    goal = Goal(max_auc_loss=0.01)
    proposals = Proposals(goal, [Descent(1, start, _points(data, probe))], results, sizes)
    plans = proposals._bits_within_loss(0.69, Network((16,), "f32"))
    seen = []
    for auc in (0.695, 0.685, 0.69, 0.6899):
        plan = next(plans)
        total = sizes.sizes.total(plan.trial.tables, {})
        assert total <= plan.most
        seen.append((plan.most, plan.trial.distillation is not None))
        results[str(len(results))] = TrialResult(plan.trial, plan.most, 0, 20, 999, auc, auc)
    # 489 bytes fail from labels and hold where taught; 342 fail where taught
    assert seen == [(700, False), (489, False), (489, True), (342, True)]
    assert next(plans, None) is None


def _points(data, probe):
    folder, start, _ = probe
    model = load_checkpoint(folder / start / "checkpoint").model
    splits = data.encoded(replace(BASE, tables={n: TableDesign(1, "f32") for n in data.fields}))
    return list(Probe(model, data, splits.validation, 1, DesignSizes(data)).descend(100))


def test_a_search_tries_bits_by_frequency(data, tmp_path):
    goal = Goal(budget=400)
    search = Search(data, goal, tmp_path, BASE, widths=(4, 1), trials=5)
    notes = []
    results = list(search.run(notes.append))
    assert "1 dimension a value, bits by frequency" in notes
    sectioned = next(r for r in results if any(d.sections for d in r.trial.tables.values()))
    assert 396 <= sectioned.table_bytes <= 400
    assert sectioned.trial.tables["price"].head is None
    assert goal.choose(Frontier(results[0], tuple(results))) is not None
    assert search.left  # named without a file being written for them


def test_plans_that_are_only_named_write_no_file(data, probe):
    """A folder without the trial that a written file would be made from."""
    _, start, result = probe
    sizes = replace(fitter(data, probe, "file"), folder=probe[0] / "nowhere", estimates=True)
    designs = {name: TableDesign(1, "q4") for name in data.fields}
    point = Point(designs, dict.fromkeys(designs, "column"), 1500, 0.7)
    trial = sizes.fitted([point], start, Network((16,), "q8"), result.file_bytes)
    assert trial is not None and trial.tables == designs
    assert sizes.with_bits_by_frequency(trial, start, result.file_bytes) == trial


@pytest.mark.parametrize(("measure", "most"), [("tables", 900), ("file", 5200)])
def test_values_that_share_rows_by_their_hashes_take_the_size(measure, most, data, probe):
    trial = fitter(data, probe, measure).hashed(Network((16,), "q8"), most)
    assert {trial.tables[name].tail for name in data.values} == {"lookup"}
    result = run_trial(data, trial, probe[0], progress=False)
    assert 0.98 * most <= result.bytes(measure) <= most
    model = ondevice.load(folder_of(data, trial, probe[0]) / "model.odm")
    assert model.features["user"].vocabulary is None
    assert fitter(data, probe, measure).hashed(Network((16,), "q8"), 60) is None


def test_probes_of_a_small_file_go_down_to_a_part_of_it(data, tmp_path):
    """Its tables and maps have what the network and the header leave."""
    search = Search(data, Goal(budget=3000, measure="file"), tmp_path, BASE, widths=(1,), trials=1)
    list(search.run(lambda text: None))
    (stored,) = tmp_path.glob("*/descent-file-*.json")
    points = json.loads(stored.read_text())
    assert points[-1]["bytes"] <= 60 or points[-1]["designs"]["item"]["head"] == 0
