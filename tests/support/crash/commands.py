"""Runs commands below the working folder, with shim.c preloaded, and marks where each begins.

    commands.py COMMAND...   of COMMANDS, in this process, one after the other

Each writes several times, so that the record has old and new states.
"""

import ctypes
import os
import sys

TINY = ("--max-rows", "500")
TRAIN = ("train", *TINY, "--epochs", "1", "--hidden", "4", "--dim", "2", "--out", "checkpoint")
BENCH = ("bench", "models/model.odm", "--batch", "1", "--seconds", "0.01", "--processes", "1")
UPDATE = ("update", "device/model.odm")
# Arguments of every run, the first before there is anything; "boot" is no command of ondevice.
COMMANDS = {
    "train": [
        [*TRAIN],
        [*TRAIN, "--seed", "1", "--force"],
    ],
    "convert": [
        ["convert", "checkpoint", "--out", "models"],
        ["convert", "checkpoint", "--out", "models", "--tables", "q4", "--force"],
    ],
    "other": [
        ["convert", "checkpoint", "--out", "other", "--targets", "odm"],
        ["convert", "checkpoint", "--out", "other", "--targets", "odm", "--force"],
    ],
    "update": [
        [*UPDATE, "other/model.odm", "--engine", "numpy"],
        ["boot", "device/model.odm"],
        [*UPDATE, "models/model.odm", "--engine", "numpy"],
        ["boot", "device/model.odm"],
        [*UPDATE, "--rollback"],
    ],
    "bench": [
        [*BENCH, "--gap-ms", "0", "--json", "bench.json"],
        [*BENCH, "--gap-ms", "0", "--json", "bench.json"],
    ],
    "compress": [
        ["compress", "--ratio", "1", "--trials", "1", *TINY, "--out", "small"],
        ["compress", "--ratio", "1", "--trials", "2", *TINY, "--out", "small"],
        ["compress", "--ratio", "1", "--trials", "1", *TINY, "--out", "small", "--force"],
    ],
}


def main(names: list[str]) -> int:
    """Run the commands; the exit status is that of the first that fails."""
    from ondevice.cli import main as command_line
    from ondevice.update import boot

    shim = ctypes.CDLL(None)
    for name in names:
        for number, arguments in enumerate(COMMANDS[name]):
            shim.crash_mark(f"{name} {number}".encode())
            if arguments[0] == "boot":
                boot(arguments[1], engine="numpy")
                continue
            status = command_line(arguments)
            if status:
                return status
    shim.crash_mark(b"end")
    sys.stdout.flush()
    os._exit(0)  # what libraries do at the end is not recorded


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
