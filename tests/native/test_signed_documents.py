"""Manifests and roots in C: what Python trusts, C trusts, and neither anything forged."""

import hashlib
import random
import subprocess
from datetime import UTC, datetime

import pytest
from support.engine import COMPILER, SANITIZERS, WARNED, listed, needs_compiler, needs_sanitizers
from support.signing import (
    LATER,
    NOW,
    forgeries,
    good_manifest,
    private_key,
    resigned,
    root,
    signed,
)
from support.update import FORMAT, MEMORY, UNTRUSTED, Refused, Update, compiled_update, signers

from ondevice.errors import OnDeviceError
from ondevice.manifest import FileRecord, parse_manifest
from ondevice.roots import parse_root
from ondevice.signatures import Signers
from ondevice.trust import Trust

pytestmark = needs_compiler
KEY = private_key(1)
TRUSTED = signers(KEY.public.raw)
TIME = int(NOW.timestamp())
ROOTS = [private_key(seed) for seed in (11, 12, 13)]


@pytest.fixture(scope="module")
def update(tmp_path_factory):
    return Update(compiled_update(tmp_path_factory.mktemp("update")))


@pytest.fixture(autouse=True)
def all_memory_is_given_back(update):
    yield
    assert not update.held


def python_accepts(data, folder):
    try:
        manifest = parse_manifest(data, "m")
        Trust(Signers((KEY.public,)), None, NOW).check_manifest(manifest, folder)
        if manifest.model_set.version < 5:
            return False
    except OnDeviceError:
        return False
    return True


def c_accepts(update, data):
    try:
        update.manifest(data, TRUSTED, 0, TIME)
    except Refused:
        return False
    return True


def test_another_set_of_the_version_that_was_used(update):
    data, other = (signed(good_manifest(expires=item), KEY) for item in (None, LATER))
    update.manifest(data, TRUSTED, 5, TIME)
    digest = bytes(update.seen.sha256)
    assert update.seen.version == 5 and update.seen.has_sha256
    assert digest == hashlib.sha256(good_manifest(expires=None).signed_bytes).digest()
    update.manifest(data, TRUSTED, 5, TIME, digest)
    update.manifest(other, TRUSTED, 4, TIME, digest)  # a newer one
    update.manifest(other, TRUSTED, 5, TIME)
    with pytest.raises(Refused, match="another set of version 5") as refused:
        update.manifest(other, TRUSTED, 5, TIME, digest)
    assert refused.value.status == UNTRUSTED


def test_a_good_manifest(update):
    content = b"a model"
    files = {f"m{number}.odm": FileRecord(number, f"{number:064x}") for number in range(40)}
    files["m.odm"] = FileRecord(len(content), hashlib.sha256(content).hexdigest())
    data = signed(good_manifest(files=files), KEY)
    version, read = update.manifest(data, TRUSTED, 5, TIME)
    assert version == 5
    assert read == {name: (item.length, item.sha256) for name, item in files.items()}
    update.check(data, TRUSTED, b"m.odm", content)
    for name, other, status in ((b"m.odm", b"b model", FORMAT), (b"m.odm", b"a model ", FORMAT),
                                (b"m.odm", b"", FORMAT), (b"n.odm", content, UNTRUSTED),
                                (b"m1.odm", b"x", FORMAT)):  # fmt: skip
        with pytest.raises(Refused, match=name.decode()) as refused:
            update.check(data, TRUSTED, name, other)
        assert refused.value.status == status


@pytest.mark.parametrize("forgery", list(forgeries()), ids=lambda item: item.name)
def test_forgeries_are_refused(update, forgery):
    with pytest.raises(Refused) as refused:
        update.manifest(forgery.data, TRUSTED, 5, TIME)
    assert refused.value.status in (FORMAT, UNTRUSTED)
    if forgery.error in ("0 valid", "older", "expired"):
        assert refused.value.status == UNTRUSTED


