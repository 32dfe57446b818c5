"""Energy by the device's own meter: RAPL counters of the package, or a board's power sensor."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from ondevice.bench.measure.device import matching


class Meter(Protocol):
    """Counts microjoules from its start; `sample` must be called often enough to follow it."""

    name: str

    def sample(self) -> None:
        """Take a reading."""

    def total_uj(self) -> float:
        """Energy since the meter was created, up to the last sample."""


@dataclass
class Counter:
    """An energy counter that wraps: Linux powercap (RAPL) and hwmon energy files."""

    name: str
    path: Path
    wrap_uj: int
    _last: int = -1
    _total: int = 0

    def sample(self) -> None:
        """Take a reading."""
        now = int(self.path.read_text())
        if self._last >= 0:
            step = now - self._last
            self._total += step if step >= 0 else step + self.wrap_uj
        self._last = now

    def total_uj(self) -> float:
        """Energy between the first and the last sample."""
        return float(self._total)


@dataclass
class PowerSensor:
    """A power sensor in microwatts (INA219, INA3221, ...), integrated between samples."""

    name: str
    path: Path
    _last: tuple[int, int] | None = None
    _total: float = 0.0

    def sample(self) -> None:
        """Take a reading."""
        at, microwatts = time.monotonic_ns(), int(self.path.read_text())
        if self._last is not None:
            before, earlier = self._last
            self._total += (microwatts + earlier) / 2 * (at - before) / 1e9
        self._last = (at, microwatts)

    def total_uj(self) -> float:
        """Energy between the first and the last sample, by the trapezium rule."""
        return self._total


def find_meter(root: Path = Path("/")) -> Meter | None:
    """The first meter of this machine that may be read, or None."""
    meters: list[Meter] = []
    for folder in matching("sys/class/powercap/*:0", root):
        zone, limit = _text(folder / "name"), _text(folder / "max_energy_range_uj")
        if zone is not None and zone.startswith("package") and limit and limit.isdigit():
            name = f"RAPL {zone}: the whole processor package"
            meters.append(Counter(name, folder / "energy_uj", int(limit)))
    for path in matching("sys/class/hwmon/hwmon*/energy1_input", root):
        chip = _text(path.parent / "name") or "hwmon"
        meters.append(Counter(f"{chip}: what the sensor is wired to", path, 1 << 64))
    for path in matching("sys/class/hwmon/hwmon*/power1_input", root):
        chip = _text(path.parent / "name") or "hwmon"
        meters.append(PowerSensor(f"{chip}: what the sensor is wired to", path))
    for meter in meters:
        try:
            meter.sample()
        except (OSError, ValueError):  # often only root may read energy counters
            continue
        return meter
    return None


def _text(path: Path) -> str | None:
    try:
        return path.read_text(encoding="ascii", errors="replace").strip()
    except OSError:
        return None
