"""Norms in double precision, and how far one of another precision may be from them: derived, not tuned.

With u half the distance between 1 and the next number, one operation is off by a factor between 1 - u and 1 + u. A sum
of n terms of one sign is then off by less than n·u, in whatever order a CPU adds them (Higham, "Accuracy and Stability
of Numerical Algorithms", 2002, section 4.2), and its p-th root by a p-th of that.
"""

import math
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

__all__ = ["TRAINED_IN_DOUBLE", "assert_near", "exact_norm", "near_norm", "rounding_of_norm", "roundoff"]

# How far two trainings in double precision are apart that add some numbers in another order, relative to the largest
# parameter: fewer than 1,000 roundings an update of 1e-16 each, which less than ten updates of a tiny network, each
# at most doubling what the last one left, make 1e-10 of.
TRAINED_IN_DOUBLE = 1e-9


def roundoff(dtype: torch.dtype = torch.float32) -> float:
    """Return u, by which one operation is off at most."""
    return torch.finfo(dtype).eps / 2


def exact_norm(tensors: Sequence[Tensor], norm_type: float = 2.0) -> float:
    """Return the p-norm of all values as one vector, each in double precision and added without rounding."""
    wide = [tensor.detach().cpu().to(torch.complex128 if tensor.is_complex() else torch.float64) for tensor in tensors]
    values = torch.cat([tensor.abs().flatten() for tensor in wide])
    if norm_type == math.inf:
        return float(values.max())
    return math.fsum(values.pow(norm_type).tolist()) ** (1 / norm_type)


def rounding_of_norm(count: int, norm_type: float = 2.0, dtype: torch.dtype = torch.float32) -> float:
    """Return how far a computed p-norm of ``count`` values may be from the exact one, relative to it.

    Each value's power, of complex ones after a sum of two squares, is off by 4u, as is each of two roots, for norms of
    tensors are put together to one. A root of a p that is neither 1 nor 2 is a power by 1/p, which is rounded itself:
    s^(1/p·(1 + u)) is off by u·ln(s)/p, and no float has a logarithm larger than that of the largest.
    """
    if norm_type == math.inf:
        return 2 * roundoff(dtype)  # of complex values
    exponent = 0.0 if norm_type in (1.0, 2.0) else 2 * math.log(torch.finfo(dtype).max)
    return ((count + 4) / norm_type + 4 + 4 + exponent) * roundoff(dtype)


def near_norm(tensors: Sequence[Tensor], norm_type: float = 2.0, dtype: torch.dtype = torch.float32) -> Any:
    """Return what equals a p-norm of the tensors that was computed in ``dtype``."""
    count = sum(tensor.numel() for tensor in tensors)
    smallest = (count * torch.finfo(dtype).smallest_normal) ** (1 / norm_type)  # powers below it may be 0
    rounding = rounding_of_norm(count, norm_type, dtype)
    return pytest.approx(exact_norm(tensors, norm_type), rel=rounding, abs=smallest)


def assert_near(got: Sequence[Tensor], exact: Sequence[Tensor], rel: float) -> None:
    """Check values against exact ones, both on whatever device; ``rel`` is relative to each of them."""
    for one, other in zip(got, exact, strict=True):
        torch.testing.assert_close(one.detach().cpu().double(), other.detach().cpu().double(), rtol=rel, atol=0)
