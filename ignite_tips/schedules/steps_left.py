"""How many more steps a run makes at an event."""

from math import ceil, floor
from typing import Any, NamedTuple

from ignite.engine import CallableEventWithFilter, Engine, Events, State
from torch.optim import Optimizer

from ignite_tips.core.events import completed_updates, is_optimizer_event
from ignite_tips.core.ignite_internals import accumulation_steps, count_passing, max_iters, members_of

__all__ = ["EPOCH_EVENTS", "StepsLeft", "steps_in_run", "steps_left"]

EPOCH_EVENTS = (Events.EPOCH_STARTED, Events.EPOCH_COMPLETED)
_ITERATION_EVENTS = (Events.ITERATION_STARTED, Events.ITERATION_COMPLETED)


class StepsLeft(NamedTuple):
    """The least and the most steps that a run still makes; equal if their number is certain."""

    least: int
    most: int


def steps_left(event: Any, trainer: Engine, optimizer: Optimizer, plan: State) -> StepsLeft | None:
    """Return how many more times the event fires in the run of ``trainer``; None if nothing is known of it.

    Updates are counted in advance if Ignite's own update function makes them. Those of another function, or with
    GradScaler, which may skip some, go by their pace, known after the first epoch.

    Args:
        event: one or several.
        trainer: the engine that fires them.
        optimizer: whose updates count.
        plan: the lengths of the whole run.
    """
    if steps_in_run(Events.ITERATION_COMPLETED, plan) == 0:
        return StepsLeft(0, 0)
    counts = [_left_at(member, trainer, optimizer, plan) for member in members_of(event)]
    known = [count for count in counts if count is not None]
    if len(known) < len(counts):
        return None
    return StepsLeft(sum(count.least for count in known), sum(count.most for count in known))


def steps_in_run(event: Any, state: State) -> int | None:
    """Return how many more times the event fires, if the lengths of the run tell."""
    counts = [_firings_in_run(member, state) for member in members_of(event)]
    return None if None in counts else sum(count for count in counts if count is not None)


def _left_at(event: CallableEventWithFilter, trainer: Engine, optimizer: Optimizer, plan: State) -> StepsLeft | None:
    if not is_optimizer_event(event):
        firings = _firings_in_run(event, plan)
        return None if firings is None else StepsLeft(firings, firings)
    updates = _updates_left(trainer, optimizer, plan)
    if updates is None:
        return None
    least, most = (_count_next(event, completed_updates(trainer, optimizer), number) for number in updates)
    return None if least is None or most is None else StepsLeft(least, most)


def _updates_left(trainer: Engine, optimizer: Optimizer, plan: State) -> StepsLeft | None:
    iterations = steps_in_run(Events.ITERATION_COMPLETED, plan)
    if iterations is None:
        return None
    if accumulation := accumulation_steps(trainer, optimizer):
        updates = (plan.iteration + iterations) // accumulation - plan.iteration // accumulation
        return StepsLeft(updates, updates)
    done = completed_updates(trainer, optimizer)
    if done == 0 or plan.iteration < (plan.epoch_length or 0):
        return None
    expected = iterations * done / plan.iteration
    return StepsLeft(floor(expected), ceil(expected))


def _firings_in_run(event: CallableEventWithFilter, state: State) -> int | None:
    epochs, length, iterations = state.max_epochs, state.epoch_length, max_iters(state)
    if iterations is None and epochs is not None and event in EPOCH_EVENTS:
        return _count_next(event, state.epoch, epochs - state.epoch)
    if length is None:
        return None
    if iterations is None:
        iterations = (epochs or 0) * length
    if event in EPOCH_EVENTS:
        whole = (iterations + (length - 1) * (event == Events.EPOCH_STARTED)) // length
        return _count_next(event, state.epoch, whole - state.epoch)
    if event in _ITERATION_EVENTS:
        return _count_next(event, state.iteration, iterations - state.iteration)
    return None


def _count_next(event: CallableEventWithFilter, done: int, number: int) -> int | None:
    """Return at how many of the next counts, after ``done``, the event passes its filter."""
    return count_passing(event, range(done + 1, done + number + 1))
