"""The bench report: what was measured, of which files, on which device, as one JSON document."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from ondevice.bench.measure.constants import REPORT_DIGITS
from ondevice.bench.strict import parse_json, read, shown
from ondevice.errors import FileFormatError
from ondevice.json_file import write_json_file

FORMAT = "ondevice-bench"
FORMAT_VERSION = 1
MAX_BYTES = 16 << 20  # of a report file; a long one has a few hundred kB

_ORDERED = ("min", "p50", "p90", "p95", "p99", "max")


@dataclass(frozen=True)
class Spread:
    """A figure with its spread over `count` observations; sd is the standard deviation (n - 1)."""

    count: int
    mean: float
    sd: float
    min: float
    p50: float
    p90: float
    p95: float
    p99: float
    max: float

    def check(self, where: str) -> None:
        """Raise FileFormatError unless the figures can be those of one sample."""
        values = [getattr(self, name) for name in _ORDERED]
        if self.count < 1 or self.sd < 0 or values != sorted(values):
            raise FileFormatError(f"{where}: {', '.join(_ORDERED)} must not decrease, count >= 1")
        slack = 1e-9 * max(abs(self.min), abs(self.max))
        if not self.min - slack <= self.mean <= self.max + slack:
            raise FileFormatError(f"{where}: the mean {self.mean} is outside min..max")


@dataclass(frozen=True)
class Clock:
    """The clock of a group of CPU cores ("0-3"): its governor and current frequency."""

    cpus: str
    governor: str | None
    mhz: float | None


@dataclass(frozen=True)
class Temperature:
    """One sensor, degrees Celsius."""

    sensor: str
    celsius: float


@dataclass(frozen=True)
class State:
    """The device at one moment.

    Attributes:
        throttled: what the device says limits its speed, such as "under-voltage"; empty: nothing;
            None: it does not say.
        load: processes that run or wait, mean over the last minute (/proc/loadavg).
    """

    clocks: tuple[Clock, ...]
    temperatures: tuple[Temperature, ...]
    throttled: tuple[str, ...] | None
    load: float | None


@dataclass(frozen=True)
class Conditions:
    """What surrounded a measurement; affinity lists the CPUs that it was allowed to use."""

    before: State
    after: State
    affinity: tuple[int, ...] | None


@dataclass(frozen=True)
class Device:
    """Where the measurements ran.

    Attributes:
        name: of the board or phone, such as "Raspberry Pi 4 Model B Rev 1.4".
        emulated: what emulates the processor, such as "qemu-aarch64"; then no time is reported.
        versions: of what took part: "python", "numpy", "ondevice", ...
    """

    name: str | None
    cpu: str
    architecture: str
    cores: int
    memory_bytes: int | None
    system: str
    kernel: str
    emulated: str | None
    versions: dict[str, str]


@dataclass(frozen=True)
class ModelFile:
    """One file of a model: SHA-256 in hexadecimal."""

    name: str
    bytes: int
    sha256: str

    def check(self, where: str) -> None:
        """Raise FileFormatError unless sha256 looks like one."""
        if len(self.sha256) != 64 or set(self.sha256) - set("0123456789abcdef"):
            raise FileFormatError(f"{where}.sha256: expected 64 hexadecimal digits")


@dataclass(frozen=True)
class ModelEntry:
    """A measured model: all its files, and the accuracy its owner gave, such as {"AUC": 0.77}.

    Attributes:
        parts: what its bytes are for (`ondevice.inspection.FileParts`); empty if nobody said so.
    """

    name: str
    files: tuple[ModelFile, ...]
    accuracy: dict[str, float]
    parts: dict[str, int] = field(default_factory=dict)

    def check(self, where: str) -> None:
        """Raise FileFormatError unless the parts, if any, add up to the files."""
        if self.parts and (min(self.parts.values()) < 0 or sum(self.parts.values()) != self.bytes):
            raise FileFormatError(f"{where}.parts: they do not add up to {self.bytes} bytes")

    @property
    def bytes(self) -> int:
        """Bytes on disk."""
        return sum(file.bytes for file in self.files)


@dataclass(frozen=True)
class Subject:
    """What a measurement is about: a model by its index in `models`, run by an engine."""

    model: int
    engine: str
    runtime: str
    threads: int
    conditions: Conditions


@dataclass(frozen=True)
class Start(Subject):
    """Starts of a fresh process, one observation each; microseconds, None under emulation.

    Attributes:
        page_cache: whether the model's pages were dropped from memory before each start.
        page_cache_note: why they could not be, or that they were in memory on purpose.
        start_us: from the start of the process to its first score.
        load_us: opening the model. first_us: the first request, of one row.
    """

    page_cache: Literal["dropped", "warm", "unknown"]
    page_cache_note: str | None
    start_us: Spread | None
    load_us: Spread | None
    first_us: Spread | None

    @property
    def is_warm(self) -> bool:
        """Whether the model's pages were in memory."""
        return self.page_cache == "warm"


