"""Signed models in JavaScript: the vectors, forgeries and roots that C and Python judge too."""

import hashlib
import json
import shutil

import pytest
from support import web
from support.browser import LACKING as CHROMIUM_LACKING
from support.random_plans import random_plan
from support.signing import NOW, forgeries, good_manifest, private_key, root, sign_folder, signed
from support.tools import needs

from ondevice.manifest import FileRecord, parse_manifest

pytestmark = needs(web.NODE_LACKING, web.CLANG_LACKING)
KEY, OTHER = private_key(1), private_key(2)
ROOTS = [private_key(seed) for seed in (11, 12, 13)]
PEM = KEY.public.to_pem()
MILLISECONDS = int(NOW.timestamp() * 1000)
GOLDEN = web.ROOT / "tests" / "golden"
SIZE = 32_000, 13_900  # of signatures.wasm, raw and gzipped: stated in web/README.md


@pytest.fixture(scope="module")
def dist(tmp_path_factory):
    folder = tmp_path_factory.mktemp("dist")
    web.builder().build(folder)
    return folder


@pytest.fixture
def models(tmp_path):
    """A signed folder of one model."""
    folder = tmp_path / "models"
    folder.mkdir()
    random_plan(4, "q8").write(folder / "m.odm")
    sign_folder(folder, KEY, version=5)
    return folder


def loads(dist, *tasks):
    """What signed loads say, at NOW and with the key where they do not say otherwise."""
    listed = [{"keys": PEM, "now": MILLISECONDS} | task for task in tasks]
    (said,) = web.in_node(dist, [{"do": "signed", "loads": listed}])
    return said


def golden(name):
    return json.loads((GOLDEN / name).read_text())["vectors"]


def test_vectors_of_rfc_and_wycheproof(dist):
    """As in C: keys of small order are refused, which the vectors allow."""
    rfc, wycheproof = golden("rfc8032_ed25519.json"), golden("wycheproof_ed25519.json")
    vectors = [[row[3], row[2], row[1]] for row in (*rfc, *wycheproof)]
    vectors += [[row[3], row[2] + "00", row[1]] for row in rfc]
    wasm = str(dist / "signatures.wasm")
    (said,) = web.in_node(dist, [{"do": "signatures", "wasm": wasm, "dist": dist.as_uri(),
                                  "vectors": vectors}])  # fmt: skip
    assert said[: len(rfc)] == [True] * 5
    assert said[-len(rfc) :] == [False] * 5
    counts = {}
    for row, answer in zip(wycheproof, said[len(rfc) : -len(rfc)], strict=True):
        result, flags = row[4:]
        if flags == "SmallOrderPublicKey":
            assert not answer, row[0]
        else:
            assert result == "acceptable" or answer == (result == "valid"), row[0]
        counts[result] = counts.get(result, 0) + 1
    assert counts == {"valid": 117, "invalid": 64, "acceptable": 29}


def test_hashes(dist):
    sizes = [0, 1, 55, 56, 64, 1000, 2**20, 2**20 + 1]
    (said,) = web.in_node(dist, [{"do": "sha256", "wasm": str(dist / "signatures.wasm"),
                                  "dist": dist.as_uri(), "sizes": sizes}])  # fmt: skip
    for size, answer in zip(sizes, said, strict=True):
        content = bytes(i * i % 256 for i in range(size))
        assert answer == hashlib.sha256(content).hexdigest(), size


def test_a_signed_model(dist, models):
    path, manifest = str(models / "m.odm"), str(models / "manifest.json")
    shutil.copy(path, models / "n.odm")
    said = loads(
        dist,
        {"source": path},
        {"source": (models / "m.odm").as_uri()},
        {"source": path, "asBytes": True, "manifest": manifest, "name": "m.odm"},
        {"source": path, "keys": [OTHER.public.to_pem(), list(KEY.public.raw)]},
        {"source": path, "keys": OTHER.public.to_pem() + PEM},
        {"source": path, "seen": {"version": 5}},
        {"source": path, "seen": {"version": 6}},
        {"source": path, "keys": OTHER.public.to_pem()},
        {"source": str(models / "n.odm")},
        {"source": path, "name": "n.odm"},
        {"source": path, "asBytes": True, "manifest": manifest, "name": "../m.odm"},
    )
    assert said[:6] == [5] * 6
    assert [text.split(":")[0] for text in said[6:]] == ["TrustError"] * 5
    assert "version 5 is older than 6" in said[6]


