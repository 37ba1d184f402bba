"""Gradients that are not finite: what is done about them, found without waiting for the device, and described."""

import re
from collections.abc import Callable, Mapping, Sequence
from itertools import chain
from math import isfinite, isnan
from typing import NoReturn, cast

import torch
import torch.distributed as dist
from ignite.engine import Engine
from torch import Tensor, nn
from torch.optim import SGD, Optimizer

from ignite_tips.clipping.gradients import Gradients, parameter_names
from ignite_tips.clipping.norms import nonfinite_kinds
from ignite_tips.core.findings import first_few
from ignite_tips.core.ignite_internals import is_lr_search
from ignite_tips.core.optimizer_step import OptimizerStep
from ignite_tips.core.wiring import annotate
from ignite_tips.parameters.selection import unwrap_model

__all__ = [
    "DeferredFiniteCheck",
    "NonfinitePolicy",
    "describe_buffers",
    "describe_gradients",
    "keeps_state_when_skipped",
    "must_be_finite",
    "nonfinite_flag",
]


class NonfinitePolicy:
    """What happens to an update whose gradients are not finite: it raises, is skipped, or is made all the same.

    Attributes:
        mode: ``"raise"``, ``"skip"`` or ``"propagate"``.
        skipped: updates skipped so far.
    """

    def __init__(self, mode: str, optimizer: Optimizer, model: nn.Module | None) -> None:
        self.mode = mode
        self.skipped = 0
        self._optimizer = optimizer
        self._model = model
        self._told = 0
        self._is_first = True
        self._is_lr_search = False
        self._deferred = DeferredFiniteCheck()

    def start_run(self, engine: Engine) -> None:
        """Prepare for the first update."""
        self._deferred = DeferredFiniteCheck()
        self._is_first = True
        self._is_lr_search = is_lr_search(engine)

    def start_update(self, engine: Engine) -> None:
        """Raise if a kernel skipped the last update; at a run's first, add a loaded state's count to the metric."""
        self.raise_deferred(engine)
        if self._is_first:
            self._is_first = False
            self._tell_skipped(engine)

    def load(self, skipped: int) -> None:
        """Take up the count of another run."""
        self.skipped, self._told = skipped, 0

    def admit(
        self,
        engine: Engine,
        step: OptimizerStep,
        gradients: Gradients,
        gradient_norms: Sequence[Sequence[Tensor]],
        norm: Tensor | float,
    ) -> None:
        """Raise or skip the update if ``norm``, that of all gradients, is not finite.

        ``norm`` is a float if it is on the host, else a tensor.

        A fused kernel can skip the update by itself. Then the host need not wait for the device: it reads the norm one
        update later. "skip" waits, since whether an update was made has to be known at its end.
        """
        if self.mode == "propagate":
            return
        can_defer = isinstance(norm, Tensor) and self.mode == "raise" and not gradients.partly_on_host
        if can_defer and step.is_fused and keeps_state_when_skipped(self._optimizer):
            self._defer(engine, step, gradients, gradient_norms, cast(Tensor, norm))
        elif not isfinite(norm):
            self._raise_or_skip(engine, step)

    def raise_deferred(self, engine: Engine | None = None) -> None:
        """Raise if the last update was skipped by a kernel; a search for the learning rate ends instead."""
        if not self._deferred.is_pending:
            return
        update = self._deferred.update
        found = self._deferred.describe_nonfinite()
        if found is None:
            return
        if engine is None or not self._is_lr_search:
            raise RuntimeError(must_be_finite(found, update, has_model=self._model is not None))
        engine.terminate()

    def _defer(
        self,
        engine: Engine,
        step: OptimizerStep,
        gradients: Gradients,
        gradient_norms: Sequence[Sequence[Tensor]],
        norm: Tensor,
    ) -> None:
        step.fold(found_inf=nonfinite_flag(norm))
        owners = list(chain.from_iterable(gradients.owners))

        def names() -> list[str]:
            all_names = parameter_names(self._optimizer, self._model)
            return [all_names[parameter] for parameter in owners]

        self._deferred.start(_describe_update(engine, step), norm, list(chain.from_iterable(gradient_norms)), names)

    def _raise_or_skip(self, engine: Engine, step: OptimizerStep) -> NoReturn:
        if self._is_lr_search and self.mode == "raise":
            engine.terminate()  # with an error Ignite would not restore what the search changed
            step.skip()
        update = _describe_update(engine, step)
        what = describe_gradients(parameter_names(self._optimizer, self._model))
        left = describe_buffers(self._model)
        if self.mode == "raise":
            raise RuntimeError(must_be_finite(what, update, has_model=self._model is not None, left=left))
        self.skipped += 1
        self._tell_skipped(engine)
        annotate(engine, "skipped_step", f"{update} skipped: {what}{left}")
        step.skip()

    def _tell_skipped(self, engine: Engine) -> None:
        # Clippers of several optimizers add up; what a loaded state counts is told once.
        metrics = engine.state.metrics
        metrics["skipped_steps"] = metrics.get("skipped_steps", 0) + self.skipped - self._told
        self._told = self.skipped


