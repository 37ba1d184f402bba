"""SchedulerStepper: when it steps, what it refuses and what it saves."""

import copy
import gc
import re
import warnings
import weakref
from typing import Any

import pytest
import torch
from ignite.engine import Engine, Events, EventsList
from ignite.handlers import FastaiLRFinder
from ignite.handlers import LRScheduler as IgniteLRScheduler
from torch.optim import LBFGS, SGD
from torch.optim.lr_scheduler import (
    ChainedScheduler,
    ConstantLR,
    CosineAnnealingLR,
    CosineAnnealingWarmRestarts,
    ExponentialLR,
    LambdaLR,
    LRScheduler,
    MultiStepLR,
    OneCycleLR,
    PolynomialLR,
    ReduceLROnPlateau,
    StepLR,
)

from ignite_tips import PlateauStepper, SchedulerStepper, warmup_stable_decay, with_warmup
from ignite_tips.core.events import OptimizerEvents, attach_optimizer_events
from tests.support import needs_max_iters


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
    ids=["the default", "epoch", "iteration, filtered", "update", "update, filtered", "update or epoch"],
)
def test_steps_on_any_event(event: Any, expected: int) -> None:
    """Two epochs of four batches with an update every other batch: one step whenever the event fires."""
    optimizer = _optimizer()
    scheduler = StepLR(optimizer, 100)
    trainer = _trainer(optimizer, accumulation=2)
    SchedulerStepper(scheduler).attach(trainer, *([] if event is None else [event]))
    trainer.run(range(4), max_epochs=2)
    assert _steps(scheduler) == expected


def test_attaching_again_replaces_and_detaching_ends() -> None:
    """Attached twice it steps once; detached it does not step."""
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
        (StepLR, "scheduler must be a torch learning-rate scheduler, got the class StepLR"),
        (ReduceLROnPlateau(_optimizer()), "got ReduceLROnPlateau; use PlateauStepper"),
    ],
)
def test_wrong_scheduler(scheduler: Any, message: str) -> None:
    """Anything but a scheduler, and the scheduler that needs a metric, are refused."""
    with pytest.raises(TypeError, match=message):
        SchedulerStepper(scheduler)


def test_state_is_plain_and_exact(tmp_path: Any) -> None:
    """The state passes through ``weights_only`` and restores the learning rates of a scheduler built later."""
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


def _within(state: dict[str, Any], scheduler_state: Any) -> dict[str, Any]:
    return state | {"scheduler": scheduler_state}


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (lambda state: None, TypeError, "SchedulerStepper state must be a mapping, got None"),
        (
            lambda state: state["scheduler"],
            ValueError,
            "SchedulerStepper state must have the keys iteration, scheduler",
        ),
        (lambda state: state | {"iteration": -1}, ValueError, "iteration must be >= 0, got -1"),
        (lambda state: _within(state, None), TypeError, "the scheduler's state must be a mapping, got None"),
        (lambda state: _within(state, {}), ValueError, "must have the keys schedule, scheduler, options, got none"),
        (
            lambda state: _within(state, state["scheduler"] | {"schedule": "StepLR"}),
            ValueError,
            "must be of ExponentialLR, got StepLR",
        ),
        (
            lambda state: _within(state, state["scheduler"] | {"options": []}),
            ValueError,
            "must be for 1 param groups, got 0; build the optimizer",
        ),
    ],
)
def test_wrong_state(change: Any, error: type[Exception], message: str) -> None:
    """A wrong state is refused and changes nothing."""
    stepper = SchedulerStepper(ExponentialLR(_optimizer(), 0.9))
    before = stepper.state_dict()
    with pytest.raises(error, match=message):
        stepper.load_state_dict(change(before))
    assert stepper.state_dict() == before


def _run(scheduler: LRScheduler, event: Any, *, length: int, epochs: int, accumulation: int = 1) -> list[str]:
    """Train with the scheduler attached and return the warnings."""
    trainer = _trainer(scheduler.optimizer, accumulation)
    SchedulerStepper(scheduler).attach(trainer, event)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        trainer.run(range(length), max_epochs=epochs)
    return [str(warning.message) for warning in caught]


PER_EPOCH, PER_BATCH, PER_UPDATE = Events.EPOCH_COMPLETED, Events.ITERATION_COMPLETED, OptimizerEvents.STEP_COMPLETED
EPOCHS_REMEDY = r"; if it counts epochs, attach\(trainer\) steps it after each"
UPDATES_REMEDY = r"; if it counts updates, attach\(trainer, OptimizerEvents.STEP_COMPLETED\) steps it after each"


