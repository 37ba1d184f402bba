"""What a report says about a schedule: its learning rates in the run, and whether it fits."""

from typing import Any

from ignite.engine import Engine, Events, State
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from ignite_tips.core.events import completed_updates, is_optimizer_event
from ignite_tips.core.findings import Finding, HandlerReport
from ignite_tips.schedules.run_length import (
    explain_mismatch,
    find_mismatches,
    members_of,
    steps_done,
    steps_in_run,
)
from ignite_tips.schedules.simulation import simulate

__all__ = ["report_schedule"]

_MOST_SIMULATED = 100_000  # steps, about a second


def report_schedule(
    scheduler: LRScheduler, event: Any, trainer: Engine, plan: State, *, has_changed: bool
) -> HandlerReport:
    """Return the learning rates at the start, in the middle and at the end of a run, and what does not fit.

    Those of the past are not known. Before its first updates a run is taken to make one in each iteration, at most.

    Args:
        scheduler: stepped at ``event``.
        event: one or several.
        trainer: the engine that steps it.
        plan: the lengths of the whole run.
        has_changed: whether a step in the run changed a learning rate.
    """
    left, is_exact = _steps_left(event, trainer, scheduler.optimizer, plan)
    done, name = steps_done(scheduler), type(scheduler).__name__
    if left is None:
        return HandlerReport(facts={"steps": str(done)})
    mismatches = [found for found in find_mismatches(scheduler, left) if is_exact or not found.too_short]
    findings = [Finding("schedule length", explain_mismatch(found, event)) for found in mismatches]
    facts = {"steps": f"{done} of {'' if is_exact else 'at most '}{done + left}"}
    if left > _MOST_SIMULATED or any(found.fails for found in mismatches):
        return HandlerReport(facts=facts, findings=findings)
    future = simulate(scheduler, [()] * max(left - 1, 0))
    if not findings and not has_changed and done + left > 1 and all(len(set(lrs)) == 1 for lrs in future):
        text = (
            f"{name} changes no learning rate in the {done + left} steps of the run; give it the settings for a run "
            "of that length, or remove its handler"
        )
        findings.append(Finding("schedule without effect", text))
    return HandlerReport(facts=facts, lrs=[_at_three_times(lrs, done) for lrs in future], findings=findings)


def _at_three_times(lrs: list[float], done: int) -> list[float | None]:
    """Return the first, the middle and the last of all learning rates, if those after ``done`` steps are ``lrs``."""
    middle = (done + len(lrs)) // 2 - done
    return [lrs[0] if done == 0 else None, lrs[middle] if middle >= 0 else None, lrs[-1]]


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
