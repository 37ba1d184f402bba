"""What all clippers share: when they act, what a non-finite gradient does, what ranks agree on, what is told."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from math import inf, isfinite
from types import NoneType
from typing import Any, NoReturn, Self

import torch
import torch.distributed as dist
from ignite.engine import Engine
from torch import Tensor, nn
from torch.optim import Optimizer

from ignite_tips._checks import check_choice, check_instance, check_number
from ignite_tips.attachment import Attachment
from ignite_tips.events import OptimizerEvents, current_step
from ignite_tips.gradients import (
    EPSILON,
    clip_coefficient,
    nonfinite_kinds,
    scale_gradients,
    tensor_norms,
    total_norm,
)
from ignite_tips.notices import announce
from ignite_tips.optimizer_gradients import OptimizerGradients, parameter_names
from ignite_tips.optimizer_step import OptimizerStep

__all__ = ["GradientClipper"]

_NAMED = 5  # parameters that a message names
_SURELY_WITHIN = 1 + 1e-6  # covers the rounding of the coefficient in float32: below it, torch's is 1 exactly


class GradientClipper(ABC):
    """Scales each list of gradients so that its norm is within a bound that the subclass names.

    A subclass defines ``_bounds``; one that does more than to scale a list by one factor defines ``_shrink``.
    """

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
        check_instance("optimizer", optimizer, Optimizer, "a torch Optimizer")
        check_number("norm_type", norm_type, gt=0)
        check_instance("per_group", per_group, bool, "True or False")
        check_choice("on_nonfinite", on_nonfinite, ("raise", "skip", "propagate"))
        check_instance("model", model, (nn.Module, NoneType), "a torch.nn.Module or None")
        check_instance("tag", tag, (str, NoneType), "a string or None")
        self._optimizer = optimizer
        self._norm_type = norm_type
        self._on_nonfinite = on_nonfinite
        self._model = model
        self._process_group = process_group
        prefix = "" if tag is None else f"{tag}/"
        self._norm_name, self._coefficient_name = f"{prefix}grad_norm", f"{prefix}grad_clip_coef"
        self._gradients = OptimizerGradients(optimizer, per_group=per_group)
        self._attachment = Attachment()

    def attach(self, engine: Engine) -> Self:
        """Clip before every update that the optimizer makes while ``engine`` runs; attaching again replaces.

        Raises:
            TypeError: if ``engine`` is no Engine, or the optimizer computes its gradients several times in one update.
        """
        with self._attachment.renew():
            self._attachment.add_step_handler(engine, self._optimizer, OptimizerEvents.STEP_STARTED, self._clip)
        return self

    def detach(self) -> None:
        """Clip no more; without an attachment, do nothing."""
        self._attachment.clear()

    @abstractmethod
    def _bounds(self, norms: list[Tensor]) -> Sequence[float | Tensor]:
        """Return the largest norm allowed to each list of gradients, whose norms are given."""

    def _measure(self, gradients: list[list[Tensor]]) -> list[Tensor]:
        """Return the norm of each list of gradients."""
        uniform = self._gradients.uniform
        return [
            total_norm(tensor_norms(listed, self._norm_type, uniform=uniform), self._norm_type) for listed in gradients
        ]

    def _shrink(self, gradients: list[list[Tensor]], norms: list[Tensor]) -> Tensor | float:
        """Clip; return the smallest factor that a gradient was multiplied by."""
        factors = [
            _scale_to(listed, norm, bound, uniform=self._gradients.uniform)
            for listed, norm, bound in zip(gradients, norms, self._bounds(norms), strict=True)
        ]
        return factors[0] if len(factors) == 1 else _smallest(factors)

    def _clip(self, engine: Engine) -> None:
        step = current_step(engine)
        gradients = self._gradients.collect()
        try:
            norms = self._measure(gradients)
        except NotImplementedError:  # torch has no norms of sparse tensors; to look for some each time costs more
            if not self._gradients.expect_sparse():
                raise
            gradients = self._gradients.collect()
            norms = self._measure(gradients)
        norms = self._agree(norms)
        norm = norms[0] if len(norms) == 1 else total_norm(torch.stack(norms), self._norm_type)
        if self._on_nonfinite != "propagate" and not isfinite(norm.item()):
            self._refuse(engine, step)
        coefficient = self._shrink(gradients, norms)
        metrics = engine.state.metrics
        metrics[self._norm_name] = norm.item() if norm.is_cpu else norm
        metrics[self._coefficient_name] = coefficient

    def _agree(self, norms: list[Tensor]) -> list[Tensor]:
        """Return the largest norms of all ranks, infinite where any rank's is not finite.

        Where gradients were reduced these are the norms that each rank has already, but ranks of different
        hardware may differ in the last bit; where one rank has a NaN of its own, all have to know.
        """
        if self._on_nonfinite == "propagate" or not dist.is_initialized():
            return norms
        if dist.get_world_size(self._process_group) == 1:
            return norms
        largest = torch.nan_to_num(torch.stack(norms), nan=inf, posinf=inf)
        dist.all_reduce(largest, dist.ReduceOp.MAX, self._process_group)
        return list(largest)

    def _refuse(self, engine: Engine, step: OptimizerStep) -> NoReturn:
        """Raise, or drop the update, because of the gradients as they are."""
        where = f"update {step.number} of {type(step.optimizer).__name__}"
        what = self._describe_nonfinite()
        if self._on_nonfinite == "raise":
            raise RuntimeError(
                f"gradients must be finite, got {what} in {where} (iteration {engine.state.iteration}, "
                f"epoch {engine.state.epoch}); parameters and optimizer state are as before it"
            )
        engine.state.metrics["skipped_updates"] = engine.state.metrics.get("skipped_updates", 0) + 1
        announce(engine, "skipped_update", f"{where} dropped: {what}")
        step.drop()

    def _describe_nonfinite(self) -> str:
        found = [
            f"{kinds} in {name}"
            for parameter, name in parameter_names(self._optimizer, self._model).items()
            if parameter.grad is not None and (kinds := nonfinite_kinds(parameter.grad))
        ]
        more = f" and {len(found) - _NAMED} more" if len(found) > _NAMED else ""
        return (
            ", ".join(found[:_NAMED]) + more or "none here, but some on another rank, or a norm too large for its dtype"
        )


def _scale_to(gradients: list[Tensor], norm: Tensor, bound: float | Tensor, *, uniform: bool) -> Tensor | float:
    if norm.is_cpu and (norm.item() + EPSILON) * _SURELY_WITHIN <= bound:
        return 1.0
    coefficient = clip_coefficient(norm, bound)
    if norm.is_cpu and coefficient >= 1:
        return 1.0
    scale_gradients(gradients, coefficient, uniform=uniform)
    return coefficient.item() if norm.is_cpu else coefficient


def _smallest(factors: list[Tensor | float]) -> Tensor | float:
    tensors = [factor for factor in factors if isinstance(factor, Tensor)]
    if not tensors:
        return min(factors)
    return torch.stack([torch.as_tensor(factor, device=tensors[0].device) for factor in factors]).min()
