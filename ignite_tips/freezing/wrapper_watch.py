"""Notice a DistributedDataParallel wrapper of which a handler was given only the module inside."""

import weakref
from collections.abc import Iterable
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.modules.module import register_module_forward_pre_hook
from torch.nn.parallel import DistributedDataParallel

from ignite_tips.parameters.selection import unwrap_once

__all__ = ["WrapperWatch"]


class WrapperWatch:
    """Watches one forward pass of a model, and raises if it comes from a wrapper that is not in the model as given.

    A bare module does not know that it was wrapped, but the wrapper's forward pass comes before its own. The watch
    costs each module's forward pass some microseconds, so it ends with the first one, gradients enabled, of a module
    that has the parameters, and there is none without a process group.

    Missed: a wrapper whose ``forward`` is called directly, one that runs after the model has run without it, and
    whatever averages gradients without DistributedDataParallel.

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

    @classmethod
    def start(cls, owner: str, model: nn.Module, parameters: Iterable[nn.Parameter]) -> "WrapperWatch | None":
        """Return a watch, where there is a process group and thus something to watch for."""
        return cls(owner, model, parameters) if dist.is_available() and dist.is_initialized() else None

    def stop(self) -> None:
        """End the watch. A second call does nothing."""
        self._handle.remove()

    def look(self, module: nn.Module) -> None:
        """Raise TypeError if the module, about to run, is the wrapper or the compiled wrapper; end with our own."""
        layer: nn.Module | None = module
        while layer is not None:
            if id(layer) in self._own:
                if torch.is_grad_enabled():  # an evaluation may well go without the wrapper
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
    """A hook that keeps no watch alive, and thereby no handler."""

    def __init__(self, watch: WrapperWatch) -> None:
        self._watch = weakref.ref(watch)

    def __call__(self, module: nn.Module, inputs: Any) -> None:
        watch = self._watch()
        if watch is not None:
            watch.look(module)
