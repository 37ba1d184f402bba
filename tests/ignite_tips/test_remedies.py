"""Remedies that errors and warnings of schedules, events and loggers name: each is followed and works."""

import copy
import re
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from ignite.engine import Engine, Events
from ignite.handlers import CosineAnnealingScheduler, ProgressBar, TensorboardLogger
from torch.optim import LBFGS, SGD
from torch.optim.lr_scheduler import (
    ChainedScheduler,
    ConstantLR,
    ExponentialLR,
    LambdaLR,
    LinearLR,
    ReduceLROnPlateau,
    SequentialLR,
    StepLR,
)

from ignite_tips import (
    LearningRateLogger,
    OptimizerEvents,
    PlateauStepper,
    ResumableTensorboardLogger,
    SchedulerStepper,
    attach_optimizer_events,
    simulate_schedule,
    with_warmup,
)


class _Scene:
    """A trainer of 4 iterations an epoch, whose evaluator finds no improvement, and the learning rates used."""

    def __init__(self) -> None:
        self.optimizer = SGD([torch.nn.Parameter(torch.ones(2))], lr=1.0)
        self.lrs: list[float] = []
        self.trainer = Engine(self._update)
        self.evaluator = Engine(lambda engine, batch: engine.state.metrics.update(loss=1.0))
        self.trainer.logger.disabled = True

    def _update(self, engine: Engine, batch: Any) -> None:
        self.lrs.append(self.optimizer.param_groups[0]["lr"])
        self.optimizer.step()

    def plateau(self) -> PlateauStepper:
        return PlateauStepper(ReduceLROnPlateau(self.optimizer, factor=0.5, patience=0))

    def validate(self, *sets: Any) -> None:
        self.trainer.add_event_handler(Events.EPOCH_COMPLETED, lambda: [self.evaluator.run(data) for data in sets])

    def run(self, epochs: int = 3) -> list[float]:
        """Train, and return the learning rate at the start of each epoch."""
        self.trainer.run(range(4), max_epochs=epochs)
        return self.lrs[::4]


def _resumed(**load: bool) -> _Scene:
    """A run resumed after 2 epochs, with the stepper's state, or the scheduler's alone as older checkpoints have."""
    first, second = _Scene(), _Scene()
    steppers = [
        SchedulerStepper(ExponentialLR(scene.optimizer, 0.5)).attach(scene.trainer) for scene in (first, second)
    ]
    first.run(2)
    second.trainer.load_state_dict(first.trainer.state_dict())
    second.optimizer.load_state_dict(copy.deepcopy(first.optimizer.state_dict()))
    if load.get("stepper"):
        steppers[1].load_state_dict(steppers[0].state_dict())
    if load.get("scheduler"):
        steppers[1].scheduler.load_state_dict(steppers[0].scheduler.state_dict())
    assert second.run(4) == [0.25, 0.125]
    return second


class _OwnSchedule:
    """A schedule that is not torch's, with timm's interface: the epoch, and a metric."""

    def __init__(self, optimizer: SGD) -> None:
        self.optimizer = optimizer

    def step(self, epoch: int, metric: float | None = None) -> None:
        self.optimizer.param_groups[0]["lr"] = self.factor(epoch)

    @staticmethod
    def factor(step: int) -> float:
        return 0.5**step


class _OwnWithoutArgument(_OwnSchedule):
    epoch = 0

    def step(self) -> None:  # type: ignore[override]
        self.epoch += 1
        super().step(self.epoch)


def _own_schedule(follow: bool, kind: Any = _OwnSchedule) -> None:
    scene = _Scene()
    scheduler = kind(scene.optimizer)
    if not follow:
        SchedulerStepper(scheduler)
    takes_epoch = kind is _OwnSchedule
    scene.trainer.add_event_handler(
        Events.EPOCH_COMPLETED,
        (lambda engine: scheduler.step(engine.state.epoch)) if takes_epoch else (lambda: scheduler.step()),
    )
    assert scene.run() == [1.0, 0.5, 0.25]


def _own_schedule_without_argument(follow: bool) -> None:
    _own_schedule(follow, _OwnWithoutArgument)


def _own_schedule_simulated(follow: bool) -> None:
    own: Any = _OwnSchedule(_Scene().optimizer)
    scheduler = LambdaLR(own.optimizer, own.factor) if follow else own
    assert simulate_schedule(scheduler, 3) == {"0": [1.0, 0.5, 0.25]}


