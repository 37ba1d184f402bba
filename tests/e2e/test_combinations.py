"""Every pair of tips in every mode: weights, momenta, learning rates and statistics equal a hand-written loop's."""

import itertools
from pathlib import Path

import pytest
import torch

from tests.e2e.combinations import WORLD_SIZES, Point, difference, points
from tests.e2e.combinations_reference_loop import train_by_hand
from tests.e2e.combinations_with_tips import Job
from tests.support import run_distributed

PRECISIONS = ("fp32", "bf16", "fp16")


def _select(strategy: str, precision: str, *, refused: bool) -> list[Point]:
    here = (point for point in points(strategy) if point.precision == precision)
    return [point for point in here if (point.refusal is not None) is refused]


def _train_whole(rank: int, world_size: int, strategy: str, precision: str, folder: Path) -> list[str]:
    """Train to the end, with a checkpoint on the way; return where the result differs from the reference loop's."""
    found = []
    for point in _select(strategy, precision, refused=False):
        expected = train_by_hand(point, rank)
        torch.save(expected, folder / f"{point} by hand.{rank}")
        job = Job(point, rank)
        job.save(folder)
        found += difference(f"{point}, whole", job.run(), expected)
    return found


def _train_resumed(rank: int, world_size: int, strategy: str, precision: str, folder: Path) -> list[str]:
    """Continue from the checkpoints; return where the result differs from the reference loop's."""
    found = []
    for point in _select(strategy, precision, refused=False):
        expected = torch.load(folder / f"{point} by hand.{rank}", weights_only=True)
        job = Job(point, rank)
        job.load(folder)
        ended = job.run()
        expected["lrs"] = expected["lrs"][-len(ended["lrs"]) :]
        found += difference(f"{point}, resumed", ended, expected)
    return found


@pytest.mark.distributed
@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("strategy", WORLD_SIZES)
# Ignite's trainer for GradScaler names CUDA.
@pytest.mark.filterwarnings("ignore:.*CUDA is not available:UserWarning")
def test_all_tips_on(strategy: str, precision: str, tmp_path: Path) -> None:
    """Bit for bit on every rank, uninterrupted, and resumed in new processes from Ignite's checkpoint."""
    world_size = WORLD_SIZES[strategy]
    if strategy == "single":  # without a process group
        found = [_train_whole(0, 1, strategy, precision, tmp_path)]
    else:
        found = run_distributed(_train_whole, world_size, strategy, precision, tmp_path, timeout=100)
    found += run_distributed(_train_resumed, world_size, strategy, precision, tmp_path, timeout=100)
    assert not any(found), "\n".join(itertools.chain(*found))


def _refused(rank: int, world_size: int, strategy: str) -> dict[str, str]:
    told = {}
    for precision in PRECISIONS:
        for point in _select(strategy, precision, refused=True):
            try:
                Job(point, rank).run()
            except Exception as error:  # any error is compared with the sentence
                told[str(point)] = str(error)
    return told


@pytest.mark.distributed
@pytest.mark.parametrize("strategy", WORLD_SIZES)
def test_what_cannot_be_right_is_refused(strategy: str) -> None:
    """Every other combination raises its sentence, on every rank."""
    expected = {str(point): point.refusal for point in points(strategy) if point.refusal is not None}
    for told in run_distributed(_refused, WORLD_SIZES[strategy], strategy):
        assert told.keys() == expected.keys()
        assert all(expected[point] in text for point, text in told.items()), told
