"""Write the reference of the Python interface as HTML, from its docstrings: `make reference`."""

from __future__ import annotations

import argparse
from pathlib import Path

import pdoc
import pdoc.render

# What docs/stability.md promises; whatever else these packages hold is left out.
MODULES = (
    "ondevice",
    r"!ondevice\.",
    "ondevice.errors",
    "ondevice.verify",
    "ondevice.inspection",
    "ondevice.converters",
    r"!ondevice\.converters\.",
    "ondevice.models",
    r"!ondevice\.models\.",
)


def write_reference(folder: Path) -> None:
    """Write the pages into a folder, which need not exist."""
    pdoc.render.configure(
        docformat="google", show_source=False, footer_text="ondevice", search=True
    )
    pdoc.pdoc(*MODULES, output_directory=folder)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, nargs="?", default=Path("build/reference"))
    write_reference(parser.parse_args().folder)
