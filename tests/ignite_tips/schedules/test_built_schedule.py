"""A run that continues with the settings of a new scheduler, compared with a loop that had them from its start."""

import copy
import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from ignite.engine import Engine, Events
from torch.optim import SGD, Optimizer
from torch.optim.lr_scheduler import (
    CosineAnnealingLR,
    CyclicLR,
    LambdaLR,
    LRScheduler,
    OneCycleLR,
    ReduceLROnPlateau,
    StepLR,
)

from ignite_tips import PlateauStepper, SchedulerStepper, with_warmup
from tests.schedulers import ROWS

Build = Callable[[Optimizer, int], LRScheduler]
Make = Callable[[], Optimizer]
STEPPED: dict[str, Build] = {name: build for name, build in ROWS.items() if name != "ReduceLROnPlateau"}
pytestmark = pytest.mark.filterwarnings("ignore:.*, but the run steps it")  # runs are cut and continued on purpose


def _sgd(lr: Any = 0.1) -> Optimizer:
    groups = [{"params": [torch.nn.Parameter(torch.ones(2))], "lr": value} for value in (lr, lr * 0.5)]
    return SGD(groups, momentum=0.9)


def _options(optimizer: Optimizer) -> list[tuple[float, float]]:
    return [(float(group["lr"]), group["momentum"]) for group in optimizer.param_groups]


def _native(build: Build, length: int, epochs: range, make: Make = _sgd) -> list[Any]:
    """Return the options in use in each of the epochs of a hand-written loop."""
    optimizer = make()
    scheduler, used = build(optimizer, length), []
    for epoch in range(epochs.stop):
        used.append(_options(optimizer))
        optimizer.step()
        if epoch < epochs.stop - 1:
            scheduler.step()
    return used[epochs.start :]


class _Run:
    """A trainer with one update per epoch, its optimizer and its stepper."""

    def __init__(self, build: Build, length: int, optimizer: Optimizer) -> None:
        self.used: list[Any] = []
        self.stepper = SchedulerStepper(build(optimizer, length))

        def update(engine: Engine, batch: Any) -> None:
            self.used.append(_options(optimizer))
            optimizer.step()

        self.trainer = Engine(update)
        self.stepper.attach(self.trainer)
        self.parts = {"trainer": self.trainer, "optimizer": optimizer, "stepper": self.stepper}

    def state(self) -> dict[str, Any]:
        return copy.deepcopy({name: part.state_dict() for name, part in self.parts.items()})


def _interrupted(build: Build, length: int, epochs: int, make: Make = _sgd) -> dict[str, Any]:
    """Return what a run of ``length`` epochs saves after ``epochs``."""
    run = _Run(build, length, make())
    run.trainer.add_event_handler(Events.EPOCH_COMPLETED(once=epochs), run.trainer.terminate)
    run.trainer.run([0], max_epochs=length)
    return run.state()


def _optimizer_first(run: _Run, state: dict[str, Any]) -> None:
    run.parts["optimizer"].load_state_dict(state["optimizer"])
    run.stepper.load_state_dict(state["stepper"], keep_settings=True)


def _stepper_first(run: _Run, state: dict[str, Any]) -> None:
    run.stepper.load_state_dict(state["stepper"], keep_settings=True)
    run.parts["optimizer"].load_state_dict(state["optimizer"])


@pytest.mark.filterwarnings("ignore:the scheduler's state sets")
def _as_the_warning_says(run: _Run, state: dict[str, Any]) -> None:
    run.parts["optimizer"].load_state_dict(state["optimizer"])
    run.stepper.load_state_dict(state["stepper"])
    run.stepper.load_state_dict(state["stepper"], keep_settings=True)


LOADS = (_optimizer_first, _stepper_first, _as_the_warning_says)
# The schedule of the first run, its epochs, the schedule that counts from then on.
LENGTHS = {"longer": (6, 6, 12), "longer, from the middle": (9, 6, 12), "cut": (12, 2, 4)}


@pytest.mark.filterwarnings("ignore:the scheduler's state sets")
@pytest.mark.parametrize("load", LOADS, ids=lambda load: load.__name__)
@pytest.mark.parametrize("lengths", LENGTHS)
@pytest.mark.parametrize("row", STEPPED)
def test_the_new_schedule_counts(row: str, lengths: str, load: Callable[..., None]) -> None:
    """Every scheduler has the learning rates and momenta of a loop with the new schedule, bit for bit."""
    build, (planned, done, length) = STEPPED[row], LENGTHS[lengths]
    state = _interrupted(build, planned, done)
    run = _Run(build, length, _sgd())
    run.trainer.load_state_dict(state["trainer"])
    load(run, state)
    run.trainer.run([0], max_epochs=length)
    assert run.used == _native(build, length, range(done, length))


