"""Ignite events around the optimizer's update.

Where they fire in the training loop, here with an accumulation of two micro-batches::

    for epoch in ...:                  EPOCH_STARTED
        for batch in loader:           ITERATION_STARTED
            loss = loss_fn(model(x), y) / 2
            loss.backward()
            if iteration % 2 == 0:
                optimizer.step()   ->  STEP_STARTED    gradients final, accumulated, unscaled
                                         (the update)
                                   ->  STEP_COMPLETED  parameters are new
                optimizer.zero_grad()
                                       ITERATION_COMPLETED
                                       EPOCH_COMPLETED

- ``OptimizerEvents.STEP_STARTED``, before the update: clip, inspect gradients, log the rate in use.
- ``OptimizerEvents.STEP_COMPLETED``, after the update: per-update schedules, counters.

Neither fires for an update that does not happen: a micro-batch of an accumulation, a step that GradScaler skips.
"""

import weakref
from collections.abc import Callable
from typing import Any, cast

from ignite.engine import CallableEventWithFilter, Engine, EventEnum, Events, EventsList
from torch.optim import LBFGS, Optimizer

from ignite_tips._checks import check_instance
from ignite_tips.optimizer_step import OptimizerStep, StepHooks

__all__ = [
    "OptimizerEvents",
    "attach_optimizer_events",
    "check_optimizer",
    "completed_updates",
    "current_step",
    "detach_optimizer_events",
    "for_optimizer",
    "handler_for",
    "hold_optimizer_events",
    "is_optimizer_event",
]


class OptimizerEvents(EventEnum):
    """The two moments of an optimizer's update; usable with ``every=``, ``once=`` and ``event_filter=``.

    In both, ``engine.state.optimizer_step`` is the number of the update under way, counted from 1, as
    ``engine.state.iteration`` is in Ignite's own events; between updates it is the number completed.
    """

    STEP_STARTED = "optimizer_step_started"
    STEP_COMPLETED = "optimizer_step_completed"

    def __format__(self, format_spec: str) -> str:
        # Ignite formats the event at every firing, for a log that is seldom read; Enum's way takes half of that time.
        return self._value_


_EVENT_TO_ATTR = dict.fromkeys(OptimizerEvents, "optimizer_step")
_STATE_KEYS = ("optimizer_step", "optimizer_steps")
# An attribute of an enum is looked up slowly.
_STEP_STARTED, _STEP_COMPLETED = OptimizerEvents.STEP_STARTED, OptimizerEvents.STEP_COMPLETED
_COMPLETED, _TERMINATE = Events.COMPLETED, Events.TERMINATE


def attach_optimizer_events(engine: Engine, optimizer: Optimizer) -> None:
    """Let ``engine`` fire OptimizerEvents around every update that ``optimizer`` makes while the engine runs.

    Attaching again changes nothing. The engine's state gains, saved and restored with the engine and set to zero
    when a new run starts:

    - ``optimizer_step``: updates completed, by all attached optimizers together;
    - ``optimizer_steps``: the same for each of them, in the order in which they were attached.

    Raises:
        TypeError: if ``engine`` is no Engine, ``optimizer`` no Optimizer, or one that, like LBFGS, computes
            gradients several times in one update, so that none are final before it.
        RuntimeError: if the engine's state was loaded already: the counts in it were passed over.

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
    _attach(engine, optimizer).kept_by_user = True


def detach_optimizer_events(engine: Engine, optimizer: Optimizer) -> None:
    """Undo ``attach_optimizer_events``; handlers of this toolkit that are still attached keep the events.

    Where nothing is attached, nothing is done.

    Raises:
        TypeError: if ``engine`` is no Engine, or ``optimizer`` no Optimizer.
    """
    check_instance("engine", engine, Engine, "an ignite Engine")
    check_instance("optimizer", optimizer, Optimizer, "a torch Optimizer")
    attached = _trackers[engine].attached.get(optimizer) if engine in _trackers else None
    if attached is not None:
        attached.kept_by_user = False
        _remove_if_unused(engine, optimizer)


def check_optimizer(optimizer: object, remedy: str = "act on Ignite's own events instead") -> None:
    """Raise TypeError unless ``optimizer`` is an Optimizer whose gradients are final before each update."""
    check_instance("optimizer", optimizer, Optimizer, "a torch Optimizer")
    if isinstance(optimizer, LBFGS):
        raise TypeError(
            "optimizer must compute its gradients once in an update, got LBFGS, which evaluates its closure several "
            f"times; {remedy}"
        )


def hold_optimizer_events(engine: Engine, optimizer: Optimizer) -> Callable[[], None]:
    """Attach the events for one handler; the function returned lets go of them again."""
    _attach(engine, optimizer).holds += 1
    engine_ref, optimizer_ref = weakref.ref(engine), weakref.ref(optimizer)

    def release() -> None:
        held_engine, held_optimizer = engine_ref(), optimizer_ref()
        if held_engine is not None and held_optimizer is not None:
            _trackers[held_engine].attached[held_optimizer].holds -= 1
            _remove_if_unused(held_engine, held_optimizer)

    return release


def for_optimizer(optimizer: Optimizer, event: Any) -> Any:
    """Narrow optimizer events to those of one optimizer; ``every=`` and ``once=`` then count its own updates.

    Other events, and those in a list of events, are returned as they are.

    Raises:
        TypeError: if ``optimizer`` is no Optimizer, or ``event`` no event.

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


