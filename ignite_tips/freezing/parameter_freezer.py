"""Freeze a part of a model at one event and unfreeze it at another."""

from collections.abc import Iterable, Mapping
from typing import Any, Self

from ignite.engine import Engine, Events
from torch import nn
from torch.optim import Optimizer

from ignite_tips._checks import check_instance, check_integer, check_keys, check_names
from ignite_tips.freezing.freezing_handler import FreezingHandler
from ignite_tips.freezing.frozen_parameters import FreezableParameters
from ignite_tips.freezing.resumable_event import (
    ResumableEvent,
    check_order,
    last_of,
    make_resumable_events,
    needs_saved_state,
)

__all__ = ["ParameterFreezer"]

_STATE_KEYS = ("frozen", "iteration", "names", "seen")


class ParameterFreezer(FreezingHandler):
    """Keep the parameters that match patterns as they are, from one event to another.

    Acts at the events that ``attach`` is given, each between two updates, so that no gradient is half made. Frozen
    parameters have no gradient and are moved by no optimizer, momentum and weight decay included; BatchNorm and its
    kin among them hold their running statistics through every ``model.train()``. Unfreezing puts all back as it was,
    and the optimizer goes on with the state that it has for them. A DistributedDataParallel wrapper around them
    follows on all ranks at the same moment (see ``rewrap_model``).

    ``engine.state.metrics["trainable_fraction"]`` is the share of the model's parameter values that train, 0 to 1.

    Args:
        model: bare, or wrapped by DistributedDataParallel, DataParallel, fully_shard or torch.compile.
        patterns: one shell glob over parameter names or several, as for ``select_parameters``.
        optimizer: checked to have every parameter that is to be unfrozen; needed for OptimizerEvents.

    Raises:
        TypeError: if an argument is of the wrong type.
        ValueError: if a pattern matches no parameter, or the optimizer has none of the model's.

    State saved: whether the parameters are frozen, at which iteration, and which events were seen.

    Example:
        >>> net = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 1))
        >>> trainer = Engine(lambda engine, batch: None)
        >>> freezer = ParameterFreezer(net, "0.*")
        >>> _ = freezer.attach(trainer, freeze=Events.STARTED, unfreeze=Events.EPOCH_STARTED(once=2))
        >>> @trainer.on(Events.EPOCH_COMPLETED)
        ... def show(engine):
        ...     print(freezer.frozen, engine.state.metrics["trainable_fraction"])
        >>> _ = trainer.run(range(1), max_epochs=2)
        ('0.weight', '0.bias') 0.333...
        () 1.0
    """

    def __init__(self, model: nn.Module, patterns: str | Iterable[str], *, optimizer: Optimizer | None = None) -> None:
        self._part = FreezableParameters(model, patterns)
        super().__init__(model, [self._part], optimizer)
        self._events: dict[str, ResumableEvent] = {}

    def attach(self, trainer: Engine, freeze: Any = Events.STARTED, unfreeze: Any = None) -> Self:
        """Freeze at the event ``freeze`` and, unless it is None, unfreeze at the event ``unfreeze``.

        Both take filters and lists of events; every rank must see them at the same moment. Events.STARTED means the
        start of a new run, not that of a resumed one. Where both fall together, ``unfreeze`` comes last.

        Args:
            trainer: the engine that makes the updates.
            freeze: when to freeze.
            unfreeze: when to unfreeze.

        Raises:
            TypeError: if an argument is of the wrong type, or the model wrapped in FullyShardedDataParallel.
            ValueError: if the trainer does not know an event, ``unfreeze`` comes before ``freeze``, another attached
                handler freezes one of the parameters, or ``unfreeze`` is given and the optimizer has no group for one.
            RuntimeError: if a wrapper has an option that cannot follow a freeze.
        """
        found = make_resumable_events("freeze", freeze, trainer, self._optimizer, self._freeze)
        if unfreeze is not None:
            later = make_resumable_events("unfreeze", unfreeze, trainer, self._optimizer, self._unfreeze)
            check_order(found, later)
            found += later
            if self._optimizer is not None:
                self._part.check_optimizer(self._optimizer)
        with self._attachment.renew():
            for event in found:
                event.hold_counts(self._attachment, trainer)  # first, to have them ready when a resumed run starts
            self._register(trainer, *([freeze] if unfreeze is None else [freeze, unfreeze]))
            for event in found:
                event.attach(self._attachment, trainer)
        self._events = {f"{index}: {event.name}": event for index, event in enumerate(found)}
        return self

    def state_dict(self) -> dict[str, Any]:
        """Return the state of this moment of the run; what was loaded, until the trainer starts from it."""
        if self._loaded is not None:
            return dict(self._loaded)
        engine = self._engine() if self._engine is not None else None
        return {
            "frozen": self._part.is_frozen,
            "iteration": self._iteration if engine is None else engine.state.iteration,
            "names": list(self._part.names),
            "seen": {name: event.seen for name, event in self._events.items()},
        }

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Take a saved state, to be applied when the trainer resumes.

        Raises:
            TypeError, ValueError: if it is no state of such a handler, or one of other parameters.
        """
        state = check_keys("ParameterFreezer state", state_dict, _STATE_KEYS)
        check_instance("the state's frozen", state["frozen"], bool, "True or False")
        check_integer("the state's iteration", state["iteration"], ge=0)
        check_instance("the state's seen", state["seen"], Mapping, "a mapping from events to counts")
        for name, count in state["seen"].items():
            check_integer(f"the state's count of {name}", count, ge=0)
        names = check_names("the state's names", state["names"])
        if names != self._part.names:
            raise ValueError(
                f"ParameterFreezer state must be of the parameters that its patterns select, "
                f"{', '.join(self._part.names)}, got {', '.join(names)}"
            )
        self._loaded = {**state, "seen": dict(state["seen"])}

    def _frozen_at_start(self, engine: Engine, loaded: Mapping[str, Any] | None) -> list[bool]:
        if loaded is not None:
            self._check_fits(engine, loaded)
        events = list(self._events.values())
        frozen = self._accounted_for(engine, loaded, events)
        last = last_of(events, engine) if engine.state.iteration > 0 else None
        return [frozen if last is None else last.action == self._freeze]

    def _accounted_for(self, engine: Engine, loaded: Mapping[str, Any] | None, events: list[ResumableEvent]) -> bool:
        """Set which counts need no look into the past any more, and return whether they left the part frozen."""
        seen = dict.fromkeys(self._events, 0)
        frozen = False
        if engine.state.iteration > 0 and needs_saved_state(events):
            if loaded is not None:
                seen, frozen = loaded["seen"], loaded["frozen"]
            elif engine.state.iteration == self._iteration:  # this handler saw the run up to here
                seen, frozen = {name: event.seen for name, event in self._events.items()}, self._part.is_frozen
            else:
                for event in events:
                    event.check_has_count(engine)
        for name, event in self._events.items():
            event.seen = seen[name]
        return frozen

    def _check_fits(self, engine: Engine, loaded: Mapping[str, Any]) -> None:
        if loaded["iteration"] != engine.state.iteration:
            raise RuntimeError(
                f"ParameterFreezer state is of iteration {loaded['iteration']}, but the trainer starts from iteration "
                f"{engine.state.iteration}; load the states that were saved together, or none for a new run"
            )
        if set(loaded["seen"]) != set(self._events):
            raise RuntimeError(
                f"ParameterFreezer state is of the events {', '.join(loaded['seen'])}, but attached are "
                f"{', '.join(self._events)}; attach to the events of the run that saved it"
            )

    def _freeze(self, engine: Engine) -> None:
        self._set_frozen(engine, [True])

    def _unfreeze(self, engine: Engine) -> None:
        self._set_frozen(engine, [False])
