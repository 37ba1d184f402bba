"""Updates that torch's step hooks do not see, or not whole: by wrappers, within ``backward()``, in a CUDA graph."""

from typing import Any

import torch
from torch.optim import Optimizer

__all__ = [
    "check_hooked",
    "check_not_captured",
    "check_outside_backward",
    "inner_update_error",
    "parameter_ids",
    "watched_inner",
]


def check_hooked(optimizer: Optimizer) -> None:
    """Raise TypeError if torch's hooks do not see the optimizer's ``step()``."""
    if not _is_hooked(optimizer):
        raise TypeError(
            f"optimizer must have a step() that torch's hooks see, got {type(optimizer).__name__}, a wrapper that does "
            f"not call Optimizer.__init__; {_use_inner(optimizer)}"
        )


def check_outside_backward(optimizer: Optimizer) -> None:
    """Raise RuntimeError if ``backward()`` is running and may still change a gradient of the optimizer."""
    if torch._C._current_graph_task_id() == -1 or len(parameter_ids(optimizer)) == 1:
        return
    raise RuntimeError(
        f"{type(optimizer).__name__} must be stepped after backward(), when its gradients are final, but was stepped "
        "within it; create an optimizer for each parameter, or detach the handlers that act on its updates"
    )


def check_not_captured(optimizer: Optimizer) -> None:
    """Raise RuntimeError if the optimizer's step is being captured in a CUDA graph."""
    cuda: Any = torch.cuda
    if cuda.is_initialized() and cuda.is_current_stream_capturing():
        raise RuntimeError(
            f"{type(optimizer).__name__} must be stepped outside a CUDA graph, whose replays call no handlers; capture "
            "forward and backward only, or detach the handlers that act on its updates"
        )


def watched_inner(optimizer: Optimizer) -> list[Optimizer]:
    """Return the optimizers within ``optimizer`` that may update its parameters in its place, and that hooks see."""
    own = parameter_ids(optimizer)
    inner = [each for each in _inner_optimizers(optimizer).values() if _is_hooked(each)]
    return [each for each in inner if not own.isdisjoint(parameter_ids(each))]


def inner_update_error(optimizer: Optimizer, inner: Optimizer) -> RuntimeError:
    """Return the error for an update that an inner optimizer made outside the step() of ``optimizer``."""
    return RuntimeError(
        f"{type(optimizer).__name__} must make its updates in its own step(), but its inner {type(inner).__name__} "
        f"made one outside it; {_use_inner(optimizer)}"
    )


def parameter_ids(*optimizers: Optimizer) -> set[int]:
    """Return the ids of the parameters in the optimizers' groups."""
    groups = (group for optimizer in optimizers for group in optimizer.param_groups)
    return {id(parameter) for group in groups for parameter in group["params"]}


def _is_hooked(optimizer: Optimizer) -> bool:
    # Optimizer.__init__ creates the tables of hooks, and marks its class's step() once that runs them.
    return hasattr(optimizer, "_optimizer_step_pre_hooks") and hasattr(type(optimizer).step, "hooked")


def _inner_optimizers(optimizer: Optimizer) -> dict[str, Optimizer]:
    """Return the optimizers that are attributes of another one, by name."""
    return {name: inner for name, inner in vars(optimizer).items() if isinstance(inner, Optimizer)}


def _use_inner(optimizer: Optimizer) -> str:
    names = [f", optimizer.{name}," for name in _inner_optimizers(optimizer)]
    return f"give handlers and schedulers the inner optimizer{names[0] if names else ''} instead"
