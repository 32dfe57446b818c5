"""A native file taken apart and put together with right checksums, as a hostile author can."""

import json
import zlib
from dataclasses import dataclass

import numpy as np

from ondevice.container import open_container, write_container
from ondevice.deflated import deflate
from ondevice.odm import INFO, PLAN


@dataclass
class Parts:
    """Plan and description as decoded JSON, or as a text in place of it; arrays by name."""

    metadata: dict
    plan: object
    info: object
    attached: bytes
    arrays: dict


def take_apart(path):
    """Parts of a file of the present version."""
    container = open_container(path)
    text, _, attached = container.text(INFO).partition(b"\0")
    names = [name for name in container.entries if not name.startswith("ondevice.")]
    return Parts(
        metadata=dict(container.metadata),
        plan=json.loads(container.text(PLAN)),
        info=json.loads(text),
        attached=attached,
        arrays={name: container.array(name) for name in names},
    )


def put_together(path, parts, pack=deflate):
    """Write parts; `pack` deflates plan and description. A part that is None is left out."""
    arrays = dict(parts.arrays)
    for name, data, attached in ((PLAN, parts.plan, b""), (INFO, parts.info, parts.attached)):
        if data is not None:
            text = data if isinstance(data, str) else json.dumps(data, separators=(",", ":"))
            text = text.encode() + (b"\0" + attached if attached else b"")
            arrays[name] = np.frombuffer(pack(text), np.uint8)
    write_container(path, arrays, parts.metadata)
    return path


def stored(data):
    """Like `deflate`, without compression: what a fuzzer changes stays a DEFLATE stream."""
    packer = zlib.compressobj(0, zlib.DEFLATED, -zlib.MAX_WBITS)
    return len(data).to_bytes(4, "little") + packer.compress(data) + packer.flush()
