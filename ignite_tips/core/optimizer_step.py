"""One update of an optimizer, from final gradients to new parameters.

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

__all__ = ["OptimizerStep", "StepHooks", "StepListener", "StepSkipped", "after_update", "check_hooked"]


class StepSkipped(Exception):  # noqa: N818  # not an error: it carries a decision out of a handler
    """Stops the remaining handlers of STEP_STARTED when one of them skips the update."""


class OptimizerStep:
    """The update in progress: which optimizer makes it, and what handlers of STEP_STARTED decide about it.

    Attributes:
        optimizer: the optimizer whose ``step()`` is running.
        number: the number of this update among the optimizer's own, from 1.
        will_run: whether the update will be made; False once a handler skips it.
        undo: functions that ``restore`` calls, last first.
        deferred: functions to call just before the update.
        grad_scale, found_inf: what GradScaler, or the user, set for the fused kernel.
    """

    # Created in every update, right after kernels that evict Python from the CPU caches: a call costs three times
    # what it costs in a tight loop. So there are few calls, and rarely used attributes are created on demand.
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
        """Skip the update: nothing changes or is counted, and STEP_COMPLETED does not fire.

        Call it in a handler of STEP_STARTED. The handlers after it are not called, because there is no update for them.
        """
        raise StepSkipped

    def before_update(self, function: Callable[[], None]) -> None:
        """Call ``function`` after all handlers of STEP_STARTED, unless one of them skips the update.

        A handler of STEP_STARTED uses it to see what the update will use, whatever the order of attachment.
        """
        self.deferred += (function,)

    @property
    def is_fused(self) -> bool:
        """Whether fused kernels make the update, so that ``fold`` works."""
        return getattr(self.optimizer, "_step_supports_amp_scaling", False) and all(
            group.get("fused") for group in self.optimizer.param_groups
        )

    def fold(self, *, grad_scale: torch.Tensor | None = None, found_inf: torch.Tensor | None = None) -> None:
        """Let a fused kernel divide the gradients by ``grad_scale``, or skip the update if ``found_inf`` is 1.

        Both are 0-dim float32 tensors on a parameter's device, and apply to this update only. When several handlers
        fold, the gradients are divided by each scale, and any ``found_inf`` of 1 skips the update. The gradients
        themselves do not change before the update; ``wiring.runs_last`` says whether a later handler would notice.
        """
        if grad_scale is not None:
            before = getattr(self.optimizer, "grad_scale", None)
            self._replace("grad_scale", grad_scale if before is None else before * grad_scale)
        if found_inf is not None:
            before = getattr(self.optimizer, "found_inf", None)
            either = found_inf if before is None else torch.maximum(before.to(found_inf.device), found_inf)
            self._replace("found_inf", either)

    def _replace(self, name: str, value: torch.Tensor | None) -> None:
        """Set an attribute that torch's fused kernels read from the optimizer, until the update is done."""
        attributes = self.optimizer.__dict__
        # GradScaler deletes the attributes it has set, even those set to None: they must exist again afterwards.
        if name in attributes:
            give_back = functools.partial(setattr, self.optimizer, name, attributes[name])
        else:
            give_back = functools.partial(delattr, self.optimizer, name)
        self.undo += (give_back,)
        attributes[name] = value

    def is_skipped_by_scaler(self) -> bool:
        """Whether GradScaler found an inf or NaN, so that the fused kernel will skip the update."""
        # With a fused optimizer, GradScaler leaves the skip to the kernel, so only the device knows. GradScaler itself
        # makes this read for every other optimizer.
        return bool(self.found_inf)

    def unscale(self) -> None:
        """Divide the gradients by GradScaler's scale now; the fused kernel would do it after the handlers."""
        scale = self.grad_scale
        if scale is None:
            return
        by_device: dict[torch.device, list[torch.Tensor]] = {}
        for _, gradient in _gradients(self.optimizer):
            by_device.setdefault(gradient.device, []).append(gradient)
        inverse = scale.double().reciprocal().float()  # bit for bit as in GradScaler.unscale_
        for device, gradients in by_device.items():
            torch._foreach_mul_(gradients, inverse.to(device, non_blocking=device.type != "cpu"))
        self._replace("grad_scale", None)

    def hide_gradients(self) -> None:
        """Make the update a no-op."""
        # Optimizers skip a parameter whose gradient is None: no momentum, no weight decay, no state.
        self.will_run = False
        for parameter, gradient in _gradients(self.optimizer):
            self.undo += (functools.partial(setattr, parameter, "grad", gradient),)
            parameter.grad = None

    def restore(self) -> None:
        """After the update, restore what was hidden or replaced."""
        for give_back in reversed(self.undo):
            give_back()


class StepListener(Protocol):
    """Receives one optimizer's updates; held weakly."""

    def open_step(self, optimizer: Optimizer) -> OptimizerStep | None:
        """Return the update about to be made, or None to ignore it."""

    def on_step_started(self, step: OptimizerStep) -> None:
        """Act on final, unscaled gradients; may raise StepSkipped."""

    def on_step_completed(self, step: OptimizerStep) -> None:
        """Act on the updated parameters."""


