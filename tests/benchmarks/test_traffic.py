"""Collectives and their bytes, as a benchmark counts them."""

from collections.abc import Iterator

import pytest
import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Partial, Shard
from torch.testing._internal.distributed.fake_pg import FakeStore

from benchmarks.traffic import Traffic


@pytest.fixture
def group() -> Iterator[None]:
    """Be one of four ranks, of which the others do not exist."""
    dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=4)
    yield
    dist.destroy_process_group()


@pytest.mark.usefixtures("group")
def test_each_collective_counts_once_with_the_bytes_of_its_larger_side() -> None:
    """In place or of a DTensor, whose waiting and computing do not count."""
    values = torch.ones(4)
    mesh = init_device_mesh("cpu", (4,))
    terms, parts = (DTensor.from_local(values, mesh, [each], run_check=False) for each in (Partial(), Shard(0)))
    counts = []
    for collective in (
        lambda: dist.all_reduce(values),
        lambda: dist.all_gather([torch.empty(4) for _ in range(4)], values),
        lambda: terms.full_tensor().add(1),
        lambda: parts.full_tensor().sum(),
        lambda: values.mul(2),
    ):
        with Traffic() as traffic:
            collective()
        counts.append((traffic.collectives, traffic.bytes))
    assert counts == [(1, 16), (1, 64), (1, 16), (1, 64), (0, 0)]
