"""Whether a schedule fits a run: its length, and the step at which a resumed run continues."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from ignite.engine import CallableEventWithFilter, Engine, Events, State
from torch.optim.lr_scheduler import (
    ChainedScheduler,
    CosineAnnealingLR,
    LRScheduler,
    MultiStepLR,
    OneCycleLR,
    PolynomialLR,
    SequentialLR,
)

from ignite_tips._warnings import warn_user
from ignite_tips.core.events import OptimizerEvents, completed_updates, is_optimizer_event
from ignite_tips.core.ignite_internals import max_iters, members_of
from ignite_tips.schedules.steps_left import EPOCH_EVENTS, steps_in_run
from ignite_tips.schedules.torch_internals import milestones_of, parts_of

__all__ = [
    "LengthMismatch",
    "check_first_epoch",
    "check_is_resumed",
    "check_reaches",
    "check_run",
    "explain_failure",
    "explain_groups",
    "explain_mismatch",
    "explain_raise",
    "find_mismatches",
    "may_have_stepped",
    "steps_done",
    "steps_missing",
]

# Schedules with an end that must not be passed: after it the learning rate rises again, is 0, or step() raises.
_ENDING: dict[type[LRScheduler], str] = {
    CosineAnnealingLR: "T_max",
    PolynomialLR: "total_iters",
    OneCycleLR: "total_steps",
}


@dataclass(frozen=True)
class LengthMismatch:
    """A length in a schedule that does not fit the run.

    Attributes:
        what: the scheduler and the name of the length.
        length: in steps.
        total: how many steps the run makes.
        too_short: True if the schedule ends before the run; False if the run ends before half of the schedule.
        fails: whether the scheduler raises at its end.
    """

    what: str
    length: int
    total: int
    too_short: bool
    fails: bool

    def describe(self, about: str = "") -> str:
        """Return a sentence with both numbers; ``about`` is put before the number of the run's steps."""
        return f"{self.what} {self.length}, but the run steps it {about}{self.total} times"


def find_mismatches(scheduler: LRScheduler, steps: int) -> list[LengthMismatch]:
    """Return the lengths in a scheduler that do not fit a run that steps it ``steps`` more times.

    A schedule is too short if the run passes its end, and too long if the run does not reach half of it. A run that
    ends in the second half of its schedule is often intended.

    Example:
        >>> sgd = torch.optim.SGD([nn.Parameter(torch.ones(1))], lr=0.1)
        >>> [found.describe() for found in find_mismatches(torch.optim.lr_scheduler.CosineAnnealingLR(sgd, 10), 500)]
        ['CosineAnnealingLR has T_max 10, but the run steps it 500 times']
    """
    return list(_mismatches(scheduler, steps_done(scheduler) + steps))


def steps_done(scheduler: LRScheduler) -> int:
    """Return how many steps a scheduler has made."""
    # A ChainedScheduler does not count; its parts make every step together.
    return steps_done(parts_of(scheduler)[0]) if isinstance(scheduler, ChainedScheduler) else scheduler.last_epoch


def _mismatches(scheduler: LRScheduler, total: int) -> Iterator[LengthMismatch]:
    name = type(scheduler).__name__
    if isinstance(scheduler, SequentialLR):
        yield from _compare(f"{name} has a milestone at", max(milestones_of(scheduler), default=0), total)
        parts, milestones = parts_of(scheduler), milestones_of(scheduler)
        for part, start, end in zip(parts, [0, *milestones], [*milestones, total], strict=True):
            is_last = part is parts[-1]  # any other part is cut off by the next one
            yield from (
                mismatch for mismatch in _mismatches(part, min(end, total) - start) if mismatch.too_short or is_last
            )
    elif isinstance(scheduler, ChainedScheduler):
        for part in parts_of(scheduler):
            yield from _mismatches(part, total)
    elif isinstance(scheduler, MultiStepLR):
        yield from _compare(f"{name} has a milestone at", max(scheduler.milestones, default=0), total)
    for kind, argument in _ENDING.items():
        if isinstance(scheduler, kind):
            end = getattr(scheduler, argument)
            fails = isinstance(scheduler, OneCycleLR)
            yield from _compare(f"{name} has {argument}", end, total, ends=True, fails=fails)


