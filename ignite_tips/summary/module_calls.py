"""The inputs and outputs of every module while a model runs."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, fields, is_dataclass
from typing import Any, TypeVar

import torch
from torch import nn
from torch.nn.utils.rnn import PackedSequence

__all__ = ["ModuleCall", "ModuleCalls", "bytes_of", "move_tensors", "show_arguments", "show_shapes", "tensors_in"]

_T = TypeVar("_T")
_PARTS_OF_SPARSE = {
    torch.sparse_coo: ("indices", "values"),
    torch.sparse_csr: ("crow_indices", "col_indices", "values"),
    torch.sparse_bsr: ("crow_indices", "col_indices", "values"),
    torch.sparse_csc: ("ccol_indices", "row_indices", "values"),
    torch.sparse_bsc: ("ccol_indices", "row_indices", "values"),
}


@dataclass(frozen=True)
class ModuleCall:
    """A module's first call: the shapes of its inputs and outputs, as text, and the size of its outputs in bytes."""

    inputs: str
    outputs: str
    output_bytes: int


class ModuleCalls:
    """Records the first call of each module, and where a failed call was.

    Attributes:
        first: each module's first completed call.
        running: the modules being called, outermost first, each with the shapes of its inputs. After an error it holds
            the path to the module that raised.
    """

    def __init__(self) -> None:
        self.first: dict[nn.Module, ModuleCall] = {}
        self.running: list[tuple[nn.Module, str]] = []

    def clear(self) -> None:
        """Forget all calls."""
        self.first.clear()
        self.running.clear()

    @contextmanager
    def recorded(self, model: nn.Module) -> Iterator[None]:
        """Record the calls of ``model`` and all its submodules within the block.

        Those of scripted modules, which take no such hooks, are not recorded.
        """
        handles = []
        for module in model.modules():
            if isinstance(module, torch.jit.ScriptModule):
                continue
            handles.append(module.register_forward_pre_hook(self._enter, with_kwargs=True))
            handles.append(module.register_forward_hook(self._leave, with_kwargs=True))
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def add(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        """Record a completed call that no hook saw."""
        self._keep(module, _attempt(show_arguments, args, kwargs, otherwise=""), output)

    def innermost_bytes(self) -> int:
        """Return the size of the outputs of the modules in which no other module's output was seen."""
        seen = {module for module, call in self.first.items() if call.output_bytes}
        return sum(self.first[module].output_bytes for module in seen if len(seen.intersection(module.modules())) == 1)

    def _enter(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self.running.append((module, _attempt(show_arguments, args, kwargs, otherwise="")))

    def _leave(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        while self.running and self.running[-1][0] is not module:  # it raised, and the model caught that
            self.running.pop()
        self._keep(module, self.running.pop()[1] if self.running else "", output)

    def _keep(self, module: nn.Module, inputs: str, output: Any) -> None:
        if module not in self.first:
            shapes = _attempt(show_shapes, output, otherwise="")
            self.first[module] = ModuleCall(inputs, shapes, _attempt(_total_bytes, output, otherwise=0))


def show_shapes(value: Any) -> str:
    """Return the shapes of the tensors in ``value``, nested as in ``value``.

    Example:
        >>> show_shapes((torch.ones(2, 3), {"mask": torch.ones(2)}, None))
        '([2, 3], {mask: [2]}, None)'
    """
    if isinstance(value, torch.Tensor):
        return _show_nested(value) if value.is_nested else str(list(value.shape))
    if isinstance(value, PackedSequence):
        return show_shapes(value.data)
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key}: {show_shapes(member)}" for key, member in value.items()) + "}"
    if isinstance(value, tuple | list):
        return "(" + ", ".join(map(show_shapes, value)) + ")"
    if is_dataclass(value) and not isinstance(value, type):
        return show_shapes({field.name: getattr(value, field.name) for field in fields(value)})
    return str(value) if value is None or isinstance(value, bool | int | float) else type(value).__name__


def _show_nested(value: torch.Tensor) -> str:
    sizes = {tuple(member.shape) for member in value.unbind()}
    lengths = [str(lengths[0]) if len(set(lengths)) == 1 else "*" for lengths in zip(*sizes, strict=True)]
    return f"[{', '.join([str(value.size(0)), *lengths])}]"


def _attempt(function: Callable[..., _T], *values: Any, otherwise: _T) -> _T:
    try:
        return function(*values)
    except Exception:  # a class of the user's may raise anything; in a hook it would look like the model's error
        return otherwise


def _total_bytes(value: Any) -> int:
    return sum(map(bytes_of, tensors_in(value)))


def bytes_of(tensor: torch.Tensor) -> int:
    """Return the memory of a tensor's values, and of a sparse tensor's indices.

    Example:
        >>> bytes_of(torch.ones(3)), bytes_of(torch.eye(3).to_sparse())
        (12, 60)
    """
    parts = _PARTS_OF_SPARSE.get(tensor.layout)
    if parts is None:
        return tensor.nbytes
    if tensor.layout is torch.sparse_coo:
        tensor = tensor.coalesce()
    return sum(getattr(tensor, part)().nbytes for part in parts)


def show_arguments(args: tuple[Any, ...], kwargs: dict[str, Any]) -> str:
    """Return the shapes of a call's arguments, without the keywords that are None."""
    positional = [show_shapes(argument) for argument in args]
    keyword = [f"{name}={show_shapes(argument)}" for name, argument in kwargs.items() if argument is not None]
    return ", ".join(positional + keyword)


def move_tensors(value: Any, device: torch.device) -> Any:
    """Return ``value`` with all tensors in its tuples, lists and dicts moved to ``device``."""
    if isinstance(value, torch.Tensor):
        return value.to(device)
    if isinstance(value, PackedSequence):
        return value.to(device=device)  # type: ignore[call-arg]  # its stub is wrong
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*(move_tensors(member, device) for member in value))
    if type(value) in (tuple, list):
        return type(value)(move_tensors(member, device) for member in value)
    if type(value) is dict:
        return {key: move_tensors(member, device) for key, member in value.items()}
    return value


def tensors_in(value: Any) -> Iterator[torch.Tensor]:
    """Return all tensors in ``value``."""
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, PackedSequence):
        yield value.data
    elif isinstance(value, Mapping):
        for member in value.values():
            yield from tensors_in(member)
    elif isinstance(value, tuple | list):
        for member in value:
            yield from tensors_in(member)
    elif is_dataclass(value) and not isinstance(value, type):
        for field in fields(value):
            yield from tensors_in(getattr(value, field.name))
