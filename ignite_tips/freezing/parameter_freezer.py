"""Freeze a part of a model at one event and unfreeze it at another."""

from collections.abc import Iterable, Mapping
from typing import Any, Self

from ignite.engine import Engine, Events, State
from torch import nn
from torch.optim import Optimizer

from ignite_tips._checks import check_instance, check_integer, check_keys, check_names
from ignite_tips.core.findings import Finding, HandlerReport
from ignite_tips.freezing.freezing_handler import FreezingHandler, names_on, patterns_of
from ignite_tips.freezing.frozen_parameters import FreezableParameters
from ignite_tips.freezing.resumable_event import (
    ResumableEvent,
    catch_up_all,
    check_order,
    make_resumable_events,
    needs_saved_state,
)
from ignite_tips.parameters.selection import ParameterNames
from ignite_tips.ranks import as_process_group

__all__ = ["ParameterFreezer"]

_STATE_KEYS = ("frozen", "iteration", "names", "seen")


class ParameterFreezer(FreezingHandler):
    """Freeze the parameters that match patterns at one event, and unfreeze them at another.

    Acts at the events that ``attach`` is given. Frozen parameters lose their gradient, so no optimizer moves them, not
    even by momentum or weight decay. Frozen modules keep their statistics, BatchNorm's running mean for example,
    through every ``model.train()`` (see ``freeze_parameters``). Their other buffers in the state
    dict, such as an observer's or a codebook's, are put back after each iteration, if they change in the first two
    after a freeze. Unfreezing restores everything; the optimizer continues with the state it has. A
    DistributedDataParallel wrapper follows on all ranks (see ``rewrap_model``).

    It warns if no gradient reaches what it has unfrozen in an epoch, although other parameters of the model have one.

    ``engine.state.metrics["trainable_fraction"]`` is the fraction of the model's parameter values that train, 0 to 1.

    Args:
        model: the model that the trainer calls: bare, or wrapped by DistributedDataParallel, DataParallel, fully_shard
            or torch.compile.
        patterns: one shell glob over parameter names or several, as for ``select_parameters``.
        optimizer: checked to have every parameter that will be unfrozen; those that you froze before stay frozen and
            need no group. Required for OptimizerEvents.
        pattern_group: the ranks that have the model's other parameters, such as the stages of a pipeline: a DeviceMesh
            of one dimension, as ``mesh["pp"]``, or a process group. A pattern then has to match on one of them only,
            and ``trainable_fraction`` is that of all. Make the handler on each of them.

    Raises:
        TypeError: if an argument has the wrong type; in the first forward pass of a run, if the model is wrapped by
            DistributedDataParallel and this handler got only what is inside. This check misses a wrapper whose
            ``forward`` is called directly, one that first runs after the model has trained without it, and gradients
            averaged by anything else: give such code the same freezes on every rank.
        ValueError: if a pattern matches no parameter, or the optimizer has none of the model's parameters.
        RuntimeError: later, if a parameter is no longer in the model, for example because a layer was replaced.

    State saved: whether the parameters are frozen, the iteration, and the last count seen of each event. A resume needs
    it only if an event has a filter function of your own or no count, or if some events count iterations and others
    updates. In all other cases the trainer's counts say what is frozen.

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

    def __init__(
        self,
        model: nn.Module,
        patterns: str | Iterable[str],
        *,
        optimizer: Optimizer | None = None,
        pattern_group: Any = None,
    ) -> None:
        ranks = as_process_group("pattern_group", pattern_group)
        self._part = FreezableParameters(ParameterNames(model, names_on(ranks, model)), patterns)
        super().__init__(model, [self._part], optimizer, ranks)
        self._events: dict[str, ResumableEvent] = {}

    def attach(self, trainer: Engine, *, freeze: Any = Events.STARTED, unfreeze: Any = None) -> Self:
        """Freeze at the event ``freeze`` and unfreeze at the event ``unfreeze``, or never if that is None.

        Each may have a filter or be a list of events, and must happen on all ranks at the same time. Events.STARTED
        means the start of a new run; a resume does not freeze again. If both happen at once, ``unfreeze`` comes last.

        Args:
            trainer: the engine that makes the updates.
            freeze: when to freeze.
            unfreeze: when to unfreeze.

        Raises:
            TypeError: if an argument has the wrong type, or the model is wrapped in FullyShardedDataParallel.
            ValueError: if the trainer does not know an event, ``unfreeze`` can only come before ``freeze`` (as far as
                their filters tell), another attached handler freezes one of the parameters, or ``unfreeze`` is given
                and the optimizer has no group for one.
            RuntimeError: if a DistributedDataParallel wrapper has an option that does not allow freezing.
        """
        found = make_resumable_events("freeze", freeze, trainer, self._optimizer, self._freeze)
        if unfreeze is not None:
            later = make_resumable_events("unfreeze", unfreeze, trainer, self._optimizer, self._unfreeze)
            check_order(found, later)
            found += later
            self._check_groups()
        with self._attachment.renew(self):
            for event in found:
                event.hold_counts(self._attachment, trainer)  # first, to have them ready when a resumed run starts
            self._register(trainer, *([freeze] if unfreeze is None else [freeze, unfreeze]))
            for event in found:
                event.attach(self._attachment, trainer)
        self._events = {f"{index}: {event.name}": event for index, event in enumerate(found)}
        return self

    def state_dict(self) -> dict[str, Any]:
        """Return the current state; after ``load_state_dict`` the loaded one, until the run starts."""
        if self._loaded is not None:
            return dict(self._loaded)
        engine = self._engine() if self._engine is not None else None
        return {
            "frozen": self._part.held is not None,
            "iteration": self._iteration if engine is None else engine.state.iteration,
            "names": list(self._part.names),
            "seen": {name: event.seen for name, event in self._events.items()},
        }

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Keep a saved state, and apply it when the run starts.

        Raises:
            TypeError, ValueError: if it is not a ParameterFreezer's state, or is one of other parameters.
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

    def _report(self, trainer: Engine, plan: State) -> HandlerReport:
        report = super()._report(trainer, plan)
        needs_optimizer = self._unfreeze_events() or any(event.axis == "updates" for event in self._events.values())
        if self._optimizer is not None and not needs_optimizer:
            text = (
                f"ParameterFreezer has an optimizer to check that {patterns_of([self._part])} can be unfrozen, but no "
                "event that unfreezes it; give attach() unfreeze=..., or leave out optimizer=..."
            )
            report.findings.append(Finding("never unfrozen", text))
        return report

    def _planned(self) -> dict[str, str]:
        freeze, unfreeze = (
            " | ".join(event.describe() for event in self._events.values() if event.action == action)
            for action in (self._freeze, self._unfreeze)
        )
        return {"freezes at": freeze, "unfreezes at": unfreeze or "no event"}

    def _to_unfreeze(self) -> list[FreezableParameters]:
        return [self._part] if self._unfreeze_events() else []

    def _frozen_at_end(self, plan: State) -> list[FreezableParameters]:
        return self._to_unfreeze() if all(event.is_after_end(plan) for event in self._unfreeze_events()) else []

    def _unfreeze_events(self) -> list[ResumableEvent]:
        return [event for event in self._events.values() if event.action == self._unfreeze]

    def _frozen_at_start(self, engine: Engine, loaded: Mapping[str, Any] | None) -> list[bool]:
        if loaded is not None:
            self._check_fits(engine, loaded)
        events = list(self._events.values())
        frozen = self._restore_seen(engine, loaded, events)
        last = catch_up_all(events, engine) if engine.state.iteration > 0 else None
        return [frozen if last is None else last.action == self._freeze]

    def _restore_seen(self, engine: Engine, loaded: Mapping[str, Any] | None, events: list[ResumableEvent]) -> bool:
        """Set the count up to which each event is known, and return whether the part was frozen at these counts."""
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
