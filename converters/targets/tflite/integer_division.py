"""Exact quotients and remainders of int64 by constants, in operators that TFLite's kernels have.

TFLite divides no int64. What is left of a number after its remainder by an odd divisor is a
multiple of it, which the divisor's inverse modulo 2^64 turns into the quotient. Powers of two are
shifted out of the two 32-bit words before.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from ondevice.converters.targets.tflite.shapes import broadcast, elementwise
from ondevice.converters.targets.tflite.writer import Tensor, TfliteWriter
from ondevice.errors import UnsupportedError

Integers = npt.NDArray[np.int64]
_BOOL, _INT32, _INT64, _UINT32 = (np.dtype(x) for x in (np.bool_, np.int32, np.int64, np.uint32))
_LEAST = -(2**63)


def quotient(writer: TfliteWriter, x: Tensor, divisors: Integers) -> Tensor:
    """X int64 [...] divided by constants that broadcast with it, rounded towards zero.

    The least integer divided by -1 is itself.

    Raises:
        UnsupportedError: a divisor is zero.
    """
    _check(divisors)
    sizes = _sizes(divisors)
    down = _floor(writer, x, divisors)
    rest = elementwise(
        writer, "SUB", x, elementwise(writer, "MUL", down, writer.constant(sizes, _INT64))
    )
    result = elementwise(
        writer, "ADD", down, writer.cast(_broken_below_zero(writer, x, rest), _INT64)
    )
    if (divisors < 0).any():
        signs = writer.constant(np.where(divisors < 0, -1, 1), _INT64)
        result = elementwise(writer, "MUL", result, signs)
    return result


def remainder(writer: TfliteWriter, x: Tensor, divisors: Integers, of_dividend: bool) -> Tensor:
    """What x int32 or int64 [...] leaves, with the sign of the divisor, or of x (`of_dividend`).

    Raises:
        UnsupportedError: a divisor is zero, or the least integer where x gives the sign.
    """
    _check(divisors)
    if not of_dividend:
        # the least integer by -1 would end the process in FLOOR_MOD
        safe = np.where(divisors == -1, 1, divisors)
        return elementwise(writer, "FLOOR_MOD", x, writer.constant(safe, x.dtype))
    if (divisors == _LEAST).any():
        raise UnsupportedError(f"expected a remainder by a number above {_LEAST}, got this number")
    sizes = writer.constant(np.abs(divisors), x.dtype)
    rest = elementwise(writer, "FLOOR_MOD", x, sizes)
    taken = writer.cast(_broken_below_zero(writer, x, rest), x.dtype)
    return elementwise(writer, "SUB", rest, elementwise(writer, "MUL", taken, sizes))


def _check(divisors: Integers) -> None:
    if not divisors.all():
        raise UnsupportedError("expected a division by other numbers than zero, got a zero")


def _sizes(divisors: Integers) -> Integers:
    """Absolute values modulo 2^64; 2^63 has the bits of the least integer."""
    with np.errstate(over="ignore"):
        return np.abs(divisors)


def _broken_below_zero(writer: TfliteWriter, x: Tensor, rest: Tensor) -> Tensor:
    """Where x is negative and no multiple of the divisor, as its remainder says."""
    zero = writer.constant(0, x.dtype)
    below = elementwise(writer, "LESS", x, zero, dtype=_BOOL)
    return elementwise(
        writer, "LOGICAL_AND", below, elementwise(writer, "NOT_EQUAL", rest, zero, dtype=_BOOL)
    )


def _floor(writer: TfliteWriter, x: Tensor, divisors: Integers) -> Tensor:
    """The largest integers that are not above x / |divisor|."""
    sizes = _sizes(divisors).view(np.uint64)
    lowest_bits = sizes & (~sizes + np.uint64(1))
    powers = np.array([int(bit).bit_length() - 1 for bit in lowest_bits.reshape(-1)], np.int64)
    powers = powers.reshape(divisors.shape)
    odd = (sizes >> powers.astype(np.uint64)).astype(np.int64)
    if powers.any():
        x = _shifted(writer, x, powers)
    if (odd == 1).all():
        return x
    rest = elementwise(writer, "FLOOR_MOD", x, writer.constant(odd, _INT64))
    inverses = [pow(int(number), -1, 2**64) for number in odd.reshape(-1)]
    factors = np.array(inverses, np.uint64).view(np.int64).reshape(odd.shape)
    whole = elementwise(writer, "SUB", x, rest)
    return elementwise(writer, "MUL", whole, writer.constant(factors, _INT64))


def _shifted(writer: TfliteWriter, x: Tensor, powers: Integers) -> Tensor:
    """The largest integers that are not above x / 2^power, for powers 0 to 63."""
    shifts = np.maximum(powers, 1)
    high = _word(writer, writer.op("BITCAST", [x], (*x.shape, 2), _INT32), 1)
    high = elementwise(
        writer, "RIGHT_SHIFT", high, writer.constant(np.maximum(shifts - 32, 0), _INT32)
    )
    weights = writer.constant(np.int64(1) << np.maximum(32 - shifts, 0), _INT64)
    result = elementwise(writer, "MUL", writer.cast(high, _INT64), weights)
    if (shifts < 32).any():
        low_bits = writer.op("BITCAST", [x], (*x.shape, 2), _INT32)
        low = writer.op("BITCAST", [_word(writer, low_bits, 0)], x.shape, _UINT32)
        amounts = writer.constant(np.minimum(shifts, 31), _UINT32)
        low = elementwise(writer, "RIGHT_SHIFT", low, amounts)
        low = writer.op("BITCAST", [low], low.shape, _INT32)
        counted = writer.constant(shifts < 32, _INT64)
        low = elementwise(writer, "MUL", writer.cast(low, _INT64), counted)
        result = elementwise(writer, "ADD", result, low)
    if (powers == 0).any():
        unshifted = writer.constant(powers == 0, _BOOL)
        shape = broadcast(x.shape, powers.shape)
        result = writer.op("SELECT_V2", [unshifted, x, result], shape, _INT64)
    return result


def _word(writer: TfliteWriter, words: Tensor, place: int) -> Tensor:
    """One of the two 32-bit words of numbers: words [..., 2] to [...]."""
    shape = words.shape[:-1]
    where = writer.constant(place, _INT32)
    return writer.op("GATHER", [words, where], shape, words.dtype, axis=len(shape))
