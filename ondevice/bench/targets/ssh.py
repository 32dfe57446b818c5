"""A board behind ssh: ships the runtime and the models there, measures, and leaves nothing behind.

One `ssh` process does it all. Its remote command is a constant program; whatever the user names
(models, requests) goes through its standard input as a tar archive and as JSON, never through a
shell. Keys, known hosts and settings are those of the system's own ssh.
"""

from __future__ import annotations

import io
import json
import re
import shlex
import subprocess
import tarfile
import tempfile
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath
from typing import IO, Any, TypeVar
from urllib.parse import urlsplit

import ondevice
from ondevice.bench.measure.observation import Observation, Task
from ondevice.bench.report import Device, State
from ondevice.bench.strict import MAX_TEXT, one_line, parse_json, read, shown
from ondevice.bench.targets.local import MAX_NOTE, raise_answered
from ondevice.bench.targets.pipes import Tail, deadline, read_line
from ondevice.errors import FileFormatError, InputError, MissingDependencyError, OnDeviceError
from ondevice.model import check_is_file, model_files

T = TypeVar("T")

MAX_ANSWER = 32 << 20  # bytes; a million timed requests take some ten million
# Seconds: to reach the board; between signs of life, of which three may be missed; to clean up.
CONNECT, ALIVE, CLEAN_UP = 20, 15, 10
# Seconds for an answer: the first, after the archive; one about the device; one beyond a task's.
HELLO, SHORT, PATIENCE = 300, 60, 600
MIN_SPEED = 10_000  # bytes a second that the connection must manage

# Runs on the board before anything of this project is there, in any Python 3.
BOOTSTRAP = """
import json, os, shutil, subprocess, sys, tarfile, tempfile
def fail(message):
    print(json.dumps({"error": "MissingDependencyError", "message": message}), flush=True)
    sys.exit(3)
if sys.version_info < (3, 11):
    fail("the board's Python is %d.%d; ondevice needs 3.11 or newer" % sys.version_info[:2])
try:
    import numpy
except ImportError:
    fail("the board's Python (%s) has no numpy" % sys.executable)
folder = tempfile.mkdtemp(prefix="ondevice-bench-")
keep = len(sys.argv) > 1
try:
    with tempfile.TemporaryFile() as packed:
        left = int(os.read(0, 20))
        while left:
            piece = os.read(0, min(left, 1 << 20))
            if not piece:
                sys.exit(4)
            packed.write(piece)
            left -= len(piece)
        packed.seek(0)
        with tarfile.open(fileobj=packed) as archive:
            archive.extractall(folder)
    site = os.path.join(folder, "site")
    paths = [site] + [p for p in [os.environ.get("PYTHONPATH")] if p]
    environment = dict(os.environ, PYTHONPATH=os.pathsep.join(paths), PYTHONDONTWRITEBYTECODE="1")
    agent = "ondevice.bench.targets.agent"
    command = [sys.executable, "-P", "-m", agent, os.path.join(folder, "models")]
    code = subprocess.call(command, env=environment)
finally:
    if not keep:
        shutil.rmtree(folder, ignore_errors=True)
sys.exit(code)
"""
HEADER = 20  # bytes of the archive's size, in decimal: what BOOTSTRAP reads first


@dataclass(frozen=True)
class SshTarget:
    """Where to measure, as the command line gives it.

    Attributes:
        host: name, address or alias of ssh's settings. user, port: None: what ssh's settings say.
        python: the board's Python. config: a file of ssh settings instead of the user's own.
        wheel: a wheel of ondevice built for the board; None: the runtime installed here.
        keep: leave the files on the board.
    """

    host: str
    user: str | None = None
    port: int | None = None
    python: str = "python3"
    config: Path | None = None
    wheel: Path | None = None
    keep: bool = False

    def command(self) -> list[str]:
        """The ssh process's arguments."""
        options = ["-T", "-o", "BatchMode=yes", "-o", f"ConnectTimeout={CONNECT}"]
        options += ["-o", f"ServerAliveInterval={ALIVE}", "-o", "ServerAliveCountMax=3"]
        if self.config is not None:
            options += ["-F", str(self.config)]
        if self.user is not None:
            options += ["-l", self.user]
        if self.port is not None:
            options += ["-p", str(self.port)]
        remote = [self.python, "-c", BOOTSTRAP, *(["keep"] if self.keep else [])]
        return ["ssh", *options, "--", self.host, shlex.join(remote)]


