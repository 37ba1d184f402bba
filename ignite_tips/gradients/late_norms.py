"""Norms that the host reads one update later, so that it does not wait for the device."""

from collections.abc import Sequence
from math import isfinite

import torch
from torch import Tensor
from torch.optim import SGD, Optimizer

__all__ = ["LateNorms", "can_be_dropped_by_device"]


class LateNorms:
    """A copy of norms on its way to the host."""

    def __init__(self, update: str, norm: Tensor, each: Sequence[Tensor], names: Sequence[str]) -> None:
        """Start to copy the norm of all gradients and those of ``each``, which belong to parameters of these names."""
        self.update = update
        self._names = names
        norms = torch.stack([norm, *(one.to(norm.dtype) for one in each)])
        self._copied = torch.empty(norms.shape, dtype=norms.dtype, pin_memory=norms.is_cuda)
        self._copied.copy_(norms, non_blocking=True)
        self._event = None if norms.is_cpu else torch.Event(norms.device)
        if self._event is not None:
            self._event.record()

    def describe_nonfinite(self) -> str | None:
        """Return whose norms are not finite, or None if all is finite; wait for the copy if it is under way."""
        if self._event is not None:
            self._event.synchronize()
        norm, *each = self._copied.tolist()
        if isfinite(norm):
            return None
        found = [name for name, one in zip(self._names, each, strict=True) if not isfinite(one)]
        return ", ".join(found) or "none here, but on another rank or by a sum too large for its dtype"


def can_be_dropped_by_device(optimizer: Optimizer) -> bool:
    """Whether fused kernels that skip an update leave the optimizer's state as it was.

    torch's fused SGD makes its momentum buffers of uninitialised memory and, if the kernel then skips, keeps them.
    """
    return not isinstance(optimizer, SGD) or all(
        group["momentum"] == 0
        or all(p.grad is None or "momentum_buffer" in optimizer.state.get(p, ()) for p in group["params"])
        for group in optimizer.param_groups
    )
