"""What all clippers share: when they act, what a non-finite gradient does, what ranks agree on, what is told."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from itertools import chain
from math import inf, isfinite
from types import NoneType
from typing import Any, NoReturn, Self

import torch
import torch.distributed as dist
from ignite.engine import Engine, Events
from torch import Tensor, nn
from torch.optim import Optimizer

from ignite_tips._checks import check_choice, check_instance, check_integer, check_keys, check_number, check_tag
from ignite_tips.clipping.nonfinite import (
    DeferredFiniteCheck,
    DeviceSkipGuard,
    describe_buffers,
    describe_gradients,
    must_be_finite,
    nonfinite_flag,
)
from ignite_tips.clipping.norms import (
    LARGEST_DIVISOR,
    clip_coefficient,
    clip_divisor,
    coefficient_on_host,
    scale_gradients,
    tensor_norms,
    to_device,
    total_norm,
)
from ignite_tips.clipping.optimizer_gradients import OptimizerGradients, parameter_names
from ignite_tips.core.conflicts import add_checked_role, describe_no_gradients, warn_after_first_epoch
from ignite_tips.core.events import OptimizerEvents, check_optimizer, current_step
from ignite_tips.core.optimizer_step import OptimizerStep
from ignite_tips.core.wiring import Attachment, ClipsGradients, annotate, runs_last
from ignite_tips.parameters.selection import check_belongs

__all__ = ["GradientClipper"]

_CPU = torch.device("cpu")  # whatever the default device is


class GradientClipper(ABC):
    """Acts on final gradients, before every update of one optimizer.

    A subclass says in ``_shrink`` what becomes of gradients whose norms are known, finite unless they may propagate.
    """

    _threshold = ""  # what the gradients are clipped to, for messages
    _reads_norms = False  # whether a subclass needs the norm on the host to find the threshold

    def __init__(
        self,
        optimizer: Optimizer,
        *,
        norm_type: float = 2.0,
        per_group: bool = False,
        on_nonfinite: str = "raise",
        model: nn.Module | None = None,
        tag: str | None = None,
        process_group: Any = None,
    ) -> None:
        check_optimizer(optimizer)
        check_number("norm_type", norm_type, gt=0)
        check_instance("per_group", per_group, bool, "True or False")
        check_choice("on_nonfinite", on_nonfinite, ("raise", "skip", "propagate"))
        check_instance("model", model, (nn.Module, NoneType), "a torch.nn.Module or None")
        if model is not None:
            check_belongs(optimizer, model)
        check_tag(tag)
        if dist.is_available():
            what = "a torch.distributed.ProcessGroup or None"
            check_instance("process_group", process_group, (dist.ProcessGroup, NoneType), what)
        self._optimizer = optimizer
        self._norm_type = norm_type
        self._on_nonfinite = on_nonfinite
        self._model = model
        self._process_group = process_group
        prefix = "" if tag is None else f"{tag}/"
        self._norm_name, self._coefficient_name = f"{prefix}grad_norm", f"{prefix}grad_clip_coef"
        self._gradients = OptimizerGradients(optimizer, per_group=per_group)
        self._has_peers = False
        self._deferred: DeferredFiniteCheck | None = None
        self._spent: DeferredFiniteCheck | None = None
        self._skip_guard = DeviceSkipGuard(optimizer)
        self._skipped = 0
        self._skipped_told = 0
        self._attachment = Attachment()

    def attach(self, trainer: Engine) -> Self:
        """Clip before every update that the optimizer makes while ``trainer`` runs; attaching again replaces.

        When the run starts it warns of a second clipper of its class for the optimizer, and of one of another optimizer
        that writes the same metrics; after the first epoch, if the optimizer, with parameters to train, made no update
        or had no gradient. Of a later epoch without updates it does not, for a pause may be meant, as in phases of two
        optimizers: where the run replaces its optimizer, detach and attach a clipper of the new one.

        Raises:
            TypeError: if ``trainer`` is no Engine.
        """
        with self._attachment.renew():
            self._attachment.add_step_handler(trainer, self._optimizer, OptimizerEvents.STEP_STARTED, self._clip)
            role = ClipsGradients(self, self._optimizer, metric=self._norm_name, threshold=self._threshold)
            add_checked_role(self._attachment, trainer, role)
            self._attachment.add_handler(trainer, Events.STARTED, self._prepare)
            for ending in (Events.EPOCH_COMPLETED, Events.COMPLETED):
                self._attachment.add_handler(trainer, ending, self._raise_late)
            warn_after_first_epoch(self._attachment, trainer, self._describe_no_gradients)
            self._look_for_peers()
        return self

    def detach(self) -> None:
        """Clip no more; without an attachment, do nothing.

        Raises:
            RuntimeError: if the device left out the last update, for a gradient that was not finite; it is detached.
        """
        self._attachment.clear()
        self._raise_late()

    def state_dict(self) -> dict[str, Any]:
        """Return ``"skipped_steps"``, the number of dropped updates."""
        return {"skipped_steps": self._skipped}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Take up the state of another run.

        Raises:
            TypeError, ValueError: if the state is not that of such a clipper; nothing is changed then.
        """
        state = check_keys(f"{type(self).__name__} state", state_dict, ("skipped_steps",))
        self._load_skipped(state["skipped_steps"])

    def _load_skipped(self, skipped: object) -> None:
        self._skipped, self._skipped_told = check_integer("the state's skipped_steps", skipped, ge=0), 0

    @abstractmethod
    def _shrink(
        self, engine: Engine, gradients: list[list[Tensor]], norms: list[Tensor], norm: Tensor | float
    ) -> Tensor | float:
        """Clip lists of gradients with these norms; return the smallest factor that any was multiplied by.

        ``norm`` is that of all: a number where the host has it, which is wherever ``_reads_norms``.
        """

    def _measure(self, gradients: list[list[Tensor]]) -> list[Sequence[Tensor]]:
        """Return the norms of the tensors in each list."""
        norm_type, uniform = self._norm_type, self._gradients.uniform
        if len(gradients) == 1:
            return [tensor_norms(gradients[0], norm_type, uniform=uniform)]
        return [tensor_norms(listed, norm_type, uniform=uniform) for listed in gradients]

    def _collect(self) -> tuple[list[list[Tensor]], list[Sequence[Tensor]]]:
        """Return the gradients in lists, and their norms."""
        gradients = self._gradients.collect()
        try:
            return gradients, self._measure(gradients)
        except RuntimeError:  # torch has no such norm of a sparse tensor; to look for one every time costs more
            if not self._gradients.expect_sparse(gradients):
                raise
        return self._collect()

    def _clip(self, engine: Engine) -> None:
        if self._deferred is not None:
            self._raise_late()
        gradients, each = self._collect()
        if self._gradients.expect_sparse(gradients):  # newer torch measures them, but cannot clamp them
            gradients, each = self._collect()
        device = self._gradients.device
        norms = [
            total_norm(listed, self._norm_type) if listed else torch.zeros((), dtype=torch.float32, device=device)
            for listed in each
        ]
        if len(norms) > 1:  # of groups that may lie on several devices
            norms = [to_device(device, norm) for norm in norms]
        if self._has_peers and self._on_nonfinite != "propagate":
            norms = self._agree(norms)
        norm = norms[0] if len(norms) == 1 else total_norm(norms, self._norm_type)
        on_host = self._gradients.on_host
        known: Tensor | float = norm.item() if on_host or self._reads_norms else norm
        if (
            self._on_nonfinite != "propagate"
            and not (known is norm and self._left_to_device(engine, norm, each))
            and not isfinite(known)
        ):
            self._refuse(engine, current_step(engine))
        factor = self._shrink(engine, gradients, norms, known)
        metrics = engine.state.metrics
        metrics[self._norm_name], metrics[self._coefficient_name] = known if on_host else norm, factor

    def _scale(
        self, engine: Engine, gradients: list[Tensor], norm: Tensor, threshold: float, *, whole: bool
    ) -> Tensor | float:
        """Scale gradients of this norm to the threshold; ``whole``: they are all that the optimizer has."""
        on_host = self._gradients.on_host
        value = coefficient_on_host(norm, threshold) if on_host else 0.0
        if value >= 1:
            return 1.0
        fits = not on_host or value * LARGEST_DIVISOR >= 1
        if whole and fits and self._gradients.worth_folding and self._folds(engine):
            scale = clip_divisor(norm, threshold)
            current_step(engine).fold(grad_scale=scale)
            return value if on_host else scale.reciprocal()
        dtype = norm.dtype
        factor = torch.scalar_tensor(value, dtype=dtype, device=_CPU) if on_host else clip_coefficient(norm, threshold)
        scale_gradients(gradients, factor, uniform=self._gradients.uniform)
        return value if on_host else factor

    def _folds(self, engine: Engine) -> bool:
        # In one kernel with the update. A handler that follows would see the gradients as they were.
        return (
            self._gradients.worth_folding  # which its callers in every update look at first, to spare the call
            and current_step(engine).can_fold
            and runs_last(engine, self._optimizer, self._clip)
        )

    def _prepare(self, engine: Engine) -> None:
        self._deferred = None
        self._look_for_peers()
        self._tell_skipped(engine)

    def _describe_no_gradients(self, engine: Engine) -> str | None:
        norm = engine.state.metrics.get(self._norm_name)
        what = None if self._skipped else describe_no_gradients(engine, self._optimizer, norm)
        return None if what is None else f"{type(self).__name__} found {what}"

    def _tell_skipped(self, engine: Engine) -> None:
        # Clippers of several optimizers add up; what a loaded state counts is told once.
        metrics = engine.state.metrics
        metrics["skipped_steps"] = metrics.get("skipped_steps", 0) + self._skipped - self._skipped_told
        self._skipped_told = self._skipped

    def _look_for_peers(self) -> None:
        self._has_peers = dist.is_initialized() and dist.get_world_size(self._process_group) > 1

    def _agree(self, norms: list[Tensor]) -> list[Tensor]:
        """Return the largest norms of all ranks, infinite where any rank's is not finite.

        Where gradients were reduced these are the norms that each rank has already, but ranks of different
        hardware may differ in the last bit; where one rank has a NaN of its own, all have to know.
        """
        largest = torch.nan_to_num(torch.stack(norms), nan=inf, posinf=inf)
        dist.all_reduce(largest, dist.ReduceOp.MAX, self._process_group)
        return list(largest)

    def _left_to_device(self, engine: Engine, norm: Tensor, each: list[Sequence[Tensor]]) -> bool:
        """Let the kernel leave out an update whose norm is not finite, if it can; the host learns it later.

        Whether an update was skipped has to be known at its end, so "skip" waits for the device.
        """
        if self._on_nonfinite == "skip" or self._gradients.partly_on_host:
            return False
        step = current_step(engine)
        if not step.can_fold or not self._skip_guard.are_safe(self._gradients.parameters):
            return False
        step.fold(found_inf=nonfinite_flag(norm))
        listed = list(chain.from_iterable(each))
        owners = self._gradients.owners(len(listed))

        def names() -> list[str]:
            all_names = parameter_names(self._optimizer, self._model)
            return [all_names[parameter] for parameter in owners]

        self._deferred = DeferredFiniteCheck(self._describe(engine, step), norm, listed, names, self._spent)
        return True

    def _raise_late(self, _engine: Engine | None = None) -> None:
        late, self._deferred = self._deferred, None
        if late is None:
            return
        found, self._spent = late.describe_nonfinite(), late
        if found is not None:
            raise RuntimeError(must_be_finite(f"NaN or inf in {found}", late.update, has_model=self._model is not None))

    def _describe(self, engine: Engine, step: OptimizerStep) -> str:
        return (
            f"update {step.number} of {type(step.optimizer).__name__} "
            f"(iteration {engine.state.iteration}, epoch {engine.state.epoch})"
        )

    def _refuse(self, engine: Engine, step: OptimizerStep) -> NoReturn:
        """Raise, or drop the update, because of the gradients as they are."""
        where = self._describe(engine, step)
        what = describe_gradients(parameter_names(self._optimizer, self._model))
        left = describe_buffers(self._model)
        if self._on_nonfinite == "raise":
            raise RuntimeError(must_be_finite(what, where, has_model=self._model is not None, left=left))
        self._skipped += 1
        self._tell_skipped(engine)
        annotate(engine, "skipped_step", f"{where} dropped: {what}{left}")
        step.skip()
