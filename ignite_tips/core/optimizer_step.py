"""One update of an optimizer, from the moment its gradients are final until it is made.

This is the only file that touches optimizer hooks.
"""

import functools
import sys
import weakref
from collections.abc import Callable
from types import FrameType
from typing import Any, NoReturn, Protocol

import torch
from torch.optim import Optimizer
from torch.optim.optimizer import register_optimizer_step_post_hook
from torch.utils.hooks import RemovableHandle

__all__ = ["OptimizerStep", "StepHooks", "StepListener", "StepSkipped", "after_update"]


class StepSkipped(Exception):  # noqa: N818  # no error: it carries a decision out of a handler
    """Ends the handlers of STEP_STARTED for an update that will not happen."""


class OptimizerStep:
    """The update under way: which optimizer makes it, and what handlers of STEP_STARTED decide about it.

    Attributes:
        optimizer: the optimizer whose ``step()`` is running.
        number: this update's number among the optimizer's own, from 1.
        will_run: whether the update is made: no handler skipped it.
        undo: what ``restore`` calls, the last first.
        deferred: what is to be called just before the update.
        grad_scale, found_inf: what GradScaler, or the user, set for the fused kernel.
    """

    # One is made in every update, between kernels that leave nothing of Python in the processor's caches, where a
    # call costs thrice what it does in a loop: so there are few calls, and what is seldom needed is made when it is.
    __slots__ = ("deferred", "found_inf", "grad_scale", "has_started", "number", "optimizer", "undo", "will_run")

    def __init__(self, optimizer: Optimizer, number: int) -> None:
        self.optimizer = optimizer
        self.number = number
        self.has_started = False
        self.will_run = True
        self.undo: tuple[Callable[[], None], ...] = ()
        self.deferred: tuple[Callable[[], None], ...] = ()
        self.grad_scale: torch.Tensor | None = getattr(optimizer, "grad_scale", None)
        self.found_inf: torch.Tensor | None = getattr(optimizer, "found_inf", None)

    def skip(self) -> NoReturn:
        """Leave parameters and optimizer state as they are; no STEP_COMPLETED, no count.

        Call it in a handler of STEP_STARTED. The handlers that would follow have no update to act on, so they are
        not called.
        """
        raise StepSkipped

    def before_update(self, function: Callable[[], None]) -> None:
        """Call ``function`` once the handlers of STEP_STARTED are done, unless one of them skips the update.

        Called by one of them, it lets a handler see what the update will use, whatever the order of attachment.
        """
        self.deferred += (function,)

    @property
    def can_fold(self) -> bool:
        """Whether the update is made by fused kernels that heed ``fold``."""
        return getattr(self.optimizer, "_step_supports_amp_scaling", False) and all(
            group.get("fused") for group in self.optimizer.param_groups
        )

    def fold(self, *, grad_scale: torch.Tensor | None = None, found_inf: torch.Tensor | None = None) -> None:
        """Let a fused kernel divide the gradients by ``grad_scale``, or skip itself where ``found_inf`` is 1.

        Both are float32 tensors of no dimension on a parameter's device, held for this update alone. Folded again,
        the gradients are divided by both scales, and one ``found_inf`` is enough to skip. Until the update is made
        the gradients are as before; ``events.runs_last`` tells whether a handler is there to see that.
        """
        if grad_scale is not None:
            before = self._replace("grad_scale", grad_scale)
            if before is not None:
                self._replace("grad_scale", before * grad_scale)
        if found_inf is not None:
            before = self._replace("found_inf", found_inf)
            if before is not None:
                self._replace("found_inf", torch.maximum(before.to(found_inf.device), found_inf))

    def _replace(self, name: str, value: torch.Tensor | None) -> torch.Tensor | None:
        """Set what torch's fused kernels read of the optimizer; return what was there."""
        attributes = self.optimizer.__dict__
        before: torch.Tensor | None = attributes.get(name)
        # GradScaler deletes the attributes that it has set, even to None: what was there has to be there again.
        undo = setattr if name in attributes else delattr
        self.undo += (functools.partial(undo, self.optimizer, name, *([before] if undo is setattr else [])),)
        attributes[name] = value
        return before

    def is_skipped_by_scaler(self) -> bool:
        """Whether GradScaler found an inf or NaN and the fused kernel will leave everything as it is."""
        # GradScaler leaves the skip of a fused optimizer to the kernel, so only the device knows of it. This read
        # is the one that GradScaler itself makes for every other optimizer.
        return bool(self.found_inf)

    def unscale(self) -> None:
        """Divide the gradients by GradScaler's factor here, where a fused kernel would do it too late for handlers."""
        scale = self.grad_scale
        if scale is None:
            return
        by_device: dict[torch.device, list[torch.Tensor]] = {}
        for _, gradient in _gradients(self.optimizer):
            by_device.setdefault(gradient.device, []).append(gradient)
        inverse = scale.double().reciprocal().float()  # as GradScaler's unscale_ does, to the last bit
        for device, gradients in by_device.items():
            torch._foreach_mul_(gradients, inverse.to(device, non_blocking=device.type != "cpu"))
        self._replace("grad_scale", None)

    def hide_gradients(self) -> None:
        """Let the update pass without effect."""
        # An optimizer skips a parameter whose gradient is None: no momentum, no weight decay, no state.
        self.will_run = False
        for parameter, gradient in _gradients(self.optimizer):
            self.undo += (functools.partial(setattr, parameter, "grad", gradient),)
            parameter.grad = None

    def restore(self) -> None:
        """Give back, after the update, what it withheld or replaced."""
        for give_back in reversed(self.undo):
            give_back()


