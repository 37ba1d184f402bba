"""What is likely a mistake when a clipper had nothing to clip in a whole epoch."""

from collections.abc import Sequence
from itertools import chain
from typing import Any

from ignite.engine import Engine
from torch import Tensor
from torch.optim import Optimizer

from ignite_tips.core.wiring import never_stepped

__all__ = ["describe_no_gradients"]


def describe_no_gradients(
    engine: Engine, optimizer: Optimizer, parameters: Sequence[Sequence[Tensor]], norm: Any
) -> str | None:
    """Say what a clipper whose last norm was ``norm`` found none of, and what to do, or None if all is well."""
    kind = type(optimizer).__name__
    if never_stepped(engine, optimizer):
        return f"no update of its {kind} in a whole epoch; clip the optimizer that the trainer steps"
    everything = list(chain.from_iterable(parameters))
    # The last update had no gradient, nor is one there now, though parameters are to be trained.
    if (
        any(parameter.requires_grad for parameter in everything)
        and all(parameter.grad is None for parameter in everything)
        and bool(norm == 0)
    ):
        return (
            f"no gradient for its {kind} in a whole epoch; make the optimizer of the model's parameters, after "
            "fully_shard, which replaces them"
        )
    return None
