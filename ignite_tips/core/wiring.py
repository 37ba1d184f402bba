"""How handlers are attached, and a record per engine: what each acts on (roles), and who listens to annotations.

Roles hold weak references only (see roles.py). A listener stays until the function that ``on_annotation`` returns is
called.
"""

import functools
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

from ignite.engine import Engine
from torch.optim import Optimizer

from ignite_tips.core.events import OptimizerEvents, check_events, for_optimizer, hold_optimizer_events
from ignite_tips.core.ignite_internals import event_handlers, has_open_run, remove_handler
from ignite_tips.core.roles import Role
from ignite_tips.core.step_tracker import trackers

__all__ = [
    "Annotation",
    "Attachment",
    "add_role",
    "annotate",
    "observes_only",
    "on_annotation",
    "owner_of",
    "roles_of",
    "runs_last",
]


@dataclass(frozen=True)
class Annotation:
    """Something a handler did to the run: its kind, a sentence about it, and when.

    Kinds in use: ``"freeze"``, ``"unfreeze"``, ``"plateau"``, ``"skipped_step"``.
    """

    kind: str
    text: str
    epoch: int
    iteration: int
    optimizer_step: int


_R = TypeVar("_R", bound=Role)
_Listener = Callable[[Engine, Annotation], None]


class _Wiring:
    def __init__(self) -> None:
        self.roles: list[Role] = []
        self.listeners: list[_Listener] = []


_wirings: weakref.WeakKeyDictionary[Engine, _Wiring] = weakref.WeakKeyDictionary()


def add_role(engine: Engine, role: Role) -> Callable[[], None]:
    """Record what a handler does to ``engine``; call the returned function to remove the record."""
    roles = _wirings.setdefault(engine, _Wiring()).roles
    roles.append(role)
    role.trainer = weakref.ref(engine)
    if has_open_run(engine):
        role.joined_at = engine.state.iteration
    return lambda: roles.remove(role)


def roles_of(kind: type[_R], engine: Engine | None = None) -> list[_R]:
    """Return the roles of one kind, of the handlers of ``engine`` or of all engines, in the order of attachment."""
    wirings = list(_wirings.values()) if engine is None else [_wirings[engine]] if engine in _wirings else []
    roles = [role for wiring in wirings for role in wiring.roles if isinstance(role, kind)]
    return [role for role in roles if role.handler() is not None]


def annotate(engine: Engine, kind: str, text: str) -> None:
    """Tell the loggers of ``engine`` what a handler did to the run: it may explain a jump in a curve."""
    state, wiring = engine.state, _wirings.get(engine)
    annotation = Annotation(kind, text, state.epoch, state.iteration, getattr(state, "optimizer_step", 0))
    for listener in tuple(wiring.listeners) if wiring is not None else ():
        listener(engine, annotation)


def on_annotation(engine: Engine, listener: _Listener) -> Callable[[], None]:
    """Call ``listener(engine, annotation)`` for each annotation; call the returned function to stop."""
    listeners = _wirings.setdefault(engine, _Wiring()).listeners
    listeners.append(listener)
    return lambda: listeners.remove(listener)


