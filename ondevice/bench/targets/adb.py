"""An Android device behind adb: pushes a static runner and the models, measures, and cleans up.

What runs in the device's shell is made of constants, numbers and a random folder name; names of
files never leave this machine. The runner is ondevice/native/runner (`make runners`).
"""

from __future__ import annotations

import os
import re
import secrets
import shutil
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ondevice
from ondevice.bench.measure.constants import MAX_SYSTEM_FILE, REQUESTS
from ondevice.bench.measure.device import DEVICE_FILES, STATE_FILES, clean, describe, state
from ondevice.bench.measure.observation import Observation, Task
from ondevice.bench.measure.requests import Ids, context_inputs, draw, pool, rank_tolerance
from ondevice.bench.report import Device, State
from ondevice.bench.strict import one_line, parse_json, shown
from ondevice.bench.targets.local import MAX_NOTE, parse_answer, raise_answered
from ondevice.bench.targets.pipes import run
from ondevice.errors import (
    FileFormatError,
    InputError,
    MissingDependencyError,
    OnDeviceError,
    UnsupportedError,
)
from ondevice.info import ModelInfo
from ondevice.model import check_is_file
from ondevice.odm import open_odm
from ondevice.temporary import temporary_folder

# Where Android's shell user may write and run programs.
PLACE = "/data/local/tmp"
# Android's names of processors, and those of the runner's files.
RUNNERS = {"arm64-v8a": "arm64", "armeabi-v7a": "armv7", "x86_64": "x86_64"}
MAX_REQUESTS_FILE = 8 << 20  # bytes: large batches get fewer different requests
MAX_ANSWER = 8 << 20  # bytes; the requests of one process take at most one million
SHORT = 60  # seconds for a command that measures nothing


@dataclass(frozen=True)
class AdbTarget:
    """Which device, and how to reach it.

    Attributes:
        serial: as `adb devices` lists it; None: the only one.
        runner: the runner's file, or the folder that `make runners` fills.
        keep: leave the files on the device.
    """

    serial: str | None
    runner: Path
    keep: bool = False


def parse_target(text: str) -> str | None:
    """The serial of "adb" or "adb:SERIAL". Raises InputError."""
    matched = re.fullmatch(r"adb(?::([\w.][\w.:-]*))?", text)
    if not matched:
        raise InputError(f"expected a target such as adb or adb:SERIAL, got {text!r}")
    return matched[1]


