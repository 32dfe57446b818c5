"""Ghost batch norms as the plain batch norms that they are outside training, during an export."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn

_PART_SIZE = "virtual_batch_size"  # what TabNet and the libraries that took it over call it


@contextmanager
def ghost_norms(module: nn.Module) -> Iterator[None]:
    """Let ghost batch norms of a module in evaluation mode normalise a whole batch at once.

    In training they normalise a batch in parts of `virtual_batch_size` rows, whose number they
    count in Python, which fixes the rows of the graph. Outside training every part is normalised by
    the same running statistics, and rows do not see each other.
    """
    replaced = [part for part in module.modules() if _is_ghost_norm(part)]
    for part in replaced:
        (norm,) = part.children()
        part.__dict__["forward"] = norm.forward
    try:
        yield
    finally:
        for part in replaced:
            del part.__dict__["forward"]


def _is_ghost_norm(part: nn.Module) -> bool:
    """Whether a part has the size of its parts, and nothing but a batch norm that is trained."""
    children = list(part.children())
    if len(children) != 1 or not isinstance(getattr(part, _PART_SIZE, None), int):
        return False
    (norm,) = children
    is_batch_norm = isinstance(norm, nn.modules.batchnorm._BatchNorm)
    alone = not part._parameters and not part._buffers and "forward" not in part.__dict__
    return is_batch_norm and alone and norm.running_mean is not None and not norm.training
