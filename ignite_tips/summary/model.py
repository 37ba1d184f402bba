"""Summarize a model, its layers, shapes and parameters, without changing it."""

import contextlib
import copy
from collections.abc import Iterable, Mapping
from types import NoneType
from typing import Any, Literal, NamedTuple, cast

import torch
from torch import nn
from torch.nn.parameter import UninitializedBuffer, is_lazy
from torch.nn.utils.rnn import PackedSequence
from torch.optim import Optimizer

from ignite_tips._checks import as_number, check_choice, check_instance, check_integer, check_names, describe
from ignite_tips.parameters.groups import group_names, learning_rates
from ignite_tips.parameters.selection import check_belongs, unwrap_model
from ignite_tips.parameters.sharding import check_has_whole_parameters
from ignite_tips.summary.backends import BACKENDS, backend_table
from ignite_tips.summary.module_calls import (
    ModuleCall,
    ModuleCalls,
    bytes_of,
    move_tensors,
    show_arguments,
    tensors_in,
)
from ignite_tips.summary.mult_adds import count_mult_adds
from ignite_tips.summary.preserve_state import preserved
from ignite_tips.summary.table import LayerSummary, ModelSummary

__all__ = ["check_request", "summarize_model"]

_Groups = dict[nn.Parameter, "_Group"]


class _Group(NamedTuple):
    name: str
    lr: float
    base_lr: float


