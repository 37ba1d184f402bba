"""What one ``attach`` put on engines and optimizers, so that ``detach`` takes off exactly that."""

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from ignite.engine import CallableEventWithFilter, Engine, EventsList
from torch.optim import Optimizer

from ignite_tips._checks import check_instance
from ignite_tips.core.events import (
    OptimizerEvents,
    completed_updates,
    for_optimizer,
    handler_for,
    hold_optimizer_events,
    is_optimizer_event,
)

__all__ = ["Attachment", "check_events", "never_stepped", "observes_only", "runs_last"]


class Attachment:
    """A handler's registrations. It keeps no engine alive.

    Removing a handler, Ignite removes every other that equals it, as two bound methods of one object do. Here each
    registration is a function of its own.
    """

    def __init__(self) -> None:
        self._undo: list[Callable[[], None]] = []

    def __bool__(self) -> bool:
        return bool(self._undo)

    def __getstate__(self) -> dict[str, Any]:
        # A copy's detach() would take off what the first one attached, and a pickle cannot hold an engine's handlers.
        if self:
            raise TypeError(
                "a handler must be detached to be copied or pickled, got an attached one; save its state_dict(), or "
                "call its detach() first"
            )
        return self.__dict__

    @contextmanager
    def renew(self) -> Iterator[None]:
        """Replace what is attached by what the block adds; if the block raises, all stays as it was."""
        before, self._undo = self._undo, []
        try:
            yield
        except BaseException:
            self.clear()
            self._undo = before
            raise
        _undo_all(before)

    def add_handler(self, engine: Engine, event: Any, function: Callable[[Engine], None]) -> None:
        """Call ``function(engine)`` at ``event``.

        Raises:
            TypeError: if ``engine`` is no Engine, or ``event`` no event.
            ValueError: if the engine does not know the event.
        """
        check_events("event", event, engine)

        def handler(engine: Engine) -> None:
            function(engine)

        self._undo.append(engine.add_event_handler(event, handler).remove)

    def add_step_handler(
        self, engine: Engine, optimizer: Optimizer, event: Any, function: Callable[[Engine], None]
    ) -> None:
        """Call ``function(engine)`` at ``event``, where an optimizer event means those of ``optimizer`` alone.

        Raises:
            TypeError: if ``engine`` is no Engine, ``event`` no event, or as ``attach_optimizer_events``.
            ValueError: if the engine does not know the event.
        """
        check_events("event", event, engine)
        self._undo.append(hold_optimizer_events(engine, optimizer))
        if not isinstance(event, OptimizerEvents):
            self.add_handler(engine, for_optimizer(optimizer, event), function)
            return

        handler: Any = handler_for(engine, optimizer, function)
        handler.optimizer, handler.function = optimizer, function  # for runs_last
        self._undo.append(engine.add_event_handler(event, handler).remove)

    def add_undo(self, undo: Callable[[], None]) -> None:
        """Call ``undo`` too when this attachment is cleared."""
        self._undo.append(undo)

    def clear(self) -> None:
        """Take everything off again, the last first."""
        before, self._undo = self._undo, []
        _undo_all(before)


def runs_last(engine: Engine, optimizer: Optimizer, function: Callable[[Engine], None]) -> bool:
    """Whether no handler of STEP_STARTED for ``optimizer`` follows ``function``, attached with ``Attachment``.

    Those that ``observes_only`` marks do not count.
    """
    for handler, _, _ in reversed(engine._event_handlers[OptimizerEvents.STEP_STARTED]):
        attached = getattr(handler, "function", None)
        if attached == function:
            return True
        if getattr(attached, "observes_only", False):
            continue
        if getattr(handler, "optimizer", optimizer) is optimizer:
            return False
    return False


def never_stepped(engine: Engine, optimizer: Optimizer) -> bool:
    """Whether ``optimizer`` has a parameter to train and yet completed no update in the run of ``engine``."""
    parameters = (parameter for group in optimizer.param_groups for parameter in group["params"])
    return completed_updates(engine, optimizer) == 0 and any(parameter.requires_grad for parameter in parameters)


def observes_only(function: Callable[[Engine], None]) -> Callable[[Engine], None]:
    """Return ``function`` marked as a handler that neither reads nor changes gradients or parameters."""
    marked = functools.partial(function)
    marked.observes_only = True  # type: ignore[attr-defined]  # for runs_last
    return marked


def check_events(name: str, event: Any, trainer: Engine) -> list[CallableEventWithFilter]:
    """Return the one event, or those of a list such as ``A | B``, that ``trainer`` can fire; ``name`` is the argument.

    Ignite takes a string for the event of that name, and refuses what it does not know without saying who asked.

    Raises:
        TypeError: if ``trainer`` is no Engine, or ``event`` no event.
        ValueError: if there is none in the list, or one that the trainer does not know.
    """
    check_instance("trainer", trainer, Engine, "an ignite Engine")  # what every handler's attach calls it
    members = list(event) if isinstance(event, EventsList) else [event]
    if not members:
        raise ValueError(f"{name} must have at least one event, got none")
    for member in members:
        check_instance(name, member, CallableEventWithFilter, "an Ignite event such as Events.EPOCH_COMPLETED")
        if not is_optimizer_event(member) and not trainer.has_registered_events(member):
            raise ValueError(
                f"{name} must be an event that the trainer knows, got {member.name}; "
                "make it known to it by trainer.register_events(...)"
            )
    return members


def _undo_all(undos: list[Callable[[], None]]) -> None:
    for undo in reversed(undos):
        undo()