class StepHooks:
    """Turns torch's step hooks into one start and one completion per update.

    The optimizer holds this object, which holds the listener weakly: an optimizer that outlives its trainer does not
    keep the trainer alive.
    """

    def __init__(self, optimizer: Optimizer, listener: StepListener) -> None:
        self._listener = weakref.ref(listener)
        self._step: OptimizerStep | None = None
        self._depth = 0  # how deep step() calls are nested: a subclass's may call its base class's
        # torch.compile would trace handlers into the graph of a step, and fails where they set what kernels read.
        untraced: Callable[[Any], Any] = torch.compiler.disable
        self._handles = (
            optimizer.register_step_pre_hook(untraced(self._before_step)),
            optimizer.register_step_post_hook(untraced(self._after_step)),
            *(
                inner.register_step_pre_hook(untraced(functools.partial(self._before_inner, weakref.ref(optimizer))))
                for inner in _inner_optimizers(optimizer).values()
                if _is_hooked(inner) and not _parameter_ids(optimizer).isdisjoint(_parameter_ids(inner))
            ),
        )

    @property
    def is_in_progress(self) -> bool:
        """Whether an update has started and is not completed."""
        return self._step is not None

    def remove(self) -> None:
        """Remove the hooks from the optimizer."""
        for handle in self._handles:
            handle.remove()

    def _before_step(
        self, optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        if self._step is not None:
            if _is_nested(optimizer):
                self._depth += 1
                return None
            self._step.restore()  # the previous update raised halfway
            self._step, self._depth = None, 0
        listener = self._listener()
        step = listener.open_step(optimizer) if listener is not None else None
        if step is None:
            return None
        _check_outside_backward(optimizer)
        _check_not_captured(optimizer)
        self._step = step
        if step.found_inf is not None and step.is_skipped_by_scaler():
            # The kernel would skip, but torch's fused SGD first allocates, and keeps, uninitialized momentum.
            step.hide_gradients()
            return None
        # torch passes the optimizer itself as the first positional argument.
        closure = args[1] if len(args) > 1 else kwargs.get("closure")
        if not callable(closure):
            self._start(step)
            return None
        evaluate = functools.partial(self._evaluate, closure, step)
        if len(args) > 1:
            return (optimizer, evaluate, *args[2:]), kwargs
        return args, {**kwargs, "closure": evaluate}

    def _before_inner(self, optimizer_ref: Callable[[], Optimizer | None], inner: Optimizer, *_: Any) -> None:
        listener, optimizer = self._listener(), optimizer_ref()
        if self._step is None and listener is not None and optimizer is not None and listener.open_step(optimizer):
            raise RuntimeError(
                f"{type(optimizer).__name__} must make its updates in its own step(), but its inner "
                f"{type(inner).__name__} made one outside it; {_use_inner(optimizer)}"
            )

    def _evaluate(self, closure: Callable[[], Any], step: OptimizerStep) -> Any:
        if step.has_started:
            raise RuntimeError(
                "a closure must be evaluated once in an update with OptimizerEvents, but "
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


def check_hooked(optimizer: Optimizer) -> None:
    """Raise TypeError if torch's hooks do not see the optimizer's ``step()``."""
    if not _is_hooked(optimizer):
        raise TypeError(
            f"optimizer must have a step() that torch's hooks see, got {type(optimizer).__name__}, a wrapper that does "
            f"not call Optimizer.__init__; {_use_inner(optimizer)}"
        )


def _is_hooked(optimizer: Optimizer) -> bool:
    # Optimizer.__init__ creates the tables of hooks, and marks its class's step() once that runs them.
    return hasattr(optimizer, "_optimizer_step_pre_hooks") and hasattr(type(optimizer).step, "hooked")


def _inner_optimizers(optimizer: Optimizer) -> dict[str, Optimizer]:
    """Return the optimizers that are attributes of another one, by name."""
    return {name: inner for name, inner in vars(optimizer).items() if isinstance(inner, Optimizer)}


def _parameter_ids(optimizer: Optimizer) -> set[int]:
    return {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}


def _use_inner(optimizer: Optimizer) -> str:
    names = [f", optimizer.{name}," for name in _inner_optimizers(optimizer)]
    return f"give handlers and schedulers the inner optimizer{names[0] if names else ''} instead"


def _check_outside_backward(optimizer: Optimizer) -> None:
    if torch._C._current_graph_task_id() == -1 or len(_parameter_ids(optimizer)) == 1:
        return
    raise RuntimeError(
        f"{type(optimizer).__name__} must be stepped after backward(), when its gradients are final, but was stepped "
        "within it; create an optimizer for each parameter, or detach the handlers that act on its updates"
    )


def _check_not_captured(optimizer: Optimizer) -> None:
    cuda: Any = torch.cuda
    if cuda.is_initialized() and cuda.is_current_stream_capturing():
        raise RuntimeError(
            f"{type(optimizer).__name__} must be stepped outside a CUDA graph, whose replays call no handlers; capture "
            "forward and backward only, or detach the handlers that act on its updates"
        )


def after_update(function: Callable[[], None]) -> None:
    """Call ``function`` once the update in progress is done. Hooks must stay until then: torch iterates over them."""
    if not _waiting:
        # torch calls global hooks after an optimizer's own hooks, and this global hook last.
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
    """Whether the calling hook runs inside another ``step()`` of the same optimizer.

    If a subclass's step() calls that of its base class, torch runs the hooks again inside the first call.
    """
    wrapper = _frame_of(optimizer, sys._getframe(2))  # torch's wrapper around step(), which runs the hooks
    outer = wrapper
    while outer is not None:
        outer = _frame_of(optimizer, outer.f_back)
        if outer is not None and wrapper is not None and outer.f_code is wrapper.f_code:
            return True
    return False


def _frame_of(optimizer: Optimizer, frame: FrameType | None) -> FrameType | None:
    """Return the first frame, from this one outwards, that belongs to the optimizer."""
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
