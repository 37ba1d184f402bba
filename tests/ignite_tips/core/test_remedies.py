"""Remedies that errors and warnings of the core name: each is followed and works."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from ignite.engine import Engine, EventEnum, Events
from ignite.handlers import CosineAnnealingScheduler
from torch import nn
from torch.optim import LBFGS, SGD, Optimizer
from torch.optim.lr_scheduler import (
    CosineAnnealingLR,
    ExponentialLR,
    LambdaLR,
    LinearLR,
    LRScheduler,
    ReduceLROnPlateau,
    StepLR,
)

from ignite_tips import (
    OptimizerEvents,
    ParameterFreezer,
    PlateauStepper,
    SchedulerStepper,
    attach_optimizer_events,
)
from tests.remedies import says


class _Job:
    """A trainer of four updates an epoch, each with a gradient of norm 2, and an evaluator that finds no progress."""

    def __init__(self, optimizer: Optimizer | None = None) -> None:
        self.optimizer = optimizer or SGD([nn.Parameter(torch.zeros(4))], lr=1.0)
        self.trainer, self.evaluator = Engine(self._update), Engine(self._evaluate)
        self.trainer.logger.disabled = True

    def _update(self, engine: Engine, batch: int) -> None:
        for parameter in self.optimizer.param_groups[0]["params"]:
            parameter.grad = torch.ones_like(parameter)
        self.optimizer.step()

    def _evaluate(self, engine: Engine, batch: int) -> None:
        engine.state.metrics["loss"] = 1.0

    def step(self, scheduler: LRScheduler) -> SchedulerStepper:
        return SchedulerStepper(scheduler).attach(self.trainer)

    def run(self, epochs: int = 1) -> Any:
        state: Any = self.trainer.run(range(4), max_epochs=epochs)
        return self.run(epochs) if state is None else state  # Ignite's first run after one that raised does nothing

    def lr(self) -> float:
        return float(self.optimizer.param_groups[0]["lr"])


CONTINUING: list[Callable[[Optimizer], LRScheduler]] = [
    lambda optimizer: LinearLR(optimizer, 0.5, total_iters=3),
    lambda optimizer: ExponentialLR(optimizer, 0.9),
    lambda optimizer: StepLR(optimizer, 2, 0.3),
    lambda optimizer: CosineAnnealingLR(optimizer, 4),
]


@pytest.mark.parametrize("build", CONTINUING)
def test_a_scheduler_that_would_undo_a_plateaus_reductions(build: Callable[[Optimizer], LRScheduler]) -> None:
    """Each of those that the message names instead keeps them, as in the loop by hand."""
    job, expected = _Job(), SGD([nn.Parameter(torch.zeros(4))], lr=1.0)
    job.trainer.add_event_handler(Events.EPOCH_COMPLETED, lambda: job.evaluator.run([0]))
    PlateauStepper(ReduceLROnPlateau(job.optimizer, patience=0)).attach(job.trainer, job.evaluator)
    with says("use one that continues from the current learning rate (LinearLR, ExponentialLR, StepLR, CosineAnn"):
        job.step(LambdaLR(job.optimizer, lambda step: 1.0))
    job.step(build(job.optimizer))
    job.run(4)
    schedulers = ReduceLROnPlateau(expected, patience=0), build(expected)
    for _ in range(4):
        expected.step()
        schedulers[0].step(1.0)
        schedulers[1].step()
    assert job.lr() == expected.param_groups[0]["lr"] < 0.1


def test_two_freezers_of_one_parameter() -> None:
    """Each other pattern has its handler; or the first one ends."""
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 1))
    trainer = Engine(lambda engine, batch: None)
    first = ParameterFreezer(model, "0.*").attach(trainer)
    with says("use patterns that do not overlap, or detach that handler"):
        ParameterFreezer(model, "*.bias").attach(trainer)
    second = ParameterFreezer(model, "1.bias").attach(trainer)
    trainer.run([0])
    assert (first.frozen, second.frozen) == (("0.weight", "0.bias"), ("1.bias",))
    first.detach()
    second.detach()
    assert ParameterFreezer(model, "*.bias").attach(trainer)._attachment


def test_a_cell_run_twice() -> None:
    """A new trainer has the second handler alone."""
    job = _Job()
    for _ in range(2):
        job.step(StepLR(job.optimizer, 1, 0.5))
    with says("create a new trainer"):
        job.run()
    job = _Job(job.optimizer)
    job.step(StepLR(job.optimizer, 1, 0.5))
    job.run()
    assert job.lr() == 0.5


@pytest.mark.parametrize("kept", ["ours", "Ignite's"])
def test_a_scheduler_of_ignites_beside_ours(kept: str) -> None:
    """With one of the two removed, the other acts."""
    job = _Job()
    cosine = CosineAnnealingScheduler(job.optimizer, "lr", 0.25, 0.25, 4)
    job.trainer.add_event_handler(Events.ITERATION_STARTED, cosine)
    stepper = job.step(StepLR(job.optimizer, 1, 0.5))
    with says("remove one of the two"):
        job.run()
    if kept == "ours":
        job.trainer.remove_event_handler(cosine, Events.ITERATION_STARTED)
    else:
        stepper.detach()
    job.run()
    assert job.lr() == (0.5 if kept == "ours" else 0.25)


class _Own(EventEnum):
    REACHED = "reached"


def test_an_event_that_the_trainer_does_not_know() -> None:
    """Once registered, it is one."""
    job = _Job()
    stepper = SchedulerStepper(StepLR(job.optimizer, 1, 0.5))
    with says("register it with trainer.register_events(...)"):
        stepper.attach(job.trainer, _Own.REACHED)
    job.trainer.register_events(*_Own)
    stepper.attach(job.trainer, _Own.REACHED)
    job.trainer.add_event_handler(Events.ITERATION_COMPLETED(every=2), lambda engine: engine.fire_event(_Own.REACHED))
    job.run()
    assert job.lr() == 0.25


def test_lbfgs_has_no_events_of_updates() -> None:
    """Ignite's own events serve it, and a scheduler too."""
    weight = nn.Parameter(torch.ones(1))
    optimizer = LBFGS([weight], lr=1.0)

    def closure() -> torch.Tensor:
        weight.grad = 2 * weight.detach()
        return weight.detach().square().sum()

    trainer = Engine(lambda engine, batch: optimizer.step(closure))
    remedy = "act on Ignite's own events instead"
    with says(remedy):
        attach_optimizer_events(trainer, optimizer)
    stepper = SchedulerStepper(StepLR(optimizer, 1, 0.5))
    with says(remedy):
        stepper.attach(trainer, OptimizerEvents.STEP_COMPLETED)
    seen: list[float] = []
    trainer.add_event_handler(Events.ITERATION_COMPLETED, lambda: seen.append(weight.item()))
    stepper.attach(trainer, Events.ITERATION_COMPLETED)
    trainer.run(range(2))
    assert len(seen) == 2
    assert optimizer.param_groups[0]["lr"] == 0.25


def test_a_state_of_more_optimizers() -> None:
    """With the optimizers of the run that saved it, the counts go on."""
    job, second = _Job(), _Job()
    for each in (job, second):
        attach_optimizer_events(job.trainer, each.optimizer)
    job.run()
    state = job.trainer.state_dict()
    resumed, other = _Job(), _Job().optimizer
    attach_optimizer_events(resumed.trainer, resumed.optimizer)
    resumed.trainer.load_state_dict(state)
    with says("attach to the same optimizers as in the run that saved it"):
        resumed.run(2)
    resumed = _Job()
    for optimizer in (resumed.optimizer, other):
        attach_optimizer_events(resumed.trainer, optimizer)
    resumed.trainer.load_state_dict(state)
    assert resumed.run(2).optimizer_steps == [8, 0]
