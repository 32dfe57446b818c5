"""Writes a software bill of materials of a release: CycloneDX 1.6, from the lock files.

    python .ci/sbom.py > sbom.cdx.json

The runtime needs numpy only; the other packages are those that releases are tested with. The text
depends on nothing but the lock and pyproject.toml, so that anybody can write it again.
"""

from __future__ import annotations

import json
import re
import sys
import tomllib
import uuid
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent


def components(lock: str) -> list[dict[str, Any]]:
    """The packages of a lock file with their hashes."""
    found: list[dict[str, Any]] = []
    for line in lock.splitlines():
        if match := re.match(r"([A-Za-z0-9._-]+)==([^\s;\\]+)", line):
            name, version = match[1], match[2]
            purl = f"pkg:pypi/{re.sub(r'[-_.]+', '-', name).lower()}@{version.replace('+', '%2B')}"
            found.append(
                {"type": "library", "bom-ref": purl, "name": name, "version": version, "purl": purl}
                | {"hashes": []}
            )
        elif match := re.match(r"\s+--hash=sha256:([0-9a-f]{64})", line):
            found[-1]["hashes"].append({"alg": "SHA-256", "content": match[1]})
    return found


def bill(lock: str, project: dict[str, Any]) -> dict[str, Any]:
    """The document; its serial number is made of the lock and the version."""
    packages = components(lock)
    reference = f"pkg:pypi/{project['name']}@{project['version']}"
    numpy = next(item["bom-ref"] for item in packages if item["name"] == "numpy")
    serial = uuid.uuid5(uuid.NAMESPACE_URL, reference + lock)
    return {
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": f"urn:uuid:{serial}",
        "version": 1,
        "metadata": {
            "component": {
                "type": "library",
                "bom-ref": reference,
                "name": project["name"],
                "version": project["version"],
                "purl": reference,
                "licenses": [{"license": {"id": project["license"]}}],
            }
        },
        "components": [
            item | {"scope": "required" if item["bom-ref"] == numpy else "optional"}
            for item in packages
        ],
        "dependencies": [{"ref": reference, "dependsOn": [numpy]}],
    }


def main() -> int:
    """Print the bill."""
    locks = [(ROOT / name).read_text() for name in ("requirements.lock", "requirements-cuda.lock")]
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    print(json.dumps(bill("".join(locks), project), indent=1))  # noqa: T201
    return 0


if __name__ == "__main__":
    sys.exit(main())
