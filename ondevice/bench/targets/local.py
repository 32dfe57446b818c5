"""Starts measuring processes on this machine."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import time
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

import ondevice
from ondevice import errors
from ondevice.bench.measure.device import this_device, this_state
from ondevice.bench.measure.memory import drop_pages
from ondevice.bench.measure.observation import Observation, Task
from ondevice.bench.report import Device, State
from ondevice.bench.strict import one_line, parse_json, read
from ondevice.bench.targets.pipes import expiry
from ondevice.child import MOST_SECONDS
from ondevice.errors import FileFormatError, OnDeviceError
from ondevice.model import model_files

SLOW_REQUEST = 1  # second that a request may take, see MAX_ROW_WORK
MAX_NOTE = 200  # characters of why pages stayed in memory
MAX_MESSAGE = 4096  # characters of an error of another process: it may list every fault

# What the answer of a measuring process may leave out, as JSON.
NOTHING_MEASURED: dict[str, Any] = {
    item.name: [] if item.default == () else None
    for item in fields(Observation)
    if item.default is not MISSING
}


class LocalMachine:
    """This machine, its Python and its engines."""

    tool = f"ondevice {ondevice.__version__}"

    def device(self) -> Device:
        """What this machine is."""
        python = ".".join(map(str, sys.version_info[:3]))
        return this_device(
            {"python": python, "numpy": np.__version__, "ondevice": ondevice.__version__}
        )

    def state(self) -> State:
        """This machine, now."""
        return this_state()

    def drop_pages(self, model: Path) -> str | None:
        """Drop a model's pages from memory; None, or why they may have stayed."""
        return drop_pages(model_files(model))

    def observe(self, model: Path, task: Task) -> list[Observation]:
        """Do a task in a fresh process, or in several that begin together.

        Raises:
            OnDeviceError: what went wrong there, with its own type.
            FileFormatError: a process takes MOST_SECONDS longer than it is to measure.
        """
        count = task.workers if task.worker_kind == "process" else 1
        wait = ["--wait"] if count > 1 else []
        command = [
            sys.executable,
            "-m",
            "ondevice.bench.measure.worker",
            str(model),
            *task.words(),
            *wait,
        ]
        with contextlib.ExitStack() as stack:
            workers = [stack.enter_context(_process(command)) for _ in range(count)]
            stack.enter_context(_deadline(workers, model, task))
            early = [_await_ready(worker) if wait else "" for worker in workers]
            for worker in workers:
                if wait and worker.stdin is not None:
                    with contextlib.suppress(BrokenPipeError):
                        worker.stdin.write("go\n")
                        worker.stdin.flush()
            answers = [
                (text + out, err, worker.returncode)
                for text, worker in zip(early, workers, strict=True)
                for out, err in [worker.communicate()]
            ]
        return [parse_answer(out, err, code, str(model)) for out, err, code in answers]


@contextlib.contextmanager
def _process(command: list[str]) -> Any:
    pipe = subprocess.PIPE
    started = ["--started-ns", str(time.monotonic_ns())]
    with subprocess.Popen(  # noqa: S603 - this Python, and a file's path as one argument
        [*command, *started], stdin=pipe, stdout=pipe, stderr=pipe, text=True
    ) as process:
        try:
            yield process
        finally:
            if process.poll() is None:
                process.kill()


def _deadline(
    workers: list[subprocess.Popen[str]], model: Path, task: Task
) -> contextlib.AbstractContextManager[None]:
    """Kill the workers where the block takes far longer than what they are to measure.

    It raises FileFormatError then.
    """
    seconds = MOST_SECONDS + task.seconds + task.requests * (task.gap_ms / 1000 + SLOW_REQUEST)

    def end() -> None:
        for worker in workers:
            worker.kill()

    error = FileFormatError(f"{model}: measuring it takes more than {seconds:.0f} s")
    return expiry(seconds, end, error)


def _await_ready(worker: subprocess.Popen[str]) -> str:
    """Wait until a worker is warm; what it printed instead, if it failed."""
    line = "" if worker.stdout is None else worker.stdout.readline()
    return "" if line == "ready\n" else line


def parse_answer(out: str, err: str, code: int, what: str) -> Observation:
    """The observation that a measuring process printed.

    Raises:
        OnDeviceError: what went wrong there, with its own type.
        FileFormatError: it printed something else.
    """
    lines = out.strip().splitlines() or [""]
    where = f"{what}: the measuring process's answer"
    try:
        data = parse_json(lines[-1], where)
    except FileFormatError as error:
        last = one_line((err.strip().splitlines() or lines)[-1]) or "no message"
        raise OnDeviceError(
            f"{what}: the measuring process ended with code {code}: {last}"
        ) from error
    if isinstance(data, dict) and "error" in data:
        raise_answered(data)
    if isinstance(data, dict):
        data = {**NOTHING_MEASURED, **data}
    return read(Observation, data, where)


def raise_answered(data: dict[str, Any]) -> NoReturn:
    """Raise the error that another process answered with, by its type's name."""
    name = data["error"]
    kind = getattr(errors, name, None) if isinstance(name, str) else None
    if not isinstance(kind, type) or not issubclass(kind, OnDeviceError):
        kind = OnDeviceError
    raise kind(one_line(data.get("message"), MAX_MESSAGE))
