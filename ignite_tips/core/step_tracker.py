"""The optimizers that an engine tracks: fires OptimizerEvents and keeps the counts."""

import weakref
from collections.abc import Callable, Mapping
from typing import Any, cast

from ignite.engine import CallableEventWithFilter, Engine, EventEnum, Events
from torch.optim import Optimizer

from ignite_tips._warnings import warn_user
from ignite_tips.core.ignite_internals import event_handlers, fire_event, is_running, remove_handler
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
    """The start and the end of an optimizer's update; usable with ``every=``, ``once=`` and ``event_filter=``.

    In both, ``engine.state.optimizer_step`` is the number of the update in progress, counted from 1, like
    ``engine.state.iteration`` in Ignite's own events. Between updates it is the number of completed updates.
    """

    STEP_STARTED = "optimizer_step_started"
    STEP_COMPLETED = "optimizer_step_completed"

    def __call__(self, *args: Any, **kwargs: Any) -> CallableEventWithFilter:
        """Return the event with a filter, as Ignite's own events do."""
        event = super().__call__(*args, **kwargs)
        return _FilteredOptimizerEvent(event.value, event.filter, event.name)

    def __format__(self, format_spec: str) -> str:
        # Ignite formats the event each time it fires, for a debug log; Enum's own __format__ takes half of that time.
        return self._value_ + _NEEDS


_NEEDS = ", which needs attach_optimizer_events(engine, optimizer) first,"  # in Ignite's error for an unknown event


class _FilteredOptimizerEvent(CallableEventWithFilter):
    def __format__(self, format_spec: str) -> str:
        return self.value + _NEEDS


_EVENT_TO_ATTR = dict.fromkeys(OptimizerEvents, "optimizer_step")
_STATE_KEYS = ("optimizer_step", "optimizer_steps")
# Attribute lookup on an enum is slow.
_STEP_STARTED, _STEP_COMPLETED = OptimizerEvents.STEP_STARTED, OptimizerEvents.STEP_COMPLETED


def is_optimizer_event(event: Any) -> bool:
    """Whether ``event``, filtered or not, is one of OptimizerEvents."""
    return isinstance(event, CallableEventWithFilter) and event in _EVENT_TO_ATTR


class StepTracker:
    """The attached optimizers of one engine, and the update in progress."""

    def __init__(self, engine: Engine) -> None:
        self.step: OptimizerStep | None = None
        self.attached: weakref.WeakKeyDictionary[Optimizer, AttachedOptimizer] = weakref.WeakKeyDictionary()
        self.owners: list[weakref.ref[Optimizer]] = []  # of the counts in state.optimizer_steps, also when detached
        self.loads = 0  # how often the engine's state was loaded
        self._engine = weakref.ref(engine)
        if not engine.has_registered_events(OptimizerEvents.STEP_STARTED):
            engine.register_events(*OptimizerEvents, event_to_attr=_EVENT_TO_ATTR)
        self.state.optimizer_steps = []

    @property
    def engine(self) -> Engine:
        """The engine, held weakly."""
        return cast(Engine, self._engine())  # a tracker dies with its engine

    @property
    def state(self) -> Any:
        """The engine's state, which has the counts."""
        return self.engine.state

    def attach(self, optimizer: Optimizer) -> "AttachedOptimizer":
        """Hook into the optimizer, unless already done."""
        if optimizer in self.attached:
            return self.attached[optimizer]
        if not self.attached:
            engine = self.engine
            engine.state_dict_user_keys.extend(_STATE_KEYS)
            # Ignite refuses a state without our keys, such as one saved before anything was attached; our method takes
            # it. The tracker holds the engine weakly, so this makes no cycle.
            engine.load_state_dict = self._load_state_dict  # type: ignore[method-assign]  # for this engine only
            engine.add_event_handler(Events.STARTED, _prepare_counts)
        index = self._index_for(optimizer)
        self.attached[optimizer] = attached = AttachedOptimizer(self, optimizer, index)
        return attached

    def _index_for(self, optimizer: Optimizer) -> int:
        """Return the optimizer's former index, or one that no attached optimizer uses: no count is left over."""
        unused = [index for index, owner in enumerate(self.owners) if owner() not in self.attached]
        former = next((index for index in unused if self.owners[index]() is optimizer), None)
        if former is not None:
            return former
        counts = self.state.optimizer_steps
        if unused:
            index = unused[0]
            self.owners[index], counts[index] = weakref.ref(optimizer), 0
            return index
        self.owners.append(weakref.ref(optimizer))
        counts.extend([0] * (len(self.owners) - len(counts)))
        return len(self.owners) - 1

    def _load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Load the engine's state as Ignite does, also one without counts of updates."""
        engine, state = self.engine, self.state
        self.loads += 1
        if not isinstance(state_dict, Mapping) or all(key in state_dict for key in _STATE_KEYS):
            type(engine).load_state_dict(engine, state_dict)
            return
        counts = {"optimizer_step": 0, "optimizer_steps": [0] * len(state.optimizer_steps)}
        type(engine).load_state_dict(engine, counts | dict(state_dict))
        if state.iteration > 0:
            warn_user(
                f"the trainer's state has no counts of updates, so they start from 0 at iteration {state.iteration}; "
                "if you know them, set trainer.state.optimizer_step and trainer.state.optimizer_steps after loading"
            )

    def fire(self, event: OptimizerEvents, step: OptimizerStep) -> None:
        """Fire an event of the update in progress."""
        outer, self.step = self.step, step
        engine: Any = self._engine()
        outer_event = engine.last_event_name
        try:
            fire_event(engine, event)
        finally:
            engine.last_event_name = outer_event  # Ignite and the handlers that follow go by it
            self.step = outer


