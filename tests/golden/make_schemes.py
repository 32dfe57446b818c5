"""Writes schemes.json: rows and (pooled) vectors of hashes and hybrids, by plain Python integers.

Shared by the numpy, torch, C, ONNX and TFLite tests. It uses nothing of the package: every scheme
is computed as its article describes it, from the ID and the settings alone, and only the written
specification is shared. Binary codes without a head are in block_rows.json.

Table values are small whole numbers, so that sums and products are exact.

Run: python tests/golden/make_schemes.py
"""

import json
import random
import struct
from fractions import Fraction
from pathlib import Path

import xxhash

GOLDEN_RATIO = 0x9E3779B97F4A7C15


def table_value(row, column):
    """Entry of the table that every case reads."""
    return (5 * row + 3 * column + row // 7) % 11 - 5


def hashing(rows):
    return [{"modulus": rows, "offset": 0, "divisor": 1, "multiplier": 1, "bits": 64}]


def multi_hash(rows, hashes, shared, seed):
    factors = [xxhash.xxh64_intdigest(struct.pack("<Q", c), seed) | 1 for c in range(hashes)]
    return [
        {
            "modulus": rows,
            "offset": 0 if shared else rows * c,
            "divisor": 1,
            "multiplier": factor,
            "bits": 31,
        }
        for c, factor in enumerate(factors)
    ]


def quotient_remainder(values, remainders):
    whole = remainders * (values // remainders + (values % remainders > 0))
    common = {"multiplier": 1, "bits": 64}
    return [
        {"modulus": remainders, "offset": 0, "divisor": 1, **common},
        {"modulus": whole, "offset": remainders, "divisor": remainders, **common},
    ]


def hashed_row(residue, number):
    """Python's remainder is floored and its integers have no size."""
    if residue["bits"] == 31:
        number = (number * residue["multiplier"] % 2**64) >> 33
    return number % residue["modulus"] // residue["divisor"]


def code_row(bits, number, multiplier):
    code = number * multiplier % 2**64
    return sum((code >> bit & 1) << place for place, bit in enumerate(bits))


def case(method, settings, ids, *, dim, fuse="sum", head=0, padding_id=0):
    spec = {"dim": dim, "fuse": fuse, "padding_id": padding_id, "oov_row": None}
    spec |= {"code_bits": 0, "multiplier": 1, "blocks": []}
    if method == "binary_code":
        bits, t = settings["code_bits"], settings["t"]
        sizes = t if isinstance(t, list) else [t] * (bits // t) + [bits % t] * (bits % t > 0)
        whole = sum(sizes)  # more than there are bits: blocks overlap
        starts = [
            int(Fraction(sum(sizes[:number]), max(1, whole - size)) * (bits - size))
            for number, size in enumerate(sizes)
        ]
        cuts = [list(range(a, a + size)) for a, size in zip(starts, sizes, strict=True)]
        count, factor = len(cuts), settings["multiplier"]
        first = head * (count if fuse == "concat" else 1)
        sizes = [2 ** len(cut) for cut in cuts]
        total = settings.get("rows", sum(sizes))  # fewer: ranges of rows overlap
        shifts = [Fraction(total - size, max(1, sum(sizes) - size)) for size in sizes]
        offsets = [first + int(sum(sizes[:c]) * shift) for c, shift in enumerate(shifts)]
        blocks = [
            {"start": cut[0], "stride": 1, "bits": len(cut), "offset": offset}
            for cut, offset in zip(cuts, offsets, strict=True)
        ]
        spec |= {"scheme": "binary_code", "code_bits": bits, "multiplier": factor, "blocks": blocks}
        total += first

        def tail(number):
            return [
                offset + code_row(cut, number, factor)
                for offset, cut in zip(offsets, cuts, strict=True)
            ]

    else:
        makers = {"hashing": hashing, "multi_hash": multi_hash}
        makers["quotient_remainder"] = quotient_remainder
        residues = makers[method](**settings)
        count = len(residues)
        first = head * (count if fuse == "concat" else 1)
        spec |= {"scheme": "hash", "residues": residues}
        total = first
        for residue in residues:
            residue["offset"] += first
            size = -(-residue["modulus"] // residue["divisor"])
            total = max(total, residue["offset"] + size)

        def tail(number):
            return [residue["offset"] + hashed_row(residue, number) for residue in residues]

    spec |= {"rows": total} | ({"head": head} if head else {})

    def rows_of(number):
        if 0 <= number < head:
            return [number * count + c for c in range(count)] if fuse == "concat" else [number]
        return tail(number)

    def vector(number):
        if number == padding_id:
            return [Fraction(0)] * dim
        width = dim // count if fuse == "concat" else dim
        rows = [[table_value(row, j) for j in range(width)] for row in rows_of(number)]
        if fuse == "concat":
            return [Fraction(value) for row in rows for value in row]
        out = [Fraction(1 if fuse == "mul" else 0)] * dim
        for row in rows:
            out = [a * b if fuse == "mul" else a + b for a, b in zip(out, row, strict=True)]
        return [a / len(rows) for a in out] if fuse == "mean" else out

    sequences = [ids[start : start + 5] for start in range(0, 20, 5)]
    sequences += [[padding_id] * 5, [ids[3]] + [padding_id] * 4]
    pooled = {"sum": [], "mean": []}
    for sequence in sequences:
        total = [sum(column) for column in zip(*map(vector, sequence), strict=True)]
        present = sum(number != padding_id for number in sequence)
        pooled["sum"].append([float(value) for value in total])
        pooled["mean"].append([float(value / max(present, 1)) for value in total])
    return {
        "method": method,
        "settings": settings | {"fuse": fuse, "head": head, "padding_id": padding_id},
        "spec": json.dumps(spec, sort_keys=True, separators=(",", ":")),
        "ids": [str(number) for number in ids],
        "rows": [rows_of(number) for number in ids],
        "vectors": [[float(value) for value in vector(number)] for number in ids],
        "sequences": [[str(number) for number in sequence] for sequence in sequences],
        "pooled": pooled,
    }


def main():
    random.seed(20220911)
    ids = [0, 1, 2, 3, 6, 7, 8, -1, -2, 2**62, 2**63 - 1, -(2**63), 2**31 - 1, 2**31, 2**32]
    ids += [-(2**31), -(2**32), 0x0123456789, 96, 97, 98, 99, 100]
    ids += [random.getrandbits(64) - 2**63 for _ in range(9)]
    code = {"code_bits": 20, "t": 7, "multiplier": GOLDEN_RATIO}
    quotient = {"values": 100, "remainders": 9}
    hashes = {"rows": 101, "hashes": 2, "shared": False, "seed": 0}
    cases = [
        case("hashing", {"rows": 97}, ids, dim=4),
        case("hashing", {"rows": 1}, ids, dim=4),
        case("hashing", {"rows": 64}, ids, dim=4, padding_id=-1),
        case("hashing", {"rows": 97}, ids, dim=4, head=7),
        case("hashing", {"rows": 2**17 + 3}, ids, dim=4, head=99),
        case("multi_hash", hashes, ids, dim=4),
        case("multi_hash", hashes | {"hashes": 3, "shared": True}, ids, dim=4),
        case("multi_hash", hashes | {"hashes": 4, "seed": 2**64 - 1}, ids, dim=4, fuse="mean"),
        case("multi_hash", hashes | {"seed": 7}, ids, dim=4, fuse="concat"),
        case("multi_hash", hashes, ids, dim=4, head=7),
        case("multi_hash", hashes | {"hashes": 3}, ids, dim=4, fuse="mean", head=98),
        case("multi_hash", hashes, ids, dim=4, fuse="concat", head=8),
        case("quotient_remainder", quotient, ids, dim=4),
        case("quotient_remainder", quotient, ids, dim=4, fuse="mul", padding_id=97),
        case("quotient_remainder", quotient, ids, dim=4, fuse="concat"),
        case("quotient_remainder", quotient, ids, dim=4, fuse="mean", head=3),
        case("quotient_remainder", {"values": 46340 * 46341, "remainders": 46341}, ids, dim=4),
        case("binary_code", code, ids, dim=4, head=7),
        case("binary_code", code | {"code_bits": 33, "t": 11}, ids, dim=4, fuse="mean", head=98),
        case("binary_code", code | {"t": 10}, ids, dim=4, fuse="concat", head=8),
        case("binary_code", code | {"code_bits": 64, "t": 16}, ids, dim=4, head=100),
        case("binary_code", code | {"code_bits": 17, "t": [9, 5, 3]}, ids, dim=4),
        case("binary_code", code | {"t": 10, "rows": 1500}, ids, dim=4, fuse="mul"),
        case("binary_code", code | {"t": 7, "rows": 140}, ids, dim=4, head=7),
        case(
            "binary_code", code | {"code_bits": 40, "t": [9, 10, 11, 14]}, ids, dim=4, fuse="mean"
        ),
        case(
            "binary_code",
            code | {"code_bits": 43, "t": [11, 10, 12, 10]},
            ids,
            dim=4,
            fuse="concat",
            head=8,
        ),
    ]
    text = ",\n".join(json.dumps(item, separators=(",", ":")) for item in cases)
    path = Path(__file__).with_name("schemes.json")
    path.write_text("[\n" + text + "\n]\n", encoding="utf-8")


if __name__ == "__main__":
    main()
