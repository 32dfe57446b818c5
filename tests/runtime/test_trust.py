"""Signed sets: what is trusted loads in every engine, and whatever anybody forges does not."""

import json
import os
import re
import sys
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
from support.native import write_model
from support.runtime import expected_probabilities, small_ids, write_small_model
from support.signing import (
    LATER,
    NOW,
    forgeries,
    good_manifest,
    private_key,
    root,
    sign_folder,
    signed,
)

import ondevice
from ondevice import signatures
from ondevice.codecs import quantise
from ondevice.engines.native import is_compiled
from ondevice.errors import (
    FileFormatError,
    InputError,
    MissingDependencyError,
    OutputError,
    TrustError,
)
from ondevice.manifest import NAME, parse_manifest
from ondevice.odm import FULL_CHECK_BYTES
from ondevice.roots import parse_root
from ondevice.signatures import PublicKey, Signers, public_keys
from ondevice.spec import full_spec
from ondevice.trust import State, Trust, read_state, read_trust

KEY = private_key(1)


@pytest.fixture(params=["sealed", "portable"])
def folder(request, tmp_path, monkeypatch):
    if request.param == "portable":  # as on systems without sealed memory
        monkeypatch.delattr(os, "memfd_create")
    path = tmp_path / "set"
    path.mkdir()
    write_small_model(path / "m.odm")
    sign_folder(path, KEY)
    return path


def trust_of(tmp_path, least):
    """Trust in KEY, from a version on."""
    state = tmp_path / "state.json"
    state.write_bytes(State(least, (KEY.public.keyid,)).to_bytes())
    return Trust(Signers((KEY.public,)), state, NOW)


@pytest.mark.parametrize("engine", ["auto", "numpy"])
def test_a_signed_model_scores_as_ever(folder, engine):
    ids = small_ids(20)
    model = ondevice.load(folder / "m.odm", engine=engine, keys=KEY.public)
    np.testing.assert_allclose(model.predict(ids), expected_probabilities(ids), atol=1e-5)
    assert model.path == folder / "m.odm"


def test_a_good_manifest_is_trusted(tmp_path):
    trust = trust_of(tmp_path, 5)
    trusted = trust.check_manifest(parse_manifest(signed(good_manifest(), KEY), "m"), tmp_path)
    assert trusted.manifest.model_set.version == 5


@pytest.mark.parametrize("forgery", list(forgeries()), ids=lambda item: item.name)
def test_forgeries_are_refused(tmp_path, forgery):
    """Read and checked in one, as a device does it."""
    trust = trust_of(tmp_path, 5)
    with pytest.raises((TrustError, FileFormatError), match=forgery.error or None):
        trust.check_manifest(parse_manifest(forgery.data, "m"), tmp_path)