def _cosine(t_max: int) -> LRScheduler:
    return CosineAnnealingLR(_optimizer(), t_max)


@pytest.mark.parametrize(
    ("scheduler", "event", "message"),
    [
        (
            _cosine(5),
            PER_UPDATE,
            "CosineAnnealingLR has T_max 5, but the run steps it about 20 times, going by its first epoch"
            + EPOCHS_REMEDY,
        ),
        (_cosine(5), PER_BATCH, "CosineAnnealingLR has T_max 5, but the run steps it 20 times" + EPOCHS_REMEDY),
        (_cosine(20), PER_EPOCH, "CosineAnnealingLR has T_max 20, but the run steps it 5 times" + UPDATES_REMEDY),
        (_cosine(3), PER_EPOCH, "CosineAnnealingLR has T_max 3, but the run steps it 5 times$"),
        (
            OneCycleLR(_optimizer(), 1.0, total_steps=20),
            PER_EPOCH,
            "OneCycleLR has total_steps 20, but the run steps it 5 times" + UPDATES_REMEDY,
        ),
        (
            PolynomialLR(_optimizer(), 5),
            PER_UPDATE,
            "PolynomialLR has total_iters 5, but the run steps it about 20 times",
        ),
        (MultiStepLR(_optimizer(), [3, 12]), PER_EPOCH, "MultiStepLR has a milestone at 12, but the run steps it 5"),
        (with_warmup(_cosine(16), 4), PER_EPOCH, "CosineAnnealingLR has T_max 16, but the run steps it 1 times"),
        (with_warmup(_cosine(2), 3), PER_UPDATE, "CosineAnnealingLR has T_max 2, but the run steps it about 17 times"),
        (with_warmup(_cosine(2), 10), PER_EPOCH, "SequentialLR has a milestone at 10, but the run steps it 5 times"),
        (
            ChainedScheduler([_cosine(5)]),
            PER_UPDATE,
            "CosineAnnealingLR has T_max 5, but the run steps it about 20 times",
        ),
    ],
)
def test_a_schedule_of_another_length_warns_once(scheduler: LRScheduler, event: Any, message: str) -> None:
    """Five epochs of four batches: a schedule that does not fit gives one warning, with both numbers."""
    (warning,) = _run(scheduler, event, length=4, epochs=5)
    assert re.match(message, warning)


@pytest.mark.parametrize(
    ("scheduler", "event", "accumulation"),
    [
        (_cosine(5), PER_EPOCH, 1),
        (_cosine(4), PER_EPOCH, 1),  # the lowest learning rate in the last epoch
        (_cosine(8), PER_EPOCH, 1),  # a run cut short
        (_cosine(20), PER_UPDATE, 1),
        (_cosine(10), PER_UPDATE, 2),
        (OneCycleLR(_optimizer(), 1.0, total_steps=20), PER_UPDATE, 1),
        (OneCycleLR(_optimizer(), 1.0, total_steps=5), PER_EPOCH, 1),
        (with_warmup(_cosine(15), 5), PER_UPDATE, 1),
        (StepLR(_optimizer(), 30), PER_UPDATE, 1),
        (CosineAnnealingWarmRestarts(_optimizer(), 3), PER_UPDATE, 1),
        (ConstantLR(_optimizer(), 0.5, 100), PER_EPOCH, 1),
        (_cosine(3), PER_EPOCH(every=2), 1),
        (_cosine(10), PER_BATCH(every=2), 1),
    ],
)
def test_a_schedule_that_fits_is_silent(scheduler: LRScheduler, event: Any, accumulation: int) -> None:
    """A schedule that fits, counted in epochs, batches or updates, gives no warning."""
    assert _run(scheduler, event, length=4, epochs=5, accumulation=accumulation) == []


@pytest.mark.parametrize("event", [PER_EPOCH, PER_UPDATE])
def test_a_scheduler_of_an_earlier_run_says_so(event: Any) -> None:
    """A second run that goes past its end is told how many of the steps were made before, and what to do."""
    length = {PER_EPOCH: 5, PER_UPDATE: 20}[event]
    scheduler = _cosine(length)
    assert _run(scheduler, event, length=4, epochs=5) == []
    (warning,) = _run(scheduler, event, length=4, epochs=5)
    remedy = "before this run; build the scheduler and its optimizer anew"
    assert re.search(f"steps it (about )?{2 * length} times.*, {length} of them {remedy}", warning)


