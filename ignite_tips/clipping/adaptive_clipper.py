"""Adaptive gradient clipping (AGC): each unit's gradient is clipped by the norm of its weights."""

from collections.abc import Iterable, Sequence
from itertools import chain
from math import inf
from typing import Any, Literal, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.optim import Optimizer

from ignite_tips._checks import check_instance, check_names, check_number
from ignite_tips.clipping.gradient_clipper import ClippingMethod, GradientClipper, Update
from ignite_tips.clipping.gradients import Gradients
from ignite_tips.clipping.norms import group_by_device_and_dtype, min_factor, tensor_norms
from ignite_tips.clipping.shards import local_part, norms_over_shards, shard_groups
from ignite_tips.parameters.selection import select_parameters

__all__ = ["AdaptiveGradientClipper", "UnitScaling", "clip_units", "unitwise_norm"]


class AdaptiveGradientClipper(GradientClipper):
    """Scale down each unit's gradient G whose norm is over m = clipping · max(‖W‖, eps): G ← G · m / max(‖G‖, 1e-6).

    A unit is one index of the first dimension, such as an output channel; a tensor of less than two dimensions is one
    unit. Acts on ``OptimizerEvents.STEP_STARTED``, where gradients are final and weights not yet changed.

    ``"grad_norm"`` is the 2-norm of all gradients, including excluded ones; ``"grad_clip_coef"`` is the smallest factor
    of a unit; in a pipeline, of a unit in this rank's stage.

    Args:
        optimizer: the one whose gradients are clipped.
        clipping: λ > 0, finite, the largest ratio of a unit's gradient norm to its weight norm.
        eps: > 0, finite, the lower bound of the weight norm, so that zero weights can grow.
        exclude: one or several shell globs over the model's parameter names; what they match is not clipped. None by
            default; the paper excludes the classifier.
        model: the one whose parameters ``exclude`` names; it also gives names to messages.
        on_nonfinite, tag, process_group, norm_group: as for ``GradientNormClipper``, with the same waits for a GPU.

    Raises:
        TypeError, ValueError: if an argument is not as above, a pattern matches nothing or all is excluded.

    Example:
        >>> model = nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 2))
        >>> sgd = torch.optim.SGD(model.parameters(), lr=0.1)
        >>> trainer = Engine(lambda engine, batch: sgd.step())
        >>> clipper = AdaptiveGradientClipper(sgd, 0.01, exclude="1.*", model=model).attach(trainer)

    References:
        Brock, De, Smith, Simonyan, "High-Performance Large-Scale Image Recognition Without Normalization", 2021,
        arXiv 2102.06171, section 4.1, equation 3.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        clipping: float = 0.01,
        *,
        eps: float = 1e-3,
        exclude: str | Iterable[str] = (),
        model: nn.Module | None = None,
        on_nonfinite: Literal["raise", "skip", "propagate"] = "raise",
        tag: str | None = None,
        process_group: Any = None,
        norm_group: Any = None,
    ) -> None:
        clipping = check_number("clipping", clipping, gt=0, lt=inf)
        eps = check_number("eps", eps, gt=0, lt=inf)
        patterns = check_names("exclude", exclude)
        method = UnitScaling(clipping, eps)
        super().__init__(
            optimizer,
            method,
            on_nonfinite=on_nonfinite,
            model=model,
            tag=tag,
            process_group=process_group,
            norm_group=norm_group,
        )
        if not patterns:
            return
        check_instance("model", model, nn.Module, "the torch.nn.Module whose parameters exclude names")
        method.excluded = set(select_parameters(cast(nn.Module, model), patterns).values())
        own = {parameter for group in optimizer.param_groups for parameter in group["params"]}
        if own <= method.excluded:
            raise ValueError(
                f"exclude must leave a parameter of the optimizer to clip, got {', '.join(patterns)} for all of them"
            )


class UnitScaling(ClippingMethod):
    """Scale down each unit's gradient by the norm of its weights."""

    def __init__(self, clipping: float, eps: float) -> None:
        super().__init__(f"clipping={clipping}")
        self.excluded: set[Tensor] = set()
        self._clipping, self._eps = clipping, eps
        self._unit_norms: list[Tensor] = []

    def measure(self, gradients: Gradients) -> list[Sequence[Tensor]]:
        """Return the norm of each gradient, and keep those of its units."""
        of_parts = [unitwise_norm(local_part(gradient)) for gradient in gradients.all]
        self._unit_norms = norms_over_shards(gradients.all, of_parts, of_units=True)
        return [norms_over_shards(gradients.all, tensor_norms(of_parts))]

    def clip(self, update: Update) -> Tensor | float:
        """Scale the units; return the smallest factor."""
        gradients, unit_norms, self._unit_norms = update.gradients, self._unit_norms, []
        units = zip(chain.from_iterable(gradients.owners), gradients.all, unit_norms, strict=True)
        kept = [(_weights(owner), *others) for owner, *others in units if owner not in self.excluded]
        if not kept:
            return 1.0
        weights, clipped, norms = zip(*kept, strict=True)
        return clip_units(weights, clipped, norms, self._clipping, self._eps, on_host=gradients.on_host)