def test_every_flipped_bit_of_a_manifest_is_refused(tmp_path):
    trust, good = trust_of(tmp_path, 5), signed(good_manifest(), KEY)
    accepted = []
    for bit in range(8 * len(good)):
        flipped = bytearray(good)
        flipped[bit // 8] ^= 1 << bit % 8
        try:
            trust.check_manifest(parse_manifest(bytes(flipped), "m"), tmp_path)
        except (TrustError, FileFormatError):
            continue
        accepted.append(bytes(flipped))
    # the last byte, a line feed, may be another white space or missing
    assert {item[:-1] for item in accepted} <= {good[:-1]}


def test_files_that_are_not_as_signed(folder):
    path = folder / "m.odm"
    data = path.read_bytes()
    for changed in (data + b"\0", data[:-1], data[:-1] + bytes([data[-1] ^ 1]), b""):
        path.write_bytes(changed)
        with pytest.raises(FileFormatError, match="manifest says"):
            ondevice.load(path, keys=KEY.public)
    path.unlink()
    with pytest.raises(FileFormatError, match="no such file"):
        ondevice.load(path, keys=KEY.public)
    os.mkfifo(path)
    with pytest.raises(FileFormatError, match="not a regular file"):
        ondevice.load(path, keys=KEY.public)


def test_a_file_under_another_name(folder):
    """Names are signed too: a good model is not another one of the set."""
    (folder / "other.odm").write_bytes((folder / "m.odm").read_bytes())
    with pytest.raises(TrustError, match="does not list it"):
        ondevice.load(folder / "other.odm", keys=KEY.public)
    write_small_model(folder / "m2.odm", vectors=False)
    sign_folder(folder, KEY, names=["m.odm", "m2.odm"])
    first, second = (folder / name for name in ("m.odm", "m2.odm"))
    ondevice.load(second, keys=KEY.public)
    first.rename(folder / "x")
    second.rename(first)
    (folder / "x").rename(second)
    for path in (first, second):
        with pytest.raises(FileFormatError, match="manifest says"):
            ondevice.load(path, keys=KEY.public)


def test_without_memory_for_copies(folder, monkeypatch):
    def refuse(*_):
        raise OSError(24, "Too many open files")

    monkeypatch.setattr(os, "memfd_create", refuse, raising=False)
    with pytest.raises(FileFormatError, match="cannot be copied: Too many open files"):
        ondevice.load(folder / "m.odm", keys=KEY.public)


def test_without_a_manifest(folder):
    (folder / NAME).unlink()
    with pytest.raises(FileFormatError, match=r"manifest\.json: cannot be read: No such file"):
        ondevice.load(folder / "m.odm", keys=KEY.public)


@pytest.mark.parametrize("name", [NAME, "2.root.json", "state.json"])
def test_documents_that_are_no_files(folder, tmp_path, first, name):
    """A FIFO would be waited for, for ever."""
    path = tmp_path / name if name == "state.json" else folder / name
    path.unlink(missing_ok=True)
    for make in (os.mkfifo, Path.mkdir):
        make(path)
        with pytest.raises(FileFormatError, match=f"{name}: is not a regular file"):
            ondevice.load(folder / "m.odm", keys=first, state=tmp_path / "state.json")
        if make is os.mkfifo:
            path.unlink()


def test_what_was_checked_is_what_runs(folder):
    """The file is rewritten while others load it: a load ends in the signed model or an error."""
    path = folder / "m.odm"
    good = path.read_bytes()
    ids = small_ids(5)
    expected = expected_probabilities(ids)
    evil = bytearray(good)
    stop = threading.Event()

    def overwrite():
        with path.open("r+b") as file:
            while not stop.is_set():
                for data in (evil, good):
                    file.seek(0)
                    file.write(data)
                    file.flush()

    for place in range(len(evil) - 800, len(evil), 7):
        evil[place] ^= 0x55
    engines = ("native", "numpy") if is_compiled() else ("numpy",)
    writer = threading.Thread(target=overwrite)
    writer.start()
    loaded = refused = 0
    try:
        for number in range(100_000):
            if number >= 300 and refused:  # the writer may get little of a busy processor
                break
            try:
                model = ondevice.load(path, engine=engines[number % len(engines)], keys=KEY.public)
            except FileFormatError:
                refused += 1
                continue
            np.testing.assert_allclose(model.predict(ids), expected, atol=1e-5)
            loaded += 1
    finally:
        stop.set()
        writer.join()
    assert loaded + refused >= 300 and refused


def test_versions_are_not_turned_back(folder, tmp_path):
    state = tmp_path / "var" / "state.json"
    path = folder / "m.odm"

    def loads(version, **options):
        sign_folder(folder, KEY, version=version)
        return ondevice.load(path, keys=KEY.public, state=state, **options)

    loads(3)
    loads(3)
    loads(7)
    for version in (6, 3, 1):
        with pytest.raises(TrustError, match=f"version {version} is older than 7"):
            loads(version)
    assert read_state(state).version == 7
    sign_folder(folder, KEY, version=8)
    path.write_bytes(path.read_bytes() + b"\0")
    with pytest.raises(FileFormatError):
        ondevice.load(path, keys=KEY.public, state=state)
    assert read_state(state).version == 7  # what never ran is not remembered


def test_a_version_is_used_once(folder, tmp_path):
    state, path = tmp_path / "state.json", folder / "m.odm"

    def loads(version, expires=None):
        sign_folder(folder, KEY, version=version, expires=expires)
        return ondevice.load(path, keys=KEY.public, state=state, now=NOW)

    loads(3)
    write_small_model(path, vectors=False)
    before = state.read_bytes()
    with pytest.raises(TrustError, match="another set of version 3 was used here"):
        loads(3)
    assert state.read_bytes() == before
    loads(4)
    with pytest.raises(TrustError, match="another set of version 4"):
        loads(4, expires=LATER)  # the same files, signed for longer
    loads(5, expires=LATER)
    loads(5, expires=LATER)
    # the state of an earlier release does not know the content
    old = json.loads(state.read_text())
    del old["manifest"]
    state.write_text(json.dumps({**old, "format": 1}))
    loads(5)
    assert json.loads(state.read_text())["format"] == 2
    with pytest.raises(TrustError, match="another set of version 5"):
        loads(5, expires=LATER)


@pytest.mark.parametrize(
    "text",
    ["", "{}", "[]", '{"version": 0}', "\0", '{"kind":"ondevice trust state","format":1}',
     '{"kind":"ondevice trust state","format":1,"version":0,"keyids":[],"root":null}',
     '{"kind":"ondevice trust state","format":1,"version":1,"keyids":[1],"root":null}',
     '{"kind":"ondevice trust state","format":1,"version":1,"keyids":[],"root":1}',
     '{"kind":"ondevice trust state","format":1,"version":1,"keyids":[],"root":"{}"}',
     '{"kind":"ondevice trust state","format":2,"version":1,"keyids":[],"root":null}',
     '{"kind":"ondevice trust state","format":1,"version":1,"keyids":[],"root":null,"manifest":""}',
     '{"kind":"ondevice trust state","format":2,"version":1,"keyids":[],"root":null,"manifest":"0"}'
     ],
)  # fmt: skip
def test_a_damaged_state_is_not_forgotten(folder, tmp_path, text):
    state = tmp_path / "state.json"
    state.write_text(text)
    with pytest.raises(FileFormatError, match=r"state\.json"):
        ondevice.load(folder / "m.odm", keys=KEY.public, state=state)
    assert state.read_text() == text


def test_expiry_by_the_clock_that_is_given(folder):
    sign_folder(folder, KEY, expires=LATER)
    path = folder / "m.odm"
    ondevice.load(path, keys=KEY.public, now=NOW)
    ondevice.load(path, keys=KEY.public, now=LATER)
    with pytest.raises(TrustError, match="expired at 2027-01-01"):
        ondevice.load(path, keys=KEY.public, now=LATER + timedelta(seconds=1))
    sign_folder(folder, KEY, expires=datetime(2020, 1, 1, tzinfo=UTC))
    with pytest.raises(TrustError, match="expired"):
        ondevice.load(path, keys=KEY.public)
    with pytest.raises(InputError, match="time zone"):
        ondevice.load(path, keys=KEY.public, now=datetime(2020, 1, 1))
    for options in ({"now": NOW}, {"state": "x"}):
        with pytest.raises(InputError, match="expected keys"):
            ondevice.load(path, **options)


def test_kinds_of_keys(folder, tmp_path):
    path, other = folder / "m.odm", private_key(2)
    one, both = tmp_path / "one.pub", tmp_path / "both.pub"
    one.write_text(KEY.public.to_pem())
    both.write_text(other.public.to_pem() + KEY.public.to_pem())
    for keys in (KEY.public, one, str(one), [KEY.public], [other.public, one], both, [both]):
        ondevice.load(path, keys=keys)
    for keys in (other.public, [other.public]):
        with pytest.raises(TrustError, match="0 valid signatures"):
            ondevice.load(path, keys=keys)
    with pytest.raises(InputError, match="at least one"):
        ondevice.load(path, keys=[])


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("", "expected a public key"),
        ("-----BEGIN PUBLIC KEY-----\nabc\n-----END PUBLIC KEY-----\n", "base64"),
        ("-----BEGIN PUBLIC KEY-----\nabcd\n-----END PUBLIC KEY-----\n", "another kind"),
        (KEY.public.to_pem() + "x", "nothing else"),
        (KEY.public.to_pem()[:-30], "expected a public key"),
        (KEY.public.to_pem().replace("PUBLIC", "PRIVATE"), "expected a public key"),
        ("{}", "keys"),
    ],
)
def test_files_that_are_no_public_keys(folder, tmp_path, text, error):
    path = tmp_path / "key.pub"
    path.write_text(text)
    with pytest.raises(FileFormatError, match=error):
        ondevice.load(folder / "m.odm", keys=path)


