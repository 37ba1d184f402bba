"""How a schedule fits the run of an Ignite trainer: its length, and where a resumed run takes it up."""

import warnings
from typing import Any

from ignite.engine import Engine, Events, State
from torch.optim.lr_scheduler import LRScheduler

from ignite_tips.schedules.length import find_misfits, steps_done

__all__ = ["check_first_epoch", "check_is_resumed", "check_run", "explain_failure", "is_step_missing"]

_EPOCH_EVENTS = (Events.EPOCH_STARTED, Events.EPOCH_COMPLETED)
_ITERATION_EVENTS = (Events.ITERATION_STARTED, Events.ITERATION_COMPLETED)
_REBUILD = "; build the scheduler for the run's length"


def check_run(scheduler: LRScheduler, event: Any, state: State) -> None:
    """At the start of a run: warn about a schedule that does not fit it.

    Raises:
        ValueError: if the scheduler would raise in the run.
    """
    steps = _steps_in_run(event, state)
    if steps is not None:
        _check(scheduler, event, steps, certain=True)


def check_first_epoch(scheduler: LRScheduler, event: Any, state: State, steps: int) -> None:
    """After a run's first epoch, which made ``steps`` steps: warn where their number was not known before."""
    if event in _EPOCH_EVENTS or _steps_in_run(event, state) is not None:
        return
    if steps > 0 and state.max_epochs is not None:
        _check(scheduler, event, steps * (state.max_epochs - state.epoch), certain=False)


def check_is_resumed(handler: str, scheduler: LRScheduler, state: State) -> None:
    """At the start of a resumed run, where ``handler`` has loaded nothing.

    Raises:
        RuntimeError: if the scheduler has made no step and so would begin anew.
    """
    if state.iteration > 0 and steps_done(scheduler) == 0:
        raise RuntimeError(
            f"{handler} needs its saved state to resume from iteration {state.iteration}, or its "
            f"{type(scheduler).__name__} begins anew; save it and load it with the trainer's"
        )


def is_step_missing(event: Any, trainer: Engine, last: int) -> bool:
    """Whether a resumed run starts after an event at which no step was made, the last being at iteration ``last``."""
    state, length = trainer.state, trainer.state.epoch_length
    if event == Events.EPOCH_COMPLETED and length and state.iteration == state.epoch * length:
        count, period = state.epoch, length
    elif event == Events.ITERATION_COMPLETED:
        count, period = state.iteration, 1
    else:
        return False
    if event.filter is not None:
        return last < state.iteration and bool(event.filter(trainer, count))
    return last + period == state.iteration


def explain_failure(scheduler: LRScheduler, state: State) -> str | None:
    """Return why the scheduler's step failed, if it is for the run's length or groups that came later."""
    name, groups = type(scheduler).__name__, scheduler.optimizer.param_groups
    known = getattr(_leaf(scheduler), "base_lrs", groups)
    if len(known) != len(groups):
        has = f"its optimizer has {len(groups)}"
        return f"{name} was built for {len(known)} param groups, but {has}; make all groups up front"
    for misfit in find_misfits(scheduler, steps=0):
        if misfit.fails:
            return f"{misfit.describe()} by epoch {state.epoch} of {state.max_epochs}{_REBUILD}"
    return None


def _leaf(scheduler: LRScheduler) -> LRScheduler:
    parts = getattr(scheduler, "_schedulers", ())
    return _leaf(parts[0]) if parts else scheduler


def _check(scheduler: LRScheduler, event: Any, steps: int, *, certain: bool) -> None:
    per_epoch = event in _EPOCH_EVENTS
    for misfit in find_misfits(scheduler, steps):
        if misfit.fails and certain:
            raise ValueError(misfit.describe() + _REBUILD)
        remedy = ""
        if misfit.too_short and not per_epoch:
            remedy = "; if it counts epochs, attach(trainer) steps it after each"
        elif not misfit.too_short and per_epoch:
            remedy = "; if it counts updates, attach(trainer, OptimizerEvents.STEP_COMPLETED) steps it after each"
        warnings.warn(misfit.describe("" if certain else "about ") + remedy, stacklevel=2)


def _steps_in_run(event: Any, state: State) -> int | None:
    """Return how many times the event is still to come, where that is known before it does."""
    if getattr(event, "filter", None) is not None or state.max_epochs is None:
        return None
    if event in _EPOCH_EVENTS:
        return state.max_epochs - state.epoch
    if event in _ITERATION_EVENTS and state.epoch_length is not None:
        return state.max_epochs * state.epoch_length - state.iteration
    return None