@pytest.mark.parametrize(("event", "steps"), [(PER_EPOCH, 5), (PER_BATCH, 20)])
def test_one_cycle_too_short_is_an_error_at_the_start(event: Any, steps: int) -> None:
    """If the run's length is known at its start, a OneCycleLR that would raise later stops the run there."""
    scheduler = OneCycleLR(_optimizer(), 1.0, total_steps=4)
    message = f"OneCycleLR has total_steps 4, but the run steps it {steps} times; build the scheduler for the run's"
    with pytest.raises(ValueError, match=message):
        _run(scheduler, event, length=4, epochs=5)
    assert _steps(scheduler) == 0


@needs_max_iters
@pytest.mark.parametrize(
    ("scheduler", "event", "expected"),
    [
        (_cosine(5), PER_UPDATE, ["CosineAnnealingLR has T_max 5, but the run steps it about 20 times"]),
        (_cosine(5), PER_BATCH, ["CosineAnnealingLR has T_max 5, but the run steps it 20 times"]),
        (_cosine(20), PER_EPOCH, ["CosineAnnealingLR has T_max 20, but the run steps it 5 times"]),
        (_cosine(5), PER_EPOCH, []),
        (_cosine(20), PER_UPDATE, []),
        (_cosine(20), PER_BATCH, []),
    ],
)
def test_a_run_with_max_iters_is_checked_like_one_with_max_epochs(
    scheduler: LRScheduler, event: Any, expected: list[str]
) -> None:
    """20 iterations in epochs of four."""
    trainer = _trainer(scheduler.optimizer)
    SchedulerStepper(scheduler).attach(trainer, event)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        trainer.run(range(4), max_iters=20)
    told = [str(warning.message) for warning in caught]
    assert len(told) == len(expected)
    assert all(text.startswith(start) for text, start in zip(told, expected, strict=True))


@needs_max_iters
@pytest.mark.filterwarnings("ignore:OneCycleLR has total_steps 15")
def test_one_cycle_too_short_for_max_iters() -> None:
    """At the start if the number of steps is known then; otherwise the error says at which iteration."""
    for event, iteration, message in (
        (PER_BATCH, 0, "has total_steps 15, but the run steps it 20 times; build"),
        (PER_UPDATE, 16, "has total_steps 15, but the run steps it 16 times by iteration 16 of 20; build"),
    ):
        trainer = _trainer((scheduler := OneCycleLR(_optimizer(), 1.0, total_steps=15)).optimizer)
        trainer.logger.disabled = True
        SchedulerStepper(scheduler).attach(trainer, event)
        with pytest.raises(ValueError, match=message):
            trainer.run(range(4), max_iters=20)
        assert trainer.state.iteration == iteration


@pytest.mark.parametrize(
    ("t_max", "event"),
    [
        (25, PER_BATCH | PER_EPOCH),
        (5, PER_EPOCH | PER_BATCH(once=30)),
        (2, PER_EPOCH(once=1) | PER_EPOCH(once=4)),
    ],
)
def test_a_list_of_events_is_checked_by_its_members(t_max: int, event: Any) -> None:
    """Those without a filter count together."""
    assert _run(_cosine(t_max), event, length=4, epochs=5) == []


def test_a_list_of_events_too_many_for_one_cycle_is_an_error_at_the_start() -> None:
    """As with one event."""
    scheduler = OneCycleLR(_optimizer(), 1.0, total_steps=20)
    with pytest.raises(ValueError, match="has total_steps 20, but the run steps it 25 times; build the scheduler"):
        _run(scheduler, PER_BATCH | PER_EPOCH, length=4, epochs=5)


def test_one_cycle_too_short_per_update() -> None:
    """If updates must be counted first, the warning comes after an epoch, and the error names both lengths."""
    scheduler = OneCycleLR(_optimizer(), 1.0, total_steps=15)
    warning = pytest.warns(UserWarning, match="OneCycleLR has total_steps 15, but the run steps it about 20 times")
    error = pytest.raises(ValueError, match="has total_steps 15, but the run steps it 16 times by epoch 4 of 5; build")
    trainer = _trainer(scheduler.optimizer)
    SchedulerStepper(scheduler).attach(trainer, PER_UPDATE)
    with warning, error:
        trainer.run(range(4), max_epochs=5)


class _Failing(LRScheduler):
    def get_lr(self) -> list[float | torch.Tensor]:
        if self.last_epoch == 2:
            raise ValueError("my own reason")
        return [group["lr"] for group in self.optimizer.param_groups]


def test_a_schedulers_own_error_is_unchanged() -> None:
    """An error that a scheduler raises for its own reason is passed on unchanged."""
    with pytest.raises(ValueError, match=r"^my own reason$"):
        _run(_Failing(_optimizer()), PER_EPOCH, length=1, epochs=3)


