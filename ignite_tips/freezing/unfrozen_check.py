"""Notice that parameters do not train after they were unfrozen."""

from collections.abc import Sequence
from itertools import chain

import torch
from ignite.engine import Engine
from torch import nn
from torch.distributed.tensor import DTensor
from torch.nn.parameter import is_lazy

from ignite_tips.freezing.frozen_parameters import FreezableParameters
from ignite_tips.parameters.selection import named_parameters

__all__ = ["UnfrozenCheck"]

_CHUNK = 2**20  # values


class UnfrozenCheck:
    """Compares parameters when they are unfrozen and an epoch later: updates should have changed them.

    If no other parameter of the model has changed either, there was no update, and nothing to say. DTensors are left
    out.

    Args:
        engine: the trainer, running.
        model: bare or wrapped.
        parts: what was unfrozen.
    """

    def __init__(self, engine: Engine, model: nn.Module, parts: Sequence[FreezableParameters]) -> None:
        self._since = engine.state.iteration
        self._model = model
        self._patterns = ", ".join(pattern for part in parts for pattern in part.patterns)
        self._names = set(chain.from_iterable(part.names for part in parts))
        self._sums = _sums(model)

    def is_due(self, engine: Engine) -> bool:
        """Whether the parameters have had an epoch's time to train."""
        return engine.state.iteration - self._since >= (engine.state.epoch_length or 1)

    def describe_untrained(self) -> str | None:
        """Return what is wrong, and what to do about it; None if the parameters train, or nothing does."""
        now = _sums(self._model)
        changed = {name for name, value in now.items() if value != self._sums.get(name)}
        if not changed or changed & self._names or not self._names & now.keys():
            return None
        return (
            f"unfroze {self._patterns} after iteration {self._since}, but no update has changed it in an epoch, only "
            "other parameters; see that an optimizer has it, and that the forward pass does not run it under "
            "torch.no_grad(), detach its output, or replay a CUDA graph that was captured while it was frozen"
        )


def _sums(model: nn.Module) -> dict[str, complex]:
    """Return the sum of each trainable parameter's values: a copy of all would take as much memory as the model."""
    return {
        name: _sum(parameter.detach())
        for name, parameter in named_parameters(model).items()
        if parameter.requires_grad and not isinstance(parameter, DTensor) and not is_lazy(parameter)
    }


def _sum(values: torch.Tensor) -> complex:
    # In double precision even the smallest update shows. Torch makes a copy in it, so chunk by chunk.
    chunks = values.reshape(-1).split(_CHUNK)
    return complex(sum(chunk.sum(dtype=torch.complex128) for chunk in chunks))
