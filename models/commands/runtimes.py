"""The stock runtimes that conversions are verified in: checked before any work is done."""

from __future__ import annotations

import importlib.util
from collections.abc import Collection

from ondevice.errors import MissingDependencyError

# For each target the modules that can run it, and the extra that installs the first of them.
RUNTIMES = {
    "onnx": (("onnxruntime",), "onnx"),
    "tflite": (("ai_edge_litert", "tflite_runtime"), "tflite"),
}


def check_runtimes(targets: Collection[str], *, choosable: bool = False) -> None:
    """Check that every target's file can be verified on this machine.

    Args:
        targets: of the conversion that follows.
        choosable: whether the command has --targets, which the message then names.

    Raises:
        MissingDependencyError: a runtime is not installed; names each package and its extra.
    """
    missing = {
        target: RUNTIMES[target]
        for target in targets
        if target in RUNTIMES and not any(map(_is_installed, RUNTIMES[target][0]))
    }
    if not missing:
        return
    packages = ", ".join(
        f"{names[0].replace('_', '-')!r} for .{target}" for target, (names, _) in missing.items()
    )
    extras = ",".join(extra for _, extra in missing.values())
    installed = [target for target in targets if target not in missing]
    other = f", or choose --targets {' '.join(installed)}" if choosable and installed else ""
    raise MissingDependencyError(
        f"every converted file is verified in its runtime; not installed: {packages}: "
        f"pip install 'ondevice-ctr[{extras}]'{other}"
    )


def _is_installed(module: str) -> bool:
    return importlib.util.find_spec(module) is not None
