"""Norms that the host reads one update later, so that it does not wait for the device."""

from collections.abc import Callable, Sequence
from math import isfinite

import torch
from torch import Tensor
from torch.optim import SGD, Optimizer

__all__ = ["DeviceDrops", "LateNorms", "nonfinite_flag"]


class LateNorms:
    """The norm of all gradients, on its way to the host, and those of each, which are fetched if it is not finite."""

    def __init__(
        self,
        update: str,
        norm: Tensor,
        each: Sequence[Tensor],
        names: Callable[[], Sequence[str]],
        spent: "LateNorms | None" = None,
    ) -> None:
        """Start to copy ``norm``; ``names`` tells whose norms ``each`` are, ``spent`` was read and gives its memory."""
        self.update = update
        self._each = each
        self._names = names
        self._kind = (norm.dtype, norm.device)
        self._copied: Tensor
        self._event: torch.Event
        if spent is not None and spent._kind == self._kind:  # pinned memory and events take long to make
            self._copied, self._event = spent._copied, spent._event
        else:
            self._copied = torch.empty((), dtype=norm.dtype, device="cpu", pin_memory=norm.is_cuda)
            self._event = torch.Event(norm.device)
        self._copied.copy_(norm, non_blocking=True)
        self._event.record()

    def describe_nonfinite(self) -> str | None:
        """Return whose norms are not finite, or None if all is finite; wait for the copy if it is under way."""
        self._event.synchronize()
        if isfinite(self._copied.item()):
            return None
        each = torch.stack([norm.double() for norm in self._each]).tolist() if self._each else []
        found = [name for name, one in zip(self._names(), each, strict=True) if not isfinite(one)]
        return ", ".join(found) or "none here, but on another rank or by a sum too large for its dtype"


class DeviceDrops:
    """Whether fused kernels that skip an update leave an optimizer's state as it was.

    torch's fused SGD makes its momentum buffers of uninitialised memory and, if the kernel then skips, keeps them.
    """

    def __init__(self, optimizer: Optimizer) -> None:
        self._optimizer = optimizer
        self._complete: tuple[object, object, int] | None = None  # where every parameter was found to have its buffer

    def are_safe(self, parameters: Sequence[Sequence[Tensor]]) -> bool:
        """Answer for the next update; ``parameters`` are the optimizer's, in lists that are the same while they are."""
        if not isinstance(self._optimizer, SGD):
            return True
        state = self._optimizer.state
        if self._complete is not None:
            known_state, known_parameters, size = self._complete
            if known_state is state and known_parameters is parameters and size == len(state):
                return True
        momentum = [p for group in self._optimizer.param_groups if group["momentum"] != 0 for p in group["params"]]
        without = [p for p in momentum if "momentum_buffer" not in state.get(p, ())]
        if not without:
            self._complete = (state, parameters, len(state))
        return all(p.grad is None for p in without)


def nonfinite_flag(norm: Tensor) -> Tensor:
    """Return what fused kernels take for ``found_inf``: 1 if the norm is not finite, else 0, in float32.

    Example:
        >>> nonfinite_flag(torch.tensor(float("inf"))), nonfinite_flag(torch.tensor(2.0))
        (tensor(1.), tensor(0.))
    """
    return norm.mul(0).ne_(0).float()  # two kernels, where isfinite() takes four
