"""Ask a trainer what it will do, what it did, and what is very probably wrong with it."""

from collections.abc import Iterator, Mapping
from types import NoneType
from typing import Any

from ignite.engine import Engine, State
from torch import nn
from torch.optim import Optimizer

from ignite_tips._checks import check_instance, check_integer
from ignite_tips.core.conflicts import conflicts_in
from ignite_tips.core.findings import Finding, HandlerReport
from ignite_tips.core.ignite_internals import max_iters
from ignite_tips.core.roles import Role, SetsLearningRates
from ignite_tips.core.wiring import roles_of
from ignite_tips.core.wrapped_optimizers import parameter_ids
from ignite_tips.parameters.selection import unwrap_model
from ignite_tips.report.events import find_early_loggers, find_late_loggers, handlers_by_event
from ignite_tips.report.frozen import find_wrongly_frozen
from ignite_tips.report.layers import find_in_layers
from ignite_tips.report.optimizers import find_unread_options, group_name, known_optimizers, report_optimizer
from ignite_tips.report.reachable import find_reachable
from ignite_tips.report.saved import describe_unsaved, find_to_save, find_unsaved, name_of, should_be_saved
from ignite_tips.report.trainer_report import HandlerFacts, ScheduleReport, TrainerReport
from ignite_tips.report.untrained import find_untrained, held_parameters

__all__ = ["describe_trainer"]


def describe_trainer(
    trainer: Engine,
    *,
    to_save: Mapping[str, Any] | None = None,
    model: nn.Module | None = None,
    max_epochs: int | None = None,
    epoch_length: int | None = None,
) -> TrainerReport:
    """Report what ``trainer`` will do and did: optimizers, schedules, handlers at each event, what is saved, findings.

    A finding is very probably a mistake, and has a remedy. Before a run, the report tells what the handlers attached so
    far will do; during and after one, also what happened. It changes nothing, and what it needs costs a run nothing:
    values on a GPU are read only here.

    Args:
        trainer: the engine that makes the updates.
        to_save: what a checkpoint saves. By default that of the trainer's first Checkpoint with the trainer in it.
        model: the model that trains, bare or wrapped. By default those that the handlers, ``to_save`` and the trainer's
            update function refer to.
        max_epochs: that of the coming run, ≥ 1. By default the trainer's, which it has once it runs.
        epoch_length: iterations of an epoch of the coming run, ≥ 1. By default the trainer's.

    Raises:
        TypeError: if an argument is not as above.
        ValueError: if a number is below 1.

    Example:
        >>> from ignite_tips import SchedulerStepper
        >>> sgd = torch.optim.SGD(nn.Linear(2, 1).parameters(), lr=0.1)
        >>> trainer = Engine(lambda engine, batch: sgd.step())
        >>> _ = SchedulerStepper(torch.optim.lr_scheduler.CosineAnnealingLR(sgd, T_max=10)).attach(trainer)
        >>> print(describe_trainer(trainer, max_epochs=100).findings[0].text)
        CosineAnnealingLR has T_max 10, but the run steps it 100 times; build the scheduler for the run's length
    """
    check_instance("trainer", trainer, Engine, "an ignite Engine")
    check_instance("to_save", to_save, (Mapping, NoneType), "a mapping from names to objects, or None")
    check_instance("model", model, (nn.Module, NoneType), "a torch.nn.Module or None")
    plan = _plan(trainer, max_epochs, epoch_length)
    saved = find_to_save(trainer) if to_save is None else to_save
    roles, reachable = roles_of(Role, trainer), find_reachable(trainer)
    optimizers = known_optimizers(trainer, (saved or {}).values(), reachable)
    told = [model, *(role.model() for role in roles if role.model), *(saved or {}).values()]
    models = _known_models([*told, *_trained_by(optimizers, reachable)])
    reports = {role: role.report(trainer, plan) for role in roles}
    missing = [] if saved is None else find_unsaved(saved, should_be_saved(trainer, models, optimizers))
    findings = [*_findings(trainer, models, optimizers, reports), *([describe_unsaved(missing)] if missing else [])]
    return TrainerReport(
        run={name: getattr(plan, name) for name in ("max_epochs", "max_iters", "epoch_length", "epoch", "iteration")},
        optimizers=tuple(report_optimizer(trainer, optimizer) for optimizer in optimizers),
        events=_events(trainer, roles),
        handlers=tuple(HandlerFacts(repr(r.handler()), report.facts) for r, report in reports.items() if report.facts),
        schedules=tuple(_schedules(reports)),
        saved=None if saved is None else {str(name): name_of(value) for name, value in saved.items()},
        not_saved=tuple(missing),
        findings=tuple(dict.fromkeys(findings)),
    )


def _findings(
    trainer: Engine, models: list[nn.Module], optimizers: list[Optimizer], reports: Mapping[Role, HandlerReport]
) -> Iterator[Finding]:
    held = held_parameters(trainer)
    yield from find_untrained(trainer, models, optimizers, held)
    for report in reports.values():
        yield from report.findings
    for sentence in conflicts_in(trainer):
        yield Finding("conflict", sentence)
    yield from find_early_loggers(trainer)
    yield from find_late_loggers(trainer)
    for optimizer in optimizers:
        yield from find_unread_options(optimizer)
    yield from find_wrongly_frozen(trainer, models, optimizers)
    for model in models:
        yield from find_in_layers(model, held, optimizers)


def _plan(trainer: Engine, max_epochs: int | None, epoch_length: int | None) -> State:
    """Return the trainer's state with the given lengths of the run."""
    state = trainer.state
    plan = State(max_epochs=state.max_epochs, epoch_length=state.epoch_length, max_iters=max_iters(state))
    plan.epoch, plan.iteration = state.epoch, state.iteration
    if max_epochs is not None:
        plan.max_epochs, plan.max_iters = check_integer("max_epochs", max_epochs, ge=1), None
    if epoch_length is not None:
        plan.epoch_length = check_integer("epoch_length", epoch_length, ge=1)
    return plan


def _trained_by(optimizers: list[Optimizer], reachable: list[Optimizer | nn.Module]) -> list[nn.Module]:
    """Return the models among ``reachable`` that an optimizer trains, at least in part."""
    trained = parameter_ids(*optimizers)
    models = [each for each in reachable if isinstance(each, nn.Module)]
    return [each for each in models if not trained.isdisjoint(map(id, each.parameters()))]


def _known_models(known: list[Any]) -> list[nn.Module]:
    """Return the models among what is known, without wrappers, and without those that are a part of another."""
    models = dict.fromkeys(unwrap_model(each) for each in known if isinstance(each, nn.Module))
    parts = {part for each in models for part in each.modules() if part is not each}
    return [each for each in models if each not in parts]


def _events(trainer: Engine, roles: list[Role]) -> dict[str, dict[str, list[str]]]:
    found = {"trainer": handlers_by_event(trainer, trainer)}
    others = [engine for role in roles if role.engine is not None and (engine := role.engine()) is not None]
    for number, engine in enumerate(dict.fromkeys(others), 1):
        found["evaluator" if number == 1 else f"evaluator {number}"] = handlers_by_event(engine, trainer)
    return found


def _schedules(reports: Mapping[Role, HandlerReport]) -> Iterator[ScheduleReport]:
    for role, report in reports.items():
        optimizer: Optimizer | None = role.optimizer() if isinstance(role, SetsLearningRates) else None
        if optimizer is not None and report.lrs:
            names = tuple(group_name(optimizer, index) for index in range(len(optimizer.param_groups)))
            yield ScheduleReport(repr(role.handler()), names, tuple(map(tuple, report.lrs)))
