"""What a report says about a schedule: its learning rates in the run, and whether it fits."""

from typing import Any

from ignite.engine import Engine, Events, State
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from ignite_tips.core.events import completed_updates, is_optimizer_event
from ignite_tips.core.findings import Finding, HandlerReport, is_over
from ignite_tips.core.ignite_internals import members_of
from ignite_tips.schedules.run_length import (
    explain_mismatch,
    find_mismatches,
    steps_done,
    steps_in_run,
)
from ignite_tips.schedules.simulation import simulate

__all__ = ["report_schedule"]

_MOST_SIMULATED = 100_000  # steps, about a second


def report_schedule(
    scheduler: LRScheduler,
    event: Any,
    trainer: Engine,
    plan: State,
    *,
    made: int,
    may_have_changed: bool,
    first: list[float | None],
) -> HandlerReport:
    """Return the learning rates at the start, in the middle and at the end of a run, and what does not fit.

    Once it has passed, the middle is not known. Before its first updates a run is taken to make one in each iteration,
    at most.

    Args:
        scheduler: stepped at ``event``.
        event: one or several.
        trainer: the engine that steps it.
        plan: the lengths of the whole run.
        made: how many of the scheduler's steps were made in this run.
        may_have_changed: whether one of them may have changed a learning rate.
        first: the learning rate at the start, of each param group.
    """
    left, is_exact = _steps_left(event, trainer, scheduler.optimizer, plan)
    done = steps_done(scheduler)
    if left is None or (is_over(plan) and made == 0):  # then this schedule is for the next run
        return HandlerReport(facts={"steps": str(done)})
    mismatches = [found for found in find_mismatches(scheduler, left) if is_exact or not found.too_short]
    findings = [Finding("schedule length", explain_mismatch(found, event)) for found in mismatches]
    facts = {"steps": f"{done} of {'' if is_exact else 'at most '}{done + left}"}
    if left > _MOST_SIMULATED or any(found.fails for found in mismatches):
        return HandlerReport(facts=facts, findings=findings)
    future = simulate(scheduler, [()] * max(left - 1, 0))
    is_whole = done == made and (made > 0 or plan.iteration == 0)  # in a resumed run, earlier steps are not known
    is_constant = not may_have_changed and all(len(set(lrs)) == 1 for lrs in future)
    if is_whole and is_constant and not findings and done + left > 1:
        findings.append(_without_effect(scheduler, done + left))
    middle = (done + left) // 2 - done
    lrs = [
        [start, future_lrs[middle] if middle >= 0 else None, future_lrs[-1]]
        for start, future_lrs in zip(first, future, strict=True)
    ]
    return HandlerReport(facts=facts, lrs=lrs, findings=findings)


def _without_effect(scheduler: LRScheduler, steps: int) -> Finding:
    text = (
        f"{type(scheduler).__name__} changes no learning rate in the {steps} steps of the run; give it the settings "
        "for a run of that length, or remove its handler"
    )
    return Finding("schedule without effect", text)


def _steps_left(event: Any, trainer: Engine, optimizer: Optimizer, plan: State) -> tuple[int | None, bool]:
    """Return how many more steps the run makes, None if that is not known, and whether it is exact or the most."""
    steps, iterations = (steps_in_run(each, plan) for each in (event, Events.ITERATION_COMPLETED))
    if steps is not None or iterations == 0:
        return steps or 0, True
    (member, *others) = members_of(event)
    if iterations is None or others or member.filter is not None or not is_optimizer_event(member):
        return None, True
    updates = completed_updates(trainer, optimizer)
    if updates == 0:
        return iterations, False
    return round(iterations * updates / plan.iteration), True
