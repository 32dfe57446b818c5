"""Writes retrieval.json: vectors that IDs read from retrieval structures, by plain Python integers.

Shared by the numpy, torch, C, ONNX and TFLite tests. It uses nothing of the package: cells, hashes
and fingerprints are computed from the ID and the settings alone, as docs/format.md describes them.
Cells hold arbitrary codes, and scales are powers of two, so that every vector is exact.

Run: python tests/golden/make_retrieval.py
"""

import json
import random
import struct
from pathlib import Path

import xxhash

CODECS = {2: "q2", 4: "q4", 8: "q8"}


def signed(code, bits):
    return code - 2**bits if code >= 2 ** (bits - 1) else code


def hashed(number, seed, which):
    factor = xxhash.xxh64_intdigest(struct.pack("<Q", which), seed) | 1
    return (number * factor % 2**64) >> 33


def case(ids, *, bits, dim, cells, hashes, window, starts, seed, fingerprints, padding_id):
    columns = dim + fingerprints
    rows = cells + (fingerprints > 0)
    table = [[random.getrandbits(bits) for _ in range(columns)] for _ in range(rows)]
    scales = [2.0 ** -(column % 5) for column in range(dim)] + [1.0] * fingerprints

    def places(number):
        start = hashed(number, seed, hashes) % starts
        hash_of = [hashed(number, seed, c) % window for c in range(hashes)]
        return [(start + c * window + hash_of[c]) % cells for c in range(hashes)]

    def row(number):
        total = [0] * columns
        for place in places(number):
            total = [(a + b) % 2**bits for a, b in zip(total, table[place], strict=True)]
        for j in range(fingerprints):
            if total[dim + j] != hashed(number, seed, hashes + 1 + j) % 2**bits:
                return table[cells]
        return total

    def vector(number):
        if number == padding_id:
            return [0.0] * dim
        return [signed(code, bits) * scales[j] for j, code in enumerate(row(number)[:dim])]

    spec = {
        "scheme": "retrieval",
        "rows": rows,
        "dim": dim,
        "padding_id": padding_id,
        "oov_row": cells if fingerprints else None,
        "code_bits": 0,
        "multiplier": 1,
        "blocks": [],
        "fuse": "sum",
        "retrieval": {
            "hashes": hashes,
            "window": window,
            "starts": starts,
            "bits": bits,
            "seed": seed,
            "fingerprints": fingerprints,
        },
    }
    return {
        "spec": json.dumps(spec, sort_keys=True, separators=(",", ":")),
        "codec": CODECS[bits],
        "codes": [[signed(code, bits) for code in cell] for cell in table],
        "scales": scales,
        "ids": [str(number) for number in ids],
        "cells": [places(number) for number in ids],
        "vectors": [vector(number) for number in ids],
    }


def main():
    random.seed(20170904)
    ids = [0, 1, 2, -1, -2, 2**63 - 1, -(2**63), 2**31 - 1, 2**31, 2**32, -(2**31), 96]
    ids += [random.getrandbits(64) - 2**63 for _ in range(60)]
    common = {"hashes": 4, "window": 5, "starts": 31, "seed": 0, "padding_id": 0}
    last = {"seed": 2**31 - 1, "starts": 700}
    whole = {"padding_id": -1, "starts": 1}
    other = {"seed": 7, "padding_id": 5}
    cases = [
        case(ids, bits=4, dim=1, cells=50, fingerprints=0, **common),
        case(ids, bits=4, dim=1, cells=50, fingerprints=1, **common),
        case(ids, bits=2, dim=1, cells=50, fingerprints=1, **common),
        case(ids, bits=2, dim=3, cells=51, fingerprints=2, **common | {"starts": 51}),
        case(ids, bits=2, dim=5, cells=700, fingerprints=1, **common | last),
        case(ids, bits=4, dim=17, cells=20, fingerprints=1, **common | whole),
        case(ids, bits=8, dim=3, cells=50, fingerprints=0, **common),
        case(ids, bits=4, dim=2, cells=9, hashes=3, window=3, starts=9, fingerprints=1, **other),
        case(ids, bits=2, dim=4, cells=1, hashes=1, window=1, starts=1, fingerprints=1, **other),
    ]
    text = ",\n".join(json.dumps(item, separators=(",", ":")) for item in cases)
    path = Path(__file__).with_name("retrieval.json")
    path.write_text("[\n" + text + "\n]\n", encoding="utf-8")


if __name__ == "__main__":
    main()
