"""Norms of a tensor's units, such as output channels, and their clipping by the norms of the weights."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor

from ignite_tips.gradients.norms import smallest

__all__ = ["clip_units", "unit_norms", "whole"]

_SMALLEST_NORM = 1e-6  # by which a gradient's m is divided at least


def unit_norms(tensor: Tensor) -> Tensor:
    """Return the 2-norm of each index of the first dimension, kept as one; of all of a tensor of less than two.

    Example:
        >>> unit_norms(torch.tensor([[3.0, 4.0], [0.0, 2.0]]))
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
        gradients: dense tensors.
        norms: the ``unit_norms`` of the gradients.
        clipping: λ, as for ``AdaptiveGradientClipper``.
        eps: ε, likewise.
        on_host: whether all is on the CPU, so that values can be read and nothing is multiplied in vain.

    Returns:
        The smallest factor of a unit, over all ranks: a number if ``on_host``.
    """
    factors: list[Tensor | float] = []
    for places in _together(norms):
        of_weights = _joined([unit_norms(weights[place]) for place in places])
        of_gradients = _joined([norms[place] for place in places])
        if not of_gradients.numel():
            continue
        largest = of_weights.clamp_min(eps) * clipping
        too_large = of_gradients > largest
        factor = torch.where(too_large, largest / of_gradients.clamp_min(_SMALLEST_NORM), 1.0)
        least = whole(factor).min()
        factors.append(least.item() if on_host else least)
        if on_host and factors[-1] == 1.0:
            continue
        parts = torch.split(factor, [norms[place].numel() for place in places]) if len(places) > 1 else [factor]
        clipped = _segments(too_large, parts) if on_host and len(places) > 1 else range(len(places))
        for index in clipped:
            gradient, part = gradients[places[index]], parts[index].view_as(norms[places[index]])
            gradient.mul_(part.to(gradient.dtype) if part.dim() else part)
    return smallest(factors)


def _together(norms: Sequence[Tensor]) -> list[list[int]]:
    """Return the places of norms that can be one vector: plain ones of one device and dtype; a DTensor stays alone."""
    lists: dict[object, list[int]] = {}
    for place, norm in enumerate(norms):
        lists.setdefault(place if isinstance(norm, DTensor) else (norm.device, norm.dtype), []).append(place)
    return list(lists.values())


def _joined(norms: list[Tensor]) -> Tensor:
    return norms[0] if len(norms) == 1 else torch.cat([norm.view(-1) for norm in norms])


def _segments(flags: Tensor, parts: Sequence[Tensor]) -> list[int]:
    """Return which of the parts, into which ``flags`` is split, have one that is set."""
    ends = torch.tensor([part.numel() for part in parts], device="cpu").cumsum(0)
    return sorted(set(torch.bucketize(flags.nonzero().view(-1), ends, right=True).tolist()))


def whole(tensor: Tensor) -> Tensor:
    """Return a DTensor with the values of all ranks, as a plain tensor; another tensor as it is."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
