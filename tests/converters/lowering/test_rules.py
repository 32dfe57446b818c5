"""The table of lowering rules."""

import pytest

from ondevice.converters.lowering.rule_tables import joined
from ondevice.converters.lowering.rules import arithmetic
from ondevice.converters.lowering.rules.table import RULES


def test_two_rules_for_one_operator_are_an_error():
    with pytest.raises(ValueError, match="two lowering rules for Gelu, Mish"):
        joined(arithmetic.RULES, {"Mish": RULES["Mish"], "Gelu": RULES["Gelu"]})


def test_tables_without_a_common_operator_are_joined():
    tables = {"Mish": RULES["Mish"]}, {"Gelu": RULES["Gelu"]}
    assert joined(*tables) == {"Mish": RULES["Mish"], "Gelu": RULES["Gelu"]}