@pytest.mark.parametrize(
    "event",
    [
        PER_EPOCH,
        PER_BATCH,
        PER_UPDATE,
        PER_UPDATE(every=2) | PER_UPDATE(once=1),
        PER_UPDATE | PER_EPOCH,
        Events.EPOCH_STARTED,
        Events.STARTED,
    ],
)
def test_no_update_in_the_first_epoch_warns(event: Any) -> None:
    """A scheduler of an optimizer that the trainer does not step gives one warning, after the first epoch."""
    trainer = _trainer(_optimizer())
    SchedulerStepper(StepLR(_optimizer(), 3)).attach(trainer, event)
    message = "found no update of its scheduler's SGD in 4 iterations; if the trainer steps another optimizer, schedule"
    with pytest.warns(UserWarning, match=message) as caught:
        trainer.run(range(4), max_epochs=3)
    assert len(caught) == 1


@pytest.mark.parametrize("event", [Events.EPOCH_STARTED, Events.STARTED, PER_BATCH])
def test_a_step_before_the_first_update_warns(event: Any) -> None:
    """As torch does, but once it is known that an update came later, and with what to attach to instead."""
    scheduler = StepLR(_optimizer(), 100)
    trainer = _trainer(scheduler.optimizer, accumulation=2)
    SchedulerStepper(scheduler).attach(trainer, event)
    message = "stepped its StepLR before the first update of its SGD; attach it to OptimizerEvents.STEP_COMPLETED, or"
    with pytest.warns(UserWarning, match=message) as caught:
        trainer.run(range(4), max_epochs=2)
    assert len(caught) == 1


def test_both_remedies_of_an_early_step_are_silent() -> None:
    """A scheduler attached as the warning says steps after each update, or after the handler that makes them."""
    optimizer = _optimizer()
    per_update, per_epoch = ExponentialLR(optimizer, 0.9), StepLR(optimizer, 100)
    trainer = Engine(lambda engine, batch: None)
    trainer.add_event_handler(PER_EPOCH, lambda: optimizer.step())
    SchedulerStepper(per_update).attach(trainer, PER_UPDATE)
    SchedulerStepper(per_epoch).attach(trainer)
    trainer.run(range(4), max_epochs=2)
    assert _steps(per_update) == _steps(per_epoch) == 2


@pytest.mark.parametrize("accumulation", [5, 12])
def test_an_accumulation_that_is_longer_than_an_epoch(accumulation: int) -> None:
    """The run goes on as the hand-written loop does, and the warning holds."""
    optimizer = _optimizer()
    trainer = _trainer(optimizer, accumulation)
    SchedulerStepper(StepLR(optimizer, 2, gamma=0.5)).attach(trainer)
    with pytest.warns(UserWarning, match="found no update of its scheduler's SGD in 4 iterations"):
        trainer.run(range(4), max_epochs=6)
    assert (trainer.state.optimizer_step, optimizer.param_groups[0]["lr"]) == (24 // accumulation, 0.125)


def test_a_first_epoch_that_grad_scaler_skips() -> None:
    """The scale is too large at first: the schedule counts the epoch, and the run goes on."""
    optimizer = _optimizer()
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0, backoff_factor=0.5)

    def update(engine: Engine, batch: Any) -> None:
        parameter = optimizer.param_groups[0]["params"][0]
        scaler.scale((parameter * (torch.inf if engine.state.epoch == 1 else 1.0)).sum()).backward()
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad()

    trainer = Engine(update)
    SchedulerStepper(StepLR(optimizer, 1, gamma=0.5)).attach(trainer)
    with pytest.warns(UserWarning, match="found no update of its scheduler's SGD in 2 iterations"):
        trainer.run(range(2), max_epochs=3)
    assert (trainer.state.optimizer_step, optimizer.param_groups[0]["lr"]) == (4, 0.125)


@pytest.mark.parametrize("event", ["epoch_done", None, 3, torch.optim.SGD])
def test_unknown_event(event: Any) -> None:
    """An event that the trainer does not know is refused, and the trainer does not change."""
    optimizer = _optimizer()
    trainer = _trainer(optimizer)
    scheduler = StepLR(optimizer, 3)
    stepper = SchedulerStepper(scheduler)
    with pytest.raises(TypeError, match=r"event must be an Ignite event such as Events.EPOCH_COMPLETED, got "):
        stepper.attach(trainer, event)
    trainer.run(range(2))
    assert _steps(scheduler) == 0
    assert not hasattr(trainer.state, "optimizer_steps")


def test_no_engine() -> None:
    """Anything but an engine is refused."""
    with pytest.raises(TypeError, match="trainer must be an ignite Engine, got None"):
        SchedulerStepper(StepLR(_optimizer(), 3)).attach(None)  # type: ignore[arg-type]


