"""Rules about handlers that conflict on one engine.

One policy for all of them. What is surely wrong is refused when the second handler is attached or, if only the run can
tell, when the run starts. What may be intended is warned about once, when the run starts or after its first epoch. A
rule is a function of two roles, or of a role and the engine. It returns the sentence to raise or warn with, or None.

A handler whose run has ended yields to a later one: it is detached, as if a notebook cell that is run again had
detached it. So a conflict is one of handlers that are attached for the same run, or of runs that are under way.
"""

import functools
from collections.abc import Callable, Iterable
from typing import Any

from ignite.engine import Engine, Events
from ignite.handlers.param_scheduler import ParamGroupScheduler, ParamScheduler
from torch.optim.lr_scheduler import ReduceLROnPlateau

from ignite_tips._warnings import warn_user
from ignite_tips.core.ignite_internals import event_handlers, has_open_run
from ignite_tips.core.roles import ClipsGradients, FreezesParameters, Role, SetsLearningRates, WritesNames
from ignite_tips.core.wiring import Attachment, add_role, roles_of

__all__ = ["add_checked_role", "conflicts_in"]


def add_checked_role(attachment: Attachment, engine: Engine, role: Role) -> None:
    """Record the role of a handler that is being attached to ``engine``, unless it conflicts with another handler.

    If the other one was attached for an earlier run, which has ended, it is detached.

    Raises:
        ValueError: if a rule refuses the role together with that of a handler already attached.
    """
    others = [other for other in roles_of(type(role), engine) if other.handler() is not role.handler()]
    ended = [other for other in others if other.was_run and not has_open_run(engine)]
    for other in others:
        if other not in ended:
            _refuse(rule(role, other) for rule in _REFUSED_AT_ATTACH.get(type(role), ()))
    for other in ended:
        if any(rule(role, other) for rule in _YIELDED.get(type(role), ())):
            other.handler().detach()  # type: ignore[attr-defined]  # every handler with a role has it
    attachment.add_undo(add_role(engine, role))
    attachment.add_handler(engine, Events.STARTED, functools.partial(_check_start, role))


def conflicts_in(engine: Engine) -> list[str]:
    """Return a sentence for each conflict that the start of a run would refuse or warn about."""
    sentences: list[str | None] = []
    for role in roles_of(Role, engine):
        sentences += [rule(role, engine) for rule in _REFUSED_AT_START.get(type(role), ())]
        sentences += [
            rule(role, other) for other in _before(role, engine) for rule in _WARNED_AT_START.get(type(role), ())
        ]
    return [sentence for sentence in sentences if sentence is not None]


# Rules for two handlers: the one being attached, and one attached before it.


def _stepped_twice(role: SetsLearningRates, other: SetsLearningRates) -> str | None:
    if role.is_filtered or other.is_filtered or role.scheduler() is not other.scheduler():
        return None
    return (
        f"scheduler must be stepped by one handler, but another handler of the trainer already steps this "
        f"{role.kind.__name__}; to step it at several events, use attach(trainer, one | other)"
    )


def _undone(role: SetsLearningRates, other: SetsLearningRates) -> str | None:
    if role.is_filtered or other.is_filtered or role.optimizer() is not other.optimizer():
        return None
    closed_form, kept = (role.closed_form, other) if role.closed_form else (other.closed_form, role)
    if closed_form is None:
        return None
    undone = "reductions" if issubclass(kept.kind, ReduceLROnPlateau) else "steps"
    return (
        f"schedulers of one optimizer must not undo each other, got {kept.kind.__name__} and {closed_form}, "
        f"which undoes the {undone} in its next step; use one that continues from the current learning rate (LinearLR, "
        "ExponentialLR, StepLR, CosineAnnealingLR), or end it with a filter on its event"
    )


def _frozen_twice(role: FreezesParameters, other: FreezesParameters) -> str | None:
    taken = {id(parameter) for reference in other.parameters.values() if (parameter := reference()) is not None}
    for name, reference in role.parameters.items():
        if id(reference()) in taken:
            return (
                f"parameter {name!r} must be frozen by one handler, but an attached {other.handler_name} already "
                "freezes it; use patterns that do not overlap, or detach that handler"
            )
    return None


def _written_twice(role: WritesNames, other: WritesNames) -> str | None:
    logger = role.logger and role.logger()
    own, others = role.names(), other.names()
    if own is None or others is None or (other.logger and other.logger()) is not logger:
        return None
    taken = set(others())
    name = next((name for name in own() if name in taken), None)
    if name is None:
        return None
    where = "the trainer's metrics" if logger is None else f"this {type(logger).__name__}"
    return (
        f"each {role.handler_name} must write its own names, but another one attached to the trainer already writes "
        f"{name!r} to {where}; give one of the two a tag=..., or detach() the first"
    )