def test_another_set_of_the_same_version_is_refused(dist, models):
    """As in Python, C and Java: what was used is known by its digest, which JSON keeps."""
    path = str(models / "m.odm")
    (listed,) = web.in_node(
        dist,
        [{"do": "signed", "whole": True,
          "loads": [{"source": path, "keys": PEM, "now": MILLISECONDS}]}],
    )  # fmt: skip
    seen = listed[0]
    manifest = parse_manifest((models / "manifest.json").read_bytes(), "manifest.json")
    digest = hashlib.sha256(manifest.signed_bytes).hexdigest()
    assert seen == {"version": 5, "sha256": digest}
    assert loads(dist, {"source": path, "seen": seen}, {"source": path, "seen": None}) == [5, 5]
    random_plan(6, "q8").write(models / "m.odm")
    sign_folder(models, KEY, version=5)
    said = loads(
        dist,
        {"source": path, "seen": seen},
        {"source": path, "seen": {"version": 5}},
        {"source": path, "seen": {"version": 4, "sha256": digest}},
    )
    assert said == ["TrustError: manifest.json: another set of version 5 was used", 5, 5]
    sign_folder(models, KEY, version=6)
    assert loads(dist, {"source": path, "seen": seen}) == [6]


def test_wrong_arguments(dist, models):
    path, manifest = str(models / "m.odm"), str(models / "manifest.json")
    said = loads(
        dist,
        *(
            {"source": path, "keys": keys}
            for keys in (None, [], "", 7, [None], {}, [[1] * 31], [PEM, 3])
        ),
        {"source": path, "asBytes": True, "manifest": manifest},
        {"source": path, "asBytes": True, "name": "m.odm"},
        *({"source": path, "seen": {"version": v}} for v in (-1, 0.5, "5", 2**53, None)),
        *({"source": path, "seen": seen} for seen in (5, "5", True, [], {}, {"sha256": "0" * 64})),
        *(
            {"source": path, "seen": {"version": 5, "sha256": digest}}
            for digest in (None, 7, "", "0" * 63, "0" * 65, "G" * 64, "A" * 64, "0" * 64 + "\n")
        ),
        {"source": path, "name": 5},
        {"source": path, "roots": [manifest]},
        {"source": path, "name": "m\0.odm"},
    )
    kinds = [text.split(":")[0] for text in said]
    assert kinds == ["InputError"] * 2 + ["FileFormatError"] + ["InputError"] * (len(said) - 3)
    said = loads(
        dist,
        *({"source": path, "keys": keys} for keys in (
            "PEM", PEM[:-5], PEM + "x", PEM.replace("MCowBQYDK2Vw", "MCowBQYDK2Vx"), "{", "{}",
            "-----BEGIN PUBLIC KEY-----\n====\n-----END PUBLIC KEY-----",
            [[0] * 32], [[1] + [0] * 31])),
    )  # fmt: skip
    assert {text.split(":")[0] for text in said} == {"FileFormatError"}


