"""Manifests: what is written is read back, and nothing else is accepted."""

import hashlib
import json
from datetime import UTC, datetime

import pytest

from ondevice import manifest
from ondevice.errors import FileFormatError, SpecError
from ondevice.limits import MAX_MANIFEST_BYTES
from ondevice.manifest import FileRecord, ModelSet, new_manifest, parse_manifest
from ondevice.signed_json import Signature

SHA = hashlib.sha256(b"abc").hexdigest()
EXPIRES = datetime(2027, 1, 1, tzinfo=UTC)


def data(**changes):
    signed = {
        "kind": "ondevice model set",
        "format": 1,
        "version": 1,
        "expires": None,
        "files": {"model.odm": {"length": 3, "sha256": SHA}},
    }
    return {"signed": signed | changes, "signatures": []}


def encoded(content):
    return json.dumps(content, separators=(",", ":")).encode()


def test_the_bytes_are_as_documented():
    written = new_manifest(ModelSet({"model.odm": FileRecord(3, SHA)}, 7, EXPIRES)).to_bytes()
    assert written == (
        b'{"signed":{"expires":"2027-01-01T00:00:00Z","files":{"model.odm":{"length":3,"sha256":"'
        + SHA.encode()
        + b'"}},"format":1,"kind":"ondevice model set","version":7},"signatures":[]}\n'
    )


def test_a_manifest_is_read_back_and_keeps_the_signed_bytes():
    made = new_manifest(
        ModelSet({"model.odm": FileRecord(3, SHA)}, 7, EXPIRES), [Signature("ab", "cd")]
    )
    read = parse_manifest(made.to_bytes(), "here")
    assert read == made
    assert read.to_bytes() == made.to_bytes()


def test_signed_bytes_written_otherwise_are_kept_as_they_stand():
    spaced = json.dumps(data()["signed"], indent=1).encode()
    read = parse_manifest(b'{"signed":' + spaced + b',"signatures":[]}', "here")
    assert read.signed_bytes == spaced
    assert read.to_bytes() == b'{"signed":' + spaced + b',"signatures":[]}\n'


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"kind": "model set"}, "kind must be"),
        ({"format": 2}, "format must be 1"),
        ({"format": True}, "format must be 1"),
        ({"version": 0}, "version must be 1.."),
        ({"version": 1.0}, "version must be 1.."),
        ({"version": 2**53}, "version must be 1.."),
        ({"expires": "2027-13-01T00:00:00Z"}, "expires must be"),
        ({"expires": "2027-01-01"}, "expires must be"),
        ({"expires": 5}, "expires must be"),
        ({"files": {}}, "files must be"),
        ({"files": []}, "files must be"),
        ({"more": 1}, "expected an object with the keys"),
        ({"files": {"a": {"length": -1, "sha256": SHA}}}, "length must be"),
        ({"files": {"a": {"length": True, "sha256": SHA}}}, "length must be"),
        ({"files": {"a": {"length": 1, "sha256": SHA.upper()}}}, "sha256 must be"),
        ({"files": {"a": {"length": 1}}}, "expected an object with the keys"),
        ({"files": {"a": [1, SHA]}}, "expected an object with the keys"),
        ({"files": {"../a": {"length": 1, "sha256": SHA}}}, "not a plain file name"),
        ({"files": {"a/b": {"length": 1, "sha256": SHA}}}, "not a plain file name"),
        ({"files": {"..": {"length": 1, "sha256": SHA}}}, "not a plain file name"),
        ({"files": {"": {"length": 1, "sha256": SHA}}}, "not a plain file name"),
        ({"files": {"a\n": {"length": 1, "sha256": SHA}}}, "not a plain file name"),
        ({"files": {"manifest.json": {"length": 1, "sha256": SHA}}}, "not a plain file name"),
    ],
)
def test_what_is_not_documented_is_refused(changes, text):
    with pytest.raises(FileFormatError, match=text):
        parse_manifest(encoded(data(**changes)), "here")


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"[]",
        b"null",
        b"\xff",
        b"[" * 100_000,
        b" " * (MAX_MANIFEST_BYTES + 1),
        encoded(data())[:-1],
        encoded(data() | {"signatures": {}}),
        encoded(data() | {"signatures": [{"keyid": "ab", "sig": "x"}]}),
        encoded(data() | {"signatures": [{"keyid": "ab"}]}),
        encoded(data() | {"signatures": [{"keyid": "ab", "sig": "cd"}] * 17}),
        encoded(data() | {"more": 1}),
        encoded({"signatures": [], "signed": data()["signed"]}),
        b" " + encoded(data()),
        encoded(data()).replace(b'"version":1', b'"version":1,"version":1'),
    ],
)
def test_other_files_are_refused(content):
    with pytest.raises(FileFormatError, match=r"^here"):
        parse_manifest(content, "here")


def test_a_set_that_no_reader_would_take_is_not_written():
    with pytest.raises(SpecError, match="plain file name"):
        new_manifest(ModelSet({"../a": FileRecord(3, SHA)}))
    with pytest.raises(SpecError, match="time zone"):
        new_manifest(ModelSet({"a": FileRecord(3, SHA)}, 1, datetime(2027, 1, 1)))


def test_files_are_compared_with_the_manifest(tmp_path):
    (tmp_path / "model.odm").write_bytes(b"abc")
    assert manifest.record(tmp_path / "model.odm") == FileRecord(3, SHA)
    listed = new_manifest(ModelSet({"model.odm": FileRecord(3, SHA)}))
    (tmp_path / manifest.NAME).write_bytes(listed.to_bytes())
    manifest.check(manifest.read_manifest(tmp_path / manifest.NAME), tmp_path)
    with pytest.raises(FileFormatError, match="does not list it"):
        manifest.check(listed, tmp_path, ["model.onnx"])
    (tmp_path / "model.odm").write_bytes(b"abd")
    with pytest.raises(FileFormatError, match="SHA-256"):
        manifest.check(listed, tmp_path)
    (tmp_path / "model.odm").write_bytes(b"abcd")
    with pytest.raises(FileFormatError, match="has 4 bytes, its manifest says 3"):
        manifest.check(listed, tmp_path)
    (tmp_path / "model.odm").unlink()
    with pytest.raises(FileFormatError, match=r"model\.odm: cannot be read"):
        manifest.check(listed, tmp_path)
    with pytest.raises(FileFormatError, match="no such manifest"):
        manifest.read_manifest(tmp_path / "absent.json")
