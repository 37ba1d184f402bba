"""The processes that other tests use: what they return, how they fail, and that none is left."""

import multiprocessing
import os
import time

import pytest
import torch
import torch.distributed as dist

from tests.support import run_distributed

pytestmark = pytest.mark.distributed


def _sum_of_ranks(rank: int, world_size: int, offset: int) -> torch.Tensor:
    total = torch.tensor(rank + offset)
    dist.all_reduce(total)
    return total


def _fail_on_one_rank(rank: int, world_size: int) -> None:
    if rank == 1:
        raise ValueError("rank 1 had enough")
    dist.barrier()


def _crash_on_one_rank(rank: int, world_size: int) -> None:
    if rank == 1:
        os.abort()
    dist.barrier()


def test_every_rank_returns_its_result() -> None:
    """The ranks communicate, and their results are returned in order."""
    assert run_distributed(_sum_of_ranks, 2, 10) == [torch.tensor(21), torch.tensor(21)]


def test_a_failing_rank_ends_all_and_is_quoted() -> None:
    """The failing rank's traceback is shown immediately, and no process is left."""
    started = time.monotonic()
    with pytest.raises(RuntimeError, match="rank 1 had enough"):
        run_distributed(_fail_on_one_rank, 2)
    assert time.monotonic() - started < 30
    assert multiprocessing.active_children() == []


def test_a_crashing_rank_shows_where() -> None:
    """A process that dies of a signal has no traceback of its own."""
    with pytest.raises(RuntimeError, match=r"(?s)exit codes .*Fatal Python error: Aborted.*_crash_on_one_rank"):
        run_distributed(_crash_on_one_rank, 2)