class AttachedOptimizer:
    """One attached optimizer: its hooks, its index in the counts, and who uses them."""

    # open_step and the methods after it run in every update. Events are compared by identity, because Ignite's == is
    # slow, and an event without handlers is not fired.

    def __init__(self, tracker: StepTracker, optimizer: Optimizer, index: int) -> None:
        self.hooks = StepHooks(optimizer, self)
        self.index = index
        self.was_stepped = False  # in the current run, whether or not the update was then skipped
        self.was_stepped_elsewhere = False  # by another engine, or by hand
        self.attached_by_user = False
        self.ref_count = 0
        self._tracker = tracker
        self._engine: Callable[[], Any] = weakref.ref(tracker.engine)

    def open_step(self, optimizer: Optimizer) -> OptimizerStep | None:
        """Begin an update, if the engine is running."""
        engine = self._engine()
        if engine is None or not is_running(engine):
            self.was_stepped_elsewhere = True
            return None
        self.was_stepped = True
        return OptimizerStep(optimizer, engine.state.optimizer_steps[self.index] + 1)

    def on_step_started(self, step: OptimizerStep) -> None:
        """Fire STEP_STARTED on unscaled gradients."""
        engine = self._engine()
        if not event_handlers(engine).get(_STEP_STARTED):  # no handler, no need to unscale
            return
        if step.grad_scale is not None:
            step.unscale()
        engine.state.optimizer_step += 1  # an update counts in its own events, as Ignite's iterations do
        try:
            self._tracker.fire(_STEP_STARTED, step)
        finally:
            engine.state.optimizer_step -= 1

    def on_step_completed(self, step: OptimizerStep) -> None:
        """Count the update and fire STEP_COMPLETED."""
        engine = self._engine()
        engine.state.optimizer_steps[self.index] += 1
        engine.state.optimizer_step += 1
        if event_handlers(engine).get(_STEP_COMPLETED):
            self._tracker.fire(_STEP_COMPLETED, step)


trackers: weakref.WeakKeyDictionary[Engine, StepTracker] = weakref.WeakKeyDictionary()


def remove_if_unused(engine: Engine, optimizer: Optimizer) -> None:
    """Remove the hooks from an optimizer that neither the user nor a handler needs any more.

    During an update this waits until the update is done: a handler may detach and attach again, and torch is iterating
    over the hooks.
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
        remove_handler(engine, Events.STARTED, _prepare_counts)
        for key in _STATE_KEYS:
            engine.state_dict_user_keys.remove(key)
        del engine.load_state_dict


def _remove_after_update(engine: Engine, optimizer: Optimizer) -> None:
    attached = trackers[engine].attached.get(optimizer) if engine in trackers else None
    if attached is not None and attached.hooks.is_in_progress:  # only a base class's step() has returned
        after_update(lambda: _remove_after_update(engine, optimizer))
    else:
        remove_if_unused(engine, optimizer)


def _prepare_counts(engine: Engine) -> None:
    # Zero for a new run. A resumed run keeps the loaded counts, in our own copy of the list.
    state: Any = engine.state
    tracker = trackers[engine]
    for attached in tracker.attached.values():
        attached.was_stepped = False
    count = len(tracker.owners)
    if state.iteration == 0:
        state.optimizer_step, state.optimizer_steps = 0, [0] * count
        return
    if len(state.optimizer_steps) != count:
        raise RuntimeError(
            f"the trainer's loaded state must count the updates of {count} optimizers, got "
            f"{len(state.optimizer_steps)}; attach to the same optimizers as in the run that saved it"
        )
    state.optimizer_steps = list(state.optimizer_steps)


_prepare_counts.__name__ = _prepare_counts.__qualname__ = OptimizerEvents.__name__  # for Ignite's profilers