def _own_schedule_after_warmup(follow: bool) -> None:
    own: Any = _OwnSchedule(_Scene().optimizer)
    scheduler = LambdaLR(own.optimizer, own.factor) if follow else own
    warmed = with_warmup(scheduler, 2, start_factor=0.5)
    assert simulate_schedule(warmed, 5) == {"0": [0.5, 0.75, 1.0, 0.5, 0.25]}


def _no_validation(follow: bool) -> None:
    scene = _Scene()
    scene.plateau().attach(*((scene.trainer, scene.evaluator) if follow else (scene.evaluator, scene.trainer)))
    scene.validate(range(2))
    assert scene.run(3) == ([1.0, 1.0, 0.5] if follow else [1.0, 1.0, 1.0])


def _two_data_sets(follow: bool) -> None:
    scene, sets = _Scene(), ([1], [2])
    scene.plateau().attach(scene.trainer, scene.evaluator, **({"data": sets[1]} if follow else {}))
    scene.validate(*sets)
    assert scene.run() == [1.0, 1.0, 0.5]


def _plateau_with_warmup(follow: bool) -> None:
    scene = _Scene()
    plateau = scene.plateau()
    if not follow:
        with_warmup(plateau.scheduler, 2)  # type: ignore[arg-type]
    plateau.attach(scene.trainer, scene.evaluator)
    SchedulerStepper(LinearLR(scene.optimizer, 0.5, total_iters=2)).attach(
        scene.trainer, OptimizerEvents.STEP_COMPLETED
    )
    scene.validate(range(2))
    scene.run()
    assert scene.lrs == [0.5, 0.75] + [1.0] * 6 + [0.5] * 4


def _undone_reductions(follow: bool) -> None:
    scene = _Scene()
    decay = LambdaLR(scene.optimizer, lambda step: 1.0)
    event = Events.EPOCH_COMPLETED(before=1)
    SchedulerStepper(decay).attach(scene.trainer, event if follow else Events.EPOCH_COMPLETED)
    scene.plateau().attach(scene.trainer, scene.evaluator)
    scene.validate(range(2))
    assert scene.run() == [1.0, 1.0, 0.5]


def _undone_by_ignite(follow: bool) -> None:
    scene = _Scene()
    event = Events.ITERATION_STARTED(before=4) if follow else Events.ITERATION_STARTED
    scene.trainer.add_event_handler(event, CosineAnnealingScheduler(scene.optimizer, "lr", 0.5, 1.0, 4))
    SchedulerStepper(StepLR(scene.optimizer, 1)).attach(scene.trainer)
    scene.run()


def _stepped_twice(follow: bool) -> None:
    scene = _Scene()
    scheduler = ExponentialLR(scene.optimizer, 0.5)
    one, other = Events.EPOCH_COMPLETED, Events.STARTED
    if follow:
        SchedulerStepper(scheduler).attach(scene.trainer, one | OptimizerEvents.STEP_COMPLETED(once=2))
    else:
        for event in (one, other):
            SchedulerStepper(scheduler).attach(scene.trainer, event)
    scene.run(2)
    assert scene.lrs == [1.0, 1.0, 0.5, 0.5] + [0.25] * 4


def _sequence_within(follow: bool) -> None:
    scene = _Scene()
    parts = [ConstantLR(scene.optimizer, 0.5, 5), ExponentialLR(scene.optimizer, 0.5)]
    sequence = SequentialLR(scene.optimizer, parts, [1])
    scheduler = with_warmup(sequence if follow else ChainedScheduler([sequence]), 1, start_factor=0.5)
    SchedulerStepper(scheduler).attach(scene.trainer)
    assert scene.run(4) == [0.5, 0.5, 1.0, 0.5]


def _no_update_yet(follow: bool) -> None:
    scene = _Scene()
    stepper = SchedulerStepper(ExponentialLR(scene.optimizer, 0.5))
    stepper.attach(scene.trainer, OptimizerEvents.STEP_COMPLETED if follow else Events.ITERATION_STARTED)
    scene.run(1)
    assert scene.lrs == [1.0, 0.5, 0.25, 0.125]


def _loaded_too_early(follow: bool) -> None:
    first, second = _Scene(), _Scene()
    attach_optimizer_events(first.trainer, first.optimizer)
    first.run(1)
    if follow:
        attach_optimizer_events(second.trainer, second.optimizer)
    second.trainer.load_state_dict(first.trainer.state_dict())
    attach_optimizer_events(second.trainer, second.optimizer)
    second.run(2)
    assert second.trainer.state.optimizer_step == 8


