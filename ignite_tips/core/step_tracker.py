"""Who fires OptimizerEvents: one tracker for an engine, with the optimizers attached to it."""

import weakref
from collections.abc import Callable
from typing import Any, cast

from ignite.engine import CallableEventWithFilter, Engine, EventEnum, Events
from torch.optim import Optimizer

from ignite_tips.core.ignite_internals import event_handlers, fire_event, run_generator
from ignite_tips.core.optimizer_step import OptimizerStep, StepHooks, after_update

__all__ = [
    "AttachedOptimizer",
    "OptimizerEvents",
    "StepTracker",
    "is_optimizer_event",
    "remove_if_unused",
    "trackers",
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


def is_optimizer_event(event: Any) -> bool:
    """Whether ``event``, filtered or not, is one of OptimizerEvents."""
    return isinstance(event, CallableEventWithFilter) and event in _EVENT_TO_ATTR


class StepTracker:
    """The attached optimizers of one engine, and the update under way."""

    def __init__(self, engine: Engine) -> None:
        self.step: OptimizerStep | None = None
        self.attached: weakref.WeakKeyDictionary[Optimizer, AttachedOptimizer] = weakref.WeakKeyDictionary()
        self.next_index = 0  # the number of optimizers ever attached: their indices in state.optimizer_steps
        self._engine = weakref.ref(engine)
        if not engine.has_registered_events(OptimizerEvents.STEP_STARTED):
            engine.register_events(*OptimizerEvents, event_to_attr=_EVENT_TO_ATTR)
        self.state.optimizer_steps = []
        engine.state_dict_user_keys.extend(_STATE_KEYS)
        engine.add_event_handler(Events.STARTED, _prepare_counts)

    @property
    def engine(self) -> Engine:
        """The engine, held weakly."""
        return cast(Engine, self._engine())  # a tracker dies with its engine

    @property
    def state(self) -> Any:
        """The engine's, with the counts."""
        return self.engine.state

    def attach(self, optimizer: Optimizer) -> "AttachedOptimizer":
        """Hook into the optimizer, unless that is done."""
        if optimizer not in self.attached:
            self.attached[optimizer] = AttachedOptimizer(self, optimizer, self.next_index)
            self.next_index += 1
            counts = self.state.optimizer_steps
            counts.extend([0] * (self.next_index - len(counts)))
        return self.attached[optimizer]

    def fire(self, event: OptimizerEvents, step: OptimizerStep) -> None:
        """Fire an event of the update under way."""
        outer, self.step = self.step, step
        engine: Any = self._engine()
        state = engine.state
        state.optimizer_step += 1  # in its own events an update counts already, as an iteration does
        try:
            fire_event(engine, event)
        finally:
            state.optimizer_step -= event is _STEP_STARTED
            self.step = outer


class AttachedOptimizer:
    """One attached optimizer: its hooks, its index in the counts, and who wants them."""

    # open_step and what follows it run in every update. Events are compared by identity, for Ignite's == of events is
    # slow, and an event that nobody handles is not fired.

    def __init__(self, tracker: StepTracker, optimizer: Optimizer, index: int) -> None:
        self.hooks = StepHooks(optimizer, self)
        self.index = index
        self.attached_by_user = False
        self.ref_count = 0
        self._tracker = tracker
        self._engine: Callable[[], Any] = weakref.ref(tracker.engine)

    def open_step(self, optimizer: Optimizer) -> OptimizerStep | None:
        """Begin an update, if one that the engine's run makes."""
        engine = self._engine()
        if engine is None:
            return None
        last = engine.last_event_name
        if last is None or last is _COMPLETED or last is _TERMINATE:
            return None
        run = run_generator(engine)
        if run is not None and run.gi_frame is None:  # a run that raised: it fires no last event and leaves this behind
            return None
        return OptimizerStep(optimizer, engine.state.optimizer_steps[self.index] + 1)

    def on_step_started(self, step: OptimizerStep) -> None:
        """Fire STEP_STARTED on unscaled gradients."""
        if event_handlers(self._engine()).get(_STEP_STARTED):  # else there is nothing to unscale gradients for
            if step.grad_scale is not None:
                step.unscale()
            self._tracker.fire(_STEP_STARTED, step)

    def on_step_completed(self, step: OptimizerStep) -> None:
        """Count the update and fire STEP_COMPLETED."""
        engine = self._engine()
        state = engine.state
        state.optimizer_steps[self.index] += 1
        if event_handlers(engine).get(_STEP_COMPLETED):
            self._tracker.fire(_STEP_COMPLETED, step)
        else:
            state.optimizer_step += 1


trackers: weakref.WeakKeyDictionary[Engine, StepTracker] = weakref.WeakKeyDictionary()


def remove_if_unused(engine: Engine, optimizer: Optimizer) -> None:
    """Take the hooks off an optimizer that neither the user nor a handler wants to be told of.

    During an update that waits until it is done: who detaches may attach again, and torch is in a loop over the hooks.
    """
    tracker = trackers.get(engine)
    attached = tracker.attached.get(optimizer) if tracker is not None else None
    if tracker is None or attached is None or attached.attached_by_user or attached.ref_count:
        return
    if tracker.step is not None:
        after_update(lambda: _remove_after_update(engine, optimizer))
        return
    attached.hooks.remove()
    del tracker.attached[optimizer]
    if not tracker.attached:
        engine.remove_event_handler(_prepare_counts, Events.STARTED)
        for key in _STATE_KEYS:
            engine.state_dict_user_keys.remove(key)
        del tracker.state.optimizer_steps
        del trackers[engine]


def _remove_after_update(engine: Engine, optimizer: Optimizer) -> None:
    attached = trackers[engine].attached.get(optimizer) if engine in trackers else None
    if attached is not None and attached.hooks.is_under_way:  # only the step() of a base class is done
        after_update(lambda: _remove_after_update(engine, optimizer))
    else:
        remove_if_unused(engine, optimizer)


def _prepare_counts(engine: Engine) -> None:
    # Zero for a new run; for a resumed one what was loaded, in a list of our own.
    state: Any = engine.state
    count = trackers[engine].next_index
    if state.iteration == 0:
        state.optimizer_step, state.optimizer_steps = 0, [0] * count
        return
    if len(state.optimizer_steps) != count:
        raise RuntimeError(
            f"the trainer's loaded state must count the updates of {count} optimizers, got "
            f"{len(state.optimizer_steps)}; attach to the same optimizers as in the run that saved it"
        )
    state.optimizer_steps = list(state.optimizer_steps)
