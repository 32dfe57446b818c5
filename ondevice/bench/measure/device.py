"""What a device says of itself: processor, clocks, temperatures, throttling, emulation.

All of it comes from a snapshot, the texts of some files of /proc and /sys by path, so that the
same code reads this machine, a phone behind adb, and the recorded files of a test.
"""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
from collections.abc import Iterable, Mapping
from pathlib import Path

from ondevice.bench.measure.constants import EMULATORS, MAX_SENSORS, MAX_SYSTEM_FILE
from ondevice.bench.report import Clock, Device, State, Temperature
from ondevice.bench.strict import one_line

Snapshot = Mapping[str, str]

# Globs of the files that the functions below read, relative to the root.
DEVICE_FILES = (
    *("proc/cpuinfo", "proc/meminfo", "etc/os-release", "proc/device-tree/model"),
    *("sys/devices/virtual/dmi/id/sys_vendor", "sys/devices/virtual/dmi/id/product_name"),
)
STATE_FILES = (
    "proc/loadavg",
    "proc/cpuinfo",  # frequencies, where there is no cpufreq
    *(f"sys/devices/system/cpu/cpufreq/policy*/{name}" for name in
      ("affected_cpus", "scaling_governor", "scaling_cur_freq")),
    *(f"sys/class/thermal/thermal_zone*/{name}" for name in ("type", "temp")),
    *(f"sys/class/hwmon/hwmon*/{name}" for name in ("name", "temp*_input", "temp*_label")),
    "sys/devices/platform/soc/soc:firmware/get_throttled",
    "sys/devices/system/cpu/cpu*/thermal_throttle/core_throttle_count",
)  # fmt: skip

MAX_NAME = 80  # characters of a name that a device gives

# Bits of the Raspberry Pi firmware's answer to get_throttled (its documentation, vcgencmd).
THROTTLED_BITS = {
    0: "under-voltage now",
    1: "frequency capped now",
    2: "throttled now",
    3: "temperature limit now",
    16: "under-voltage since boot",
    17: "frequency capped since boot",
    18: "throttled since boot",
    19: "temperature limit since boot",
}

# ARM's part numbers, as /proc/cpuinfo gives them (implementer 0x41); from ARM's reference manuals.
ARM_PARTS = {
    0xB76: "ARM1176", 0xC07: "Cortex-A7", 0xC08: "Cortex-A8", 0xC09: "Cortex-A9",
    0xC0E: "Cortex-A17", 0xC0F: "Cortex-A15", 0xD03: "Cortex-A53", 0xD04: "Cortex-A35",
    0xD05: "Cortex-A55", 0xD07: "Cortex-A57", 0xD08: "Cortex-A72", 0xD09: "Cortex-A73",
    0xD0A: "Cortex-A75", 0xD0B: "Cortex-A76", 0xD0C: "Neoverse-N1", 0xD0D: "Cortex-A77",
    0xD40: "Neoverse-V1", 0xD41: "Cortex-A78", 0xD44: "Cortex-X1", 0xD46: "Cortex-A510",
    0xD47: "Cortex-A710", 0xD48: "Cortex-X2", 0xD49: "Neoverse-N2", 0xD4D: "Cortex-A715",
    0xD4E: "Cortex-X3", 0xD4F: "Neoverse-V2", 0xD80: "Cortex-A520", 0xD81: "Cortex-A720",
    0xD82: "Cortex-X4",
}  # fmt: skip


def matching(pattern: str, root: Path) -> list[Path]:
    """The system's files that match, in order; none where a folder vanishes while it is read."""
    try:
        return sorted(root.glob(pattern))
    except OSError:  # of a processor or sensor that was just removed
        return []


def snapshot(globs: Iterable[str], root: Path = Path("/")) -> dict[str, str]:
    """Texts of the files that match, by path relative to `root`; unreadable ones are left out."""
    texts = {}
    for pattern in globs:
        for path in matching(pattern, root):
            try:
                with path.open("rb") as file:
                    raw = file.read(MAX_SYSTEM_FILE)
            except OSError:
                continue
            texts[str(path.relative_to(root))] = clean(raw.decode("utf-8", "replace"))
    return texts


