"""Warnings point at the user's line."""

import inspect
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from ignite.engine import Engine, Events
from torch.optim import SGD
from torch.optim.lr_scheduler import CosineAnnealingLR, ReduceLROnPlateau, StepLR

from ignite_tips import (
    GradientNormClipper,
    GradualUnfreezer,
    LearningRateLogger,
    ModelSummarizer,
    PlateauStepper,
    ResumableTensorboardLogger,
    SchedulerStepper,
    attach_optimizer_events,
    param_groups,
)
from ignite_tips.core.events import OptimizerEvents


def _optimizer() -> SGD:
    return SGD([torch.nn.Parameter(torch.ones(2))], lr=1.0)


def _of_a_clipper_that_never_acts(trainer: Engine, optimizer: SGD) -> None:
    GradientNormClipper(_optimizer(), max_norm=1.0).attach(trainer)


def _of_a_logger_that_never_acts(trainer: Engine, optimizer: SGD) -> None:
    LearningRateLogger(_optimizer()).attach(trainer)


def _of_another_optimizers_schedule(trainer: Engine, optimizer: SGD) -> None:
    SchedulerStepper(StepLR(_optimizer(), 1)).attach(trainer)


def _of_an_early_step(trainer: Engine, optimizer: SGD) -> None:
    SchedulerStepper(StepLR(optimizer, 1)).attach(trainer, Events.EPOCH_STARTED)


def _of_a_length(trainer: Engine, optimizer: SGD) -> None:
    SchedulerStepper(CosineAnnealingLR(optimizer, 50)).attach(trainer)


def _of_an_estimated_length(trainer: Engine, optimizer: SGD) -> None:
    SchedulerStepper(CosineAnnealingLR(optimizer, 50)).attach(trainer, OptimizerEvents.STEP_COMPLETED)


def _of_a_second_clipper(trainer: Engine, optimizer: SGD) -> None:
    for _ in range(2):
        GradientNormClipper(optimizer, max_norm=1.0).attach(trainer)


def _of_a_second_stepper(trainer: Engine, optimizer: SGD) -> None:
    scheduler = StepLR(optimizer, 1)
    SchedulerStepper(scheduler).attach(trainer)
    trainer.add_event_handler(Events.EPOCH_COMPLETED, lambda: scheduler.step())


def _of_no_validation(trainer: Engine, optimizer: SGD) -> None:
    PlateauStepper(ReduceLROnPlateau(optimizer)).attach(trainer, Engine(lambda engine, batch: None))


def _of_a_part_frozen_by_hand(trainer: Engine, optimizer: SGD) -> None:
    net = torch.nn.Linear(2, 1).requires_grad_(False)
    GradualUnfreezer(net, ["*"]).attach(trainer)


def _of_no_summary(trainer: Engine, optimizer: SGD) -> None:
    ModelSummarizer(torch.nn.Linear(2, 1), example=torch.ones(3)).attach(trainer)


@pytest.mark.parametrize(
    "attach",
    [
        _of_a_clipper_that_never_acts,
        _of_a_logger_that_never_acts,
        _of_another_optimizers_schedule,
        _of_an_early_step,
        _of_a_length,
        _of_an_estimated_length,
        _of_a_second_clipper,
        _of_a_second_stepper,
        _of_no_validation,
        _of_a_part_frozen_by_hand,
        _of_no_summary,
    ],
)
def test_a_warning_of_a_run_points_at_the_call_of_run(attach: Callable[[Engine, SGD], None]) -> None:
    """Not at this package, nor at Ignite."""
    optimizer = _optimizer()

    def update(engine: Engine, batch: int) -> None:
        optimizer.param_groups[0]["params"][0].grad = torch.ones(2)
        optimizer.step()

    trainer = Engine(update)
    attach(trainer, optimizer)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        line = inspect.getframeinfo(inspect.currentframe()).lineno + 1  # type: ignore[arg-type]
        trainer.run(range(2), max_epochs=2)
    assert [(warning.filename, warning.lineno) for warning in caught] == [(__file__, line)]


def test_a_warning_of_a_users_handler_points_into_it() -> None:
    """A metric that is NaN is told of where the user runs the evaluator."""
    trainer = Engine(lambda engine, batch: None)
    evaluator = Engine(lambda engine, batch: engine.state.metrics.update(loss=float("nan")))
    PlateauStepper(ReduceLROnPlateau(_optimizer())).attach(trainer, evaluator)

    def validate() -> None:
        evaluator.run([0])

    trainer.add_event_handler(Events.EPOCH_COMPLETED, validate)
    with pytest.warns(UserWarning, match="got nan for metric 'loss'") as caught:
        trainer.run([0])
    (warning,) = caught
    assert (warning.filename, warning.lineno) == (__file__, validate.__code__.co_firstlineno + 1)


class ChannelNorm(torch.nn.Module):
    """A scale with three dimensions, by its name and shape a norm."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = torch.nn.Parameter(torch.ones(3, 1, 1))


def _grouping() -> Callable[[], object]:
    net = torch.nn.Sequential(torch.nn.Linear(2, 2), ChannelNorm())
    return lambda: param_groups(net, {"*": {}}, no_decay="norms")


def _misspelling() -> Callable[[], object]:
    net = torch.nn.Linear(2, 1)
    return lambda: param_groups(net, {"*": {"weight_deacy": 0.1}})


def _loading_other_settings() -> Callable[[], object]:
    state = SchedulerStepper(StepLR(_optimizer(), 2)).state_dict()
    stepper = SchedulerStepper(StepLR(_optimizer(), 3))
    return lambda: stepper.load_state_dict(state)


def _loading_without_counts() -> Callable[[], object]:
    trainer, plain = (Engine(lambda engine, batch: None) for _ in range(2))
    attach_optimizer_events(trainer, _optimizer())
    plain.run([0])
    return lambda: trainer.load_state_dict(plain.state_dict())


def _trainer() -> Engine:
    return Engine(lambda engine, batch: None)


@pytest.mark.parametrize("prepare", [_grouping, _misspelling, _loading_other_settings, _loading_without_counts])
def test_a_warning_of_a_call_points_at_it(prepare: Callable[[], Any]) -> None:
    """At the line that calls this package, or Ignite's ``load_state_dict``."""
    call = prepare()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        call()
    assert [(warning.filename, warning.lineno) for warning in caught] == [(__file__, call.__code__.co_firstlineno)]


@pytest.mark.parametrize("damaged", [False, True])
def test_a_warning_about_an_event_file_points_at_the_call_of_run(damaged: bool, tmp_path: Path) -> None:
    """Of a file that an earlier run wrote and a new one sets aside, and of one that cannot be read whole."""

    def log(trainer: Engine) -> None:
        with ResumableTensorboardLogger(tmp_path, trainer) as tb_logger:
            tb_logger.attach_output_handler(
                trainer, Events.ITERATION_COMPLETED, "train", output_transform=lambda _: {"loss": 0.5}
            )
            trainer.run([0], max_epochs=2 + trainer.state.epoch)

    first, second = _trainer(), _trainer()
    log(first)
    if damaged:
        (path,) = tmp_path.glob("*tfevents*")
        path.write_bytes(path.read_bytes().replace(b"train/loss", b"train/xxxx", 1))
        second.load_state_dict(first.state_dict())
    with pytest.warns(UserWarning, match="is damaged" if damaged else "has an earlier run of this process") as caught:
        log(second)
    (line,) = (
        n for n, text in enumerate(inspect.getsource(log).splitlines(), log.__code__.co_firstlineno) if ".run(" in text
    )
    assert [(warning.filename, warning.lineno) for warning in caught] == [(__file__, line)]
