"""Arrays behind a description: exact, narrow, in Elias-Fano code; and faults of references."""

import json
from dataclasses import replace

import numpy as np
import pytest

from ondevice import elias_fano
from ondevice.attached_arrays import Attached, AttachedPacker, attached_hashes, attached_numbers
from ondevice.deflated import deflate, inflate
from ondevice.errors import FileFormatError, SpecError
from ondevice.features import FeatureSpec, Field, vocabulary_ids


@pytest.mark.parametrize(
    ("numbers", "stored"),
    [
        (np.array([[0, 255]], np.int64), "U8"),
        (np.array([0, 256], np.int64), "U16"),
        (np.array([2**32 - 1], np.int64), "U32"),
        (np.array([2**32, -1, -(2**63), 2**63 - 1], np.int64), "I64"),
        (np.zeros((2, 0, 3), np.int64), "U8"),
        (np.array([1.5, np.nan, -0.0, np.inf], np.float32), "F32"),
        (np.array([1.0, 2.0], np.float32), "F32"),
        (np.array([1.0, 65535.0]), "U16"),
        (np.array([-1.0, 0.5]), "F32"),
        (np.array([0.1, 3.0]), "F64"),
        (np.array([-0.0]), "F32"),
        (np.array([1e300]), "F64"),
    ],
)
def test_numbers_come_back_from_the_narrowest_dtype(numbers, stored):
    packer = AttachedPacker()
    packer.numbers(np.array([7], np.int64))  # so that places are not 0
    item = packer.numbers(numbers)
    assert item == {"dtype": stored, "shape": list(numbers.shape), "at": 1}
    back = attached_numbers(item, Attached(bytes(packer.data)), numbers.dtype.name)
    assert back.dtype == numbers.dtype
    assert back.tobytes() == numbers.tobytes()
    assert back.shape == numbers.shape


def plain_code(numbers, bits):
    """Elias-Fano by its definition, on a string of bits."""
    high_bits = min(len(numbers).bit_length() - 1, bits)
    low = bits - high_bits
    lows = "".join(f"{number:064b}"[64 - low :][::-1] if low else "" for number in numbers)
    places = ["0"] * (len(numbers) + 2**high_bits - 1)
    for index, number in enumerate(numbers):
        places[(number >> low) + index] = "1"
    parts = [text + "0" * (-len(text) % 8) for text in (lows, "".join(places))]
    text = "".join(parts)
    return bytes(int(text[at : at + 8][::-1], 2) for at in range(0, len(text), 8))


@pytest.mark.parametrize("bits", [1, 2, 7, 8, 31, 63, 64])
@pytest.mark.parametrize("count", [0, 1, 2, 3, 16, 1000])
def test_code_is_that_of_elias_and_fano(count, bits):
    rng = np.random.default_rng(count + bits)
    drawn = rng.integers(0, 2**bits - 1, 3 * count, dtype=np.uint64, endpoint=True)
    numbers = sorted({*drawn.tolist(), 2**bits - 1})[-count:] if count else []
    code = elias_fano.encode(np.array(numbers, np.uint64), bits)
    assert code == (plain_code(numbers, bits) if numbers else b"")
    assert len(code) == elias_fano.code_bytes(len(numbers), bits)
    assert elias_fano.decode(code, len(numbers), bits).tolist() == numbers


def test_long_codes_are_read_in_pieces():
    rng = np.random.default_rng(3)
    numbers = np.unique(rng.integers(0, 2**37, 3 * elias_fano.CHUNK + 5, dtype=np.uint64))
    code = elias_fano.encode(numbers, 37)
    np.testing.assert_array_equal(elias_fano.decode(code, len(numbers), 37), numbers)


@pytest.mark.parametrize(
    "change",
    [
        lambda code: code[:-1],
        lambda code: code + b"\0",
        lambda code: code[:-1] + b"\xff",
        lambda code: code[:-1] + b"\0",
    ],
)
def test_damaged_codes_are_refused(change):
    code = elias_fano.encode(np.array([1, 2, 3, 1000], np.uint64), 10)
    with pytest.raises(FileFormatError):
        elias_fano.decode(change(code), 4, 10)


RIGHT = {"dtype": "U8", "shape": [2], "at": 0}
WRONG = [
    {**RIGHT, "at": 3}, {**RIGHT, "at": -1}, {**RIGHT, "at": True}, {**RIGHT, "at": 0.0},
    {**RIGHT, "at": 2**70}, {**RIGHT, "shape": [2**62, 2**62]}, {**RIGHT, "shape": [-2]},
    {**RIGHT, "shape": 2}, {**RIGHT, "shape": [1] * 9}, {**RIGHT, "shape": [True]},
    {**RIGHT, "dtype": "F16"}, {**RIGHT, "dtype": None}, {**RIGHT, "dtype": []},
    {"dtype": "U8", "shape": [2]}, {"shape": [2], "at": 0}, [], None, 3,
]  # fmt: skip


@pytest.mark.parametrize("item", WRONG)
def test_references_that_lead_outside_are_refused(item):
    with pytest.raises((FileFormatError, KeyError, TypeError, ValueError)):
        attached_numbers(item, Attached(bytes(4)), "int64")
    field = {"name": "n", "kind": "number", "encoding": "bucket", "boundaries": item}
    if item is not None:
        with pytest.raises(SpecError):
            FeatureSpec.from_json([field], Attached(bytes(4)))


