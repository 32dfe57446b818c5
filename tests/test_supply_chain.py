"""Lock files, the bill of materials and the workflows: every package has hashes."""

import importlib.util
import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LOCKS = ("requirements.lock", "requirements-cuda.lock", "requirements-legacy.lock")
CPU = "requirements-cpu.lock"
pytestmark = pytest.mark.skipif(
    not (ROOT / ".ci").is_dir(), reason="an installation without the repository's own files"
)


def canonical(name):
    return re.sub(r"[-_.]+", "-", name).lower()


def locked(name):
    """Version and hashes by package."""
    packages, current = {}, None
    for line in (ROOT / name).read_text().splitlines():
        if match := re.match(r"([A-Za-z0-9._-]+)==([^\s;\\]+)", line):
            current = packages.setdefault(canonical(match[1]), (match[2], []))
        elif match := re.fullmatch(r"    --hash=sha256:([0-9a-f]{64})( \\)?", line):
            current[1].append(match[1])
        else:
            assert line.startswith("#"), f"{name}: {line}"
    return packages


@pytest.mark.parametrize("name", [*LOCKS, CPU])
def test_every_package_has_a_version_and_hashes(name):
    packages = locked(name)
    assert packages
    for package, (version, hashes) in packages.items():
        assert version, package
        assert len(set(hashes)) == len(hashes) > 0, package
    assert "://" not in (ROOT / name).read_text()  # no registry is named


def constraints(name):
    lines = (ROOT / name).read_text().split()
    return {canonical(line.split("==")[0]): line.split("==")[1] for line in lines}


@pytest.mark.parametrize(
    ("lock", "versions"),
    [
        ("requirements.lock", "constraints.txt"),
        ("requirements-legacy.lock", "constraints-legacy.txt"),
    ],
)
def test_locks_have_the_versions_that_are_tested_together(lock, versions):
    """If this fails after a change of constraints: `make lock`."""
    packages = locked(lock)
    if lock == "requirements.lock":
        packages["torch"] = locked("requirements-cuda.lock")["torch"]
        assert locked(CPU)["torch"][0] == f"{packages['torch'][0]}+cpu"
    assert {name: packages.get(name, (None,))[0] for name in constraints(versions)} == constraints(
        versions
    )


def test_every_dependency_of_the_project_is_locked():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    needed, todo = set(project["dependencies"]), ["dev"]
    while todo:
        for item in extras[todo.pop()]:
            if match := re.fullmatch(r"ondevice-ctr\[(.*)\]", item):
                todo += match[1].split(",")
            else:
                needed.add(item)
    names = {canonical(re.match(r"[A-Za-z0-9._-]+", item)[0]) for item in needed}
    assert names <= {*locked("requirements.lock"), "torch"}


def test_make_installs_by_hashes_only():
    """The project itself comes without dependencies and with the locked build tools."""
    makefile = (ROOT / "Makefile").read_text()
    installs = re.findall(r"\$\(PIP\) .*", makefile)
    assert "LOCKED := install --no-deps --require-hashes -r" in makefile
    assert len(installs) >= 5
    for line in installs:
        assert "$(LOCKED)" in line or "--no-deps" in line, line


def test_the_bill_of_materials_is_that_of_the_lock():
    command = [sys.executable, str(ROOT / ".ci" / "sbom.py")]
    once, again = (subprocess.run(command, check=True, capture_output=True).stdout for _ in "ab")
    assert once == again
    bill = json.loads(once)
    assert (bill["bomFormat"], bill["specVersion"]) == ("CycloneDX", "1.6")
    packages = locked("requirements.lock") | locked("requirements-cuda.lock")
    assert len(bill["components"]) == len(packages)
    references = set()
    for item in bill["components"]:
        version, hashes = packages[canonical(item["name"])]
        assert item["version"] == version
        assert [entry["content"] for entry in item["hashes"]] == hashes
        assert item["purl"] == f"pkg:pypi/{canonical(item['name'])}@{version}"
        references.add(item["bom-ref"])
    assert len(references) == len(packages)
    (own,) = bill["dependencies"]
    assert own["ref"] == bill["metadata"]["component"]["bom-ref"]
    assert [ref.split("@")[0] for ref in own["dependsOn"]] == ["pkg:pypi/numpy"]
    assert set(own["dependsOn"]) <= references


def test_lock_files_are_split_by_package():
    spec = importlib.util.spec_from_file_location("lock", ROOT / ".ci" / "lock.py")
    lock = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(lock)
    text = "a==1 \\\n    --hash=sha256:00\nb==2 ; x \\\n    --hash=sha256:11\n"
    assert lock.blocks(text) == [text[: text.index("b==")], text[text.index("b==") :]]
