"""Splits of a request, and that a model whose `rank` is wrong is found."""

import itertools
import random
from dataclasses import dataclass

import numpy as np
import pytest
from support.runtime import small_ids, write_small_model

import ondevice
from ondevice.errors import InputError
from ondevice.ranking import (
    ALL_SPLITS,
    context_splits,
    ranking_difference,
    repeated_request,
    split_request,
)


@pytest.mark.parametrize("count", range(1, ALL_SPLITS + 1))
def test_every_split_of_few_inputs(count):
    names = [f"f{i}" for i in range(count)]
    splits = context_splits(names)
    assert len(splits) == len(set(splits)) == 2**count - 2
    assert all(0 < len(split) < count for split in splits)


@pytest.mark.parametrize("count", [7, 26, 300])
def test_every_two_of_many_inputs_stand_on_all_sides(count):
    names = [f"f{i}" for i in range(count)]
    splits = [set(split) for split in context_splits(names)]
    assert len(splits) < 60
    for a, b in itertools.combinations(names, 2):
        assert len({(a in split, b in split) for split in splits}) == 4
    assert context_splits(names) == context_splits(names)  # files must not differ by chance


def test_the_sample_of_splits_is_that_of_its_definition():
    """The splits travel in files, so they may not change with how pairs are counted."""
    names = [f"f{i}" for i in range(11)]
    draw, pairs = random.Random(11), list(itertools.combinations(range(11), 2))  # noqa: S311 - as there
    missing = {(*pair, *sides) for pair in pairs for sides in itertools.product((0, 1), repeat=2)}
    expected = []
    while missing:
        sides = [draw.random() < 0.5 for _ in names]
        covered = {(a, b, sides[a], sides[b]) for a, b in pairs} & missing
        if covered and any(sides) and not all(sides):
            missing -= covered
            expected.append(tuple(itertools.compress(names, sides)))
    assert context_splits(names) == expected


def test_a_split_request_and_its_repeated_form():
    request = {"user": np.array([4, 5]), "item": np.array([[1, 2], [3, 4]])}
    context, candidates = split_request(request, ("user",))
    assert context["user"].tolist() == [4] and list(candidates) == ["item"]
    assert repeated_request(request, ("item",))["item"].tolist() == [[1, 2], [1, 2]]


@dataclass
class Faulty:
    """A model of two inputs whose rank can be wrong in several ways."""

    fault: str
    outputs: tuple[str, ...] = ("p",)

    def predict(self, inputs):
        return (inputs["a"] + 10 * inputs["b"]).astype(np.float32) / 100

    def rank(self, context, candidates):
        scores = self.predict({**context, **candidates})
        if self.fault == "refuses":
            raise InputError("no")
        if self.fault == "nan":
            scores[-1] = np.nan
        if self.fault == "context b" and "b" in context:
            scores[0] += 0.25
        return scores


@pytest.mark.parametrize(
    ("fault", "expected"),
    [("none", 0), ("refuses", np.inf), ("nan", np.inf), ("context b", 0.25)],
)
def test_a_wrong_rank_is_found(fault, expected):
    request = {"a": np.arange(5), "b": np.arange(5)[::-1].copy()}
    loads = []

    def load():
        loads.append(Faulty(fault))
        return loads[-1]

    assert ranking_difference(load, request) == pytest.approx(expected, abs=1e-6)
    assert len(loads) == 1 + 2  # one that predicts, and a fresh one for each split


@pytest.mark.parametrize("engine", ["native", "numpy"])
def test_a_right_model(tmp_path, engine):
    write_small_model(tmp_path / "m.odm")

    def load():
        try:
            return ondevice.load(tmp_path / "m.odm", engine=engine)
        except ondevice.OnDeviceError as error:
            pytest.skip(str(error))

    assert ranking_difference(load, small_ids(90)) <= 1e-6