def test_lbfgs_per_epoch() -> None:
    """LBFGS, which has no OptimizerEvents, is scheduled on Ignite's own events."""
    parameter = torch.nn.Parameter(torch.ones(2))
    optimizer = LBFGS([parameter], lr=1.0, max_iter=2)

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = (parameter**2).sum()
        loss.backward()
        return loss

    scheduler = StepLR(optimizer, 1)
    trainer = Engine(lambda engine, batch: optimizer.step(closure).detach())
    stepper = SchedulerStepper(scheduler).attach(trainer)
    trainer.run(range(2), max_epochs=3)
    assert _steps(scheduler) == 3
    for event in (PER_UPDATE, PER_UPDATE | PER_EPOCH):
        with pytest.raises(TypeError, match="got LBFGS"):
            stepper.attach(trainer, event)
    too_short = OneCycleLR(optimizer, 1.0, total_steps=2, cycle_momentum=False)
    stepper.detach()
    SchedulerStepper(too_short).attach(trainer)
    trainer.logger.disabled = True
    with pytest.raises(ValueError, match="has total_steps 2, but the run steps it 3 times; build"):
        trainer.run(range(2), max_epochs=3)


@pytest.mark.parametrize(
    ("build", "change"),
    [
        (lambda length: CosineAnnealingLR(_optimizer(), length), "CosineAnnealingLR's T_max to 3 from 6:"),
        (
            lambda length: LambdaLR(_optimizer(), warmup_stable_decay(0, length, 1)),
            r"LambdaLR's lr_lambda 0 to \S+\(warmup=0, stable=3, .* from \S+\(warmup=0, stable=6, ",
        ),
        (
            lambda length: with_warmup(CosineAnnealingLR(_optimizer(), 3), length),
            r"SequentialLR's milestones to \[3\] from \[6\], LinearLR's total_iters to 3 from 6:",
        ),
    ],
)
def test_settings_that_a_state_changes_are_warned_about(build: Any, change: str) -> None:
    """A checkpoint's settings win, as in torch; if that changes the scheduler, a warning gives the numbers."""
    stepper = SchedulerStepper(build(6))
    with pytest.warns(UserWarning, match="the scheduler's state sets " + change):
        stepper.load_state_dict(SchedulerStepper(build(3)).state_dict())
    stepper.load_state_dict(SchedulerStepper(build(3)).state_dict())  # nothing changes now: no warning


def test_a_new_length_after_loading_holds() -> None:
    """To train for more epochs than planned, set the length after loading, as the warning says."""
    optimizer = _optimizer()
    first = SchedulerStepper(PolynomialLR(optimizer, 3))
    stepper = SchedulerStepper(PolynomialLR(_optimizer(), 6))
    with pytest.warns(UserWarning, match="PolynomialLR's total_iters to 3 from 6"):
        stepper.load_state_dict(first.state_dict())
    stepper.scheduler.total_iters = 6  # type: ignore[attr-defined]
    assert _run(stepper.scheduler, PER_EPOCH, length=1, epochs=6) == []


def _checkpointed(event: Any, *, saved_first: bool, epochs: int, state: dict[str, Any] | None = None) -> Any:
    """Train, with a checkpoint before or after the step at each event; return the states and the learning rates."""
    optimizer, lrs, states = _optimizer(), [], []
    trainer = Engine(lambda engine, batch: (lrs.append(optimizer.param_groups[0]["lr"]), optimizer.step()))
    attach_optimizer_events(trainer, optimizer)
    stepper = SchedulerStepper(ExponentialLR(optimizer, 0.9))
    parts = {"trainer": trainer, "optimizer": optimizer, "stepper": stepper}

    def save() -> None:
        states.append(copy.deepcopy({name: part.state_dict() for name, part in parts.items()}))

    if saved_first:
        trainer.add_event_handler(event, save)
    stepper.attach(trainer, event)
    if not saved_first:
        trainer.add_event_handler(event, save)
    for name, loaded in (state or {}).items():
        parts[name].load_state_dict(loaded)
    trainer.run(range(4), max_epochs=epochs)
    return states, lrs