def test_keys_of_other_kinds():
    """Of another curve, of wrong length, of small order."""
    serialization = pytest.importorskip("cryptography.hazmat.primitives.serialization")
    from cryptography.hazmat.primitives.asymmetric import ec, x25519

    for key in (x25519.X25519PrivateKey.generate(), ec.generate_private_key(ec.SECP256R1())):
        pem = key.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )
        with pytest.raises(FileFormatError, match="another kind"):
            public_keys(pem.decode(), "key")
    for raw in (b"", b"\0" * 31, b"\0" * 32, b"\1" + b"\0" * 31, b"\xff" * 32, bytes(33)):
        with pytest.raises(FileFormatError, match="not an Ed25519 public key"):
            PublicKey(raw)
    theirs = serialization.load_pem_public_key(KEY.public.to_pem().encode())
    assert theirs.public_bytes_raw() == KEY.public.raw


def test_without_the_compiled_verifier(folder, monkeypatch):
    """`cryptography` verifies; without it too, one line says what to install."""
    monkeypatch.delattr(ondevice, "_update", raising=False)
    monkeypatch.setitem(sys.modules, "ondevice._update", None)
    signatures.verifier.cache_clear()
    try:
        ondevice.load(folder / "m.odm", keys=KEY.public)
        with pytest.raises(TrustError):
            ondevice.load(folder / "m.odm", keys=private_key(2).public)
        signatures.verifier.cache_clear()
        monkeypatch.setitem(sys.modules, "cryptography.exceptions", None)
        with pytest.raises(MissingDependencyError, match=r"pip install 'ondevice-ctr\[sign\]'"):
            ondevice.load(folder / "m.odm", keys=KEY.public)
    finally:
        signatures.verifier.cache_clear()


