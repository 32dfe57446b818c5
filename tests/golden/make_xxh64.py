"""Writes xxh64.json: hashes by the reference implementation (package xxhash).

Shared by the Python, C and Java tests. Run: python tests/golden/make_xxh64.py
"""

import json
from pathlib import Path

import xxhash

TEXTS = [
    "",
    "a",
    "user_42",
    "1234567",
    "12345678",
    "Crime|Drama|Horror",
    "Grüße, 世界 🎬",
    "x" * 31,
    "y" * 32,
    "z" * 33,
    "0123456789" * 11,
]
INTEGERS = [0, 1, 2, -1, 42, 2**31, -(2**31) - 1, 2**63 - 1, -(2**63), 1_000_000_007]
SEEDS = [0, 1, 2**31, 2**63, 2**64 - 1]


def signed(value):
    return value - 2**64 if value >= 2**63 else value


def cases():
    for seed in SEEDS:
        for text in TEXTS:
            digest = xxhash.xxh64_intdigest(text.encode(), seed)
            yield {"kind": "string", "value": text, "seed": str(seed), "id": str(signed(digest))}
        for number in INTEGERS:
            data = number.to_bytes(8, "little", signed=True)
            digest = xxhash.xxh64_intdigest(data, seed)
            case = {"kind": "integer", "value": str(number), "seed": str(seed)}
            yield {**case, "id": str(signed(digest))}


if __name__ == "__main__":
    lines = ",\n".join(json.dumps(case) for case in cases())
    Path(__file__).with_name("xxh64.json").write_text(f"[\n{lines}\n]\n", encoding="utf-8")
