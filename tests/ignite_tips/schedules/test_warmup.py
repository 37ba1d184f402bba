"""Factors for LambdaLR, and a warm-up before any scheduler."""

import copy
import math
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.optim import SGD, AdamW, Optimizer
from torch.optim import lr_scheduler as torch_schedulers
from torch.optim.lr_scheduler import (
    ChainedScheduler,
    ConstantLR,
    CosineAnnealingLR,
    ExponentialLR,
    LambdaLR,
    LRScheduler,
    MultiplicativeLR,
    ReduceLROnPlateau,
    SequentialLR,
    StepLR,
)

from ignite_tips import linear_warmup, warmup_stable_decay, with_warmup


def _optimizer(lrs: tuple[float, ...] = (1.0, 0.1)) -> SGD:
    return SGD([{"params": [torch.nn.Parameter(torch.ones(2))], "lr": lr} for lr in lrs], momentum=0.9)


def _lrs(scheduler: LRScheduler, steps: int) -> list[list[float]]:
    """Return the groups' learning rates at each step of the hand-written loop."""
    optimizer, lrs = scheduler.optimizer, []
    for _ in range(steps):
        lrs.append([float(group["lr"]) for group in optimizer.param_groups])
        optimizer.step()
        scheduler.step()
    return lrs


@given(
    warmup=st.integers(0, 20),
    stable=st.integers(0, 20),
    decay=st.integers(1, 20),
    shape=st.sampled_from(["linear", "cosine", "sqrt"]),
    min_factor=st.floats(0, 1),
)
def test_warmup_stable_decay_is_its_equation(
    warmup: int, stable: int, decay: int, shape: str, min_factor: float
) -> None:
    """At each step the factor follows the docstring's equation and is between ``min_factor`` and 1."""
    factor = warmup_stable_decay(warmup, stable, decay, shape=shape, min_factor=min_factor)
    for step in range(warmup + stable + decay + 3):
        progress = min(1.0, max(0.0, (step - warmup - stable) / decay))
        falling = {
            "linear": 1 - progress,
            "cosine": (1 + math.cos(math.pi * progress)) / 2,
            "sqrt": 1 - math.sqrt(progress),
        }
        expected = step / warmup if step < warmup else falling[shape]
        assert factor(step) == pytest.approx(min_factor + (1 - min_factor) * expected, abs=1e-12)
        assert min_factor - 1e-12 <= factor(step) <= 1 + 1e-12


def test_parts_of_length_zero() -> None:
    """Without a decay the factor stays at 1; without a warm-up it starts at 1."""
    assert [warmup_stable_decay(2, 0, 0)(step) for step in (0, 1, 2, 99)] == [0, 0.5, 1, 1]
    assert [warmup_stable_decay(0, 1, 2, shape="linear")(step) for step in range(4)] == [1, 1, 0.5, 0]


@pytest.mark.parametrize("factor", [linear_warmup(3, start_factor=0.1), warmup_stable_decay(1, 2, 3, min_factor=0.5)])
def test_factors_pickle_and_their_numbers_are_saved(factor: Callable[[int], float]) -> None:
    """A factor can be pickled, and LambdaLR saves its numbers as plain numbers."""
    again = pickle.loads(pickle.dumps(factor))
    assert [again(step) for step in range(9)] == [factor(step) for step in range(9)]
    (saved, _) = LambdaLR(_optimizer(), factor).state_dict()["lr_lambdas"]
    assert saved == vars(factor)
    assert all(isinstance(value, int | float | str) for value in saved.values())


def test_one_function_for_each_group() -> None:
    """LambdaLR accepts a list with one factor per group."""
    scheduler = LambdaLR(_optimizer((1.0, 1.0)), [linear_warmup(2), warmup_stable_decay(0, 1, 2, shape="linear")])
    assert _lrs(scheduler, 4) == [[0, 1], [0.5, 1], [1, 0.5], [1, 0]]


@pytest.mark.parametrize(
    ("build", "error", "message"),
    [
        (lambda: linear_warmup(0), ValueError, "steps must be >= 1, got 0"),
        (lambda: linear_warmup(1.5), TypeError, "steps must be an integer, got 1.5"),
        (lambda: linear_warmup(5, start_factor=2), ValueError, "start_factor must be >= 0 and <= 1, got 2"),
        (lambda: linear_warmup(5, start_factor=math.nan), ValueError, "start_factor must be .*, got nan"),
        (lambda: warmup_stable_decay(-1, 1, 1), ValueError, "warmup must be >= 0, got -1"),
        (lambda: warmup_stable_decay(1, True, 1), TypeError, "stable must be an integer, got True"),
        (lambda: warmup_stable_decay(1, 1, "3"), TypeError, "decay must be an integer, got '3'"),
        (lambda: warmup_stable_decay(0, 0, 0), ValueError, "must not all be 0, got 0, 0 and 0"),
        (lambda: warmup_stable_decay(1, 1, 1, shape="cubic"), ValueError, "shape must be .*'sqrt', got 'cubic'"),
        (lambda: warmup_stable_decay(1, 1, 1, min_factor=-0.1), ValueError, "min_factor must be .*, got -0.1"),
    ],
)
def test_wrong_factors(build: Callable[[], Any], error: type[Exception], message: str) -> None:
    """Wrong lengths, shapes and factors are refused."""
    with pytest.raises(error, match=message):
        build()


