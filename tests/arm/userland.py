"""Unpack a Debian ARM userland with Python and numpy into a folder: what a Raspberry Pi runs.

    python tests/arm/userland.py arm64|armhf FOLDER

Needs apt-get and a Debian package source; no root, no chroot. Raspberry Pi OS is this userland.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

# libpython3-dev: the headers that a wheel for this architecture is compiled with
PACKAGES = ("python3", "python3-numpy", "libpython3-dev", "libstdc++6", "libgomp1", "zlib1g")
DONE = ".unpacked"


class UserlandError(RuntimeError):
    """The userland cannot be had on this machine."""


def unpack(architecture: str, folder: Path) -> Path:
    """The userland's root; unpacked once, then reused.

    Raises:
        UserlandError: no Debian source is known here, or its packages cannot be fetched.
    """
    if (folder / DONE).exists():
        return folder
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as name:
        state = Path(name)
        apt = ["apt-get", *_options(architecture, state)]
        _run([*apt, "-qq", "update"])
        _run([*apt, "-qq", "--yes", "--download-only", "install", *PACKAGES])
        packages = sorted((state / "cache" / "archives").glob("*.deb"))
        if not packages:
            raise UserlandError(f"apt-get fetched no packages for {architecture}")
        for package in packages:
            _run(["dpkg-deb", "--extract", str(package), str(folder)])
    (folder / DONE).touch()
    return folder


def _options(architecture: str, state: Path) -> list[str]:
    """Settings that keep apt-get inside `state` and away from this machine's own packages."""
    for part in ("lists/partial", "cache/archives/partial"):
        (state / part).mkdir(parents=True)
    (state / "status").touch()
    (state / "sources.list").write_text(f"deb [signed-by={KEYRING}] {_source()} main\n")
    settings = {
        "APT::Architecture": architecture,
        "APT::Architectures": architecture,
        "APT::Install-Recommends": "0",
        "APT::Sandbox::User": "root",
        "Dir::Cache": state / "cache",
        "Dir::Etc::sourcelist": state / "sources.list",
        "Dir::Etc::sourceparts": "-",
        "Dir::State": state,
        "Dir::State::lists": state / "lists",
        "Dir::State::status": state / "status",
    }
    return [part for key, value in settings.items() for part in ("-o", f"{key}={value}")]


KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"


def _source() -> str:
    """Address and suite of the first plain Debian source of this machine."""
    lines = _run(["apt-get", "indextargets", "--format", "$(REPO_URI) $(CODENAME)"]).splitlines()
    suites = [line for line in lines if line.strip() and "-" not in line.rsplit(" ", 1)[1]]
    if not suites:
        raise UserlandError("no Debian package source is known here (apt-get update first)")
    return suites[0]


def _run(command: list[str]) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    except FileNotFoundError as error:
        raise UserlandError(f"not installed: {command[0]}") from error
    except subprocess.CalledProcessError as error:
        last = error.stderr.strip().splitlines()[-1:] or ["no message"]
        raise UserlandError(f"{command[0]} failed: {last[0]}") from error
    return done.stdout


if __name__ == "__main__":
    if len(sys.argv) != 3 or sys.argv[1] not in ("arm64", "armhf"):
        sys.exit(__doc__)
    try:
        sys.stdout.write(f"{unpack(sys.argv[1], Path(sys.argv[2]))}\n")
    except UserlandError as error:
        sys.exit(str(error))
