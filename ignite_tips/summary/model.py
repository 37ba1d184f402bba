"""Summarize a model, its layers, shapes and parameters, without changing it."""

import copy
from collections.abc import Iterable, Mapping
from types import NoneType
from typing import Any

import torch
from torch import nn
from torch.nn.parameter import UninitializedBuffer, is_lazy
from torch.optim import Optimizer

from ignite_tips._checks import check_choice, check_instance, check_names, describe
from ignite_tips.parameters.groups import group_names
from ignite_tips.parameters.selection import check_belongs, unwrap_model
from ignite_tips.parameters.sharding import check_has_whole_parameters
from ignite_tips.summary.backends import run_with_torchinfo, torchsummary_table
from ignite_tips.summary.module_calls import ModuleCall, ModuleCalls, move_tensors, tensors_in
from ignite_tips.summary.preserve_state import preserved
from ignite_tips.summary.table import LayerSummary, ModelSummary

__all__ = ["check_request", "summarize_model"]

_Groups = dict[nn.Parameter, tuple[str, float]]


def summarize_model(
    model: nn.Module,
    example: Any = None,
    *,
    keywords: Mapping[str, Any] | None = None,
    input_size: Iterable[Any] | None = None,
    optimizer: Optimizer | None = None,
    backend: str = "torchinfo",
) -> ModelSummary:
    """Run ``model`` once, in eval mode and without gradients, and return a summary of its layers.

    Afterwards the model is as before, bit for bit (flags, buffers, gradients, hooks, lazy parameters), and so are the
    random number generators. A model in a wrapper (DDP, DataParallel, ``torch.compile``) is summarized without it.

    Args:
        model: any module, on any device; inputs are moved to it.
        example: an example input: a tensor or a dict, or a tuple or list of positional arguments.
        keywords: keyword arguments of the call.
        input_size: instead of an example, the size of a tensor of random numbers, batch included, or a list of
            several sizes.
        optimizer: if given, each layer shows its param group and learning rate.
        backend: ``"torchinfo"`` counts the operations and uses this toolkit's table; ``"torchsummary"`` uses
            torchsummary's own table as the text. The data are the same, and correct, with both.

    Raises:
        TypeError: if an argument has the wrong type, or the model is wrapped in FullyShardedDataParallel.
        ValueError: if there is no input, or it does not fit the model (the error names the layer and the shapes); if
            the optimizer has none of the model's parameters.
        RuntimeError: if torchsummary is requested and fails on this model.

    Example:
        >>> model = nn.Sequential(nn.Linear(8, 4), nn.ReLU(), nn.Linear(4, 2))
        >>> summary = summarize_model(model, input_size=(16, 8))
        >>> summary.total_parameters, summary.layers[1].output_shape
        (46, '[16, 4]')
    """
    sizes = check_request(
        model, example, keywords=keywords, input_size=input_size, optimizer=optimizer, backend=backend
    )
    if sizes is None and example is None and not keywords:
        raise ValueError("input_size must be given, or an example of the input; got neither")
    check_has_whole_parameters(model)
    model = unwrap_model(model)
    device = _device(model)
    args, named = move_tensors(_arguments(model, example, dict(keywords or {}), sizes), device)
    groups = _groups(optimizer)
    original = model
    if any(is_lazy(tensor) for tensor in (*model.parameters(), *model.buffers())):
        model, groups = _copy_lazy(model, groups)
    calls = ModuleCalls()
    with preserved(original), torch.no_grad(), calls.recorded(model):
        mult_adds = run_with_torchinfo(model, args, named)
        if mult_adds is None:
            _run(model, args, named, calls)
    parameters, buffers = list(model.parameters()), list(model.buffers())
    trainable = [parameter for parameter in parameters if parameter.requires_grad]
    return ModelSummary(
        layers=tuple(_layers(model, calls, groups)),
        total_parameters=sum(parameter.numel() for parameter in parameters),
        trainable_parameters=sum(parameter.numel() for parameter in trainable),
        parameter_bytes=sum(parameter.nbytes for parameter in parameters),
        trainable_bytes=sum(parameter.nbytes for parameter in trainable),
        buffer_bytes=sum(buffer.nbytes for buffer in buffers),
        input_bytes=sum(tensor.nbytes for tensor in tensors_in((args, named))),
        activation_bytes=sum(call.output_bytes for module, call in calls.first.items() if not list(module.children())),
        mult_adds=mult_adds,
        has_groups=optimizer is not None,
        text=torchsummary_table(model, args, device) if backend == "torchsummary" else "",
    )


