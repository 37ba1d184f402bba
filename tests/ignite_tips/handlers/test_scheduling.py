"""SchedulerStepper: when it steps, what it refuses and what it saves."""

from typing import Any

import pytest
import torch
from ignite.engine import Engine, Events
from torch.optim import SGD
from torch.optim.lr_scheduler import ExponentialLR, LRScheduler, ReduceLROnPlateau, StepLR

from ignite_tips import SchedulerStepper
from ignite_tips.events import OptimizerEvents


def _optimizer(lr: float = 1.0) -> SGD:
    return SGD([torch.nn.Parameter(torch.ones(2))], lr=lr)


def _trainer(optimizer: SGD, accumulation: int = 1) -> Engine:
    def update(engine: Engine, batch: Any) -> None:
        if engine.state.iteration % accumulation == 0:
            optimizer.step()

    return Engine(update)


def _steps(scheduler: LRScheduler) -> int:
    return scheduler.last_epoch


@pytest.mark.parametrize(
    ("event", "expected"),
    [
        (None, 2),
        (Events.EPOCH_COMPLETED, 2),
        (Events.ITERATION_COMPLETED(after=3), 5),
        (OptimizerEvents.STEP_COMPLETED, 4),
        (OptimizerEvents.STEP_COMPLETED(every=2), 2),
        (OptimizerEvents.STEP_COMPLETED(every=2) | Events.EPOCH_COMPLETED(once=2), 3),
    ],
    ids=str,
)
def test_steps_on_any_event(event: Any, expected: int) -> None:
    """Two epochs of four batches, an update every other one: a step whenever the event says so."""
    optimizer = _optimizer()
    scheduler = StepLR(optimizer, 100)
    trainer = _trainer(optimizer, accumulation=2)
    SchedulerStepper(scheduler).attach(trainer, *([] if event is None else [event]))
    trainer.run(range(4), max_epochs=2)
    assert _steps(scheduler) == expected


def test_attaching_again_replaces_and_detaching_ends() -> None:
    """Attached twice it steps once; detached it steps no more."""
    optimizer = _optimizer()
    scheduler = StepLR(optimizer, 100)
    trainer = _trainer(optimizer)
    stepper = SchedulerStepper(scheduler)
    stepper.attach(trainer, Events.ITERATION_COMPLETED)
    stepper.attach(trainer)
    trainer.run(range(4), max_epochs=1)
    assert _steps(scheduler) == 1
    stepper.detach()
    trainer.run(range(4), max_epochs=1)
    assert _steps(scheduler) == 1


@pytest.mark.parametrize(
    ("scheduler", "message"),
    [
        (None, "scheduler must be a torch learning-rate scheduler, got None"),
        (0.1, "scheduler must be a torch learning-rate scheduler, got 0.1"),
        (StepLR, "scheduler must be a torch learning-rate scheduler, got <class .*StepLR"),
        (ReduceLROnPlateau(_optimizer()), "got ReduceLROnPlateau; use PlateauStepper"),
    ],
)
def test_wrong_scheduler(scheduler: Any, message: str) -> None:
    """What is no scheduler, and the one that needs a metric, are refused."""
    with pytest.raises(TypeError, match=message):
        SchedulerStepper(scheduler)


def test_state_is_plain_and_exact(tmp_path: Any) -> None:
    """The state passes through ``weights_only`` and gives the rates back, however late the scheduler was built."""
    optimizer = _optimizer()
    stepper = SchedulerStepper(ExponentialLR(optimizer, 0.9))
    trainer = _trainer(optimizer)
    stepper.attach(trainer)
    trainer.run(range(2), max_epochs=3)
    torch.save({"optimizer": optimizer.state_dict(), "stepper": stepper.state_dict()}, tmp_path / "state.pt")
    loaded = torch.load(tmp_path / "state.pt", weights_only=True)

    resumed = _optimizer()
    resumed.load_state_dict(loaded["optimizer"])
    again = SchedulerStepper(ExponentialLR(resumed, 0.9))
    again.load_state_dict(loaded["stepper"])
    assert resumed.param_groups[0]["lr"] == optimizer.param_groups[0]["lr"]
    assert again.state_dict() == stepper.state_dict()


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (lambda state: None, TypeError, "the scheduler's state must be a mapping, got None"),
        (lambda state: state["scheduler"], ValueError, "must have the keys schedule, scheduler, options, got"),
        (lambda state: state | {"schedule": "StepLR"}, ValueError, "must be of ExponentialLR, got StepLR"),
        (lambda state: state | {"options": []}, ValueError, "must be for 1 param groups, got 0; build the optimizer"),
    ],
)
def test_wrong_state(change: Any, error: type[Exception], message: str) -> None:
    """A state of something else is refused and changes nothing."""
    stepper = SchedulerStepper(ExponentialLR(_optimizer(), 0.9))
    before = stepper.state_dict()
    with pytest.raises(error, match=message):
        stepper.load_state_dict(change(before))
    assert stepper.state_dict() == before
