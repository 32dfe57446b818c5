"""Writes docs/zoo.md: the zoo's networks, how far each engine is from torch, AUC by table codec.

PYTHONPATH=tests python -m zoo.write_page
"""

from __future__ import annotations

import tempfile
import warnings
from importlib import metadata
from pathlib import Path

import torch
from tqdm import tqdm
from zoo.comparison import (
    ENGINES,
    NETWORKS,
    convert_to,
    differences,
    first_score,
    train,
)

from ondevice.converters.tables.pack import pack_tables
from ondevice.converters.verify.report import markdown_table

PAGE = Path(__file__).parents[2] / "docs" / "zoo.md"
# Written by benchmarks/library_networks/run.py; stays as it is.
NEXT_SECTION = "## Networks of installed libraries"
HEAD = """# The zoo: click networks that convert

Written by `PYTHONPATH=tests python -m zoo.write_page`. {count} networks, written for this project
the ways public libraries write them, each trained shortly on a synthetic log whose clicks a random
teacher draws ([tests/zoo](../tests/zoo)). The columns of engines hold the largest difference of a
probability from torch with float32 tables, over batches of 1, 3 and 250 held-out rows; {worst:.1e}
is the largest of all. AUC: with float32 tables, and what tables of 8 and of 4 bits change, in
torch with the tables as files store them (4,096 held-out rows; standard error about 0.008).

{versions}.

"""


def main() -> None:
    """Train, convert and measure every network; this takes some minutes."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore", UserWarning)
    rows = [("network", "inputs", *ENGINES, "AUC", "q8", "q4")]
    worst = 0.0
    for network in tqdm(NETWORKS):
        trained = train(network)
        values = trained.values(0, len(trained.held_out.click))
        full = trained.auc(first_score(trained.source(values)))
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            convert_to(trained, folder)
            found = differences(trained, folder)
            tqdm.write(f"{network.__name__}: {max(found.values()):.1e}")
        source, changes = trained.source, []
        captured = source.capture()
        for codec in ("q8", "q4"):
            stored = pack_tables(captured, codec)
            changes.append(trained.auc(first_score(source(values, stored))) - full)
        worst = max(worst, *found.values())
        rows.append(
            (
                (network.__doc__ or network.__name__).splitlines()[0].rstrip("."),
                ", ".join(trained.source.names[:3]) + (", ..." if len(values) > 3 else ""),
                *(f"{found[engine]:.0e}" for engine in ENGINES),
                f"{full:.3f}",
                *(f"{change:+.4f}" for change in changes),
            )
        )
    versions = ", ".join(
        f"{package} {metadata.version(package)}"
        for package in ("torch", "onnxruntime", "ai-edge-litert", "numpy")
    )
    head = HEAD.format(count=len(NETWORKS), worst=worst, versions=versions)
    page = PAGE.read_text(encoding="utf-8")
    below = page[page.find(NEXT_SECTION) :] if NEXT_SECTION in page else ""
    PAGE.write_text(f"{head}{markdown_table(rows)}\n\n{below}".rstrip() + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
