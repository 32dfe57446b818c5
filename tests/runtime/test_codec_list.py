"""One list of codecs; what is derived from it agrees with the types (C: test_limits.py)."""

from typing import get_args

from ondevice import codecs


def test_lists_are_the_types():
    assert codecs.CODECS == get_args(codecs.Codec) == ("f32", "f16", "q8", "q4", "q3", "q2", "q1")
    assert codecs.DENSE_CODECS == get_args(codecs.DenseCodec) == ("f32", "f16", "q8")
    assert set(codecs.FLOAT_CODECS) | set(codecs.INTEGER_CODECS) == set(codecs.CODECS)
    assert set(codecs.NARROW_CODECS) == {c for c, bits in codecs.BITS.items() if bits < 8}


def test_every_codec_has_its_bits_and_range():
    assert set(codecs.BITS) == set(codecs.CODECS)
    for codec in codecs.INTEGER_CODECS:
        low, high = codecs.CODE_RANGE[codec]
        bits = codecs.BITS[codec]
        assert -(2 ** (bits - 1)) <= low < 0 <= high <= 2 ** (bits - 1) - 1
