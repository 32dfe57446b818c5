"""Shifts and masks of integers as quotients, remainders and products, which every target has.

Public code buckets hashed IDs by `(ids >> 7) & 1023`. ONNX has bit operators for unsigned integers
only, and TFLite for int32.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any

import torch

from ondevice.converters.source.integer_division import integer_quotient

_BITS = {torch.int32: 32, torch.int64: 64}
_NARROW = (torch.uint8, torch.int8, torch.int16)  # computed in 64 bits, of which the low ones stay


def masked(input: Any, mask: Any) -> Any:
    """`input & mask` with a mask from 0 on: a remainder and a quotient for every run of its bits.

    Args:
        input: an integer tensor.
        mask: a Python integer.

    Returns:
        What torch returns. NotImplemented for anything else, as for two tensors.
    """
    if _is_narrow(input, mask):
        return _narrowed(masked, input, mask)
    if not _is_plain(input, mask) or not 0 <= mask < 2 ** (_BITS[input.dtype] - 1) - 1:
        return NotImplemented
    result = torch.zeros_like(input)
    for low, count in _runs(mask):
        part = torch.remainder(_down(input, low), 2**count)
        result = result + part * 2**low
    return result


def _runs(mask: int) -> Iterator[tuple[int, int]]:
    """The first bit of each run of ones, and how many follow each other."""
    for run in re.finditer("1+", f"{mask:b}"[::-1]):
        yield run.start(), len(run[0])


def shifted_right(input: Any, places: Any) -> Any:
    """`input >> places`, which rounds down, by a number of places; NotImplemented otherwise."""
    if _is_narrow(input, places):
        return _narrowed(shifted_right, input, places)
    if not _is_plain(input, places) or not 0 <= places < _BITS[input.dtype] - 1:
        return NotImplemented
    return _down(input, places)


def shifted_left(input: Any, places: Any) -> Any:
    """`input << places`, which wraps around, by a number of places; NotImplemented otherwise."""
    if _is_narrow(input, places):
        return _narrowed(shifted_left, input, places)
    if not _is_plain(input, places) or not 0 <= places < _BITS[input.dtype] - 1:
        return NotImplemented
    return input * 2**places


def _down(input: torch.Tensor, places: int) -> Any:
    return integer_quotient(input, 2**places, "floor") if places else input


def _is_narrow(input: Any, number: Any) -> bool:
    if not isinstance(input, torch.Tensor) or input.dtype not in _NARROW:
        return False
    return isinstance(number, int) and not isinstance(number, bool) and 0 <= number < 2**31


def _narrowed(operator: Callable[[Any, Any], Any], input: torch.Tensor, number: int) -> Any:
    result = operator(input.long(), number)
    return result if result is NotImplemented else result.to(input.dtype)


def _is_plain(input: Any, number: Any) -> bool:
    if not isinstance(input, torch.Tensor) or input.dtype not in _BITS:
        return False
    return isinstance(number, int) and not isinstance(number, bool)
