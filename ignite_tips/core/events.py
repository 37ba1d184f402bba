"""Ignite events around the optimizer's update.

Where they fire in the training loop, here with an accumulation of two micro-batches::

    for epoch in ...:                  EPOCH_STARTED
        for batch in loader:           ITERATION_STARTED
            loss = loss_fn(model(x), y) / 2
            loss.backward()
            if iteration % 2 == 0:
                optimizer.step()   ->  STEP_STARTED    gradients final, accumulated, unscaled
                                        (the update)
                                   ->  STEP_COMPLETED  parameters are updated
                optimizer.zero_grad()
                                       ITERATION_COMPLETED
                                       EPOCH_COMPLETED

- ``OptimizerEvents.STEP_STARTED``, before the update: clip, inspect gradients, log the learning rate in use.
- ``OptimizerEvents.STEP_COMPLETED``, after the update: per-update schedules, counters.

Neither fires for a micro-batch of an accumulation, or for a step that GradScaler skips: there is no update.
"""

import weakref
from collections.abc import Callable
from typing import Any, overload

from ignite.engine import CallableEventWithFilter, Engine, EventsList
from torch.optim import LBFGS, Optimizer

from ignite_tips._checks import check_instance
from ignite_tips.core.ignite_internals import members_of
from ignite_tips.core.optimizer_step import OptimizerStep
from ignite_tips.core.step_tracker import (
    AttachedOptimizer,
    OptimizerEvents,
    StepTracker,
    is_optimizer_event,
    remove_if_unused,
    trackers,
)
from ignite_tips.core.wrapped_optimizers import check_hooked

__all__ = [
    "OptimizerEvents",
    "attach_optimizer_events",
    "attached_optimizers",
    "check_events",
    "check_optimizer",
    "completed_updates",
    "current_step",
    "detach_optimizer_events",
    "for_optimizer",
    "hold_optimizer_events",
    "is_optimizer_event",
    "times_loaded",
    "was_stepped",
    "was_stepped_elsewhere",
]


def attach_optimizer_events(engine: Engine, optimizer: Optimizer) -> None:
    """Let ``engine`` fire OptimizerEvents around every update that ``optimizer`` makes while the engine runs.

    Attaching again changes nothing. The engine's state gets two counts. They are saved and restored with the engine,
    and set to zero when a new run starts:

    - ``optimizer_step``: updates completed, by all attached optimizers together;
    - ``optimizer_steps``: updates completed by each optimizer, in the order of attachment.

    Raises:
        TypeError: if ``engine`` is not an Engine; if ``optimizer`` is not an Optimizer, wraps another one without
            calling ``Optimizer.__init__``, or computes its gradients several times in one update, as LBFGS does, so
            none is final beforehand.
        RuntimeError: if the engine's state is already loaded. The counts in it are lost.

    Example:
        >>> weight = torch.nn.Parameter(torch.ones(1))
        >>> sgd = torch.optim.SGD([weight], lr=0.1)
        >>> trainer = Engine(lambda engine, batch: sgd.step())
        >>> attach_optimizer_events(trainer, sgd)
        >>> @trainer.on(OptimizerEvents.STEP_COMPLETED(every=2))
        ... def show(engine):
        ...     print(engine.state.optimizer_step)
        >>> _ = trainer.run(range(5))
        2
        4
    """
    _attach(engine, optimizer).attached_by_user = True


def detach_optimizer_events(engine: Engine, optimizer: Optimizer) -> None:
    """Undo ``attach_optimizer_events``. Handlers of this toolkit that are still attached keep the events.

    Does nothing if the events are not attached.

    Raises:
        TypeError: if ``engine`` is not an Engine, or ``optimizer`` not an Optimizer.
    """
    check_instance("engine", engine, Engine, "an ignite Engine")
    check_instance("optimizer", optimizer, Optimizer, "a torch Optimizer")
    attached = trackers[engine].attached.get(optimizer) if engine in trackers else None
    if attached is not None:
        attached.attached_by_user = False
        remove_if_unused(engine, optimizer)


def check_events(name: str, event: Any, trainer: Engine) -> list[CallableEventWithFilter]:
    """Return the event, or the events of a list such as ``A | B``; ``name`` is the argument in error messages.

    Ignite itself also accepts a string, and its error for an unknown event does not say which argument was wrong.

    Raises:
        TypeError: if ``trainer`` is not an Engine, or ``event`` not an event.
        ValueError: if the list is empty, or the trainer does not know an event.
    """
    check_instance("trainer", trainer, Engine, "an ignite Engine")  # the argument's name in every handler's attach()
    members = members_of(event)
    if not members:
        raise ValueError(f"{name} must have at least one event, got none")
    for member in members:
        check_instance(name, member, CallableEventWithFilter, "an Ignite event such as Events.EPOCH_COMPLETED")
        if not is_optimizer_event(member) and not trainer.has_registered_events(member):
            raise ValueError(
                f"{name} must be an event that the trainer knows, got {member.name}; "
                "register it with trainer.register_events(...)"
            )
    return members


