"""`ondevice score`: score Parquet files with a converted model, by one process or by workers."""

from __future__ import annotations

import argparse
from pathlib import Path

from ondevice.atomic import sync
from ondevice.errors import InputError, writing
from ondevice.models.commands.engine_options import (
    add_engine_options,
    add_file_options,
    engine_of,
)
from ondevice.models.commands.outputs import add_output_options, check_writable
from ondevice.models.data.log_source import log_files
from ondevice.models.scale.jobs import write_scores
from ondevice.models.scale.tasks import ScoreTask
from ondevice.publish import HIDDEN, finish, publishing
from ondevice.temporary import temporary_folder

EPILOG = """examples:
  ondevice score model.odm logs/ --keep user,item --out scores
  ondevice score model.odm 'logs/dt=*' --keep request --out scores --engine ray --workers 8

Writes part-00000.parquet and so on, one for each file (of a large one, for some row groups), whose
rows are in the input's order: the kept columns, then the scores, as `ondevice run` names them.
Scores are the same whatever the engine, bit by bit. The folder appears when all are written."""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("model", type=Path, help=".odm, .onnx or .tflite file")
    add_file_options(parser)
    parser.add_argument("--keep", help="columns to put before the scores: names with commas")
    add_output_options(parser, "folder for the scores", required=True)
    add_engine_options(parser)


def run(args: argparse.Namespace) -> int:
    """Score all files."""
    engine, out = engine_of(args), args.out
    check_writable("--out", out.absolute().parent)
    _check_replaceable(out, args.force)
    task = ScoreTask.of(args.model, list(filter(None, (args.keep or "").split(","))))
    files = log_files(args.log, args.where)
    parent = out.absolute().parent
    with writing(out):
        parent.mkdir(parents=True, exist_ok=True)
        with temporary_folder(parent) as temporary:
            folder = temporary / "scores"
            folder.mkdir()
            rows = write_scores(files, task, folder, engine)
            _publish(folder, out)
    print(f"{rows:,} rows scored, in {out}")  # noqa: T201
    return 0


def _publish(folder: Path, out: Path) -> None:
    """Make the files of a folder those of `out`, all or none. Raises OutputError, OSError."""
    if out.exists():
        names = {path.name for path in folder.iterdir()}
        old = {path.name for path in _held(out)}
        with publishing(out, removed=old - names) as fresh:
            for name in names:
                (folder / name).rename(fresh / name)
        return
    for path in (*folder.iterdir(), folder):
        sync(path)
    folder.rename(out)
    sync(out.parent)


def _held(out: Path) -> list[Path]:
    """What is in a folder, without what killed processes left."""
    return [path for path in out.iterdir() if not HIDDEN.fullmatch(path.name)]


def _check_replaceable(out: Path, force: bool) -> None:
    """Refuse what is not empty, and with `force` what is not scores. Raises InputError."""
    if not out.exists():
        return
    if not out.is_dir():
        raise InputError(f"--out {out}: expected a folder, but it is a file")
    finish(out)
    held = _held(out)
    if others := [path for path in held if not path.match("part-*.parquet")]:
        raise InputError(f"--out {out}: expected scores or nothing, but it holds {others[0].name}")
    if held and not force:
        raise InputError(
            f"--out {out}: nothing is replaced unasked, and an earlier run left scores; choose "
            "another folder, or add --force"
        )