class Attachment:
    """A handler's registrations on engines and optimizers. It does not keep an engine alive.

    Ignite removes a handler together with every handler that equals it, such as two bound methods of one object. Here
    each registration is a separate function. Ignite also still calls a handler that an earlier handler of the same
    event has removed. Here a removed handler does nothing.

    Args:
        name: the handler's class, under which Ignite's profilers report what is registered.
    """

    def __init__(self, name: str = "Attachment") -> None:
        self._name = name
        self._owner: object = None  # while renewed
        self._undo: list[Callable[[], None]] = []

    def __bool__(self) -> bool:
        return bool(self._undo)

    def __getstate__(self) -> dict[str, Any]:
        # A copy's detach() would detach the original, and a pickle cannot hold an engine's handlers.
        if self:
            raise TypeError(
                "a handler must be detached to be copied or pickled, got an attached one; save its state_dict(), or "
                "call detach() first"
            )
        return self.__dict__

    @contextmanager
    def renew(self, owner: object = None) -> Iterator[None]:
        """Replace what is attached with what the block adds, for the handler ``owner``.

        If the block raises, nothing changes.
        """
        before, self._undo, self._owner = self._undo, [], owner
        try:
            yield
        except BaseException:
            self.clear()
            self._undo = before
            raise
        finally:
            self._owner = None
        _undo_all(before)

    def add_handler(self, engine: Engine, event: Any, function: Callable[[Engine], None]) -> None:
        """Call ``function(engine)`` at ``event``.

        Raises:
            TypeError: if ``engine`` is not an Engine, or ``event`` not an event.
            ValueError: if the engine does not know the event.
        """
        check_events("event", event, engine)

        def handler(engine: Engine) -> None:
            function(engine)

        def silence() -> None:
            nonlocal function
            function = _do_nothing

        self._register(engine, event, handler, silence)

    def add_step_handler(
        self, engine: Engine, optimizer: Optimizer, event: Any, function: Callable[[Engine], None]
    ) -> None:
        """Call ``function(engine)`` at ``event``; an optimizer event counts for ``optimizer`` only.

        Raises:
            TypeError: if ``engine`` is not an Engine or ``event`` not an event, and as ``attach_optimizer_events``.
            ValueError: if the engine does not know the event.
        """
        check_events("event", event, engine)
        self._undo.append(hold_optimizer_events(engine, optimizer))
        if not isinstance(event, OptimizerEvents):
            self.add_handler(engine, for_optimizer(optimizer, event), function)
            return
        # Not through for_optimizer: this takes a third of the time of a handler with a filter.
        tracker = trackers[engine]

        def handler(engine: Engine) -> None:
            step = tracker.step
            if step is not None and step.optimizer is optimizer:
                function(engine)

        def silence() -> None:
            nonlocal function
            function = _do_nothing

        handler.optimizer, handler.function = optimizer, function  # type: ignore[attr-defined]  # for runs_last
        self._register(engine, event, handler, silence)

    def _register(self, engine: Engine, event: Any, handler: Any, silence: Callable[[], None]) -> None:
        handler.__name__ = handler.__qualname__ = self._name
        handler.owner = None if self._owner is None else weakref.ref(self._owner)  # for owner_of
        engine.add_event_handler(event, handler)
        engine_ref = weakref.ref(engine)

        def remove() -> None:
            silence()
            attached_to = engine_ref()
            if attached_to is not None:
                remove_handler(attached_to, event, handler)

        self._undo.append(remove)

    def add_undo(self, undo: Callable[[], None]) -> None:
        """Also call ``undo`` when this attachment is cleared."""
        self._undo.append(undo)

    def clear(self) -> None:
        """Remove everything, last first."""
        before, self._undo = self._undo, []
        _undo_all(before)


def runs_last(engine: Engine, optimizer: Optimizer, function: Callable[[Engine], None]) -> bool:
    """Whether ``function``, attached with ``Attachment``, is the last handler of STEP_STARTED for ``optimizer``.

    Handlers marked with ``observes_only`` do not count.
    """
    for handler, _, _ in reversed(event_handlers(engine)[OptimizerEvents.STEP_STARTED]):
        attached = getattr(handler, "function", None)
        if attached == function:
            return True
        if getattr(attached, "observes_only", False):
            continue
        if getattr(handler, "optimizer", optimizer) is optimizer:
            return False
    return False


def owner_of(function: Callable[..., Any]) -> object | None:
    """Return the handler for which ``Attachment`` registered this function; None for any other function."""
    owner = getattr(function, "owner", None)
    return owner() if isinstance(owner, weakref.ref) else None


def observes_only(function: Callable[[Engine], None]) -> Callable[[Engine], None]:
    """Return ``function`` marked as a handler that neither reads nor changes gradients or parameters."""
    marked = functools.partial(function)
    marked.observes_only = True  # type: ignore[attr-defined]  # for runs_last
    return marked


def _do_nothing(engine: Engine) -> None:
    """Replace a function that was removed."""


def _undo_all(undos: list[Callable[[], None]]) -> None:
    for undo in reversed(undos):
        undo()
