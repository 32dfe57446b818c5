"""Unpack a Debian ARM userland with Python and numpy into a folder: what a Raspberry Pi runs.

    python release/userland.py arm64|armhf FOLDER

Needs apt-get and a Debian package source; no root, no chroot. Raspberry Pi OS is this userland.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "android_demo"))

import debian
from debian import UnavailableError as UserlandError

# libpython3-dev: the headers that a wheel for this architecture is compiled with
PACKAGES = ("python3", "python3-numpy", "python3-venv", "libpython3-dev", "libstdc++6", "libgomp1",
            "zlib1g")  # fmt: skip


def unpack(architecture: str, folder: Path) -> Path:
    """The userland's root; unpacked once, then reused.

    Raises:
        UserlandError: no Debian source is known here, or its packages cannot be fetched.
    """
    return debian.unpack(PACKAGES, folder, architecture=architecture)


if __name__ == "__main__":
    if len(sys.argv) != 3 or sys.argv[1] not in ("arm64", "armhf"):
        sys.exit(__doc__)
    try:
        sys.stdout.write(f"{unpack(sys.argv[1], Path(sys.argv[2]))}\n")
    except UserlandError as error:
        sys.exit(str(error))
