"""Rules about handlers of one engine that get in each other's way.

One policy for all: what is surely wrong is refused when the second handler is attached or, where only the run can tell,
when it starts; what may be meant is warned about, once, when the run starts or after its first epoch. A rule is a
function of the wiring that returns a sentence, or None where all is well.
"""

import functools
import warnings
from collections.abc import Callable, Iterable
from typing import Any

from ignite.engine import Engine, Events
from ignite.handlers.param_scheduler import ParamGroupScheduler, ParamScheduler
from torch.optim import Optimizer
from torch.optim.lr_scheduler import ReduceLROnPlateau

from ignite_tips.core.events import completed_updates
from ignite_tips.core.ignite_internals import event_handlers
from ignite_tips.core.wiring import (
    Attachment,
    ClipsGradients,
    FreezesParameters,
    Role,
    SetsLearningRates,
    WritesNames,
    add_role,
    roles_of,
)

__all__ = ["add_checked_role", "describe_no_gradients", "never_stepped", "warn_after_first_epoch"]


def add_checked_role(attachment: Attachment, engine: Engine, role: Role) -> None:
    """Record what a handler that is being attached to ``engine`` does, unless another handler rules it out.

    Raises:
        ValueError: if a rule refuses it beside the handlers that are attached already.
    """
    everywhere = isinstance(role, FreezesParameters)  # parameters may outlive an engine, and be another one's
    for other in roles_of(type(role), None if everywhere else engine):
        if other.handler() is not role.handler():
            _refuse(rule(role, other) for rule in _REFUSED_AT_ATTACH.get(type(role), ()))
    attachment.add_undo(add_role(engine, role))
    attachment.add_handler(engine, Events.STARTED, functools.partial(_check_start, role))


def warn_after_first_epoch(attachment: Attachment, engine: Engine, describe: Callable[[Engine], str | None]) -> None:
    """After the first epoch of each new run, warn of what ``describe(engine)`` returns, unless it is None.

    Of a later epoch nothing is said: a pause may be meant, as in phases of two optimizers.
    """
    check = _FirstEpochCheck(describe)
    attachment.add_handler(engine, Events.STARTED, check.start)
    attachment.add_handler(engine, Events.EPOCH_COMPLETED, check.end)


# Rules for two handlers: the one that is attached, and one that was attached before it.


def _stepped_twice(role: SetsLearningRates, other: SetsLearningRates) -> str | None:
    if role.is_filtered or other.is_filtered or role.scheduler() is not other.scheduler():
        return None
    return (
        f"scheduler must be stepped by one handler, but another one attached to the trainer steps this "
        f"{role.kind.__name__} already; step it at several events by attach(trainer, one | other)"
    )


def _undone(role: SetsLearningRates, other: SetsLearningRates) -> str | None:
    if role.is_filtered or other.is_filtered or role.optimizer() is not other.optimizer():
        return None
    closed_form, kept = (role.closed_form, other) if role.closed_form else (other.closed_form, role)
    if closed_form is None:
        return None
    undone = "reductions" if issubclass(kept.kind, ReduceLROnPlateau) else "steps"
    return (
        f"the schedulers of one optimizer must leave each other's rates, got {kept.kind.__name__} and {closed_form}, "
        f"which undoes the {undone} in its next step; use one that goes on from the current rate (LinearLR, "
        "ExponentialLR, StepLR, CosineAnnealingLR), or end it by a filter on its event"
    )


def _frozen_twice(role: FreezesParameters, other: FreezesParameters) -> str | None:
    taken = {id(parameter) for reference in other.parameters.values() if (parameter := reference()) is not None}
    for name, reference in role.parameters.items():
        if id(reference()) in taken:
            return (
                f"parameter {name!r} must have one handler that freezes it, but an attached {other.handler_name} has "
                "it already; give them patterns that do not overlap, or detach it"
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
        f"each {role.handler_name} must write names of its own, but another one attached to the trainer writes "
        f"{name!r} to {where} already; give one of them tag=..., or keep the first and call its detach()"
    )