def this_device(versions: Mapping[str, str]) -> Device:
    """This machine, with the versions of what takes part in the measurement."""
    return describe(
        snapshot(DEVICE_FILES),
        architecture=platform.machine(),
        kernel=f"{platform.system()} {platform.release()}",
        cores=os.cpu_count() or 1,
        emulated=emulator(),
        versions=versions,
    )


def this_state() -> State:
    """This machine, now."""
    return state(snapshot(STATE_FILES), _vcgencmd())


def describe(
    texts: Snapshot,
    *,
    architecture: str,
    kernel: str,
    cores: int,
    emulated: str | None,
    versions: Mapping[str, str],
) -> Device:
    """A device from a snapshot of DEVICE_FILES and what its system calls said."""
    memory = re.search(r"^MemTotal: +([0-9]{1,15}) kB", texts.get("proc/meminfo", ""), re.MULTILINE)
    system = re.search(r'^PRETTY_NAME="?([^"\n]*)', texts.get("etc/os-release", ""), re.MULTILINE)
    name = texts.get("proc/device-tree/model", "").strip("\0 \n") or " ".join(
        texts.get(f"sys/devices/virtual/dmi/id/{part}", "").strip()
        for part in ("sys_vendor", "product_name")
    )
    cpuinfo = texts.get("proc/cpuinfo", "")
    if emulated is None and ("TCG" in cpuinfo or "QEMU Virtual CPU" in cpuinfo):
        emulated = "qemu-system"
    return Device(
        name=one_line(name, MAX_NAME) or None,
        cpu=one_line(cpu_name(cpuinfo, architecture), MAX_NAME),
        architecture=one_line(architecture, MAX_NAME),
        cores=cores,
        memory_bytes=int(memory[1]) * 1024 if memory else None,
        system=one_line(system[1] if system else platform.system(), MAX_NAME),
        kernel=one_line(kernel, MAX_NAME),
        emulated=None if emulated is None else one_line(emulated, MAX_NAME),
        versions=dict(versions),
    )


def cpu_name(cpuinfo: str, architecture: str) -> str:
    """The processor's name from /proc/cpuinfo; several kinds of cores are joined by " + "."""
    if architecture.startswith(("aarch64", "arm")):
        parts = re.findall(r"^CPU part\s*: (0x[0-9a-fA-F]{1,8})", cpuinfo, re.MULTILINE)
        numbers = sorted({int(part, 16) for part in parts})
        if numbers:
            return " + ".join(ARM_PARTS.get(number, f"ARM part {number:#x}") for number in numbers)
        if "x86" in cpuinfo or re.search(r"^vendor_id", cpuinfo, re.MULTILINE):
            return f"{architecture} (emulated)"
    names = re.findall(r"^(?:model name|Hardware|uarch)\s*: (.+)$", cpuinfo, re.MULTILINE)
    return names[0].strip() if names else architecture


def emulator(root: Path = Path("/")) -> str | None:
    """The user-mode emulator this process runs in, or None.

    An emulator answers for /proc/self in the guest's name, but /proc/thread-self passes it by.
    """
    try:
        program = (root / "proc/thread-self/exe").readlink().name
    except OSError:
        return None
    return program if program.startswith(EMULATORS) else None


def state(texts: Snapshot, throttled: int | None = None) -> State:
    """The state of a device from a snapshot of STATE_FILES.

    Args:
        texts: the snapshot.
        throttled: the Raspberry Pi firmware's flags, if another source than /sys gave them.
    """
    load = re.match(r"[0-9]{1,9}(\.[0-9]{1,9})?", texts.get("proc/loadavg", ""))
    return State(
        clocks=tuple(_clocks(texts)),
        temperatures=tuple(_temperatures(texts))[:MAX_SENSORS],
        throttled=_throttled(texts, throttled),
        load=float(load[0]) if load else None,
    )


