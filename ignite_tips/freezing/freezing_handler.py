"""Base of the freezing handlers: attach, freeze and unfreeze, resume, detach."""

import weakref
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
import torch.distributed as dist
from ignite.engine import Engine, Events, State
from torch import nn
from torch.optim import Optimizer

from ignite_tips._warnings import warn_user
from ignite_tips.core.conflicts import add_checked_role
from ignite_tips.core.findings import Finding, HandlerReport, is_over
from ignite_tips.core.handler import Handler
from ignite_tips.core.roles import FreezesParameters
from ignite_tips.core.wiring import Attachment, annotate
from ignite_tips.core.wrapped_optimizers import parameter_ids
from ignite_tips.freezing.ddp_reducer import check_rewrappable, find_wrappers, rewrap_model
from ignite_tips.freezing.frozen_buffers import FrozenBuffers
from ignite_tips.freezing.frozen_parameters import FreezableParameters
from ignite_tips.freezing.left_frozen import frozen_by_handlers, release_left_frozen, remember_frozen
from ignite_tips.freezing.unfrozen_watch import UnfrozenWatch
from ignite_tips.freezing.wrapper_watch import WrapperWatch
from ignite_tips.parameters.selection import check_belongs, count_trainable, named_parameters
from ignite_tips.parameters.sharding import check_has_whole_parameters, lay_out_shards
from ignite_tips.ranks import gather_from_ranks

__all__ = ["FreezingHandler", "names_on", "patterns_of"]


