"""Whether a schedule is made for a run of that length."""

from collections.abc import Iterator
from dataclasses import dataclass

from torch.optim.lr_scheduler import (
    ChainedScheduler,
    CosineAnnealingLR,
    LRScheduler,
    MultiStepLR,
    OneCycleLR,
    PolynomialLR,
    SequentialLR,
)

__all__ = ["Misfit", "find_misfits", "steps_done"]

# The schedules with an end after which it is wrong to go on: the rate rises again, is 0, or step() raises.
_ENDING: dict[type[LRScheduler], str] = {
    CosineAnnealingLR: "T_max",
    PolynomialLR: "total_iters",
    OneCycleLR: "total_steps",
}


@dataclass(frozen=True)
class Misfit:
    """One length in a schedule that the run does not fit.

    Attributes:
        what: the scheduler and what its length is called.
        length: in steps.
        total: how many steps the run makes.
        too_short: whether the run goes on after the schedule's end, instead of ending before half of it.
        fails: whether the scheduler raises there.
    """

    what: str
    length: int
    total: int
    too_short: bool
    fails: bool

    def describe(self, about: str = "") -> str:
        """Return a sentence with both numbers; ``about`` comes before that of the run's steps."""
        return f"{self.what} {self.length}, but the run steps it {about}{self.total} times"


def find_misfits(scheduler: LRScheduler, steps: int) -> list[Misfit]:
    """Return which lengths in a scheduler do not fit a run that steps it ``steps`` times more.

    A schedule is too short if the run passes its end, and too long if the run does not reach half of it: between
    the two lies many a run that is meant to be shorter.

    Example:
        >>> sgd = torch.optim.SGD([nn.Parameter(torch.ones(1))], lr=0.1)
        >>> [misfit.describe() for misfit in find_misfits(torch.optim.lr_scheduler.CosineAnnealingLR(sgd, 10), 500)]
        ['CosineAnnealingLR has T_max 10, but the run steps it 500 times']
    """
    return list(_misfits(scheduler, steps_done(scheduler) + steps))


def steps_done(scheduler: LRScheduler) -> int:
    """Return how many steps a scheduler has made."""
    # A ChainedScheduler does not count; its parts take every step together.
    return steps_done(scheduler._schedulers[0]) if isinstance(scheduler, ChainedScheduler) else scheduler.last_epoch


def _misfits(scheduler: LRScheduler, total: int) -> Iterator[Misfit]:
    name = type(scheduler).__name__
    if isinstance(scheduler, SequentialLR):
        yield from _compare(f"{name} has a milestone at", max(scheduler._milestones, default=0), total)
        starts, ends = [0, *scheduler._milestones], [*scheduler._milestones, total]
        for part, start, end in zip(scheduler._schedulers, starts, ends, strict=True):
            is_last = part is scheduler._schedulers[-1]  # another may be cut off by the one that follows
            yield from (misfit for misfit in _misfits(part, min(end, total) - start) if misfit.too_short or is_last)
    elif isinstance(scheduler, ChainedScheduler):
        for part in scheduler._schedulers:
            yield from _misfits(part, total)
    elif isinstance(scheduler, MultiStepLR):
        yield from _compare(f"{name} has a milestone at", max(scheduler.milestones, default=0), total)
    for kind, argument in _ENDING.items():
        if isinstance(scheduler, kind):
            end = getattr(scheduler, argument)
            fails = isinstance(scheduler, OneCycleLR)
            yield from _compare(f"{name} has {argument}", end, total, ends=True, fails=fails)


def _compare(what: str, length: int, total: int, *, ends: bool = False, fails: bool = False) -> Iterator[Misfit]:
    # After its last step a run uses no rate any more, so only a scheduler that fails has none to spare.
    too_short = ends and total > (length if fails else length + 1)
    if too_short or 0 < 2 * total <= length:
        yield Misfit(what, length, total, too_short, too_short and fails)
