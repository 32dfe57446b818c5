"""Where a command writes: checked before any work, so that no result is lost and no work wasted."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from ondevice.commands.json_output import PRINT
from ondevice.errors import InputError
from ondevice.models.checkpoint import is_replaceable
from ondevice.publish import finish, is_filled
from ondevice.temporary import temporary_folder


def add_output_options(
    parser: argparse.ArgumentParser,
    help: str,
    *,
    required: bool = False,
    default: Path | None = None,
) -> None:
    """--out, which `help` explains, and --force."""
    parser.add_argument("--out", type=Path, required=required, default=default, help=help)
    parser.add_argument(
        "--force",
        action="store_true",
        help="replace what an earlier run left in --out, once the new results are complete",
    )


def check_output(
    out: Path,
    results: Sequence[Path],
    *,
    force: bool,
    json: Path | None = None,
    checkpoint: Path | None = None,
) -> None:
    """Check that results can be written, and that none is replaced unasked.

    Args:
        out: the folder of --out; it need not exist.
        results: what the command will write there; what exists of it needs --force.
        force: whether results may be replaced.
        json: the file of --json, if any; it is always replaced.
        checkpoint: the folder of the command's checkpoint, if it saves one. A folder that holds
            other files is never replaced, since these would be lost.

    Raises:
        InputError: a folder cannot be written, or a result exists already.
        FileFormatError: an interrupted update there cannot be finished.
    """
    check_writable("--out", out)
    finish(out)
    check_json(json)
    existing = [path for path in results if path.exists()]
    if checkpoint is not None:
        check_writable("--out", checkpoint.absolute().parent)
        if is_filled(checkpoint):
            if not is_replaceable(checkpoint):
                raise InputError(
                    f"--out {out}: expected a checkpoint or nothing in {checkpoint}, but it holds "
                    "other files; choose another folder"
                )
            existing.append(checkpoint)
    if existing and not force:
        names = ", ".join(str(path) for path in existing)
        raise InputError(
            f"--out {out}: nothing is replaced unasked, and an earlier run left {names}; choose "
            "another folder, or add --force"
        )


def check_json(target: Path | None) -> None:
    """Check that the file of --json can be written. Raises InputError."""
    if target is not None and target != PRINT:
        check_writable("--json", target.parent)


def check_writable(option: str, folder: Path) -> None:
    """Check that files can be written into a folder, which need not exist; leaves no trace.

    Raises:
        InputError: something else than a folder is in the way, or the system refuses.
    """
    base = folder
    while not base.exists() and base != base.parent:
        base = base.parent
    if not base.is_dir():
        raise InputError(f"{option} {folder}: expected a folder, but {base} is a file")
    try:
        with temporary_folder(base):  # which is swept if it cannot be removed now
            pass
    except OSError as error:
        raise InputError(
            f"{option} {folder}: cannot write in {base.resolve()}: {error.strerror or error}"
        ) from error