def _no_counter(follow: bool) -> None:
    scene = _Scene()
    options = {"global_step_transform": lambda engine, event: 1} if follow else {}
    LearningRateLogger(scene.optimizer, **options).attach(scene.trainer, event=Events.DATALOADER_STOP_ITERATION)
    scene.trainer.run(range(4), epoch_length=6)
    assert scene.trainer.state.metrics == {"lr/0": 1.0}


def _progress_bar(follow: bool) -> None:
    scene = _Scene()
    if follow:
        LearningRateLogger(scene.optimizer).attach(scene.trainer)
        ProgressBar(disable=True).attach(scene.trainer, ["lr/0"])
    else:
        LearningRateLogger(scene.optimizer).attach(scene.trainer, ProgressBar())
    scene.run(1)


REMEDIES: dict[str, tuple[Callable[[bool], Any], str]] = {
    "resumed with the stepper's state": (
        lambda follow: _resumed(stepper=follow),
        "save it and load it with the trainer",
    ),
    "resumed with the scheduler's": (
        lambda follow: _resumed(scheduler=follow),
        "or load a state of the scheduler alone",
    ),
    "a user's own schedule": (_own_schedule, "such as lambda engine: scheduler.step(engine.state.epoch)"),
    "one without argument": (_own_schedule_without_argument, "in a handler of your own with what its step() takes"),
    "its simulation": (_own_schedule_simulated, "write it as LambdaLR(optimizer, factor)"),
    "its warm-up": (_own_schedule_after_warmup, "write it as LambdaLR(optimizer, factor)"),
    "no validation": (_no_validation, "and attach(trainer, evaluator) in this order"),
    "two data sets": (_two_data_sets, "choose one with attach(trainer, evaluator, data=...)"),
    "a plateau with warm-up": (_plateau_with_warmup, "attach a SchedulerStepper with LinearLR"),
    "reductions undone": (_undone_reductions, "or end it with a filter on its event"),
    "undone by Ignite's": (_undone_by_ignite, "or end it with a filter on its event"),
    "stepped twice": (_stepped_twice, "use attach(trainer, one | other)"),
    "a sequence within": (_sequence_within, "give the SequentialLR itself"),
    "no update yet": (_no_update_yet, "attach it to OptimizerEvents.STEP_COMPLETED"),
    "loaded too early": (_loaded_too_early, "attach first, then load"),
    "no counter": (_no_counter, "pass global_step_transform"),
    "a progress bar": (_progress_bar, "let the bar show the metrics: ProgressBar().attach(trainer, ['lr/...'])"),
}


@pytest.mark.parametrize("case", REMEDIES)
def test_the_remedy_works(case: str) -> None:
    """Without it there is an error or a warning that names it; with it, there is neither."""
    scenario, remedy = REMEDIES[case]
    with pytest.raises((TypeError, ValueError, RuntimeError, UserWarning), match=re.escape(remedy)):
        scenario(False)
    scenario(True)


def test_lbfgs_is_logged_as_the_message_says(tmp_path: Path) -> None:
    """It has no event of updates, but an Ignite event to which Ignite's logger attaches the handler."""
    optimizer = LBFGS([torch.nn.Parameter(torch.ones(1))], lr=0.5)
    trainer = Engine(lambda engine, batch: None)
    handler = LearningRateLogger(optimizer)
    with TensorboardLogger(log_dir=str(tmp_path)) as tb_logger:
        with pytest.raises(TypeError, match=re.escape("with tb_logger.attach(trainer, this, event)")):
            handler.attach(trainer, tb_logger)
        tb_logger.attach(trainer, handler, Events.ITERATION_COMPLETED)
        trainer.run(range(2))


def test_a_folder_of_another_run_is_resumed_as_the_message_says(tmp_path: Path) -> None:
    """A new run is refused; with the trainer's state loaded it continues there."""

    def trainer_in(folder: Path) -> tuple[Engine, ResumableTensorboardLogger]:
        trainer = Engine(lambda engine, batch: None)
        trainer.logger.disabled = True
        return trainer, ResumableTensorboardLogger(folder, trainer)

    first, logger = trainer_in(tmp_path)
    with logger:
        first.run(range(2), max_epochs=1)
    (path,) = tmp_path.iterdir()
    path.rename(path.with_name(f"{path.name}.copied"))  # not a file that this process began
    second, logger = trainer_in(tmp_path)
    with logger, pytest.raises(RuntimeError, match="choose another, or load the trainer's state to resume the run"):
        second.run(range(2))
    third, logger = trainer_in(tmp_path)
    with logger, warnings.catch_warnings():
        third.load_state_dict(first.state_dict())
        third.run(range(2), max_epochs=2)