@pytest.mark.parametrize(
    "event",
    [
        *(PER_EPOCH, PER_EPOCH(every=2), PER_BATCH, PER_BATCH(every=3), PER_BATCH(every=4)),
        *(PER_UPDATE, PER_UPDATE(every=2), PER_UPDATE(every=3)),
        PER_EPOCH(once=1) | PER_EPOCH(once=3),
        PER_EPOCH | Events.COMPLETED,
        PER_BATCH(every=3) | PER_UPDATE(once=5),
    ],
)
@pytest.mark.parametrize("saved_first", [True, False], ids=["saved, then stepped", "stepped, then saved"])
def test_a_checkpoint_may_be_written_before_or_after_the_step(event: Any, saved_first: bool) -> None:
    """Resumed from any checkpoint, the run continues like the one that wrote it, in either order of attachment."""
    states, lrs = _checkpointed(event, saved_first=saved_first, epochs=4)
    for state in (state for state in states if state["trainer"]["iteration"] < 16):
        _, resumed = _checkpointed(event, saved_first=saved_first, epochs=4, state=state)
        assert resumed == lrs[len(lrs) - len(resumed) :]
        assert resumed


def test_the_number_of_epochs_may_change_on_resume() -> None:
    """A run resumed for more epochs has the learning rates of the longer run."""
    states, begun = _checkpointed(PER_EPOCH, saved_first=False, epochs=2)
    _, whole = _checkpointed(PER_EPOCH, saved_first=False, epochs=5)
    _, resumed = _checkpointed(PER_EPOCH, saved_first=False, epochs=5, state=states[-1])
    assert begun + resumed == whole


def test_groups_added_later_are_explained() -> None:
    """A group added after the scheduler was built ends the run with an explanation."""
    optimizer = _optimizer()
    scheduler = LambdaLR(optimizer, lambda step: 1.0)
    optimizer.add_param_group({"params": [torch.nn.Parameter(torch.ones(1))]})
    with pytest.raises(ValueError, match="LambdaLR was built for 1 param groups, but its optimizer has 2; make all"):
        _run(scheduler, PER_EPOCH, length=2, epochs=2)


def _attach_both(scheduler: LRScheduler, plateau: ReduceLROnPlateau, event: Any, plateau_first: bool) -> None:
    trainer, evaluator = _trainer(scheduler.optimizer), Engine(lambda engine, batch: None)
    stepper, plateau_stepper = SchedulerStepper(scheduler), PlateauStepper(plateau)
    if plateau_first:
        plateau_stepper.attach(trainer, evaluator)
    stepper.attach(trainer, event)
    stepper.attach(trainer, event)
    if not plateau_first:
        plateau_stepper.attach(trainer, evaluator)
    stepper.detach()
    plateau_stepper.detach()


@pytest.mark.parametrize("plateau_first", [True, False])
@pytest.mark.parametrize(
    ("build", "name"),
    [
        (lambda optimizer: LambdaLR(optimizer, lambda step: 1.0), "LambdaLR"),
        (lambda optimizer: OneCycleLR(optimizer, 1.0, total_steps=9), "OneCycleLR"),
        (lambda optimizer: with_warmup(CosineAnnealingWarmRestarts(optimizer, 9), 2), "CosineAnnealingWarmRestarts"),
    ],
)
def test_a_scheduler_that_undoes_a_plateaus_reductions_is_refused(build: Any, name: str, plateau_first: bool) -> None:
    """A closed-form scheduler is refused beside a PlateauStepper, unless a filter ends it."""
    optimizer, other = _optimizer(), _optimizer()
    with pytest.raises(ValueError, match=f"got ReduceLROnPlateau and {name}, which undoes the reductions"):
        _attach_both(build(optimizer), ReduceLROnPlateau(optimizer), PER_UPDATE, plateau_first)
    _attach_both(build(other), ReduceLROnPlateau(other), PER_UPDATE(before=5), plateau_first)


@pytest.mark.parametrize("plateau_first", [True, False])
def test_a_scheduler_that_keeps_a_plateaus_reductions_is_allowed(plateau_first: bool) -> None:
    """So is any scheduler that continues from the current learning rate, or of another optimizer."""
    optimizer = _optimizer()
    plateau = ReduceLROnPlateau(optimizer)
    for scheduler in (StepLR(optimizer, 3), with_warmup(_cosine(9), 2), LambdaLR(_optimizer(), lambda step: 1.0)):
        _attach_both(scheduler, plateau, PER_EPOCH, plateau_first)
    other = SchedulerStepper(LambdaLR(optimizer, lambda step: 1.0))
    trainer = _trainer(optimizer)
    other.attach(trainer)
    other.detach()  # no longer a conflict
    PlateauStepper(plateau).attach(trainer, Engine(lambda engine, batch: None))


def test_keeps_nothing_alive() -> None:
    """An attached stepper, its scheduler, its optimizer and the engine are freed once unused elsewhere."""
    trainer, stepper = _trainer(optimizer := _optimizer()), SchedulerStepper(StepLR(optimizer, 3))
    stepper.attach(trainer)
    references = [weakref.ref(thing) for thing in (trainer, optimizer, stepper.scheduler)]
    del trainer, optimizer
    gc.collect()
    assert references[0]() is None
    del stepper
    gc.collect()
    assert [reference() for reference in references] == [None] * 3


