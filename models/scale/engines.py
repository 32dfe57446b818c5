"""Engines that run one task for each fragment of a log: this process, or workers of Ray."""

from __future__ import annotations

import importlib
import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import ondevice
from ondevice.errors import InputError, OnDeviceError, SpecError, needs_extra
from ondevice.models.data.parts import LogFile
from ondevice.models.scale.tasks import Result, Task

EngineName = Literal["local", "ray"]
ENGINES: tuple[EngineName, ...] = get_args(EngineName)
# Runs a task on every fragment; yields the results in the fragments' order.
Engine = Callable[[Task, Sequence[LogFile]], Iterator[Result]]


class WorkerError(OnDeviceError):
    """The workers cannot do their tasks: they die again and again, or there are none."""


def run_locally(task: Task, fragments: Sequence[LogFile]) -> Iterator[Result]:
    """One fragment after the other, in this process."""
    return map(task, fragments)


@dataclass(frozen=True)
class RayEngine:
    """Runs tasks on the workers of a Ray cluster, or of one that it starts on this machine.

    A task takes one CPU, has no state and returns its result, so it can be run again wherever its
    worker dies. Nothing else holds CPUs: no node is too small to go on.

    Attributes:
        workers: at most so many tasks at a time; None: one for each CPU of the cluster.
        address: of a running cluster, as `host:port` or "auto"; None: that of the environment's
            RAY_ADDRESS, else a cluster of its own on this machine.
        retries: how often a task whose worker dies is run again, elsewhere or in a new worker.
    """

    workers: int | None = None
    address: str | None = None
    retries: int = 5

    def __post_init__(self) -> None:
        """Check the settings. Raises InputError."""
        if self.workers is not None and self.workers < 1:
            raise InputError(f"--workers must be at least 1, got {self.workers}")

    def __call__(self, task: Task, fragments: Sequence[LogFile]) -> Iterator[Result]:
        """The results in the fragments' order, a few of them ahead of what is taken.

        Raises:
            WorkerError: a task's workers died again and again, or the cluster cannot be reached.
            SpecError: no node of the cluster has a CPU.
            OnDeviceError: what a task raised.
        """
        with needs_extra("--engine ray", "ray"):
            ray = importlib.import_module("ray")
        _join(ray, self.address, self.workers)
        run = ray.remote(_run).options(num_cpus=1, max_retries=self.retries)
        most = self.workers or _cpus(ray)
        shared, version, waiting = ray.put(task), ondevice.__version__, iter(fragments)
        ahead: deque[Any] = deque()
        running: set[Any] = set()
        try:
            while True:
                # those done behind a slow task wait for their turn, up to as many as work
                while len(running) < most and len(ahead) < 2 * most:
                    if (fragment := next(waiting, None)) is None:
                        break
                    ahead.append(run.remote(shared, fragment, version))
                    running.add(ahead[-1])
                if not ahead:
                    return
                if ahead[0] in running:
                    running.difference_update(ray.wait(list(running), num_returns=1)[0])
                else:
                    yield self._result(ray, ahead.popleft())
        finally:
            for left in ahead:  # an error, or nobody takes the rest
                ray.cancel(left, force=True)

    def _result(self, ray: Any, reference: Any) -> Result:
        """The result of a task. Raises WorkerError, or what the task raised."""
        try:
            result: Result = ray.get(reference)
        except ray.exceptions.RayTaskError as error:
            if isinstance(error.cause, OnDeviceError):
                raise error.cause from None
            if isinstance(error, ray.exceptions.RaySystemError):  # Ray's class is of both kinds
                named = [line for line in str(error).splitlines() if "System error" in line]
                raise WorkerError(
                    f"a worker cannot take a task: {(named or [type(error).__name__])[0]}; every "
                    f"node needs ondevice {ondevice.__version__} and the Python of this process"
                ) from error
            raise
        except ray.exceptions.RayError as error:
            first = (str(error).splitlines() or [type(error).__name__])[0]
            raise WorkerError(
                f"a worker ended, {self.retries} retries included: {first}"
            ) from error
        return result


def _run(task: Task, fragment: LogFile, version: str) -> Result:
    """What a worker calls. Raises WorkerError where it has another version of ondevice."""
    if ondevice.__version__ != version:
        raise WorkerError(
            f"a worker has ondevice {ondevice.__version__}, this process {version}; results of "
            "different versions are not mixed"
        )
    return task(fragment)


def _join(ray: Any, address: str | None, workers: int | None) -> None:
    """Join a cluster, or start one, unless this process has. Raises WorkerError."""
    if ray.is_initialized():
        return
    settings: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}
    if address is not None or os.environ.get("RAY_ADDRESS"):
        settings["address"] = address
    else:
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nobody is told
        settings |= {"address": "local", "include_dashboard": False}
        if workers is not None:
            settings["num_cpus"] = workers
    try:
        ray.init(**settings)
    except (OSError, RuntimeError, ValueError, ray.exceptions.RayError) as error:
        first = (str(error).splitlines() or [type(error).__name__])[0]
        place = address or os.environ.get("RAY_ADDRESS") or "this host"
        raise WorkerError(
            f"cannot join a Ray cluster at {place}: {first} (one with token authentication needs "
            "RAY_AUTH_MODE=token and its token)"
        ) from error


def _cpus(ray: Any) -> int:
    """How many tasks of one CPU the cluster runs at a time. Raises SpecError where it is none."""
    nodes = [node.get("Resources", {}).get("CPU", 0) for node in ray.nodes() if node["Alive"]]
    if (cpus := sum(map(int, nodes))) < 1:
        raise SpecError(
            f"--engine ray: a task needs one CPU of one node; the {len(nodes)} nodes offer {nodes}"
        )
    return cpus
