"""Schedules to build: factors by step for LambdaLR, and a warm-up before any scheduler."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch.optim.lr_scheduler import ChainedScheduler, LinearLR, LRScheduler, ReduceLROnPlateau, SequentialLR

from ignite_tips._checks import check_choice, check_instance, check_integer, check_number
from ignite_tips.schedules.torch_internals import milestones_of, parts_of, start_anew

__all__ = ["linear_warmup", "warmup_stable_decay", "with_warmup"]

_SHAPES: dict[str, Callable[[float], float]] = {
    "linear": lambda progress: 1.0 - progress,
    "cosine": lambda progress: 0.5 * (1.0 + math.cos(math.pi * progress)),
    "sqrt": lambda progress: 1.0 - math.sqrt(progress),
}


def linear_warmup(steps: int, *, start_factor: float = 0.0) -> Callable[[int], float]:
    """Return a factor for LambdaLR that rises in a straight line to 1, and stays there.

    After s steps it is ``start_factor + (1 − start_factor) · min(1, s / steps)``. It can be pickled, and LambdaLR
    saves its numbers; for groups that differ, give LambdaLR a list with one function for each.

    Args:
        steps: how many steps the rise takes, ≥ 1.
        start_factor: the factor at step 0, in [0, 1]; with 0 the first update leaves the parameters as they are.

    Raises:
        TypeError: if an argument is no number.
        ValueError: if one is out of its bounds.

    Example:
        >>> [linear_warmup(4)(step) for step in range(6)]
        [0.0, 0.25, 0.5, 0.75, 1.0, 1.0]
    """
    check_integer("steps", steps, ge=1)
    check_number("start_factor", start_factor, ge=0, le=1)
    return _LinearWarmup(steps, float(start_factor))  # a float of NumPy could be saved, but not be loaded


def warmup_stable_decay(
    warmup: int, stable: int, decay: int, *, shape: str = "cosine", min_factor: float = 0.0
) -> Callable[[int], float]:
    """Return a factor for LambdaLR that rises, holds, and falls, each for a number of steps.

    After s steps, with W, S and D the lengths of the three parts and p = (s − W − S) / D::

        f = s / W             while s < W
            1                 while s < W + S
            1 − p             while s < W + S + D, for the shape "linear"
            ½ (1 + cos πp)                         for "cosine"
            1 − √p                                 for "sqrt"
            0                 from then on

    and the factor is ``min_factor + (1 − min_factor) · f``. A part may have the length 0; without a decay the
    factor stays 1. It can be pickled, and LambdaLR saves its numbers.

    Args:
        warmup: W, in steps, ≥ 0.
        stable: S, in steps, ≥ 0.
        decay: D, in steps, ≥ 0.
        shape: "cosine", "linear" or "sqrt".
        min_factor: the factor at the start of the rise and at the end of the fall, in [0, 1].

    Raises:
        TypeError: if a length is no integer, or ``shape`` no string.
        ValueError: if an argument is out of its bounds, or all lengths are 0.

    Example:
        >>> factor = warmup_stable_decay(2, 2, 4, shape="linear")
        >>> [factor(step) for step in range(9)]
        [0.0, 0.5, 1.0, 1.0, 1.0, 0.75, 0.5, 0.25, 0.0]

    References:
        Hu et al. 2024, MiniCPM, arXiv 2404.06395, section 4 (the schedule); Hägele et al. 2024, Scaling Laws and
        Compute-Optimal Training Beyond Fixed Training Durations, arXiv 2405.18392 (the shape "sqrt").
    """
    for name, steps in (("warmup", warmup), ("stable", stable), ("decay", decay)):
        check_integer(name, steps, ge=0)
    if warmup + stable + decay == 0:
        raise ValueError("warmup, stable and decay must be > 0 together, got 0, 0 and 0")
    check_choice("shape", shape, tuple(_SHAPES))
    check_number("min_factor", min_factor, ge=0, le=1)
    return _WarmupStableDecay(warmup, stable, decay, shape, float(min_factor))


def with_warmup(scheduler: LRScheduler, steps: int, *, start_factor: float = 0.01) -> SequentialLR:
    """Put a linear warm-up before a scheduler, which then starts from its first step.

    It is torch's own SequentialLR of a LinearLR and the scheduler, whose rates after the warm-up are to the last bit
    those that it would have alone. After s < steps steps the factor is
    ``start_factor + (1 − start_factor) · s / steps``, the same for every group, so that their ratios are kept. Step and
    save the scheduler that is returned, not the one given.

    ReduceLROnPlateau takes its warm-up beside it: ``LinearLR(optimizer, start_factor, total_iters=steps)`` in a
    SchedulerStepper of its own, which leaves the rate alone when it is done.

    Args:
        scheduler: a new scheduler, SequentialLR and ChainedScheduler included.
        steps: how many steps the warm-up takes, ≥ 1.
        start_factor: the factor before the first step, in (0, 1].

    Raises:
        TypeError: if ``scheduler`` is no torch scheduler, or ReduceLROnPlateau, or holds a SequentialLR inside another.
        ValueError: if it has been stepped, or a number is out of its bounds.

    Example:
        >>> sgd = torch.optim.SGD([nn.Parameter(torch.ones(1))], lr=1.0)
        >>> scheduler = with_warmup(torch.optim.lr_scheduler.StepLR(sgd, 1, gamma=0.5), 2, start_factor=0.5)
        >>> rates = []
        >>> for _ in range(5):
        ...     rates.append(sgd.param_groups[0]["lr"]); sgd.step(); scheduler.step()
        >>> rates
        [0.5, 0.75, 1.0, 0.5, 0.25]
    """
    check_instance("scheduler", scheduler, LRScheduler, "a torch learning-rate scheduler")
    check_integer("steps", steps, ge=1)
    check_number("start_factor", start_factor, gt=0, le=1)
    _check_new(scheduler)
    parts, milestones = [scheduler], [steps]
    if isinstance(scheduler, SequentialLR):  # its parts become ours: one in another would miscount its steps
        parts = parts_of(scheduler)
        milestones = [steps, *(steps + milestone for milestone in milestones_of(scheduler))]
    late = _LateStart(_chained(parts[0]))  # may refuse, which LinearLR, as it sets the rates, would come too early for
    optimizer = scheduler.optimizer
    warmup = LinearLR(optimizer, start_factor, total_iters=steps)
    return SequentialLR(optimizer, [warmup, late, *parts[1:]], milestones)


def _check_new(scheduler: LRScheduler) -> None:
    if isinstance(scheduler, ReduceLROnPlateau):
        raise TypeError(
            "scheduler must be stepped without a metric, got ReduceLROnPlateau; attach a SchedulerStepper with "
            "LinearLR beside its PlateauStepper"
        )
    if getattr(scheduler, "last_epoch", 0) > 0:  # a ChainedScheduler has none, its parts have
        raise ValueError(f"scheduler must be new, got {type(scheduler).__name__} after {scheduler.last_epoch} steps")
    for part in parts_of(scheduler):
        _check_new(part)


def _chained(scheduler: LRScheduler) -> list[LRScheduler]:
    """Return the schedulers that ``scheduler`` steps one after the other, each time."""
    if isinstance(scheduler, SequentialLR):
        raise TypeError(
            "scheduler must hold schedulers that torch can start anew, got one with a SequentialLR inside another "
            "scheduler; give the SequentialLR itself"
        )
    if isinstance(scheduler, ChainedScheduler):
        return [leaf for part in parts_of(scheduler) for leaf in _chained(part)]
    return [scheduler]


class _LateStart(ChainedScheduler):
    """Schedulers that SequentialLR may start after others, as if they were new.

    Of its own parts SequentialLR asks the closed form at 0. Those without one go on from the last rate of the part
    before (MultiplicativeLR, many a user's), or raise NotImplementedError (ChainedScheduler).
    """

    def _update_lr(self, epoch: int | None = None) -> None:
        for group in self.optimizer.param_groups:
            if isinstance(group["lr"], torch.Tensor):
                group["lr"].fill_(group["initial_lr"])
            else:
                group["lr"] = group["initial_lr"]
        start_anew(self, parts_of(self))


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
