"""Trials: bytes counted by hand, resumed and repeated runs, every method from raw values."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

import ondevice
import ondevice.models.search.run_trial as compression
from ondevice.codecs import BITS, CODECS, FLOAT_CODECS, MAX_LEVEL_BITS, quantise
from ondevice.converters import convert
from ondevice.errors import FileFormatError, InputError, SpecError
from ondevice.features import FeatureSpec, Field
from ondevice.inspection import inspect
from ondevice.models.checkpoint import load_checkpoint
from ondevice.models.data import open_log
from ondevice.models.data.synthetic import synthetic_data
from ondevice.models.search.run_trial import folder_of, run_trial
from ondevice.models.search.sizing import (
    METHODS,
    block_rows,
    designs,
    fewest_rows,
    planned_bytes,
    planned_rows,
)
from ondevice.models.search.table_design import TableDesign
from ondevice.models.search.trial import Trial
from ondevice.models.search.trial_data import prepare
from ondevice.models.training.widths import Widths
from ondevice.records import TAIL_BYTES, pack_records

VOCABULARIES = {"user": 400, "item": 150, "hour": 24}


@pytest.fixture(scope="module")
def data():
    torch.set_num_threads(1)
    return prepare(synthetic_data(4000, VOCABULARIES).log)


def everywhere(data, **settings):
    return {name: TableDesign(**settings) for name in data.values}


def test_values_are_ranked_by_training_counts(data):
    train = data.parts[0].hashes["user"]
    for place in (0, 1, 50):
        assert data.counts["user"][place] == (train == data.values["user"][place]).sum()
    assert (np.diff(data.counts["user"]) <= 0).all()
    ids = data.ranked.train.ids["user"]
    assert (ids[train == data.values["user"][7]] == 9).all()
    unseen = ~np.isin(data.parts[2].hashes["user"], data.values["user"])
    assert unseen.any()
    assert (data.ranked.test.ids["user"][unseen] == 1).all()


def test_bytes_are_the_heads_rows_in_the_written_file(data, tmp_path):
    tables = {
        "user": TableDesign(1, "q4", head=101),
        "item": TableDesign(1, "q2", head=30),
        "hour": TableDesign(2, "f16"),
    }
    result = run_trial(data, Trial(tables, epochs=1), tmp_path, progress=False)
    hours = len(data.values["hour"])
    # half and a quarter of a byte a row, two rows more; a column scale of 4 bytes; two f16 values
    assert result.table_bytes == (52 + 4) + (8 + 4) + 4 * (hours + 2)
    # what tells a value of 1,000 from others by a chance of 2**-16 or less
    values = 101 + 30 + hours
    assert 2 * values < result.map_bytes <= 8 * values
    inspected = inspect(folder_of(data, result.trial, tmp_path) / "model.odm")
    assert sorted(table.codec for table in inspected.tables) == ["f16", "q2", "q4"]
    parts = inspected.parts
    assert (result.map_bytes, result.network_bytes) == (parts.map, parts.network)
    assert result.file_bytes == inspected.file_bytes == parts.total


def test_a_trial_repeats_resumes_and_refuses_a_damaged_result(data, tmp_path, monkeypatch):
    trial = Trial(everywhere(data, dim=2, head=20), epochs=1)
    first = run_trial(data, trial, tmp_path / "a", progress=False)
    assert run_trial(data, trial, tmp_path / "b", progress=False) == first  # deterministic
    monkeypatch.setattr(compression, "trained_model", None)  # it is not trained again
    assert run_trial(data, trial, tmp_path / "a", progress=False) == first
    stored = next((tmp_path / "a").glob("*/result.json"))
    stored.write_text(stored.read_text()[:-20])
    with pytest.raises(FileFormatError, match="not a trial's result"):
        run_trial(data, trial, tmp_path / "a", progress=False)


def test_another_log_is_another_trial(data, tmp_path):
    other = prepare(synthetic_data(4000, VOCABULARIES, seed=1).log)
    trial = Trial(everywhere(data))
    assert folder_of(data, trial, tmp_path) != folder_of(other, trial, tmp_path)


def test_settings_that_came_later_are_stored_only_where_used():
    """So that the folders of stored trials, which are named by their settings, stay theirs."""
    plain = Trial({"a": TableDesign(2, "f32")})
    raised = replace(plain, widths=Widths("amtl", raise_penalty=True))
    assert "raise_penalty" not in plain.to_json()["widths"]
    for trial in (plain, raised):
        assert Trial.from_json(trial.to_json()) == trial


@pytest.mark.parametrize(
    ("tail", "size", "rows"),
    [
        ("hash", 13, 13),
        ("multi_hash", 13, 26),
        ("quotient_remainder", 20, None),
        ("binary_code", 3, 24),
    ],
)
def test_raw_values_reach_head_and_tail(tail, size, rows, data, tmp_path):
    """A head found in the vocabulary, every other value hashed: from raw values to scores."""
    drawn = synthetic_data(4000, VOCABULARIES)
    tables = everywhere(data, dim=2) | {"user": TableDesign(2, "q8", 10, tail, size)}
    trial = Trial(tables, epochs=1)
    result = run_trial(data, trial, tmp_path, progress=False)
    folder = folder_of(data, trial, tmp_path)
    model = ondevice.load(folder / "model.odm")
    raw = {name: values[:500] for name, values in drawn.values.items()}
    expected = load_checkpoint(folder / "checkpoint")
    features = expected.features
    assert features["user"].unknown == "hash"
    assert len(features["user"].vocabulary) == 10
    ids = features.encode(raw)
    in_head = (ids["user"] >= 2) & (ids["user"] < 12)
    assert 0 < in_head.mean() < 1
    np.testing.assert_array_equal(
        ids["user"][~in_head], features["user"].hashes(raw["user"])[~in_head]
    )
    with torch.no_grad():
        scores = expected.model({name: torch.tensor(i) for name, i in ids.items()}).numpy()
    np.testing.assert_allclose(model.predict(raw, raw=True), scores, atol=0.02)
    values = 10 + len(data.values["item"]) + len(data.values["hour"])
    assert 2 * values < result.map_bytes <= 8 * values
    if rows is not None:
        assert expected.model.embedding("user").spec.rows == 12 + rows


def test_unknown_values_keep_their_hash_where_asked():
    known = np.sort(np.array([5, -7, 99]))
    field = Field("f", "integer", "vocabulary", vocabulary=known, unknown="hash")
    again = FeatureSpec.from_json(FeatureSpec((field,)).to_json())["f"]
    assert again.unknown == "hash"
    hashes = field.hashes([1, 2])
    np.testing.assert_array_equal(again.encode([1, 2, None]), [*hashes, 0])
    with pytest.raises(SpecError, match="for the encoding 'vocabulary'"):
        Field("f", "integer", "id", unknown="hash")
    with pytest.raises(SpecError, match="'oov' or 'hash'"):
        Field("f", "string", "vocabulary", vocabulary=known, unknown="row")


def test_rounding_epochs_and_widths_reach_the_file(data, tmp_path):
    tables = everywhere(data, dim=4, codec="q2")
    trial = Trial(tables, epochs=1, widths=Widths("frequency", keep=0.5), round_epochs=1)
    result = run_trial(data, trial, tmp_path, progress=False)
    stored = inspect(folder_of(data, trial, tmp_path) / "model.odm").tables
    assert min(table.kept for table in stored) < 3  # the rest of 4 is cut
    whole = run_trial(data, Trial(tables, epochs=1), tmp_path, progress=False)
    assert result.table_bytes < whole.table_bytes


@pytest.mark.parametrize("method", METHODS)
def test_methods_stay_within_their_rows(method):
    values = {"user": 22_162, "item": 255_355, "category": 27}
    for rows in (200_000, 17_000, 2_000):
        tables = designs(method, values, rows, 16, "q4")
        assert tables is not None
        specs = {name: table.spec(values[name], ranked=True) for name, table in tables.items()}
        assert sum(spec.rows for spec in specs.values()) <= rows
        assert specs["category"].scheme == "full"  # needs less than its share: whole
        kinds = {"hybrid_hash": "hybrid hash", "hybrid_binary_code": "hybrid binary code"}
        assert specs["item"].kind == kinds.get(method, method).replace("multi_", "multi-").replace(
            "quotient_", "quotient-"
        ).replace("binary_code", "binary code")
    assert designs(method, values, sum(values.values()) + 6, 16, "q4") == dict.fromkeys(
        values, TableDesign(16, "q4")
    )


def test_too_few_rows_are_said():
    assert designs("quotient_remainder", {"user": 10_000}, 150, 16, "q4") is None
    assert fewest_rows("quotient_remainder", 10_000) == 202  # about twice its square root
    assert block_rows(18, 9) == 1024
    assert block_rows(19, 9) == 1026
    assert planned_rows(1000, 2, 16, "q4") == 100  # 8 bytes of values, 2 of the row's scale
    assert planned_rows(1000, 2, 1, "q4") == 1984  # half a byte; a scale of 4 a table


def test_faults_name_what_is_wrong(data, tmp_path):
    for settings, match in (
        ({"dim": 0}, "dim must be at least 1"),
        ({"codec": "q5"}, "codec must be one of"),
        ({"head": -1}, "head must not be negative"),
        ({"tail": "tree"}, "tail must be one of"),
        ({"tail": "hash"}, "tail 'hash' with size 0"),
        ({"size": 4}, "tail 'shared' with size 4"),
    ):
        with pytest.raises(SpecError, match=match):
            TableDesign(**settings)
    with pytest.raises(SpecError, match="designs for user"):
        run_trial(data, Trial({"user": TableDesign()}), tmp_path, progress=False)
    with pytest.raises(SpecError, match="rounding epochs"):
        Trial({}, round_epochs=-1)


def test_sequences_are_refused():
    from ondevice.models.data import History, add_history

    log = open_log("synthetic", max_rows=500)
    assert log.times is not None
    with_history = add_history((log, log, log), History("user", "item", 3, "history"))[0]
    with pytest.raises(InputError, match="take no sequences: history"):
        prepare(with_history)


class TwoTables(nn.Module):
    def __init__(self):
        super().__init__()
        self.user, self.item = nn.Embedding(50, 4), nn.Embedding(90, 4)

    def forward(self, ids):
        total = (self.user(ids["u"]) * self.item(ids["i"])).sum(-1)
        return torch.sigmoid(total)


@pytest.mark.parametrize(
    ("tables", "expected"),
    [
        ({"i": "q4"}, {50: "q8", 90: "q4"}),
        ({"u": "q4", "*": "f16"}, {50: "q4", 90: "f16"}),
        ({"user.weight": "f32", "u": "q4", "*": "q4"}, {50: "f32", 90: "q4"}),
    ],
)
def test_each_table_has_its_codec(tables, expected, tmp_path):
    example = ({"u": torch.tensor([1, 2]), "i": torch.tensor([3, 4])},)
    report = convert(TwoTables().eval(), example, tmp_path, tables=tables)
    for target in report.targets.values():
        assert {table.rows: table.codec for table in inspect(target.path).tables} == expected


def test_codecs_of_unknown_tables_are_refused(tmp_path):
    example = ({"u": torch.tensor([1, 2]), "i": torch.tensor([3, 4])},)
    with pytest.raises(SpecError, match=r"codecs for x: no such table or input; there are i, item"):
        convert(TwoTables().eval(), example, tmp_path, tables={"x": "q4"})
    with pytest.raises(SpecError, match=r"unknown codec.* '?q5"):
        convert(TwoTables().eval(), example, tmp_path, tables={"u": "q5"})
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("axis", ["row", "column", "levels"])
def test_planned_bytes_are_those_of_written_records(codec, axis):
    rng = np.random.default_rng(0)
    for rows, dim in ((1, 1), (7, 1), (103, 1), (9, 3), (64, 16), (1001, 5)):
        values = rng.standard_normal((rows, dim)).astype(np.float32)
        if codec in FLOAT_CODECS:
            stored = quantise(values, codec)
        elif axis == "levels" and BITS[codec] > MAX_LEVEL_BITS:
            continue
        else:
            stored = quantise(values, codec, scale_axis=axis)
        written = pack_records(stored)
        size = written.records.size - TAIL_BYTES + written.scales.nbytes
        assert planned_bytes(rows, dim, codec, stored.scale_axis) == size
