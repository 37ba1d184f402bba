"""Ignite's private attributes, and those not in every version, each behind a named function.

Ignite has no public way to ask for the private ones. If a release lacks one, a test of this folder fails and names it.
"""

import inspect
from collections.abc import Callable
from operator import attrgetter
from typing import Any

from ignite.engine import (
    CallableEventWithFilter,
    Engine,
    Events,
    EventsList,
    State,
    supervised_training_step,
    supervised_training_step_amp,
)
from ignite.handlers import FastaiLRFinder
from ignite.handlers.base_logger import BaseLogger
from torch.optim import Optimizer

__all__ = [
    "accumulation_steps",
    "count_passing",
    "counts_of_once",
    "depends_on_count_alone",
    "event_handlers",
    "fire_event",
    "has_open_run",
    "is_lr_search",
    "is_running",
    "make_output_handler",
    "max_iters",
    "members_of",
    "remove_handler",
    "update_function",
]

# The first two run in every update. They are a C function and Ignite's own method, because wrapping each in a Python
# function would cost more than the lookup itself.

event_handlers: Callable[[Engine], dict[Any, list[tuple[Any, ...]]]] = attrgetter("_event_handlers")
"""Return the registered handlers by event, in calling order."""

fire_event: Callable[[Engine, Any], None] = Engine._fire_event
"""Fire a registered event, without the search through a list that ``Engine.fire_event`` makes."""


update_function: Callable[[Engine], Callable[..., Any]] = attrgetter("_process_function")
"""Return the function that processes a batch."""


def accumulation_steps(engine: Engine, optimizer: Optimizer) -> int | None:
    """Return in how many iterations each update of ``optimizer`` is made, if Ignite's own update function makes them.

    None for any other function, and with GradScaler, which may skip an update.
    """
    update = update_function(engine)
    code = getattr(update, "__code__", None)
    if not any(code in made_by.__code__.co_consts for made_by in _MAKERS):
        return None
    used = inspect.getclosurevars(update).nonlocals
    if used.get("optimizer") is not optimizer or used.get("scaler"):
        return None
    return used.get("gradient_accumulation_steps")


_MAKERS = (supervised_training_step, supervised_training_step_amp)  # of create_supervised_trainer's update function

_TERMINATE, _TOTAL_TIME = Events.TERMINATE, Events.COMPLETED.name


def is_running(engine: Engine) -> bool:
    """Whether ``engine`` is in a run that is not about to end: not after it, interrupted, or in its last events.

    ``last_event_name`` does not say so: a run that raises fires no last event, and a handler of COMPLETED or TERMINATE
    may fire another event, as Checkpoint does.
    """
    run: Any = engine._internal_run_generator
    if run is None:
        is_inside = not engine.interrupt_resume_enabled and _is_on_stack(Engine._internal_run_legacy, self=engine)
    else:
        is_inside = run.gi_running
    if not is_inside or engine.state.times[_TOTAL_TIME]:  # which Ignite sets just before it fires COMPLETED
        return False
    return not engine.should_terminate or not _is_on_stack(fire_event, self=engine, event_name=_TERMINATE)


def has_open_run(engine: Engine) -> bool:
    """Whether ``engine`` is anywhere in a run, or in one that it interrupted and can go on with.

    A run that raised has ended; Ignite then keeps its generator, which is exhausted.
    """
    run: Any = engine._internal_run_generator
    if run is None:
        return not engine.interrupt_resume_enabled and _is_on_stack(Engine._internal_run_legacy, self=engine)
    return run.gi_frame is not None


def is_lr_search(engine: Engine) -> bool:
    """Whether Ignite's learning rate finder is attached to ``engine``."""
    started = event_handlers(engine).get(Events.STARTED, [])
    return any(isinstance(getattr(inspect.unwrap(entry[0]), "__self__", None), FastaiLRFinder) for entry in started)


def max_iters(state: State) -> int | None:
    """Return the length of a run that was given in iterations; None in Ignite before 0.5.5, which counts in epochs."""
    length: int | None = getattr(state, "max_iters", None)
    return length


def _is_on_stack(method: Any, **arguments: Any) -> bool:
    """Whether this is called, directly or not, from a call of ``method`` with these very arguments."""
    frame = inspect.currentframe()
    while frame is not None:
        if frame.f_code is method.__code__:
            found = frame.f_locals
            if all(found[name] is value for name, value in arguments.items()):
                return True
        frame = frame.f_back
    return False


def members_of(event: Any) -> list[CallableEventWithFilter]:
    """Return the events of a list such as ``A | B``, or the one event."""
    return list(event) if isinstance(event, EventsList) else [event]


def remove_handler(engine: Engine, event: Any, handler: Callable[..., Any]) -> None:
    """Remove this very function from an event or a list of events, whatever has wrapped it since.

    Ignite's own removal compares with ==, and misses a handler that HandlersTimeProfiler has wrapped.
    """
    handlers = event_handlers(engine)
    for member in members_of(event):
        # A new list, as Ignite makes: a loop over the old one may be under way.
        handlers[member] = [entry for entry in handlers[member] if inspect.unwrap(entry[0]) is not handler]


_EVENTS_FILE = CallableEventWithFilter.__call__.__code__.co_filename


def depends_on_count_alone(event: CallableEventWithFilter) -> bool:
    """Whether an event has no filter or one of Ignite's own: ``every``, ``once``, ``before``, ``after``."""
    # By where its code was written; functools.wraps gives a filter of the user's the __module__ of the one it wraps.
    code = getattr(event.filter, "__code__", None)
    return event.filter is None or (code is not None and code.co_filename == _EVENTS_FILE)


def count_passing(event: CallableEventWithFilter, counts: range) -> int | None:
    """Return at how many of the counts an event passes its filter; None if that depends on more than the count.

    Example:
        >>> from ignite.engine import Events
        >>> count_passing(Events.ITERATION_COMPLETED(every=4), range(1, 25))
        6
    """
    if event.filter is None:
        return len(counts)
    if not depends_on_count_alone(event) or len(counts) > _MOST_COUNTED:
        return None
    return sum(bool(event.filter(None, count)) for count in counts)


_MOST_COUNTED = 1_000_000  # filter calls, about 0.1 s


def counts_of_once(event: CallableEventWithFilter) -> list[int]:
    """Return the counts in an event's ``once=``; an empty list for any other filter.

    Example:
        >>> from ignite.engine import Events
        >>> counts_of_once(Events.EPOCH_STARTED(once=[2, 4])), counts_of_once(Events.EPOCH_STARTED(every=2))
        ([2, 4], [])
    """
    if event.filter is None or not depends_on_count_alone(event):
        return []
    once = inspect.getclosurevars(event.filter).nonlocals.get("once")
    return list(once) if isinstance(once, list | tuple) else []


def make_output_handler(logger: BaseLogger, **options: Any) -> Any:
    """Return the logger's own handler for an engine's output; ``options`` go to its class."""
    make: Any = logger
    return make._create_output_handler(**options)
