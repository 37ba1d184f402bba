"""Two schedulers of one optimizer: each leaves the other's steps, or they are refused."""

from collections.abc import Callable

import pytest
import torch
from ignite.engine import Engine
from torch.optim import SGD
from torch.optim.lr_scheduler import CyclicLR, LambdaLR, LRScheduler, ReduceLROnPlateau, StepLR

from ignite_tips import PlateauStepper, SchedulerStepper


def _optimizer() -> SGD:
    return SGD([torch.nn.Parameter(torch.ones(2))], lr=1.0, momentum=0.5)


def _trainer(optimizer: SGD) -> Engine:
    return Engine(lambda engine, batch: optimizer.step())


FORGETFUL: list[Callable[[SGD], LRScheduler]] = [
    lambda optimizer: LambdaLR(optimizer, lambda step: 1.0),
    lambda optimizer: CyclicLR(optimizer, 0.1, 1.0),
]


@pytest.mark.parametrize("build", FORGETFUL)
def test_one_that_undoes_anothers_steps_is_refused(build: Callable[[SGD], LRScheduler]) -> None:
    """Whichever of the two comes first on a trainer; on two trainers, one after the other, both may be."""
    optimizer = _optimizer()
    trainer, later = _trainer(optimizer), _trainer(optimizer)
    keeping, forgetful = SchedulerStepper(StepLR(optimizer, 3)), SchedulerStepper(build(optimizer))
    for first, second in ((keeping, forgetful), (forgetful, keeping)):
        first.attach(trainer)
        with pytest.raises(ValueError, match=r"got StepLR and (LambdaLR|CyclicLR), which undoes the steps in its next"):
            second.attach(trainer)
        second.attach(later)
        first.detach()
        second.detach()


def test_two_that_undo_each_other_are_refused() -> None:
    """Neither goes on from the rate that there is."""
    optimizer = _optimizer()
    trainer = _trainer(optimizer)
    SchedulerStepper(CyclicLR(optimizer, 0.1, 1.0)).attach(trainer)
    with pytest.raises(ValueError, match="got CyclicLR and LambdaLR, which undoes the steps in its next"):
        SchedulerStepper(LambdaLR(optimizer, lambda step: 1.0)).attach(trainer)


def test_one_that_is_stepped_already_is_refused() -> None:
    """A second handler would step it twice as fast; one whose trainer is gone is in nobody's way."""
    optimizer = _optimizer()
    scheduler, trainer = StepLR(optimizer, 3), _trainer(optimizer)
    SchedulerStepper(scheduler).attach(trainer).attach(trainer)
    with pytest.raises(ValueError, match="another one attached to the trainer steps this StepLR already"):
        SchedulerStepper(scheduler).attach(trainer)
    del trainer
    SchedulerStepper(scheduler).attach(_trainer(optimizer))


def test_a_plateau_has_one_handler() -> None:
    """Two of one ReduceLROnPlateau would count each validation twice; two plateaus of one optimizer are two metrics."""
    optimizer = _optimizer()
    trainer, evaluator = _trainer(optimizer), Engine(lambda engine, batch: None)
    plateau = ReduceLROnPlateau(optimizer)
    PlateauStepper(plateau).attach(trainer, evaluator)
    PlateauStepper(ReduceLROnPlateau(optimizer), "accuracy").attach(trainer, evaluator)
    with pytest.raises(ValueError, match="steps this ReduceLROnPlateau already"):
        PlateauStepper(plateau).attach(trainer, evaluator)