class FreezingHandler(Handler):
    """Base of the handlers that freeze parts of a model while a trainer runs.

    A subclass registers on the trainer with ``_register``, returns from ``_frozen_at_start`` what is frozen when a run
    starts or resumes, and calls ``_set_frozen`` for each change during the run.

    Args:
        model: bare or wrapped, as it trains.
        parts: the parts of the model that are frozen and unfrozen.
        optimizer: checked to have parameters of the model.
        ranks: the process group of the ranks that have the model's other parameters; None for none.
    """

    def __init__(
        self, model: nn.Module, parts: Sequence[FreezableParameters], optimizer: Optimizer | None, ranks: Any = None
    ) -> None:
        if optimizer is not None:
            check_belongs(optimizer, model)
        self._model = model
        self._parts = parts
        self._optimizer = optimizer
        self._ranks = ranks
        self._attachment = Attachment(type(self).__name__)
        self._engine: weakref.ref[Engine] | None = None
        self._loaded: Mapping[str, Any] | None = None
        self._iteration = 0  # the trainer's, as this handler last saw it
        self._is_started = False
        self._watch: WrapperWatch | None = None
        self._buffers: FrozenBuffers | None = None
        self._unfrozen: dict[FreezableParameters, UnfrozenWatch] = {}  # in this run

    @property
    def frozen(self) -> tuple[str, ...]:
        """The names of the parameters that this handler has frozen now."""
        return tuple(name for part in self._parts if part.is_frozen for name in part.names)

    def detach(self) -> None:
        """Unfreeze, and remove the handler from the trainer. Under DDP call it on every rank."""
        self._attachment.clear()

    def _frozen_at_start(self, engine: Engine, loaded: Mapping[str, Any] | None) -> list[bool]:
        """Return for each part whether it is frozen when the run starts; ``loaded`` is the state from a checkpoint."""
        raise NotImplementedError

    def _planned(self) -> dict[str, str]:
        """Return in words when it freezes and unfreezes, for a report."""
        raise NotImplementedError

    def _to_unfreeze(self) -> list[FreezableParameters]:
        """Return the parts that it unfreezes at some time."""
        raise NotImplementedError

    def _frozen_at_end(self, plan: State) -> list[FreezableParameters]:
        """Return those of ``_to_unfreeze`` that a run of these lengths ends before."""
        raise NotImplementedError

    def _register(self, trainer: Engine, *events: Any) -> None:
        """Add what both handlers need to ``trainer``, within ``self._attachment.renew()``.

        Raises:
            TypeError, RuntimeError: if the model does not allow freezing.
            ValueError: if another attached handler freezes one of the parameters.
        """
        parameters = self._named_parameters()
        _check_freezable(self._model, parameters)
        role = FreezesParameters(
            self, parameters, *events, model=self._model, report=self._report, counts_all_ranks=self._ranks is not None
        )
        add_checked_role(self._attachment, trainer, role)
        self._attachment.add_undo(self._unfreeze_all)
        self._attachment.add_handler(trainer, Events.STARTED, self._start)
        self._attachment.add_handler(trainer, Events.ITERATION_STARTED, self._follow)
        self._attachment.add_handler(trainer, Events.ITERATION_COMPLETED, self._end_iteration)
        self._engine = weakref.ref(trainer)
        self._take_over(trainer)

    def _check_groups(self) -> None:
        """Raise ValueError if a parameter to be unfrozen is in no group; what the user has frozen needs none."""
        if self._optimizer is None:
            return
        grouped, frozen = parameter_ids(self._optimizer), frozen_by_handlers(self._model)
        missing = [
            name
            for name, parameter in self._named_parameters().items()
            if id(parameter) not in grouped and (parameter.requires_grad or name in frozen)
        ]
        if missing:
            raise ValueError(
                f"optimizer must have a group for each parameter to be unfrozen, but has none for: "
                f"{', '.join(missing)}; make every group up front, as param_groups(model, ...) does"
            )

    def _report(self, trainer: Engine, plan: State) -> HandlerReport:
        facts = {**self._planned(), "frozen now": f"{len(self.frozen)} of {len(self._named_parameters())} parameters"}
        findings = []
        is_of_next_run = is_over(plan) and not self._is_started
        if not is_of_next_run and (late := self._frozen_at_end(plan)):
            text = (
                f"{type(self).__name__} unfreezes {patterns_of(late)} after the end of the run of {plan.max_epochs} "
                "epochs, so it never trains; unfreeze it earlier, or train for longer"
            )
            findings.append(Finding("never unfrozen", text))
        if by_hand := [part for part in self._to_unfreeze() if part.is_frozen_by_hand]:
            text = (
                f"{type(self).__name__} does not unfreeze {patterns_of(by_hand)}, because other code froze it before; "
                "call requires_grad_(True) on it before the run"
            )
            findings.append(Finding("never unfrozen", text))
        silent = [watch.describe(trainer.state) for watch in self._unfrozen.values()]
        findings += [Finding("no gradient", f"{type(self).__name__} {text}") for text in silent if text is not None]
        return HandlerReport(facts=facts, findings=findings)

    def _set_frozen(self, engine: Engine, frozen: Sequence[bool], *, is_annotated: bool = True) -> None:
        """Freeze or unfreeze each part, and annotate the run if that changed anything."""
        changed = self._change(frozen)
        if not changed:
            return
        self._watch_gradients(engine, changed)
        engine.state.metrics["trainable_fraction"] = fraction = self._trainable_fraction()
        if is_annotated:
            kind = "freeze" if changed[-1].is_frozen else "unfreeze"
            annotate(engine, kind, f"{patterns_of(changed)}; {fraction:.1%} of the parameters train")

    def _start(self, engine: Engine) -> None:
        self._is_started = True
        self._stop_watching_gradients()
        loaded, self._loaded = self._loaded, None
        self._take_over(engine)
        is_resumed = engine.state.iteration > 0  # then it was annotated before the checkpoint
        # Another trainer's handler may have unfrozen a part. A new run starts with all parts unfrozen.
        self._change([is_resumed and part.held is not None for part in self._parts])
        self._warn_of_frozen_by_hand()
        frozen = self._frozen_at_start(engine, loaded)
        self._iteration = engine.state.iteration
        self._set_frozen(engine, frozen, is_annotated=not is_resumed)
        self._watch_next_forward()
        engine.state.metrics["trainable_fraction"] = self._trainable_fraction()

    def _watch_gradients(self, engine: Engine, changed: Iterable[FreezableParameters]) -> None:
        for part in changed:
            if part in self._unfrozen:
                self._unfrozen.pop(part).stop()
            if not part.is_frozen:
                self._unfrozen[part] = UnfrozenWatch(engine.state, self._model, part)

    def _stop_watching_gradients(self) -> None:
        while self._unfrozen:
            self._unfrozen.popitem()[1].stop()

    def _trainable_fraction(self) -> float:
        counts = count_trainable(self._model)
        of_ranks = [counts] if self._ranks is None else gather_from_ranks(counts, self._ranks)
        trainable, total = map(sum, zip(*of_ranks, strict=True))
        return trainable / max(total, 1)

    def _warn_of_frozen_by_hand(self) -> None:
        """Warn about parts that do not train although this handler has not frozen them, if it is to unfreeze them."""
        for part in self._to_unfreeze():
            if not part.is_frozen and part.is_frozen_by_hand:
                warn_user(
                    f"{type(self).__name__} found {', '.join(part.patterns)} frozen already, by requires_grad=False: "
                    "they stay frozen, and unfreezing changes nothing; leave the freezing to this handler, and call "
                    "requires_grad_(True) on them before the run"
                )

    def _follow(self, engine: Engine) -> None:
        if not self._is_started:
            raise RuntimeError(f"{type(self).__name__} must be attached before the run starts; attach, then call run()")
        self._iteration = engine.state.iteration
        if self._buffers is not None:
            self._buffers.save()

    def _end_iteration(self, engine: Engine) -> None:
        self._restore_buffers()
        for watch in self._unfrozen.values():
            if text := watch.end_iteration(engine.state):
                warn_user(f"{type(self).__name__} {text}")

    def _restore_buffers(self) -> None:
        if self._buffers is not None:
            self._buffers.put_back()

    def _change(self, wanted: Sequence[bool]) -> list[FreezableParameters]:
        if any(wanted):
            _check_freezable(self._model, self._named_parameters())  # it may have been wrapped after attach
        changed = [part for part, frozen in zip(self._parts, wanted, strict=True) if part.set_frozen(frozen)]
        trainer = None if self._engine is None else self._engine()
        for part in changed:
            if trainer is not None and part.held is not None:
                remember_frozen(trainer, self._model, part.held)
        if changed:
            self._rewrap()
            self._watch_next_forward()
            frozen = [part for part in self._parts if part.is_frozen]
            patterns = tuple(pattern for part in frozen for pattern in part.patterns)
            parameters = [parameter for part in frozen for parameter in part.parameters]
            self._restore_buffers()
            self._buffers = FrozenBuffers(self._model, patterns, parameters)
            self._buffers.save()
        return changed

    def _take_over(self, trainer: Engine) -> None:
        """Release what the run of another trainer has left frozen: a freeze ends with the run that it was for."""
        if release_left_frozen(trainer, lambda: self._named_parameters().values()):
            self._rewrap()

    def _rewrap(self) -> None:
        for wrapper in find_wrappers(self._model, self._named_parameters().values()):
            rewrap_model(wrapper)

    def _watch_next_forward(self) -> None:
        if self._watch is not None:
            self._watch.stop()
        parameters = self._named_parameters().values() if dist.is_initialized() else ()
        self._watch = WrapperWatch(type(self).__name__, self._model, parameters) if parameters else None

    def _unfreeze_all(self) -> None:
        self._stop_watching_gradients()
        self._is_started, self._iteration = False, 0
        self._change([False] * len(self._parts))
        if self._watch is not None:
            self._watch.stop()

    def _named_parameters(self) -> dict[str, nn.Parameter]:
        lay_out_shards(self._model)
        named = named_parameters(self._model)
        return {name: p for part in self._parts for name, p in zip(part.names, part.find_in(named), strict=True)}


def names_on(ranks: Any, model: nn.Module) -> tuple[str, ...]:
    """Return the names of the parameters that the ranks have, all of which must call; none if ``ranks`` is None."""
    if ranks is None:
        return ()
    return tuple(name for names in gather_from_ranks([*named_parameters(model)], ranks) for name in names)


def patterns_of(parts: Sequence[FreezableParameters]) -> str:
    """Return the patterns of several parts as text."""
    return ", ".join(pattern for part in parts for pattern in part.patterns)


def _check_freezable(model: nn.Module, parameters: Mapping[str, nn.Parameter]) -> None:
    check_has_whole_parameters(model)
    if any(isinstance(module, torch.jit.ScriptModule) for module in model.modules()):
        raise TypeError(
            "model must not be a ScriptModule, whose modules take no changes; give the module that was scripted, whose "
            "parameters it shares"
        )
    for wrapper in find_wrappers(model, parameters.values()):
        check_rewrappable(wrapper)
