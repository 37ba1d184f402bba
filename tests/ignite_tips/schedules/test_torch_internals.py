"""Private attributes of torch's schedulers that the package needs."""

from typing import Any

import pytest
import torch
from torch.optim import SGD
from torch.optim.lr_scheduler import ChainedScheduler, CyclicLR, LambdaLR, LRScheduler, SequentialLR, StepLR

from ignite_tips.schedules.torch_internals import closed_form_in, milestones_of, parts_of, with_parts


def _optimizer() -> SGD:
    return SGD([torch.nn.Parameter(torch.ones(1))], lr=1.0, momentum=0.5)


def _sequential(optimizer: SGD) -> SequentialLR:
    return SequentialLR(optimizer, [StepLR(optimizer, 2), LambdaLR(optimizer, lambda step: 1.0)], [3])


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("SequentialLR", "_schedulers"),
        ("SequentialLR", "_milestones"),
        ("ChainedScheduler", "_schedulers"),
        ("ChainedScheduler", "_last_lr"),
        ("StepLR", "_initial_step"),
    ],
)
def test_torch_has_the_attribute(kind: str, name: str) -> None:
    """Each private attribute that schedules/torch_internals.py reads or sets exists."""
    optimizer = _optimizer()
    made: dict[str, Any] = {
        "SequentialLR": _sequential(optimizer),
        "ChainedScheduler": ChainedScheduler([StepLR(optimizer, 2)]),
        "StepLR": StepLR(optimizer, 2),
    }
    assert hasattr(made[kind], name), (
        f"torch's {kind} has no {name} any more; schedules/torch_internals.py needs another way"
    )


def test_parts_and_milestones_are_those_given() -> None:
    """A SequentialLR's parts are in the order of its milestones; a plain scheduler has none."""
    optimizer = _optimizer()
    one, other = StepLR(optimizer, 2), StepLR(optimizer, 3)
    sequential = SequentialLR(optimizer, [one, other], [4])
    chained = ChainedScheduler([sequential, one])
    assert parts_of(sequential) == [one, other]
    assert milestones_of(sequential) == [4]
    assert parts_of(chained) == [sequential, one]
    assert list(with_parts(chained)) == [chained, sequential, one, other, one]
    assert parts_of(one) == []


@pytest.mark.parametrize(
    ("build", "found"),
    [
        (lambda optimizer: StepLR(optimizer, 2), None),
        (lambda optimizer: CyclicLR(optimizer, 0.1, 1.0), "CyclicLR"),
        (lambda optimizer: ChainedScheduler([StepLR(optimizer, 2), _sequential(optimizer)]), "LambdaLR"),
    ],
    ids=["chainable", "closed form", "a part within a part"],
)
def test_a_closed_form_is_found_however_deep(build: Any, found: str | None) -> None:
    """It is the first scheduler that ignores the current learning rate."""
    scheduler: LRScheduler = build(_optimizer())
    assert closed_form_in(scheduler) == found