def parse_target(text: str) -> tuple[str, str | None, int | None]:
    """Host, user and port of "ssh://[user@]host[:port]". Raises InputError."""
    try:
        parts = urlsplit(text)
        host, user, port = parts.hostname, parts.username, parts.port
    except ValueError:
        host = user = port = None
        parts = urlsplit("")
    name = re.compile(r"[\w][\w.%:-]*")
    rest = parts.path.strip("/") or parts.query or parts.fragment or parts.password
    if parts.scheme != "ssh" or rest or not host or not name.fullmatch(host) or (
        user is not None and not name.fullmatch(user)
    ):  # fmt: skip
        raise InputError(f"expected a target such as ssh://pi@raspberrypi.local, got {text!r}")
    return host, user, port


class SshMachine:
    """A machine whose agent answers through ssh; `connect` makes one."""

    tool = f"ondevice {ondevice.__version__}"

    def __init__(
        self, process: subprocess.Popen[bytes], faults: Tail, names: dict[Path, str]
    ) -> None:
        """Talk to a process whose agent has yet to say who it is."""
        self._process, self._faults, self._names = process, faults, names
        self.folder = ""
        hello = self._answer(HELLO)
        self.folder = one_line(hello.get("folder"), MAX_TEXT)
        self.compiled = hello.get("compiled") is True
        if hello.get("ondevice") != ondevice.__version__:
            raise FileFormatError(
                f"the board must run ondevice {ondevice.__version__}, as this machine does, but "
                f"has {shown(hello.get('ondevice'))}: give a wheel of the same version"
            )

    def device(self) -> Device:
        """What the board is."""
        return read(Device, self._ask(SHORT, do="device"), "the board's answer")

    def state(self) -> State:
        """The board, now."""
        return read(State, self._ask(SHORT, do="state"), "the board's answer")

    def drop_pages(self, model: Path) -> str | None:
        """Drop a model's pages from memory; None, or why they may have stayed."""
        answer = self._ask(SHORT, do="drop_pages", model=self._names[model])
        return None if answer is None else one_line(answer, MAX_NOTE)

    def observe(self, model: Path, task: Task) -> list[Observation]:
        """Do a task in a fresh process there, or in several that begin together.

        Raises:
            OnDeviceError: what went wrong there, with its own type.
        """
        seconds = PATIENCE + 10 * task.seconds + task.requests * (1 + task.gap_ms / 1000)
        answer = self._ask(seconds, do="observe", model=self._names[model], task=asdict(task))
        return list(read(_Observations, {"all": answer}, "the board's answer").all)

    def _ask(self, seconds: float, **request: Any) -> Any:
        data = json.dumps(request).encode() + b"\n"
        try:
            if self._process.stdin is not None:
                self._process.stdin.write(data)
                self._process.stdin.flush()
        except BrokenPipeError:
            pass  # the answer, or its absence, says why
        answer = self._answer(seconds)
        if "result" not in answer:
            raise FileFormatError("the board's answer: expected a result")
        return answer["result"]

    def _answer(self, seconds: float) -> dict[str, Any]:
        """The board's next answer. Raises OnDeviceError: none, a bad one, or the board's own."""
        line = read_line(self._process, MAX_ANSWER, seconds)
        try:
            data = parse_json(line, "the board's answer")
        except FileFormatError as error:
            raise OnDeviceError(self._lost(line)) from error
        if not isinstance(data, dict):
            raise FileFormatError(f"the board's answer: expected an object, got {shown(data)}")
        if "error" in data:
            if isinstance(data.get("message"), str):
                data["message"] = self._named(data["message"])
            raise_answered(data)
        return data

    def _named(self, message: str) -> str:
        """A message of the board, with its paths of models replaced by those on this machine."""
        for path, name in self._names.items():
            if self.folder:
                message = message.replace(f"{self.folder}/{name}", str(path))
        return message

    def _lost(self, line: bytes) -> str:
        """Why there was no answer: the end of what ssh and the board said."""
        if not line:
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(CLEAN_UP)
        said = self._faults.text().strip().splitlines()[-3:]
        text = one_line("\n".join(said) or line[:80].decode("utf-8", "replace")) or "no message"
        hint = ""
        if "Host key verification failed" in text:
            hint = " (connect once with ssh by hand and check the board's key)"
        elif "Permission denied" in text:
            hint = " (a key that needs no typing is needed: ssh-copy-id, ssh-agent)"
        return f"the board gave no answer: {text}{hint}"