def test_an_incomplete_epoch_says_nothing_about_the_run() -> None:
    """If a run resumes within an epoch, or steps only later, its first epoch's steps are not extrapolated."""
    scheduler = _cosine(20)
    trainer = _trainer(scheduler.optimizer)
    SchedulerStepper(scheduler).attach(trainer, PER_UPDATE)
    scheduler.optimizer.step()
    scheduler.load_state_dict({**scheduler.state_dict(), "last_epoch": 3})
    trainer.load_state_dict({"epoch_length": 4, "max_epochs": 5, "iteration": 3, **_update_counts(3)})
    trainer.run(range(4))
    assert _steps(scheduler) == 20
    begun = _cosine(20)
    begun.optimizer.step()
    begun.step()
    assert _run(begun, PER_UPDATE(after=8), length=4, epochs=4) == []


def _update_counts(updates: int) -> dict[str, Any]:
    return {"optimizer_step": updates, "optimizer_steps": [updates]}


def test_a_run_that_ended_within_an_epoch_misses_no_step() -> None:
    """A trainer terminated within an epoch and run again does not make up for a step."""
    optimizer = _optimizer()
    scheduler = StepLR(optimizer, 100)
    trainer = _trainer(optimizer)
    SchedulerStepper(scheduler).attach(trainer, PER_EPOCH(every=2))
    trainer.add_event_handler(PER_BATCH(once=6), trainer.terminate)
    trainer.run(range(4), max_epochs=4)
    done = _steps(scheduler)
    steps: list[int] = []
    trainer.add_event_handler(Events.ITERATION_STARTED, lambda: steps.append(_steps(scheduler)))
    trainer.run(range(4), max_epochs=4)
    assert steps[0] == done


def test_a_resumed_run_needs_the_schedulers_state() -> None:
    """A scheduler that would start over is refused; one with its state continues, as in a trainer's second run."""

    def resume(scheduler: LRScheduler) -> Engine:
        trainer = _trainer(scheduler.optimizer)
        trainer.logger.disabled = True
        SchedulerStepper(scheduler).attach(trainer)
        trainer.load_state_dict({"epoch_length": 4, "max_epochs": 5, "iteration": 8, **_update_counts(8)})
        trainer.run(range(4))
        return trainer

    with pytest.raises(RuntimeError, match="needs its saved state to resume from iteration 8, or its StepLR starts"):
        resume(StepLR(_optimizer(), 3))
    resumed = StepLR(_optimizer(), 3)
    resumed.load_state_dict({**resumed.state_dict(), "last_epoch": 2})
    trainer = resume(resumed)
    assert _steps(resumed) == 5
    SchedulerStepper(begun_later := ExponentialLR(resumed.optimizer, 0.9)).attach(trainer)
    trainer.run(range(4), max_epochs=7)
    assert _steps(begun_later) == 2


