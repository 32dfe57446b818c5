"""Times: how a text or a Python value becomes seconds since 1970 (UTC), and the parts of these."""

from __future__ import annotations

import re
from datetime import UTC, date, datetime
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

TimeForm = Literal["iso", "seconds", "milliseconds"]
TimePart = Literal["hour", "weekday", "day", "month"]

_ISO = re.compile(
    r"([0-9]{4})-([0-9]{2})-([0-9]{2})"
    r"(?:[T ]([0-9]{2}):([0-9]{2})(?::([0-9]{2})(?:\.[0-9]{1,9})?)?"
    r"(?:Z|([+-])([0-9]{2})(?::?([0-9]{2}))?)?)?"
)
_EPOCH = re.compile(r"([+-]?)0*([0-9]{1,18})(?:\.([0-9]+))?")
_DAY = 86400
# The years 1 to 9999, which every calendar library has.
EARLIEST, LATEST = -62135596800, 253402300799
_EPOCH_DAY = date(1970, 1, 1).toordinal()
# Numpy's units finer than a second: how many there are in one.
_FINER = {unit: 1000**power for power, unit in enumerate(("ms", "us", "ns", "ps", "fs", "as"), 1)}
EXPECTED = {
    "iso": "a time as YYYY-MM-DD[ HH:MM[:SS][zone]] (ISO 8601) of the years 1 to 9999",
    "seconds": "seconds since 1970 within the years 1 to 9999",
    "milliseconds": "milliseconds since 1970 within the years 1 to 9999",
}


def seconds_of_text(text: str, form: TimeForm) -> int:
    """Seconds since 1970-01-01 00:00 UTC of a time's text, fractions rounded down.

    "iso": `YYYY-MM-DD`, then optionally `T` or a space, `HH:MM`, `:SS`, a fraction, and a zone
    (`Z`, `+HH`, `+HHMM`, `+HH:MM`); without a zone it is UTC. "seconds", "milliseconds": a decimal
    number of these since 1970.

    Raises:
        ValueError: not such a text, no such day, or outside the years 1 to 9999; its message names
            what was expected.
    """
    seconds = _iso(text) if form == "iso" else _epoch(text, 1 if form == "seconds" else 1000)
    if seconds is None or not EARLIEST <= seconds <= LATEST:
        raise ValueError(EXPECTED[form])
    return seconds


def seconds_of_value(value: Any, form: TimeForm) -> int:
    """Seconds since 1970 of a datetime, date, numpy.datetime64, or a number in the form's unit.

    A datetime without a zone is UTC.

    Raises:
        ValueError: another type, a number of an "iso" time, not finite, or out of range.
    """
    if isinstance(value, datetime):
        moment = value if value.tzinfo is not None else value.replace(tzinfo=UTC)
        return seconds_of_text(moment.isoformat(sep=" ", timespec="seconds"), "iso")
    if isinstance(value, date):
        return (value.toordinal() - _EPOCH_DAY) * _DAY
    if isinstance(value, np.datetime64) and not np.isnat(value):
        return _in_range(int(seconds_of_times(np.asarray(value))), form)
    is_number = isinstance(value, int | float | np.integer | np.floating)
    if form == "iso" or not is_number or isinstance(value, bool | np.timedelta64):
        raise ValueError(EXPECTED[form])
    unit = 1 if form == "seconds" else 1000
    try:
        return _in_range(int(value // unit), form)
    except (OverflowError, ValueError) as error:  # infinity, NaN
        raise ValueError(EXPECTED[form]) from error


def seconds_of_times(times: npt.NDArray[Any]) -> npt.NDArray[np.int64]:
    """Seconds since 1970 of numpy's times, of any unit, rounded down; of NaT whatever number.

    Those outside the years 1 to 9999 become numbers below EARLIEST or above LATEST. Numpy's own
    conversion wraps around: the least nanoseconds become the year 2262, a distant day 1970.
    """
    unit, count = np.datetime_data(times.dtype)
    numbers: npt.NDArray[np.int64] = times.astype(np.int64)
    if unit in _FINER and count == 1:
        whole: npt.NDArray[np.int64] = numbers // _FINER[unit]
        return whole
    if unit == "generic":  # of NaT only
        return numbers
    if unit in _FINER:
        parts = [number * count // _FINER[unit] for number in numbers.ravel().tolist()]
        return np.array(parts, dtype=np.int64).reshape(numbers.shape)
    edges = np.array([EARLIEST, LATEST], "datetime64[s]").astype(times.dtype)
    first, last = edges.astype(np.int64)
    is_inside = (numbers >= first) & (numbers <= last)
    seconds = np.where(is_inside, times, edges[0]).astype("datetime64[s]").astype(np.int64)
    outside = np.where(numbers < first, EARLIEST - 1, LATEST + 1)
    return np.where(is_inside, seconds, outside)


def time_part(
    seconds: npt.NDArray[np.int64], part: TimePart, utc_offset: int = 0
) -> npt.NDArray[np.int64]:
    """A part of times, int64 [n]: hour 0..23, weekday (Monday is 0), day 1..31, month 1..12.

    Args:
        seconds: since 1970 UTC, int64 [n], within the years 1 to 9999.
        part: which.
        utc_offset: minutes by which the local time is ahead of UTC.
    """
    local = seconds + 60 * utc_offset
    days = local // _DAY
    if part == "hour":
        return local % _DAY // 3600
    if part == "weekday":
        return (days + 3) % 7  # 1970-01-01 was a Thursday
    month, day = _month_and_day(days)
    return month if part == "month" else day


def _month_and_day(
    days: npt.NDArray[np.int64],
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Month 1..12 and day 1..31 of days since 1970, in the proleptic Gregorian calendar."""
    months = days.astype("datetime64[D]").astype("datetime64[M]")
    first = months.astype("datetime64[D]").astype(np.int64)
    return months.astype(np.int64) % 12 + 1, days - first + 1


def _iso(text: str) -> int | None:
    match = _ISO.fullmatch(text)
    if match is None:
        return None
    year, month, day, hour, minute, second = (int(item or 0) for item in match.groups()[:6])
    sign, zone_hours, zone_minutes = match.groups()[6:]
    offset = 60 * int(zone_hours or 0) + int(zone_minutes or 0)
    if int(zone_hours or 0) > 23 or int(zone_minutes or 0) > 59:
        return None
    try:
        moment = datetime(year, month, day, hour, minute, second, tzinfo=UTC)
    except ValueError:
        return None
    ahead = -offset if sign == "-" else offset
    days = moment.toordinal() - _EPOCH_DAY
    return days * _DAY + 3600 * hour + 60 * minute + second - 60 * ahead


def _epoch(text: str, unit: int) -> int | None:
    match = _EPOCH.fullmatch(text)
    if match is None:
        return None
    sign, digits, fraction = match.groups()
    whole = int(sign + digits)
    if sign == "-" and fraction and fraction.strip("0"):
        whole -= 1  # down, not towards zero
    return whole // unit


def _in_range(seconds: int, form: TimeForm) -> int:
    if not EARLIEST <= seconds <= LATEST:
        raise ValueError(EXPECTED[form])
    return seconds
