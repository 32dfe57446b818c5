"""Keys and signed documents for tests, and forgeries of them that every verifier refuses."""

import json
from dataclasses import dataclass
from datetime import UTC, datetime

import pytest

from ondevice.manifest import NAME, FileRecord, ModelSet, new_manifest, record
from ondevice.roots import RootContent, new_root
from ondevice.signatures import Signers

NOW = datetime(2026, 12, 1, tzinfo=UTC)
LATER = datetime(2027, 1, 1, tzinfo=UTC)


def private_key(seed):
    """The same key every time."""
    ed25519 = pytest.importorskip("cryptography.hazmat.primitives.asymmetric.ed25519")
    from ondevice.key_files import PrivateKey

    return PrivateKey(ed25519.Ed25519PrivateKey.from_private_bytes(bytes([seed] * 32)))


def sign_folder(folder, *keys, version=1, expires=None, names=None):
    """Write a manifest of a folder's files (by default all), signed by the keys."""
    files = sorted(folder.iterdir()) if names is None else [folder / name for name in names]
    listed = {file.name: record(file) for file in files if not file.name.endswith("json")}
    made = new_manifest(ModelSet(listed, version, expires))
    (folder / NAME).write_bytes(signed(made, *keys))


def signed(document, *keys):
    """The file of a manifest or root with signatures."""
    signatures = tuple(key.sign(document.signed_bytes) for key in keys)
    return type(document)(*list(vars(document).values())[:2], signatures).to_bytes()


def root(root_keys, model_keys, *signers, version=1, thresholds=(1, 1), expires=None):
    """The file of a root document."""
    roles = (
        Signers(tuple(key.public for key in keys), threshold)
        for keys, threshold in zip((root_keys, model_keys), thresholds, strict=True)
    )
    return signed(new_root(RootContent(*roles, version, expires)), *signers)


@dataclass(frozen=True)
class Forgery:
    """A manifest that must be refused by who trusts `private_key(1)`, at NOW, from version 5 on."""

    name: str
    data: bytes
    error: str  # part of the error's text


def good_manifest(version=5, expires=LATER, files=None):
    files = {"m.odm": FileRecord(3, "ab" * 32)} if files is None else files
    return new_manifest(ModelSet(files, version, expires))


def resigned(text, key=None):
    """A manifest whose `signed` is any text at all, with a valid signature over it."""
    signature = (key or private_key(1)).sign(text)
    listed = json.dumps([vars(signature)], separators=(",", ":")).encode()
    return b'{"signed":' + text + b',"signatures":' + listed + b"}\n"


def forgeries():
    """Manifests that an attacker may send, and what is wrong with each."""
    yield from (Forgery(*item) for item in (*_of_strangers(), *_of_frames(), *_of_signers()))


def _of_strangers():
    """What somebody without a trusted key can do."""
    key, stranger = private_key(1), private_key(9)
    document = good_manifest()
    good = signed(document, key)
    value = document.signed_bytes
    signature = key.sign(value)
    yield "unsigned", signed(document), "0 valid"
    yield "signed by a stranger", signed(document, stranger), "0 valid"
    claimed = stranger.sign(value).sig.encode()
    yield (
        "a stranger's signature under the key's name",
        good.replace(signature.sig.encode(), claimed),
        "0 valid",
    )
    other = good_manifest(version=6)
    yield (
        "a signature of another set",
        good.replace(signature.sig.encode(), key.sign(other.signed_bytes).sig.encode()),
        "0 valid",
    )
    yield "a higher version", good.replace(b'"version":5', b'"version":6'), "0 valid"
    yield "another hash", good.replace(b"abab", b"acab", 1), "0 valid"
    yield "another name", good.replace(b"m.odm", b"n.odm"), "0 valid"
    yield "a space in what is signed", good.replace(b'"version":5', b'"version": 5'), "0 valid"
    yield "no signature bytes", good.replace(signature.sig.encode(), b""), "hexadecimal"
    yield "a shorter signature", good.replace(signature.sig.encode(), b"ab" * 63), "0 valid"
    yield "a longer signature", good.replace(signature.sig.encode(), b"ab" * 65), "0 valid"
    yield "zeros", good.replace(signature.sig.encode(), b"00" * 64), "0 valid"
    order = (2**252 + 27742317777372353535851937790883648493).to_bytes(32, "little")
    s = int.from_bytes(bytes.fromhex(signature.sig)[32:], "little")
    larger = (s + int.from_bytes(order, "little")).to_bytes(32, "little")
    yield (
        "S beyond the group's order",
        good.replace(
            signature.sig.encode(), (bytes.fromhex(signature.sig)[:32] + larger).hex().encode()
        ),
        "0 valid",
    )