def is_optimizer_event(event: Any) -> bool:
    """Whether ``event``, filtered or not, is one of OptimizerEvents."""
    return isinstance(event, CallableEventWithFilter) and event in _EVENT_TO_ATTR


def completed_updates(engine: Engine, optimizer: Optimizer) -> int:
    """Return how many updates ``optimizer``, whose events are attached, completed in the run of ``engine``."""
    tracker = _trackers[engine]
    count: int = tracker.state.optimizer_steps[tracker.attached[optimizer].place]
    return count


def current_step(engine: Engine) -> OptimizerStep:
    """Return the update under way, in a handler of OptimizerEvents.

    Raises:
        TypeError: if ``engine`` is no Engine.
        RuntimeError: outside such a handler.
    """
    tracker = _trackers.get(engine) if isinstance(engine, Engine) else None
    if tracker is None or tracker.step is None:
        check_instance("engine", engine, Engine, "an ignite Engine")
        raise RuntimeError("current_step() must be called in a handler of OptimizerEvents; no update is under way")
    return tracker.step


def handler_for(engine: Engine, optimizer: Optimizer, function: Callable[[Engine], None]) -> Callable[[Engine], None]:
    """Return a handler of OptimizerEvents that calls ``function`` when it is ``optimizer`` that makes the update.

    It takes a third of the time of a handler with a filter. The optimizer's events have to be attached.
    """
    tracker = _trackers[engine]

    def handler(engine: Engine) -> None:
        step = tracker.step
        if step is not None and step.optimizer is optimizer:
            function(engine)

    return handler


class _StepTracker:
    """The attached optimizers of one engine, and the update under way."""

    def __init__(self, engine: Engine) -> None:
        self.step: OptimizerStep | None = None
        self.attached: weakref.WeakKeyDictionary[Optimizer, _Attached] = weakref.WeakKeyDictionary()
        self.places = 0  # optimizers ever attached: their places in state.optimizer_steps
        self._engine = weakref.ref(engine)
        if not engine.has_registered_events(OptimizerEvents.STEP_STARTED):
            engine.register_events(*OptimizerEvents, event_to_attr=_EVENT_TO_ATTR)
        self.state.optimizer_steps = []
        engine.state_dict_user_keys.extend(_STATE_KEYS)
        engine.add_event_handler(Events.STARTED, _prepare_counts)

    @property
    def engine(self) -> Engine:
        return cast(Engine, self._engine())  # a tracker dies with its engine

    @property
    def state(self) -> Any:
        return self.engine.state

    def attach(self, optimizer: Optimizer) -> "_Attached":
        if optimizer not in self.attached:
            self.attached[optimizer] = _Attached(self, optimizer, self.places)
            self.places += 1
            counts = self.state.optimizer_steps
            counts.extend([0] * (self.places - len(counts)))
        return self.attached[optimizer]

    def fire(self, event: OptimizerEvents, step: OptimizerStep) -> None:
        """Fire an event of the update under way."""
        outer, self.step = self.step, step
        engine: Any = self._engine()
        state = engine.state
        state.optimizer_step += 1  # in its own events an update counts already, as an iteration does
        try:
            engine._fire_event(event)  # fire_event() would look the event up in a list once more
        finally:
            state.optimizer_step -= event is _STEP_STARTED
            self.step = outer


