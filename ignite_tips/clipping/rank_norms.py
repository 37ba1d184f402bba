"""The norms of one update, made the same on all ranks that train together."""

import zlib
from collections.abc import Iterator
from itertools import chain
from math import inf, prod
from types import NoneType
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.optim import Optimizer

from ignite_tips._checks import check_instance
from ignite_tips.clipping.gradients import parameter_names
from ignite_tips.clipping.shards import combine_norms, shard_dims
from ignite_tips.parameters.groups import group_names
from ignite_tips.ranks import as_process_group, same_on_all_ranks

__all__ = ["RankNorms"]


class RankNorms:
    """Makes the norms of an update the same on all ranks.

    Attributes:
        has_peers: whether there are other ranks.

    Args:
        optimizer: the one whose gradients the norms are of.
        model: gives names to its parameters; may be None.
        norm_type: of the norms.
        process_group: the ranks that have to agree; None for all.
        norm_group: the ranks that have other parts of the model, such as the stages of a pipeline; None for none. May
            be a mesh of one dimension.
        agrees: False asks only the ranks of ``norm_group``.

    Raises:
        TypeError, ValueError: if a group is something else.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        model: nn.Module | None,
        norm_type: float,
        process_group: Any,
        norm_group: Any,
        *,
        agrees: bool,
    ) -> None:
        what = "a torch.distributed.ProcessGroup or None"
        check_instance("process_group", process_group, (dist.ProcessGroup, NoneType), what)
        self.has_peers = False
        self._optimizer, self._model, self._norm_type = optimizer, model, norm_type
        self._process_group = process_group
        self._norm_group = as_process_group("norm_group", norm_group)
        self._agrees = agrees
        self._are_shared = False

    def look_for_peers(self) -> None:
        """Find out whether there are other ranks."""
        self.has_peers = dist.is_initialized() and max(map(dist.get_world_size, self._groups())) > 1

    def start_run(self, *, per_group: bool) -> None:
        """Check that the ranks' optimizers fit together.

        Raises:
            RuntimeError: if they have different parameters and there is no ``norm_group``, or different param groups
                whose norms would be added.
        """
        self.look_for_peers()
        if not self.has_peers:
            return
        self._are_shared = self._process_group is None and all(
            self._ranks_with_parts(parameter) == dist.get_world_size() for parameter in self._parameters()
        )
        if self._norm_group is not None:
            self._check_same_groups(per_group)
        elif self._agrees and self._norm_type != inf:
            self._check_same_parameters()

    def combine(self, norms: list[Tensor]) -> list[Tensor]:
        """Return the norms of what all ranks of ``norm_group`` have; of those the largest, infinite where one is NaN.

        Where gradients were reduced, each rank has the same norms already, but ranks of different hardware may differ
        in the last bit, and one may have a NaN of its own.
        """
        agrees = self._agrees and not self._are_shared
        if not self.has_peers or (self._norm_group is None and not agrees):
            return norms
        joined, parameter = torch.stack(norms), next(self._parameters())
        # A rank without gradients has norms of 0, on the CPU and in float32: a collective needs one device and dtype.
        combined = joined.to(parameter.device, torch.float64)
        if self._norm_group is not None:
            combined = combine_norms(combined, self._norm_type, self._norm_group)
        if agrees:
            combined = combine_norms(combined, inf, self._process_group)
        return list(combined.to(torch.promote_types(joined.dtype, parameter.dtype.to_real())))

    def _groups(self) -> list[Any]:
        return [self._process_group, *([] if self._norm_group is None else [self._norm_group])]

    def _parameters(self) -> Iterator[Any]:
        return chain.from_iterable(group["params"] for group in self._optimizer.param_groups)

    def _ranks_with_parts(self, parameter: Any) -> int:
        """Return how many ranks the norm of the parameter's gradient is combined over, before all agree."""
        stages = 1 if self._norm_group is None else dist.get_world_size(self._norm_group)
        parts: int = prod(parameter.device_mesh.size(mesh_dim) for mesh_dim in shard_dims(parameter))
        return stages * parts

    def _check_same_parameters(self) -> None:
        names = parameter_names(self._optimizer, self._model)
        own = [(name, tuple(parameter.shape)) for parameter, name in names.items()]
        if not same_on_all_ranks(_checksum(own), group=self._process_group):
            raise RuntimeError(
                "the ranks' optimizers must have the same parameters where no norm_group tells which ranks have "
                f"others, but here they differ; rank {dist.get_rank()} has {len(own)}, from {own[0][0]!r} on; give the "
                'clipper the mesh or group of the stages, as in norm_group=mesh["pp"]'
            )

    def _check_same_groups(self, per_group: bool) -> None:
        own = group_names(self._optimizer) if per_group else []
        if not same_on_all_ranks(_checksum(own), group=self._norm_group):
            raise RuntimeError(
                "with per_group=True the optimizers of all ranks of norm_group must have the same param groups, whose "
                f"norms are added, but rank {dist.get_rank()} has {', '.join(own)}; give each all groups, empty where "
                "a rank has none of its parameters"
            )


def _checksum(value: object) -> int:
    return zlib.crc32(repr(value).encode())