def summarize_model(
    model: nn.Module,
    example: Any = None,
    *,
    keywords: Mapping[str, Any] | None = None,
    input_size: Iterable[Any] | None = None,
    optimizer: Optimizer | None = None,
    backend: Literal["torchinfo", "torchsummary"] | None = None,
    depth: int | None = 3,
) -> ModelSummary:
    """Run ``model`` once, in eval mode and without gradients, and return a summary of its layers.

    Afterwards the model is as before, bit for bit (flags, buffers, gradients, hooks, lazy parameters), and so are the
    random number generators. A model in a wrapper (DDP, DataParallel, ``torch.compile``) is summarized without it.

    A model that cannot run like this, because it differentiates in its forward pass for example, runs again with
    gradients; then its mult-adds are not known. Modules whose calls cannot be seen have no shapes: those inside a
    scripted or exported model.

    Args:
        model: any module, on any device; inputs are moved to it.
        example: an example input: a tensor or a dict, or a tuple or list of positional arguments.
        keywords: keyword arguments of the call.
        input_size: instead of an example, the size of a tensor of random numbers, batch included, or a list of
            several sizes.
        optimizer: if given, each layer shows its param group and learning rate.
        backend: ``"torchinfo"`` or ``"torchsummary"`` for that library's own table as the text; None for this
            toolkit's. The data are the same with all.
        depth: print and show layers nested in at most this many modules, ≥ 1; deeper ones count in the layer that
            contains them. None shows all.

    Raises:
        TypeError: if an argument has the wrong type, or the model is wrapped in FullyShardedDataParallel.
        ValueError: if there is no input, or it does not fit the model (the error names the layer and the shapes); if
            the optimizer has none of the model's parameters.
        RuntimeError: if a library's table is requested and the library fails on this model.

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
    depth = None if depth is None else check_integer("depth", depth, ge=1)
    check_has_whole_parameters(model)
    model = unwrap_model(model)
    device = _device(model)
    args, named = move_tensors(_arguments(model, example, dict(keywords or {}), sizes), device)
    groups = _groups(optimizer)
    original = model
    if any(is_lazy(tensor) for tensor in (*model.parameters(), *model.buffers())):
        model, groups = _copy_lazy(model, groups)
    calls = ModuleCalls()
    with preserved(original), calls.recorded(model):
        _set_eval(model)
        mult_adds = _run(model, args, named, calls)
    parameters, buffers = list(model.parameters()), list(model.buffers())
    trainable = [parameter for parameter in parameters if parameter.requires_grad]
    return ModelSummary(
        layers=tuple(_layers(model, calls, groups)),
        total_parameters=sum(parameter.numel() for parameter in parameters),
        trainable_parameters=sum(parameter.numel() for parameter in trainable),
        parameter_bytes=sum(map(bytes_of, parameters)),
        trainable_bytes=sum(map(bytes_of, trainable)),
        buffer_bytes=sum(map(bytes_of, buffers)),
        input_bytes=sum(map(bytes_of, tensors_in((args, named)))),
        activation_bytes=calls.innermost_bytes(),
        mult_adds=mult_adds,
        has_groups=optimizer is not None,
        text="" if backend is None else backend_table(backend, model, args, named, device),
        depth=depth,
    )


def check_request(
    model: nn.Module,
    example: Any = None,
    *,
    keywords: Mapping[str, Any] | None,
    input_size: Iterable[Any] | None,
    optimizer: Optimizer | None,
    backend: Literal["torchinfo", "torchsummary"] | None,
) -> list[tuple[int, ...]] | None:
    """Return the sizes in ``input_size``; raise as ``summarize_model`` for errors that show before the model runs."""
    check_instance("model", model, nn.Module, "a torch.nn.Module")
    check_instance("keywords", keywords, (Mapping, NoneType), "a mapping from names to arguments, or None")
    check_names("names in keywords", list(keywords or ()))
    if optimizer is not None:
        check_belongs(optimizer, model)
        group_names(optimizer)
    if backend is not None:
        check_choice("backend", backend, BACKENDS)
    if input_size is None:
        return None
    if example is not None:
        raise ValueError(f"input_size must be None if an example is given, got {describe(input_size)}")
    if not isinstance(input_size, tuple | list):
        raise TypeError(f"input_size must be a tuple of integers, or a list of such tuples, got {describe(input_size)}")
    sizes = _as_sizes(input_size)
    if sizes is None:
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
        several = isinstance(example, tuple | list) and not isinstance(example, PackedSequence)
        args = tuple(example) if several else (example,)
        return () if example is None else args, keywords
    tensors = [tensor for tensor in (*model.parameters(), *model.buffers()) if not is_lazy(tensor)]
    like = next((tensor for tensor in tensors if tensor.is_floating_point() or tensor.is_complex()), torch.empty(0))
    generator = torch.Generator().manual_seed(0)  # does not touch the global one
    with getattr(like, "fake_mode", contextlib.nullcontext()):
        return tuple(torch.rand(size, generator=generator).to(like.dtype) for size in sizes), keywords


def _as_sizes(value: Any) -> list[tuple[int, ...]] | None:
    """Return one size or several as a list; None if it is neither."""
    members = list(value) if isinstance(value, tuple | list) else []
    if not all(isinstance(member, tuple | list) for member in members):
        members = [members]
    sizes = [tuple(map(as_number, member)) for member in members]
    if not sizes or not all(size and all(isinstance(n, int) and n > 0 for n in size) for size in sizes):
        return None
    return cast("list[tuple[int, ...]]", sizes)


def _groups(optimizer: Optimizer | None) -> _Groups:
    if optimizer is None:
        return {}
    named = zip(group_names(optimizer), optimizer.param_groups, strict=True)
    groups = [(_Group(name, *learning_rates(group)), group["params"]) for name, group in named]
    return {parameter: group for group, members in groups for parameter in members}


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


def _set_eval(model: nn.Module) -> None:
    with contextlib.suppress(NotImplementedError):  # an exported model has only the mode of its export
        model.eval()


def _run(model: nn.Module, args: tuple[Any, ...], keywords: dict[str, Any], calls: ModuleCalls) -> int | None:
    """Run the model and return its mult-adds, or None if they are not known."""

    def run() -> None:
        calls.clear()
        output = model(*args, **keywords)
        calls.add(model, args, keywords, output)  # a scripted model takes no hooks

    with contextlib.suppress(Exception), torch.no_grad():
        return count_mult_adds(run) or None
    with contextlib.suppress(Exception), torch.no_grad():  # not every tensor can be counted, a nested one for example
        run()
        return None
    try:
        with torch.enable_grad():
            run()
    except Exception as error:  # any error of the model: add the layer and the shapes
        names = {module: name for name, module in model.named_modules()}
        module, shapes = calls.running[-1] if calls.running else (model, show_arguments(args, keywords))
        where = f"layer {names[module]!r} ({type(module).__name__})" if names[module] else type(module).__name__
        hint = "" if _as_sizes(args) is None else f"; did you mean input_size={args}?"
        raise ValueError(f"the input must fit the model, but {where} got {shapes}: {error}{hint}") from error
    return None


def _layers(model: nn.Module, calls: ModuleCalls, groups: _Groups) -> Iterable[LayerSummary]:
    owners: dict[Any, str] = {}
    repeated: tuple[str, ...] = ()  # the path of the latest module that was at an earlier place too
    for name, module in model.named_modules(remove_duplicate=False):
        if name.startswith(repeated):
            continue
        if module in owners:
            repeated = (f"{name}.",)
        call = calls.first.get(module, ModuleCall("", "", 0))
        own = list(module.parameters(recurse=False))
        new = [parameter for parameter in own if parameter not in owners]
        shared = [owners[item] for item in (module, *own) if item in owners]
        members = dict.fromkeys(groups[parameter] for parameter in new if parameter in groups)
        owners |= {item: name for item in (module, *own) if item not in owners}
        yield LayerSummary(
            name=name,
            type=type(module).__name__,
            input_shape=call.inputs,
            output_shape=call.outputs,
            parameters=sum(parameter.numel() for parameter in new),
            trainable_parameters=sum(parameter.numel() for parameter in new if parameter.requires_grad),
            shared_with=shared[0] if shared else "",
            groups=tuple(group.name for group in members),
            lrs=tuple(group.lr for group in members),
            base_lrs=tuple(group.base_lr for group in members),
        )
