"""Quotients of integers in torch operators whose ONNX form is exact.

torch's exporter computes `torch.div(a, b, rounding_mode=...)` in float32, which rounds integers
beyond 2^24; and ONNX Runtime ends the process where it divides the least integer by -1.
"""

from __future__ import annotations

from typing import Any

import torch

_INTEGERS = (torch.int8, torch.int16, torch.int32, torch.int64, torch.uint8)


def integer_quotient(dividend: Any, divisor: Any, rounding: str | None) -> Any:
    """The quotient of integers, rounded down ("floor") or towards zero ("trunc").

    Args:
        dividend: an integer tensor, or a Python integer.
        divisor: the same; one of the two is a tensor.
        rounding: torch's `rounding_mode`.

    Returns:
        What torch returns: the least integer divided by -1 is itself. NotImplemented for numbers
        with fractions.
    """
    operands = (dividend, divisor)
    if rounding not in ("floor", "trunc") or not all(_is_integer(item) for item in operands):
        return NotImplemented
    if not isinstance(dividend, torch.Tensor):
        dividend = torch.full_like(divisor, dividend)
    down = _floor(dividend, divisor)
    if rounding == "floor":
        return down
    rest = dividend - down * divisor
    opposite = (dividend < 0) != (divisor < 0)
    return down + ((rest != 0) & opposite).to(down.dtype)


def _is_integer(value: Any) -> bool:
    if isinstance(value, torch.Tensor):
        return value.dtype in _INTEGERS
    return isinstance(value, int) and not isinstance(value, bool)


def _floor(dividend: Any, divisor: Any) -> Any:
    """The quotient rounded down, without any division by -1."""
    if not isinstance(divisor, torch.Tensor):
        return -dividend if divisor == -1 else torch.floor_divide(dividend, divisor)
    minus = divisor == -1
    quotient = torch.floor_divide(dividend, torch.where(minus, torch.ones_like(divisor), divisor))
    return torch.where(minus, -dividend, quotient)
