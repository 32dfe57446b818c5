"""What a search prints while it runs: what it trains, what that gave, how long it may take."""

from __future__ import annotations

import sys
import time

from ondevice.models.search.search import Search
from ondevice.models.search.trial import TrialResult
from ondevice.text_table import size


class SearchProgress:
    """Lines on stderr.

    Args:
        search: whose results are counted.
        minutes: after which no trial starts; None for no limit.
    """

    def __init__(self, search: Search, minutes: float | None) -> None:
        self._search, self._minutes = search, minutes
        self._started = time.monotonic()
        self._last = self._started
        self._stored = 0  # results that an earlier run had measured, and that took no time

    def note(self, text: str) -> None:
        """Say what comes next."""
        number = min(self._search.trained + 1, self._search.trials)
        self._say(f"[{number}/{self._search.trials}{self._remaining()}] {text}")

    def measured(self, result: TrialResult) -> None:
        """Say what a model gave."""
        now = time.monotonic()
        self._stored += now - self._last < result.seconds / 2
        self._last = now
        self._say(
            f"    file {size(result.file_bytes)}, tables {size(result.table_bytes)}, "
            f"validation AUC {result.validation_auc:.4f}"
        )

    def _remaining(self) -> str:
        """How long the rest may take, once a model was trained."""
        trained = len(self._search.results) - self._stored
        if trained < 1:
            return ""
        passed = time.monotonic() - self._started
        left = passed / trained * max(0, self._search.trials - self._search.trained)
        if self._minutes is not None:
            left = min(left, max(0.0, 60 * self._minutes - passed))
        return f", {left:.0f} s left" if left < 100 else f", about {left / 60:.0f} min left"

    def _say(self, text: str) -> None:
        print(text, file=sys.stderr, flush=True)  # noqa: T201
