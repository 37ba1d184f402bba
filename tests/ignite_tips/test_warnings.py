"""Warnings point at the user's line."""

import inspect
import warnings
from collections.abc import Callable

import pytest
import torch
from ignite.engine import Engine, Events
from torch.optim import SGD
from torch.optim.lr_scheduler import CosineAnnealingLR, ReduceLROnPlateau, StepLR

from ignite_tips import GradientNormClipper, LearningRateLogger, PlateauStepper, SchedulerStepper
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
