"""Lets a module that was trained on a GPU, or with autocast, compute on the CPU as files do."""

from __future__ import annotations

import functools
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import nn
from torch.amp.autocast_mode import autocast
from torch.overrides import TorchFunctionMode

_CPU = torch.device("cpu")
# A tensor on the meta device has no values, and gets none by a move.
_STAYS = ("cpu", "meta")
_MOVES = frozenset(
    getattr(torch.Tensor, name)
    for name in ("cuda", "xpu", "hpu", "ipu", "mtia")
    if hasattr(torch.Tensor, name)
)


def on_cpu(tensor: torch.Tensor) -> torch.Tensor:
    """The tensor itself, or its copy on the CPU; a parameter stays one."""
    if tensor.device.type in _STAYS:
        return tensor
    moved = tensor.detach().cpu()
    return nn.Parameter(moved, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else moved


@contextmanager
def new_tensors_on_cpu() -> Iterator[None]:
    """Make tensors on the CPU in a block or function, whatever `torch.set_default_device` says."""
    with nullcontext() if torch.get_default_device() == _CPU else _CPU:
        yield


@contextmanager
def computing_on_cpu() -> Iterator[None]:
    """Let calls in this block and thread make and leave tensors on the CPU, without autocast.

    Modules name the device that they were trained on, as in `torch.arange(n, device=self.device)`
    or `ids.cuda()`. Autocast rounds to 16 bits what files compute in 32.
    """
    with _without_autocast(), _OnCpu():
        yield


class _OnCpu(TorchFunctionMode):
    """Calls that name another device name the CPU instead."""

    def __torch_function__(
        self,
        function: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        if function in _MOVES:
            return args[0]
        if kwargs and _is_other(kwargs.get("device")):
            kwargs = {**kwargs, "device": _CPU}
        if function is torch.Tensor.to and len(args) > 1 and _is_other(args[1]):
            args = (args[0], _CPU, *args[2:])
        return function(*args, **kwargs) if kwargs else function(*args)


def _is_other(device: Any) -> bool:
    """Whether an argument of a call names a device that has other memory than the CPU's."""
    if isinstance(device, str):
        device = torch.device(device)
    if isinstance(device, torch.device):
        return device.type not in _STAYS
    return isinstance(device, int) and not isinstance(device, bool)  # the number of a GPU


@contextmanager
def _without_autocast() -> Iterator[None]:
    """Let autocast do nothing in this thread, whoever began it and wherever it begins."""
    if _state.off:
        yield
        return
    _install()
    with autocast(_CPU.type, enabled=False):
        _state.off = True
        try:
            yield
        finally:
            _state.off = False


class _State(threading.local):
    """Of this thread: whether autocast is left out."""

    off = False


_state = _State()


@functools.cache
def _install() -> None:
    """Let autocast ask whether this thread leaves it out; once, so that threads cannot undo it."""
    kind: Any = autocast
    enter, leave = kind.__enter__, kind.__exit__

    def enter_here(self: autocast) -> Any:
        return self if _state.off else enter(self)

    def leave_here(self: autocast, *error: Any) -> Any:
        return False if _state.off else leave(self, *error)

    kind.__enter__, kind.__exit__ = enter_here, leave_here
