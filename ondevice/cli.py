"""The command line: one entry point, `ondevice COMMAND`."""

from __future__ import annotations

import argparse
import contextlib
import importlib
import os
import signal
import sys
import threading
from collections.abc import Collection, Iterator, Sequence
from importlib import metadata
from pathlib import Path
from types import ModuleType

import ondevice
from ondevice.arguments import Parser
from ondevice.child import needs_child, opened_files, run_in_child
from ondevice.commands.json_output import text_aside
from ondevice.engines.native import is_compiled, kernels_available
from ondevice.errors import InputError, MissingDependencyError, OnDeviceError, needs_extra, writing
from ondevice.printable import printable

# Commands of the runtime, each a module with EPILOG, configure(parser) and run(args).
BUILT_IN = {
    "inspect": "show what a model file holds, byte by byte",
    "verify": "check a model file's bytes and its test vectors on this machine",
    "run": "score CSV, JSON lines or Parquet",
    "delta": "write what changes between two model files",
    "update": "update a model file, or go back to the one before",
    "bench": "measure latency, load time and memory",
    "keygen": "make a key that signs models",
    "root": "say which keys may sign models",
    "sign": "sign model files, or a root",
    "completion": "print what makes a shell complete commands and options",
}
GROUP = "ondevice.commands"  # of entry points
# Commands that need an extra; ondevice.models registers them as entry points of the group
# "ondevice.commands", so the runtime never imports it.
EXTRA = {
    "demo": ("train, compress, convert three ways, run and measure in one go", "dev"),
    "describe": ("look at a click log and write the description of its columns", "train"),
    "train": ("train a click model with compressed embeddings", "train"),
    "stats": ("count a log exactly: values, missing ones, quantiles, labels", "train"),
    "encode": ("hash a log once, for training to map", "train"),
    "score": ("score Parquet files by several workers", "train"),
    "compress": ("find the best model for a budget of bytes or of lost AUC", "train"),
    "convert": ("write a trained model as .odm, .onnx and .tflite", "train"),
    "export-android": ("write a model and a catalogue as assets of the Android demo app", "train"),
}

MAX_FAULT = 4000  # characters of an error that are printed
INTERRUPTED = 128 + signal.SIGINT
# What a shell reports of `cat` in `cat file | head`: signal 13, SIGPIPE, ends it.
READER_GONE = 128 + 13


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return its exit code.

    The code is 0; 1 for an error or a failed check; 2 for usage; 130 after Ctrl-C; 141 where the
    reader of the output has gone (`| head`), which prints nothing.
    """
    with _ended_by_exception():
        return _exit_code(list(sys.argv[1:] if arguments is None else arguments))


def _exit_code(words: Sequence[str]) -> int:
    """Run a command; see `main`."""
    try:
        try:
            code = None
            if needs_child(words[0] if words else "", words):
                code = run_in_child(words, opened_files(words))
            if code is None:
                parser, commands = _parser(words[:1])
                options = parser.parse_command(words)
                with _quiet(options.quiet), text_aside(getattr(options, "json", None)):
                    code = int(commands[options.command].run(options))
        except SystemExit:  # argparse ends --help, which printed something, so
            _flush_output()
            raise
        _flush_output()
        return code
    except OnDeviceError as error:
        _say(error)
        _drop_output()
        return 1
    except MemoryError as error:
        _say(OnDeviceError(f"out of memory: {error}" if str(error) else "out of memory"))
        _drop_output()
        return 1
    except KeyboardInterrupt:
        print("ondevice: interrupted", file=sys.stderr)  # noqa: T201
        return INTERRUPTED
    except BrokenPipeError:
        _drop_output()
        return READER_GONE
    except OSError as error:
        _say(error)
        _drop_output()
        return 1


@contextlib.contextmanager
def _quiet(wanted: bool) -> Iterator[None]:
    """Drop progress, notes and warnings, which go to standard error, inside the block."""
    if not wanted:
        yield
        return
    with (
        Path(os.devnull).open("w", encoding="utf-8") as nothing,
        contextlib.redirect_stderr(nothing),
    ):
        yield


def _say(error: Exception) -> None:
    """Print an error, whose text may quote a whole file, as far as a terminal can be read."""
    text = printable(f"ondevice: {error}")
    more = len(text) - MAX_FAULT
    if more > 0:
        text = f"{text[:MAX_FAULT]} ... and {more:,} characters more"
    print(text, file=sys.stderr)  # noqa: T201


def _flush_output() -> None:
    """Write what standard output still holds. Raises OutputError or BrokenPipeError."""
    if sys.stdout is not None:
        with writing("standard output"):
            sys.stdout.flush()


def _drop_output() -> None:
    """Discard what standard output still holds if it cannot take it: Python flushes at exit."""
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


@contextlib.contextmanager
def _ended_by_exception() -> Iterator[None]:
    """Let SIGTERM raise inside the block, so that temporary files are removed on the way out."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    former = signal.signal(signal.SIGTERM, _terminated)
    try:
        yield
    finally:
        if former is not None:  # None: one that Python did not set, and cannot set again
            signal.signal(signal.SIGTERM, former)


def _terminated(number: int, _: object) -> None:
    raise SystemExit(128 + number)


class _ShowVersion(argparse.Action):
    """Prints the version and whether this installation has the compiled engine."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        """Print and exit."""
        engine = (
            f"native engine: {kernels_available()[0]}"
            if is_compiled()
            else "without the native engine, which was not compiled: numpy runs models, far slower"
        )
        print(f"ondevice {ondevice.__version__} ({engine})")  # noqa: T201
        parser.exit()


def whole_parser() -> Parser:
    """The parser with the options of all commands that this installation has."""
    names = list(BUILT_IN)
    for item in metadata.entry_points(group=GROUP):
        with contextlib.suppress(MissingDependencyError):
            _command(item.name)
            names.append(item.name)
    return _parser(names)[0]


def _parser(wanted: Collection[str]) -> tuple[Parser, dict[str, ModuleType]]:
    """The parser; only the modules of the wanted commands are loaded."""
    parser = Parser(
        prog="ondevice",
        description="Compressed click-through-rate models on phones and small boards.",
        epilog="example: ondevice demo",
    )
    parser.add_argument(
        "--version", action=_ShowVersion, nargs=0, help="show version and engine, and exit"
    )
    subparsers = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    helps = {name: text for name, (text, _) in EXTRA.items()} | BUILT_IN
    commands = {}
    for name, text in helps.items():
        if name not in wanted:
            subparsers.add_parser(name, help=text)
            continue
        module = _command(name)
        subparser = subparsers.add_parser(
            name,
            help=text,
            description=text[0].upper() + text[1:] + ".",
            epilog=module.EPILOG,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        module.configure(subparser)
        subparser.add_argument(
            *("-q", "--quiet"), action="store_true", help="print results and errors only"
        )
        commands[name] = module
    return parser, commands


def _command(name: str) -> ModuleType:
    if name in BUILT_IN:
        return importlib.import_module(f"ondevice.commands.{name}")
    entries = metadata.entry_points(group=GROUP, name=name)
    if not entries:
        raise InputError(f"the command {name!r} is not part of this installation")
    with needs_extra(f"ondevice {name}", EXTRA[name][1]):
        module: ModuleType = next(iter(entries)).load()
    return module


if __name__ == "__main__":
    sys.exit(main())