SCHEDULERS: dict[str, Callable[[Optimizer], LRScheduler]] = {
    "StepLR": lambda optimizer: StepLR(optimizer, 2),
    "MultiStepLR": lambda optimizer: torch_schedulers.MultiStepLR(optimizer, [2, 4]),
    "LambdaLR": lambda optimizer: LambdaLR(optimizer, lambda step: 1 / (1 + step)),
    "MultiplicativeLR": lambda optimizer: MultiplicativeLR(optimizer, lambda step: 0.5),
    "ConstantLR": lambda optimizer: ConstantLR(optimizer, 0.5, total_iters=3),
    "LinearLR": lambda optimizer: torch_schedulers.LinearLR(optimizer, 1.0, 0.25, total_iters=4),
    "ExponentialLR": lambda optimizer: ExponentialLR(optimizer, 0.5),
    "PolynomialLR": lambda optimizer: torch_schedulers.PolynomialLR(optimizer, 6),
    "CosineAnnealingLR": lambda optimizer: CosineAnnealingLR(optimizer, 6),
    "CosineAnnealingWarmRestarts": lambda optimizer: torch_schedulers.CosineAnnealingWarmRestarts(optimizer, 3),
    "CyclicLR": lambda optimizer: torch_schedulers.CyclicLR(optimizer, 0.1, 1.0, 3),
    "OneCycleLR": lambda optimizer: torch_schedulers.OneCycleLR(optimizer, 1.0, total_steps=10),
    "SequentialLR": lambda optimizer: SequentialLR(
        optimizer, [ConstantLR(optimizer, 0.5, total_iters=9), ExponentialLR(optimizer, 0.5)], [3]
    ),
    "ChainedScheduler": lambda optimizer: ChainedScheduler(
        [ConstantLR(optimizer, 0.5, total_iters=3), ExponentialLR(optimizer, 0.5)]
    ),
    "a chain in a chain": lambda optimizer: ChainedScheduler(
        [ChainedScheduler([ExponentialLR(optimizer, 0.9), StepLR(optimizer, 2)]), ConstantLR(optimizer, 0.5, 3)]
    ),
    "a user's that is recursive": lambda optimizer: _Halving(optimizer),
    "a user's with step() alone": lambda optimizer: _StepOnly(optimizer),
}


class _Halving(LRScheduler):
    def get_lr(self) -> list[float | torch.Tensor]:
        return [group["lr"] * (0.5 if self.last_epoch else 1) for group in self.optimizer.param_groups]


class _StepOnly(LRScheduler):
    def step(self, epoch: int | None = None) -> None:
        self.last_epoch += 1
        for group, initial in zip(self.optimizer.param_groups, self.base_lrs, strict=True):
            group["lr"] = initial / (1 + self.last_epoch)
        self._last_lr = [group["lr"] for group in self.optimizer.param_groups]


@pytest.mark.parametrize("name", SCHEDULERS)
def test_warmup_before_any_scheduler(name: str) -> None:
    """After a linear rise of all groups, the learning rates equal, bit for bit, those of the scheduler alone."""
    expected = _lrs(SCHEDULERS[name](_optimizer()), 9)
    scheduler = with_warmup(SCHEDULERS[name](_optimizer()), 4, start_factor=0.2)
    assert isinstance(scheduler, SequentialLR)
    lrs = _lrs(scheduler, 13)
    starts = [group["initial_lr"] for group in scheduler.optimizer.param_groups]
    for step in range(4):
        assert lrs[step] == pytest.approx([start * (0.2 + 0.8 * step / 4) for start in starts], rel=1e-12)
    assert lrs[4:] == expected


def test_warmup_is_saved_and_continues() -> None:
    """A warm-up's state, also that of a chain, can be saved and loaded at any step."""
    for at in (2, 4, 6):
        first = with_warmup(SCHEDULERS["ChainedScheduler"](_optimizer()), 4)
        _lrs(first, at)
        second = with_warmup(SCHEDULERS["ChainedScheduler"](_optimizer()), 4)
        second.load_state_dict(copy.deepcopy(first.state_dict()))
        second.optimizer.load_state_dict(first.optimizer.state_dict())
        assert _lrs(second, 5) == _lrs(first, 5)


def test_warmup_keeps_tensor_lrs() -> None:
    """A learning rate that is a tensor stays the same tensor, as a captured optimizer needs."""
    lr = torch.tensor(1.0)
    optimizer = AdamW([torch.nn.Parameter(torch.ones(1))], lr=lr, capturable=False, foreach=False)
    scheduler = with_warmup(ChainedScheduler([StepLR(optimizer, 2), ExponentialLR(optimizer, 0.5)]), 2)
    _lrs(scheduler, 4)
    assert optimizer.param_groups[0]["lr"] is lr
    assert lr.item() == pytest.approx(0.025)


def _stepped() -> LRScheduler:
    scheduler = StepLR(_optimizer(), 2)
    _lrs(scheduler, 3)
    return scheduler


@pytest.mark.parametrize(
    ("build", "error", "message"),
    [
        (lambda: with_warmup(SGD, 3), TypeError, "scheduler must be a torch learning-rate scheduler"),
        (lambda: with_warmup(StepLR(_optimizer(), 2), 0), ValueError, "steps must be >= 1, got 0"),
        (lambda: with_warmup(StepLR(_optimizer(), 2), 3, start_factor=0), ValueError, "start_factor must be > 0"),
        (lambda: with_warmup(ReduceLROnPlateau(_optimizer()), 3), TypeError, "got ReduceLROnPlateau; attach a Sched"),
        (lambda: with_warmup(_stepped(), 3), ValueError, "scheduler must be new, got StepLR after 3 steps"),
        (
            lambda: with_warmup(ChainedScheduler([SCHEDULERS["SequentialLR"](_optimizer())]), 3),
            TypeError,
            "scheduler must have parts that torch can restart",
        ),
    ],
)
def test_wrong_warmup(build: Callable[[], Any], error: type[Exception], message: str) -> None:
    """A scheduler that cannot be restarted is refused when the warm-up is built, not when it ends."""
    with pytest.raises(error, match=message):
        build()
