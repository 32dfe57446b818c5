"""Answers a bench run on another machine: `python -m ondevice.bench.targets.agent FOLDER`.

It talks over its pipes. One JSON object a line each way. The first answer says who answers; then
every request names what to do ("device", "state", "drop_pages" or "observe") and is answered by
its result or by an error. The end of the input is the end of the work.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import ondevice
from ondevice.bench.measure.observation import Task
from ondevice.bench.strict import read
from ondevice.bench.targets.local import LocalMachine
from ondevice.engines.native import is_compiled
from ondevice.errors import InputError, OnDeviceError


def serve(folder: Path, lines: Any, answer: Callable[[dict[str, Any]], None]) -> None:
    """Answer requests until the input ends; a failed one is answered and the work goes on.

    Args:
        folder: where the models are; a request names one by its path in it.
        lines: the requests, an iterable of texts.
        answer: what sends an answer.
    """
    machine = LocalMachine()
    answer({"ondevice": ondevice.__version__, "compiled": is_compiled(), "folder": str(folder)})
    for line in lines:
        try:
            result = _do(machine, folder, json.loads(line))
        except OnDeviceError as error:
            answer({"error": type(error).__name__, "message": str(error)})
        else:
            answer({"result": result})


def _do(machine: LocalMachine, folder: Path, request: dict[str, Any]) -> Any:
    what = request.get("do")
    if what == "device":
        return asdict(machine.device())
    if what == "state":
        return asdict(machine.state())
    model = folder / str(request.get("model"))
    if what == "drop_pages":
        return machine.drop_pages(model)
    if what == "observe":
        task = read(Task, request.get("task"), "the request's task")
        return [asdict(observation) for observation in machine.observe(model, task)]
    raise InputError(f"expected device, state, drop_pages or observe, got {what!r}")


def main() -> int:
    """Serve standard input and output."""

    def answer(data: dict[str, Any]) -> None:
        sys.stdout.write(json.dumps(data) + "\n")
        sys.stdout.flush()

    try:
        serve(Path(sys.argv[1]), sys.stdin, answer)
    except BrokenPipeError:
        sys.stderr.close()  # nobody listens any more
    return 0


if __name__ == "__main__":
    sys.exit(main())
