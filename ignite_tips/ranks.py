"""What the ranks of a process group tell each other."""

from types import NoneType
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import DeviceMesh

from ignite_tips._checks import check_instance

__all__ = ["as_process_group", "gather_from_ranks", "same_on_all_ranks"]

_T = TypeVar("_T")


def same_on_all_ranks(number: int, *, group: dist.ProcessGroup | None = None) -> bool:
    """Return whether all ranks passed the same number; every rank gets the same answer.

    Without a process group the answer is True.
    """
    if not dist.is_initialized():
        return True
    device = "cuda" if dist.get_backend(group) == "nccl" else "cpu"
    extremes = torch.tensor([number, -number], dtype=torch.int64, device=device)
    dist.all_reduce(extremes, op=dist.ReduceOp.MIN, group=group)
    smallest, negated_largest = extremes.tolist()
    return bool(smallest == -negated_largest)


def as_process_group(name: str, group: Any) -> Any:
    """Return a process group as it is, the one of a mesh of one dimension, or None for None.

    Args:
        name: of the argument, for errors.
        group: what the user gave.

    Raises:
        TypeError, ValueError: if it is something else.
    """
    what = "a DeviceMesh of one dimension, a torch.distributed.ProcessGroup or None"
    check_instance(name, group, (DeviceMesh, dist.ProcessGroup, NoneType), what)
    if not isinstance(group, DeviceMesh):
        return group
    if group.ndim != 1:
        raise ValueError(
            f'{name} must be a DeviceMesh of one dimension, got one of {group.ndim}; slice it, as in mesh["pp"]'
        )
    return group.get_group()


def gather_from_ranks(value: _T, group: dist.ProcessGroup) -> list[_T]:
    """Return what each rank of the group passed, in the order of ranks; a picklable object."""
    gathered: list[Any] = [None] * dist.get_world_size(group)
    dist.all_gather_object(gathered, value, group=group)
    return gathered
