"""Every tip with every other, in every mode: weights, momenta, rates and statistics of a hand-written loop."""

from typing import Any

import pytest
import torch

from tests.e2e.lattice import Point, points, train_by_hand, train_with_tips
from tests.support import run_distributed

# The optimizer of a part that is frozen makes no update; that its scheduler waits is what the warning says.
pytestmark = pytest.mark.filterwarnings("ignore:SchedulerStepper found no update:UserWarning")


def _difference(path: str, left: Any, right: Any) -> list[str]:
    """Where two nests of dicts, lists and tensors are not the same, bit for bit."""
    if isinstance(left, dict) and isinstance(right, dict) and left.keys() == right.keys():
        return [found for key in left for found in _difference(f"{path}.{key}", left[key], right[key])]
    if isinstance(left, list) and isinstance(right, list) and len(left) == len(right):
        pairs = enumerate(zip(left, right, strict=True))
        return [found for index, (one, other) in pairs for found in _difference(f"{path}.{index}", one, other)]
    same = torch.equal(left, right) if isinstance(left, torch.Tensor) else left == right
    return [] if same else [f"{path}: {left} is not {right}"]


@pytest.mark.parametrize("point", list(points()), ids=str)
def test_one_process(point: Point) -> None:
    """All tips on, in one process."""
    assert _difference("", train_with_tips(point), train_by_hand(point)) == []


def _compare_points(rank: int, world_size: int, fused: bool) -> list[str]:
    found = []
    for point in points(world_size):
        if point.fused is fused:
            found += _difference(str(point), train_with_tips(point, rank), train_by_hand(point, rank))
    return found


@pytest.mark.distributed
@pytest.mark.parametrize("fused", [False, True], ids=["ordinary", "fused"])
def test_two_processes(fused: bool) -> None:
    """All tips on, under DistributedDataParallel; both ranks hold what the hand-written ranks hold."""
    assert run_distributed(_compare_points, 2, fused, timeout=100) == [[], []]
