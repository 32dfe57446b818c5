"""Gives a copy of a module tensors of its own where forward writes to those of the caller."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode


def copy_written_tensors(module: nn.Module, run: Callable[[], object]) -> None:
    """Replace those of a module's tensors that a run of it writes to by copies, before it does.

    Args:
        module: a copy that shares tensors with the caller's module.
        run: runs it on its examples. Where it fails, the tensors stay that it has not reached.
    """
    shared = {_memory(tensor) for _, _, tensor in _tensors(module)}
    while True:
        try:
            with _Watching(shared):
                run()
        except _WriteError as stopped:
            _copy(module, stopped.memory)
        except Exception:  # the module is somebody's code; whoever runs it next reports it
            return
        else:
            return


class _WriteError(BaseException):
    """Stops a module before it writes; no Exception, which the module might catch."""

    def __init__(self, memory: int) -> None:
        super().__init__()
        self.memory = memory


class _Watching(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Raises _WriteError before an operator writes to memory that is shared with the caller."""

    def __init__(self, shared: set[int]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._shared = shared

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """Run an operator that writes to nothing shared."""
        kwargs = kwargs or {}
        for place, argument in enumerate(func._schema.arguments):
            if argument.alias_info is None or not argument.alias_info.is_write:
                continue
            value = args[place] if place < len(args) else kwargs.get(argument.name)
            for tensor in value if isinstance(value, list | tuple) else [value]:
                if isinstance(tensor, torch.Tensor) and _memory(tensor) in self._shared:
                    raise _WriteError(_memory(tensor))
        return func(*args, **kwargs)


def _memory(tensor: torch.Tensor) -> int:
    # a sparse tensor has no memory of one piece, a parameter of a lazy module none yet
    has_memory = tensor.layout == torch.strided and not nn.parameter.is_lazy(tensor)
    return tensor.untyped_storage()._cdata if has_memory else id(tensor)


def _tensors(module: nn.Module) -> Iterator[tuple[dict[str, Any], str, torch.Tensor]]:
    """Every tensor that a module holds: its holder, its name there, and itself."""
    for part in module.modules():
        for holder in (part._parameters, part._buffers, part.__dict__):
            for name, value in holder.items():
                if isinstance(value, torch.Tensor):
                    yield holder, name, value


def _copy(module: nn.Module, memory: int) -> None:
    """Copy some memory; tensors that shared it share the copy."""
    found = [item for item in _tensors(module) if _memory(item[2]) == memory]
    storage = found[0][2].untyped_storage().clone()  # type: ignore[no-untyped-call]
    copies: dict[int, torch.Tensor] = {}
    for holder, name, tensor in found:
        if id(tensor) not in copies:
            fresh = torch.empty(0, dtype=tensor.dtype, device=tensor.device)
            fresh.set_(storage, tensor.storage_offset(), tensor.shape, tensor.stride())
            is_parameter = isinstance(tensor, nn.Parameter)
            copies[id(tensor)] = nn.Parameter(fresh, False) if is_parameter else fresh
        holder[name] = copies[id(tensor)]