def test_every_flipped_bit_of_a_manifest_is_judged_as_in_python(update, tmp_path):
    good = signed(good_manifest(), KEY)
    for bit in range(8 * len(good)):
        flipped = bytearray(good)
        flipped[bit // 8] ^= 1 << bit % 8
        data = bytes(flipped)
        accepted = c_accepts(update, data)
        assert not accepted or data[:-1] == good[:-1], bit
        if bit % 7 == 0 or accepted:
            assert python_accepts(data, tmp_path) == accepted, bit


def test_every_truncation_is_refused(update):
    good = signed(good_manifest(), KEY)
    for size in range(len(good) - 1):
        assert not c_accepts(update, good[:size]), size
    assert c_accepts(update, good[:-1])


@pytest.mark.parametrize(
    "text",
    ["1970-01-01T00:00:00Z", "2000-02-29T23:59:59Z", "2100-02-28T00:00:00Z",
     "2024-12-31T12:30:15Z", "9999-12-31T23:59:59Z", "0001-01-01T00:00:00Z",
     "1900-03-01T00:00:00Z", "2026-03-31T00:00:01Z"],
)  # fmt: skip
def test_expiries_to_the_second(update, text):
    expires = datetime.fromisoformat(text)
    seconds = int((expires - datetime(1970, 1, 1, tzinfo=UTC)).total_seconds())
    data = signed(good_manifest(expires=expires), KEY)
    update.manifest(data, TRUSTED, 0, seconds)
    with pytest.raises(Refused, match="expired"):
        update.manifest(data, TRUSTED, 0, seconds + 1)


@pytest.mark.parametrize("text", ["1900-02-29", "2100-02-29", "2026-04-31", "2026-00-10",
                                  "2026-01-00", "2026-13-01"])  # fmt: skip
def test_days_that_are_none(update, text):
    value = good_manifest().signed_bytes.replace(b"2027-01-01", text.encode())
    with pytest.raises(Refused, match="expires must be"):
        update.manifest(resigned(value), TRUSTED, 0, TIME)


def test_thresholds_count_keys(update):
    keys = [private_key(seed) for seed in (21, 22, 23)]
    two = signers(*(key.public.raw for key in keys), threshold=2)
    for who, accepted in ((keys[:1], False), (keys[:2], True), (keys, True), ([KEY], False),
                          ([keys[0], KEY], False)):  # fmt: skip
        data = signed(good_manifest(), *who)
        if accepted:
            update.manifest(data, two, 0, TIME)
        else:
            with pytest.raises(Refused, match="valid signatures of trusted keys, expected 2"):
                update.manifest(data, two, 0, TIME)


@pytest.mark.parametrize("wrong", [signers(), signers(KEY.public.raw, threshold=0),
                                   signers(KEY.public.raw, threshold=2),
                                   signers(KEY.public.raw, KEY.public.raw),
                                   signers(*[KEY.public.raw] * 17)])  # fmt: skip
def test_signers_that_would_trust_anybody(update, wrong):
    with pytest.raises(Refused, match="signers"):
        update.manifest(signed(good_manifest(), KEY), wrong, 0, TIME)


def test_roots_and_their_rotation(update):
    first = update.root(root(ROOTS, [KEY], *ROOTS[:2], thresholds=(2, 1), expires=LATER))
    assert (first.version, first.expires) == (1, int(LATER.timestamp()))
    assert first.root.count == 3 and first.root.threshold == 2
    update.manifest(signed(good_manifest(), KEY), first.models, 0, TIME)
    new = private_key(2)
    second = root(ROOTS, [new], *ROOTS[1:], version=2, thresholds=(2, 1))
    after = update.root(second, first)
    assert after.version == 2 and after.expires == 2**63 - 1
    update.manifest(signed(good_manifest(), new), after.models, 0, TIME)
    with pytest.raises(Refused, match="0 valid"):
        update.manifest(signed(good_manifest(), KEY), after.models, 0, TIME)
    for data, error in (
        (root(ROOTS, [new], ROOTS[0], version=2, thresholds=(2, 1)), "1 valid"),
        (root(ROOTS, [new], new, KEY, version=2), "0 valid"),
        (root([new], [new], new, version=2), "0 valid"),
        (root([new], [new], *ROOTS, version=2), "0 valid"),
        (root(ROOTS, [new], *ROOTS, version=3), "version 3 of the root, expected 2"),
        (root(ROOTS, [new], *ROOTS, version=1), "version 1 of the root, expected 2"),
        (signed(good_manifest(), *ROOTS), "keys"),
    ):
        with pytest.raises(Refused, match=error):
            update.root(data, first)
    with pytest.raises(Refused, match="1 valid signatures of trusted keys, expected 2"):
        update.root(root(ROOTS, [KEY], ROOTS[0], thresholds=(2, 1)))


def test_flipped_bits_of_a_root_are_judged_as_in_python(update):
    good = root(ROOTS, [KEY], *ROOTS[:2], thresholds=(2, 1), expires=LATER)
    for bit in range(0, 8 * len(good), 13):
        flipped = bytearray(good)
        flipped[bit // 8] ^= 1 << bit % 8
        data = bytes(flipped)
        try:
            update.root(data)
            accepted = True
        except Refused:
            accepted = False
        try:
            parse_root(data, "root").check_itself("root")
            expected = True
        except OnDeviceError:
            expected = False
        assert accepted == expected == (data[:-1] == good[:-1]), bit


@pytest.mark.parametrize(
    ("old", "new"),
    [(b'"threshold":2', b'"threshold":0'), (b'"threshold":2', b'"threshold":4'),
     (b'"threshold":2', b'"threshold":true'), (b'"models":', b'"model":'),
     (b'"keys":{"', b'"keys":{"0'), (b'"models":{"keyids":["', b'"models":{"keyids":["1'),
     (KEY.public.raw.hex().encode(), b"00" * 32),
     (KEY.public.raw.hex().encode(), private_key(2).public.raw.hex().encode()),
     (b'"keys":{', b'"keys":{"' + b"a" * 64 + b'":1,'),
     (b'"roles":{', b'"roles":{"more":1,')],
)  # fmt: skip
def test_roots_that_say_nothing_sensible(update, old, new):
    value = parse_root(root(ROOTS, [KEY], thresholds=(2, 1)), "root").signed_bytes
    assert old in value
    changed = value.replace(old, new, 1)
    items = b",".join(
        b'{"keyid":"%s","sig":"%s"}' % (item.keyid.encode(), item.sig.encode())
        for item in (key.sign(changed) for key in ROOTS)
    )
    data = b'{"signed":' + changed + b',"signatures":[' + items + b"]}"
    with pytest.raises(Refused) as refused:
        update.root(data)
    assert refused.value.status == FORMAT
    with pytest.raises(OnDeviceError):
        parse_root(data, "root")


def test_failed_allocations(update):
    """At every call: out of memory, and nothing is kept."""
    files = {f"m{number}.odm": FileRecord(1, "ab" * 32) for number in range(600)}
    manifest = signed(good_manifest(files=files), KEY)
    document = root(ROOTS, [KEY], *ROOTS)
    try:
        for call in (lambda: update.manifest(manifest, TRUSTED), lambda: update.root(document)):
            update.left = failures = 0
            while True:
                update.left = failures
                try:
                    call()
                    break
                except Refused as refused:
                    assert refused.status == MEMORY
                    assert not update.held
                failures += 1
            assert failures
    finally:
        update.left = None
    assert failures >= 1


PROGRAM = """
#include "ondevice_update.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
static void *take(void *user, size_t size) { (void)user; return malloc(size); }
static void give(void *user, void *memory) { (void)user; free(memory); }
int main(int argc, char **argv) {
  const od_allocator allocator = {take, give, NULL};
  od_signers signers = {.count = 1, .threshold = 1};
  const od_seen seen = {.version = 5};
  uint32_t size;
  if (argc != 2 || fread(signers.keys[0], 1, 32, stdin) != 32) return 1;
  while (fread(&size, 1, 4, stdin) == 4) {
    char *text = malloc(size + !size); /* of this size: reading on is seen */
    od_manifest *manifest = NULL;
    od_error error;
    od_root root;
    if (fread(text, 1, size, stdin) != size) return 1;
    od_status status = argv[1][0] == 'm'
        ? od_manifest_open(text, size, &signers, &seen, 1796083200, &allocator, &manifest, &error)
        : od_root_first(text, size, &allocator, &root, &error);
    free(text);
    for (size_t i = 0; i < (manifest ? od_manifest_count(manifest) : 0); i++)
      if (!strlen(od_manifest_file(manifest, i)->name)) return 1;
    od_manifest_close(manifest);
    putchar(status ? '0' : '1');
  }
  return 0;
}
"""
PIECES = [b'"', b"\\", b"{", b"}", b"[", b"]", b",", b":", b" ", b"\n", b"0", b"1", b"-", b".",
          b"e5", b"null", b"true", b"\\u0000", b"\\u006d", b"\\ud800", b"\\udc00", b"\xc3\xa9",
          b"\xff", b"\0", b"5.0", b"9" * 30, b'"signed":', b',"signatures":', b"../",
          b'"version":5,', b'"m.odm":', b"Z", b"T24"]  # fmt: skip
SPACES = [b" ", b"\n", b"\t", b"\r", b"\x0b", b"\xc2\xa0"]


def mutated(rng, value):
    """A text with white space put in, or one to three pieces put in, cut out or doubled."""
    if rng.random() < 0.2:
        at = rng.choice([place + 1 for place, byte in enumerate(value) if byte in b",:{}"])
        value = value[:at] + rng.choice(SPACES) + value[at:]
        return value if rng.random() < 0.8 else mutated(rng, value)
    for _ in range(rng.choice([1, 1, 2, 3])):
        at, length = rng.randrange(len(value)), rng.choice([0, 0, 1, 1, 2, 5, 40])
        kind = rng.randrange(3)
        piece = rng.choice(PIECES) if kind < 2 else value[at : at + rng.randrange(1, 90)]
        value = value[:at] + piece + value[at + length * (kind != 2) :]
    return value


def documents(rng, count):
    """Mutants of a manifest that the trusted key signed: only their content can be refused."""
    two = {name: FileRecord(3, "ab" * 32) for name in ("m.odm", "n.odm")}
    values = [good_manifest().signed_bytes, good_manifest(files=two, expires=None).signed_bytes]
    return [resigned(mutated(rng, rng.choice(values))) for _ in range(count)]


@pytest.fixture(scope="module")
def sanitized_answers(tmp_path_factory):
    folder = tmp_path_factory.mktemp("documents")
    source, program = folder / "open.c", folder / "open"
    source.write_text(PROGRAM)
    command = [COMPILER, *WARNED, *SANITIZERS, str(source), *listed("update/sources.txt")]
    subprocess.run([*command, "-o", program], check=True)

    def answers(kind, documents):
        data = b"".join(len(item).to_bytes(4, "little") + item for item in documents)
        done = subprocess.run([program, kind], input=KEY.public.raw + data, capture_output=True)
        assert done.returncode == 0 and done.stderr == b"", done.stderr.decode()[-3000:]
        return [said == ord("1") for said in done.stdout]

    return answers


@needs_sanitizers
def test_mutants_are_judged_as_in_python(sanitized_answers, tmp_path):
    """Under the sanitizers; each is signed, so what is inside is read."""
    cases = documents(random.Random(6), 600)  # noqa: S311
    answers = sanitized_answers("m", cases)
    for data, answer in zip(cases, answers, strict=True):
        assert answer == python_accepts(data, tmp_path), data
    assert 10 < sum(answers) < 500


@needs_sanitizers
def test_forgeries_and_roots_under_the_sanitizers(sanitized_answers):
    assert not any(sanitized_answers("m", [item.data for item in forgeries()]))
    rng = random.Random(7)  # noqa: S311
    good = root(ROOTS, [KEY], *ROOTS[:2], thresholds=(2, 1), expires=LATER)
    mutants = [mutated(rng, good) for _ in range(300)]
    mutants += [good[: rng.randrange(len(good))] for _ in range(100)]
    expected = [True]
    for data in mutants:
        try:
            parse_root(data, "root").check_itself("root")
            expected.append(True)
        except OnDeviceError:
            expected.append(False)
    assert sanitized_answers("r", [good, *mutants]) == expected


def test_strangers_cannot_make_it_take_memory(update):
    """What nobody trusted signed is not read: a document of many values takes a few blocks."""
    value = b"[" + b"[]," * 300_000 + b"0]"
    stranger = resigned(value, private_key(9))
    update.left = 4
    try:
        with pytest.raises(Refused, match="0 valid"):
            update.manifest(stranger, TRUSTED)
        update.left = 4
        first = update.root(root(ROOTS, [KEY], *ROOTS))
        update.left = 4
        with pytest.raises(Refused, match="0 valid"):
            update.root(stranger, first)
    finally:
        update.left = None