@dataclass(frozen=True)
class _Observations:
    all: tuple[Observation, ...]


@contextmanager
def connect(target: SshTarget, models: Sequence[Path]) -> Iterator[SshMachine]:
    """Ship the runtime and the models to a board, and talk to it; then clean up there.

    Raises:
        OnDeviceError: ssh failed, or the board's Python lacks something; the message says what.
        MissingDependencyError: this machine has no ssh.
        FileFormatError: the wheel is not one.
    """
    names = {path: f"{number}/{path.name}" for number, path in enumerate(models)}
    with tempfile.TemporaryFile() as packed:
        size = _pack(packed, names, target.wheel)
        try:
            # a session of its own: Ctrl-C ends the run in order instead of cutting the line
            process = subprocess.Popen(  # noqa: S603 - checked arguments, no shell on this side
                target.command(), stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                stderr=subprocess.PIPE, start_new_session=True,
            )  # fmt: skip
        except FileNotFoundError as error:
            raise MissingDependencyError(
                "this machine has no ssh: install OpenSSH's client"
            ) from error
        try:
            faults = Tail(_pipe(process.stderr))
            with deadline(process, HELLO + size / MIN_SPEED):
                _send(process, packed, size)
            yield SshMachine(process, faults, names)
        finally:
            _close(process)


def _pipe(pipe: IO[bytes] | None) -> IO[bytes]:
    if pipe is None:
        raise OnDeviceError("ssh was started without pipes")
    return pipe


def _send(process: subprocess.Popen[bytes], packed: Any, size: int) -> None:
    if process.stdin is None:
        return
    try:
        process.stdin.write(str(size).zfill(HEADER).encode())
        while piece := packed.read(1 << 20):
            process.stdin.write(piece)
        process.stdin.flush()
    except BrokenPipeError:
        pass  # ssh ended; reading its answer says why


def _close(process: subprocess.Popen[bytes]) -> None:
    """End the input, so that the board cleans up, and wait for it."""
    try:
        if process.stdin is not None:
            process.stdin.close()
    except BrokenPipeError:
        pass
    try:
        process.wait(CLEAN_UP)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    if process.stdout is not None:
        process.stdout.close()


def _pack(packed: Any, names: dict[Path, str], wheel: Path | None) -> int:
    """Write the archive of runtime and models; its size in bytes."""
    with tarfile.open(fileobj=packed, mode="w") as archive:
        for name, data in _runtime() if wheel is None else _wheel(wheel):
            _add(archive, f"site/{name}", io.BytesIO(data), len(data))
        for path, name in names.items():
            folder = PurePosixPath("models", name).parent
            check_is_file(path)
            for file in model_files(path):
                with file.open("rb") as content:
                    _add(archive, f"{folder}/{file.name}", content, file.stat().st_size)
    size: int = packed.tell()
    packed.seek(0)
    return size


def _add(archive: tarfile.TarFile, name: str, content: Any, size: int) -> None:
    entry = tarfile.TarInfo(name)
    entry.size = size
    archive.addfile(entry, content)


def _runtime() -> Iterator[tuple[str, bytes]]:
    """The installed runtime's files: Python, and the compiled engine, for a board like this one."""
    root = Path(ondevice.__file__).parent
    for path in sorted(root.rglob("*")):
        inside = path.relative_to(root)
        if inside.parts[0] not in ("converters", "models") and path.suffix in (".py", ".so"):
            yield f"ondevice/{inside.as_posix()}", path.read_bytes()


def _wheel(path: Path) -> Iterator[tuple[str, bytes]]:
    """A wheel's files, without what only conversion and training need."""
    try:
        with zipfile.ZipFile(path) as archive:
            for name in archive.namelist():
                parts = PurePosixPath(name).parts
                if parts[:1] == ("ondevice",) and ".." not in parts and not name.endswith("/"):
                    yield name, archive.read(name)
    except (OSError, zipfile.BadZipFile) as error:
        raise FileFormatError(f"{path}: not a wheel: {error}") from error