def check_optimizer(optimizer: Any, remedy: str = "act on Ignite's own events instead") -> None:
    """Raise TypeError unless ``optimizer`` is an Optimizer whose updates and final gradients torch's hooks see."""
    check_instance("optimizer", optimizer, Optimizer, "a torch Optimizer")
    check_hooked(optimizer)
    if isinstance(optimizer, LBFGS):
        raise TypeError(
            "optimizer must compute its gradients once in an update, got LBFGS, which evaluates its closure several "
            f"times; {remedy}"
        )


def hold_optimizer_events(engine: Engine, optimizer: Optimizer) -> Callable[[], None]:
    """Attach the events for one handler; call the returned function to release them."""
    _attach(engine, optimizer).ref_count += 1
    engine_ref, optimizer_ref = weakref.ref(engine), weakref.ref(optimizer)

    def release() -> None:
        held_engine, held_optimizer = engine_ref(), optimizer_ref()
        if held_engine is not None and held_optimizer is not None:
            trackers[held_engine].attached[held_optimizer].ref_count -= 1
            remove_if_unused(held_engine, held_optimizer)

    return release


@overload
def for_optimizer(optimizer: Optimizer, event: EventsList) -> EventsList: ...
@overload
def for_optimizer(optimizer: Optimizer, event: CallableEventWithFilter) -> CallableEventWithFilter: ...
def for_optimizer(
    optimizer: Optimizer, event: CallableEventWithFilter | EventsList
) -> CallableEventWithFilter | EventsList:
    """Restrict optimizer events to those of one optimizer; ``every=`` and ``once=`` then count its own updates.

    Other events are returned unchanged, also within a list of events.

    Raises:
        TypeError: if ``optimizer`` is not an Optimizer, or ``event`` not an event.

    Example:
        >>> weight = torch.nn.Parameter(torch.ones(1))
        >>> discriminator = torch.optim.SGD([weight], lr=0.1)
        >>> for_optimizer(discriminator, OptimizerEvents.STEP_COMPLETED(every=2)).name
        'STEP_COMPLETED'
    """
    check_instance("optimizer", optimizer, Optimizer, "a torch Optimizer")
    check_instance("event", event, (CallableEventWithFilter, EventsList), "an Ignite event")
    if isinstance(event, EventsList):
        narrowed = EventsList()
        for member in event:
            narrowed |= for_optimizer(optimizer, member)
        return narrowed
    if not is_optimizer_event(event):
        return event
    inner = event.filter

    def is_of_optimizer(engine: Engine, _count: int) -> bool:
        step = current_step(engine)
        return step.optimizer is optimizer and (inner is None or bool(inner(engine, step.number)))

    return CallableEventWithFilter(event.value, is_of_optimizer, event.name)


def attached_optimizers(engine: Engine) -> list[Optimizer]:
    """Return the optimizers whose updates ``engine`` counts, in the order of attachment."""
    return list(trackers[engine].attached) if engine in trackers else []


def completed_updates(engine: Engine, optimizer: Optimizer) -> int:
    """Return how many updates ``optimizer`` completed in the run of ``engine``. Its events must be attached."""
    state: Any = engine.state
    counts: list[int] = state.optimizer_steps
    index = trackers[engine].attached[optimizer].index
    return counts[index] if index < len(counts) else 0  # a loaded state may have fewer, with which no run starts


def was_stepped(engine: Engine, optimizer: Optimizer) -> bool:
    """Return whether ``optimizer.step()`` was called in the run of ``engine``. Its events must be attached.

    An update that a handler skipped counts too; one that GradScaler skipped does only if the optimizer is fused,
    because GradScaler does not call ``step()`` otherwise.
    """
    return trackers[engine].attached[optimizer].was_stepped or completed_updates(engine, optimizer) > 0


def was_stepped_elsewhere(engine: Engine, optimizer: Optimizer) -> bool:
    """Return whether ``optimizer.step()`` was called outside the runs of ``engine``. Its events must be attached."""
    return trackers[engine].attached[optimizer].was_stepped_elsewhere


def times_loaded(engine: Engine) -> int:
    """Return how often the state of ``engine`` was loaded while it had optimizer events."""
    tracker = trackers.get(engine)
    return 0 if tracker is None else tracker.loads


def current_step(engine: Engine) -> OptimizerStep:
    """Return the update in progress. Only for handlers of OptimizerEvents.

    Raises:
        TypeError: if ``engine`` is not an Engine.
        RuntimeError: outside such a handler.
    """
    tracker = trackers.get(engine) if isinstance(engine, Engine) else None
    if tracker is None or tracker.step is None:
        check_instance("engine", engine, Engine, "an ignite Engine")
        raise RuntimeError("current_step() must be called in a handler of OptimizerEvents; no update is in progress")
    return tracker.step


def _attach(engine: Engine, optimizer: Optimizer) -> AttachedOptimizer:
    check_instance("engine", engine, Engine, "an ignite Engine")
    check_optimizer(optimizer)
    tracker = trackers.get(engine)
    is_first = tracker is None or not tracker.attached
    if is_first and engine.state.iteration > 0 and engine.last_event_name is None:  # loaded without our keys
        raise RuntimeError(
            f"the trainer's state must be loaded after its handlers are attached, but it is at iteration "
            f"{engine.state.iteration} already and its count of updates is lost; attach first, then load"
        )
    if tracker is None:
        tracker = trackers[engine] = StepTracker(engine)
    return tracker.attach(optimizer)
