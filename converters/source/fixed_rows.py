"""Finds where a module turns the number of rows into a Python number while torch traces it."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

import torch

_LOGGER = "torch.fx.experimental.symbolic_shapes"
_GUARD = "[guard added]"  # in the format of torch's note that a traced size now is a number
# Folders whose frames are not the module's code.
_NOT_USERS = tuple(str(Path(file).parent) for file in (torch.__file__, logging.__file__, __file__))


@contextmanager
def numbers_of_rows(rows: int) -> Iterator[list[str]]:
    """Collect "file:line" of every place inside the block where a traced size becomes `rows`.

    `int(x.shape[0])`, `range(x.size(0))` and comparisons do that. torch says so in a note
    to its logger, and at that moment the place is on the stack.
    """
    logger = logging.getLogger(_LOGGER)
    watcher = _Watcher(rows)
    level, propagate, handlers = logger.level, logger.propagate, logger.handlers
    logger.handlers = [watcher]
    logger.setLevel(logging.INFO)
    logger.propagate = False
    try:
        yield watcher.places
    finally:
        logger.handlers, logger.propagate = handlers, propagate
        logger.setLevel(level)


class _Watcher(logging.Handler):
    """Notes the innermost frame of the module's code at every guard that fixes a size."""

    def __init__(self, rows: int) -> None:
        super().__init__(logging.INFO)
        self.places: list[str] = []
        self._fixed = f", {rows})"  # the end of Eq(s0, 4)

    def emit(self, record: logging.LogRecord) -> None:
        """Note the place if the record says that a size equals the number of rows."""
        given = record.args if isinstance(record.args, tuple) else ()
        is_guard = _GUARD in str(record.msg)
        if not is_guard or not any(
            text.startswith("Eq(") and text.endswith(self._fixed) for text in map(str, given)
        ):
            return
        place = users_place()
        if place is not None and place not in self.places:
            self.places.append(place)


def users_place() -> str | None:
    """File and line of the innermost frame that is neither torch's nor the converter's."""
    frame: FrameType | None = sys._getframe()
    while frame is not None:
        file = frame.f_code.co_filename
        if not file.startswith(("<", *_NOT_USERS)):
            return f"{file}:{frame.f_lineno}"
        frame = frame.f_back
    return None


def raising_place(error: BaseException) -> str | None:
    """File and line of the innermost frame of the module's code that an exception went through."""
    place, step = None, error.__traceback__
    while step is not None:
        file = step.tb_frame.f_code.co_filename
        if not file.startswith(("<", *_NOT_USERS)):
            place = f"{file}:{step.tb_lineno}"
        step = step.tb_next
    return place
