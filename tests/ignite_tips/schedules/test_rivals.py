"""Ignite's own schedulers beside ours."""

from typing import Any

import pytest
import torch
from ignite.engine import Engine, Events
from ignite.handlers.param_scheduler import CosineAnnealingScheduler, ParamGroupScheduler
from torch.optim import SGD
from torch.optim.lr_scheduler import ReduceLROnPlateau, StepLR

from ignite_tips import PlateauStepper, SchedulerStepper


def _optimizer() -> SGD:
    return SGD([torch.nn.Parameter(torch.ones(2))], lr=1.0)


@pytest.mark.parametrize("kind", ["SchedulerStepper", "PlateauStepper"])
@pytest.mark.parametrize("grouped", [False, True])
def test_one_that_sets_the_same_rates_is_refused(grouped: bool, kind: str) -> None:
    """It would set them anew in every iteration; one of momentum, or that a filter ends, is not in the way."""
    optimizer = _optimizer()
    trainer = Engine(lambda engine, batch: optimizer.step())
    evaluator = Engine(lambda engine, batch: engine.state.metrics.update(loss=1.0))
    trainer.add_event_handler(Events.EPOCH_COMPLETED, lambda: evaluator.run([0]))

    def cosine(name: str, optimizer: SGD = optimizer) -> Any:
        inner = CosineAnnealingScheduler(optimizer, name, 1.0, 0.1, 10)
        return ParamGroupScheduler([inner]) if grouped else inner

    if kind == "SchedulerStepper":
        SchedulerStepper(StepLR(optimizer, 3)).attach(trainer)
    else:
        PlateauStepper(ReduceLROnPlateau(optimizer)).attach(trainer, evaluator)
    trainer.add_event_handler(Events.ITERATION_STARTED, cosine("momentum"))
    trainer.add_event_handler(Events.ITERATION_STARTED, cosine("lr", _optimizer()))
    trainer.add_event_handler(Events.ITERATION_STARTED(before=3), cosine("lr"))
    trainer.run(range(2))
    trainer.add_event_handler(Events.ITERATION_STARTED, cosine("lr"))
    name = "ParamGroupScheduler" if grouped else "CosineAnnealingScheduler"
    with pytest.raises(
        ValueError, match=f"{kind} must be alone in setting the rates of its SGD, but .* Ignite's {name}"
    ):
        trainer.run(range(2), max_epochs=2)