def _weights(parameter: Tensor) -> Tensor:
    """Return the weights that the gradient's values belong to: of a sparse gradient, the rows that it has."""
    gradient = parameter.grad
    if gradient is None or not gradient.is_sparse or parameter.dim() < 2:
        return parameter
    if gradient.sparse_dim() > 1:
        raise TypeError(
            f"AdaptiveGradientClipper must have sparse gradients of whole rows, got one of {gradient.sparse_dim()} "
            "sparse dimensions; exclude its parameter, or clip the norm with GradientNormClipper"
        )
    return parameter.detach()[tuple(gradient._indices())]


_SMALLEST_NORM = 1e-6  # lower bound of ‖G‖ in m / ‖G‖


def unitwise_norm(tensor: Tensor) -> Tensor:
    """Return the 2-norm of each index of the first dimension, kept as one; of all of a tensor of less than two.

    Example:
        >>> unitwise_norm(torch.tensor([[3.0, 4.0], [0.0, 2.0]]))
        tensor([[5.],
                [2.]])
    """
    dtype = torch.float32 if tensor.dtype.itemsize == 2 else None  # 16 bits are too few to sum squares in
    dims = tuple(range(1, tensor.dim())) or None
    norms: Tensor = torch.linalg.vector_norm(tensor, 2.0, dims, keepdim=dims is not None, dtype=dtype)
    return norms


def clip_units(
    weights: Sequence[Tensor],
    gradients: Sequence[Tensor],
    norms: Sequence[Tensor],
    clipping: float,
    eps: float,
    *,
    on_host: bool,
) -> Tensor | float:
    """Scale gradients in place so that each unit's norm is at most ``clipping`` times that of its weights.

    The units of all tensors are worked on together, as one vector. To be called under ``torch.no_grad``.

    Args:
        weights: what the gradients belong to.
        gradients: dense tensors, on which ranks their parts are as those of the weights.
        norms: the ``unitwise_norm`` of this rank's part of the gradients, over all ranks that have parts of a unit.
        clipping: λ, as for ``AdaptiveGradientClipper``.
        eps: ε, as for ``AdaptiveGradientClipper``.
        on_host: whether all is on the CPU, where values can be read and nothing is multiplied by 1.

    Returns:
        The smallest factor of a unit, over all ranks: a number if ``on_host``.
    """
    weight_norms = norms_over_shards(weights, [unitwise_norm(local_part(each)) for each in weights], of_units=True)
    parts = [local_part(gradient) for gradient in gradients]
    factors: list[Tensor | float] = []
    for places in group_by_device_and_dtype(norms):
        of_weights = _joined([weight_norms[place] for place in places])
        of_gradients = _joined([norms[place] for place in places])
        if not of_gradients.numel():
            continue
        largest = of_weights.clamp_min(eps) * clipping
        too_large = of_gradients > largest
        factor = torch.where(too_large, largest / of_gradients.clamp_min(_SMALLEST_NORM), 1.0)
        least = factor.min()
        factors.append(least.item() if on_host else least)
        if on_host and factors[-1] == 1.0:
            continue
        sizes = [norms[place].numel() for place in places]
        unit_factors = torch.split(factor, sizes) if len(places) > 1 else [factor]
        clipped = _segments(too_large, unit_factors) if on_host and len(places) > 1 else range(len(places))
        for index in clipped:
            part, by = parts[places[index]], unit_factors[index].view_as(norms[places[index]])
            part.mul_(by.to(part.dtype) if by.dim() else by)
    return _over_ranks(min_factor(factors), gradients)


def _over_ranks(factor: Tensor | float, gradients: Sequence[Tensor]) -> Tensor | float:
    """Return the smallest factor of the ranks that have parts of the gradients."""
    groups = shard_groups(gradients)
    if not groups:
        return factor
    if isinstance(factor, Tensor):
        least = factor.double()
    else:
        least = torch.full((), factor, dtype=torch.float64, device=gradients[0].device)
    for group in groups:
        dist.all_reduce(least, dist.ReduceOp.MIN, group)
    return least if isinstance(factor, Tensor) else least.item()


def _joined(norms: list[Tensor]) -> Tensor:
    return norms[0] if len(norms) == 1 else torch.cat([norm.view(-1) for norm in norms])


def _segments(flags: Tensor, parts: Sequence[Tensor]) -> list[int]:
    """Return which of the parts, into which ``flags`` is split, have one that is set."""
    ends = torch.tensor([part.numel() for part in parts], device="cpu").cumsum(0)
    return sorted(set(torch.bucketize(flags.nonzero().view(-1), ends, right=True).tolist()))