ROOTS = [private_key(seed) for seed in (11, 12, 13)]
NEXT = private_key(2)


@pytest.fixture
def first(tmp_path):
    """Root 1: two of three keys, and KEY signs models."""
    path = tmp_path / "1.root.json"
    path.write_bytes(root(ROOTS, [KEY], *ROOTS[:2], thresholds=(2, 1)))
    return path


def test_a_root_and_its_rotation(folder, first, tmp_path):
    state, path = tmp_path / "state.json", folder / "m.odm"
    sign_folder(folder, KEY, version=9)
    ondevice.load(path, keys=first, state=state)
    second = root(ROOTS, [NEXT], *ROOTS[1:], version=2, thresholds=(2, 1))
    (folder / "2.root.json").write_bytes(second)
    with pytest.raises(TrustError, match="0 valid"):  # the old key is out
        ondevice.load(path, keys=first, state=state)
    sign_folder(folder, NEXT, version=1)  # who stole the old key could have signed any version
    ondevice.load(path, keys=first, state=state)
    assert read_state(state).root.content.version == 2
    (folder / "2.root.json").unlink()  # the device remembers
    ondevice.load(path, keys=first, state=state)
    sign_folder(folder, KEY, version=10)
    with pytest.raises(TrustError, match="0 valid"):
        ondevice.load(path, keys=first, state=state)
    ondevice.load(path, keys=first)  # without a state it cannot
    third = root([NEXT], [KEY, NEXT], *ROOTS[:2], NEXT, version=3)
    (folder / "2.root.json").write_bytes(second)
    (folder / "3.root.json").write_bytes(third)
    ondevice.load(path, keys=first, state=state)
    ondevice.load(path, keys=parse_root(second, "2"), state=tmp_path / "other.json")


