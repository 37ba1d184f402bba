"""Handlers that conflict: refused if surely wrong, warned about if possibly intended."""

import contextlib
from collections.abc import Callable
from typing import Any

import pytest
import torch
from ignite.engine import Engine, Events
from ignite.handlers.param_scheduler import CosineAnnealingScheduler, ParamGroupScheduler
from torch.optim import SGD
from torch.optim.lr_scheduler import CyclicLR, LambdaLR, LRScheduler, ReduceLROnPlateau, StepLR

from ignite_tips import GradientNormClipper, LearningRateLogger, ParameterFreezer, PlateauStepper, SchedulerStepper
from ignite_tips.core.conflicts import conflicts_in
from ignite_tips.core.events import OptimizerEvents
from tests.support import needs_max_iters


def _optimizer() -> SGD:
    return SGD([torch.nn.Parameter(torch.ones(2))], lr=1.0, momentum=0.5)


def _trainer(optimizer: SGD) -> Engine:
    return Engine(lambda engine, batch: optimizer.step())


def _run_after_error(trainer: Engine) -> None:
    if trainer.run([0]) is None:  # Ignite's first run after one that raised does nothing
        trainer.run([0])


CLOSED_FORM: list[Callable[[SGD], LRScheduler]] = [
    lambda optimizer: LambdaLR(optimizer, lambda step: 1.0),
    lambda optimizer: CyclicLR(optimizer, 0.1, 1.0),
]


@pytest.mark.parametrize("build", CLOSED_FORM)
def test_one_that_undoes_anothers_steps_is_refused(build: Callable[[SGD], LRScheduler]) -> None:
    """In either order on one trainer; on two trainers, one after the other, both are allowed."""
    optimizer = _optimizer()
    trainer, later = _trainer(optimizer), _trainer(optimizer)
    keeping, closed_form = SchedulerStepper(StepLR(optimizer, 3)), SchedulerStepper(build(optimizer))
    for first, second in ((keeping, closed_form), (closed_form, keeping)):
        first.attach(trainer)
        with pytest.raises(ValueError, match=r"got StepLR and (LambdaLR|CyclicLR), which undoes the steps in its next"):
            second.attach(trainer)
        second.attach(later)
        first.detach()
        second.detach()


def test_two_that_undo_each_other_are_refused() -> None:
    """Neither continues from the current learning rate."""
    optimizer = _optimizer()
    trainer = _trainer(optimizer)
    SchedulerStepper(CyclicLR(optimizer, 0.1, 1.0)).attach(trainer)
    with pytest.raises(ValueError, match="got CyclicLR and LambdaLR, which undoes the steps in its next"):
        SchedulerStepper(LambdaLR(optimizer, lambda step: 1.0)).attach(trainer)


def test_one_that_is_stepped_already_is_refused() -> None:
    """A second handler would step it twice as fast; a handler whose trainer is gone does not count."""
    optimizer = _optimizer()
    scheduler, trainer = StepLR(optimizer, 3), _trainer(optimizer)
    SchedulerStepper(scheduler).attach(trainer).attach(trainer)
    with pytest.raises(ValueError, match="another handler of the trainer already steps this StepLR"):
        SchedulerStepper(scheduler).attach(trainer)
    del trainer
    SchedulerStepper(scheduler).attach(_trainer(optimizer))


def test_a_plateau_has_one_handler() -> None:
    """Two handlers would count each validation twice; two plateaus of one optimizer may have two metrics."""
    optimizer = _optimizer()
    trainer, evaluator = _trainer(optimizer), Engine(lambda engine, batch: None)
    plateau = ReduceLROnPlateau(optimizer)
    PlateauStepper(plateau).attach(trainer, evaluator)
    PlateauStepper(ReduceLROnPlateau(optimizer), "accuracy").attach(trainer, evaluator)
    with pytest.raises(ValueError, match="already steps this ReduceLROnPlateau"):
        PlateauStepper(plateau).attach(trainer, evaluator)


def test_two_schedulers_of_one_class_compose_with_one_warning() -> None:
    """Both may be intended: both act as in the hand-written loop, with one warning when the first run starts."""
    optimizer, expected = _optimizer(), _optimizer()
    trainer = _trainer(optimizer)
    for gamma in (0.5, 0.1):
        SchedulerStepper(StepLR(optimizer, 2, gamma=gamma)).attach(trainer)
    sentence = "SchedulerStepper steps a second StepLR of the trainer's SGD, and both change its learning rates; if"
    with pytest.warns(UserWarning, match=sentence) as caught:
        trainer.run(range(2), max_epochs=2)
    assert len(caught) == 1
    trainer.run(range(2), max_epochs=4)
    schedulers = [StepLR(expected, 2, gamma=gamma) for gamma in (0.5, 0.1)]
    for _ in range(4):
        expected.step()
        for scheduler in schedulers:
            scheduler.step()
    assert optimizer.param_groups[0]["lr"] == expected.param_groups[0]["lr"]


