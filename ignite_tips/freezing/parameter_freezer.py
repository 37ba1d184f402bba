"""Freeze a part of a model at one event and unfreeze it at another."""

import weakref
from collections.abc import Iterable, Mapping
from typing import Any, Self

from ignite.engine import Engine, Events
from torch import nn
from torch.optim import Optimizer

from ignite_tips._checks import check_instance, check_integer, check_keys, check_names
from ignite_tips.core.conflicts import add_checked_role
from ignite_tips.core.wiring import Attachment, annotate
from ignite_tips.freezing.frozen_parameters import FreezableParameters, freezing_role, rebuild_ddp_reducers
from ignite_tips.freezing.resumable_event import check_order, make_resumable_events
from ignite_tips.parameters.selection import check_belongs, trainable_fraction

__all__ = ["ParameterFreezer"]

_STATE_KEYS = ("frozen", "iteration", "names", "seen")


class ParameterFreezer:
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
        if optimizer is not None:
            check_belongs(optimizer, model)
        self._model = model
        self._optimizer = optimizer
        self._attachment = Attachment()
        self._engine: weakref.ref[Engine] | None = None
        self._triggers: dict[str, Any] = {}
        self._loaded: Mapping[str, Any] | None = None
        self._iteration = 0  # of the trainer when this handler's state was last current
        self._is_started = False

    @property
    def frozen(self) -> tuple[str, ...]:
        """The names of the parameters that this handler keeps frozen now."""
        return self._part.names if self._part.is_frozen else ()

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
        triggers = make_resumable_events("freeze", freeze, trainer, self._optimizer, self._freeze)
        if unfreeze is not None:
            later = make_resumable_events("unfreeze", unfreeze, trainer, self._optimizer, self._unfreeze)
            check_order(triggers, later)
            triggers += later
            if self._optimizer is not None:
                self._part.check_optimizer(self._optimizer)
        with self._attachment.renew():
            events = [freeze] if unfreeze is None else [freeze, unfreeze]
            add_checked_role(self._attachment, trainer, freezing_role(self, [self._part], *events))
            self._attachment.add_undo(self._put_back)
            self._attachment.add_handler(trainer, Events.STARTED, self._start)
            self._attachment.add_handler(trainer, Events.ITERATION_STARTED, self._follow)
            for trigger in triggers:
                trigger.attach(self._attachment, trainer)
        self._engine = weakref.ref(trainer)
        self._triggers = {f"{index}: {trigger.name}": trigger for index, trigger in enumerate(triggers)}
        return self

    def detach(self) -> None:
        """Unfreeze, and let go of the trainer. Under DDP every rank must call it."""
        self._attachment.clear()

    def state_dict(self) -> dict[str, Any]:
        """Return the state of this moment of the run; what was loaded, until the trainer starts from it."""
        if self._loaded is not None:
            return dict(self._loaded)
        engine = self._engine() if self._engine is not None else None
        return {
            "frozen": self._part.is_frozen,
            "iteration": self._iteration if engine is None else engine.state.iteration,
            "names": list(self._part.names),
            "seen": {name: trigger.seen for name, trigger in self._triggers.items()},
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

    def _start(self, engine: Engine) -> None:
        self._is_started = True
        loaded, self._loaded = self._loaded, None
        iteration = engine.state.iteration
        if loaded is not None:
            self._restore(engine, loaded)
        elif iteration == 0:
            self._set_frozen(engine, False)
            for trigger in self._triggers.values():
                trigger.seen = 0
        elif iteration != self._iteration:
            self._check_needs_no_state(engine)
        self._iteration = iteration
        engine.state.metrics["trainable_fraction"] = trainable_fraction(self._model)

    def _restore(self, engine: Engine, loaded: Mapping[str, Any]) -> None:
        if loaded["iteration"] != engine.state.iteration:
            raise RuntimeError(
                f"ParameterFreezer state is of iteration {loaded['iteration']}, but the trainer starts from iteration "
                f"{engine.state.iteration}; load the states that were saved together, or none for a new run"
            )
        if set(loaded["seen"]) != set(self._triggers):
            raise RuntimeError(
                f"ParameterFreezer state is of the events {', '.join(loaded['seen'])}, but attached are "
                f"{', '.join(self._triggers)}; attach to the events of the run that saved it"
            )
        for name, trigger in self._triggers.items():
            trigger.seen = loaded["seen"][name]
        if self._part.set_frozen(loaded["frozen"]):  # announced in the run that saved it
            rebuild_ddp_reducers([self._part])
        # Saved by a Checkpoint that came before this handler at the same event, or one iteration event earlier.
        missed = [moment for trigger in self._triggers.values() for moment in trigger.missed(engine)]
        for _, trigger in sorted(missed, key=lambda moment: moment[0]):
            trigger.action(engine)

    def _check_needs_no_state(self, engine: Engine) -> None:
        for trigger in self._triggers.values():
            trigger.seen = 0
            if trigger.missed(engine):
                raise RuntimeError(
                    f"ParameterFreezer needs its saved state to resume from iteration {engine.state.iteration}, "
                    f"because {trigger.name} lies in the past; save it and load it with the trainer's"
                )

    def _follow(self, engine: Engine) -> None:
        if not self._is_started:
            raise RuntimeError("ParameterFreezer must be attached before the run starts; attach, then call run()")
        self._iteration = engine.state.iteration

    def _freeze(self, engine: Engine) -> None:
        self._set_frozen(engine, True)

    def _unfreeze(self, engine: Engine) -> None:
        self._set_frozen(engine, False)

    def _set_frozen(self, engine: Engine, frozen: bool) -> None:
        if not self._part.set_frozen(frozen):
            return
        rebuild_ddp_reducers([self._part])
        engine.state.metrics["trainable_fraction"] = share = trainable_fraction(self._model)
        kind = "freeze" if frozen else "unfreeze"
        annotate(engine, kind, f"{kind} {', '.join(self._part.patterns)}: {share:.1%} of the parameters train")

    def _put_back(self) -> None:
        self._is_started, self._iteration = False, 0
        if self._part.set_frozen(False):
            rebuild_ddp_reducers([self._part])
