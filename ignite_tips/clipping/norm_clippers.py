"""Gradient clipping to a given threshold, of the norm or of each value."""

from collections.abc import Sequence
from itertools import chain
from math import hypot, inf, isfinite
from sys import float_info
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from ignite_tips._checks import check_number
from ignite_tips.clipping.gradient_clipper import ClippingMethod, GradientClipper, Update
from ignite_tips.clipping.gradients import Gradients
from ignite_tips.clipping.norms import (
    EPSILON,
    LARGEST_DIVISOR,
    check_norm_type,
    clamp_gradients,
    clip_coefficient,
    clip_divisor,
    largest_magnitude,
    min_factor,
    quick_norm,
    scale_gradients,
    tensor_norms,
)

__all__ = ["GradientNormClipper", "GradientValueClipper", "NormScaling", "ValueClamping"]

_ROUNDING = 1 + 1e-4  # margin, above the rounding error of a float32 norm of any model


class NormScaling(ClippingMethod):
    """Scale each list of gradients so that its norm is at most a threshold."""

    def __init__(self, settings: str, max_norm: float, norm_type: float = 2.0) -> None:
        super().__init__(settings)
        self.norm_type = norm_type
        self.limit = self._max_norm = max_norm

    def threshold(self, norm: Tensor | float) -> float:
        """Return the threshold for an update of this norm."""
        return self._max_norm

    def measure(self, gradients: Gradients) -> list[Sequence[Tensor]]:
        """Return the norm of each gradient, in lists."""
        return [tensor_norms(listed, self.norm_type) for listed in gradients.lists]

    def clip(self, update: Update) -> Tensor | float:
        """Scale the gradients; return the smallest factor."""
        threshold, lists, norms = self.threshold(update.norm), update.gradients.lists, update.norms
        scale = _scale_on_host if update.gradients.on_host else _scale_on_device
        if len(norms) == 1:
            return scale(lists[0], norms[0], threshold, update)
        return min_factor([scale(listed, norm, threshold) for listed, norm in zip(lists, norms, strict=True)])

    def clip_quickly(self, update: Update) -> tuple[float, float] | None:
        """Measure by dot products on the CPU.

        Return None unless their rounding cannot matter: the norm is clearly within the threshold, or a fused kernel
        scales the gradients. Otherwise torch's own norm decides, and scales by the very factor of ``clip_grad_norm_``.
        """
        gradients = update.gradients
        if self.norm_type != 2.0 or not gradients.on_host:
            return None
        norms = [quick_norm(listed) for listed in gradients.lists]
        known = [norm for norm in norms if norm is not None]
        if len(known) < len(norms):
            return None
        norm = hypot(*known)
        within = min(self._max_norm / _ROUNDING - EPSILON, float_info.max)
        if all(one <= within for one in known):  # NaN is not
            return norm, 1.0
        if len(known) > 1 or not update.may_scale_in_kernel:  # a kernel scales all gradients by one factor
            return None
        if not isfinite(norm) or norm > self._max_norm * LARGEST_DIVISOR:  # float32 has no such divisor
            return None
        factor = min(1.0, self._max_norm / (norm + EPSILON))
        update.step.fold(grad_scale=torch.tensor(1 / factor, dtype=torch.float32, device="cpu"))
        return norm, factor


def _scale_on_host(gradients: list[Tensor], norm: Tensor, threshold: float, update: Update | None = None) -> float:
    """Scale gradients on the CPU, where the factor can be read: nothing is multiplied by 1.

    ``update`` is given if these are all its gradients.
    """
    if norm.item() * _ROUNDING + EPSILON <= min(threshold, float_info.max):  # surely within it, without asking torch
        return 1.0
    coefficient = clip_coefficient(norm, threshold)
    factor = coefficient.item()
    if factor >= 1:
        return 1.0
    if update is not None and factor * LARGEST_DIVISOR >= 1 and update.may_scale_in_kernel:
        update.step.fold(grad_scale=clip_divisor(norm, threshold))
    else:
        scale_gradients(gradients, coefficient)
    return factor