@dataclass(frozen=True)
class Memory(Subject):
    """Bytes of memory after requests of `rows` rows, one observation for each process.

    Attributes:
        process: of the whole process: rss, pss, anonymous, file (mapped files), peak (of rss);
            members the system does not tell are left out.
        growth: how much of it came with the engine and the model.
        faults: page faults during load and requests: minor, major.
    """

    rows: int
    process: dict[str, Spread]
    growth: dict[str, Spread]
    faults: dict[str, Spread]


@dataclass(frozen=True)
class Latency(Subject):
    """Warm requests of one size.

    Attributes:
        call: "predict" scores `rows` rows; "rank" scores `rows` candidates for one context.
        context: the inputs that are the context of "rank", else empty.
        gap_ms: pause between requests; 0: back to back.
        workers: how many send requests at once, each with a session of its own: threads of one
            process or processes.
        latency_us: every request of every process. None under emulation, as all times.
        percentiles_us: the 0th, 1st, ... 100th percentile of the same requests.
        bursts_us: for each process (and worker), the medians of its consecutive bursts of requests.
        rows_per_s: one observation for each burst, all workers together.
        cpu_us: processor time of a request, one observation for each process.
        energy_uj: energy of a request by the device's own meter, one observation for each process;
            energy_meter says which and what it covers.
        overhead_us: what timing an empty call costs; contained in every latency.
    """

    call: Literal["predict", "rank"]
    rows: int
    context: tuple[str, ...]
    gap_ms: float
    workers: int
    worker_kind: Literal["thread", "process"]
    requests: int
    latency_us: Spread | None
    percentiles_us: tuple[float, ...] | None
    bursts_us: tuple[tuple[float, ...], ...] | None
    rows_per_s: Spread | None
    cpu_us: Spread | None
    energy_uj: Spread | None
    energy_meter: str | None
    overhead_us: Spread | None

    def check(self, where: str) -> None:
        """Raise FileFormatError unless the members agree with one another."""
        if self.rows < 1 or self.workers < 1 or self.gap_ms < 0:
            raise FileFormatError(f"{where}: rows and workers start at 1, gap_ms at 0")
        if (self.latency_us is None) != (self.percentiles_us is None):
            raise FileFormatError(f"{where}: latency_us and percentiles_us come together")
        if self.percentiles_us is not None:
            values = list(self.percentiles_us)
            if len(values) != 101 or values != sorted(values):
                raise FileFormatError(f"{where}.percentiles_us: expected 101, not decreasing")
        if self.bursts_us is not None and any(
            not burst or min(burst) <= 0 for burst in self.bursts_us
        ):
            raise FileFormatError(f"{where}.bursts_us: expected positive times in every process")


@dataclass(frozen=True)
class Operator:
    """One operator of the plan: its time in one request, and the bytes it reads and writes."""

    name: str
    op: str
    us: Spread | None
    bytes: int