@pytest.mark.parametrize(("event", "accumulation"), [(PER_EPOCH, 1), (PER_UPDATE, 3), (PER_UPDATE | PER_EPOCH, 3)])
def test_a_run_that_resumes_before_the_first_step_needs_no_state(event: Any, accumulation: int) -> None:
    """Nothing is lost then: two batches in, no epoch has ended and no update was made."""
    optimizer = _optimizer()
    trainer = _trainer(optimizer, accumulation)
    SchedulerStepper(scheduler := StepLR(optimizer, 3)).attach(trainer, event)
    trainer.load_state_dict({"epoch_length": 4, "max_epochs": 3, "iteration": 2, **_update_counts(2 // accumulation)})
    trainer.run(range(4))
    assert _steps(scheduler) == {1: 3, 3: 4}[accumulation] + 3 * isinstance(event, EventsList)


def test_a_resumed_runs_counts_are_checked_first() -> None:
    """A state of fewer optimizers than are attached is refused as such."""
    trainer = _trainer(_optimizer())
    trainer.logger.disabled = True
    steppers = [SchedulerStepper(StepLR(_optimizer(), 3)).attach(trainer) for _ in range(2)]
    for stepper in steppers:
        stepper.load_state_dict(stepper.state_dict())
    trainer.load_state_dict({"epoch_length": 4, "max_epochs": 3, "iteration": 4, **_update_counts(4)})
    with pytest.raises(RuntimeError, match="must count the updates of 2 optimizers, got 1"):
        trainer.run(range(4))


def test_a_scheduler_that_other_code_steps_warns_once() -> None:
    """The user's own step besides the handler's gives a warning after the first epoch with such a step."""
    scheduler = StepLR(_optimizer(), 3)
    trainer = _trainer(scheduler.optimizer)
    SchedulerStepper(scheduler).attach(trainer)
    trainer.add_event_handler(PER_EPOCH, lambda: scheduler.step())
    with pytest.warns(UserWarning, match="must be the only one to step its StepLR, but other code also") as caught:
        trainer.run(range(4), max_epochs=4)
    assert len(caught) == 1


def test_ignites_schedulers_are_not_taken_for_torchs() -> None:
    """Ignite's LRScheduler has the name of torch's class: the error says whose it is, and what to pass."""
    theirs = IgniteLRScheduler(StepLR(_optimizer(), 3))
    with pytest.raises(TypeError, match="must be torch's, got Ignite's LRScheduler; pass the torch scheduler itself"):
        SchedulerStepper(theirs)


def _with_finder(build: Any, event: Any, *, restored: bool) -> tuple[Engine, Any]:
    """Find a learning rate on a trainer with handlers, in 6 iterations; return it, ready to train, and its parts."""
    optimizer = _optimizer(0.01)
    trainer = Engine(lambda engine, batch: (optimizer.step(), 1.0)[1])
    stepper = SchedulerStepper(build(optimizer)).attach(trainer, event)
    finder = FastaiLRFinder()
    to_save = {"optimizer": optimizer} | ({"stepper": stepper} if restored else {})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the loss does not diverge, and the run is short
        with finder.attach(trainer, to_save, num_iter=6) as with_finder:
            with_finder.run(range(4))
    return trainer, stepper


AFTER_FINDER = {
    "a length that raises": (lambda optimizer: OneCycleLR(optimizer, 1.0, total_steps=12), PER_UPDATE),
    "per epoch": (lambda optimizer: CosineAnnealingLR(optimizer, 3), PER_EPOCH),
    "the learning rate has not changed": (lambda optimizer: StepLR(optimizer, 100), PER_BATCH),
}


@pytest.mark.filterwarnings("ignore:.*, but the run steps it")
@pytest.mark.parametrize("case", AFTER_FINDER)
def test_after_the_lr_finder(case: str) -> None:
    """Restored with the optimizer, the run is that of a trainer without a finder; otherwise it is refused."""
    build, event = AFTER_FINDER[case]
    trainer, stepper = _with_finder(build, event, restored=True)
    fresh = SchedulerStepper(build(_optimizer(0.01)))
    assert stepper.state_dict()["scheduler"] == fresh.state_dict()["scheduler"]
    trainer.run(range(4), max_epochs=3)
    assert _steps(stepper.scheduler) == (3 if event is PER_EPOCH else 12)

    trainer, stepper = _with_finder(build, event, restored=False)
    with pytest.raises(
        RuntimeError, match=r"loaded back to iteration 0, .* until iteration \d; restore both, with the Sch"
    ):
        trainer.run(range(4), max_epochs=3)


@pytest.mark.parametrize("loaded", ["trainer", "trainer stepper", "stepper trainer"])
def test_a_trainer_rolled_back_without_its_scheduler_is_refused(loaded: str) -> None:
    """In the middle of a run too; with the scheduler's state, loaded before or after, it continues."""
    optimizer = _optimizer()
    trainer = _trainer(optimizer)
    parts = {"trainer": trainer, "stepper": SchedulerStepper(StepLR(optimizer, 100)).attach(trainer)}
    trainer.run(range(4), max_epochs=1)
    saved = copy.deepcopy({name: part.state_dict() for name, part in parts.items()})
    trainer.state.max_epochs = None
    trainer.run(range(4), max_epochs=3)
    saved["trainer"]["max_epochs"] = 3
    for name in loaded.split():
        parts[name].load_state_dict(saved[name])
    if loaded == "trainer":
        with pytest.raises(
            RuntimeError, match="back to iteration 4, and its StepLR was stepped until iteration 12; rest"
        ):
            trainer.run(range(4))
    else:
        trainer.run(range(4))
        assert _steps(parts["stepper"].scheduler) == 3


def test_a_second_run_continues_the_schedule() -> None:
    """Nothing was loaded, so a scheduler ahead of a new run is intended."""
    optimizer = _optimizer()
    trainer = _trainer(optimizer)
    stepper = SchedulerStepper(StepLR(optimizer, 100)).attach(trainer)
    for runs in (1, 2):
        trainer.state.max_epochs = None
        trainer.run(range(4), max_epochs=3)
        assert _steps(stepper.scheduler) == 3 * runs
