"""Which handlers act at which event of an engine, in their order, and loggers that come too early or too late."""

import functools
import inspect
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from ignite.engine import Engine, Events
from ignite.handlers.base_logger import BaseHandler, BaseLogger, BaseOutputHandler

from ignite_tips.core.events import OptimizerEvents
from ignite_tips.core.findings import Finding
from ignite_tips.core.ignite_internals import event_handlers
from ignite_tips.core.roles import Role
from ignite_tips.core.wiring import owner_of, roles_of

__all__ = ["find_early_loggers", "find_late_loggers", "handlers_by_event", "registered"]

_ORDER: tuple[Any, ...] = (
    Events.STARTED,
    Events.EPOCH_STARTED,
    Events.GET_BATCH_STARTED,
    Events.GET_BATCH_COMPLETED,
    Events.ITERATION_STARTED,
    *OptimizerEvents,
    Events.ITERATION_COMPLETED,
    Events.EPOCH_COMPLETED,
    Events.COMPLETED,
)
_BOOKKEEPING = OptimizerEvents.__name__  # under which the counts of updates are prepared


def registered(engine: Engine) -> Iterator[tuple[Any, list[tuple[Any, tuple[Any, ...]]]]]:
    """Yield each event with what is called at it, without wrappers, and the arguments: in the order of a run."""
    handlers = event_handlers(engine)
    for event in dict.fromkeys([*_ORDER, *handlers]):
        if handlers.get(event):
            yield event, [(inspect.unwrap(entry[0], stop=inspect.ismethod), entry[1]) for entry in handlers[event]]


def handlers_by_event(engine: Engine, trainer: Engine) -> dict[str, list[str]]:
    """Return what acts at each event of ``engine``: our handlers by their repr, all others by name."""
    acting = {(id(role.handler()), event) for role in _roles_at(engine, trainer) for event in role.events}
    found: dict[str, list[str]] = {}
    for event, entries in registered(engine):
        shown: dict[int, str] = {}  # by identity: a handler may register several functions
        for function, arguments in entries:
            owner = owner_of(function)
            is_shown = owner is None or (id(owner), event.name) in acting
            if is_shown and getattr(function, "__qualname__", "") != _BOOKKEEPING:
                shown.setdefault(id(function if owner is None else owner), _name(function, arguments))
        if shown:
            found[event.name] = list(shown.values())
    return found


def find_early_loggers(trainer: Engine) -> Iterator[Finding]:
    """Yield the loggers that read a metric at an event at which a later handler sets it."""
    for event, entries in registered(trainer):
        roles = [role for role in roles_of(Role, trainer) if event.name in role.events]
        for place, (logger, arguments) in enumerate(entries):
            later = [owner_of(function) for function, _ in entries[place:]]
            for role in roles:
                names = _logged(logger, role)
                if names and (role.is_deferred or role.handler() in later):
                    yield _too_early(_name(logger, arguments), names, role, event)


def find_late_loggers(trainer: Engine) -> Iterator[Finding]:
    """Yield our loggers that were attached to a run that was under way."""
    for role in roles_of(Role, trainer):
        if role.is_logger and role.joined_at:
            text = (
                f"{role.handler()!r} was attached at iteration {role.joined_at} of the run, so what was before is "
                "missing; attach it before trainer.run(...)"
            )
            yield Finding("logger too late", text)


def _logged(logger: object, role: Role) -> list[str]:
    wanted = logger.metric_names or () if isinstance(logger, BaseOutputHandler) else ()
    return [name for name in role.metric_names() if wanted == "all" or name in wanted]


def _too_early(logger: str, names: list[str], role: Role, event: Any) -> Finding:
    at_step = event == OptimizerEvents.STEP_STARTED
    text = (
        f"{logger} reads {', '.join(names)} at {event.name} before {role.handler_name} sets it, so that each value is "
        f"the one before; attach it {'at OptimizerEvents.STEP_COMPLETED' if at_step else 'after that handler'}"
    )
    return Finding("logger too early", text)


def _roles_at(engine: Engine, trainer: Engine) -> list[Role]:
    roles = roles_of(Role, trainer)
    return [role for role in roles if (trainer if role.engine is None else role.engine()) is engine]


def _name(function: Callable[..., Any], arguments: tuple[Any, ...]) -> str:
    owner = owner_of(function)
    if owner is not None:
        return repr(owner)
    if isinstance(function, functools.partial):
        return _name(function.func, arguments)
    if isinstance(function, BaseHandler):
        loggers = [type(argument).__name__ for argument in arguments if isinstance(argument, BaseLogger)]
        return " of ".join([type(function).__name__, *loggers])
    if inspect.ismethod(function):
        return f"{type(function.__self__).__name__}.{function.__name__}"
    if inspect.isfunction(function) and function.__name__ == "<lambda>":
        code = function.__code__
        path = Path(code.co_filename)
        return f"lambda in {path.name if path.is_file() else 'a cell'}:{code.co_firstlineno}"  # of a notebook
    name: str = getattr(function, "__name__", type(function).__name__)
    return name