class StepListener(Protocol):
    """Who is told of one optimizer's updates; held weakly."""

    def open_step(self, optimizer: Optimizer) -> OptimizerStep | None:
        """Return the update that is about to be made, or None to let it pass untold."""

    def on_step_started(self, step: OptimizerStep) -> None:
        """Act on final, unscaled gradients; may raise StepSkipped."""

    def on_step_completed(self, step: OptimizerStep) -> None:
        """Act on new parameters."""


class StepHooks:
    """Turns torch's step hooks into one start and one completion for each update that will_run.

    The optimizer holds this object, and this object holds the listener weakly: an optimizer that outlives a trainer
    keeps none alive.
    """

    def __init__(self, optimizer: Optimizer, listener: StepListener) -> None:
        self._listener = weakref.ref(listener)
        self._step: OptimizerStep | None = None
        self._depth = 0  # of the step() under way in calls of base classes' step()
        # torch.compile of a step would trace handlers into its graph, and cannot where they set what kernels read.
        untraced: Callable[[Any], Any] = torch.compiler.disable
        self._handles = (
            optimizer.register_step_pre_hook(untraced(self._before_step)),
            optimizer.register_step_post_hook(untraced(self._after_step)),
        )

    @property
    def is_under_way(self) -> bool:
        """Whether an update has begun that is not yet made."""
        return self._step is not None

    def remove(self) -> None:
        """Take both hooks off the optimizer."""
        for handle in self._handles:
            handle.remove()

    def _before_step(
        self, optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        if self._step is not None:
            if _is_nested(optimizer):
                self._depth += 1
                return None
            self._step.restore()  # the update before this one raised half-way
            self._step, self._depth = None, 0
        listener = self._listener()
        step = listener.open_step(optimizer) if listener is not None else None
        if step is None:
            return None
        self._step = step
        if step.found_inf is not None and step.is_skipped_by_scaler():
            # The kernel would skip, but torch's fused SGD would first make, and keep, momentum of uninitialised memory.
            step.hide_gradients()
            return None
        # torch passes the optimizer itself as the first positional argument.
        closure = args[1] if len(args) > 1 else kwargs.get("closure")
        if closure is None:
            self._start(step)
            return None
        return (optimizer, functools.partial(self._evaluate, closure, step)), {}

    def _evaluate(self, closure: Callable[[], Any], step: OptimizerStep) -> Any:
        if step.has_started:
            raise RuntimeError(
                "OptimizerEvents must have a closure that is evaluated once in an update, but "
                f"{type(step.optimizer).__name__} evaluated it again; detach the handlers that act on its updates"
            )
        loss = closure()
        self._start(step)
        return loss

    def _start(self, step: OptimizerStep) -> None:
        listener = self._listener()
        step.has_started = True
        if listener is not None:
            try:
                listener.on_step_started(step)
            except StepSkipped:
                step.hide_gradients()
            else:
                for function in step.deferred:
                    function()

    def _after_step(self, optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if self._depth:
            self._depth -= 1
            return
        step, self._step = self._step, None
        listener = self._listener()
        if step is None:
            return
        if step.undo:
            step.restore()
        if step.will_run and listener is not None:
            listener.on_step_completed(step)


def after_update(function: Callable[[], None]) -> None:
    """Call ``function`` when the update under way is done. Until then hooks must stay: torch is in a loop over them."""
    if not _waiting:
        # torch calls the hooks of all optimizers after an optimizer's own, and this one after all others.
        handle = register_optimizer_step_post_hook(lambda *_: _call_waiting(handle))
    _waiting.append(function)


_waiting: list[Callable[[], None]] = []


def _call_waiting(handle: RemovableHandle) -> None:
    handle.remove()
    waiting = tuple(_waiting)
    _waiting.clear()
    for function in waiting:
        function()


def _is_nested(optimizer: Optimizer) -> bool:
    """Whether the hook that calls this runs inside another ``step()`` of the same optimizer.

    Where a subclass's step() calls that of a base class, torch runs the hooks once more, inside the first.
    """
    wrapper = _frame_of(optimizer, sys._getframe(2))  # torch's function around step(), which runs the hooks
    outer = wrapper
    while outer is not None:
        outer = _frame_of(optimizer, outer.f_back)
        if outer is not None and wrapper is not None and outer.f_code is wrapper.f_code:
            return True
    return False


def _frame_of(optimizer: Optimizer, frame: FrameType | None) -> FrameType | None:
    """Return the first frame from here outwards that is the optimizer's own."""
    while frame is not None and frame.f_locals.get("self") is not optimizer:
        frame = frame.f_back
    return frame


def _gradients(optimizer: Optimizer) -> list[tuple[torch.Tensor, torch.Tensor]]:
    return [
        (parameter, parameter.grad)
        for group in optimizer.param_groups
        for parameter in group["params"]
        if parameter.grad is not None
    ]
