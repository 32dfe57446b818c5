"""Forms of sharing rows among hashed IDs: bytes as planned and as written, and their blocks."""

import numpy as np
import pytest
import torch

from ondevice.errors import SpecError
from ondevice.lookup import table_rows
from ondevice.models.data.synthetic import synthetic_data
from ondevice.models.search.hashed_rows import (
    FORMS,
    BinaryCode,
    EqualBlocks,
    OverlappingBlocks,
    QuotientRemainder,
    hashed_designs,
    level_blocks,
    spending_blocks,
)
from ondevice.models.search.run_trial import run_trial
from ondevice.models.search.table_design import TableDesign
from ondevice.models.search.trial import Trial
from ondevice.models.search.trial_data import prepare
from ondevice.spec import hashing_spec

# these leave rows unspent
UNEQUAL = {name for name, form in FORMS.items() if isinstance(form, EqualBlocks)}
SPENDING = sorted(set(FORMS) - UNEQUAL)


@pytest.mark.parametrize("form", SPENDING)
@pytest.mark.parametrize("rows", [555, 5551, 55_510])
def test_forms_spend_their_rows_within_one_per_cent(form, rows):
    values = {"user": 22_162, "item": 255_355, "category": 27}
    tables = hashed_designs(FORMS[form], values, rows, 16, "f16")
    assert tables is not None
    specs = {name: table.spec(values[name], ranked=False) for name, table in tables.items()}
    assert 0.99 * rows * 16 <= sum(spec.rows * spec.row_dim for spec in specs.values()) <= rows * 16
    assert specs["category"].scheme == "full"
    assert tables["item"].tail == "lookup"
    assert tables["user"].tail == (
        "lookup" if rows < 44_000 else "shared"
    )  # or it has all its rows
    hashes = np.random.default_rng(0).integers(-(2**63), 2**63, 1000)
    read = table_rows(specs["item"], hashes)
    assert read.min() >= 0
    assert read.max() < specs["item"].rows


@pytest.mark.parametrize("form", ["hashing", "multi-hash, 2", "quotient-remainder", "BH"])
def test_written_bytes_are_those_planned(form, tmp_path):
    torch.set_num_threads(1)
    data = prepare(synthetic_data(4000, {"user": 400, "item": 150, "hour": 24}).log)
    values = {name: len(known) for name, known in data.values.items()}
    tables = hashed_designs(FORMS[form], values, 150, 4, "f16")
    assert tables is not None
    result = run_trial(data, Trial(tables, epochs=1), tmp_path, progress=False)
    assert 0.99 * 150 * 4 * 2 <= result.table_bytes <= 150 * 4 * 2
    assert 0 < result.map_bytes < 8 * values["hour"]  # only a whole table needs to know its values


def test_blocks_of_powers_of_two():
    assert spending_blocks(264) == (8, 3)
    assert spending_blocks(2) == (1,)
    assert level_blocks(264, 2) == (8, 3)
    assert level_blocks(264, 3) == (7, 7, 3)
    assert level_blocks(264, 4) == (7, 6, 6, 3)
    assert level_blocks(1024, 4) == (8, 8, 8, 8)
    assert level_blocks(8, 4) == (1, 1, 1, 1)
    for rows in range(16, 3000):
        blocks = [spending_blocks(rows), *(level_blocks(rows, count) for count in (2, 4, 8))]
        assert [len(bits) for bits in blocks[1:]] == [2, 4, 8]
        for bits in blocks:
            assert min(bits) >= 1
            assert sum(2**size for size in bits) <= rows
        assert rows - sum(2**size for size in blocks[0]) <= max(1, 0.01 * rows)


def test_shapes_of_codes_and_quotients():
    code = BinaryCode(3).lookup(10_000, 264, 8)
    assert [(block.start, block.bits, block.offset) for block in code.blocks] == [
        (0, 7, 0),
        (7, 7, 128),
        (14, 3, 256),
    ]
    wide = BinaryCode(8, "concat").lookup(10_000, 2775, 16)  # 86 bits of 64: blocks overlap
    assert wide.code_bits == 64
    assert max(block.start + block.bits for block in wide.blocks) == 64
    assert len({block.start for block in wide.blocks}) == 8
    fitted = OverlappingBlocks(None).lookup(255_355, 2775, 16)
    assert [(block.bits, block.offset) for block in fitted.blocks] == [
        (10, 0),
        (10, 1024 * (2775 - 1024) // 2048),
        (10, 2775 - 1024),
    ]
    assert OverlappingBlocks(None).lookup(255_355, 27_750, 16).rows == 27_750
    skip = EqualBlocks(2, skip=True).lookup(10_000, 64, 8)
    assert [(block.start, block.stride, block.bits) for block in skip.blocks] == [
        (0, 2, 5),
        (1, 2, 5),
    ]
    assert EqualBlocks(2, shared=True).lookup(10_000, 64, 8).rows == 64
    counted = QuotientRemainder(even=False).lookup(10_000, 264, 8)
    assert [residue.rows for residue in counted.residues] == [218, 46]  # 218 * 46 >= 10,000
    even = QuotientRemainder().lookup(10_000, 264, 8)
    assert [residue.rows for residue in even.residues] == [132, 132]


def test_too_few_rows_and_contradictions_are_said():
    values = {"user": 1000, "item": 1000}
    assert hashed_designs(BinaryCode(), values, 15, 8, "f16") is None
    whole = hashed_designs(BinaryCode(), values, 2004, 8, "f16")
    assert whole == dict.fromkeys(values, TableDesign(8, "f16"))
    for settings, match in (
        ({"tail": "lookup"}, "tail 'lookup' with lookup None"),
        ({"lookup": hashing_spec(5, 16)}, "tail 'shared' with lookup"),
        ({"head": 3, "tail": "lookup", "lookup": hashing_spec(5, 16)}, "head 0 are needed"),
        ({"head": 0, "tail": "lookup", "lookup": hashing_spec(5, 8)}, "got dim 8"),
    ):
        with pytest.raises(SpecError, match=match):
            TableDesign(**settings)