def _metric_written_twice(role: ClipsGradients, other: ClipsGradients) -> str | None:
    if role.metric != other.metric or other.optimizer() is role.optimizer():
        return None
    return (
        f"{role.handler_name} of one {type(role.optimizer()).__name__} writes the metric {role.metric!r}, as does "
        f"another optimizer's {other.handler_name}; give each a tag=..."
    )


def _clipped_twice(role: ClipsGradients, other: ClipsGradients) -> str | None:
    # Metrics of their own, by tags, and two ways of clipping may be intended.
    if role.metric != other.metric or type(other.handler()) is not type(role.handler()):
        return None
    if other.optimizer() is not role.optimizer():
        return None
    kind = type(role.optimizer()).__name__
    thresholds = f"both times with {role.threshold}"
    if role.threshold != other.threshold:
        thresholds = f"with {other.threshold} and then with {role.threshold}, and the smaller threshold wins"
    return (
        f"{role.handler_name} clips the trainer's {kind} twice, {thresholds}; detach() one of the two, create a new "
        "trainer, or give each a tag=... if both are intended"
    )


def _scheduled_twice(role: SetsLearningRates, other: SetsLearningRates) -> str | None:
    alike = role.kind is other.kind and role.optimizer() is other.optimizer() and role.metric == other.metric
    if role.is_filtered or other.is_filtered or not alike:
        return None
    return (
        f"{role.handler_name} steps a second {role.kind.__name__} of the trainer's {type(role.optimizer()).__name__}, "
        "and both change its learning rates; if only one is intended, for example after running a notebook cell "
        "twice, detach() one of the two or create a new trainer"
    )


# Rules for one handler and the engine's run.


def _set_by_ignite(role: SetsLearningRates, engine: Engine) -> str | None:
    # A handler whose event has a filter is ignored: it may end before ours begins, or begin after ours.
    handlers = (
        [] if role.is_filtered else [entry[0] for entries in event_handlers(engine).values() for entry in entries]
    )
    for handler in handlers:
        for scheduler in _ignite_schedulers(handler):
            if scheduler.optimizer is role.optimizer() and scheduler.param_name == "lr":
                return (
                    f"{role.handler_name} must be the only one to set the learning rates of its "
                    f"{type(scheduler.optimizer).__name__}, but the trainer also has Ignite's "
                    f"{type(handler).__name__}, which overwrites them in every call; remove one of the two, or end it "
                    "with a filter on its event"
                )
    return None


def _frozen_elsewhere(role: FreezesParameters, engine: Engine) -> str | None:
    for other in roles_of(FreezesParameters):  # parameters outlive an engine and may be used by another
        trainer = other.trainer()
        if trainer is not None and trainer is not engine and has_open_run(trainer):
            sentence = _frozen_twice(role, other)
            if sentence is not None:
                return sentence
    return None


_Rules = dict[type[Role], tuple[Callable[[Any, Any], str | None], ...]]
_REFUSED_AT_ATTACH: _Rules = {
    SetsLearningRates: (_stepped_twice, _undone),
    FreezesParameters: (_frozen_twice,),
    WritesNames: (_written_twice,),
}
_REFUSED_AT_START: _Rules = {SetsLearningRates: (_set_by_ignite,), FreezesParameters: (_frozen_elsewhere,)}
_WARNED_AT_START: _Rules = {
    ClipsGradients: (_metric_written_twice, _clipped_twice),
    SetsLearningRates: (_scheduled_twice,),
}
_YIELDED: _Rules = {
    **_REFUSED_AT_ATTACH,
    ClipsGradients: (_clipped_twice,),
    SetsLearningRates: (*_REFUSED_AT_ATTACH[SetsLearningRates], _scheduled_twice),
}


def _check_start(role: Role, engine: Engine) -> None:
    _refuse(rule(role, engine) for rule in _REFUSED_AT_START.get(type(role), ()))
    role.was_run, role.joined_at = True, 0
    for other in _before(role, engine):
        for rule in _WARNED_AT_START.get(type(role), ()):
            sentence = rule(role, other)
            if sentence is not None and not role.was_warned:
                role.was_warned = True
                warn_user(sentence)


def _before(role: Role, engine: Engine) -> list[Role]:
    roles: list[Role] = list(roles_of(type(role), engine))
    return [other for other in roles[: roles.index(role)] if other.handler() is not role.handler()]


def _refuse(sentences: Iterable[str | None]) -> None:
    for sentence in sentences:
        if sentence is not None:
            raise ValueError(sentence)


def _ignite_schedulers(handler: object) -> list[ParamScheduler]:
    if isinstance(handler, ParamGroupScheduler):
        return handler.schedulers
    return [handler] if isinstance(handler, ParamScheduler) else []
