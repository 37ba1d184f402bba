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
    if left.most > _MOST_SIMULATED or any(found.fails for found in mismatches):
        return report
    try:
        simulated = simulate(scheduler, [()] * left.most)
    except Exception:  # not every function of a user can be copied
        return report
    failing = done + len(simulated.lrs[0])  # the step that raises, if one does
    if simulated.error is not None and failing <= done + left.least and depends_on_step_alone(scheduler):
        text = explain_raise(scheduler, simulated.error, failing, done + left.most)
        report.findings.append(Finding("schedule raises", text))
    used = [lrs[: max(left.most, 1)] for lrs in simulated.lrs]  # what the last step sets is not used
    is_whole = done == made and (made > 0 or plan.iteration == 0)  # in a resumed run, earlier steps are not known
    is_constant = not may_have_changed and simulated.error is None and all(len(set(lrs)) == 1 for lrs in used)
    if is_whole and is_constant and not report.findings and done + left.most > 1:
        report.findings.append(_without_effect(scheduler, done + left.most))
    times = ((done + left.most) // 2 - done, max(left.most, 1) - 1)
    for start, lrs in zip(first, used, strict=True):
        report.lrs.append([start, *(lrs[time] if 0 <= time < len(lrs) else None for time in times)])
    return report


def _certain_mismatches(scheduler: LRScheduler, left: StepsLeft) -> list[LengthMismatch]:
    too_short = [found for found in find_mismatches(scheduler, left.least) if found.too_short]
    return too_short + [found for found in find_mismatches(scheduler, left.most) if not found.too_short]


def _without_effect(scheduler: LRScheduler, steps: int) -> Finding:
    text = (
        f"{type(scheduler).__name__} changes no learning rate in the {steps} steps of the run; give it the settings "
        "for a run of that length, or remove its handler"
    )
    return Finding("schedule without effect", text)
