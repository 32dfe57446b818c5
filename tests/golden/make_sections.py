"""Writes sections.json: a table in sections, bit by bit, and the values that its rows give.

Bytes and values come from plain Python integers and struct, by what docs/format.md says; nothing
of the package is used. Scales and levels are multiples of 1/8, so every product is exact.

Run: python tests/golden/make_sections.py
"""

import json
import random
import struct
from pathlib import Path

DIM = 5
BITS = {"q8": 8, "q4": 4, "q3": 3, "q2": 2, "q1": 1}
# codec, what its scales belong to, rows, values of a row
SECTIONS = [
    ("f32", None, 2, 5),
    ("q8", "column", 3, 5),
    ("q4", "levels", 4, 3),
    ("q3", "levels", 5, 3),
    ("f16", None, 3, 4),
    ("q3", "column", 3, 2),
    ("q2", "levels", 7, 5),
    ("q2", "row", 3, 3),
    ("q1", "levels", 19, 1),
    ("q1", "row", 5, 3),
]


DRAWS = random.Random(20261129)  # noqa: S311


def eighths(count):
    return [DRAWS.randrange(-80, 81) / 8 for _ in range(count)]


def floats(codec, rows, dim):
    """Values of a float section and their bytes."""
    values = [eighths(dim) for _ in range(rows)]
    form = "<e" if codec == "f16" else "<f"
    return values, b"".join(struct.pack(form, value) for row in values for value in row), []


def codes(codec, axis, rows, dim):
    """Values of a section of codes, its bytes, and its scales or levels, column after column."""
    bits, stream, length = BITS[codec], 0, 0
    scales = {
        "row": lambda: eighths(rows),
        "column": lambda: eighths(dim),
        "levels": lambda: [level for _ in range(dim) for level in sorted(eighths(2**bits))],
    }[axis]()
    values = []
    for row in range(rows):
        if axis == "row":
            (half,) = struct.unpack("<H", struct.pack("<e", scales[row]))
            stream |= half << length
            length += 16
        values.append([])
        for column in range(dim):
            code = DRAWS.randrange(1, 2**bits) if bits == 8 else DRAWS.randrange(2**bits)
            stream |= code << length
            length += bits
            signed = code - 2**bits if code >= 2 ** (bits - 1) else code
            if axis == "levels":
                values[-1].append(scales[column * 2**bits + code])
            else:
                values[-1].append(signed * scales[row if axis == "row" else column])
    data = stream.to_bytes(-(-length // 8), "little")
    return values, data, [] if axis == "row" else scales


def main():
    sections, whole, records, numbers = [], [], b"", []
    for codec, axis, rows, dim in SECTIONS:
        if axis is None:
            values, data, scales = floats(codec, rows, dim)
        else:
            values, data, scales = codes(codec, axis, rows, dim)
        sections.append(
            {"codec": codec, "scale_axis": axis, "rows": rows, "dim": dim, "width_base": dim,
             "width_step": 0, "width_bits": 0, "bytes": len(data)}
        )  # fmt: skip
        records += data + bytes(-len(data) % 4)
        numbers += scales
        whole += [[*row, *[0] * (DIM - dim)] for row in values]
    item = {
        "layout": {"dim": DIM, "sections": sections},
        "records": records.hex(),
        "scales": numbers,
        "values": whole,
    }
    path = Path(__file__).with_name("sections.json")
    path.write_text(json.dumps(item, separators=(",", ":")) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