@dataclass(frozen=True)
class Profile(Subject):
    """Time by operator of the native engine; operators in the order in which they run.

    Attributes:
        overhead_us: what reading the clock adds to every operator's time.
    """

    call: Literal["predict", "rank"]
    rows: int
    requests: int
    overhead_us: Spread | None
    operators: tuple[Operator, ...]


@dataclass(frozen=True)
class Report:
    """Everything that one bench run measured on one device."""

    created: str
    tool: str
    interrupted: bool
    device: Device
    models: tuple[ModelEntry, ...]
    starts: tuple[Start, ...]
    memories: tuple[Memory, ...]
    latencies: tuple[Latency, ...]
    profiles: tuple[Profile, ...]

    def check(self, where: str) -> None:
        """Raise FileFormatError for a model that is not there, or for emulated time."""
        for subject in self.subjects():
            if subject.model >= len(self.models):
                raise FileFormatError(f"{where}: a measurement of model {subject.model}, but "
                                      f"there are {len(self.models)}")  # fmt: skip
        if self.device.emulated is not None and any(_times(self)):
            raise FileFormatError(
                f"{where}: the processor was emulated ({self.device.emulated}), so times must be "
                "null: they say nothing of a device"
            )

    def __str__(self) -> str:
        """What `ondevice bench` prints."""
        from ondevice.bench.show.tables import text  # which reads this module

        return text(self)

    def subjects(self) -> Iterable[Subject]:
        """All measurements."""
        return (*self.starts, *self.memories, *self.latencies, *self.profiles)

    def to_json(self) -> dict[str, Any]:
        """A JSON-ready object; numbers keep seven digits."""
        data: dict[str, Any] = _rounded(asdict(self))
        return {"format": FORMAT, "version": FORMAT_VERSION, **data}

    @classmethod
    def from_json(cls, data: Any, where: str) -> Report:
        """Read what `to_json` or another writer of the format made.

        Raises:
            FileFormatError: another format or version, or a member that is wrong.
        """
        if not isinstance(data, dict) or data.get("format") != FORMAT:
            raise FileFormatError(f'{where}: not a bench report ("format" is not "{FORMAT}")')
        version = data.get("version")
        if type(version) is not int or version != FORMAT_VERSION:
            raise FileFormatError(
                f"{where}.version: this release reads {FORMAT_VERSION}, got {shown(version)}"
            )
        return read(cls, data, where)


def _rounded(data: Any) -> Any:
    if isinstance(data, float):
        return float(f"{data:.{REPORT_DIGITS}g}")
    if isinstance(data, dict):
        return {name: _rounded(item) for name, item in data.items()}
    return [_rounded(item) for item in data] if isinstance(data, list | tuple) else data


def _times(report: Report) -> Iterable[object]:
    for start in report.starts:
        yield from (start.start_us, start.load_us, start.first_us)
    for item in report.latencies:
        yield from (item.latency_us, item.bursts_us, item.rows_per_s, item.cpu_us, item.energy_uj)
        yield item.overhead_us
    for profile in report.profiles:
        yield profile.overhead_us
        yield from (operator.us for operator in profile.operators)


def read_report(path: Path) -> Report:
    """Read a report file.

    Raises:
        FileFormatError: missing, too large, not JSON, or not a report.
    """
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise FileFormatError(f"{path}: {error.strerror or error}") from error
    return parse_report(raw, str(path))


def parse_report(raw: bytes, where: str) -> Report:
    """Read a report from bytes; `where` names them in errors. Raises FileFormatError."""
    if len(raw) > MAX_BYTES:
        raise FileFormatError(f"{where}: larger than {MAX_BYTES} bytes, not a bench report")
    return Report.from_json(parse_json(raw, where), where)


def checked_json(report: Report, where: str) -> dict[str, Any]:
    """A report for a file, after reading it back. Raises FileFormatError, which says `where`."""
    data = report.to_json()
    parse_report(json.dumps(data, allow_nan=False).encode("utf-8"), where)
    return data


def write_report(report: Report, path: Path) -> None:
    """Write a report file, after reading it back. Raises FileFormatError, OutputError."""
    write_json_file(checked_json(report, str(path)), path)