def _of_frames():
    """Frames in which readers might see different things."""
    key = private_key(1)
    value = good_manifest().signed_bytes
    evil = good_manifest(version=99).signed_bytes
    good = signed(good_manifest(), key)
    tail = good[len(b'{"signed":') + len(value) :]
    yield "signed twice, evil first", b'{"signed":' + evil + b',"signed":' + value + tail, "twice"
    yield "signed twice, evil last", b'{"signed":' + value + b',"signed":' + evil + tail, "twice"
    yield "signatures twice", good.rstrip()[:-1] + b',"signatures":[]}', "twice"
    yield "escaped key", good.replace(b'"signed"', b'"\\u0073igned"', 1), "written so"
    yield "space before", b" " + good, "written so"
    yield "a byte order mark", b"\xef\xbb\xbf" + good, "JSON"
    yield "space inside the frame", good.replace(b'{"signed":', b'{ "signed":', 1), "written so"
    yield "signatures first", b'{"signatures":[],"signed":' + value + b"}", "written so"
    yield "one member more", good.rstrip()[:-1] + b',"x":1}', "keys"
    yield "one before", b'{"x":1,' + good[1:], "keys"
    yield "bytes behind", good + b"x", "JSON"
    yield "a second document", good + good, "JSON"
    yield "cut off", good[:-3], "JSON"
    yield "nothing", b"", "JSON"
    yield "a list", b"[" + good.strip() + b"]", "keys"
    yield "no UTF-8", good.replace(b"m.odm", b"m\xff.odm"), "JSON"
    yield "zero byte", good.replace(b"m.odm", b"m\0.odm"), "JSON"
    yield "deep nesting", b'{"signed":' + b"[" * 5000 + b"]" * 5000 + tail, ""
    yield "too large", b'{"signed":' + b" " * 2**20 + value + tail, "at most"
    name = value.replace(b"m.odm", b',\\"signatures\\":')
    yield "the next key inside a name", b'{"signed":' + name + tail, ""
    item = json.dumps(vars(key.sign(value)), separators=(",", ":")).encode()
    frame = b'{"signed":' + value + b',"signatures":'
    yield "a key's signature twice", frame + b"[" + item + b"," + item + b"]}", "two signatures"
    yield "signatures no list", frame + item + b"}", "list"
    yield (
        "seventeen signatures",
        frame
        + b"["
        + b",".join(b'{"keyid":"%02x","sig":"00"}' % number for number in range(17))
        + b"]}",
        "list of up to 16",
    )
    long = b'{"keyid":"aa","sig":"' + b"ab" * 8200 + b'"}'
    yield "long signatures", frame + b"[" + item + b"," + long + b"]}", "at most 16384 bytes"
    yield "upper case", good.replace(b'"sig":"', b'"sig":"AB'), "hexadecimal"
    yield "odd digits", good.replace(b'"sig":"', b'"sig":"a'), "hexadecimal"
    yield "no sig", good.replace(b'"sig"', b'"sog"'), "keys"