def check_request(
    model: nn.Module,
    example: Any = None,
    *,
    keywords: Mapping[str, Any] | None,
    input_size: Iterable[Any] | None,
    optimizer: Optimizer | None,
    backend: str,
) -> list[tuple[int, ...]] | None:
    """Return the sizes in ``input_size``; raise as ``summarize_model`` for errors that show before the model runs."""
    check_instance("model", model, nn.Module, "a torch.nn.Module")
    check_instance("keywords", keywords, (Mapping, NoneType), "a mapping from names to arguments, or None")
    check_names("names in keywords", list(keywords or ()))
    if optimizer is not None:
        check_belongs(optimizer, model)
        group_names(optimizer)
    check_choice("backend", backend, ("torchinfo", "torchsummary"))
    if input_size is None:
        return None
    if example is not None:
        raise ValueError(f"input_size must be None if an example is given, got {describe(input_size)}")
    if not isinstance(input_size, tuple | list):
        raise TypeError(f"input_size must be a tuple of integers, or a list of such tuples, got {describe(input_size)}")
    several = [tuple(size) for size in input_size if isinstance(size, tuple | list)]
    sizes = several if several and len(several) == len(input_size) else [tuple(input_size)]
    if not all(size and _are_sizes(size) for size in sizes):
        raise ValueError(f"input_size must be positive integers, or several such sizes, got {describe(input_size)}")
    return sizes


def _device(model: nn.Module) -> torch.device:
    for tensor in (*model.parameters(), *model.buffers()):
        return tensor.device
    return torch.device("cpu")


def _arguments(
    model: nn.Module, example: Any, keywords: dict[str, Any], sizes: list[tuple[int, ...]] | None
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    if sizes is None:
        args = tuple(example) if isinstance(example, tuple | list) else (example,)
        return () if example is None else args, keywords
    floating = [tensor.dtype for tensor in (*model.parameters(), *model.buffers()) if tensor.is_floating_point()]
    generator = torch.Generator().manual_seed(0)  # does not touch the global one
    dtype = floating[0] if floating else torch.get_default_dtype()
    return tuple(torch.rand(size, generator=generator).to(dtype) for size in sizes), keywords


def _are_sizes(size: tuple[Any, ...]) -> bool:
    return all(isinstance(length, int) and not isinstance(length, bool) and length > 0 for length in size)


def _groups(optimizer: Optimizer | None) -> _Groups:
    if optimizer is None:
        return {}
    named = zip(group_names(optimizer), optimizer.param_groups, strict=True)
    return {parameter: (name, float(group["lr"])) for name, group in named for parameter in group["params"]}


def _copy_lazy(model: nn.Module, groups: _Groups) -> tuple[nn.Module, _Groups]:
    # A lazy module takes its shapes from its first input. A copy does that here; the model stays lazy.
    buffers = [buffer for buffer in model.buffers() if is_lazy(buffer)]  # torch cannot copy these
    memo: dict[int, Any] = {
        id(buffer): UninitializedBuffer(device=buffer.device)  # type: ignore[call-arg]  # its stub is wrong
        for buffer in buffers
    }
    duplicate = copy.deepcopy(model, memo)
    pairs = zip(model.parameters(), duplicate.parameters(), strict=True)
    return duplicate, {new: groups[old] for old, new in pairs if old in groups}


def _run(model: nn.Module, args: tuple[Any, ...], keywords: dict[str, Any], calls: ModuleCalls) -> None:
    calls.clear()
    model.eval()
    try:
        model(*args, **keywords)
    except Exception as error:  # any error of the model: add the layer and the shapes
        names = {module: name for name, module in model.named_modules()}
        module, shapes = calls.running[-1] if calls.running else (model, "")
        where = f"layer {names[module]!r} ({type(module).__name__})" if names[module] else type(module).__name__
        raise ValueError(f"the input must fit the model, but {where} got {shapes}: {error}") from error


def _layers(model: nn.Module, calls: ModuleCalls, groups: _Groups) -> Iterable[LayerSummary]:
    owners: dict[Any, str] = {}
    for name, module in model.named_modules(remove_duplicate=False):
        call = calls.first.get(module, ModuleCall("", "", 0))
        own = list(module.parameters(recurse=False))
        new = [parameter for parameter in own if parameter not in owners]
        shared = [owners[item] for item in (module, *own) if item in owners]
        lrs = dict(groups[parameter] for parameter in own if parameter in groups)
        owners |= {item: name for item in (module, *own) if item not in owners}
        yield LayerSummary(
            name=name,
            type=type(module).__name__,
            input_shape=call.inputs,
            output_shape=call.outputs,
            parameters=sum(parameter.numel() for parameter in new),
            trainable_parameters=sum(parameter.numel() for parameter in new if parameter.requires_grad),
            shared_with=shared[0] if shared else "",
            groups=tuple(lrs),
            lrs=tuple(lrs.values()),
        )