def _clipped_twice(role: ClipsGradients, other: ClipsGradients) -> str | None:
    # Clippers of several classes may well act on one optimizer, and a tag of its own says that one is meant.
    if role.metric != other.metric:
        return None
    kind = type(role.optimizer()).__name__
    if other.optimizer() is not role.optimizer():
        return (
            f"{role.handler_name} of one {kind} writes the metric {role.metric!r} as another optimizer's "
            f"{other.handler_name}; give each a tag=..."
        )
    if type(other.handler()) is not type(role.handler()):
        return None
    thresholds = f"with {other.threshold} and then with {role.threshold}, " if role.threshold else ""
    return (
        f"{role.handler_name} clips the trainer's {kind} twice, {thresholds}so that the smaller threshold wins; keep "
        "the handler that is to go and call its detach(), build the trainer anew, or give each a tag=... if both are "
        "meant"
    )


def _scheduled_twice(role: SetsLearningRates, other: SetsLearningRates) -> str | None:
    alike = role.kind is other.kind and role.optimizer() is other.optimizer() and role.metric == other.metric
    if role.is_filtered or other.is_filtered or not alike:
        return None
    return (
        f"{role.handler_name} steps a second {role.kind.__name__} of the trainer's {type(role.optimizer()).__name__}, "
        "so that both change its learning rates; if only one is meant, as after a notebook's cell was run twice, keep "
        "the handler that is to go and call its detach(), or build the trainer anew"
    )


# Rules for one handler and the engine's run.


def _set_by_ignite(role: SetsLearningRates, engine: Engine) -> str | None:
    # One whose event has a filter is passed over: it may be meant to end before ours begins, or begin after it.
    handlers = (
        [] if role.is_filtered else [entry[0] for entries in event_handlers(engine).values() for entry in entries]
    )
    for handler in handlers:
        for scheduler in _ignite_schedulers(handler):
            if scheduler.optimizer is role.optimizer() and scheduler.param_name == "lr":
                return (
                    f"{role.handler_name} must be alone in setting the rates of its "
                    f"{type(scheduler.optimizer).__name__}, but the trainer has Ignite's {type(handler).__name__} too, "
                    "which sets them anew in every call; leave one of the two out, or end it by a filter on its event"
                )
    return None


def never_stepped(engine: Engine, optimizer: Optimizer) -> bool:
    """Whether ``optimizer`` has a parameter to train and yet completed no update in the run of ``engine``."""
    parameters = (parameter for group in optimizer.param_groups for parameter in group["params"])
    return completed_updates(engine, optimizer) == 0 and any(parameter.requires_grad for parameter in parameters)


def describe_no_gradients(engine: Engine, optimizer: Optimizer, norm: Any) -> str | None:
    """Say what a clipper whose last norm was ``norm`` found none of, and what to do, or None if all is well."""
    kind = type(optimizer).__name__
    if never_stepped(engine, optimizer):
        return f"no update of its {kind} in a whole epoch; clip the optimizer that the trainer steps"
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    # The last update had no gradient, nor is one there now, though parameters are to be trained.
    if (
        any(parameter.requires_grad for parameter in parameters)
        and all(parameter.grad is None for parameter in parameters)
        and bool(norm == 0)
    ):
        return (
            f"no gradient for its {kind} in a whole epoch; make the optimizer of the model's parameters, after "
            "fully_shard, which replaces them"
        )
    return None


_PairRules = dict[type[Role], tuple[Callable[[Any, Any], str | None], ...]]
_REFUSED_AT_ATTACH: _PairRules = {
    SetsLearningRates: (_stepped_twice, _undone),
    FreezesParameters: (_frozen_twice,),
    WritesNames: (_written_twice,),
}
_REFUSED_AT_START: _PairRules = {SetsLearningRates: (_set_by_ignite,)}
_WARNED_AT_START: _PairRules = {ClipsGradients: (_clipped_twice,), SetsLearningRates: (_scheduled_twice,)}


def _check_start(role: Role, engine: Engine) -> None:
    _refuse(rule(role, engine) for rule in _REFUSED_AT_START.get(type(role), ()))
    for other in _before(role, engine):
        for rule in _WARNED_AT_START.get(type(role), ()):
            sentence = rule(role, other)
            if sentence is not None and not role.is_told:
                role.is_told = True
                warnings.warn(sentence, stacklevel=2)


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


class _FirstEpochCheck:
    def __init__(self, describe: Callable[[Engine], str | None]) -> None:
        self._describe = describe
        self._is_first = False

    def start(self, engine: Engine) -> None:
        self._is_first = engine.state.iteration == 0

    def end(self, engine: Engine) -> None:
        is_first, self._is_first = self._is_first, False
        sentence = self._describe(engine) if is_first else None
        if sentence is not None:
            warnings.warn(sentence, stacklevel=2)
