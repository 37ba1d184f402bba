"""Schedules to build: factors for LambdaLR, and a warm-up before any scheduler."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch.optim.lr_scheduler import ChainedScheduler, LinearLR, LRScheduler, ReduceLROnPlateau, SequentialLR

from ignite_tips._checks import check_choice, check_integer, check_number
from ignite_tips.core.handler import show
from ignite_tips.schedules.torch_internals import check_scheduler, milestones_of, parts_of, restart_parts

__all__ = ["linear_warmup", "warmup_stable_decay", "with_warmup"]

_SHAPES: dict[str, Callable[[float], float]] = {
    "linear": lambda progress: 1.0 - progress,
    "cosine": lambda progress: 0.5 * (1.0 + math.cos(math.pi * progress)),
    "sqrt": lambda progress: 1.0 - math.sqrt(progress),
}


def linear_warmup(steps: int, *, start_factor: float = 0.0) -> Callable[[int], float]:
    """Return a factor for LambdaLR that rises linearly to 1 and stays there.

    After s steps it is ``start_factor + (1 − start_factor) · min(1, s / steps)``. It can be pickled, and LambdaLR saves
    its numbers. For groups that differ, give LambdaLR a list with one function per group.

    Args:
        steps: how many steps the rise takes, ≥ 1.
        start_factor: the factor at step 0, in [0, 1]; with 0 the first update does not change the parameters.

    Raises:
        TypeError: if an argument is not a number.
        ValueError: if an argument is out of range.

    Example:
        >>> [linear_warmup(4)(step) for step in range(6)]
        [0.0, 0.25, 0.5, 0.75, 1.0, 1.0]
    """
    steps = check_integer("steps", steps, ge=1)
    return _LinearWarmup(steps, float(check_number("start_factor", start_factor, ge=0, le=1)))


def warmup_stable_decay(
    warmup: int,
    stable: int,
    decay: int,
    *,
    shape: Literal["cosine", "linear", "sqrt"] = "cosine",
    min_factor: float = 0.0,
) -> Callable[[int], float]:
    """Return a factor for LambdaLR that rises, stays at 1, and falls, each for a number of steps.

    After s steps, where W, S and D are the lengths of the three parts and p = (s − W − S) / D::

        f = s / W             while s < W
            1                 while s < W + S
            1 − p             while s < W + S + D, for the shape "linear"
            ½ (1 + cos πp)                         for "cosine"
            1 − √p                                 for "sqrt"
            0                 from then on

    and the factor is ``min_factor + (1 − min_factor) · f``. A part may have length 0; without a decay the factor stays
    at 1. It can be pickled, and LambdaLR saves its numbers.

    Args:
        warmup: W, in steps, ≥ 0.
        stable: S, in steps, ≥ 0.
        decay: D, in steps, ≥ 0.
        shape: "cosine", "linear" or "sqrt".
        min_factor: the factor at the start of the rise and at the end of the fall, in [0, 1].

    Raises:
        TypeError: if a length is not an integer, or ``shape`` not a string.
        ValueError: if an argument is out of range, or all lengths are 0.

    Example:
        >>> factor = warmup_stable_decay(2, 2, 4, shape="linear")
        >>> [factor(step) for step in range(9)]
        [0.0, 0.5, 1.0, 1.0, 1.0, 0.75, 0.5, 0.25, 0.0]

    References:
        Hu et al. 2024, MiniCPM, arXiv 2404.06395, section 4 (the schedule); Hägele et al. 2024, Scaling Laws and
        Compute-Optimal Training Beyond Fixed Training Durations, arXiv 2405.18392 (the shape "sqrt").
    """
    parts = {"warmup": warmup, "stable": stable, "decay": decay}
    warmup, stable, decay = (check_integer(name, steps, ge=0) for name, steps in parts.items())
    if warmup + stable + decay == 0:
        raise ValueError("warmup, stable and decay must not all be 0, got 0, 0 and 0")
    check_choice("shape", shape, tuple(_SHAPES))
    factor = float(check_number("min_factor", min_factor, ge=0, le=1))
    return _WarmupStableDecay(warmup, stable, decay, shape, factor)


def with_warmup(scheduler: LRScheduler, steps: int, *, start_factor: float = 0.01) -> SequentialLR:
    """Put a linear warm-up before a scheduler, which then starts at its first step.

    The result is torch's own SequentialLR of a LinearLR and the scheduler. After the warm-up its learning rates equal,
    bit for bit, those of the scheduler alone. After s < steps steps the factor is
    ``start_factor + (1 − start_factor) · s / steps``, the same for every group, so the ratios between groups stay. Step
    and save the returned scheduler, not the one given.

    For ReduceLROnPlateau, attach a second SchedulerStepper with
    ``LinearLR(optimizer, start_factor, total_iters=steps)``: after its end it no longer changes the learning rate.

    Args:
        scheduler: a new scheduler; SequentialLR and ChainedScheduler work too.
        steps: how many steps the warm-up takes, ≥ 1.
        start_factor: the factor before the first step, in (0, 1].

    Raises:
        TypeError: if ``scheduler`` is not a torch scheduler, is ReduceLROnPlateau, or has a SequentialLR inside another
            scheduler.
        ValueError: if it has been stepped, or a number is out of range.

    Example:
        >>> sgd = torch.optim.SGD([nn.Parameter(torch.ones(1))], lr=1.0)
        >>> scheduler = with_warmup(torch.optim.lr_scheduler.StepLR(sgd, 1, gamma=0.5), 2, start_factor=0.5)
        >>> lrs = []
        >>> for _ in range(5):
        ...     lrs.append(sgd.param_groups[0]["lr"]); sgd.step(); scheduler.step()
        >>> lrs
        [0.5, 0.75, 1.0, 0.5, 0.25]
    """
    check_scheduler(scheduler)
    steps = check_integer("steps", steps, ge=1)
    start_factor = check_number("start_factor", start_factor, gt=0, le=1)
    _check_new(scheduler)
    parts, milestones = [scheduler], [steps]
    if isinstance(scheduler, SequentialLR):  # take over its parts: a nested SequentialLR miscounts its steps
        parts = parts_of(scheduler)
        milestones = [steps, *(steps + milestone for milestone in milestones_of(scheduler))]
    late = _LateStart(_chained(parts[0]))  # may raise, so before LinearLR changes the learning rates
    optimizer = scheduler.optimizer
    warmup = LinearLR(optimizer, start_factor, total_iters=steps)
    return SequentialLR(optimizer, [warmup, late, *parts[1:]], milestones)


def _check_new(scheduler: LRScheduler) -> None:
    if isinstance(scheduler, ReduceLROnPlateau):
        raise TypeError(
            "scheduler must be stepped without a metric, got ReduceLROnPlateau; attach a SchedulerStepper with "
            "LinearLR in addition to its PlateauStepper"
        )
    if getattr(scheduler, "last_epoch", 0) > 0:  # ChainedScheduler itself has no last_epoch
        raise ValueError(f"scheduler must be new, got {type(scheduler).__name__} after {scheduler.last_epoch} steps")
    for part in parts_of(scheduler):
        _check_new(part)


def _chained(scheduler: LRScheduler) -> list[LRScheduler]:
    """Return the schedulers that ``scheduler`` steps at each of its steps."""
    if isinstance(scheduler, SequentialLR):
        raise TypeError(
            "scheduler must have parts that torch can restart, got a SequentialLR inside another scheduler; give the "
            "SequentialLR itself"
        )
    if isinstance(scheduler, ChainedScheduler):
        return [leaf for part in parts_of(scheduler) for leaf in _chained(part)]
    return [scheduler]


class _LateStart(ChainedScheduler):
    """Schedulers that start as new when SequentialLR reaches them.

    SequentialLR itself restarts a part by its closed form at step 0. A part without one continues from the last
    learning rate of the part before it (MultiplicativeLR, many user-written schedulers), or raises NotImplementedError
    (ChainedScheduler).
    """

    def __repr__(self) -> str:
        parts = parts_of(self)
        return show(parts[0]) if len(parts) == 1 else f"ChainedScheduler(schedulers={show(parts)})"

    def _update_lr(self, epoch: int | None = None) -> None:
        for group in self.optimizer.param_groups:
            if isinstance(group["lr"], torch.Tensor):
                group["lr"].fill_(group["initial_lr"])
            else:
                group["lr"] = group["initial_lr"]
        restart_parts(self, parts_of(self))


@dataclass(frozen=True)
class _LinearWarmup:
    steps: int
    start_factor: float

    def __call__(self, step: int) -> float:
        return self.start_factor + (1.0 - self.start_factor) * min(1.0, step / self.steps)


@dataclass(frozen=True)
class _WarmupStableDecay:
    warmup: int
    stable: int
    decay: int
    shape: str
    min_factor: float

    def __call__(self, step: int) -> float:
        return self.min_factor + (1.0 - self.min_factor) * self._factor(step)

    def _factor(self, step: int) -> float:
        if step < self.warmup:
            return step / self.warmup
        since = step - self.warmup - self.stable
        if since < 0 or self.decay == 0:
            return 1.0
        return _SHAPES[self.shape](min(1.0, since / self.decay))
