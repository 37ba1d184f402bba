"""What all handlers have: a repr, and an error for one that is registered by hand."""

import copy
import inspect
from pathlib import Path
from typing import Any

import pytest
import torch
from ignite.engine import Engine, Events
from torch import nn
from torch.optim.lr_scheduler import (
    ChainedScheduler,
    CosineAnnealingLR,
    ExponentialLR,
    LambdaLR,
    MultiStepLR,
    OneCycleLR,
    ReduceLROnPlateau,
    SequentialLR,
)

import ignite_tips as tips
from tests.ignite_tips.test_contract import TABLE, Job

_MODEL = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 1))
_SGD = torch.optim.SGD(_MODEL.parameters(), lr=0.1)


def _one(step: int) -> float:
    return 1.0


class _OwnClipper(tips.GradientNormClipper):
    def __init__(self) -> None:
        super().__init__(_SGD, 1.0)


@pytest.mark.parametrize(
    ("handler", "shown"),
    [
        (tips.GradientNormClipper(_SGD, max_norm=1.0), "GradientNormClipper(SGD, max_norm=1.0)"),
        (tips.GradientNormClipper(_SGD, 1.0, model=_MODEL), "GradientNormClipper(SGD, max_norm=1.0, model=Sequential)"),
        (tips.GradientNormClipper(max_norm=2, optimizer=_SGD), "GradientNormClipper(SGD, max_norm=2)"),
        (tips.GradualUnfreezer(_MODEL, ["1.*", "0.*"]), "GradualUnfreezer(Sequential, stages=['1.*', '0.*'])"),
        (tips.ModelSummarizer(_MODEL, output=print), "ModelSummarizer(Sequential, output=print)"),
        (_OwnClipper(), "_OwnClipper()"),
    ],
    ids=repr,
)
def test_the_repr_is_the_call_that_made_it(handler: Any, shown: str) -> None:
    """Settings by name, objects by their class; the first argument, what it acts on, without its name."""
    assert repr(handler) == shown


@pytest.mark.parametrize(
    ("scheduler", "shown"),
    [
        (CosineAnnealingLR(_SGD, 6), "CosineAnnealingLR(T_max=6)"),
        (CosineAnnealingLR(_SGD, 6, eta_min=0.1, last_epoch=-1), "CosineAnnealingLR(T_max=6, eta_min=0.1)"),
        (MultiStepLR(_SGD, [5, 3]), "MultiStepLR(milestones=[3, 5])"),
        (OneCycleLR(_SGD, 0.1, total_steps=10), "OneCycleLR(total_steps=10)"),
        (LambdaLR(_SGD, _one), "LambdaLR"),
        (
            tips.with_warmup(CosineAnnealingLR(_SGD, 6), 2),
            "SequentialLR(schedulers=[LinearLR(start_factor=0.01, total_iters=2), CosineAnnealingLR(T_max=6)], "
            "milestones=[2])",
        ),
        (
            tips.with_warmup(ChainedScheduler([CosineAnnealingLR(_SGD, 6), LambdaLR(_SGD, _one)]), 2),
            "SequentialLR(schedulers=[LinearLR(start_factor=0.01, total_iters=2), "
            "ChainedScheduler(schedulers=[CosineAnnealingLR(T_max=6), LambdaLR])], milestones=[2])",
        ),
        (
            SequentialLR(_SGD, [ExponentialLR(_SGD, 0.9), LambdaLR(_SGD, _one)], [4]),
            "SequentialLR(schedulers=[ExponentialLR(gamma=0.9), LambdaLR], milestones=[4])",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_scheduler_is_shown_with_its_settings(scheduler: Any, shown: str) -> None:
    """Those that it keeps and that are not the default, because torch's schedulers have no repr."""
    assert repr(tips.SchedulerStepper(scheduler)) == f"SchedulerStepper({shown})"


def test_a_plateau_stepper_shows_its_scheduler_and_metric() -> None:
    """A function is shown by its name."""
    stepper = tips.PlateauStepper(ReduceLROnPlateau(_SGD, patience=2), metric=lambda evaluator: 1.0)
    assert repr(stepper) == "PlateauStepper(ReduceLROnPlateau(patience=2), metric=<lambda>)"


@pytest.mark.parametrize("name", TABLE)
def test_the_repr_is_the_same_attached_or_copied(name: str, tmp_path: Any) -> None:
    """For every handler: one line that begins with its class and has no address."""
    job = Job(str(tmp_path))
    handler = TABLE[name].build(job)
    shown = repr(handler)
    assert shown.startswith(f"{name}(")
    assert "\n" not in shown
    assert " at 0x" not in shown
    assert repr(copy.deepcopy(handler)) == shown
    TABLE[name].attach(handler, job)
    assert repr(handler) == shown


def test_a_long_setting_is_shortened() -> None:
    """A repr stays readable whatever a user gives."""
    shown = repr(tips.LearningRateLogger(_SGD, tag="x" * 1000))
    assert shown == f"LearningRateLogger(SGD, tag='{'x' * 76}...)"


def test_arguments_are_checked_as_before() -> None:
    """An argument that does not exist is refused by the constructor."""
    wrong: Any = {"max_nrom": 1.0}
    with pytest.raises(TypeError, match=r"unexpected keyword argument 'max_nrom'"):
        tips.GradientNormClipper(_SGD, **wrong)


@pytest.mark.parametrize("event", [Events.STARTED, Events.EPOCH_STARTED(every=2), Events.STARTED | Events.COMPLETED])
@pytest.mark.parametrize("name", TABLE)
def test_a_handler_registered_by_hand_is_told_of_attach(name: str, event: Any, tmp_path: Path) -> None:
    """By ``add_event_handler`` or ``on``; nothing is registered, and the class keeps its constructor's signature."""
    job = Job(str(tmp_path))
    handler = TABLE[name].build(job)
    before = job.traces()
    for register in (job.trainer.add_event_handler, lambda event, handler: job.trainer.on(event)(handler)):
        with pytest.raises(ValueError, match=rf"got a {name}, which registers itself; use handler\.attach\(trainer"):
            register(event, handler)
    assert job.traces() == before
    TABLE[name].attach(handler, job)
    assert "never" not in inspect.signature(type(handler)).parameters


@pytest.mark.parametrize("event", [Events.STARTED, Events.EPOCH_STARTED(every=2), Events.STARTED | Events.COMPLETED])
@pytest.mark.parametrize("name", sorted(set(TABLE) - {"ResumableTensorboardLogger"}))
def test_a_class_registered_as_a_handler_is_told_of_attach(name: str, event: Any) -> None:
    """Ignite would make an object of it whenever the event fires; also with the arguments of its constructor."""
    trainer, kind = Engine(lambda engine, batch: None), getattr(tips, name)
    for arguments in [(), (_MODEL,), (_MODEL, ["0.*"])]:
        with pytest.raises(
            RuntimeError, match=rf"got the class {name}; use {name}\(\.\.\.\)\.attach\(trainer\) instead"
        ):
            trainer.add_event_handler(event, kind, *arguments)
    assert not any(trainer._event_handlers.values())
