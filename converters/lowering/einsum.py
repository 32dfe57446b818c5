"""The equation of an Einsum in its plain form: a letter for every axis of operands and result."""

from __future__ import annotations

import string
from collections.abc import Sequence

from ondevice.errors import UnsupportedError


def einsum_terms(equation: str, ranks: Sequence[int]) -> tuple[list[str], str]:
    """The letters of every operand and of the result.

    Args:
        equation: as ONNX has it, such as "bij,bjk->bik"; "..." stands for axes without a letter,
            and without "->" the result has the letters that occur once, in alphabetical order.
        ranks: number of axes of every operand.

    Raises:
        UnsupportedError: an operand has one letter twice.
    """
    terms, arrow, out = equation.replace(" ", "").partition("->")
    operands = terms.split(",")
    spare = [letter for letter in string.ascii_letters if letter not in equation]
    hidden = max(
        (rank - len(term) + 3 for term, rank in zip(operands, ranks, strict=True) if "." in term),
        default=0,
    )
    more = spare[:hidden]

    def plain(term: str, count: int) -> str:
        return term.replace("...", "".join(more[len(more) - count :]))

    letters = [
        plain(term, rank - len(term) + 3 if "." in term else 0)
        for term, rank in zip(operands, ranks, strict=True)
    ]
    if any(len(set(term)) != len(term) for term in letters):
        raise UnsupportedError(f"a repeated axis in {equation!r}")
    if not arrow:
        joined = terms.replace("...", "").replace(",", "")
        once = sorted(letter for letter in set(joined) if joined.count(letter) == 1)
        return letters, "".join([*more, *once])
    return letters, plain(out, hidden)
