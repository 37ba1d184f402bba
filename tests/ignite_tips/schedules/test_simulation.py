"""simulate_schedule: the learning rates of the run to come, without changing the user's objects."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.optim import SGD, AdamW, Optimizer
from torch.optim import lr_scheduler as torch_schedulers
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau, StepLR

from ignite_tips import simulate_schedule, warmup_stable_decay, with_warmup


def _optimizer(kind: type[Optimizer] = SGD, **options: Any) -> Optimizer:
    named = {"body": 0.1, "head": 1.0}
    groups = [{"params": [torch.nn.Parameter(torch.ones(3))], "lr": lr, "name": name} for name, lr in named.items()]
    return kind(groups, **options)  # type: ignore[call-arg]


def _train(scheduler: LRScheduler, steps: int) -> dict[str, list[float]]:
    """Return each group's learning rates in the hand-written loop."""
    groups = scheduler.optimizer.param_groups
    lrs: dict[str, list[float]] = {group["name"]: [] for group in groups}
    for _ in range(steps):
        for group in groups:
            lrs[group["name"]].append(float(group["lr"]))
        for parameter in (parameter for group in groups for parameter in group["params"]):
            parameter.grad = torch.ones_like(parameter)
        scheduler.optimizer.step()
        scheduler.step()
    return lrs


BUILDERS: dict[str, Callable[[Optimizer], LRScheduler]] = {
    "OneCycleLR": lambda optimizer: torch_schedulers.OneCycleLR(optimizer, [0.1, 1.0], total_steps=20),
    "CyclicLR": lambda optimizer: torch_schedulers.CyclicLR(optimizer, 0.1, 1.0, 3, mode="exp_range", gamma=0.9),
    "CosineAnnealingLR": lambda optimizer: torch_schedulers.CosineAnnealingLR(optimizer, 10),
    "LambdaLR": lambda optimizer: torch_schedulers.LambdaLR(optimizer, warmup_stable_decay(3, 3, 3)),
    "warm-up": lambda optimizer: with_warmup(torch_schedulers.ExponentialLR(optimizer, 0.9), 4),
}


@pytest.mark.parametrize("name", BUILDERS)
@pytest.mark.parametrize("done", [0, 1, 7])
def test_equals_the_run_and_changes_nothing(name: str, done: int) -> None:
    """From any state of the scheduler it returns what follows; model, optimizer and scheduler do not change."""
    optimizer = _optimizer(momentum=0.9)
    scheduler = BUILDERS[name](optimizer)
    _train(scheduler, done)
    before = copy.deepcopy((optimizer.state_dict(), scheduler.state_dict()))
    lrs = simulate_schedule(scheduler, 12)
    assert str((optimizer.state_dict(), scheduler.state_dict())) == str(before)
    assert lrs == _train(scheduler, 12)


@pytest.mark.parametrize(
    "options", [{}, {"fused": True}, {"foreach": True}, {"capturable": False, "lr": torch.tensor(0.5)}], ids=str
)
def test_any_optimizer(options: dict[str, Any]) -> None:
    """Optimizers that are fused, foreach or have a tensor as learning rate work; the results are floats."""
    optimizer = _optimizer(AdamW, **{"foreach": False, **options} if "lr" in options else options)
    for group in optimizer.param_groups:
        group["lr"] = torch.tensor(group["lr"]) if "lr" in options else group["lr"]
    scheduler = StepLR(optimizer, 2)
    lrs = simulate_schedule(scheduler, 5)
    assert lrs == _train(scheduler, 5)
    assert all(type(lr) is float for line in lrs.values() for lr in line)


def test_no_memory_of_the_parameters_size() -> None:
    """Parameters and the optimizer's state are never copied, so tensors that cannot be copied are fine."""
    parameter, momentum = torch.nn.Parameter(torch.ones(2)), torch.ones(2)
    parameter.__deepcopy__ = momentum.__deepcopy__ = None  # type: ignore[assignment]  # a copy would call it
    optimizer = SGD([parameter], lr=1.0, momentum=0.9)
    optimizer.state[parameter]["momentum_buffer"] = momentum
    assert simulate_schedule(StepLR(optimizer, 1), 2) == {"0": [1.0, 0.1]}


