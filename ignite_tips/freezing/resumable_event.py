"""An Ignite event that a resume neither loses nor repeats.

Ignite fires ``Events.X(once=k)`` only when the count equals k, so a resume past k loses it, and a resume in the middle
of an epoch fires EPOCH_STARTED of that epoch again. A resumable event therefore listens without the filter, calls the
filter itself, and remembers the last count that it saw. When a run resumes, it can call one of Ignite's own
filters for all counts of the past, since these filters depend on nothing else.
"""

from collections.abc import Callable, Sequence
from math import inf
from typing import Any, NamedTuple

from ignite.engine import CallableEventWithFilter, Engine, Events, State
from torch.optim import Optimizer

from ignite_tips.core.events import (
    OptimizerEvents,
    check_events,
    completed_updates,
    current_step,
    hold_optimizer_events,
    is_optimizer_event,
)
from ignite_tips.core.findings import iterations_in
from ignite_tips.core.ignite_internals import counts_of_once, depends_on_count_alone
from ignite_tips.core.wiring import Attachment
from ignite_tips.ranks import same_on_all_ranks

__all__ = ["Moment", "ResumableEvent", "catch_up_all", "check_order", "make_resumable_events", "needs_saved_state"]

# When the n-th firing of an event happens: the unit, and its time relative to the end of the n-th epoch or iteration.
_PLACES: dict[CallableEventWithFilter, tuple[str, float]] = {
    Events.EPOCH_STARTED: ("epoch", -1.0),
    Events.GET_BATCH_STARTED: ("iteration", -0.4),
    Events.GET_BATCH_COMPLETED: ("iteration", -0.3),
    Events.ITERATION_STARTED: ("iteration", -0.2),
    Events.ITERATION_COMPLETED: ("iteration", 0.0),
    Events.EPOCH_COMPLETED: ("epoch", 0.0),
}
_JUST_AFTER = 0.05  # iterations from an iteration's event to that of the epoch which ends with it


class Moment(NamedTuple):
    """A time in a run, in iterations or in updates. The two cannot be compared: accumulation makes updates rarer."""

    axis: str
    time: float


class ResumableEvent:
    """One event at which ``action(engine)`` is called.

    Attributes:
        seen: the last count of the event for which the filter was called; a handler saves it and restores it.
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

    def describe(self) -> str:
        """Return the event's name with the counts of ``once=``, or a word for any other filter."""
        if self.times:
            return f"{self.event_name}(once={', '.join(map(str, self.times))})"
        return self.event_name if self.is_bare else f"{self.event_name} with a filter"

    def is_after_end(self, plan: State) -> bool:
        """Whether the first count of ``once=`` is after the end of a run of these lengths, as far as that is known."""
        unit, _ = _PLACES.get(self._event, ("", 0.0))
        last = {"epoch": plan.max_epochs, "iteration": iterations_in(plan)}.get(unit)
        return last is not None and min(self.times, default=last) > last

    def is_at_event_of(self, other: "ResumableEvent") -> bool:
        """Whether both listen to one event, whatever their filters are."""
        return self._event == other._event

    def hold_counts(self, attachment: Attachment, engine: Engine) -> None:
        """Let ``engine`` count updates, if this is an event of the optimizer."""
        if self._optimizer is not None and self._is_of_optimizer:
            attachment.add_undo(hold_optimizer_events(engine, self._optimizer))

    def attach(self, attachment: Attachment, engine: Engine) -> None:
        """Listen to the event on ``engine``, without the filter."""
        bare = CallableEventWithFilter(self._event.value, None, self._event.name)
        if self._optimizer is not None and self._is_of_optimizer:
            attachment.add_step_handler(engine, self._optimizer, bare, self._decide)
        else:
            attachment.add_handler(engine, bare, self._decide)

    @property
    def axis(self) -> str | None:
        """The axis of its moments; None if the run's counts don't say when it passed, as for a user's filter."""
        if not self._is_pure:
            return None
        if self._event == Events.STARTED:
            return "any"  # before all others
        if self._is_of_optimizer:
            return "updates"
        return "iterations" if self._event in _PLACES else None

    def check_has_count(self, engine: Engine) -> None:
        """Raise RuntimeError for a user's event without a count: nothing says whether it happened before a resume."""
        if self.axis is None and not any(self._event == event for event in Events):
            raise RuntimeError(
                f"{self.name} has no count in the trainer's state, which therefore does not say whether it happened "
                f"before iteration {engine.state.iteration}; resume with the handler's saved state"
            )

    def catch_up(self, engine: Engine) -> Moment | None:
        """Return when it last passed its filter since the count seen; None if it did not. All counts are then seen.

        Raises:
            RuntimeError: if the filter is the user's, which may depend on more than the count.
        """
        seen, self.seen = self.seen, self._times_fired(engine)
        if self.seen > seen and not self._is_pure:
            raise RuntimeError(
                f"{self.name} has a filter that cannot be asked about the past, but lies in the past of iteration "
                f"{engine.state.iteration}; resume with the handler's saved state, and attach the handler before the "
                "Checkpoint that saves it"
            )
        counts = range(self.seen, seen, -1)
        return next((self._moment(engine, count) for count in counts if self._filter_accepts(engine, count)), None)

    def _decide(self, engine: Engine) -> None:
        count = self._count(engine)
        if count <= self.seen:
            return  # a resume fires it again
        self.seen = count
        passes = self._filter_accepts(engine, count)
        if not self._is_pure and not same_on_all_ranks(int(passes)):
            raise RuntimeError(
                f"{self.name} must happen on every rank at the same moment, but its filter says {passes} here and "
                f"{not passes} on another rank, at count {count}; let it depend on what all ranks share"
            )
        if passes:
            self.action(engine)

    def _filter_accepts(self, engine: Engine, count: int) -> bool:
        return self._event.filter is None or bool(self._event.filter(engine, count - self._offset))

    def _count(self, engine: Engine) -> int:
        if self._event == Events.STARTED:
            return 1
        if self._is_of_optimizer:
            return current_step(engine).number
        if self._event in engine.state.event_to_attr:
            return int(engine.state.get_event_attrib_value(self._event)) + self._offset
        return self.seen + 1

    @property
    def _offset(self) -> int:
        # A batch is fetched before the iteration that it is for is counted.
        return int(self._event in (Events.GET_BATCH_STARTED, Events.GET_BATCH_COMPLETED))

    @property
    def _is_of_optimizer(self) -> bool:
        return self._optimizer is not None and is_optimizer_event(self._event)

    def _times_fired(self, engine: Engine) -> int:
        state = engine.state
        if self._event == Events.STARTED:
            return int(state.iteration > 0)
        if self._optimizer is not None and self._is_of_optimizer:
            return completed_updates(engine, self._optimizer)
        if self._event not in _PLACES:
            return self.seen
        unit, place = _PLACES[self._event]
        if unit == "iteration" or state.epoch_length is None:
            return int(state.iteration if unit == "iteration" else state.epoch)
        whole, rest = divmod(state.iteration, state.epoch_length)
        return int(whole + (rest > 0 and place < 0))

    def _moment(self, engine: Engine, count: int) -> Moment:
        if self._event == Events.STARTED:
            return Moment("any", -inf)
        if self._is_of_optimizer:
            return Moment("updates", count - 0.5 * (self._event == OptimizerEvents.STEP_STARTED))
        unit, place = _PLACES[self._event]
        if unit == "iteration":
            return Moment("iterations", count + place)
        return Moment("iterations", (count + place) * int(engine.state.epoch_length or 1) + _JUST_AFTER)


