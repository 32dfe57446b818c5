"""Child of test_crafted_models: opens every crafted file in a process of its own, and says how.

Usage: open_crafted.py ACTION MEMORY FILE...; prints a line of JSON for each file.
"""

import json
import os
import resource
import sys
import traceback
from pathlib import Path

import numpy as np

import ondevice
from ondevice.errors import OnDeviceError
from ondevice.inspection import inspect
from ondevice.memory_limit import limit_memory
from ondevice.verify import verify


def convert(path):
    """Read a file as `ondevice convert` does; returns the names of its inputs."""
    from ondevice.converters.source.onnx_source import OnnxSource

    return OnnxSource(path).names


ACTIONS = {
    "inspect": lambda path: inspect(path).sha256,
    "load": lambda path: ondevice.load(path).predict({"a": np.arange(4)}).tolist(),
    "verify": lambda path: verify(path).passed,
    "convert": convert,
}


def outcome(action, path):
    """What an action ends with: an answer, an error of ondevice, or another one."""
    try:
        return "answer", str(ACTIONS[action](path))
    except OnDeviceError as error:
        return type(error).__name__, str(error)
    except MemoryError as error:  # the command line says so in one line
        return "MemoryError", str(error)
    except BaseException:
        return "fault", traceback.format_exc()


def main(action, memory, paths):
    """Open all files."""
    if action == "convert":
        import ondevice.converters.source.onnx_source  # noqa: F401 - once, not in every process
    for path in paths:
        read, write = os.pipe()
        if (child := os.fork()) == 0:
            limit_memory(int(memory))
            kind, text = outcome(action, Path(path))
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
            os.write(write, json.dumps([kind, text[-1000:], peak]).encode())
            os._exit(0)
        os.close(write)
        with os.fdopen(read, "rb") as pipe:
            answer = pipe.read()
        _, status = os.waitpid(child, 0)
        signal = f"signal {os.waitstatus_to_exitcode(status)}"
        sys.stdout.write(f"{answer.decode() or json.dumps([signal, '', 0])}\n")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3:])