@pytest.mark.parametrize("row", STEPPED)
def test_a_new_scheduler_on_the_optimizer_in_use(row: str) -> None:
    """In the same process, a second scheduler of the same optimizer starts from the initial learning rates too."""
    build, optimizer = STEPPED[row], _sgd()
    first = _Run(build, 6, optimizer)
    first.trainer.run([0], max_epochs=6)
    second = _Run(build, 12, optimizer)
    second.trainer.load_state_dict(first.state()["trainer"])
    second.stepper.load_state_dict(first.stepper.state_dict(), keep_settings=True)
    second.trainer.run([0], max_epochs=12)
    assert second.used == _native(build, 12, range(6, 12))


def _continued(old: Build, new: Build, make: Make = _sgd, make_new: Make | None = None) -> _Run:
    """Six epochs of one schedule, then six more of another."""
    state = _interrupted(old, 6, 6, make)
    run = _Run(new, 12, (make_new or make)())
    run.trainer.load_state_dict(state["trainer"])
    _optimizer_first(run, state)
    run.trainer.run([0], max_epochs=12)
    return run


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (StepLR, lambda optimizer, length: with_warmup(CosineAnnealingLR(optimizer, length - 2), 2)),
        (lambda optimizer, length: OneCycleLR(optimizer, 1.0, length), CosineAnnealingLR),
        (
            lambda optimizer, length: OneCycleLR(optimizer, 1.0, length),
            lambda optimizer, length: OneCycleLR(optimizer, 0.5, length, max_momentum=0.8, div_factor=10),
        ),
        (lambda optimizer, _: CyclicLR(optimizer, 0.1, 1.0, 2), lambda optimizer, _: CyclicLR(optimizer, 0.2, 2.0, 4)),
        (lambda optimizer, _: LambdaLR(optimizer, lambda step: 0.5**step), lambda o, _: LambdaLR(o, lambda step: 0.9)),
    ],
    ids=["another class", "from a cycled momentum", "OneCycleLR's peaks", "CyclicLR's sizes", "a function"],
)
def test_any_setting_may_change(old: Build, new: Build) -> None:
    """Also those that a scheduler keeps in the param groups, where the optimizer's saved state overwrites them."""
    assert _continued(old, new).used == _native(new, 12, range(6, 12))


def test_another_initial_learning_rate_counts() -> None:
    """The learning rate that the new optimizer was built with counts, not the saved one."""
    run = _continued(CosineAnnealingLR, CosineAnnealingLR, make_new=lambda: _sgd(0.4))
    assert run.used == _native(CosineAnnealingLR, 12, range(6, 12), lambda: _sgd(0.4))


def test_a_tensor_lr_is_filled() -> None:
    """A learning rate that a captured graph may use stays the same tensor."""
    stepper = SchedulerStepper(StepLR(_sgd(torch.tensor(0.5)), 2))
    lr = stepper.scheduler.optimizer.param_groups[0]["lr"]
    stepper.load_state_dict(_interrupted(StepLR, 6, 3)["stepper"], keep_settings=True)
    assert stepper.scheduler.optimizer.param_groups[0]["lr"] is lr
    assert lr == torch.tensor(0.05)


def test_a_schedule_that_ends_before_the_saved_step_is_refused() -> None:
    """The scheduler does not change, and can then be built for the run's length, as the message says."""

    def one_cycle(optimizer: Optimizer, length: int) -> LRScheduler:
        return OneCycleLR(optimizer, 1.0, total_steps=length)

    state = _interrupted(one_cycle, 6, 6)
    run = _Run(one_cycle, 4, _sgd())
    before = run.state()
    message = (
        "OneCycleLR has total_steps 4, but the saved run stepped it 6 times; build the scheduler for the run's length"
    )
    with pytest.raises(ValueError, match=message):
        run.stepper.load_state_dict(state["stepper"], keep_settings=True)
    assert run.state() == before
    assert _continued(one_cycle, one_cycle).used == _native(one_cycle, 12, range(6, 12))


def test_a_scheduler_in_use_is_refused() -> None:
    """Its settings may have been changed, and steps were made with them; a scheduler built anew is accepted."""
    run = _Run(StepLR, 2, _sgd())
    run.trainer.run([0], max_epochs=3)
    state = run.stepper.state_dict()
    with pytest.raises(ValueError, match="must be new to keep its settings, got StepLR after 3 steps; build it anew"):
        run.stepper.load_state_dict(state, keep_settings=True)
    SchedulerStepper(StepLR(_sgd(), 2)).load_state_dict(state, keep_settings=True)


class _Failing(StepLR):
    def step(self, epoch: int | None = None) -> None:
        if self.last_epoch == 2 and self.step_size == 1:
            raise RuntimeError("not this one")
        super().step(epoch)