@pytest.mark.parametrize(
    "changes",
    [{"hash_bits": 65}, {"hash_bits": 0}, {"hash_bits": "8"}, {"hash_bits": True},
     {"vocabulary": {"count": 2**62, "at": 0}}, {"vocabulary": {"count": 1, "at": 9}},
     {"vocabulary": {"count": True, "at": 0}}, {"vocabulary": {"at": 0}},
     {"vocabulary": {"count": 4, "at": 0}}],
)  # fmt: skip
def test_vocabularies_that_are_none_are_refused(changes):
    field = {"name": "n", "kind": "string", "encoding": "vocabulary", "hash_bits": 8,
             "vocabulary": {"count": 1, "at": 0}, **changes}  # fmt: skip
    with pytest.raises(SpecError):
        FeatureSpec.from_json([field], Attached(bytes(8)))


def test_a_vocabulary_in_groups_keeps_ids_with_short_hashes_and_is_read_back():
    rng = np.random.default_rng(5)
    values = rng.integers(-(2**63), 2**63 - 1, 700)
    values[1] = values[650] + 1  # of two groups, told apart by the last bits only
    parts = np.split(values, [3, 100])
    known = np.concatenate([np.sort(part) for part in parts])
    first = Field("a", "string", "vocabulary", 1, known, vocabulary_groups=(3, 97, 600))
    whole = Field("c", "string", "vocabulary", 1, np.sort(known))
    packer = AttachedPacker()
    spec = FeatureSpec((first, replace(first, name="b", unknown="hash"), whole))
    short = spec.with_short_hashes()
    items = short.to_json(packer)
    assert [len(items[0]["vocabulary"]), items[1].get("vocabulary_of")] == [3, "a"]
    assert "vocabulary_of" not in items[2]  # the same hashes, but in other places
    back = FeatureSpec.from_json(json.loads(json.dumps(items)), Attached(bytes(packer.data)))
    plain = FeatureSpec.from_json(spec.to_json())  # base64, whole hashes
    hashes = np.concatenate([known, rng.integers(-(2**63), 2**63 - 1, 50)])
    for read in (short, back, plain):
        field = read["a"]
        assert field.vocabulary_groups == read["b"].vocabulary_groups == (3, 97, 600)
        settings = field.hash_bits, field.vocabulary_groups
        ids = vocabulary_ids(field.vocabulary, hashes, "oov", *settings)
        assert ids.tolist() == [*range(2, 702), *[1] * 50]
        ids = vocabulary_ids(field.vocabulary, hashes, "hash", *settings)
        assert ids[700:].tolist() == hashes[700:].tolist()


@pytest.mark.parametrize(
    ("groups", "message"),
    [((2, 1), "3 values in all, of 4"), ((0, 4), "sizes of 1 or more"), ([2, 2], "sizes of 1"),
     ((2, True, 1), "sizes of 1"), ((1,) * 17, "up to 16"), ((1, 3), "ascending in each group"),
     ((3, 1), "a hash is in two groups"), ((), "strictly ascending")],
)  # fmt: skip
def test_groups_that_are_none_are_refused(groups, message):
    known = np.array([4, 8, 9, 8] if groups == (3, 1) else [4, 8, 1, 3], np.int64)
    with pytest.raises(SpecError, match=message):
        Field("a", "string", "vocabulary", 1, known, vocabulary_groups=groups)
    with pytest.raises(SpecError, match="without a vocabulary"):
        Field("a", "string", "vocabulary", vocabulary_groups=(1,))


@pytest.mark.parametrize("count", [1, 2, 500, 70_000])
def test_short_hashes_keep_ids_and_mistake_few_others(count):
    rng = np.random.default_rng(count)
    known = np.unique(rng.integers(-(2**63), 2**63 - 1, count, np.int64))
    spec = FeatureSpec((Field("a", "string", "vocabulary", 1, known),
                        Field("b", "string", "vocabulary", 1, known, length=2)))  # fmt: skip
    short = spec.with_short_hashes()
    field = short["a"]
    assert field.vocabulary is short["b"].vocabulary
    assert field.hash_bits < 64
    ids = vocabulary_ids(field.vocabulary, known, hash_bits=field.hash_bits)
    assert ids.tolist() == list(range(2, 2 + len(known)))
    others = rng.integers(-(2**63), 2**63 - 1, 2**20)
    mistaken = (vocabulary_ids(field.vocabulary, others, hash_bits=field.hash_bits) != 1).sum()
    assert mistaken <= 2 * 2**20 / 2**16 + 8  # 16 expected at most, of which 40 are six deviations
    packer = AttachedPacker()
    back = FeatureSpec.from_json(short.to_json(packer), Attached(bytes(packer.data)))
    np.testing.assert_array_equal(back["a"].vocabulary, field.vocabulary)
    assert back["b"].vocabulary is back["a"].vocabulary
    bits = 8 * len(packer.data) / len(known)
    assert bits < 19 if 2 < count <= 500 else bits < 64
    assert attached_hashes(packer.hashes(known, 64), Attached(bytes(packer.data)), 64).tolist() == (
        known.tolist()
    )


def test_deflated_texts():
    data = b"some text, some text" * 1000
    packed = deflate(data)
    assert len(packed) < 150
    assert inflate(packed, "x") == data
    sizes = [(len(data) + change).to_bytes(4, "little") for change in (-1, 0, 1)]
    stream = packed[4:]
    for wrong in (
        b"", packed[:3], packed[:-1], packed + b"\0", sizes[0] + stream, sizes[2] + stream,
        b"\xff\xff\xff\xff" + stream, sizes[1] + b"\xff" * 50,
    ):  # fmt: skip
        with pytest.raises(FileFormatError):
            inflate(wrong, "x")
