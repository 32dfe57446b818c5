"""What faults.py makes calls fail in: what is there before, the work, and what it may leave."""

import argparse
import contextlib
import ctypes
import errno
import hashlib
import io
import random
import re
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from support.logs_in_parts import convert_model, write_parts

from ondevice import manifest
from ondevice.atomic import atomic_path
from ondevice.converters import convert
from ondevice.errors import OnDeviceError
from ondevice.features import FeatureSpec, Field
from ondevice.models import ClickModel, FullEmbedding, load_checkpoint, save_checkpoint
from ondevice.models.commands import compress, score, train
from ondevice.publish import HIDDEN, finish, publishing

FEATURES = FeatureSpec((Field("user", "integer", "hash"),))
COMMANDS = {"compress": compress, "score": score, "train": train}
# Seconds of the clock, which no two runs share.
SECONDS = re.compile(rb'seconds": [0-9.e+-]+')


class Work(Protocol):
    """A work on files below the working folder."""

    def begin(self) -> None:
        """Bring the folder to what it is before the work."""

    def write(self) -> None:
        """Do the work, in which calls may fail."""

    def learn(self) -> None:
        """Note what it wrote, where nothing failed."""

    def wrong(self, done: bool) -> Iterator[str]:
        """What is not as it should be after it; `done`: it did not raise an error."""


class Replacement:
    """Files that are replaced as one: the old ones are there or the new ones."""

    def __init__(self, write: Callable[[Path, int], None]) -> None:
        self.folder = Path.cwd() / "here"
        self._write = write
        self.begin()
        self._states = [self._held()]

    def begin(self) -> None:
        self._write(self.folder, 0)

    def write(self) -> None:
        self._write(self.folder, 1)

    def learn(self) -> None:
        self._states.append(self._held())

    def wrong(self, done: bool) -> Iterator[str]:
        finish(self.folder)
        state = self._held()
        if state not in self._states or (done and state != self._states[1]):
            yield "neither the old nor the new state"
        if self._write is write_checkpoint:
            load_checkpoint(self.folder)
        self.begin()
        if left := [path.name for path in self.folder.iterdir() if HIDDEN.fullmatch(path.name)]:
            yield f"the next run left {left}"

    def _held(self) -> dict[str, bytes]:
        """The visible files."""
        paths = [path for path in self.folder.iterdir() if not HIDDEN.fullmatch(path.name)]
        return {path.name: path.read_bytes() for path in paths if path.name != manifest.NAME}


class Command:
    """A command beside results of earlier ones, which may be its own.

    Every visible file is the old one or the new one, every set is whole, and the same command ends
    as if nothing had failed.
    """

    def __init__(self, words: Sequence[str], again: Sequence[str], between: str = "") -> None:
        """Keep what there is.

        Args:
            words: the command.
            again: the command that goes on after a failure.
            between: the name of a file that has other versions too before the new one.
        """
        self.folder = Path.cwd() / "here"
        self._words, self._again, self._between = words, again, between
        number = len(list(Path.cwd().glob("before-*")))
        self._before, self._after = (Path(f"{name}-{number}") for name in ("before", "after"))
        shutil.copytree(self.folder, self._before)
        self._old = self._held()
        self._new: dict[str, bytes] = {}
        self._continued: set[str] = set()

    def begin(self) -> None:
        self._bring_back(self._before)

    def write(self) -> None:
        run(self._words)

    def learn(self) -> None:
        self._new = self._held()
        shutil.copytree(self.folder, self._after)

    def end(self) -> None:
        """Bring the folder to what it is after the command, where nothing fails."""
        self._bring_back(self._after)

    def _bring_back(self, kept: Path) -> None:
        shutil.rmtree(self.folder)
        shutil.copytree(kept, self.folder)

    def wrong(self, done: bool) -> Iterator[str]:
        for folder in self._folders():
            finish(folder)
            yield from _faults_of_set(folder)
        held = self._held()
        for path in {**self._old, **self._new, **held}:
            legal = (self._old.get(path), self._new.get(path))
            if held.get(path) not in legal and Path(path).name != self._between:
                yield f"{path}: neither the old nor the new file"
        if done and held != self._new:
            yield "not what it writes where nothing fails"
        if (state := self._state()) in self._continued:
            return  # the command ended well from just this state
        run(self._again)
        if left := [path for path in self.folder.rglob("*") if path.name.startswith(".")]:
            yield f"the next run left {', '.join(map(str, left))}"
        if self._held() != self._new:
            yield "the next run ends with other results"
        self._continued.add(state)

    def _folders(self) -> list[Path]:
        return [self.folder, *(path for path in self.folder.rglob("*") if path.is_dir())]

    def _held(self) -> dict[str, bytes]:
        """The visible files by their paths, without seconds and what counts the writes."""
        files = {}
        for path in self.folder.rglob("*"):
            inside = path.relative_to(self.folder)
            hidden = any(part.startswith(".") for part in inside.parts)
            if path.is_file() and not hidden and path.name != manifest.NAME:
                files[str(inside)] = SECONDS.sub(b"", path.read_bytes())
        return files

    def _state(self) -> str:
        """A digest of all that is in the folder, without random names, seconds and versions."""
        digest = hashlib.sha256()
        for path in sorted(self.folder.rglob("*")):
            inside = HIDDEN.sub(".hidden", str(path.relative_to(self.folder)))
            data = b""
            if path.is_file() and path.name != manifest.NAME:
                data = SECONDS.sub(b"", path.read_bytes())
            digest.update(f"{inside} {path.is_file()} {len(data)}\n".encode() + data)
        return digest.hexdigest()


