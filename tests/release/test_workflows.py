"""The workflows, which run elsewhere: every word they refer to exists, and who may publish."""

import re
import shlex
from pathlib import Path

import pytest
import yaml
from support.tools import needs

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / ".github" / "workflows"
pytestmark = needs("" if FOLDER.is_dir() else "an installation without the repository's files")


def jobs(name):
    return yaml.safe_load((FOLDER / name).read_text())["jobs"]


@pytest.mark.parametrize("name", ["ci.yml", "wheels.yml"])
def test_what_they_name_exists(name):
    text = (FOLDER / name).read_text()
    for path in re.findall(r"(?<![\w/@-])(?:release|tests|\.ci)/[\w./]+", text):
        assert (ROOT / path).exists(), path
    for job, about in jobs(name).items():
        needed = about.get("needs", [])
        assert {needed} if isinstance(needed, str) else set(needed) <= set(jobs(name)), job
        for entry in about.get("strategy", {}).get("matrix", {}).get("include", [{}]):
            for word in re.findall(r"matrix\.(\w+)", str(about)):
                matrix = about["strategy"]["matrix"]
                assert word in entry or word in matrix, (job, word)


def test_every_wheel_has_a_name_of_its_own():
    """Of artefacts, as an equal name replaces the one before; of files, as one folder takes all."""
    names = []
    for about in jobs("wheels.yml").values():
        uploads = [
            s["with"]["name"] for s in about["steps"] if "upload-artifact" in s.get("uses", "")
        ]
        matrix = about.get("strategy", {}).get("matrix", {})
        entries = matrix.get("include") or [
            {"system": system} for system in matrix.get("system", [""])
        ]
        for name in uploads:
            for entry in entries:
                names.append(re.sub(r"\$\{\{ matrix\.(\w+) \}\}", lambda m, e=entry: e[m[1]], name))
    assert len(names) == len(set(names)) >= 11
    wheels = {name for name in names if name.startswith("wheel-")}
    assert {"wheel-pure", "wheel-manylinux-armv7l", "wheel-musllinux-x86_64", "wheel-macos-arm64",
            "wheel-windows-x86_64"} <= wheels  # fmt: skip


def test_wheels_are_built_by_the_tools_that_tests_run():
    from_tests = {"release/arm_wheels.py", "release/cross_wheels.py"}
    runs = [step["run"] for about in jobs("wheels.yml").values() for step in about["steps"]
            if "run" in step]  # fmt: skip
    assert {word for run in runs for word in shlex.split(run) if word in from_tests} == from_tests


def test_only_a_tag_publishes_and_nothing_secret_is_stored():
    workflow = yaml.safe_load((FOLDER / "wheels.yml").read_text())
    assert workflow["permissions"] == {"contents": "read"}
    allowed = {name: about.get("permissions", {}) for name, about in workflow["jobs"].items()}
    writers = {name for name, rights in allowed.items() if "write" in rights.values()}
    assert writers == {"attest", "publish"}
    publish = workflow["jobs"]["publish"]
    assert publish["if"] == "startsWith(github.ref, 'refs/tags/v')"
    assert (publish["environment"], publish["needs"]) == ("pypi", "attest")
    assert allowed["publish"] == {"id-token": "write"}
    text = (FOLDER / "wheels.yml").read_text()
    assert "secrets." not in text and "password:" not in text
    everything = {job for job in workflow["jobs"] if job not in ("attest", "publish", "windows")}
    assert set(workflow["jobs"]["attest"]["needs"]) == everything