def _of_signers():
    """Signed by the trusted key, and still no set: old, expired, or nonsense."""
    value = good_manifest().signed_bytes
    old = good_manifest(version=4)
    yield "an old version", resigned(old.signed_bytes), "older"
    expired = good_manifest(expires=datetime(2026, 11, 30, 23, 59, 59, tzinfo=UTC))
    yield "expired", resigned(expired.signed_bytes), "expired"
    yield (
        "a root",
        resigned(new_root(RootContent(*[Signers((private_key(1).public,))] * 2)).signed_bytes),
        "keys",
    )
    for text, error in (
        (b"null", "keys"),
        (b"7", "keys"),
        (b"[]", "keys"),
        (b"{}", "keys"),
        (value.replace(b'"version":5', b'"version":05'), ""),
        (value.replace(b'"version":5', b'"version":5.0'), "version"),
        (value.replace(b'"version":5', b'"version":5e0'), "version"),
        (value.replace(b'"version":5', b'"version":"5"'), "version"),
        (value.replace(b'"version":5', b'"version":true'), "version"),
        (value.replace(b'"version":5', b'"version":0'), "version"),
        (value.replace(b'"version":5', b'"version":-5'), "version"),
        (value.replace(b'"version":5', b'"version":9007199254740992'), "version"),
        (value.replace(b'"version":5', b'"version":18446744073709551621'), "version"),
        (value.replace(b'"version":5', b'"version":' + b"9" * 5000), ""),
        (value.replace(b'"version":5', b'"version":1e400'), "version"),
        (value.replace(b'"version":5', b'"version":NaN'), ""),
        (value.replace(b'"version":5', b'"version":4,"version":5'), "twice"),
        (value.replace(b'"version":5', b'"version":5,"more":1'), "keys"),
        (value.replace(b'"format":1', b'"format":2'), "format"),
        (value.replace(b'"format":1', b'"format":true'), "format"),
        (value.replace(b"model set", b"model sot"), "kind"),
        (value.replace(b'"length":3', b'"length":-1'), "length"),
        (value.replace(b'"length":3', b'"length":9223372036854775808'), "length"),
        (value.replace(b'"length":3', b'"length":3.0'), "length"),
        (value.replace(b'"length":3', b'"length":null'), "length"),
        (value.replace(b'"abab', b'"ABab'), "sha256"),
        (value.replace(b'"abab', b'"ab'), "sha256"),
        (value.replace(b"2027-01-01T00:00:00Z", b"2027-02-29T00:00:00Z"), "expires"),
        (value.replace(b"2027-01-01T00:00:00Z", b"2027-01-01T24:00:00Z"), "expires"),
        (value.replace(b"2027-01-01T00:00:00Z", b"2027-01-01T00:00:60Z"), "expires"),
        (value.replace(b"2027-01-01T00:00:00Z", b"2027-01-01 00:00:00Z"), "expires"),
        (value.replace(b"2027-01-01T00:00:00Z", b"0000-01-01T00:00:00Z"), "expires"),
        (value.replace(b'"2027-01-01T00:00:00Z"', b"1798761600"), "expires"),
        *(
            (value.replace(b"m.odm", name), "plain file name")
            for name in (b"../m.odm", b"/etc/m", b"a/b", b"..", b".", b"", b"a\\\\b", b"C:m",
                         b"manifest.json", b"a\\u0000b", b"a\\nb", b"a\\u007fb", b"m" * 256)
        ),
    ):  # fmt: skip
        yield text[:60].decode("latin-1") + "...", resigned(text), error
    file = b'"m.odm":{"length":3,"sha256":"' + b"ab" * 32 + b'"}'
    yield "a file twice", resigned(value.replace(file, file + b"," + file)), "twice"
    yield (
        "a file twice, escaped",
        resigned(value.replace(file, file + b"," + file.replace(b"m.odm", b"\\u006d.odm"))),
        "twice",
    )
    many = b",".join(file.replace(b"m.odm", b"%d" % number) for number in range(1025))
    yield "too many files", resigned(value.replace(file, many)), "1024 files"
    twice = b",".join(file.replace(b"m.odm", b"%d" % (number % 99)) for number in range(100))
    yield "a file twice among many", resigned(value.replace(file, twice)), "twice"
