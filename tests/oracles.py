"""Norms in double precision, and the rounding error allowed to norms of other precisions: derived, not tuned.

Let u be half the distance between 1 and the next number. One operation is then off by a factor between 1 - u and 1 + u.
A sum of n terms of one sign is off by less than n·u, whatever the order of addition (Higham, "Accuracy and Stability of
Numerical Algorithms", 2002, section 4.2), and its p-th root by a p-th of that.
"""

import math
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

__all__ = ["TRAINED_IN_DOUBLE", "assert_near", "exact_norm", "near_norm", "rounding_of_norm", "roundoff"]

# The allowed difference between two trainings in double precision that add numbers in different orders, relative to the
# largest parameter: fewer than 1,000 roundings of 1e-16 per update; fewer than ten updates of a tiny network, each at
# most doubling the difference, give 1e-10.
TRAINED_IN_DOUBLE = 1e-9


def roundoff(dtype: torch.dtype = torch.float32) -> float:
    """Return u, the maximum error of one operation."""
    return torch.finfo(dtype).eps / 2


def exact_norm(tensors: Sequence[Tensor], norm_type: float = 2.0) -> float:
    """Return the p-norm of all values as one vector, in double precision and with a sum without rounding."""
    wide = [tensor.detach().cpu().to(torch.complex128 if tensor.is_complex() else torch.float64) for tensor in tensors]
    values = torch.cat([tensor.abs().flatten() for tensor in wide])
    if norm_type == math.inf:
        return float(values.max())
    return math.fsum(values.pow(norm_type).tolist()) ** (1 / norm_type)


def rounding_of_norm(count: int, norm_type: float = 2.0, dtype: torch.dtype = torch.float32) -> float:
    """Return the maximum relative error of a computed p-norm of ``count`` values.

    Each value's power is off by 4u (for complex values it includes a sum of two squares). So is each of two roots,
    because tensors' norms are combined into one. For p other than 1 and 2 the root is a power by 1/p, which is itself
    rounded: s^(1/p·(1 + u)) is off by u·ln(s)/p, and no float's logarithm is larger than that of the largest float.
    """
    if norm_type == math.inf:
        return 2 * roundoff(dtype)  # for complex values
    exponent = 0.0 if norm_type in (1.0, 2.0) else 2 * math.log(torch.finfo(dtype).max)
    return ((count + 4) / norm_type + 4 + 4 + exponent) * roundoff(dtype)


def near_norm(tensors: Sequence[Tensor], norm_type: float = 2.0, dtype: torch.dtype = torch.float32) -> Any:
    """Return a value that compares equal to a p-norm of the tensors computed in ``dtype``."""
    count = sum(tensor.numel() for tensor in tensors)
    smallest = (count * torch.finfo(dtype).smallest_normal) ** (1 / norm_type)  # powers below this may be 0
    rounding = rounding_of_norm(count, norm_type, dtype)
    return pytest.approx(exact_norm(tensors, norm_type), rel=rounding, abs=smallest)


def assert_near(got: Sequence[Tensor], exact: Sequence[Tensor], rel: float) -> None:
    """Compare values with exact ones, on any devices; ``rel`` is relative to each exact value."""
    for one, other in zip(got, exact, strict=True):
        torch.testing.assert_close(one.detach().cpu().double(), other.detach().cpu().double(), rtol=rel, atol=0)