def _scale_on_device(gradients: list[Tensor], norm: Tensor, threshold: float, update: Update | None = None) -> Tensor:
    """Scale gradients whose factor the device alone knows: the multiply always runs."""
    if update is not None and update.may_scale_in_kernel:
        divisor = clip_divisor(norm, threshold)
        update.step.fold(grad_scale=divisor)
        return divisor.reciprocal()
    factor = clip_coefficient(norm, threshold)
    scale_gradients(gradients, factor)
    return factor


class GradientNormClipper(GradientClipper):
    """Scale the gradients so that their norm is at most ``max_norm``: g ← g · min(1, max_norm / (‖g‖ + 1e-6)).

    Acts on ``OptimizerEvents.STEP_STARTED``. Gradients are final there, so the norm is that of the whole accumulation,
    unscaled, over all ranks. Every update sets two values in ``engine.state.metrics``: ``"grad_norm"``, the norm before
    clipping, and ``"grad_clip_coef"``, the factor.

    On a GPU "propagate" never waits for the device. "raise" waits for the norm of each update, unless the optimizer is
    fused: then the kernel skips the update, and the error comes at the next update or the end of the epoch (meanwhile
    ``STEP_COMPLETED`` has fired for it). "skip" always waits, because no event may follow a skipped update. With
    GradScaler and a fused optimizer every mode waits, to know whether GradScaler skips. If some of the parameters are
    on the CPU, the norm waits for the others. The metrics are tensors on a GPU, which Ignite's loggers read when they
    write, and floats on the CPU.

    Args:
        optimizer: the one whose gradients are clipped; its params may be on several devices, of several dtypes, or
            DTensors.
        max_norm: the threshold, > 0; ``math.inf`` only measures.
        norm_type: p > 0 of the p-norm; ``math.inf`` or ``"inf"`` for the largest magnitude.
        per_group: True clips each param group by its own norm; the metrics are then the norm of all and the smallest
            factor.
        on_nonfinite: what to do if a gradient is NaN or infinite on any rank, or the norm is too large for its dtype.
            ``"raise"``: a RuntimeError names the parameters and the update; parameters and optimizer state stay as they
            were. ``"skip"``: the whole update is skipped and counted in the metric ``"skipped_steps"``.
            ``"propagate"``: the gradients are used, as in torch.
            The forward pass can't be undone: a NaN in a batch stays in BatchNorm's running statistics until its
            ``reset_running_stats()``. GradScaler skips before a clipper acts, each rank by its own gradients: where one
            rank alone may have an inf after the reduction, use ShardedGradScaler and no fused optimizer.
        model: the one whose parameters the optimizer has; gives them their names in messages, unless the optimizer has
            the names from ``model.named_parameters()``. Its buffers that are not finite are named too.
        tag: prefix of the metrics' names, as in ``"generator/grad_norm"``; not empty. Without it the clippers of
            several optimizers write the same names, and the last update's values stay.
        process_group: the ranks that train together and have to agree; None for all. "propagate" asks none.
        norm_group: the ranks that have the other parameters of the model, such as the stages of a pipeline: a
            DeviceMesh of one dimension, as ``mesh["pp"]``, or a process group. The norm is then that of all. DTensors
            need none: they say on which ranks their parts are.

    Raises:
        TypeError, ValueError: if an argument is not as above (numpy and torch numbers work); if the optimizer has no
            parameter, or computes its gradients several times in an update, as LBFGS does.
        RuntimeError: when a run starts, if the ranks' optimizers have different parameters and there is no
            ``norm_group`` ("propagate" does not ask), or if ``per_group`` is to add the norms of different groups.

    State saved: the number of skipped updates.

    Example:
        >>> model = nn.Linear(4, 1)
        >>> sgd = torch.optim.SGD(model.parameters(), lr=0.1)
        >>> def update(engine, batch):
        ...     sgd.zero_grad()
        ...     (100 * model(batch)).mean().backward()
        ...     sgd.step()
        >>> trainer = Engine(update)
        >>> clipper = GradientNormClipper(sgd, max_norm=1.0).attach(trainer)
        >>> trainer.run([torch.ones(2, 4)]).metrics["grad_norm"]
        223.606...

    References:
        Pascanu, Mikolov, Bengio, "On the difficulty of training recurrent neural networks", ICML 2013,
        arXiv 1211.5063, section 3.2.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        max_norm: float,
        *,
        norm_type: float = 2.0,
        per_group: bool = False,
        on_nonfinite: Literal["raise", "skip", "propagate"] = "raise",
        model: nn.Module | None = None,
        tag: str | None = None,
        process_group: Any = None,
        norm_group: Any = None,
    ) -> None:
        max_norm = check_number("max_norm", max_norm, gt=0)
        super().__init__(
            optimizer,
            NormScaling(f"max_norm={max_norm}", max_norm, check_norm_type(norm_type)),
            per_group=per_group,
            on_nonfinite=on_nonfinite,
            model=model,
            tag=tag,
            process_group=process_group,
            norm_group=norm_group,
        )


class ValueClamping(ClippingMethod):
    """Bring every value to within ±``clip_value``."""

    norm_type = inf

    def __init__(self, clip_value: float) -> None:
        super().__init__(f"clip_value={clip_value}")
        self.limit = self._clip_value = clip_value

    def measure(self, gradients: Gradients) -> list[Sequence[Tensor]]:
        """Return the largest magnitude of each gradient."""
        listed = gradients.all
        return [[largest_magnitude(listed)] if gradients.on_host else tensor_norms(listed, inf)]

    def clip(self, update: Update) -> Tensor | float:
        """Clamp the gradients; return the factor of the value that was clipped most."""
        norm = update.norm
        if isinstance(norm, Tensor):
            clamp_gradients(update.gradients.all, self._clip_value)
            return (self._clip_value / norm).clamp_(max=1.0)
        if norm <= self._clip_value:
            return 1.0
        clamp_gradients(update.gradients.all, self._clip_value)
        return self._clip_value / norm


class GradientValueClipper(GradientClipper):
    """Clamp every value of the gradients to within ±``clip_value``.

    Acts on ``OptimizerEvents.STEP_STARTED``, where gradients are final. ``"grad_norm"`` is their largest magnitude
    before (the infinity norm); ``"grad_clip_coef"`` the factor of the value that was clipped most. On the CPU nothing
    is clamped when no value is over ``clip_value``.

    Args:
        optimizer: the one whose gradients are clipped, of real parameters.
        clip_value: > 0, finite.
        on_nonfinite: as for ``GradientNormClipper``. "propagate" keeps a NaN, as torch does, and makes ±``clip_value``
            of an infinite value.
        model, tag, process_group: as for ``GradientNormClipper``.

    Raises:
        TypeError, ValueError: if an argument is not as above; if the optimizer has no parameter.

    Example:
        >>> model = nn.Linear(4, 1)
        >>> sgd = torch.optim.SGD(model.parameters(), lr=0.1)
        >>> trainer = Engine(lambda engine, batch: sgd.step())
        >>> clipper = GradientValueClipper(sgd, clip_value=0.5).attach(trainer)

    References:
        Goodfellow, Bengio, Courville, "Deep Learning", 2016, section 10.11.1.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        clip_value: float,
        *,
        on_nonfinite: Literal["raise", "skip", "propagate"] = "raise",
        model: nn.Module | None = None,
        tag: str | None = None,
        process_group: Any = None,
    ) -> None:
        clip_value = check_number("clip_value", clip_value, gt=0, lt=inf)
        super().__init__(
            optimizer,
            ValueClamping(clip_value),
            on_nonfinite=on_nonfinite,
            model=model,
            tag=tag,
            process_group=process_group,
        )
        for parameter in chain.from_iterable(group["params"] for group in optimizer.param_groups):
            if parameter.is_complex():
                raise TypeError(
                    f"optimizer must have real parameters to clip each value of, got one of {parameter.dtype}; "
                    "clip their norm with GradientNormClipper"
                )