def _compare(
    what: str, length: int, total: int, *, ends: bool = False, fails: bool = False
) -> Iterator[LengthMismatch]:
    # The learning rate after the run's last step is never used, so passing the end there matters only if it raises.
    too_short = ends and total > (length if fails else length + 1)
    if too_short or 0 < 2 * total <= length:
        yield LengthMismatch(what, length, total, too_short, too_short and fails)


def check_reaches(scheduler: LRScheduler, steps: int) -> None:
    """Check that a scheduler can be stepped from its start to where a run stands.

    Raises:
        ValueError: if it is not new, or would raise before.
    """
    name = type(scheduler).__name__
    if done := steps_done(scheduler):
        raise ValueError(f"scheduler must be new to keep its settings, got {name} after {done} steps; build it anew")
    for mismatch in find_mismatches(scheduler, steps):
        if mismatch.fails:
            raise ValueError(f"{mismatch.what} {mismatch.length}, but the saved run stepped it {steps} times{_REBUILD}")


_REBUILD = "; build the scheduler for the run's length"
_KEEP = ", and load its state with load_state_dict(state, keep_settings=True)"


def check_run(scheduler: LRScheduler, event: Any, state: State) -> None:
    """At the start of a run, warn about a schedule that does not fit it.

    Raises:
        ValueError: if the scheduler would raise in the run.
    """
    steps = steps_in_run(event, state)
    if steps is not None:
        resumed = state.iteration > 0
        _check(scheduler, event, steps, 0 if resumed else steps_done(scheduler), certain=True, resumed=resumed)


def check_first_epoch(scheduler: LRScheduler, event: Any, state: State, steps: int) -> None:
    """After a run's first epoch, which made ``steps`` steps, warn if their number was not known before."""
    if steps > 0 and steps_in_run(event, state) is None and not _is_per_epoch(event):
        before = steps_done(scheduler) - steps if state.epoch == 1 else 0
        _check(scheduler, event, round(steps * _epochs_left(state)), before, certain=False)


def may_have_stepped(event: Any, trainer: Engine, scheduler: LRScheduler) -> bool:
    """Whether ``event`` may have happened before the point at which the run of ``trainer`` resumes."""

    def may_have_happened(member: CallableEventWithFilter) -> bool:
        if is_optimizer_event(member):
            return completed_updates(trainer, scheduler.optimizer) > 0
        return trainer.state.epoch > 0 or member != Events.EPOCH_COMPLETED

    return trainer.state.iteration > 0 and any(may_have_happened(member) for member in members_of(event))


def check_is_resumed(handler: str, scheduler: LRScheduler, state: State) -> None:
    """Check a resumed run at its start, if ``handler`` has loaded no state.

    Raises:
        RuntimeError: if the scheduler has made no step and so would start over.
    """
    if state.iteration > 0 and steps_done(scheduler) == 0:
        raise RuntimeError(
            f"{handler} needs its saved state to resume from iteration {state.iteration}, or its "
            f"{type(scheduler).__name__} starts over; save it and load it with the trainer's, or load a state of the "
            "scheduler alone into the scheduler"
        )


