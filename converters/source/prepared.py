"""The module that is converted: a copy of the caller's, unwrapped, with plain parameters."""

from __future__ import annotations

import copy
import inspect
from collections import deque
from collections.abc import Callable, Iterable
from types import MethodType
from typing import Any

import torch
from torch import nn
from torch.nn.utils import parametrize, prune
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm
from torch.optim.swa_utils import AveragedModel

from ondevice.converters.source.on_cpu import on_cpu
from ondevice.errors import SpecError, UnsupportedError

# A buffer that forward may write to, such as a counter, is smaller; tables are larger and shared.
MAX_COPIED_BUFFER = 1 << 20  # bytes
_WHOLE = "pass a plain module with the full state dict"
# Attributes of the module that torch.export makes of a graph, which its own parts may not be called
_RESERVED = (
    set(dir(torch.fx.GraphModule(nn.Module(), torch.fx.Graph()))) | {"range_constraints"}
) - set(dir(nn.Module()))

_WRAPPERS = (nn.DataParallel, nn.parallel.DistributedDataParallel, AveragedModel)


def prepared_module(module: nn.Module) -> nn.Module:
    """A copy of a module on the CPU, evaluating, that computes the same by plain parameters.

    Wrappers of torch.compile and of data parallelism are left out, parameters that are computed
    from others (parametrizations, weight norm, spectral norm, pruning) are computed once, and rows
    of tables with `max_norm` are shortened as torch does when it reads them. The copy shares all
    other parameters; the given module is not changed.

    Raises:
        SpecError: it is no module.
        UnsupportedError: it is TorchScript or an exported program, whose Python code is gone, or
            its parameters are spread over processes or quantised.
    """
    module = unwrapped(module)
    _check_parts(module)
    copied = _copied(module, {})
    copied.eval()
    with torch.no_grad():
        for part in list(copied.modules()):
            _settle_parametrizations(part)
            _settle_hooks(part)
            _shorten_rows(part)
    _rename_reserved(copied)
    return copied


def unwrapped(module: nn.Module) -> nn.Module:
    """The module inside wrappers of torch.compile, of data parallelism and of averaged weights.

    Raises:
        SpecError: it is no module.
        UnsupportedError: it is TorchScript.
    """
    while True:
        if isinstance(module, torch.jit.ScriptModule):
            raise UnsupportedError(
                "a TorchScript module (torch.jit.trace or torch.jit.script) has no Python code to "
                "export: pass the nn.Module that it was made from, with "
                "module.load_state_dict(scripted.state_dict())"
            )
        if isinstance(module, torch.export.ExportedProgram) or hasattr(module, "_guards_fn"):
            raise UnsupportedError(
                "a program of torch.export is for the shapes that it was exported with: pass the "
                "nn.Module that it was made from"
            )
        if not isinstance(module, nn.Module):
            raise SpecError(f"expected a torch.nn.Module, got {type(module).__name__}")
        if isinstance(module, torch._dynamo.OptimizedModule):
            module = module._orig_mod
        elif isinstance(module, _WRAPPERS):
            module = module.module
        else:
            return module


def _check_parts(module: nn.Module) -> None:
    """Raise UnsupportedError for a module whose parameters cannot be read as they are."""
    for path, part in module.named_modules():
        kind = type(part)
        if kind.__name__ == "FullyShardedDataParallel":
            raise UnsupportedError(
                f"{path or 'the module'} is wrapped by {kind.__name__}: {_WHOLE}"
            )
        if ".quantized" in kind.__module__ and kind.__module__.startswith("torch."):
            raise UnsupportedError(
                f"{path or 'the module'} is quantised already ({kind.__name__}): pass the module "
                "of floats; tables='q8' and dense='q8' quantise it"
            )
    for name, parameter in module.named_parameters():
        if hasattr(parameter, "full_tensor"):
            raise UnsupportedError(f"parameter {name} is spread over processes: {_WHOLE}")


def name_keywords(module: nn.Module, names: Iterable[str]) -> None:
    """Give a copy's forward(**features) parameters of these names, which torch.export asks for."""
    signature = inspect.signature(module.forward)
    parameters = list(signature.parameters.values())
    if not parameters or parameters[-1].kind is not inspect.Parameter.VAR_KEYWORD:
        return
    forward = module.forward

    def named(*args: Any, **features: Any) -> Any:
        return forward(*args, **features)

    fixed = {parameter.name for parameter in parameters}
    parameters[-1:] = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY)
        for name in names
        if name not in fixed
    ]
    named.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
    module.forward = named


def _copied(module: nn.Module, copies: dict[int, Any]) -> nn.Module:
    """The same structure over the same tensors; small buffers are copied.

    Not `copy.deepcopy`, which would copy tables and whatever else a module refers to.

    Args:
        module: a module.
        copies: of what has been copied, by the identity of the original.
    """
    module = unwrapped(module)
    if id(module) in copies:
        return copies[id(module)]  # type: ignore[no-any-return]
    kind = type(module)
    copied: Any = object.__new__(kind)  # a traced graph's own __new__ would make another class
    copies[id(module)] = copied
    state = {key: _copied_value(value, copies) for key, value in module.__dict__.items()}
    state["_compiled_call_impl"] = None  # of module.compile()
    buffers = state["_buffers"].items()
    state["_buffers"] = {name: _copied_if_small(buffer) for name, buffer in buffers}
    copied.__dict__.update(state)
    return copied  # type: ignore[no-any-return]


