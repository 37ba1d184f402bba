"""All tips together on a GPU: in one process, under DDP over nccl, and under FSDP2 on a mesh of one GPU."""

import itertools

import pytest

from tests.e2e.combinations import WORLD_SIZES, difference, points
from tests.e2e.combinations_reference_loop import train_by_hand
from tests.e2e.combinations_with_tips import Job
from tests.gpu import BACKEND, DEVICE, needs_gpu
from tests.support import run_distributed

pytestmark = [pytest.mark.gpu, needs_gpu]


def _train(rank: int, world_size: int, strategy: str, precision: str) -> list[str]:
    """Train each point; return where the result differs from the hand-written loop's."""
    found = []
    for point in points(strategy, DEVICE, world_size):
        if point.precision == precision and point.refusal is None:
            try:
                found += difference(str(point), Job(point, rank).run(), train_by_hand(point, rank))
            except Exception as error:  # go on with the other points
                found.append(f"{point}: {type(error).__name__}: {error}")
    return found


@pytest.mark.distributed
@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
@pytest.mark.parametrize("strategy", WORLD_SIZES)
def test_all_tips_on(strategy: str, precision: str) -> None:
    """Weights, momenta, statistics and learning rates equal the hand-written loop's, bit for bit.

    The operations are the same: a handler that observes the update follows the clipper, so nothing is folded.
    """
    found = run_distributed(_train, 1, strategy, precision, timeout=110, backend=BACKEND)
    assert not any(found), "\n".join(itertools.chain(*found))
