"""Ends loops over the rows of a packed sequence's step, of which a traced module has very many."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn

from ondevice.converters.source.step_sizes import is_count, refused_loop
from ondevice.converters.source.traced_len import replaced_name


@contextmanager
def traced_range(module: nn.Module) -> Iterator[None]:
    """Give the files that define a module's classes a `range` that counts no rows."""
    with replaced_name(module, "range", _Range):
        yield


class _Checked(type):
    """Makes a class that stands for `range`, also where a module asks for a type."""

    def __instancecheck__(cls, value: Any) -> bool:
        return isinstance(value, range)

    def __call__(cls, *bounds: Any) -> range:
        if any(is_count(bound) for bound in bounds):
            raise refused_loop()
        return range(*bounds)


class _Range(metaclass=_Checked):
    """What a module calls instead of `range`."""