def _clocks(texts: Snapshot) -> Iterable[Clock]:
    """Cores of equal clocks together; one mean clock where there is no cpufreq."""
    policies = sorted(
        (path.rsplit("/", 1)[0] for path in texts if path.endswith("/affected_cpus")),
        key=lambda path: (len(path), path),  # policy2 before policy10
    )
    seen: dict[tuple[str | None, float | None], list[int]] = {}
    for policy in policies:
        numbers = map(_number, texts[f"{policy}/affected_cpus"].split())
        cpus = [cpu for cpu in numbers if cpu is not None]
        khz = _number(texts.get(f"{policy}/scaling_cur_freq", ""))
        governor = one_line(texts.get(f"{policy}/scaling_governor", ""), MAX_NAME) or None
        mhz = None if khz is None else khz / 1000
        seen.setdefault((governor, mhz), []).extend(cpus)
    for (governor, mhz), cpus in seen.items():
        yield Clock(cpu_list(cpus), governor, mhz)
    if policies:
        return
    values = re.findall(
        r"^cpu MHz\s*: ([0-9]{1,9}\.?[0-9]{0,9})$", texts.get("proc/cpuinfo", ""), re.MULTILINE
    )
    if values:
        mhz = sum(map(float, values)) / len(values)
        yield Clock(cpu_list(range(len(values))), None, mhz)


def cpu_list(cpus: Iterable[int]) -> str:
    """Numbers as Linux writes them: "0-3,8"."""
    parts: list[list[int]] = []
    for cpu in sorted(cpus):
        if parts and parts[-1][1] == cpu - 1:
            parts[-1][1] = cpu
        else:
            parts.append([cpu, cpu])
    return ",".join(f"{low}" if low == high else f"{low}-{high}" for low, high in parts)


def _temperatures(texts: Snapshot) -> Iterable[Temperature]:
    for path, text in texts.items():
        folder, _, name = path.rpartition("/")
        value = text.strip()
        if not re.fullmatch(r"-?[0-9]{1,7}", value):
            continue
        if name == "temp" and folder.startswith("sys/class/thermal/"):
            sensor = texts.get(f"{folder}/type", folder.rpartition("/")[2])
        elif re.fullmatch(r"temp\d+_input", name):
            chip = texts.get(f"{folder}/name", "hwmon").strip()
            label = texts.get(f"{folder}/{name[:-6]}_label", name[:-6]).strip()
            sensor = f"{chip} {label}"
        else:
            continue
        yield Temperature(one_line(sensor, MAX_NAME), int(value) / 1000)


def _throttled(texts: Snapshot, flags: int | None) -> tuple[str, ...] | None:
    firmware = texts.get("sys/devices/platform/soc/soc:firmware/get_throttled", "").strip()
    if re.fullmatch(r"(0x)?[0-9a-fA-F]{1,8}", firmware):
        flags = int(firmware, 16)
    if flags is not None:
        return tuple(text for bit, text in THROTTLED_BITS.items() if flags >> bit & 1)
    counts = [_number(text) for path, text in texts.items() if path.endswith("_throttle_count")]
    if not counts:
        return None
    total = sum(count for count in counts if count is not None)
    return (f"{total} thermal throttling events since boot",) if total else ()


def _vcgencmd() -> int | None:
    program = shutil.which("vcgencmd")
    if program is None:
        return None
    try:
        done = subprocess.run(  # noqa: S603 - a fixed command
            [program, "get_throttled"], capture_output=True, text=True, timeout=5, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    flags = re.search(r"throttled=0x([0-9a-fA-F]{1,8})\b", done.stdout)
    return int(flags[1], 16) if flags else None


def clean(text: str) -> str:
    """A file's text without control characters other than line ends and tabs."""
    return "".join(char for char in text if char.isprintable() or char in "\n\t")


def _number(text: str) -> int | None:
    """A number of at most 15 digits; None: it is something else."""
    return int(text) if re.fullmatch(r"[0-9]{1,15}", text.strip()) else None