def test_two_schedulers_do_not_warn_if_a_filter_ends_one() -> None:
    """Nor do two plateaus with two metrics."""
    optimizer = _optimizer()
    trainer, evaluator = _trainer(optimizer), Engine(lambda engine, batch: engine.state.metrics.update(a=1, b=1))
    trainer.add_event_handler(Events.EPOCH_COMPLETED, lambda: evaluator.run([0]))
    SchedulerStepper(StepLR(optimizer, 2)).attach(trainer, Events.EPOCH_COMPLETED(before=2))
    SchedulerStepper(StepLR(optimizer, 2)).attach(trainer)
    first_epochs = Events.EPOCH_COMPLETED(once=1) | Events.EPOCH_COMPLETED(once=2)
    SchedulerStepper(StepLR(optimizer, 2)).attach(trainer, first_epochs)
    for metric in "ab":
        PlateauStepper(ReduceLROnPlateau(optimizer), metric).attach(trainer, evaluator)
    trainer.run(range(2), max_epochs=2)
    assert trainer.state.epoch == 2


def test_parameters_have_one_freezer_in_a_run() -> None:
    """On one trainer, and on one that is run while another runs; one that does not run is in nobody's way."""
    model = torch.nn.Linear(2, 2)
    first, second = ParameterFreezer(model, "weight"), ParameterFreezer(model, "*")
    trainer, inner = (Engine(lambda engine, batch: None) for _ in range(2))
    first.attach(trainer).attach(trainer)
    message = "'weight' must be frozen by one handler, but an attached Parameter"
    with pytest.raises(ValueError, match=message):
        second.attach(trainer)
    second.attach(inner)
    trainer.add_event_handler(Events.EPOCH_COMPLETED, lambda: inner.run([0]))
    with pytest.raises(ValueError, match=message):
        trainer.run([0])
    _run_after_error(inner)
    assert second.frozen == ("weight", "bias")


def test_a_trainer_that_is_interrupted_has_not_ended() -> None:
    """Its run goes on without a new start, so what it has frozen stays."""
    model = torch.nn.Linear(2, 2)
    trainer, later = (Engine(lambda engine, batch: None) for _ in range(2))
    freezer = ParameterFreezer(model, "weight").attach(trainer)
    trainer.add_event_handler(Events.ITERATION_COMPLETED(once=1), Engine.interrupt)
    trainer.run(range(2))
    ParameterFreezer(model, "*").attach(later)
    assert freezer.frozen == ("weight",)
    with pytest.raises(ValueError, match="'weight' must be frozen by one handler"):
        later.run([0])
    trainer.run(range(2))
    _run_after_error(later)
    assert freezer.frozen == ()


_AGAIN: dict[str, Callable[[torch.nn.Module, SGD], Any]] = {
    "clipper": lambda model, sgd: GradientNormClipper(sgd, max_norm=1.0),
    "scheduler": lambda model, sgd: SchedulerStepper(StepLR(sgd, 2)),
    "freezer": lambda model, sgd: ParameterFreezer(model, "weight"),
    "logger": lambda model, sgd: LearningRateLogger(sgd),
}


@pytest.mark.parametrize("kind", _AGAIN)
@pytest.mark.parametrize("ending", [None, ValueError, KeyboardInterrupt])
def test_a_handler_of_an_ended_run_yields(kind: str, ending: type[BaseException] | None) -> None:
    """A cell that attaches another to the same trainer replaces it, without a warning."""
    model = torch.nn.Linear(2, 2)
    optimizer = SGD(model.parameters(), lr=0.1)
    endings = [ending] * (ending is not None)

    def update(engine: Engine, batch: int) -> None:
        model(torch.ones(1, 2)).sum().backward()
        optimizer.step()
        if endings:
            raise endings.pop()

    trainer = Engine(update)
    first, second = (_AGAIN[kind](model, optimizer) for _ in range(2))
    first.attach(trainer)
    with contextlib.suppress(ValueError, KeyboardInterrupt):
        trainer.run(range(2))
    second.attach(trainer)
    assert not first._attachment
    _run_after_error(trainer)


@pytest.mark.parametrize("kind", ["SchedulerStepper", "PlateauStepper"])
@pytest.mark.parametrize("grouped", [False, True])
def test_an_ignite_scheduler_of_the_same_learning_rates_is_refused(grouped: bool, kind: str) -> None:
    """It would overwrite them in every iteration; one of momentum, or one ended by a filter, is fine."""
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
        ValueError, match=f"{kind} must be the only one to set the learning rates of its SGD, but .* Ignite's {name}"
    ):
        trainer.run(range(2), max_epochs=2)


