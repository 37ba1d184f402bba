"""Gradients that are not finite: found without waiting for the device, and described."""

import re
from collections.abc import Callable, Mapping, Sequence
from math import isfinite

import torch
from torch import Tensor, nn
from torch.optim import SGD, Optimizer

from ignite_tips.clipping.norms import nonfinite_kinds
from ignite_tips.parameters.selection import unwrap_model

__all__ = [
    "DeferredFiniteCheck",
    "DeviceSkipGuard",
    "describe_buffers",
    "describe_gradients",
    "first_of",
    "must_be_finite",
    "nonfinite_flag",
]


class DeferredFiniteCheck:
    """The norm of all gradients, on its way to the host, and those of each, which are fetched if it is not finite."""

    def __init__(
        self,
        update: str,
        norm: Tensor,
        each: Sequence[Tensor],
        names: Callable[[], Sequence[str]],
        spent: "DeferredFiniteCheck | None" = None,
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


class DeviceSkipGuard:
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


_NAMED = 5  # parameters that a message names
_PLACE = re.compile(r"\bparameter \d+ of group ")


def must_be_finite(found: str, update: str, *, has_model: bool, left: str = "") -> str:
    """Return the error's sentence: what was found in which update, what else is left of it, where names come from.

    Example:
        >>> must_be_finite("NaN in parameter 0 of group 0", "update 1", has_model=False).split("; ")[-1]
        'give the clipper model=... to have parameters named'
    """
    sentence = (
        f"gradients must be finite, got {found} in {update}; parameters and optimizer state are as before it{left}"
    )
    if has_model or not _PLACE.search(found):
        return sentence
    return f"{sentence}; give the clipper model=... to have parameters named"


def first_of(found: Sequence[str]) -> str:
    """Return the first few, and how many more there are.

    Example:
        >>> first_of(list("abcdefg"))
        'a, b, c, d, e and 2 more'
    """
    more = f" and {len(found) - _NAMED} more" if len(found) > _NAMED else ""
    return ", ".join(found[:_NAMED]) + more


def describe_gradients(names: Mapping[Tensor, str]) -> str:
    """Say which of the parameters, by name, have a gradient that is not finite."""
    found = [
        f"{kinds} in {name}"
        for parameter, name in names.items()
        if parameter.grad is not None and (kinds := nonfinite_kinds(parameter.grad))
    ]
    return first_of(found) or "a norm too large for its dtype, or some on another rank"


def describe_buffers(model: nn.Module | None) -> str:
    """Say what stays though the update is not made, such as BatchNorm's running statistics of a NaN batch."""
    buffers = {} if model is None else dict(unwrap_model(model).named_buffers())
    found = [f"{kinds} in {name}" for name, buffer in buffers.items() if (kinds := nonfinite_kinds(buffer))]
    return f"; the forward pass left {first_of(found)}" if found else ""
