"""Fetches Debian packages of any architecture or suite into a folder: no root, nothing installed.

The address comes from this machine's own package sources.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

from tool import ToolError, UnavailableError, locked, run_tool

KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"
DONE = ".unpacked"


def unpack(
    packages: Sequence[str],
    folder: Path,
    *,
    architecture: str,
    suite: str | None = None,
    dependencies: bool = True,
) -> Path:
    """Unpack packages into a folder, once for a list of them; the folder is then their root.

    Args:
        packages: names.
        folder: where to; what is there is taken as complete if it is of the same packages.
        architecture: such as "arm64"; "all" packages come with any.
        suite: such as "bullseye"; None: this machine's own.
        dependencies: also what they depend on.

    Raises:
        UnavailableError: this machine has no Debian source, or its packages cannot be fetched.
    """
    with locked(folder):
        listed = " ".join(packages) + "\n"
        if (folder / DONE).exists() and (folder / DONE).read_text() == listed:
            return folder
        with tempfile.TemporaryDirectory() as name:
            state = Path(name)
            apt = ["apt-get", *_options(architecture, suite, state)]
            _run([*apt, "-qq", "update"])
            if dependencies:
                _run([*apt, "-qq", "--yes", "--download-only", "install", *packages])
                fetched = sorted((state / "cache" / "archives").glob("*.deb"))
            else:
                _run([*apt, "-qq", "download", *packages], cwd=state)
                fetched = sorted(state.glob("*.deb"))
            if not fetched:
                raise UnavailableError(f"apt-get fetched no packages for {architecture}")
            for package in fetched:
                _run(["dpkg-deb", "--extract", str(package), str(folder)])
        (folder / DONE).write_text(listed)
        return folder


def _options(architecture: str, suite: str | None, state: Path) -> list[str]:
    """Settings that keep apt-get inside `state` and away from this machine's own packages."""
    for part in ("lists/partial", "cache/archives/partial"):
        (state / part).mkdir(parents=True)
    (state / "status").touch()
    (state / "sources.list").write_text(f"deb [signed-by={KEYRING}] {_source(suite)} main\n")
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


def _source(suite: str | None) -> str:
    """Address and suite of the first plain Debian source of this machine."""
    lines = _run(["apt-get", "indextargets", "--format", "$(REPO_URI) $(CODENAME)"]).splitlines()
    suites = [line for line in lines if line.strip() and "-" not in line.rsplit(" ", 1)[1]]
    if not suites:
        raise UnavailableError("this machine has no Debian package source (apt-get update first)")
    return suites[0] if suite is None else f"{suites[0].rsplit(' ', 1)[0]} {suite}"


def _run(command: list[str], cwd: Path | None = None) -> str:
    """Standard output of a command. Raises UnavailableError with its last line of complaint."""
    try:
        return run_tool(command, cwd)
    except ToolError as error:
        last = str(error).strip().splitlines()[-1:] or ["no message"]
        raise UnavailableError(f"{command[0]} failed: {last[0]}") from error