def test_a_load_that_began_before_a_rotation_does_not_undo_it(folder, first, tmp_path):
    """Two processes: one has checked by root 1 while the other remembers root 2."""
    state = tmp_path / "state.json"
    sign_folder(folder, KEY, version=5)
    trust = read_trust(first, state, NOW)
    checked = trust.check(folder)
    (folder / "2.root.json").write_bytes(root(ROOTS, [NEXT], *ROOTS, version=2, thresholds=(2, 1)))
    sign_folder(folder, NEXT, version=6)
    ondevice.load(folder / "m.odm", keys=first, state=state)
    before = state.read_bytes()
    trust.remember(checked)
    assert state.read_bytes() == before


def test_many_processes_remember_the_highest_version(folder, tmp_path):
    state = tmp_path / "state.json"
    trust = Trust(Signers((KEY.public,)), state, NOW)
    checked = []
    for version in range(1, 41):
        sign_folder(folder, KEY, version=version)
        checked.append(trust.check(folder))
    threads = [threading.Thread(target=trust.remember, args=(item,)) for item in checked[::-1]]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert read_state(state).version == 40


def test_a_state_that_cannot_be_written(folder, tmp_path):
    (tmp_path / "file").write_text("")
    for state in (tmp_path, tmp_path / "file" / "state.json"):
        with pytest.raises((OutputError, FileFormatError), match=re.escape(str(state))):
            ondevice.load(folder / "m.odm", keys=KEY.public, state=state)


@pytest.mark.parametrize(
    ("signers", "changes", "error"),
    [
        (ROOTS[:1], {}, "by the root it replaces: 1 valid"),
        ([NEXT], {}, "by the root it replaces: 0 valid"),
        ([KEY], {}, "by the root it replaces: 0 valid"),
        (ROOTS, {"root_keys": [NEXT]}, "2.root.json: 0 valid"),
        ([NEXT], {"root_keys": [NEXT]}, "by the root it replaces: 0 valid"),
        (ROOTS, {"version": 1}, "version 1 of the root, expected 2"),
        (ROOTS, {"version": 3}, "version 3 of the root, expected 2"),
        (ROOTS, {"expires": datetime(2026, 1, 1, tzinfo=UTC)}, "version 2 of the root: expired"),
    ],
)
def test_roots_that_replace_nothing(folder, first, signers, changes, error):
    arguments = {"root_keys": ROOTS, "model_keys": [NEXT], "version": 2, "thresholds": (2, 1)}
    arguments |= changes
    if changes.get("root_keys"):
        arguments["thresholds"] = (1, 1)
    (folder / "2.root.json").write_bytes(root(*_roles(arguments), *signers, **arguments))
    for signer in (KEY, NEXT):
        sign_folder(folder, signer)
        with pytest.raises(TrustError, match=error):
            ondevice.load(folder / "m.odm", keys=first, now=NOW)


def _roles(arguments):
    return arguments.pop("root_keys"), arguments.pop("model_keys")


def test_thresholds_count_keys(folder, tmp_path):
    """Of the models' role: two of three; a signature twice is one."""
    models = [private_key(seed) for seed in (21, 22, 23)]
    path = tmp_path / "1.root.json"
    path.write_bytes(root(ROOTS, models, *ROOTS, thresholds=(3, 2)))
    for signers, trusted in (
        (models[:1], False),
        (models[:2], True),
        (models[1:], True),
        (models, True),
        ([models[0], *ROOTS], False),
    ):
        sign_folder(folder, *signers)
        if trusted:
            ondevice.load(folder / "m.odm", keys=path)
        else:
            with pytest.raises(TrustError, match="1 valid signatures of trusted keys, expected 2"):
                ondevice.load(folder / "m.odm", keys=path)
    path.write_bytes(root(ROOTS, models, *ROOTS[:2], thresholds=(3, 2)))
    with pytest.raises(TrustError, match="2 valid signatures of trusted keys, expected 3"):
        ondevice.load(folder / "m.odm", keys=path)