def needs_saved_state(events: Sequence[ResumableEvent]) -> bool:
    """Whether the run's counts may not say which of the events passed last."""
    axes = {event.axis for event in events} - {"any"}
    return None in axes or len(axes) > 1


def catch_up_all(events: Sequence[ResumableEvent], engine: Engine) -> ResumableEvent | None:
    """Return the event that passed its filter last since the counts seen; None if none did.

    If two passed at the same moment, the later one in the list is returned.

    Raises:
        RuntimeError: if the counts don't say which: because of a user's filter, or because the last event by
            iterations and the last one by updates have different actions.
    """
    passed = [(event.catch_up(engine), index) for index, event in enumerate(events)]
    last: dict[str, tuple[Moment, int]] = {}
    for moment, index in passed:
        if moment is not None:
            last[moment.axis] = max(last.get(moment.axis, (moment, index)), (moment, index))
    start = last.pop("any", None)  # before all others
    found = [events[index] for _, index in last.values()]
    if len(found) > 1 and found[0].action != found[1].action:
        raise RuntimeError(
            f"{found[0].name} and {found[1].name} both lie in the past of iteration {engine.state.iteration}, and the "
            "counts of iterations and of updates don't say which came last; resume with the handler's saved state"
        )
    if found:
        return found[0]
    return None if start is None else events[start[1]]


def check_order(freeze: list[ResumableEvent], unfreeze: list[ResumableEvent]) -> None:
    """Raise ValueError if ``unfreeze`` can only come before ``freeze``, or is the same event."""
    if len(freeze) != 1 or len(unfreeze) != 1:
        return
    if unfreeze[0].axis == "any" != freeze[0].axis:
        raise ValueError(f"unfreeze must come after freeze, got STARTED, after which {freeze[0].describe()} freezes")
    if not freeze[0].is_at_event_of(unfreeze[0]):
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
    """Return one for the event, filtered or not, or one for each event of a list such as ``A | B(once=3)``.

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
    found = []
    for member in check_events(name, event, trainer):
        if is_optimizer_event(member) and optimizer is None:
            raise ValueError(
                f"{name} must be an event of the trainer alone where there is no optimizer, got "
                f"{OptimizerEvents.__name__}.{member.name}; give ParameterFreezer its optimizer"
            )
        found.append(ResumableEvent(name, member, optimizer, action))
    return found