def steps_missing(event: Any, trainer: Engine, last_iteration: int, updates: int, last_updates: int) -> int:
    """Return how many steps a resumed run has to make up for.

    Args:
        event: at which the scheduler is stepped.
        trainer: at the start of the resumed run.
        last_iteration: that of the last step.
        updates: those of the scheduler's optimizer that the run has completed.
        last_updates: those that it had completed at the last step.
    """
    state, length = trainer.state, trainer.state.epoch_length

    def is_missing(member: CallableEventWithFilter) -> bool:
        now, last, period = state.iteration, last_iteration, 1
        if member == OptimizerEvents.STEP_COMPLETED:
            now, last = updates, last_updates
        elif member == Events.EPOCH_COMPLETED and length and state.iteration == state.epoch * length:
            period = length
        elif member != Events.ITERATION_COMPLETED:
            return False
        if member.filter is not None:
            return last < now and bool(member.filter(trainer, now // period))
        return now - period <= last < now

    return sum(is_missing(member) for member in members_of(event))


def explain_failure(scheduler: LRScheduler, state: State) -> str | None:
    """Return why the scheduler's step failed, if the cause is the run's length or a group that was added later."""
    if reason := explain_groups(scheduler):
        return reason
    for mismatch in find_mismatches(scheduler, steps=0):
        if mismatch.fails:
            by = f"epoch {state.epoch} of {state.max_epochs}"
            if max_iters(state) is not None:
                by = f"iteration {state.iteration} of {max_iters(state)}"
            return f"{mismatch.describe()} by {by}{_REBUILD}"
    return None


def explain_groups(scheduler: LRScheduler) -> str | None:
    """Return that a group was added to the scheduler's optimizer after it was built, if one was."""
    name, groups = type(scheduler).__name__, scheduler.optimizer.param_groups
    known = getattr(_leaf(scheduler), "base_lrs", groups)
    if len(known) == len(groups):
        return None
    has = f"its optimizer has {len(groups)}"
    return f"{name} was built for {len(known)} param groups, but {has}; make all groups up front"


def explain_raise(scheduler: LRScheduler, error: Exception, step: int, steps: int) -> str:
    """Return that the scheduler raises ``error`` in one of the steps of a run, with the remedy."""
    return explain_groups(scheduler) or (
        f"step {step} of {type(scheduler).__name__} raises {type(error).__name__}: {error}, but the run steps it "
        f"{steps} times{_REBUILD}"
    )


def _leaf(scheduler: LRScheduler) -> LRScheduler:
    parts = parts_of(scheduler)
    return _leaf(parts[0]) if parts else scheduler


def _check(
    scheduler: LRScheduler, event: Any, steps: int, before: int, *, certain: bool, resumed: bool = False
) -> None:
    rebuild = _rebuild(before, resumed=resumed)
    for mismatch in find_mismatches(scheduler, steps):
        if mismatch.fails and certain:
            raise ValueError(mismatch.describe() + rebuild)
        remedy = rebuild if mismatch.too_short and (resumed or before) else _other_event(mismatch, event)
        pace = "" if certain else ", going by its first epoch"
        warn_user(mismatch.describe("" if certain else "about ") + pace + remedy)


def explain_mismatch(mismatch: LengthMismatch, event: Any, before: int, *, resumed: bool) -> str:
    """Return a sentence about a mismatch, with the remedy, in the words of the run itself.

    Args:
        mismatch: of a scheduler.
        event: at which it is stepped.
        before: the steps that it made before a new run.
        resumed: whether the run is a resumed one.
    """
    if mismatch.fails or (mismatch.too_short and (resumed or before)):
        return mismatch.describe() + _rebuild(before, resumed=resumed)
    return mismatch.describe() + (_other_event(mismatch, event) or _REBUILD)


def _rebuild(before: int, *, resumed: bool) -> str:
    if before:  # a scheduler of an earlier run, as in a notebook
        return f", {before} of them before this run; build the scheduler and its optimizer anew"
    return _REBUILD + (_KEEP if resumed else "")


def _other_event(mismatch: LengthMismatch, event: Any) -> str:
    """Return the remedy of attaching the handler to another event, if the mismatch looks like it; else nothing."""
    per_epoch = _is_per_epoch(event)
    if mismatch.too_short and not per_epoch:
        return "; if it counts epochs, attach(trainer) steps it after each"
    if not mismatch.too_short and per_epoch:
        return "; if it counts updates, attach(trainer, OptimizerEvents.STEP_COMPLETED) steps it after each"
    return ""


def _epochs_left(state: State) -> float:
    """Return how many epochs follow after the end of one."""
    iterations = max_iters(state)
    if iterations is not None:
        return (iterations - state.iteration) / (state.epoch_length or 1)
    return (state.max_epochs or state.epoch) - state.epoch


def _is_per_epoch(event: Any) -> bool:
    return all(member in EPOCH_EVENTS for member in members_of(event))
