"""The library beside the engine: Ed25519 and SHA-2 against vectors and other libraries."""

import ctypes
import hashlib
import json
import random
import re
import subprocess
from pathlib import Path

import pytest
from support.arm import COMPILERS, cannot_build
from support.engine import (
    COMPILER,
    SANITIZERS,
    WARNED,
    listed,
    loaded_bytes,
    needs_compiler,
    needs_sanitizers,
)
from support.tools import require
from support.update import compiled_update

from ondevice.errors import FileFormatError
from ondevice.signatures import _SMALL_ORDER, PublicKey

GOLDEN = Path(__file__).parents[1] / "golden"
P = 2**255 - 19
ORDER = 2**252 + 27742317777372353535851937790883648493
MOST_BYTES = 60_000
pytestmark = needs_compiler


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    return ctypes.CDLL(compiled_update(tmp_path_factory.mktemp("update")))


@pytest.fixture(scope="module")
def valid(library):
    def verify(key, signature, message):
        if len(key) != 32 or len(signature) != 64:
            return False
        return bool(library.od_ed25519_verify(signature, message, len(message), key))

    return verify


@pytest.fixture(scope="module")
def cryptography_says():
    ed25519 = pytest.importorskip("cryptography.hazmat.primitives.asymmetric.ed25519")
    from cryptography.exceptions import InvalidSignature

    def verify(key, signature, message):
        try:
            ed25519.Ed25519PublicKey.from_public_bytes(key).verify(signature, message)
        except (InvalidSignature, ValueError):
            return False
        return True

    return verify


def vectors(name):
    for row in json.loads((GOLDEN / name).read_text())["vectors"]:
        yield row[0], *map(bytes.fromhex, row[1:4]), *row[4:]


def test_the_library_is_small(library):
    assert loaded_bytes(library._name) <= MOST_BYTES


def test_the_command_of_the_documentation(tmp_path):
    """Compiles the whole library, without a warning."""
    page = Path(__file__).parents[2] / "docs" / "signing.md"
    command = re.search(r"```sh\n(cc .*?)```", page.read_text(), re.DOTALL)[1]
    built = tmp_path / "libondevice_update.so"
    command = command.replace("cc ", f"{COMPILER} -Wall -Wextra -Werror ", 1)
    subprocess.run(
        ["sh", "-c", command.replace(built.name, str(built))], cwd=page.parents[1], check=True
    )
    assert ctypes.CDLL(built).od_manifest_open
    assert loaded_bytes(built) <= MOST_BYTES


def test_vectors_of_the_rfc(valid):
    names = []
    for name, key, message, signature in vectors("rfc8032_ed25519.json"):
        assert valid(key, signature, message), name
        assert not valid(key, signature, message + b"\0"), name
        names.append(name)
    assert names == ["TEST 1", "TEST 2", "TEST 3", "TEST 1024", "TEST SHA(abc)"]


def test_vectors_of_wycheproof(valid, cryptography_says):
    """Keys of small order are refused, which the vectors allow; else both libraries agree."""
    counts = {}
    for case, key, message, signature, result, flags in vectors("wycheproof_ed25519.json"):
        answer = valid(key, signature, message)
        if flags == "SmallOrderPublicKey":
            assert (result, answer) == ("acceptable", False), case
        else:
            assert answer == cryptography_says(key, signature, message), case
            assert result == "acceptable" or answer == (result == "valid"), case
        counts[result] = counts.get(result, 0) + 1
    assert counts == {"valid": 117, "invalid": 64, "acceptable": 29}


