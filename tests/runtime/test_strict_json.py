"""Limits of JSON: measured on the text, as many values and levels as a walk through them finds."""

import json

import numpy as np
import pytest

from ondevice import strict_json
from ondevice.limits import MAX_JSON_DEPTH, MAX_JSON_VALUES
from ondevice.strict_json import parse_strictly

TEXTS = ("a[", "\\", '"{,', "]}", "\ue000é", '\\"', ",[,]", "\\\\", "\n", "")
LEAVES = (1, -2.5e-7, None, True, *TEXTS)


def counted(value):
    """Values within others, and levels of nesting."""
    level, values, levels = [value], 0, 0
    while level := [item for item in level if isinstance(item, dict | list)]:
        levels += 1
        level = [
            inner for item in level for inner in (item.values() if isinstance(item, dict) else item)
        ]
        values += len(level)
    return values, levels


def document(rng, levels):
    kind = rng.random()
    if levels == 0 or kind < 0.3:
        return LEAVES[rng.integers(len(LEAVES))]
    size = rng.integers(5)
    if kind < 0.65:
        return [document(rng, levels - 1) for _ in range(size)]
    return {
        TEXTS[rng.integers(len(TEXTS))] + str(n): document(rng, levels - 1) for n in range(size)
    }


def test_the_text_has_the_values_and_levels_of_the_document(monkeypatch):
    rng = np.random.default_rng(0)
    refused = 0
    for _ in range(2000):
        value = document(rng, rng.integers(1, 9))
        text = json.dumps(value, ensure_ascii=rng.random() < 0.5, indent=(None, 1)[rng.integers(2)])
        values, levels = counted(value)
        for most_values, most_levels in ((values, levels), (values - 1, levels), (9, levels - 1)):
            if most_values < 0 or most_levels < 0:
                continue
            monkeypatch.setattr(strict_json, "MAX_JSON_VALUES", most_values)
            monkeypatch.setattr(strict_json, "MAX_JSON_DEPTH", most_levels)
            if values <= most_values and levels <= most_levels:
                assert parse_strictly(text) == value
                continue
            refused += 1
            with pytest.raises(ValueError, match="more than"):
                parse_strictly(text)
    assert refused > 1000


@pytest.mark.parametrize(
    "text",
    [
        "[" * 5_000_000,
        "[" + "[]," * 2_000_000 + "[]]",
        "[" * 50 + "]" * 50,
        "]" * 1_000_000 + "[" * 60,
        '{"a": ' * 40 + "1" + "}" * 40,
        "[" + "1," * MAX_JSON_VALUES + "1]",
        "[" * (MAX_JSON_DEPTH + 1) + "]" * (MAX_JSON_DEPTH + 1),
    ],
    ids=["deep", "wide", "just deep", "closed first", "objects", "many values", "one too many"],
)
def test_what_is_too_much_is_refused_before_it_takes_memory(text):
    with pytest.raises(ValueError, match=r"more (than|brackets)"):
        parse_strictly(text)


def test_what_the_limits_allow_is_read():
    deep = "[" * MAX_JSON_DEPTH + "]" * MAX_JSON_DEPTH
    assert counted(parse_strictly(deep)) == (MAX_JSON_DEPTH - 1, MAX_JSON_DEPTH)
    assert len(parse_strictly("[" + "1," * (MAX_JSON_VALUES - 1) + "1]")) == MAX_JSON_VALUES
    assert parse_strictly('{"' + "[" * 100 + '": "' + "{" * 100 + '"}') == {"[" * 100: "{" * 100}
