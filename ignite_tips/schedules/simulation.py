"""Preview a schedule without training."""

import copy
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import torch
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from ignite_tips._checks import check_integer, check_iterable, check_number, describe
from ignite_tips.parameters.groups import group_names
from ignite_tips.schedules.torch_internals import check_scheduler, without_step_warnings

__all__ = ["Simulation", "simulate", "simulate_schedule"]


def simulate_schedule(
    scheduler: LRScheduler, steps: int | None = None, *, metrics: Iterable[float] | None = None
) -> dict[str, list[float]]:
    """Return the learning rates that a scheduler would give each param group from now on.

    It steps a copy of the scheduler on a copy of the optimizer that has the groups' options but not their parameters.
    The scheduler, the optimizer and the model do not change, and the copy needs little memory.

    Args:
        scheduler: any torch scheduler, in any state.
        steps: how many steps (updates or epochs) to simulate, ≥ 1; not for ReduceLROnPlateau.
        metrics: for ReduceLROnPlateau, the metric after each epoch; at least one, and no NaN.

    Returns:
        For each group, by its ``"name"`` or else its index, the learning rate in use at each step. That is ``steps``
        values, or one more than ``metrics``: the last metric decides about the epoch after it.

    Raises:
        TypeError: if ``scheduler`` is not a torch scheduler, or is given ``steps`` but needs ``metrics``, or vice
            versa.
        ValueError: if there are no steps or metrics, if the scheduler raises in one of them, or if two groups have the
            same name.

    Example:
        >>> sgd = torch.optim.SGD([{"params": [nn.Parameter(torch.ones(1))], "name": "head"}], lr=0.5)
        >>> simulate_schedule(torch.optim.lr_scheduler.StepLR(sgd, 2, gamma=0.5), 5)
        {'head': [0.5, 0.5, 0.25, 0.25, 0.125]}
        >>> plateau = torch.optim.lr_scheduler.ReduceLROnPlateau(sgd, factor=0.5, patience=1)
        >>> simulate_schedule(plateau, metrics=[3, 2, 2, 2])
        {'head': [0.5, 0.5, 0.5, 0.5, 0.25]}
    """
    check_scheduler(scheduler)
    inputs: list[tuple[float, ...]]
    if isinstance(scheduler, ReduceLROnPlateau):
        if steps is not None or metrics is None:
            got = "neither" if steps is None else f"steps {describe(steps)}"
            raise TypeError(f"metrics must be given instead of steps for ReduceLROnPlateau, got {got}")
        check_iterable("metrics", metrics, "a list of numbers")
        inputs = [(check_number("each of metrics", metric),) for metric in metrics]
        if not inputs:
            raise ValueError("metrics must have at least one metric, got none")
    else:
        if metrics is not None or steps is None:
            got = "neither" if metrics is None else f"metrics {describe(metrics)}"
            raise TypeError(f"steps must be given instead of metrics for {type(scheduler).__name__}, got {got}")
        inputs = [()] * (check_integer("steps", steps, ge=1) - 1)
    names = group_names(scheduler.optimizer)
    lrs, error = simulate(scheduler, inputs)
    if error is not None:
        raise ValueError(
            f"scheduler must be able to make all steps, got {type(scheduler).__name__}, whose step {len(lrs[0])} of "
            f"{len(inputs)} raises {type(error).__name__}: {error}; simulate fewer, or build it for more steps"
        ) from error
    return dict(zip(names, lrs, strict=True))


class Simulation(NamedTuple):
    """What a simulation found.

    Attributes:
        lrs: each param group's learning rates, at the start and after each step.
        error: what the next step raised; None if all steps were made.
    """

    lrs: list[list[float]]
    error: Exception | None


def simulate(scheduler: LRScheduler, inputs: Sequence[tuple[float, ...]]) -> Simulation:
    """Step a copy of the scheduler with each of the arguments in turn, until one raises. The copy itself may raise."""
    scheduler = _copy(scheduler)
    step: Callable[..., None] = scheduler.step
    lrs, error = [_current(scheduler.optimizer)], None
    with without_step_warnings():
        for arguments in inputs:
            try:
                step(*arguments)
            except Exception as raised:  # a user's function may raise anything; the caller tells
                error = raised
                break
            lrs.append(_current(scheduler.optimizer))
    return Simulation([list(group) for group in zip(*lrs, strict=True)], error)


def _copy(scheduler: LRScheduler) -> LRScheduler:
    # deepcopy takes what is in the memo as the copy.
    optimizer = scheduler.optimizer
    memo: dict[int, Any] = {id(optimizer.state): {}}
    for group in optimizer.param_groups:
        memo.update((id(parameter), torch.empty(0)) for parameter in group["params"])
    return copy.deepcopy(scheduler, memo)


def _current(optimizer: Optimizer) -> tuple[float, ...]:
    return tuple(float(group["lr"]) for group in optimizer.param_groups)