@pytest.mark.parametrize(
    ("metrics", "options", "expected"),
    [
        (
            [3, 7, 7, 9, 10, 11, 8, 8, 4, 7],
            {"mode": "max", "factor": 0.5, "patience": 1, "threshold": 1.99, "threshold_mode": "abs"},
            [1, 1, 1, 1, 1, 1, 1, 1, 0.5, 0.5, 0.25],
        ),
        ([10, 9, 9, 9, 8.1], {"factor": 0.5, "patience": 2, "threshold": 0.1}, [1, 1, 1, 1, 0.5, 0.5]),
    ],
)
def test_plateau(metrics: list[float], options: dict[str, Any], expected: list[float]) -> None:
    """Given the metric after each epoch, it returns the learning rate of each epoch and of the next one."""
    optimizer = _optimizer()
    lrs = simulate_schedule(ReduceLROnPlateau(optimizer, **options), metrics=iter(metrics))
    assert lrs == {"body": [0.1 * lr for lr in expected], "head": expected}
    assert [group["lr"] for group in optimizer.param_groups] == [0.1, 1.0]


def _twins() -> LRScheduler:
    optimizer = _optimizer()
    optimizer.param_groups[1]["name"] = "body"
    return StepLR(optimizer, 1)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (
            lambda: ((_optimizer(), 3), {}),
            TypeError,
            "scheduler must be a torch learning-rate scheduler, got an instance of SGD",
        ),
        (lambda: ((StepLR(_optimizer(), 1), 0), {}), ValueError, "steps must be >= 1, got 0"),
        (lambda: ((StepLR(_optimizer(), 1), 2.0), {}), TypeError, "steps must be an integer, got 2.0"),
        (
            lambda: ((StepLR(_optimizer(), 1),), {}),
            TypeError,
            "steps must be given instead of metrics for StepLR, got neither",
        ),
        (
            lambda: ((StepLR(_optimizer(), 1), 3), {"metrics": [1]}),
            TypeError,
            "instead of metrics for StepLR, got metrics",
        ),
        (
            lambda: ((ReduceLROnPlateau(_optimizer()), 3), {}),
            TypeError,
            "metrics must be given instead of steps for ReduceLROnPlateau, got steps 3",
        ),
        (lambda: ((ReduceLROnPlateau(_optimizer()),), {"metrics": []}), ValueError, "at least one metric, got none"),
        (lambda: ((ReduceLROnPlateau(_optimizer()),), {"metrics": ["1"]}), TypeError, "metrics must be a number"),
        (
            lambda: ((torch_schedulers.OneCycleLR(_optimizer(), 0.1, total_steps=10), 20), {}),
            ValueError,
            r"step 11 of 19 raises ValueError: Tried to step 11 times.*; simulate fewer, or build it for more steps",
        ),
        (
            lambda: ((torch_schedulers.LambdaLR(_optimizer(), [[1.0, 0.5].__getitem__] * 2), 5), {}),
            ValueError,
            "make all steps, got LambdaLR, whose step 2 of 4 raises IndexError: list index out of range; simulate",
        ),
        (lambda: ((_twins(), 3), {}), ValueError, "must have different names, got 'body' twice"),
    ],
)
def test_wrong_arguments(arguments: Callable[[], Any], error: type[Exception], message: str) -> None:
    """Anything that cannot be simulated is refused with a message."""
    positional, named = arguments()
    with pytest.raises(error, match=message):
        simulate_schedule(*positional, **named)


def test_both_remedies_of_a_schedule_that_ends() -> None:
    """Simulate up to its end, or one that ends later."""
    short, longer = (torch_schedulers.OneCycleLR(_optimizer(), 0.1, total_steps=steps) for steps in (10, 19))
    assert len(simulate_schedule(short, 11)["body"]) == 11
    assert len(simulate_schedule(longer, 20)["body"]) == 20