def test_a_step_that_fails_changes_nothing() -> None:
    """If the scheduler's own ``step`` raises on the way, it stands where it stood."""
    run = _Run(_Failing, 1, _sgd())
    before = run.state()
    with pytest.raises(RuntimeError, match="not this one"):
        run.stepper.load_state_dict(_interrupted(_Failing, 6, 4)["stepper"], keep_settings=True)
    assert run.state() == before


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"last_epoch": None}, "the number of steps in the scheduler's state_dict must be an integer, got None"),
        ({"last_epoch": -1}, "the number of steps in the scheduler's state_dict must be >= 0, got -1"),
    ],
)
def test_a_state_without_its_steps_is_refused(change: dict[str, Any], message: str) -> None:
    """The number of steps is all that is taken from the state, and is checked."""
    state = SchedulerStepper(StepLR(_sgd(), 2)).state_dict()
    state["scheduler"]["scheduler"] |= change
    with pytest.raises((TypeError, ValueError), match=re.escape(message)):
        SchedulerStepper(StepLR(_sgd(), 2)).load_state_dict(state, keep_settings=True)


@pytest.mark.filterwarnings("ignore:the scheduler's state sets")
@pytest.mark.parametrize("build", [CosineAnnealingLR, lambda optimizer, length: OneCycleLR(optimizer, 1.0, length)])
def test_a_run_that_resumes_with_the_old_length_names_the_remedy(build: Build) -> None:
    """A schedule that is too short for a resumed run leads to the keyword, and the keyword to the longer schedule."""
    state = _interrupted(build, 6, 6)
    run = _Run(build, 12, _sgd())
    run.trainer.load_state_dict(state["trainer"])
    run.stepper.load_state_dict(state["stepper"])
    remedy = (
        r"steps it 12 times; build the scheduler for .*, and load its state with load_state_dict\(state, keep_settings"
    )
    with pytest.raises(ValueError, match=remedy) if build is not CosineAnnealingLR else pytest.warns(match=remedy):
        run.trainer.run([0], max_epochs=12)


@pytest.mark.parametrize(
    ("build", "change"),
    [
        (lambda optimizer, size: CyclicLR(optimizer, 0.1, 1.0, size), "CyclicLR's total_size to 6.0 from 12.0:"),
        (lambda optimizer, size: CyclicLR(optimizer, 0.1, [size, 1.0], 3), r"max_lr to \[3, 1.0\] from \[6, 1.0\]:"),
        (lambda optimizer, size: ReduceLROnPlateau(optimizer, min_lr=size), r"min_lr to \[3, 3\] from \[6, 6\]:"),
        (lambda optimizer, size: LambdaLR(optimizer, _Factor(size)), "lr_lambda 0 to _Factor of {'size': 3} from _Fac"),
    ],
    ids=["a cycle's length", "a list of peaks", "a limit", "an object as function"],
)
def test_settings_that_torch_keeps_under_another_name_are_compared(build: Build, change: str) -> None:
    """A warning names the setting that the saved state replaced, and the remedy."""
    saved, built = build(_sgd(), 3), build(_sgd(), 6)
    stepper = PlateauStepper if isinstance(built, ReduceLROnPlateau) else SchedulerStepper
    state = stepper(saved).state_dict()  # type: ignore[arg-type]
    with pytest.warns(UserWarning, match=change + r".* use load_state_dict\(state, keep_settings=True\)"):
        stepper(built).load_state_dict(state)  # type: ignore[arg-type]
    stepper(build(_sgd(), 6)).load_state_dict(state, keep_settings=True)  # type: ignore[arg-type]  # no warning


class _Factor:
    def __init__(self, size: int) -> None:
        self.size = size

    def __call__(self, step: int) -> float:
        return 1.0 / self.size


@pytest.mark.filterwarnings("ignore:the scheduler's state sets")
@pytest.mark.parametrize("loaded_before", [False, True])
def test_a_plateau_keeps_its_new_settings(loaded_before: bool) -> None:
    """Learning rates, the best metric and the bad epochs are the saved ones; the patience is the new one."""
    saved = PlateauStepper(ReduceLROnPlateau(_sgd(), factor=0.5, patience=1))
    for metric in (3.0, 2.0, 2.5, 2.5, 2.5):
        saved.scheduler.step(metric)
    built = PlateauStepper(ReduceLROnPlateau(_sgd(), factor=0.1, patience=2))
    if loaded_before:
        built.load_state_dict(saved.state_dict())
    built.load_state_dict(saved.state_dict(), keep_settings=True)
    lrs = []
    for metric in (2.5, 2.5):
        lrs.append(built.scheduler.optimizer.param_groups[0]["lr"])
        built.scheduler.step(metric)
    lrs.append(built.scheduler.optimizer.param_groups[0]["lr"])
    assert lrs == [0.05, 0.05, 0.05 * 0.1]


def test_a_plateau_of_another_mode_is_refused() -> None:
    """A best metric of the other direction means nothing."""
    state = PlateauStepper(ReduceLROnPlateau(_sgd(), mode="max")).state_dict()
    built = PlateauStepper(ReduceLROnPlateau(_sgd()))
    with pytest.raises(ValueError, match="must be of a ReduceLROnPlateau of mode 'min', got 'max'"):
        built.load_state_dict(state, keep_settings=True)