def _describe_update(engine: Engine, step: OptimizerStep) -> str:
    state = engine.state
    return f"update {step.number} of {type(step.optimizer).__name__} (iteration {state.iteration}, epoch {state.epoch})"


class DeferredFiniteCheck:
    """Copies the norm of all gradients to the host without waiting, and tells later whether it was finite.

    Attributes:
        update: describes the update whose norm is on its way; empty if none is.
    """

    def __init__(self) -> None:
        self.update = ""
        self._gradient_norms: Sequence[Tensor] = ()
        self._names: Callable[[], Sequence[str]] = tuple
        self._kind: tuple[torch.dtype, torch.device] | None = None

    @property
    def is_pending(self) -> bool:
        """Whether a norm is on its way."""
        return self.update != ""

    def start(
        self, update: str, norm: Tensor, gradient_norms: Sequence[Tensor], names: Callable[[], Sequence[str]]
    ) -> None:
        """Start to copy ``norm``; ``gradient_norms`` are those of each gradient, ``names`` tells whose."""
        if self._kind != (norm.dtype, norm.device):  # kept, since each update's own would take 50 µs on an H200's host
            self._kind = (norm.dtype, norm.device)
            self._copied = torch.empty((), dtype=norm.dtype, device="cpu", pin_memory=norm.is_cuda)
            self._event = torch.Event(norm.device)
        self._copied.copy_(norm, non_blocking=True)
        self._event.record()
        self.update, self._gradient_norms, self._names = update, gradient_norms, names

    def describe_nonfinite(self) -> str | None:
        """Return whose norms are not finite, or None if all is finite; wait for the copy if it is under way."""
        gradient_norms, names = self._gradient_norms, self._names
        self.update, self._gradient_norms, self._names = "", (), tuple
        self._event.synchronize()
        if isfinite(self._copied.item()):
            return None
        values = torch.stack([norm.double() for norm in gradient_norms]).tolist() if gradient_norms else []
        kinds = ["" if isfinite(value) else "NaN" if isnan(value) else _INF_OR_OVERFLOW for value in values]
        return (
            first_few([f"{kind} in {name}" for kind, name in zip(kinds, names(), strict=True) if kind]) or _none_here()
        )


def keeps_state_when_skipped(optimizer: Optimizer) -> bool:
    """Return whether a fused kernel that skips the next update leaves the optimizer's state as it was.

    torch's fused SGD makes its momentum buffers of uninitialized memory and, if the kernel then skips, keeps them.
    """
    if not isinstance(optimizer, SGD):
        return True
    with_momentum = (group["params"] for group in optimizer.param_groups if group["momentum"] != 0)
    parameters = (parameter for group in with_momentum for parameter in group if parameter.grad is not None)
    return all("momentum_buffer" in optimizer.state.get(parameter, ()) for parameter in parameters)


def nonfinite_flag(norm: Tensor) -> Tensor:
    """Return what fused kernels take for ``found_inf``: 1 if the norm is not finite, else 0, in float32.

    Example:
        >>> nonfinite_flag(torch.tensor(float("inf"))), nonfinite_flag(torch.tensor(2.0))
        (tensor(1.), tensor(0.))
    """
    # inf * 0 and NaN * 0 are NaN, and NaN != 0 is 1: two kernels, where isfinite() takes four.
    return norm.mul(0).ne_(0).float()


# The gradients themselves are gone: all that is known is their norms, and a GPU squares in the gradient's dtype.
_INF_OR_OVERFLOW = "inf, or a norm too large for its dtype,"
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


def describe_gradients(names: Mapping[Tensor, str]) -> str:
    """Say which of the parameters, by name, have a gradient that is not finite."""
    gradients = {name: parameter.grad for parameter, name in names.items() if parameter.grad is not None}
    return first_few(_describe(gradients)) or _none_here()


def describe_buffers(model: nn.Module | None) -> str:
    """Say what stays though the update is not made, such as BatchNorm's running statistics of a NaN batch."""
    found = _describe({} if model is None else dict(unwrap_model(model).named_buffers()))
    return f"; the forward pass left {first_few(found)}" if found else ""


def _none_here() -> str:
    has_peers = dist.is_initialized() and dist.get_world_size() > 1
    return "a norm too large for its dtype" + (", or some on another rank" if has_peers else "")


def _describe(tensors: Mapping[str, Tensor]) -> list[str]:
    kinds = zip(tensors, nonfinite_kinds(list(tensors.values())), strict=True)
    return [f"{found} in {name}" for name, found in kinds if found]
