"""Tensors of which each rank has a part: the part, and what is computed of it, combined over the ranks."""

from collections.abc import Sequence
from math import inf
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.tensor import DTensor, Replicate

__all__ = ["combine_norms", "local_part", "norms_over_shards", "shard_dims", "shard_groups", "sum_terms"]


def sum_terms(tensor: Tensor) -> Tensor:
    """Return the sum of a DTensor of which each rank has a term, as sequence parallelism leaves gradients.

    Another tensor is returned as it is.
    """
    if not isinstance(tensor, DTensor) or not any(placement.is_partial() for placement in tensor.placements):
        return tensor
    return tensor.redistribute(placements=[Replicate() if p.is_partial() else p for p in tensor.placements])


def local_part(tensor: Tensor) -> Tensor:
    """Return this rank's part of a DTensor; another tensor as it is."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def norms_over_shards(
    tensors: Sequence[Tensor], norms: Sequence[Tensor], norm_type: float = 2.0, *, of_units: bool = False
) -> list[Tensor]:
    """Return norms over all ranks from those of each rank's parts, by one collective for each process group.

    Args:
        tensors: DTensors or others, the same on all ranks.
        norms: the norm of each tensor's part; of units, one for each index of its first dimension.
        norm_type: as for ``total_norm``.
        of_units: whether the norms are of units.
    """
    combined = list(norms)
    for group, places in shard_groups(tensors, of_units=of_units).items():
        joined = torch.cat([combined[place].reshape(-1) for place in places])
        parts = torch.split(combine_norms(joined, norm_type, group), [combined[place].numel() for place in places])
        for place, part in zip(places, parts, strict=True):
            combined[place] = part.view_as(combined[place])
    return combined


def shard_groups(tensors: Sequence[Any], *, of_units: bool = False) -> dict[dist.ProcessGroup, list[int]]:
    """Return the groups of ranks that share tensors, each with the places of these tensors.

    Args:
        tensors: DTensors or others.
        of_units: True leaves out ranks that share a tensor, but none of its units.
    """
    groups: dict[dist.ProcessGroup, list[int]] = {}
    for place, tensor in enumerate(tensors):
        for mesh_dim, dim in shard_dims(tensor).items():
            if not of_units or tensor.dim() < 2 or dim != 0:
                groups.setdefault(tensor.device_mesh.get_group(mesh_dim), []).append(place)
    return groups


def shard_dims(tensor: Any) -> dict[int, int]:
    """Return the dimensions of a DTensor's mesh along which its ranks have different parts.

    Each has the dimension along which the tensor is divided there. A tensor that is no DTensor has none.
    """
    if not isinstance(tensor, DTensor):
        return {}
    placements: Any = enumerate(tensor.placements)
    return {mesh_dim: placement.dim for mesh_dim, placement in placements if not placement.is_replicate()}


def combine_norms(norms: Tensor, norm_type: float, group: dist.ProcessGroup) -> Tensor:
    """Return the norms of what all ranks of the group have, each its own part, from the norms of the parts."""
    if norm_type == inf:
        largest = norms.nan_to_num(nan=inf, posinf=inf)  # what a reduction makes of NaN depends on the ranks' order
        dist.all_reduce(largest, dist.ReduceOp.MAX, group)
        return largest
    powers = norms**norm_type
    dist.all_reduce(powers, group=group)
    combined: Tensor = powers ** (1 / norm_type)
    return combined
