"""Test vectors that travel in files: rounded answers, and the requests of an earlier file."""

import numpy as np
import pytest
from support.converters import click_ids, click_model, torch_inputs, torch_output

from ondevice.converters import convert
from ondevice.converters.verify.requests import coarse, earlier_requests
from ondevice.difference import largest_difference, output_scale
from ondevice.errors import SpecError
from ondevice.info import TestVectors
from ondevice.odm import open_odm


@pytest.mark.parametrize("size", [1, 0.003, 4000])
def test_rounded_answers_are_within_a_share_of_the_tolerance(size):
    values = (size * np.random.default_rng(0).random(500)).astype(np.float32)
    outputs, scales = {"p": values}, {"p": output_scale([values])}
    rounded = coarse(outputs, scales, 0.02)["p"]
    assert rounded.dtype == np.float32
    assert largest_difference(rounded, values) <= 0.02 / 32
    assert len(np.unique(rounded)) < 4 * 32 / 0.02
    assert coarse(outputs, scales, 1e-5)["p"] is values


def convert_pair(module, examples, folder, **changes):
    """An earlier file and one that is like it; the second of changed examples."""
    convert(module, examples, folder / "old", targets=("odm",), tables="q4", dense="q8")
    other = {name: value.flip(0) for name, value in examples.items()}
    convert(module, other, folder / "new", targets=("odm",), tables="q4", dense="q8",
            like=folder / "old" / "model.odm", **changes)  # fmt: skip
    return (open_odm(folder / name / "model.odm").info.vectors for name in ("old", "new"))


def test_the_first_requests_of_the_earlier_file_are_taken_again(tmp_path):
    old, new = convert_pair(click_model(), torch_inputs(click_ids(64)), tmp_path, vectors=8)
    for name, values in old.inputs.items():
        np.testing.assert_array_equal(new.inputs[name], values[:8])


def test_requests_of_another_model_are_not(tmp_path):
    ids = click_ids(32)
    earlier = TestVectors(ids, {}, 0.1)
    model = click_model()

    def source(batch):
        return {"p": torch_output(model, batch)}

    for fresh in ({"other": ids["user"]}, click_ids(40), {**ids, "more": ids["user"]}):
        assert earlier_requests(source, earlier, fresh) is fresh
    same = earlier_requests(source, earlier, click_ids(32, seed=1))
    for name, values in ids.items():
        np.testing.assert_array_equal(same[name], values)

    def refusing(batch):
        raise SpecError("no")

    fresh = click_ids(32, seed=1)
    assert earlier_requests(refusing, earlier, fresh) is fresh
