"""Norms of a tensor's units, such as output channels, and their clipping by the norms of the weights."""

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor

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
    weights: Tensor, gradient: Tensor, gradient_norms: Tensor, clipping: float, eps: float, *, on_host: bool
) -> Tensor | float:
    """Scale a gradient in place so that each unit's norm is at most ``clipping`` times that of its weights.

    To be called under ``torch.no_grad``.

    Returns:
        The smallest factor of a unit, over all ranks: a number if the values are ``on_host``, so that nothing is
        multiplied in vain.
    """
    largest = unit_norms(weights).clamp_min(eps) * clipping
    too_large = gradient_norms > largest
    if on_host and not isinstance(too_large, DTensor) and not too_large.any():
        return 1.0
    factors = torch.where(too_large, largest / gradient_norms.clamp_min(_SMALLEST_NORM), 1.0)
    smallest = whole(factors).min() if factors.numel() else factors.new_ones(())
    if on_host and smallest.item() >= 1:
        return 1.0
    gradient.mul_(factors.to(gradient.dtype) if factors.dim() else factors)
    return smallest.item() if on_host else smallest


def whole(tensor: Tensor) -> Tensor:
    """Return a DTensor with the values of all ranks, as a plain tensor; another tensor as it is."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
