"""Writes block_rows.json: table rows of IDs under binary-code lookups, by plain Python integers.

Shared by the torch, numpy, C and Java tests. It uses nothing of the package: the bits of a code are
taken one by one as the article describes them, and only the written specification is shared.

Run: python tests/golden/make_block_rows.py
"""

import json
import random
from fractions import Fraction
from pathlib import Path

MASK = 2**64 - 1
GOLDEN_RATIO = 0x9E3779B97F4A7C15


def cut(code_bits, t, strategy):
    """Bit positions of each block, least significant first."""
    bits = list(range(code_bits))
    if isinstance(t, list):
        whole = sum(t)  # more than there are bits: blocks overlap, each as far along as it can be
        starts = [
            int(Fraction(sum(t[:number]), max(1, whole - size)) * (code_bits - size))
            for number, size in enumerate(t)
        ]
        return [bits[start : start + size] for start, size in zip(starts, t, strict=True)]
    if strategy == "succession":
        return [bits[start : start + t] for start in range(0, code_bits, t)]
    return [bits[start :: t + 1] for start in range(t + 1)]


def case(code_bits, t, strategy, shared, multiplier, ids):
    cuts = cut(code_bits, t, strategy)
    offsets, total = [], 0
    for bits in cuts:
        offsets.append(0 if shared else total)
        total += 2 ** len(bits)
    if shared:
        total = max(2 ** len(bits) for bits in cuts)
    rows = []
    for number in ids:
        code = ((number & MASK) * multiplier) & MASK
        digits = [[(code >> bit) & 1 for bit in bits] for bits in cuts]
        values = [sum(digit << place for place, digit in enumerate(block)) for block in digits]
        rows.append([offset + value for offset, value in zip(offsets, values, strict=True)])
    blocks = [
        {
            "start": bits[0],
            "stride": 1 if strategy == "succession" else t + 1,
            "bits": len(bits),
            "offset": offset,
        }
        for bits, offset in zip(cuts, offsets, strict=True)
    ]
    spec = {
        "scheme": "binary_code",
        "rows": total,
        "dim": 4,
        "padding_id": None,
        "oov_row": None,
        "code_bits": code_bits,
        "multiplier": multiplier,
        "blocks": blocks,
        "fuse": "sum",
    }
    settings = {"code_bits": code_bits, "t": t, "strategy": strategy, "shared": shared}
    spec_json = json.dumps(spec, sort_keys=True, separators=(",", ":"))
    return {"settings": settings, "spec": spec_json, "ids": [str(i) for i in ids], "rows": rows}


def main():
    random.seed(20210911)
    ids = [0, 1, 2, 3, -1, -2, 2**62, 2**63 - 1, -(2**63), 2**32 - 1, 2**32, -(2**32), 0x0123456789]
    ids += [random.getrandbits(64) - 2**63 for _ in range(12)]
    shapes = [
        (1, 1, "succession"),
        (1, 0, "skip"),
        (8, 8, "succession"),
        (13, 4, "succession"),
        (13, 3, "skip"),
        (24, 12, "succession"),
        (24, 8, "succession"),
        (24, 2, "skip"),
        (33, 30, "succession"),
        (33, 5, "skip"),
        (64, 16, "succession"),
        (64, 11, "succession"),
        (64, 1, "succession"),
        (64, 3, "skip"),
        (64, 6, "skip"),
        (64, 63, "skip"),
        (17, [9, 5, 3], "succession"),
        (64, [3, 29, 1, 28, 3], "succession"),
        (40, [9, 9, 9, 9, 9, 9], "succession"),
        (20, [3, 11, 10], "succession"),
    ]
    cases = [
        case(code_bits, t, strategy, shared, multiplier, ids)
        for code_bits, t, strategy in shapes
        for shared in (False, True)
        for multiplier in (1, GOLDEN_RATIO)
    ]
    text = ",\n".join(json.dumps(item, separators=(",", ":")) for item in cases)
    path = Path(__file__).with_name("block_rows.json")
    path.write_text("[\n" + text + "\n]\n", encoding="utf-8")


if __name__ == "__main__":
    main()
