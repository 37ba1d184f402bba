"""Parameters that do not train though they should."""

from collections.abc import Iterator, Mapping
from math import inf
from typing import Any

import torch
from ignite.engine import Engine
from ignite.handlers.param_scheduler import ParamScheduler
from torch import nn
from torch.optim import Optimizer

from ignite_tips.core.events import attached_optimizers, completed_updates, was_stepped_elsewhere
from ignite_tips.core.findings import Finding, counted, first_few
from ignite_tips.core.missing_updates import never_stepped
from ignite_tips.core.roles import FreezesParameters, SetsLearningRates
from ignite_tips.core.wiring import roles_of
from ignite_tips.core.wrapped_optimizers import parameter_ids
from ignite_tips.report.events import registered
from ignite_tips.report.optimizers import group_name

__all__ = ["find_untrained", "held_parameters"]

_Held = set[nn.Parameter]


def held_parameters(trainer: Engine) -> _Held:
    """Return the parameters that the trainer's handlers freeze at some time."""
    references = [ref for role in roles_of(FreezesParameters, trainer) for ref in role.parameters.values()]
    return {parameter for reference in references if (parameter := reference()) is not None}


def find_untrained(
    trainer: Engine, models: list[nn.Module], optimizers: list[Optimizer], held: _Held
) -> Iterator[Finding]:
    """Yield what keeps parameters from training.

    Args:
        trainer: the engine that trains.
        models: those that are known, without wrappers.
        optimizers: those that are known.
        held: parameters that handlers freeze at some time.
    """
    names = {id(parameter): name for model in models[::-1] for name, parameter in model.named_parameters()}
    for model in models:
        yield from _in_no_group(model, optimizers)
    for optimizer in optimizers:
        if not _is_scheduled(trainer, optimizer):
            yield from _without_learning_rate(optimizer)
        if optimizer in attached_optimizers(trainer):
            yield from _never_stepped(trainer, optimizer)
            yield from _without_gradient(optimizer, completed_updates(trainer, optimizer), names, held)


def _in_no_group(model: nn.Module, optimizers: list[Optimizer]) -> Iterator[Finding]:
    grouped = parameter_ids(*optimizers)
    named = dict(model.named_parameters())
    missing = [name for name, parameter in named.items() if parameter.requires_grad and id(parameter) not in grouped]
    is_trained_here = any(id(parameter) in grouped for parameter in named.values())
    if missing and is_trained_here:
        kinds = ", ".join(type(optimizer).__name__ for optimizer in optimizers)
        it = "it" if len(missing) == 1 else "them"
        text = (
            f"no param group of {kinds} has {first_few(missing)} of {type(model).__name__}, so no update changes {it}; "
            f"add {it} to a group, freeze {it}, or put the optimizer that has {it} into to_save"
        )
        yield Finding("no group", text)


def _never_stepped(trainer: Engine, optimizer: Optimizer) -> Iterator[Finding]:
    iterations, length = trainer.state.iteration, trainer.state.epoch_length or inf
    has_run = trainer.last_event_name is not None and iterations >= length  # for an epoch: it may come later
    if has_run and never_stepped(trainer, optimizer):
        groups = ", ".join(group_name(optimizer, index) for index in range(len(optimizer.param_groups)))
        remedy = "call it in the update function, or give the handlers the optimizer that the trainer steps"
        if was_stepped_elsewhere(trainer, optimizer):
            remedy = "its updates are made outside this engine's run: attach the handlers to the engine that makes them"
        text = (
            f"nothing called step() of {type(optimizer).__name__} with the groups {groups} in "
            f"{counted(iterations, 'iteration')}; {remedy}"
        )
        yield Finding("never stepped", text)


def _is_scheduled(trainer: Engine, optimizer: Optimizer) -> bool:
    entries = [function for _, entries in registered(trainer) for function, _ in entries]
    return any(role.optimizer() is optimizer for role in roles_of(SetsLearningRates, trainer)) or any(
        isinstance(function, ParamScheduler) for function in entries
    )


def _without_learning_rate(optimizer: Optimizer) -> Iterator[Finding]:
    for index, group in enumerate(optimizer.param_groups):
        is_zero = group.get("lr") == 0 and "initial_lr" not in group  # which torch's schedulers leave there
        if is_zero and any(parameter.requires_grad for parameter in group["params"]):
            text = (
                f"group {group_name(optimizer, index)!r} of {type(optimizer).__name__} has learning rate 0 and no "
                "schedule, so it does not train; give it a learning rate, or freeze it"
            )
            yield Finding("learning rate 0", text)


def _without_gradient(optimizer: Optimizer, updates: int, names: Mapping[int, str], held: _Held) -> Iterator[Finding]:
    """Go by what the optimizer keeps for each parameter: it begins with the first gradient, and averages all of them.

    A parameter that a handler freezes at some time may have begun to train just now.
    """
    missing, zero = [], []
    for index, group in enumerate(optimizer.param_groups):
        keeps_state = any(optimizer.state.get(parameter) for parameter in group["params"])
        for place, parameter in enumerate(group["params"]):
            if not parameter.requires_grad or parameter in held:
                continue
            name = names.get(id(parameter), f"parameter {place} of group {group_name(optimizer, index)}")
            state = optimizer.state.get(parameter, {})
            if keeps_state and not state and parameter.grad is None:
                missing.append(name)
            elif _is_zero_throughout(parameter, state):
                zero.append(name)
    kind = type(optimizer).__name__
    if missing and updates > 1:
        text = (
            f"{first_few(missing)} had no gradient in {updates} updates of {kind}, because no loss depends on it; use "
            "it in the forward pass, or freeze it"
        )
        yield Finding("no gradient", text)
    if zero and updates > 1:
        text = (
            f"the gradient of {first_few(zero)} was 0 in all {updates} updates of {kind}; look for activations that "
            "are all cut off, or a multiplication by 0"
        )
        yield Finding("zero gradients", text)


def _is_zero_throughout(parameter: torch.Tensor, state: Mapping[str, Any]) -> bool:
    """Whether all averages that an optimizer keeps of a gradient, such as its momentum, are 0.

    Not of a DTensor, for which all ranks would have to ask.
    """
    kept = [value for value in state.values() if type(value) is torch.Tensor and value.shape == parameter.shape]
    return any(value.numel() for value in kept) and not any(bool(value.any()) for value in kept)
