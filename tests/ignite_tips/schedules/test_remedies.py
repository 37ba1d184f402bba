"""Remedies that errors and warnings of schedules name, besides those of tests/ignite_tips/test_remedies.py."""

from pathlib import Path
from typing import Any

import pytest
import torch
from ignite.engine import Engine, Events
from ignite.handlers import Checkpoint, DiskSaver
from ignite.handlers.param_scheduler import LRScheduler as IgniteLRScheduler
from torch import nn
from torch.optim import SGD
from torch.optim.lr_scheduler import CosineAnnealingLR, LambdaLR, ReduceLROnPlateau, StepLR

from ignite_tips import PlateauStepper, SchedulerStepper
from tests.remedies import says


class _Job:
    """A trainer of two updates an epoch, and the learning rate at the end of each."""

    def __init__(self, groups: int = 1) -> None:
        self.optimizer = SGD([{"params": [nn.Parameter(torch.zeros(1))]} for _ in range(groups)], lr=1.0)
        self.trainer = Engine(lambda engine, batch: self.optimizer.step())
        self.trainer.logger.disabled = True
        self.evaluator = Engine(lambda engine, batch: engine.state.metrics.update(loss=1.0))
        self.lrs: list[float] = []

    def step(self, scheduler: Any) -> SchedulerStepper:
        return SchedulerStepper(scheduler).attach(self.trainer)

    def halve(self) -> StepLR:
        return StepLR(self.optimizer, 1, 0.5)

    def run(self, epochs: int = 3) -> list[float]:
        self.trainer.add_event_handler(
            Events.EPOCH_COMPLETED, lambda: self.lrs.append(self.optimizer.param_groups[-1]["lr"])
        )
        self.trainer.run(range(2), max_epochs=epochs)
        return self.lrs


HALVED = [0.5, 0.25, 0.125]


def test_a_group_that_was_added_later() -> None:
    """Made up front, it is scheduled."""
    job = _Job()
    job.step(LambdaLR(job.optimizer, lambda step: 0.5**step))
    job.optimizer.add_param_group({"params": [nn.Parameter(torch.zeros(1))]})
    with says("make all groups up front"):
        job.run()
    job = _Job(groups=2)
    job.step(LambdaLR(job.optimizer, lambda step: 0.5**step))
    assert job.run() == HALVED


def test_a_scheduler_of_an_earlier_run() -> None:
    """Both built anew, the schedule ends with the run."""
    job = _Job()
    job.step(CosineAnnealingLR(job.optimizer, 3))
    job.run()
    job.trainer.state.max_epochs = None
    with says("build the scheduler and its optimizer anew"):
        job.run()
    job = _Job()
    job.step(CosineAnnealingLR(job.optimizer, 3))
    assert job.run() == pytest.approx([0.75, 0.25, 0.0])


def test_a_state_of_other_groups() -> None:
    """With the same groups it is loaded."""
    saved = _Job(groups=2)
    stepper = saved.step(saved.halve())
    saved.run()
    one, two = _Job(), _Job(groups=2)
    with says("build the optimizer with the same groups as in the run that saved it"):
        one.step(one.halve()).load_state_dict(stepper.state_dict())
    two.step(two.halve()).load_state_dict(stepper.state_dict())
    assert two.optimizer.param_groups[1]["lr"] == 0.125


class _Foreign:
    """A scheduler as other libraries have: its step() takes the epoch."""

    def __init__(self, optimizer: SGD) -> None:
        self.optimizer, self.epoch = optimizer, 0

    def step(self, epoch: int) -> None:
        self.epoch = epoch
        self.optimizer.param_groups[0]["lr"] = 0.5**epoch

    def state_dict(self) -> dict[str, Any]:
        return {"epoch": self.epoch}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.step(state["epoch"])


def test_a_scheduler_of_another_library(tmp_path: Path) -> None:
    """A handler of one's own steps it, and to_save has it for a resume."""
    saver = DiskSaver(str(tmp_path))

    def start() -> tuple[_Job, dict[str, Any]]:
        job = _Job()
        scheduler = _Foreign(job.optimizer)
        job.trainer.add_event_handler(Events.EPOCH_COMPLETED, lambda engine: scheduler.step(engine.state.epoch))
        to_save = {"trainer": job.trainer, "scheduler": scheduler}
        job.trainer.add_event_handler(Events.EPOCH_COMPLETED, Checkpoint(to_save, saver))
        return job, to_save

    with says("such as lambda engine: scheduler.step(engine.state.epoch), and put it into to_save"):
        SchedulerStepper(_Foreign(_Job().optimizer))  # type: ignore[arg-type]
    first, _ = start()
    assert first.run(2) == HALVED[:2]
    (path,) = tmp_path.iterdir()
    resumed, to_save = start()
    Checkpoint.load_objects(to_save, torch.load(path))
    assert resumed.optimizer.param_groups[0]["lr"] == 0.25
    assert resumed.run(3) == HALVED[2:]


def test_a_scheduler_for_another_handler() -> None:
    """Of Ignite's wrapper the inner one is taken; each kind has its stepper."""
    job = _Job()
    scheduler = job.halve()
    with says("pass the torch scheduler itself"):
        SchedulerStepper(IgniteLRScheduler(scheduler))  # type: ignore[arg-type]
    with says("SchedulerStepper steps other schedulers"):
        PlateauStepper(scheduler)  # type: ignore[arg-type]
    job.step(scheduler)
    assert job.run() == HALVED
    job = _Job()
    plateau = ReduceLROnPlateau(job.optimizer, factor=0.5, patience=0)
    with says("use PlateauStepper, which steps it with a validation metric"):
        SchedulerStepper(plateau)
    PlateauStepper(plateau).attach(job.trainer, job.evaluator)
    job.trainer.add_event_handler(Events.EPOCH_COMPLETED, lambda: job.evaluator.run([0]))
    assert job.run() == [1.0, 0.5, 0.25]


@pytest.mark.parametrize("kept", ["the handler", "the step by hand"])
def test_a_scheduler_that_other_code_steps_too(kept: str) -> None:
    """One of the two is enough."""
    job = _Job()
    scheduler = job.halve()
    job.step(scheduler)
    job.trainer.add_event_handler(Events.EPOCH_COMPLETED, lambda: scheduler.step())
    with says("remove one of the two"):
        job.run()
    job = _Job()
    scheduler = job.halve()
    if kept == "the handler":
        job.step(scheduler)
    else:
        job.trainer.add_event_handler(Events.EPOCH_COMPLETED, lambda: scheduler.step())
    assert job.run() == HALVED


def test_a_scheduler_of_another_optimizer() -> None:
    """That of the one which the trainer steps acts."""
    job = _Job()
    other = job.step(_Job().halve())
    with says("if the trainer steps another optimizer, schedule that"):
        job.run()
    other.detach()
    job = _Job()
    job.step(job.halve())
    assert job.run() == HALVED