def _attach_all(trainer: Engine, optimizer: SGD, per_update: bool = True, **options: Any) -> None:
    GradientNormClipper(optimizer, max_norm=1.0, **options).attach(trainer)
    LearningRateLogger(optimizer).attach(trainer)
    stepper = SchedulerStepper(StepLR(optimizer, 100))
    stepper.attach(trainer, OptimizerEvents.STEP_COMPLETED if per_update else Events.EPOCH_COMPLETED)


def _fill(optimizer: SGD, value: float = 1.0) -> None:
    parameter = optimizer.param_groups[0]["params"][0]
    parameter.grad = torch.full_like(parameter, value)


@pytest.mark.parametrize("epochs", [1, 3])
@pytest.mark.parametrize("is_first", [True, False])
@pytest.mark.parametrize("event", [Events.EPOCH_COMPLETED, Events.ITERATION_COMPLETED, Events.EPOCH_STARTED])
def test_updates_in_a_handler_are_no_lack_of_updates(event: Events, is_first: bool, epochs: int) -> None:
    """As in reinforcement learning: in a handler before or after ours, of the event that ends the first epoch too."""
    optimizer = _optimizer()
    trainer = Engine(lambda engine, batch: None)

    def update(engine: Engine) -> None:
        _fill(optimizer)
        optimizer.step()

    if is_first:
        trainer.add_event_handler(event, update)
    _attach_all(trainer, optimizer)
    if not is_first:
        trainer.add_event_handler(event, update)
    trainer.run(range(3), max_epochs=epochs)


@pytest.mark.parametrize("per_update", [True, False])
def test_an_epoch_of_skipped_updates_is_no_lack_of_updates(per_update: bool) -> None:
    """The trainer does step the optimizer: its first gradients are not finite."""
    optimizer = _optimizer()

    def update(engine: Engine, batch: int) -> None:
        _fill(optimizer, float("nan") if engine.state.epoch == 1 else 1.0)
        optimizer.step()

    trainer = Engine(update)
    _attach_all(trainer, optimizer, per_update, on_nonfinite="skip")
    assert trainer.run(range(3), max_epochs=3).optimizer_step == 6


def test_an_update_of_zero_gradients_has_gradients() -> None:
    """The last update of the first epoch has gradients of 0, and they are set to None after it."""
    optimizer = _optimizer()

    def update(engine: Engine, batch: float) -> None:
        _fill(optimizer, batch)
        optimizer.step()
        optimizer.zero_grad()

    trainer = Engine(update)
    GradientNormClipper(optimizer, max_norm=1.0).attach(trainer)
    trainer.run([1.0, 0.0], max_epochs=2)


_LENGTHS = [
    {"max_epochs": 2},
    {"max_epochs": 1},
    pytest.param({"max_iters": 3}, marks=needs_max_iters),
    pytest.param({"max_iters": 8}, marks=needs_max_iters),
]


@pytest.mark.parametrize("length", _LENGTHS)
@pytest.mark.parametrize("run", [1, 2])
def test_an_optimizer_that_is_not_stepped_is_told_of_in_each_run(length: dict[str, int], run: int) -> None:
    """Once, also if the run ends within its first epoch, and in the second run of a process."""
    optimizer, other = _optimizer(), _optimizer()
    trainer = Engine(lambda engine, batch: (other if engine.state.metrics["run"] < run else optimizer).step())
    trainer.state.metrics["run"] = 1
    GradientNormClipper(other, max_norm=1.0).attach(trainer)
    if run == 2:
        _fill(other)
        trainer.run(range(4))
        trainer.state.max_epochs = None
        trainer.state.metrics["run"] = 2
    iterations = min(4, length.get("max_iters", 4))
    with pytest.warns(UserWarning, match=f"no update of its SGD in {iterations} iterations; if the trainer") as caught:
        trainer.run(range(4), **length)
    assert len(caught) == 1


def test_conflicts_are_known_before_the_run() -> None:
    """Both those that its start refuses and those that it warns about, and however often they are asked for."""
    optimizer = _optimizer()
    trainer = _trainer(optimizer)
    SchedulerStepper(StepLR(optimizer, 3)).attach(trainer)
    assert conflicts_in(trainer) == []
    SchedulerStepper(StepLR(optimizer, 3)).attach(trainer)
    trainer.add_event_handler(Events.EPOCH_STARTED, CosineAnnealingScheduler(optimizer, "lr", 1.0, 0.0, 5))
    found = conflicts_in(trainer)
    assert len(found) == 3
    assert sum("steps a second StepLR" in sentence for sentence in found) == 1
    assert sum("CosineAnnealingScheduler, which overwrites them" in sentence for sentence in found) == 2
    assert conflicts_in(trainer) == found