@pytest.mark.parametrize(
    ("old", "new", "error"),
    [
        (b'"threshold":2', b'"threshold":0', "threshold must be"),
        (b'"threshold":2', b'"threshold":4', "threshold must be"),
        (b'"threshold":2', b'"threshold":true', "threshold must be"),
        (b'"ondevice root"', b'"ondevice model set"', "kind"),
        (b'"version":1', b'"version":0', "version"),
        (b'"format":1', b'"format":2', "format"),
        (b'"models":', b'"model":', "keys"),
        (b'"keys":{"', b'"keys":{"0', "SHA-256 of its key"),
        (KEY.public.raw.hex().encode(), b"00" * 32, "not an Ed25519 public key"),
        (KEY.public.raw.hex().encode(), NEXT.public.raw.hex().encode(), "SHA-256 of its key"),
        (b'"models":{"keyids":["', b'"models":{"keyids":["1', "no key"),
    ],
)
def test_roots_that_say_nothing_sensible(first, old, new, error):
    data = first.read_bytes()
    assert old in data
    with pytest.raises(FileFormatError, match=error):
        parse_root(data.replace(old, new, 1), "root")


def test_flipped_bits_of_a_root_are_refused(first):
    good, accepted = first.read_bytes(), []
    for bit in range(0, 8 * len(good), 19):
        flipped = bytearray(good)
        flipped[bit // 8] ^= 1 << bit % 8
        first.write_bytes(flipped)
        try:
            read_trust(first, None, None)
        except (TrustError, FileFormatError):
            continue
        accepted.append(bytes(flipped))
    assert {item[:-1] for item in accepted} <= {good[:-1]}


def test_a_large_file_runs_from_its_copy(tmp_path):
    """Which the C engine maps; what happens to the file afterwards is nothing to it."""
    rows = 300_000
    table = quantise(np.arange(8 * rows, dtype=np.float32).reshape(rows, 8), "f32")
    path = write_model(
        tmp_path / "m.odm", {"a": full_spec(rows, 8)}, {"a": table}, [], {}, ["a.vector"]
    )
    assert path.stat().st_size > FULL_CHECK_BYTES
    sign_folder(tmp_path, KEY)
    model = ondevice.load(path, keys=KEY.public)
    ids = {name: np.array([7, rows - 1]) for name in (item.name for item in model.inputs)}
    expected = model.predict(ids)
    with path.open("r+b") as file:
        file.write(b"\xff" * path.stat().st_size)
    path.write_bytes(b"")
    np.testing.assert_array_equal(model.predict(ids), expected)
    with pytest.raises(FileFormatError, match="0 bytes, its manifest says"):
        ondevice.load(path, keys=KEY.public)


@pytest.mark.skipif(not hasattr(os, "memfd_create"), reason="no sealed memory")
def test_memory_that_is_held_for_a_moment_is_sealed_later(monkeypatch):
    """The kernel refuses while somebody maps it to write: here until it is asked a third time."""
    import fcntl
    import mmap

    from ondevice import private_copies

    descriptor = os.memfd_create("held", os.MFD_ALLOW_SEALING)
    os.truncate(descriptor, 4096)
    held = mmap.mmap(descriptor, 4096)
    with pytest.raises(OSError, match="busy"):
        fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, fcntl.F_SEAL_WRITE)
    waits = []

    def wait(seconds):
        waits.append(seconds)
        if len(waits) == 2:
            held.close()

    monkeypatch.setattr(private_copies.time, "sleep", wait)
    private_copies._seal(descriptor)
    assert len(waits) == 2
    with pytest.raises(PermissionError):
        os.pwrite(descriptor, b"x", 0)
    os.close(descriptor)