def test_options_without_keys_are_refused(dist, models):
    """Or somebody might think that a signature is checked."""
    script = (  # the name of the error of each
        "const { load } = await import(process.argv[1]); const said = [];"
        "for (const options of"
        " [{ seen: { version: 1 } }, { manifest: 'x' }, { now: new Date() }, { keys: undefined },"
        " { leastVersion: 5 }])"
        " said.push(await load(process.argv[2], options)"
        ".then(() => 'loaded', (error) => error.name));"
        "console.log(JSON.stringify(said));"
    )
    done = web.subprocess.run(
        ["node", "--input-type=module", "-e", script, dist / "ondevice.js", models / "m.odm"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert json.loads(done.stdout) == ["InputError"] * 5


def test_changed_files_and_manifests(dist, models):
    path, manifest = models / "m.odm", models / "manifest.json"
    content, text = path.read_bytes(), manifest.read_bytes()
    tasks = []
    for number, changed in enumerate(
        (content[:-1], content + b"\0", b"", content[:9] + b"x" + content[10:])
    ):
        (models / f"changed{number}").write_bytes(changed)
        tasks.append({"source": str(models / f"changed{number}"), "name": "m.odm"})
    said = loads(dist, *tasks, {"source": str(models / "none.odm")})
    assert {answer.split(":")[0] for answer in said} == {"FileFormatError"}
    tasks = []
    for bit in range(0, 8 * len(text) - 8, 37):
        flipped = bytearray(text)
        flipped[bit // 8] ^= 1 << bit % 8
        (models / f"{bit}.json").write_bytes(flipped)
        tasks.append({"source": str(path), "manifest": str(models / f"{bit}.json")})
    for size in (0, 1, 10, len(text) // 2, len(text) - 2):
        (models / f"cut{size}.json").write_bytes(text[:size])
        tasks.append({"source": str(path), "manifest": str(models / f"cut{size}.json")})
    (models / "long.json").write_bytes(text + b" " * 2**20)
    tasks.append({"source": str(path), "manifest": str(models / "long.json")})
    said = loads(dist, *tasks)
    assert {answer.split(":")[0] for answer in said} == {"FileFormatError", "TrustError"}


def test_forgeries_are_refused(dist, models):
    tasks, names = [], []
    for number, forgery in enumerate(forgeries()):
        (models / f"{number}.json").write_bytes(forgery.data)
        tasks.append({"source": str(models / "m.odm"), "seen": {"version": 5},
                      "manifest": str(models / f"{number}.json")})  # fmt: skip
        names.append(forgery)
    said = loads(dist, *tasks)
    for forgery, answer in zip(names, said, strict=True):
        assert str(answer).startswith(("FileFormatError", "TrustError")), forgery.name
        if forgery.error in ("0 valid", "older", "expired"):
            assert answer.startswith("TrustError"), (forgery.name, answer)


def test_expiry_to_the_second(dist, models):
    content = (models / "m.odm").read_bytes()
    files = {"m.odm": FileRecord(len(content), hashlib.sha256(content).hexdigest())}
    (models / "manifest.json").write_bytes(signed(good_manifest(expires=NOW, files=files), KEY))
    path = str(models / "m.odm")
    said = loads(dist, {"source": path}, {"source": path, "now": MILLISECONDS + 1000},
                 {"source": path, "now": -1}, {"source": path, "now": 8.64e15})  # fmt: skip
    assert said[0] == said[2] == 5
    assert [text.split(":")[0] for text in (said[1], said[3])] == ["TrustError"] * 2


def test_roots(dist, models):
    path = str(models / "m.odm")
    first = root(ROOTS, [KEY], *ROOTS[:2], thresholds=(2, 1)).decode()
    second, third, forged, expired = (
        models / f"{name}.json" for name in ("2", "3", "forged", "expired")
    )
    second.write_bytes(root(ROOTS, [OTHER], *ROOTS[1:], version=2, thresholds=(2, 1)))
    third.write_bytes(root(ROOTS, [KEY], *ROOTS[1:], version=3, thresholds=(2, 1)))
    forged.write_bytes(root(ROOTS, [KEY], ROOTS[0], version=2, thresholds=(2, 1)))
    expired.write_bytes(root(ROOTS, [KEY], *ROOTS, version=2, thresholds=(2, 1),
                             expires=NOW.replace(year=2020)))  # fmt: skip
    said = loads(
        dist,
        {"source": path, "keys": first},
        {"source": path, "keys": first, "roots": [str(second), str(third)]},
        {"source": path, "keys": first, "roots": [str(second)]},
        {"source": path, "keys": first, "roots": [str(forged)]},
        {"source": path, "keys": first, "roots": [str(expired)]},
        {"source": path, "keys": first, "roots": [str(third)]},
        {"source": path, "keys": [first]},
        {"source": path, "keys": root(ROOTS, [KEY], ROOTS[0], thresholds=(2, 1)).decode()},
        {"source": path, "keys": root(ROOTS, [KEY, OTHER], *ROOTS, thresholds=(2, 2)).decode()},
    )
    assert said[:2] == [5, 5]
    kinds = [text.split(":")[0] for text in said[2:]]
    assert kinds[:3] == ["TrustError"] * 3
    assert kinds[3] in ("TrustError", "FileFormatError")
    assert kinds[4:] == ["FileFormatError", "TrustError", "TrustError"]


def test_bytes_that_change_during_the_check(dist, models):
    request = {
        n: [str(v) for v in a] for n, a in random_plan(4, "q8").request(3).items() if a.ndim == 1
    }
    task = {"do": "swapped", "source": str(models / "m.odm"), "name": "m.odm", "keys": PEM,
            "manifest": str(models / "manifest.json"), "now": MILLISECONDS,
            "inputs": request}  # fmt: skip
    (said,) = web.in_node(dist, [task])
    assert said == "the same" or said.startswith(
        "FileFormatError: manifest.json: m.odm: has another"
    )


@needs(CHROMIUM_LACKING)
def test_in_a_page_and_in_a_worker(dist, models):
    """By address, with the manifest beside the model, under a Content-Security-Policy."""
    folder = models.parent
    (models / "other.odm").write_bytes((models / "m.odm").read_bytes() + b"\0")
    listed = [{"source": f"models/{name}", "keys": PEM, "now": MILLISECONDS}
              for name in ("m.odm", "m.odm?x=1#y", "other.odm", "%6d.odm", "%.odm")]  # fmt: skip
    page, worker, console = web.in_chromium(dist, [{"do": "signed", "loads": listed}], folder)
    assert page == worker
    (said,) = page
    assert said[:2] == [5, 5]
    assert said[3] == 5
    assert said[2].startswith("TrustError")
    assert said[4].startswith(("InputError", "FileFormatError"))
    assert [line for line in console if "404" not in line] == []


def test_the_size_that_is_stated(dist):
    import gzip

    content = (dist / "signatures.wasm").read_bytes()
    assert len(content) <= SIZE[0]
    assert len(gzip.compress(content, 9)) <= SIZE[1]
    readme = (web.ROOT / "web" / "README.md").read_text("utf-8")
    assert f"{SIZE[0] / 1000:g} kB ({SIZE[1] / 1000:g} kB gzipped)" in readme
