"""Photograph the pages of a demo for the README, in Chromium: `make pictures`."""

from __future__ import annotations

import argparse
import shutil
import subprocess
import tempfile
from pathlib import Path

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
# By page of the demo: its picture, and the window in CSS pixels.
PICTURES = {"live.html": ("live.png", (1100, 880)), "bench.html": ("bench.png", (1100, 1000))}
WAIT_MS = 8000  # until the page has ranked at full speed


def photograph(page: Path, picture: Path, size: tuple[int, int]) -> None:
    """Write a page's first screen as PNG.

    Raises:
        FileNotFoundError: no browser.
        subprocess.CalledProcessError: it fails.
    """
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None:
        raise FileNotFoundError(f"expected one of {', '.join(BROWSERS)} on the path")
    with tempfile.TemporaryDirectory() as profile:
        command = [
            *(browser, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"),
            *(f"--user-data-dir={profile}", f"--timeout={WAIT_MS}"),
            *(f"--window-size={size[0]},{size[1]}", f"--screenshot={picture.absolute()}"),
            page.resolve().as_uri(),
        ]
        subprocess.run(command, check=True, capture_output=True, timeout=120)  # noqa: S603


def main() -> None:
    """Photograph every page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("demo", type=Path, help="folder of `ondevice demo`")
    parser.add_argument("out", type=Path, help="folder of the pictures")
    options = parser.parse_args()
    for page, (picture, size) in PICTURES.items():
        photograph(options.demo / page, options.out / picture, size)


if __name__ == "__main__":
    main()