def _copied_value(value: Any, copies: dict[int, Any]) -> Any:
    """An attribute of a module for its copy: containers are copied, and methods bound anew."""
    if isinstance(value, nn.Module):
        return _copied(value, copies)
    if isinstance(value, MethodType) and isinstance(value.__self__, nn.Module):
        return MethodType(value.__func__, _copied(value.__self__, copies))
    if isinstance(value, torch.Tensor) and value.device.type not in ("cpu", "meta"):
        if id(value) not in copies:
            copies[id(value)] = on_cpu(value)
        return copies[id(value)]
    if type(value) is tuple:
        return tuple(_copied_value(item, copies) for item in value)
    if not isinstance(value, dict | list | set | deque):
        return value
    if id(value) not in copies:
        copied: Any = copy.copy(value)
        copies[id(value)] = copied
        if isinstance(value, dict):  # parameters, submodules and hooks too
            copied.update({key: _copied_value(item, copies) for key, item in value.items()})
        elif isinstance(value, list):
            copied[:] = [_copied_value(item, copies) for item in value]
    return copies[id(value)]


def _copied_if_small(buffer: torch.Tensor | None) -> torch.Tensor | None:
    if buffer is None or buffer.is_meta or buffer.layout is not torch.strided:
        return buffer  # a sparse one has no size in bytes, and is not written in place
    return buffer.clone() if buffer.nbytes <= MAX_COPIED_BUFFER else buffer


def _settle_parametrizations(part: nn.Module) -> None:
    """torch.nn.utils.parametrize: the computed values become parameters of the plain class."""
    if not parametrize.is_parametrized(part):
        return
    parametrized: Any = part.parametrizations
    values = {name: getattr(part, name) for name in parametrized}
    part.__class__ = type(part).__mro__[1]  # parametrizing derives a class from the plain one
    del part._modules["parametrizations"]
    for name, value in values.items():
        part._parameters[name] = nn.Parameter(value.detach(), requires_grad=False)


def _settle_hooks(part: nn.Module) -> None:
    """The older forms, which compute a parameter before each call of forward."""
    for key, hook in list(part._forward_pre_hooks.items()):
        compute = _computation(hook)
        if compute is None:
            continue
        name = str(getattr(hook, "name", "") or getattr(hook, "_tensor_name", ""))
        value = compute(part).detach()
        for suffix in ("_g", "_v", "_orig", "_u", "_mask"):
            part._parameters.pop(name + suffix, None)
            part._buffers.pop(name + suffix, None)
        part.__dict__.pop(name, None)
        part._parameters[name] = nn.Parameter(value, requires_grad=False)
        del part._forward_pre_hooks[key]


def _computation(hook: Any) -> Callable[[nn.Module], torch.Tensor] | None:
    if isinstance(hook, WeightNorm):
        return hook.compute_weight
    if isinstance(hook, SpectralNorm):
        return lambda part: hook.compute_weight(part, do_power_iteration=False)
    if isinstance(hook, prune.BasePruningMethod):
        return hook.apply_mask
    return None


def _shorten_rows(part: nn.Module) -> None:
    """max_norm: torch shortens each row, for good, when it is first read."""
    if not isinstance(part, nn.Embedding | nn.EmbeddingBag) or part.max_norm is None:
        return
    if not part.weight.is_meta:
        rows = shortened(part.weight.detach(), float(part.max_norm), float(part.norm_type))
        part._parameters["weight"] = nn.Parameter(rows, requires_grad=False)
    part.max_norm = None


def _rename_reserved(module: nn.Module) -> None:
    """Names that the exporter's graphs need themselves, such as `graph` or `meta`, get others.

    Forward still finds what it names so.
    """
    found: dict[str, Any] = {}
    holders: tuple[dict[str, Any], ...] = (module._parameters, module._buffers, module._modules)
    for holder in holders:
        for name in _RESERVED & holder.keys():
            renamed = f"{name}_"
            while hasattr(module, renamed):
                renamed += "_"
            holder[renamed] = holder.pop(name)
            found[name] = _alias(renamed)
    if found:
        kind = type(module)
        module.__class__ = type(kind.__name__, (kind,), found)


def _alias(name: str) -> property:
    return property(
        lambda module: getattr(module, name), lambda module, value: setattr(module, name, value)
    )


def shortened(rows: torch.Tensor, max_norm: float, norm_type: float = 2.0) -> torch.Tensor:
    """Vectors [..., dim] that are no longer than `max_norm`, as torch.embedding_renorm_ does it."""
    norms = torch.linalg.vector_norm(rows, norm_type, -1, keepdim=True)
    return torch.where(norms > max_norm, rows * (max_norm / (norms + 1e-7)), rows)
