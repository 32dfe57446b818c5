"""Bits by frequency: Fisher information by autograd, budgets met, sections in the written file."""

import json
from dataclasses import asdict, replace

import numpy as np
import pytest
import torch
from support.torch import make_log

import ondevice
from ondevice.errors import SpecError
from ondevice.inspection import inspect
from ondevice.models import ClickModel, FullEmbedding, Splits
from ondevice.models.checkpoint import load_checkpoint
from ondevice.models.data.synthetic import synthetic_data
from ondevice.models.layers.embeddings import Embedding
from ondevice.models.search.bit_plan import plan_bits, row_information
from ondevice.models.search.run_trial import folder_of, run_trial, trained_model, write_files
from ondevice.models.search.table_design import TableDesign
from ondevice.models.search.trial import Trial
from ondevice.models.search.trial_data import prepare
from ondevice.models.training.distillation import Distillation
from ondevice.models.training.refit import Refit
from ondevice.sections import Section

VOCABULARIES = {"user": 3000, "item": 900, "hour": 24}
BITS = {"q1": 1, "q2": 2, "q3": 3, "q4": 4, "q8": 8}


@pytest.fixture(scope="module")
def data():
    torch.set_num_threads(1)
    return prepare(synthetic_data(20000, VOCABULARIES).log)


@pytest.fixture(scope="module")
def probe(data):
    """Values of every rank, larger for frequent ones; a network that reads them."""
    torch.manual_seed(0)
    tables = {
        name: FullEmbedding(len(known) + 2, 1, padding_id=None, std=1.0)
        for name, known in data.values.items()
    }
    return ClickModel(tables, (8,))


