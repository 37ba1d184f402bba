"""What a report says about a schedule: its learning rates in the run, and whether it fits."""

from typing import Any

from ignite.engine import Engine, State
from torch.optim.lr_scheduler import LRScheduler

from ignite_tips.core.findings import Finding, HandlerReport, is_over
from ignite_tips.schedules.run_length import (
    LengthMismatch,
    explain_mismatch,
    explain_raise,
    find_mismatches,
    steps_done,
)
from ignite_tips.schedules.simulation import simulate
from ignite_tips.schedules.steps_left import StepsLeft, steps_left
from ignite_tips.schedules.torch_internals import depends_on_step_alone

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

    Once it has passed, the middle is not known. Nothing is said that depends on a number of steps that is not known.

    Args:
        scheduler: stepped at ``event``.
        event: one or several.
        trainer: the engine that steps it.
        plan: the lengths of the whole run.
        made: how many of the scheduler's steps were made in this run.
        may_have_changed: whether one of them may have changed a learning rate.
        first: the learning rate at the start, of each param group.
    """
    left, done = steps_left(event, trainer, scheduler.optimizer, plan), steps_done(scheduler)
    if left is None or (is_over(plan) and made == 0):  # then this schedule is for the next run
        return HandlerReport(facts={"steps": str(done)})
    about = "" if left.least == left.most else "about "
    report = HandlerReport(facts={"steps": f"{done} of {about}{done + left.most}"})
    mismatches = _certain_mismatches(scheduler, left)
    before = done if plan.iteration == 0 else 0
    resumed = plan.iteration > 0 and trainer.last_event_name is None
    for found in mismatches:
        report.findings.append(Finding("schedule length", explain_mismatch(found, event, before, resumed=resumed)))
    if left.most <= _MOST_SIMULATED and not any(found.fails for found in mismatches):
        is_whole = done == made and (made > 0 or plan.iteration == 0)  # in a resumed run, earlier steps are not known
        _add_simulated(report, scheduler, left, first, may_be_constant=is_whole and not may_have_changed)
    return report


def _add_simulated(
    report: HandlerReport,
    scheduler: LRScheduler,
    left: StepsLeft,
    first: list[float | None],
    *,
    may_be_constant: bool,
) -> None:
    """Add what a simulation of the steps left shows; a scheduler that cannot be copied shows nothing."""
    try:
        simulated, error = simulate(scheduler, [()] * left.most)
    except Exception:  # from a user's function that is copied with its scheduler
        return
    done, total = steps_done(scheduler), steps_done(scheduler) + left.most
    failing = done + len(simulated[0])  # the step that raises, if one does
    if error is not None and failing <= done + left.least and depends_on_step_alone(scheduler):
        report.findings.append(Finding("schedule raises", explain_raise(scheduler, error, failing, total)))
    used = [lrs[: max(left.most, 1)] for lrs in simulated]  # what the last step sets is not used
    is_constant = error is None and all(len(set(lrs)) == 1 for lrs in used)
    if may_be_constant and is_constant and not report.findings and total > 1:
        report.findings.append(_without_effect(scheduler, total))
    times = (total // 2 - done, max(left.most, 1) - 1)
    for start, lrs in zip(first, used, strict=True):
        report.lrs.append([start, *(lrs[time] if 0 <= time < len(lrs) else None for time in times)])


def _certain_mismatches(scheduler: LRScheduler, left: StepsLeft) -> list[LengthMismatch]:
    too_short = [found for found in find_mismatches(scheduler, left.least) if found.too_short]
    return too_short + [found for found in find_mismatches(scheduler, left.most) if not found.too_short]


def _without_effect(scheduler: LRScheduler, steps: int) -> Finding:
    text = (
        f"{type(scheduler).__name__} changes no learning rate in the {steps} steps of the run; give it the settings "
        "for a run of that length, or remove its handler"
    )
    return Finding("schedule without effect", text)
