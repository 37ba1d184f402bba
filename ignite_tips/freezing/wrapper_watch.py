"""Notice that a model runs inside a DistributedDataParallel wrapper which the handler was not given."""

import weakref
from collections.abc import Iterable
from typing import Any

import torch
from torch import nn
from torch.nn.modules.module import register_module_forward_pre_hook
from torch.nn.parallel import DistributedDataParallel

from ignite_tips.parameters.selection import unwrap_once

__all__ = ["WrapperWatch"]


class WrapperWatch:
    """Raises if a forward pass of the model starts in a wrapper that the handler does not know.

    A bare module does not know that it is wrapped, but a forward hook common to all modules sees the wrapper run first.
    The hook costs some microseconds per module, so it is removed as soon as a known module with the parameters runs
    with gradients enabled.

    Not noticed: a wrapper whose ``forward`` is called directly, one that first runs after the model has run without it,
    and gradients averaged by anything but DistributedDataParallel.

    Args:
        owner: the class of the handler, for the error.
        model: the model as given to the handler.
        parameters: what the handler freezes.
    """

    def __init__(self, owner: str, model: nn.Module, parameters: Iterable[nn.Parameter]) -> None:
        self._owner = owner
        self._wanted = {id(parameter) for parameter in parameters}
        self._own = {id(module) for module in model.modules() if self._has_parameters(module)}
        self._handle = register_module_forward_pre_hook(_WeakHook(self))
        weakref.finalize(self, self._handle.remove)

    def stop(self) -> None:
        """Remove the hook. A second call does nothing."""
        self._handle.remove()

    def look(self, module: nn.Module) -> None:
        """Raise TypeError if the module that is about to run is an unknown wrapper, or a compiled one."""
        layer: nn.Module | None = module
        while layer is not None:
            if id(layer) in self._own:
                if torch.is_grad_enabled():  # an evaluation may leave out the wrapper
                    self.stop()
                return
            if isinstance(layer, DistributedDataParallel) and self._has_parameters(layer):
                self.stop()
                raise TypeError(
                    "model must be the DistributedDataParallel wrapper that averages its gradients, got a module "
                    f"inside it; give {self._owner} the wrapped model"
                )
            layer = unwrap_once(layer)

    def _has_parameters(self, module: nn.Module) -> bool:
        return any(id(parameter) in self._wanted for parameter in module.parameters())


class _WeakHook:
    """A hook that does not keep the handler alive."""

    def __init__(self, watch: WrapperWatch) -> None:
        self._watch = weakref.ref(watch)

    def __call__(self, module: nn.Module, inputs: Any) -> None:
        watch = self._watch()
        if watch is not None:
            watch.look(module)
