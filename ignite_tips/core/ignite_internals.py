"""Every private attribute of Ignite that the package needs, behind a name of its own.

Ignite has no public way to ask for these. A release without one of them fails in this folder's tests, which name it.
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

# The first three are in the path of every update. They are C functions and Ignite's own, because a Python function
# around each would take longer than the lookup itself.

event_handlers: Callable[[Engine], dict[Any, list[tuple[Any, ...]]]] = attrgetter("_event_handlers")
"""Return the registered handlers by event, in the order of their calls."""

run_generator: Callable[[Engine], Any] = attrgetter("_internal_run_generator")
"""Return the generator of the run under way; one without a frame belongs to a run that raised."""

fire_event: Callable[[Engine, Any], None] = Engine._fire_event
"""Fire a registered event. ``Engine.fire_event`` looks it up in a list first."""


def depends_on_count_alone(event: CallableEventWithFilter) -> bool:
    """Whether an event has no filter, or one of Ignite's own: ``every``, ``once``, ``before``, ``after``."""
    return event.filter is None or getattr(event.filter, "__module__", "") == "ignite.engine.events"


def counts_of_once(event: CallableEventWithFilter) -> list[int]:
    """Return the counts of an event's ``once=``; none for another filter.

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
    """Return the logger's own handler that writes an engine's output; the options are those of its class."""
    make: Any = logger
    return make._create_output_handler(**options)
