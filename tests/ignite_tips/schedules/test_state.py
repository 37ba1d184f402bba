"""A scheduler's state for checkpoints: plain, complete, never half loaded, before or after the optimizer's."""

import copy
import io
from typing import Any

import pytest
import torch
from torch.optim import SGD, AdamW, Optimizer
from torch.optim.lr_scheduler import (
    ChainedScheduler,
    CyclicLR,
    ExponentialLR,
    LambdaLR,
    LRScheduler,
    MultiStepLR,
    OneCycleLR,
    ReduceLROnPlateau,
    SequentialLR,
    StepLR,
)

from ignite_tips.schedules.state import load_scheduler, save_scheduler


def _optimizer(kind: type[Optimizer] = SGD, **options: Any) -> Optimizer:
    return kind([torch.nn.Parameter(torch.ones(2))], **{"lr": 0.1, **options})  # type: ignore[call-arg]


def _sequence(optimizer: Optimizer, gamma: float = 0.5) -> LRScheduler:
    parts = [StepLR(optimizer, 1), ExponentialLR(optimizer, gamma)]
    return SequentialLR(optimizer, parts, [2])


def _step(scheduler: LRScheduler, steps: int) -> None:
    for _ in range(steps):
        scheduler.optimizer.step()
        scheduler.step()


BUILDERS = {
    "SGD, OneCycleLR": lambda: OneCycleLR(_optimizer(momentum=0.9), 1.0, total_steps=9),
    "AdamW, OneCycleLR": lambda: OneCycleLR(_optimizer(AdamW), 1.0, total_steps=9),
    "CyclicLR": lambda: CyclicLR(_optimizer(momentum=0.9), 0.1, 1.0, 3),
    "MultiStepLR": lambda: MultiStepLR(_optimizer(), [1, 3]),
    "SequentialLR": lambda: _sequence(_optimizer()),
    "ChainedScheduler": lambda: ChainedScheduler([_sequence(optimizer := _optimizer()), StepLR(optimizer, 2)]),
}


@pytest.mark.parametrize("name", BUILDERS)
def test_lrs_and_momenta_are_restored_without_the_optimizers_state(name: str) -> None:
    """The state passes through ``weights_only``; a new scheduler then continues where the saved one was."""
    saved, built = BUILDERS[name](), BUILDERS[name]()
    _step(saved, 4)
    file = io.BytesIO()
    torch.save(save_scheduler(saved), file)
    file.seek(0)
    load_scheduler(built, torch.load(file, weights_only=True))
    for _ in range(3):
        assert save_scheduler(built) == save_scheduler(saved)
        _step(saved, 1)
        _step(built, 1)


def test_the_state_is_a_copy() -> None:
    """Later steps do not change a saved state, and loading does not change the caller's copy."""
    scheduler = _sequence(_optimizer())
    state = save_scheduler(scheduler)
    before = copy.deepcopy(state)
    _step(scheduler, 3)
    assert state == before
    load_scheduler(scheduler, state)
    _step(scheduler, 3)
    assert state == before


def test_a_tensor_lr_stays_the_same_tensor() -> None:
    """A learning rate that a captured graph may use is filled, not replaced."""
    saved, built = (StepLR(_optimizer(lr=torch.tensor(0.5), foreach=False), 1) for _ in range(2))
    _step(saved, 1)
    lr = built.optimizer.param_groups[0]["lr"]
    load_scheduler(built, save_scheduler(saved))
    assert built.optimizer.param_groups[0]["lr"] is lr
    assert lr == saved.optimizer.param_groups[0]["lr"] == torch.tensor(0.05)


class _Picky(StepLR):
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(state_dict)
        if self.last_epoch == 3:
            raise RuntimeError("not this one")


def test_a_load_that_fails_changes_nothing() -> None:
    """If the scheduler's own ``load_state_dict`` raises halfway, the scheduler does not change."""
    saved, built = _Picky(_optimizer(), 2), _Picky(_optimizer(), 2)
    _step(saved, 3)
    before = save_scheduler(built)
    with pytest.raises(RuntimeError, match="not this one"):
        load_scheduler(built, save_scheduler(saved))
    assert save_scheduler(built) == before


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (lambda: StepLR(_optimizer(), 1), r"must be of SequentialLR\(StepLR, ExponentialLR\), got StepLR"),
        (lambda: ReduceLROnPlateau(_optimizer()), r"must be of SequentialLR\(.*\), got ReduceLROnPlateau"),
        (
            lambda: SequentialLR(optimizer := _optimizer(), [StepLR(optimizer, 1), StepLR(optimizer, 1)], [2]),
            r"must be of SequentialLR\(StepLR, ExponentialLR\), got SequentialLR\(StepLR, StepLR\)",
        ),
    ],
)
def test_another_kind_of_scheduler_is_refused(other: Any, message: str) -> None:
    """A state belongs to one kind of scheduler, including its parts."""
    with pytest.raises(ValueError, match=message):
        load_scheduler(_sequence(_optimizer()), save_scheduler(other()))


def test_functions_are_not_compared() -> None:
    """Torch does not save functions, so a different function gives no warning."""
    load_scheduler(
        LambdaLR(_optimizer(), lambda step: 0.5**step),
        save_scheduler(LambdaLR(_optimizer(), lambda step: 0.9**step)),
    )


def test_a_saved_tensor_lr_is_a_copy() -> None:
    """A learning rate that the next step fills does not change the saved state."""
    scheduler = StepLR(_optimizer(lr=torch.tensor(0.5), foreach=False), 1)
    state = save_scheduler(scheduler)
    _step(scheduler, 1)
    assert state["options"][0]["lr"] == torch.tensor(0.5)
