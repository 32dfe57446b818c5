"""Raw values in the line protocol of tests/native/encode_raw.c, and the programs that read it."""

import math
import struct
import subprocess


def request(name, value):
    """The line that asks for the IDs of a value of the field `name`."""
    if isinstance(value, list):
        return " ".join([name, "list", *map(_word, value)])
    return f"{name} one {_word(value)}"


def answers(command, lines, *, environment=None):
    """What the program says to each line: a list of IDs, or the text of an error.

    Args:
        command: the program and the model or description it opens.
        lines: what `request` wrote.
        environment: of the process; None: this one's.
    """
    done = subprocess.run(
        list(map(str, command)), input="\n".join(lines) + "\n", capture_output=True, text=True,
        env=environment,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    replies = done.stdout.splitlines()
    assert len(replies) == len(lines)
    return [r[2:] if r.startswith("! ") else [int(n) for n in r.split()] for r in replies]


def golden_value(kind, value):
    """A value of tests/golden/cells.json."""
    if kind == "list":
        return [golden_value(*item) for item in value]
    return {"nan": math.nan, "infinity": math.inf}.get(kind, value)


def _word(value):
    if value is None:
        return "m"
    if isinstance(value, bool):
        return f"b{int(value)}"
    if isinstance(value, int):
        return f"i{value}"
    if isinstance(value, float):
        return f"d{struct.pack('>d', value).hex()}"
    data = value if isinstance(value, bytes) else value.encode("utf-8")
    return f"t{data.hex()}"
