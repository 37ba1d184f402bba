"""One update of an optimizer, from the moment its gradients are final until it is made."""

from typing import NoReturn

import torch
from torch.optim import Optimizer

__all__ = ["OptimizerStep", "UpdateDropped"]

_AMP_ATTRIBUTES = ("grad_scale", "found_inf")  # what torch's fused kernels read of the optimizer


class UpdateDropped(Exception):  # noqa: N818  # no error: it carries a decision out of a handler
    """Ends the handlers of STEP_STARTED for an update that will not happen."""


class OptimizerStep:
    """The update under way: which optimizer makes it, and what handlers of STEP_STARTED decide about it.

    Attributes:
        optimizer: the optimizer whose ``step()`` is running.
        number: this update's number among the optimizer's own, from 1.
    """

    def __init__(self, optimizer: Optimizer, number: int) -> None:
        self.optimizer = optimizer
        self.number = number
        self.happens = True
        self._withheld: list[tuple[torch.Tensor, torch.Tensor]] = []
        # What GradScaler, or the user, set for the fused kernel; given back after the update.
        self._amp_attributes = {
            name: value for name in _AMP_ATTRIBUTES if (value := getattr(optimizer, name, None)) is not None
        }

    def drop(self) -> NoReturn:
        """Leave parameters and optimizer state as they are; no STEP_COMPLETED, no count.

        Call it in a handler of STEP_STARTED. The handlers that would follow have no update to act on, so they are
        not called.
        """
        raise UpdateDropped

    def fold(self, *, grad_scale: torch.Tensor, found_inf: torch.Tensor) -> None:
        """Let a fused kernel divide the gradients by ``grad_scale``, or skip itself where ``found_inf`` is 1.

        Both are float32 tensors of no dimension on the parameters' device. They hold for this update alone.
        """
        self.optimizer.grad_scale = grad_scale  # type: ignore[attr-defined]  # read by torch's fused kernels
        self.optimizer.found_inf = found_inf  # type: ignore[attr-defined]

    def is_skipped_by_scaler(self) -> bool:
        """Whether GradScaler found an inf or NaN and the fused kernel will leave everything as it is."""
        # GradScaler leaves the skip of a fused optimizer to the kernel, so only the device knows of it. This read
        # is the one that GradScaler itself makes for every other optimizer.
        found_inf = self._amp_attributes.get("found_inf")
        return found_inf is not None and bool(found_inf)

    def unscale(self) -> None:
        """Divide the gradients by GradScaler's factor here, where a fused kernel would do it too late for handlers."""
        scale = self._amp_attributes.get("grad_scale")
        if scale is None:
            return
        by_device: dict[torch.device, list[torch.Tensor]] = {}
        for _, gradient in _gradients(self.optimizer):
            by_device.setdefault(gradient.device, []).append(gradient)
        for device, gradients in by_device.items():
            torch._foreach_div_(gradients, scale.to(device, non_blocking=True))
        self.optimizer.grad_scale = None  # type: ignore[attr-defined]

    def withhold_gradients(self) -> None:
        """Let the update pass without effect."""
        # An optimizer skips a parameter whose gradient is None: no momentum, no weight decay, no state.
        self.happens = False
        self._withheld = _gradients(self.optimizer)
        for parameter, _ in self._withheld:
            parameter.grad = None

    def restore(self) -> None:
        """Give back, after the update, what it withheld or replaced."""
        for parameter, gradient in self._withheld:
            parameter.grad = gradient
        for name in _AMP_ATTRIBUTES:
            if name in self._amp_attributes:
                setattr(self.optimizer, name, self._amp_attributes[name])
            elif getattr(self.optimizer, name, None) is not None:
                delattr(self.optimizer, name)


def _gradients(optimizer: Optimizer) -> list[tuple[torch.Tensor, torch.Tensor]]:
    return [
        (parameter, parameter.grad)
        for group in optimizer.param_groups
        for parameter in group["params"]
        if parameter.grad is not None
    ]
