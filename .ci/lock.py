"""Writes the hashed lock files that `make` and continuous integration install from.

    python .ci/lock.py

requirements.lock has all packages of the extra `dev` but torch in the versions of constraints.txt,
with the hashes of all their files; requirements-cpu.lock torch's CPU build, where pip finds one
here, and requirements-cuda.lock its usual build with what that needs; requirements-legacy.lock the
oldest environment. uv resolves them in an environment that is thrown away.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import tempfile
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
UV = "uv==0.13.9"
CUDA = ("cuda-", "nvidia-", "torch==", "triton")
LEGACY = ("numpy<2", "tflite-runtime==2.14.0", "onnxruntime", "cryptography", "pytest",
          "hypothesis", "setuptools")  # fmt: skip
COMPILE = ("pip", "compile", "--generate-hashes", "--no-emit-index-url", "--no-header",
           "--no-config", "--no-annotate", "--quiet")  # fmt: skip
HEADERS = {
    "requirements.lock": "# Packages of `dev` but torch, by .ci/lock.py; pip install --no-deps.",
    "requirements-cpu.lock": "# Beside requirements.lock, where there is a CPU build of torch.",
    "requirements-cuda.lock": "# Beside requirements.lock, where there is none.",
    "requirements-legacy.lock": "# The oldest environment, for Python 3.11.",
}


def compiled(uv: Path, arguments: list[str]) -> str:
    """What uv resolves, with hashes."""
    environment = {name: text for name, text in os.environ.items() if not name.startswith("PIP_")}
    if certificate := os.environ.get("PIP_CERT"):
        environment["SSL_CERT_FILE"] = certificate
    command = [str(uv), *COMPILE, *arguments]
    done = subprocess.run(  # noqa: S603 - no shell, and arguments of this file's own
        command, cwd=ROOT, env=environment, check=True, capture_output=True, text=True
    )
    return done.stdout


def blocks(lock: str) -> list[str]:
    """The packages of a lock file, each with its hashes."""
    parts: list[str] = []
    for line in lock.splitlines(keepends=True):
        if line.startswith(" "):
            parts[-1] += line
        else:
            parts.append(line)
    return parts


def cpu_hash(python: Path, version: str) -> str | None:
    """The hash of torch's CPU build, where pip finds one here."""
    with tempfile.TemporaryDirectory() as folder:
        wanted = f"torch=={version}"
        subprocess.run(  # noqa: S603
            [python, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", folder, wanted],
            check=True,
        )
        wheel = next(Path(folder).iterdir())
        return hashlib.sha256(wheel.read_bytes()).hexdigest() if "+cpu" in wheel.name else None


def cpu_build(parts: list[str], python: Path) -> list[str]:
    """The block of torch's CPU build; none where pip finds none."""
    block = next(part for part in parts if part.startswith("torch=="))
    version = block.split("==")[1].split()[0]
    digest = cpu_hash(python, version)
    return [] if digest is None else [f"torch=={version}+cpu \\\n    --hash=sha256:{digest}\n"]


def main() -> int:
    """Write all lock files."""
    with tempfile.TemporaryDirectory() as folder:
        venv.create(folder, with_pip=True)
        python, uv = Path(folder, "bin", "python"), Path(folder, "bin", "uv")
        subprocess.run([python, "-m", "pip", "install", "--quiet", UV], check=True)  # noqa: S603
        universal = ["--universal", "--python-version", "3.11"]
        lock = compiled(
            uv, ["pyproject.toml", "--extra", "dev", "-c", "constraints.txt", *universal]
        )
        wanted = Path(folder, "legacy.in")
        wanted.write_text("\n".join(LEGACY) + "\n")
        legacy = compiled(
            uv, [str(wanted), "-c", "constraints-legacy.txt", "--python-version", "3.11"]
        )
        parts = blocks(lock)
        locks = {
            "requirements.lock": [part for part in parts if not part.startswith(CUDA)],
            "requirements-cpu.lock": cpu_build(parts, python),
            "requirements-cuda.lock": [part for part in parts if part.startswith(CUDA)],
            "requirements-legacy.lock": blocks(legacy),
        }
    for name, content in locks.items():
        (ROOT / name).write_text("".join([HEADERS[name] + "\n", *content]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