def mutants(rng, key, signature, message, bits):
    """The signature under every kind of change."""
    for _ in range(bits):
        bit = rng.randrange(512)
        changed = bytearray(signature)
        changed[bit // 8] ^= 1 << bit % 8
        yield key, bytes(changed), message
    bit = rng.randrange(256)
    flipped = int.from_bytes(key, "little") ^ 1 << bit
    yield flipped.to_bytes(32, "little"), signature, message
    r, s = signature[:32], int.from_bytes(signature[32:], "little")
    for more in (ORDER, 2 * ORDER, 2**255, -ORDER):
        if 0 <= s + more < 2**256:
            yield key, r + (s + more).to_bytes(32, "little"), message
    s = rng.choice([0, 1, ORDER - 1, ORDER, ORDER + 1, 2**256 - 1])
    yield key, r + s.to_bytes(32, "little"), message
    y = rng.choice([0, 1, P - 1, P, P + 1, 2**255 - 1, 2, P + 2]) | rng.getrandbits(1) << 255
    yield key, y.to_bytes(32, "little") + signature[32:], message
    yield key, signature[32:] + r, message
    yield key, signature, message[1:] + b"x"


def test_mutated_signatures_are_judged_as_another_library_does(valid, cryptography_says):
    ed25519 = pytest.importorskip("cryptography.hazmat.primitives.asymmetric.ed25519")
    rng = random.Random(8032)  # noqa: S311
    accepted = tried = 0
    for size in [*range(64), *(rng.randrange(400) for _ in range(36))]:
        private = ed25519.Ed25519PrivateKey.from_private_bytes(rng.randbytes(32))
        key, message = private.public_key().public_bytes_raw(), rng.randbytes(size)
        cases = [(key, private.sign(message), message)]
        cases += mutants(rng, *cases[0], 12)
        for case in cases:
            answer = valid(*case)
            assert answer == cryptography_says(*case), case
            accepted += answer
            tried += 1
    assert accepted == 100 and tried > 1800


def test_keys_that_are_points_of_large_order(library):
    """C and Python refuse the same 32 bytes."""
    rng = random.Random(1)  # noqa: S311
    special = [*_SMALL_ORDER, P, P + 1, P + 18, 2, 3, 5, 2**255 - 20, *range(4, 30)]
    numbers = [y | sign << 255 for y in special for sign in (0, 1)]
    numbers += [rng.getrandbits(256) for _ in range(100)]
    counts = [0, 0]
    for number in numbers:
        raw = number.to_bytes(32, "little")
        answer = bool(library.od_ed25519_key_valid(raw))
        counts[answer] += 1
        try:
            PublicKey(raw)
        except FileFormatError:
            assert not answer, raw.hex()
        else:
            assert answer, raw.hex()
    assert min(counts) > 40


def test_sha256_in_pieces(library):
    rng = random.Random(180)  # noqa: S311
    for size in (*range(200), 1000, 100_000):
        data = rng.randbytes(size)
        state, digest = ctypes.create_string_buffer(256), ctypes.create_string_buffer(32)
        library.od_sha256_start(state)
        start = 0
        while start < size:
            piece = data[start : start + rng.choice([0, 1, 7, 63, 64, 65, 500])]
            library.od_sha256_add(state, piece, ctypes.c_size_t(len(piece)))
            start += len(piece)
        library.od_sha256_end(state, digest)
        assert digest.raw == hashlib.sha256(data).digest(), size


PROGRAM = """
#include "ondevice_update.h"
#include <stdio.h>
#include <stdlib.h>
int main(int argc, char **argv) {
  (void)argc;
  size_t size = (size_t)atol(argv[1]);
  uint8_t key[32], signature[64], *message = malloc(size + 1);
  while (fread(key, 1, 32, stdin) == 32 && fread(signature, 1, 64, stdin) == 64 &&
         fread(message, 1, size, stdin) == size)
    putchar(od_ed25519_verify(signature, message, size, key) ? '1' : '0');
  free(message);
  return 0;
}
"""


def judged(cases, *command):
    """What the program says of keys, signatures and messages, which it gets in one go a size."""
    by_size = {}
    for place, (key, signature, message) in enumerate(cases):
        by_size.setdefault(len(message), []).append((place, key + signature + message))
    answers = {}
    for size, placed in by_size.items():
        data = b"".join(item for _, item in placed)
        done = subprocess.run([*command, str(size)], input=data, capture_output=True, check=True)
        assert done.stderr == b"" and len(done.stdout) == len(placed)
        answers |= {
            place: said == ord("1") for (place, _), said in zip(placed, done.stdout, strict=True)
        }
    return [answers[place] for place in range(len(cases))]


def whole_vectors():
    """Wycheproof's of 64 bytes, and what must be said of each."""
    cases, expected = [], []
    for _, key, message, signature, result, flags in vectors("wycheproof_ed25519.json"):
        if len(signature) == 64:
            cases.append((key, signature, message))
            accepted = result == "acceptable" and flags == "MixedOrderPublicKey"
            expected.append(result == "valid" or accepted)
    return cases, expected


@needs_sanitizers
def test_under_the_sanitizers(tmp_path):
    """No overflow, shift or access that C leaves undefined, on any vector or on random bytes."""
    source, program = tmp_path / "verify.c", tmp_path / "verify"
    source.write_text(PROGRAM)
    command = [COMPILER, *WARNED, *SANITIZERS, str(source), *listed("update/sources.txt")]
    subprocess.run([*command, "-o", program], check=True)
    rng = random.Random(3)  # noqa: S311
    cases, expected = whole_vectors()
    cases += [(rng.randbytes(32), rng.randbytes(64), rng.randbytes(999)) for _ in range(200)]
    assert judged(cases, program) == [*expected, *[False] * 200]


@pytest.mark.parametrize("architecture", sorted(COMPILERS))
def test_on_arm_processors(architecture, tmp_path):
    """The same judgement by other compilers, in words of 32 and of 64 bits."""
    require(cannot_build(architecture))
    source, program = tmp_path / "verify.c", tmp_path / "verify"
    source.write_text(PROGRAM)
    command = [COMPILERS[architecture], *WARNED, "-Werror", "-O2", "-static", str(source)]
    subprocess.run([*command, *listed("update/sources.txt"), "-o", program], check=True)
    cases, expected = whole_vectors()
    assert judged(cases, f"qemu-{architecture}-static", program) == expected