class AdbMachine:
    """A device with the runner and the models on it; `connect` makes one."""

    tool = f"ondevice runner {ondevice.__version__}"

    def __init__(self, adb: Sequence[str], folder: str, names: Mapping[Path, str]) -> None:
        """Talk to a device through an adb command line; `names`: models in the device's folder."""
        self.folder = folder
        self._adb, self._names = tuple(adb), names
        self._pushed: dict[tuple[Path, int], str] = {}

    def device(self) -> Device:
        """What the device is."""
        about = _object(self._shell(f"{self.folder}/runner about"))
        names = ("ro.product.manufacturer", "ro.product.model", "ro.build.version.release")
        maker, model, release = (self._shell(f"getprop {name}").strip() for name in names)
        architecture, _, kernel = self._shell("uname -m; uname -r").strip().partition("\n")
        cores = self._shell("nproc").strip()
        texts = self._files(DEVICE_FILES)
        texts["proc/device-tree/model"] = f"{maker} {model}".strip()
        texts["etc/os-release"] = f"PRETTY_NAME=Android {release}"
        emulated = about.get("emulated")
        return describe(
            texts,
            architecture=architecture,
            kernel=f"Linux {kernel}",
            cores=int(cores) if re.fullmatch(r"[1-9][0-9]{0,3}", cores) else 1,
            emulated=None if emulated is None else one_line(emulated),
            versions={"ondevice": ondevice.__version__},
        )

    def state(self) -> State:
        """The device, now."""
        return state(self._files(STATE_FILES))

    def drop_pages(self, model: Path) -> str | None:
        """Drop a model's pages from memory; None, or why they may have stayed."""
        note = _object(self._shell(f"{self.folder}/runner drop {self._remote(model)}")).get("note")
        return None if note is None else one_line(note, MAX_NOTE)

    def observe(self, model: Path, task: Task) -> list[Observation]:
        """Do a task in a fresh process of the runner.

        Raises:
            UnsupportedError: another engine than the native one, several workers or threads, or
                other arithmetic of dense layers.
            OnDeviceError: what went wrong there, with its own type.
        """
        if model.suffix.lower() != ".odm" or task.engine not in ("auto", "native"):
            raise UnsupportedError(f"{model}: the runner on the device runs .odm files natively")
        if task.threads > 1:
            raise UnsupportedError("the runner on the device takes one thread for a request")
        if task.dense is not None:
            raise UnsupportedError("the runner on the device computes dense layers as stored")
        if task.workers > 1:
            raise UnsupportedError("the runner on the device sends one request at a time")
        info = open_odm(model).info
        requests = self._requests(model, info, task.rows)
        words = [
            *(task.kind, self._remote(model), requests, str(task.rows), _context(info, task)),
            *(str(int(task.gap_ms * 1e6)), str(int(task.seconds * 1e9)), str(task.requests)),
            repr(rank_tolerance(info)),
            *(["lock"] if task.lock else []),
        ]
        command = [*self._adb, "shell", " ".join([f"{self.folder}/runner", *words])]
        seconds = SHORT + 10 * task.seconds + task.requests * (1 + task.gap_ms / 1000)
        done = _run(command, seconds)
        return [parse_answer(done.stdout, done.stderr, done.returncode, str(model))]

    def _remote(self, model: Path) -> str:
        return f"{self.folder}/{self._names[model]}"

    def _requests(self, model: Path, info: ModelInfo, rows: int) -> str:
        """The path of a file of requests on the device; pushed once."""
        key = (model, rows)
        if key not in self._pushed:
            rows_to_draw_from = pool(info)
            request_bytes = sum(ids[:1].nbytes for ids in rows_to_draw_from.values()) * rows
            count = max(1, min(REQUESTS, MAX_REQUESTS_FILE // max(request_bytes, 1)))
            remote = f"{self.folder}/requests-{len(self._pushed)}"
            with temporary_folder() as folder:
                local = folder / "requests"
                local.write_bytes(_packed(draw(rows_to_draw_from, rows, count), info))
                push(self._adb, local, remote)
            self._pushed[key] = remote
        return self._pushed[key]

    def _files(self, globs: Sequence[str]) -> dict[str, str]:
        """Texts of the device's files by path, as `device.snapshot` has them."""
        names = " ".join(f"/{pattern.replace(' ', '?')}" for pattern in globs)
        # a line with the name before each file; unreadable ones are left out
        program = (
            f'for f in {names}; do [ -r "$f" ] && [ -f "$f" ] && echo "@@@$f" '
            f'&& head -c {MAX_SYSTEM_FILE} "$f" 2>/dev/null && echo; done; true'
        )
        texts = {}
        for part in re.split(r"(?:^|\n)@@@/", self._shell(program))[1:]:
            name, _, text = part.partition("\n")
            texts[name] = clean(text)
        return texts

    def _shell(self, program: str) -> str:
        done = _run([*self._adb, "shell", program], SHORT)
        if done.returncode:
            text = (done.stdout + done.stderr).strip()
            if text.startswith("{"):
                raise_answered(_object(text))
            raise OnDeviceError(f"the device answered: {one_line(text) or 'nothing'}")
        return done.stdout


@contextmanager
def connect(target: AdbTarget, models: Sequence[Path]) -> Iterator[AdbMachine]:
    """Push the runner and the models to a device; then remove them.

    Raises:
        MissingDependencyError: this machine has no adb, or there is no runner for the device.
        OnDeviceError: adb failed; the message is its own.
        UnsupportedError: a model that is not a native file.
    """
    adb = ["adb", *(["-s", target.serial] if target.serial else [])]
    for path in models:
        check_is_file(path)
        if path.suffix.lower() != ".odm":
            raise UnsupportedError(f"{path}: the runner on the device runs .odm files only")
    processor = _checked([*adb, "shell", "getprop ro.product.cpu.abi"]).strip()
    runner = _runner(target.runner, processor)
    folder = f"{PLACE}/ondevice-bench-{secrets.token_hex(8)}"
    names = {path: f"{number}.odm" for number, path in enumerate(models)}
    _checked([*adb, "shell", f"mkdir {folder}"])
    try:
        push(adb, runner, f"{folder}/runner")
        _checked([*adb, "shell", f"chmod 755 {folder}/runner"])
        for path, name in names.items():
            push(adb, path, f"{folder}/{name}")
        yield AdbMachine(adb, folder, names)
    finally:
        if not target.keep:
            _run([*adb, "shell", f"rm -rf {folder}"], SHORT)


def push(adb: Sequence[str], local: Path, remote: str) -> None:
    """Copy a file to the device. Raises OnDeviceError."""
    _checked([*adb, "push", os.fspath(local.absolute()), remote])


def _runner(path: Path, processor: str) -> Path:
    if path.is_dir():
        if processor not in RUNNERS:
            raise UnsupportedError(f"no runner for the device's processor, {processor!r}")
        path = path / f"ondevice-runner-{RUNNERS[processor]}"
    if not path.is_file():
        raise MissingDependencyError(f"{path}: no such runner; build it with: make runners")
    return path


def _context(info: ModelInfo, task: Task) -> str:
    """For rank, a digit for every input: 1 where it is context. For predict "-"."""
    if task.call == "predict":
        return "-"
    context = context_inputs(info, task.context)
    return "".join("1" if item.name in context else "0" for item in info.inputs)


def _packed(requests: Sequence[Ids], info: ModelInfo) -> bytes:
    """Little-endian int64 IDs: request by request, input by input."""
    return b"".join(
        request[item.name].astype("<i8").tobytes() for request in requests for item in info.inputs
    )


def _object(text: str) -> dict[str, Any]:
    """The object in the last line of what the runner printed. Raises OnDeviceError."""
    lines = text.strip().splitlines() or [""]
    try:
        data = parse_json(lines[-1], "the runner's answer")
    except FileFormatError as error:
        raise OnDeviceError(f"the runner answered: {one_line(text) or 'nothing'}") from error
    if not isinstance(data, dict):
        raise OnDeviceError(f"the runner's answer: expected an object, got {shown(data)}")
    return data


def _checked(command: Sequence[str]) -> str:
    done = _run(command, SHORT * 10)
    if done.returncode:
        text = one_line(done.stderr.strip() or done.stdout.strip())
        raise OnDeviceError(f"adb {command[-2] if len(command) > 2 else ''} failed: {text}")
    return done.stdout


def _run(command: Sequence[str], seconds: float) -> subprocess.CompletedProcess[str]:
    program = shutil.which(command[0])
    if program is None:
        raise MissingDependencyError("this machine has no adb: install Android's platform tools")
    return run([program, *command[1:]], MAX_ANSWER, seconds)
