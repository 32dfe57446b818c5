"""keygen, root, sign and verify --key on the command line, as docs/signing.md shows them."""

import stat

import pytest
from support.runtime import write_small_model

from ondevice.cli import main
from ondevice.manifest import NAME, read_manifest
from ondevice.signed_json import read_expiry
from ondevice.trust import read_public_keys

pytest.importorskip("cryptography")


@pytest.fixture
def work(tmp_path, monkeypatch):
    """A folder to work in, with a model in models/."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "models").mkdir()
    write_small_model(tmp_path / "models" / "m.odm")
    return tmp_path


def run(capsys, *words, code=0):
    """Output of a command; of a failed one what it says."""
    assert main([str(word) for word in words]) == code
    said = capsys.readouterr()
    if code:
        assert said.out == ""
        return said.err
    assert said.err == ""
    return said.out


def failed_usage(capsys, *words):
    with pytest.raises(SystemExit) as ended:
        main([str(word) for word in words])
    assert ended.value.code == 2
    return capsys.readouterr().err


def test_sign_and_verify(work, capsys):
    said = run(capsys, "keygen", "k.key")
    assert stat.S_IMODE((work / "k.key").stat().st_mode) == 0o600
    keyid = read_public_keys(work / "k.key.pub")[0].keyid
    assert keyid in said
    said = run(capsys, "sign", "models", "--key", "k.key", "--version", 7,
               "--expires", "2999-01-01T00:00:00Z")  # fmt: skip
    assert f"models/{NAME}: version 7, 1 file; signed by" in said and keyid in said
    made = read_manifest(work / "models" / NAME)
    assert made.model_set.version == 7
    assert made.model_set.expires == read_expiry("2999-01-01T00:00:00Z", "")
    assert ": ok:" in run(capsys, "verify", "models/m.odm", "--key", "k.key.pub")
    (work / "models" / "m.odm").write_bytes(b"other")
    said = run(capsys, "sign", "models", "--key", "k.key", code=1)
    assert "manifest says" in said
    run(capsys, "keygen", "other.key")
    write_small_model(work / "models" / "m.odm")
    said = run(capsys, "verify", "models/m.odm", "--key", "other.key.pub", code=1)
    assert "0 valid signatures of trusted keys, expected 1" in said


def test_a_second_signature_and_a_new_version(work, capsys):
    for name in ("a", "b"):
        run(capsys, "keygen", f"{name}.key")
    run(capsys, "sign", "models/m.odm", "--key", "a.key")
    run(capsys, "sign", "models/m.odm", "--key", "b.key")
    run(capsys, "sign", "models/m.odm", "--key", "b.key")
    assert len(read_manifest(work / "models" / NAME).signatures) == 2
    run(capsys, "sign", "models/m.odm", "--key", "b.key", "--version", "now")
    made = read_manifest(work / "models" / NAME)
    assert len(made.signatures) == 1 and made.model_set.version > 20_000_000_000_000


def test_a_key_with_a_passphrase(work, capsys, monkeypatch):
    (work / "pass").write_bytes(b"correct horse\r\nsecond line")
    (work / "wrong").write_text("battery")
    (work / "empty").write_text("\n")
    run(capsys, "keygen", "k.key", "--passphrase-file", "pass")
    assert b"ENCRYPTED" in (work / "k.key").read_bytes()
    run(capsys, "sign", "models", "--key", "k.key", "--passphrase-file", "pass")
    for name, error in (("wrong", "wrong passphrase"), ("empty", "is empty")):
        assert error in run(
            capsys, "sign", "models", "--key", "k.key", "--passphrase-file", name, code=1
        )
    assert "no terminal" in run(capsys, "sign", "models", "--key", "k.key", code=1)
    monkeypatch.setattr("sys.stdin.isatty", lambda: True)
    monkeypatch.setattr("getpass.getpass", lambda prompt: "correct horse")
    run(capsys, "sign", "models", "--key", "k.key")
    run(capsys, "keygen", "two.key", "--passphrase")
    answers = iter(["one", "two"])
    monkeypatch.setattr("getpass.getpass", lambda prompt: next(answers))
    assert "differ" in run(capsys, "keygen", "three.key", "--passphrase", code=1)
    assert not (work / "three.key").exists()


def test_keys_are_not_overwritten(work, capsys):
    run(capsys, "keygen", "k.key")
    before = (work / "k.key").read_bytes()
    assert "k.key" in run(capsys, "keygen", "k.key", code=1)
    assert (work / "k.key").read_bytes() == before


def test_files_that_are_no_private_keys(work, capsys):
    run(capsys, "keygen", "k.key")
    (work / "damaged.key").write_bytes((work / "k.key").read_bytes()[:-40])
    for name in ("k.key.pub", "damaged.key", "models/m.odm", "missing.key"):
        said = run(capsys, "sign", "models", "--key", name, code=1)
        assert name in said and said.count("\n") == 1


def test_a_root_and_its_rotation(work, capsys):
    """The session of docs/signing.md."""
    for name in ("anna", "ben", "carla", "models", "new"):
        run(capsys, "keygen", f"{name}.key")
    pubs = ["anna.key.pub", "ben.key.pub", "carla.key.pub"]
    run(capsys, "root", "1.root.json", "--root-key", *pubs, "--root-threshold", 2,
        "--model-key", "models.key.pub")  # fmt: skip
    said = run(capsys, "sign", "1.root.json", "--key", "anna.key")
    assert "1 of 2 of its root keys" in said
    assert "1 valid" in run(capsys, "verify", "models/m.odm", "--key", "1.root.json", code=1)
    run(capsys, "sign", "1.root.json", "--key", "ben.key")
    run(capsys, "sign", "models", "--key", "models.key", "--version", 5)
    options = ["--key", "1.root.json", "--state", "state.json"]
    run(capsys, "verify", "models/m.odm", *options)
    run(capsys, "root", "models/2.root.json", "--replaces", "1.root.json", "--model-key",
        "new.key.pub")  # fmt: skip
    run(capsys, "sign", "models/2.root.json", "--key", "anna.key", "carla.key")
    assert "0 valid" in run(capsys, "verify", "models/m.odm", *options, code=1)
    run(capsys, "sign", "models", "--key", "new.key", "--version", 6)
    run(capsys, "verify", "models/m.odm", *options)
    assert "2.root.json" not in read_manifest(work / "models" / NAME).model_set.files
    run(capsys, "sign", "models", "--key", "new.key", "--version", 5)
    assert "older than 6" in run(capsys, "verify", "models/m.odm", *options, code=1)


def test_roots_that_are_refused(work, capsys):
    run(capsys, "keygen", "k.key")
    pub = ["--model-key", "k.key.pub"]
    assert "--root-key" in run(capsys, "root", "1.root.json", *pub, code=1)
    both = [*pub, "--root-key", "k.key.pub"]
    assert "1.root.json" in run(capsys, "root", "root.json", *both, code=1)
    said = run(capsys, "root", "1.root.json", *both, "--root-threshold", 2, code=1)
    assert "threshold must be 1..1" in said
    run(capsys, "root", "1.root.json", *both)
    assert "exists" in run(capsys, "root", "1.root.json", *both, code=1)
    said = run(capsys, "sign", "1.root.json", "--key", "k.key", "--version", 3, code=1)
    assert "ondevice root" in said


@pytest.mark.parametrize("option", [("--version", "0"), ("--version", "1" * 5000),
                                    ("--version", "9007199254740992"), ("--expires", "tomorrow"),
                                    ("--expires", "2027-02-30T00:00:00Z")])  # fmt: skip
def test_options_that_are_refused(work, capsys, option):
    said = failed_usage(capsys, "sign", "models", "--key", "k.key", *option)
    assert option[0] in said


@pytest.mark.parametrize("has_manifest", [False, True])
def test_a_private_key_among_the_models_is_refused(work, capsys, has_manifest):
    """Devices get that folder; public keys in it are no files of the set."""
    run(capsys, "keygen", "models/k.key")
    (work / "k.key").write_bytes((work / "models" / "k.key").read_bytes())
    if has_manifest:
        (work / "models" / "k.key").unlink()
        run(capsys, "sign", "models", "--key", "k.key")
        assert set(read_manifest(work / "models" / NAME).model_set.files) == {"m.odm"}
        (work / "models" / "k.key").write_bytes((work / "k.key").read_bytes())
    said = run(capsys, "sign", "models", "--key", "k.key", code=1)
    assert "models/k.key: is a private key" in said
    assert (work / "models" / NAME).exists() == has_manifest


def test_nothing_to_sign(work, capsys):
    run(capsys, "keygen", "k.key")
    (work / "nothing").mkdir()
    for path in ("nothing", "missing", "missing/m.odm"):
        assert "no files to sign" in run(capsys, "sign", path, "--key", "k.key", code=1)
