"""Restore a model and the random number generators after the model has run."""

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn.parameter import is_lazy

from ignite_tips.parameters.sharding import lay_out_shards

__all__ = ["preserved"]

# fully_shard registers these hooks at the first forward pass only. Without them, a checkpoint written after an
# evaluation has full copies instead of shards.
_ADDED_BY_FULLY_SHARD = frozenset({"_state_dict_pre_hooks", "_load_state_dict_pre_hooks"})


@contextmanager
def preserved(model: nn.Module) -> Iterator[None]:
    """At the end of the block, undo what running ``model`` changed in it and in the random number generators.

    This restores, bit for bit, every module's train/eval flag, attributes, buffers and hooks, every parameter's
    ``requires_grad`` and ``grad``, and the states of Python's, NumPy's and torch's generators. It does not restore the
    contents of lists and other objects in modules.

    Example:
        >>> norm = nn.BatchNorm1d(2)
        >>> with preserved(norm):
        ...     _ = norm.train()(torch.randn(8, 2))
        >>> norm.running_mean
        tensor([0., 0.])
    """
    # fully_shard tracks elsewhere whether a module holds shards or full copies, so it must hold shards throughout.
    ignored = _ADDED_BY_FULLY_SHARD if lay_out_shards(model) else frozenset()
    modules = [_SavedModule(module, ignored) for module in model.modules()]
    tensors = [_SavedTensor(buffer) for buffer in model.buffers() if not is_lazy(buffer)]
    parameters = [(parameter, parameter.requires_grad, parameter.grad) for parameter in model.parameters()]
    devices = sorted({item.device.index for item in (*model.parameters(), *model.buffers()) if item.is_cuda})
    python_state, numpy_state = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng(devices=devices):
            yield
    finally:
        lay_out_shards(model)
        for module in modules:
            module.restore()
        for tensor in tensors:
            tensor.restore()
        for parameter, requires_grad, grad in parameters:
            if parameter.requires_grad != requires_grad:
                parameter.requires_grad_(requires_grad)
            if parameter.grad is not grad:
                parameter.grad = grad
        random.setstate(python_state)
        np.random.set_state(numpy_state)


class _SavedModule:
    """A module's attributes, and the items of those that are dicts: parameters, buffers, children, hooks."""

    def __init__(self, module: nn.Module, ignored: frozenset[str]) -> None:
        self._module = module
        self._attributes = dict(module.__dict__)
        self._members = [
            (value, dict(value))
            for name, value in self._attributes.items()
            if isinstance(value, dict) and name not in ignored
        ]

    def restore(self) -> None:
        _refill(self._module.__dict__, self._attributes)
        for dictionary, members in self._members:
            _refill(dictionary, members)


class _SavedTensor:
    """A tensor's contents."""

    def __init__(self, tensor: torch.Tensor) -> None:
        self._tensor = tensor
        self._contents = tensor.detach().clone()

    @torch.no_grad()
    def restore(self) -> None:
        now, before = self._tensor, self._contents
        try:
            is_same = bool(((now == before) | ((now != now) & (before != before))).all())  # NaN does not equal itself
        except (RuntimeError, TypeError):  # sparse, nested, or without contents: meta, fake
            is_same = False
        if not is_same:  # only if changed: copy_ fails on expanded tensors
            now.copy_(before)


def _refill(dictionary: dict[Any, Any], members: dict[Any, Any]) -> None:
    # In place, because others refer to the dict itself, such as the handles of hooks.
    dictionary.clear()
    dictionary.update(members)
