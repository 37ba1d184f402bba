"""An Ignite event on which a handler changes a model: once a count, alike on every rank, and found again on a resume.

Ignite fires ``Events.X(once=k)`` only when the count equals k, so a resume past k loses it, and one in the middle of
an epoch fires EPOCH_STARTED of that epoch a second time. A trigger therefore listens to the bare event, asks the
filter itself, and remembers the last count that it has seen.
"""

from collections.abc import Callable
from typing import Any

from ignite.engine import CallableEventWithFilter, Engine, Events
from torch.optim import Optimizer

from ignite_tips.core.events import OptimizerEvents, check_events, current_step, is_optimizer_event
from ignite_tips.core.ignite_internals import counts_of_once, depends_on_count_alone
from ignite_tips.core.wiring import Attachment
from ignite_tips.distributed import same_on_all_ranks

__all__ = ["ResumableEvent", "check_order", "make_resumable_events"]

# Where the n-th firing of an event lies in a run: its unit, and its place in (or, from 0 on, after) the n-th of them.
_PLACES: dict[CallableEventWithFilter, tuple[str, float]] = {
    Events.EPOCH_STARTED: ("epoch", -1.0),
    Events.GET_BATCH_STARTED: ("iteration", -0.4),
    Events.GET_BATCH_COMPLETED: ("iteration", -0.3),
    Events.ITERATION_STARTED: ("iteration", -0.2),
    Events.ITERATION_COMPLETED: ("iteration", 0.0),
    Events.EPOCH_COMPLETED: ("epoch", 0.0),
}
_JUST_AFTER = 0.05  # iterations by which an epoch's event comes after that of the iteration at its edge


class ResumableEvent:
    """One event at which ``action(engine)`` is called.

    Attributes:
        seen: the last count of the event that was decided on; what a handler saves, and restores for a resume.
    """

    def __init__(
        self,
        name: str,
        event: CallableEventWithFilter,
        optimizer: Optimizer | None,
        action: Callable[[Engine], None],
    ) -> None:
        self.name = f"{name}={event.name}"
        self.action = action
        self.seen = 0
        self._event = event
        self._optimizer = optimizer
        self._is_pure = depends_on_count_alone(event)

    @property
    def event_name(self) -> str:
        """The event's name."""
        return str(self._event.name)

    @property
    def is_bare(self) -> bool:
        """Whether the event has no filter."""
        return self._event.filter is None

    @property
    def times(self) -> list[int]:
        """The counts of ``once=``; empty for any other event."""
        return counts_of_once(self._event)

    def is_at_event_of(self, other: "ResumableEvent") -> bool:
        """Whether both listen to one event, whatever their filters are."""
        return self._event == other._event

    def attach(self, attachment: Attachment, engine: Engine) -> None:
        """Listen to the bare event on ``engine``."""
        bare = CallableEventWithFilter(self._event.value, None, self._event.name)
        if self._optimizer is not None and is_optimizer_event(bare):
            attachment.add_step_handler(engine, self._optimizer, bare, self._decide)
        else:
            attachment.add_handler(engine, bare, self._decide)

    def missed(self, engine: Engine) -> list[tuple[float, "ResumableEvent"]]:
        """Return when, in iterations, the event passed its filter between the count seen and the state resumed.

        Raises:
            RuntimeError: if only the user's filter could tell, and it may no longer.
        """
        passed = self._passed(engine)
        if passed > self.seen and not self._is_pure:
            raise RuntimeError(
                f"{self.name} has a filter that cannot be asked about the past, but lies in the past of iteration "
                f"{engine.state.iteration}; resume with the handler's saved state, and attach the handler before the "
                "Checkpoint that saves it"
            )
        counts = range(self.seen + 1, passed + 1)
        return [(self._moment(engine, count), self) for count in counts if self._passes(engine, count)]

    def _decide(self, engine: Engine) -> None:
        count = self._count(engine)
        if count <= self.seen:
            return  # fired again by a resume
        self.seen = count
        passes = self._passes(engine, count)
        if not self._is_pure and not same_on_all_ranks(int(passes)):
            raise RuntimeError(
                f"{self.name} must happen on every rank at the same moment, but its filter says {passes} here and "
                f"{not passes} on another rank, at count {count}; let it depend on what all ranks share"
            )
        if passes:
            self.action(engine)

    def _passes(self, engine: Engine, count: int) -> bool:
        return self._event.filter is None or bool(self._event.filter(engine, count))

    def _count(self, engine: Engine) -> int:
        if self._event == Events.STARTED:
            return 1
        if self._optimizer is not None and is_optimizer_event(self._event):
            return current_step(engine).number
        if self._event in engine.state.event_to_attr:
            return int(engine.state.get_event_attrib_value(self._event))
        return self.seen + 1

    def _passed(self, engine: Engine) -> int:
        state = engine.state
        if self._event == Events.STARTED:
            return int(state.iteration > 0)
        if self._event not in _PLACES:
            return self.seen
        unit, place = _PLACES[self._event]
        if unit == "iteration" or state.epoch_length is None:
            return int(state.iteration if unit == "iteration" else state.epoch)
        whole, rest = divmod(state.iteration, state.epoch_length)
        return int(whole + (rest > 0 and place < 0))

    def _moment(self, engine: Engine, count: int) -> float:
        unit, place = _PLACES.get(self._event, ("iteration", -1.0))
        if unit == "iteration":
            return count + place
        return (count + place) * int(engine.state.epoch_length or 1) + _JUST_AFTER


def check_order(freeze: list[ResumableEvent], unfreeze: list[ResumableEvent]) -> None:
    """Raise ValueError if the one ``unfreeze`` is sure to come when nothing is frozen, or at once after ``freeze``."""
    if len(freeze) != 1 or len(unfreeze) != 1 or not freeze[0].is_at_event_of(unfreeze[0]):
        return
    first, last = min(freeze[0].times, default=None), max(unfreeze[0].times, default=None)
    if first is not None and last is not None and last <= first:
        name = unfreeze[0].event_name
        raise ValueError(
            f"unfreeze must come after freeze, got {name}(once={last}), after which {name}(once={first}) freezes"
        )
    if freeze[0].is_bare and unfreeze[0].is_bare:
        raise ValueError(f"unfreeze must be another event than freeze, got {unfreeze[0].event_name} for both")


def make_resumable_events(
    name: str, event: Any, trainer: Engine, optimizer: Optimizer | None, action: Callable[[Engine], None]
) -> list[ResumableEvent]:
    """Return a trigger for the event, filtered or not, or for each event of a list such as ``A | B(once=3)``.

    Args:
        name: the argument that the event was given as, for errors.
        event: what to act at.
        trainer: the engine that fires it.
        optimizer: whose updates OptimizerEvents mean.
        action: what to do.

    Raises:
        TypeError, ValueError: if ``event`` is no event of the trainer.
        ValueError: if it is one of OptimizerEvents and there is no optimizer.
    """
    triggers = []
    for member in check_events(name, event, trainer):
        if is_optimizer_event(member) and optimizer is None:
            raise ValueError(
                f"{name} must be an event of the trainer alone where there is no optimizer, got "
                f"{OptimizerEvents.__name__}.{member.name}; give ParameterFreezer its optimizer"
            )
        triggers.append(ResumableEvent(name, member, optimizer, action))
    return triggers