def file_bytes(design, rows):
    assert sum(count for count, _ in design.sections) == rows
    return sum(
        -(-count * BITS[codec] // 8) + 4 * (1 if codec == "q8" else 2 ** BITS[codec])
        for count, codec in design.sections
    )


def test_information_is_the_diagonal_of_the_fisher_matrix():
    """Per row the sum over impressions of the squared gradient's mean over both labels."""
    torch.manual_seed(0)
    model = ClickModel({"a": FullEmbedding(6, 1, padding_id=None, std=1.0)}, (4,))
    ids = np.array([2, 2, 2, 3, 4, 4])
    log = make_log({"a": ids}, np.array([1, 0, 1, 0, 1, 1]))
    seen_again = make_log({"a": np.array([2, 2, 2, 3, 4, 4])}, np.zeros(6))
    information = row_information(model, Splits(log, seen_again, log))["a"]
    weight = model.embedding("a").weight
    for row, reads in ((2, 3), (3, 1), (4, 2)):
        logit = model.forward_logits({"a": torch.tensor([row])})[0]
        likely = float(torch.sigmoid(logit.detach()))
        expected = 0.0
        for label, share in ((1, likely), (0, 1 - likely)):
            loss = torch.nn.functional.binary_cross_entropy_with_logits(
                model.forward_logits({"a": torch.tensor([row])})[0], torch.tensor(float(label))
            )
            (gradient,) = torch.autograd.grad(loss, weight)
            expected += share * float(gradient[row, 0]) ** 2
        assert information[row] == pytest.approx(reads * expected, rel=1e-4)
    # a validation part that reads rows of one training click half as often
    rarely = make_log({"a": np.array([2, 2, 2, 4, 4, 3] * 2 + [2] * 6)}, np.zeros(18))
    halved = row_information(model, Splits(log, rarely, log))["a"]
    assert halved[3] == pytest.approx(information[3] * 2 * 6 / 18, rel=1e-4)


@pytest.mark.parametrize("budget", [700, 1500, 2200])
def test_a_plan_spends_its_budget_on_frequent_values(data, probe, budget):
    owned = {name: len(known) for name, known in data.values.items()}
    designs = plan_bits(probe, data.ranked, budget, owned)
    total = sum(file_bytes(design, design.head + 2) for design in designs.values())
    assert 0.97 * budget <= total <= budget
    for name, design in designs.items():
        bits = [BITS[codec] for _, codec in design.sections]
        assert bits == sorted(bits, reverse=True)
        assert design.head <= owned[name]


def test_plans_that_cannot_be_are_refused(data, probe):
    owned = {name: len(known) for name, known in data.values.items()}
    with pytest.raises(SpecError, match="a budget of 20 bytes is below"):
        plan_bits(probe, data.ranked, 20, owned)
    wide = ClickModel({name: FullEmbedding(9, 2) for name in data.values}, (8,))
    with pytest.raises(SpecError, match="one dimension"):
        plan_bits(wide, data.ranked, 1000, owned)


def test_a_sectioned_trial_measures_the_file_that_it_trained_for(data, tmp_path):
    tables = {
        "user": TableDesign(1, "q3", 800, sections=((102, "q3"), (300, "q2"), (400, "q1"))),
        "item": TableDesign(1, "q4", sections=((50, "q4"), (None, "q1"))),
        "hour": TableDesign(1, "q8"),
    }
    trial = Trial(
        tables,
        ranked=True,
        epochs=1,
        batch=256,
        refit=Refit((3.0,), epochs=1),
        round_epochs=1,
        distillation=Distillation(2, 1, dim=2),
    )
    result = run_trial(data, trial, tmp_path, progress=False)
    items, hours = (len(data.values[name]) for name in ("item", "hour"))
    # codes and levels of each section, whose codes end at a multiple of 4 bytes
    user = (40 + 32) + (76 + 16) + (52 + 8)
    item = (28 + 64) + (-(-(items + 2 - 50) // 32) * 4 + 8)
    assert result.table_bytes == user + item + (hours + 2) + 4
    folder = folder_of(data, trial, tmp_path)
    listed = sum(table.total for table in inspect(folder / "model.odm").tables)
    assert listed == result.table_bytes - 10  # the gaps behind sections belong to no one of them
    checkpoint = load_checkpoint(folder / "checkpoint").model
    weight = checkpoint.embedding("user").weight.detach().numpy()[:, 0]
    for rows, most in ((weight[:102], 8), (weight[102:402], 4), (weight[402:], 2)):
        assert 1 < len(np.unique(rows)) <= most
    ids = {name: values[:500] for name, values in data.ranked.test.ids.items()}
    with torch.no_grad():
        scores = checkpoint({name: torch.from_numpy(values) for name, values in ids.items()})
    model = ondevice.load(folder / "model.odm")
    # the hours have other scales than float: the rest is exact
    np.testing.assert_allclose(model.predict(ids), scores.numpy(), atol=0.01)
    assert len(list(tmp_path.glob("teachers-*/*.npy"))) == 2


def test_designs_and_trials_with_sections_are_checked_and_read_back():
    design = TableDesign(1, "q4", 9, sections=[[5, "q4"], [None, "q1"]])
    assert design.sections == ((5, "q4"), (None, "q1"))
    assert TableDesign(**json.loads(json.dumps(asdict(design)))) == design
    expected = (Section(5, "q4", scale_axis="levels"), Section(None, "q1", scale_axis="levels"))
    assert design.stored == expected
    with pytest.raises(SpecError, match="only the last may lack its rows"):
        TableDesign(1, sections=((None, "q4"), (5, "q1")))
    with pytest.raises(SpecError, match="unknown codec 'q5'"):
        TableDesign(1, sections=((5, "q5"),))
    with pytest.raises(SpecError, match="sections need the tail 'shared'"):
        TableDesign(1, "q4", 9, "hash", 5, sections=((5, "q4"),))
    with pytest.raises(SpecError, match="need the map 'vocabulary'"):
        Trial({"user": design}, map="retrieval")


def test_each_section_of_raw_values_is_a_group():
    design = TableDesign(1, "q4", 9, sections=((1, "q8"), (1, "q4"), (4, "q2"), (None, "q1")))
    assert design.groups(50) == (4, 5)  # rows 0 and 1 have sections of their own
    assert design.groups(8) == (4, 4)
    hashes = np.array([7, -3, 9, 0, 5, 2, -8, 4, 1, 6, 3])
    assert hashes[design.order(hashes)].tolist() == [-3, 0, 7, 9, -8, 1, 2, 4, 5]
    assert TableDesign(1).groups(5) == ()
    assert hashes[TableDesign(1, head=3).order(hashes)].tolist() == [-3, 7, 9]
    with pytest.raises(SpecError, match="are for 6 rows, the table has 4"):
        design.groups(2)


def raw_of_hashes(field, most):
    """By the hash of each of the synthetic log's values, the value."""
    values = np.arange(most, dtype=np.int64)
    return dict(zip(field.hashes(values).tolist(), values.tolist(), strict=True))


def test_raw_values_in_sections_have_the_scores_of_ranked_ones(data, tmp_path):
    """Rows of a trained ranked model, moved to the IDs that raw values encode to, score alike."""
    tables = {
        "user": TableDesign(1, "q3", 800, sections=((102, "q3"), (300, "q2"), (400, "q1"))),
        "item": TableDesign(1, "q4", sections=((50, "q4"), (None, "q1"))),
        "hour": TableDesign(1, "q8"),
    }
    trial = Trial(tables, ranked=True, epochs=1, batch=256)
    ranked = trained_model(data, trial, data.ranked, progress=False)
    splits = data.encoded(replace(trial, ranked=False))
    features = splits.train.features
    assert features["user"].vocabulary_groups == (100, 300, 400)
    raw = ClickModel(
        {name: Embedding(ranked.embedding(name).spec) for name in ranked.fields}, trial.hidden
    )
    raw.network.load_state_dict(ranked.network.state_dict())
    columns = {}
    for name in data.fields:
        by_hash = raw_of_hashes(features[name], VOCABULARIES[name])
        known = [by_hash[h] for h in data.values[name].tolist()]
        columns[name] = [by_hash[h] for h in data.parts[2].hashes[name].tolist()]
        rows = ranked.embedding(name).spec.rows
        ids = [0, 1, *features[name].encode(known[: rows - 2]).tolist()]
        assert sorted(ids) == list(range(rows))
        with torch.no_grad():
            raw.embedding(name).weight[ids] = ranked.embedding(name).weight
    scores = []
    for model, parts, out in ((ranked, data.ranked, "ranked"), (raw, splits, "raw")):
        examples = {name: ids[:64] for name, ids in parts.test.ids.items()}
        write_files(model, parts.test.features, examples, trial, tmp_path / out, ("odm",))
        inputs = parts.test.ids if out == "ranked" else columns
        scores.append(ondevice.load(tmp_path / out / "model.odm").predict(inputs, raw=out == "raw"))
    np.testing.assert_allclose(scores[0], scores[1], rtol=0, atol=1e-6)
    assert len(np.unique(scores[0])) > 100


def test_a_trial_of_raw_values_in_sections(data, tmp_path):
    """Its file scores as its checkpoint does, and stores its vocabularies in groups."""
    tables = {
        "user": TableDesign(1, "q3", 800, sections=((102, "q3"), (300, "q2"), (400, "q1"))),
        "item": TableDesign(1, "q4", sections=((50, "q4"), (None, "q1"))),
        "hour": TableDesign(1, "q8"),
    }
    trial = Trial(tables, epochs=1, batch=256, refit=Refit((3.0,), epochs=1), round_epochs=1)
    result = run_trial(data, trial, tmp_path, progress=False)
    folder = folder_of(data, trial, tmp_path)
    model = ondevice.load(folder / "model.odm")
    assert model.features["user"].vocabulary_groups == (100, 300, 400)
    assert model.features["item"].vocabulary_groups == (48, len(data.values["item"]) - 48)
    checkpoint = load_checkpoint(folder / "checkpoint").model
    weight = checkpoint.embedding("user").weight.detach().numpy()[:, 0]
    for rows, most in ((weight[:102], 8), (weight[102:402], 4), (weight[402:], 2)):
        assert 1 < len(np.unique(rows)) <= most
    test = data.encoded(trial).test
    ids = {name: values[:500] for name, values in test.ids.items()}
    with torch.no_grad():
        scores = checkpoint({name: torch.from_numpy(values) for name, values in ids.items()})
    np.testing.assert_allclose(model.predict(ids), scores.numpy(), atol=0.01)
    assert result.test_auc > 0.55


def test_what_is_off_does_not_change_where_older_results_are():
    trial = Trial({"user": TableDesign()}, ranked=True)
    plain = trial.to_json()
    assert "distillation" not in plain and "sections" not in plain["tables"]["user"]
    on = replace(trial, distillation=Distillation()).to_json()
    assert on["distillation"]["folds"] == Distillation().folds
