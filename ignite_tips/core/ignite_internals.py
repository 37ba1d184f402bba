"""Ignite's private attributes, each behind a named function.

Ignite has no public way to ask for these. If a release lacks one, a test of this folder fails and names it.
"""

import inspect
from collections.abc import Callable
from operator import attrgetter
from typing import Any

from ignite.engine import CallableEventWithFilter, Engine
from ignite.handlers.base_logger import BaseLogger

__all__ = [
    "counts_of_once",
    "depends_on_count_alone",
    "event_handlers",
    "fire_event",
    "make_output_handler",
    "run_generator",
]

# The first three run in every update. They are C functions and Ignite's own method, because wrapping each in a Python
# function would cost more than the lookup itself.

event_handlers: Callable[[Engine], dict[Any, list[tuple[Any, ...]]]] = attrgetter("_event_handlers")
"""Return the registered handlers by event, in calling order."""

run_generator: Callable[[Engine], Any] = attrgetter("_internal_run_generator")
"""Return the generator of the current run. If it has no frame, the run raised."""

fire_event: Callable[[Engine, Any], None] = Engine._fire_event
"""Fire a registered event, without the search through a list that ``Engine.fire_event`` makes."""


_EVENTS_FILE = CallableEventWithFilter.__call__.__code__.co_filename


def depends_on_count_alone(event: CallableEventWithFilter) -> bool:
    """Whether an event has no filter or one of Ignite's own: ``every``, ``once``, ``before``, ``after``."""
    # By where its code was written; functools.wraps gives a filter of the user's the __module__ of the one it wraps.
    code = getattr(event.filter, "__code__", None)
    return event.filter is None or (code is not None and code.co_filename == _EVENTS_FILE)


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
