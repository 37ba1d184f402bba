"""Handlers that find no update name the cause, and the remedy works."""

from typing import Any

import pytest
import torch
from ignite.engine import Engine, Events

from ignite_tips import GradientNormClipper, LearningRateLogger, OptimizerEvents, SchedulerStepper, describe_trainer

ELSEWHERE = (
    "in 1 iteration{}, because its updates are made outside the run of the engine that the handler is attached to; "
    "attach it to the engine whose update function calls step()"
)
ATTACH = {
    "clipper": lambda optimizer, engine: GradientNormClipper(optimizer, 1.0).attach(engine),
    "stepper": lambda optimizer, engine: SchedulerStepper(torch.optim.lr_scheduler.StepLR(optimizer, 3)).attach(
        engine, OptimizerEvents.STEP_COMPLETED
    ),
    "logger": lambda optimizer, engine: LearningRateLogger(optimizer).attach(engine),
}


def _train(kind: str, *, on_evaluator: bool, validates_at: Any = Events.EPOCH_COMPLETED) -> Engine:
    """Train two batches and validate on one; return the engine that has the handler."""
    parameter = torch.nn.Parameter(torch.ones(1))
    optimizer = torch.optim.SGD([parameter], lr=0.1)

    def update(engine: Engine, batch: Any) -> None:
        parameter.sum().backward()
        optimizer.step()

    trainer, evaluator = Engine(update), Engine(lambda engine, batch: None)
    engine = evaluator if on_evaluator else trainer
    ATTACH[kind](optimizer, engine)
    trainer.add_event_handler(validates_at, lambda: evaluator.run([0]))
    trainer.run([0, 0])
    return engine


@pytest.mark.parametrize("kind", ATTACH)
def test_a_handler_on_the_evaluator_is_told_where_it_belongs(kind: str) -> None:
    """It knows that the updates were made outside the evaluator's run; on the trainer all is well."""
    consequence = ", so there is no learning rate in use to log yet" if kind == "logger" else ""
    with pytest.warns(UserWarning, match="found no update") as caught:
        engine = _train(kind, on_evaluator=True)
    assert [str(warning.message).partition("SGD ")[2] for warning in caught] == [ELSEWHERE.format(consequence)]
    found = next(found.text for found in describe_trainer(engine).findings if found.kind == "never stepped")
    assert "in 1 iteration; its updates are made outside this engine's run: attach the handlers to the engine" in found
    _train(kind, on_evaluator=False)  # no warning


def test_before_any_update_the_cause_may_be_either() -> None:
    """A validation at the start comes before the updates, so both remedies are named; the second is this one."""
    with pytest.warns(UserWarning, match="if another engine makes the updates, attach the handler to that engine"):
        _train("clipper", on_evaluator=True, validates_at=Events.STARTED)
    _train("clipper", on_evaluator=False, validates_at=Events.STARTED)  # no warning
