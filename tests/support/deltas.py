"""Pairs of model files that deltas are tested on, and deltas written without the package."""

import dataclasses
import hashlib
import struct
import zlib

import numpy as np
from support.runtime import small_ids, write_small_model

import ondevice
from ondevice.container import ContainerWriter
from ondevice.info import TestVectors
from ondevice.odm import open_odm, write_odm


def write_pair(folder):
    """Two small models, old.odm and new.odm, of which the second has other weights and rows."""
    folder.mkdir(exist_ok=True)
    old, new = folder / "old.odm", folder / "new.odm"
    write_small_model(old)
    opened = open_odm(old)
    weights = {name: array.copy() for name, array in opened.weights.items()}
    weights["w1"][0, 0] += 0.25
    ids = small_ids(32)
    write_odm(new, opened.plan, opened.info, weights, opened.tables)
    vectors = TestVectors(ids, {"probability": _answers(new, ids)}, 1e-5)
    info = dataclasses.replace(opened.info, vectors=vectors)
    write_odm(new, opened.plan, info, weights, opened.tables)
    return old, new


def _answers(path, ids):
    return ondevice.load(path, engine="numpy").predict(ids)


def write_bad(folder):
    """A model that opens, but does not answer its test vectors."""
    old, _ = write_pair(folder)
    bad = folder / "bad.odm"
    opened = open_odm(old)
    weights = {name: array.copy() for name, array in opened.weights.items()}
    weights["w2"] += 1
    write_odm(bad, opened.plan, opened.info, weights, opened.tables)
    return bad


def write_arrays(path, arrays):
    """A container of arrays by name, which is no model."""
    writer = ContainerWriter(path, arrays, {})
    with path.open("r+b") as file:
        writer.finish(file)


def header(old, new, manifest=b""):
    """The header of a delta, as docs/format.md describes it."""
    sizes = struct.pack("<QQ", len(old), len(new))
    hashes = hashlib.sha256(old).digest() + hashlib.sha256(new).digest()
    return b"ondelta1" + sizes + hashes + struct.pack("<I", len(manifest)) + manifest


def block(codes, data=b"", *, packed=None, sizes=None):
    """A block of a delta."""
    if packed is None:
        packer = zlib.compressobj(9, zlib.DEFLATED, -15)
        packed = packer.compress(codes + data) + packer.flush()
    return struct.pack("<III", *(sizes or (len(codes), len(data), len(packed)))) + packed


def number(value):
    """LEB128."""
    out = b""
    while value >= 128:
        out += bytes([value % 128 + 128])
        value //= 128
    return out + bytes([value])


def operation(kind, size, moved=None):
    """An operation; `moved`: how many bits on, None for an operation that goes on."""
    first = number(size * 16 + (moved is not None) * 8 + kind)
    if moved is None:
        return first
    return first + number(2 * moved if moved >= 0 else -2 * moved - 1)


def retrained(rng, rows, changed):
    """Rows of narrow codes, bit by bit, before and after a few of them changed."""
    before = rng.integers(0, 256, rows * 8, dtype=np.uint8)
    after = before.copy()
    where = rng.choice(before.size, changed, replace=False)
    after[where] ^= rng.integers(1, 256, changed, dtype=np.uint8)
    return before, after


def mutants(delta, rng, count):
    """Changed deltas: bytes changed, cut out, repeated, and operations under a valid stream."""
    for number in range(count):
        mutant = bytearray(delta)
        if number % 3 == 0:
            mutant = bytearray(delta[:92]) + mutated_block(delta[92:], rng)
        elif number % 3 == 1:
            for _ in range(rng.randrange(1, 4)):
                mutant[rng.randrange(len(mutant))] = rng.randrange(256)
        else:
            at, size = rng.randrange(len(mutant)), rng.randrange(1, 40)
            mutant[at : at + size] = rng.choice([b"", mutant[at : at + size] * 2])
        yield bytes(mutant)


def mutated_block(blocks, rng):
    """The first block with other operations, in a valid stream; the other blocks as they are."""
    codes, _, packed = struct.unpack("<III", blocks[:12])
    raw = bytearray(zlib.decompress(blocks[12 : 12 + packed], -15))
    for _ in range(rng.randrange(1, 4)):
        raw[rng.randrange(codes)] = rng.choice([0, 0x7F, 0x80, 0xFF, rng.randrange(256)])
    return block(bytes(raw[:codes]), bytes(raw[codes:])) + blocks[12 + packed :]