def _faults_of_set(folder: Path) -> Iterator[str]:
    """What is wrong with the checkpoint or the models of a folder, if it has some."""
    try:
        if (folder / "config.json").exists():
            load_checkpoint(folder)
        if (folder / manifest.NAME).exists():
            manifest.check(manifest.read_manifest(folder / manifest.NAME), folder)
    except OnDeviceError as error:
        yield f"half a set: {error}"


def run(words: Sequence[str]) -> None:
    """Run a command in this process. Raises what it raises."""
    parser = argparse.ArgumentParser()
    COMMANDS[words[0]].configure(parser)
    quiet = io.StringIO()
    with contextlib.redirect_stdout(quiet), contextlib.redirect_stderr(quiet):
        status = COMMANDS[words[0]].run(parser.parse_args(list(words[1:])))
    if status:
        raise AssertionError(f"exit status {status}: {quiet.getvalue()}")


def write_file(folder: Path, seed: int) -> None:
    with atomic_path(folder / "bench.json") as temporary:
        temporary.write_text(f"{seed}" * 5000)


def write_set(folder: Path, seed: int) -> None:
    with publishing(folder, removed=("c",) if seed else (), with_manifest=True) as fresh:
        for name in ("a", "b") if seed else ("a", "b", "c"):
            (fresh / name).write_text(f"{name} {seed}")


def write_checkpoint(folder: Path, seed: int) -> None:
    torch.manual_seed(seed)
    model = ClickModel({"user": FullEmbedding(20, 4)}, (4,)).eval()
    counts = None if seed else {"user": np.ones(20, np.int64)}
    save_checkpoint(folder, model, FEATURES, counts=counts)


class Small(torch.nn.Module):
    """A table and a layer."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.table = torch.nn.Embedding(50, 4)
        self.layer = torch.nn.Linear(4, 1)

    def forward(self, user: torch.Tensor) -> torch.Tensor:
        return torch.sigmoid(self.layer(self.table(user)))


def write_models(folder: Path, seed: int) -> None:
    convert(Small(seed).eval(), {"user": torch.arange(8)}, folder)


def _log() -> list[str]:
    """Options that read a log of one field, written beside the folder: runs of it take a second."""
    rng = random.Random(1)  # noqa: S311 - no secret
    users = [rng.randrange(8) for _ in range(150)]
    lines = [f"u{user},{int(rng.random() < 0.1 + 0.1 * user)}" for user in users]
    Path("log.csv").write_text("\n".join(["user,click", *lines, ""]))
    Path("columns.toml").write_text('label = "click"\n[fields]\nuser = "string"\n')
    return ["--data", "log", "--path", "log.csv", "--columns", "columns.toml"]


def searches() -> Iterator[Work]:
    """A search beside another one's results, from its beginning; then again, over its results."""
    words = ["compress", "--ratio", "1", "--trials", "1", *_log(), "--out", "here"]
    run([*words, "--seed", "1"])
    first = Command(words, words, between="search.json")
    yield first
    first.end()
    yield Command([*words, "--force"], [*words, "--force"])


def trainings() -> Iterator[Work]:
    """A training that replaces a checkpoint; then one that first drops an unfinished one."""
    words = ["train", *_log(), "--epochs", "2", "--hidden", "4", "--dim", "2", "--force"]
    words += ["--out", "here/checkpoint", "--json", "here/metrics.json"]
    run(words)
    seeded = [*words, "--seed", "1"]
    resumed = Command(seeded, [*seeded, "--resume"])
    yield resumed
    resumed.begin()
    _break_off([*words, "--seed", "2"], Path("here/.checkpoint.training/settings.json"))
    yield Command(seeded, seeded)


def scorings() -> Iterator[Work]:
    """Scores of two files; then those of one, which replace them."""
    model = convert_model(write_parts(Path("log"), 1), Path("models"))
    both = [str(path) for path in write_parts(Path("log"), 2)]
    words = ["score", str(model), "--out", "here/scores"]
    Path("here").mkdir()
    first = Command([*words, *both], [*words, *both, "--force"])
    yield first
    first.end()
    less = [*words, both[0], "--force"]
    yield Command(less, less)


def _break_off(words: Sequence[str], state: Path) -> None:
    """Let the last call fail that leaves a state, which is removed at the end."""
    shim = ctypes.CDLL(None)
    shim.crash_fail(ctypes.c_long(0), 0)
    run(words)
    calls = shim.crash_calls()
    while not state.exists():
        calls -= 1
        shim.crash_fail(ctypes.c_long(calls), errno.ENOSPC)
        with contextlib.suppress(OnDeviceError):
            run(words)
    shim.crash_fail(ctypes.c_long(0), 0)


# Parts of a work, each of which begins with what is there when the one before has been tried.
WORKS: dict[str, Callable[[], Iterable[Work]]] = {
    "file": lambda: [Replacement(write_file)],
    "set": lambda: [Replacement(write_set)],
    "checkpoint": lambda: [Replacement(write_checkpoint)],
    "convert": lambda: [Replacement(write_models)],
    "train": trainings,
    "score": scorings,
    "compress": searches,
}
