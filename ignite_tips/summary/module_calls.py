"""The inputs and outputs of every module while a model runs."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, fields, is_dataclass
from typing import Any

import torch
from torch import nn
from torch.nn.utils.rnn import PackedSequence

__all__ = ["ModuleCall", "ModuleCalls", "move_tensors", "show_shapes", "tensors_in"]


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
        """Record the calls of ``model`` and all its submodules within the block."""
        handles = []
        for module in model.modules():
            handles.append(module.register_forward_pre_hook(self._enter, with_kwargs=True))
            handles.append(module.register_forward_hook(self._leave, with_kwargs=True))
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _enter(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self.running.append((module, _show_arguments(args, kwargs)))

    def _leave(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        _, inputs = self.running.pop()
        size = sum(tensor.numel() * tensor.element_size() for tensor in tensors_in(output))
        self.first.setdefault(module, ModuleCall(inputs, show_shapes(output), size))


def show_shapes(value: Any) -> str:
    """Return the shapes of the tensors in ``value``, nested as in ``value``.

    Example:
        >>> show_shapes((torch.ones(2, 3), {"mask": torch.ones(2)}, None))
        '([2, 3], {mask: [2]}, None)'
    """
    if isinstance(value, torch.Tensor):
        return str(list(value.shape))
    if isinstance(value, PackedSequence):
        return show_shapes(value.data)
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key}: {show_shapes(member)}" for key, member in value.items()) + "}"
    if isinstance(value, tuple | list):
        return "(" + ", ".join(map(show_shapes, value)) + ")"
    if is_dataclass(value) and not isinstance(value, type):
        return show_shapes({field.name: getattr(value, field.name) for field in fields(value)})
    return str(value) if value is None or isinstance(value, bool | int | float) else type(value).__name__


def _show_arguments(args: tuple[Any, ...], kwargs: dict[str, Any]) -> str:
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