class _Attached:
    """One attached optimizer: its hooks, its place in the counts, and who wants them."""

    # open_step and what follows it run in every update. Events are compared by identity, for Ignite's == of events is
    # slow, and an event that nobody handles is not fired.

    def __init__(self, tracker: _StepTracker, optimizer: Optimizer, place: int) -> None:
        self.hooks = StepHooks(optimizer, self)
        self.place = place
        self.kept_by_user = False
        self.holds = 0
        self._tracker = tracker
        self._engine: Callable[[], Any] = weakref.ref(tracker.engine)

    def open_step(self, optimizer: Optimizer) -> OptimizerStep | None:
        engine = self._engine()
        if engine is None:
            return None
        last = engine.last_event_name
        if last is None or last is _COMPLETED or last is _TERMINATE:
            return None
        run = engine._internal_run_generator
        if run is not None and run.gi_frame is None:  # a run that raised: it fires no last event and leaves this behind
            return None
        return OptimizerStep(optimizer, engine.state.optimizer_steps[self.place] + 1)

    def on_step_started(self, step: OptimizerStep) -> None:
        # Ignite has no public way to ask for handlers; without any there is nothing to unscale gradients for.
        if self._engine()._event_handlers.get(_STEP_STARTED):
            if step.grad_scale is not None:
                step.unscale()
            self._tracker.fire(_STEP_STARTED, step)

    def on_step_completed(self, step: OptimizerStep) -> None:
        engine = self._engine()
        state = engine.state
        state.optimizer_steps[self.place] += 1
        if engine._event_handlers.get(_STEP_COMPLETED):
            self._tracker.fire(_STEP_COMPLETED, step)
        else:
            state.optimizer_step += 1


_trackers: weakref.WeakKeyDictionary[Engine, _StepTracker] = weakref.WeakKeyDictionary()


def _attach(engine: Engine, optimizer: Optimizer) -> _Attached:
    check_instance("engine", engine, Engine, "an ignite Engine")
    check_optimizer(optimizer)
    if engine not in _trackers:
        if engine.state.iteration > 0 and engine.last_event_name is None:  # loaded, and Ignite loads no unknown key
            raise RuntimeError(
                f"the trainer's state must be loaded after its handlers are attached, got one at iteration "
                f"{engine.state.iteration} already, whose count of updates is lost; attach first, then load"
            )
        _trackers[engine] = _StepTracker(engine)
    return _trackers[engine].attach(optimizer)


def _remove_if_unused(engine: Engine, optimizer: Optimizer) -> None:
    tracker = _trackers[engine]
    attached = tracker.attached[optimizer]
    if attached.kept_by_user or attached.holds:
        return
    attached.hooks.remove()
    del tracker.attached[optimizer]
    if not tracker.attached:
        engine.remove_event_handler(_prepare_counts, Events.STARTED)
        for key in _STATE_KEYS:
            engine.state_dict_user_keys.remove(key)
        del tracker.state.optimizer_steps
        del _trackers[engine]


def _prepare_counts(engine: Engine) -> None:
    # Zero for a new run; for a resumed one what was loaded, in a list of our own.
    state: Any = engine.state
    places = _trackers[engine].places
    if state.iteration == 0:
        state.optimizer_step, state.optimizer_steps = 0, [0] * places
        return
    if len(state.optimizer_steps) != places:
        raise RuntimeError(
            f"the trainer's loaded state must count the updates of {places} optimizers, got "
            f"{len(state.optimizer_steps)}; attach to the same optimizers as in the run that saved it"
        )
    state.optimizer_steps = list(state.optimizer_steps)
