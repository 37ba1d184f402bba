"""Gradient clipping to a given bound, of the norm or of each value."""

from itertools import chain
from math import hypot, inf, isfinite
from sys import float_info
from typing import Any

import torch
from ignite.engine import Engine
from torch import Tensor, nn
from torch.optim import Optimizer

from ignite_tips._checks import check_number
from ignite_tips.clipping.gradient_clipper import GradientClipper
from ignite_tips.clipping.norms import EPSILON, LARGEST_DIVISOR, clamp_gradients, largest_magnitude, min_factor
from ignite_tips.core.events import current_step

__all__ = ["GradientNormClipper", "GradientValueClipper"]

_ROUNDING = 1 + 1e-4  # more than float32 sums of any length that a model has differ from the sum in double precision


class GradientNormClipper(GradientClipper):
    """Scale the gradients so that their norm is at most ``max_norm``: g ← g · min(1, max_norm / (‖g‖ + 1e-6)).

    Acts on ``OptimizerEvents.STEP_STARTED``: there the gradients are final, so that the norm is that of the whole
    accumulation, unscaled, over all ranks. Every update leaves in ``engine.state.metrics`` the ``"grad_norm"`` before
    clipping and the ``"grad_clip_coef"`` that it was multiplied by.

    On a GPU "propagate" never waits for the device. "raise" waits for the norm of each update, unless the optimizer is
    fused: then the kernel leaves the update out, and the error comes at the next update or the end of the epoch
    (``STEP_COMPLETED`` has fired for it meanwhile). "skip" always waits, for no event may follow a dropped update.
    Under GradScaler the events of a fused optimizer wait in every mode, to know whether it skips; and where some of
    the parameters are on the CPU, the norm waits for the others. The metrics are tensors there, which Ignite's loggers
    read when they write, and floats on the CPU.

    Args:
        optimizer: the one whose gradients are clipped; its params may be of several devices, dtypes or DTensors.
        max_norm: the bound, > 0; ``math.inf`` only measures.
        norm_type: p > 0 of the p-norm, ``math.inf`` for the largest magnitude.
        per_group: True clips each param group by its own norm; the metrics are then the norm of all and the smallest
            factor.
        on_nonfinite: what a NaN or infinite gradient does, on whichever rank, or a norm too large for its dtype.
            ``"raise"``: a RuntimeError names the parameters and the update; parameters and optimizer state stay as they
            were. ``"skip"``: the update is dropped whole and counted in the metric ``"skipped_steps"``.
            ``"propagate"``: it is used, as in torch.
            What the forward pass did is done: a NaN in a batch stays in BatchNorm's running statistics, until its
            ``reset_running_stats()``. GradScaler skips before a clipper acts, each rank by its own gradients: where
            one alone may have an inf after they were reduced, take ShardedGradScaler and no fused optimizer.
        model: the one whose parameters the optimizer has; gives them their names in messages, unless the optimizer has
            them of ``model.named_parameters()``; its buffers that are not finite are named too.
        tag: put before the names of the metrics, as in ``"generator/grad_norm"``; not empty. Without it the clippers of
            several optimizers write the same names, and the last update's values stay.
        process_group: the ranks that train together and have to agree; None for all of them. "propagate" asks none.

    Raises:
        TypeError, ValueError: if an argument is not as above, or a numpy or torch number; if the optimizer has no
            parameter, or computes its gradients several times in an update, as LBFGS.

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
        on_nonfinite: str = "raise",
        model: nn.Module | None = None,
        tag: str | None = None,
        process_group: Any = None,
    ) -> None:
        check_number("max_norm", max_norm, gt=0)
        super().__init__(
            optimizer,
            norm_type=norm_type,
            per_group=per_group,
            on_nonfinite=on_nonfinite,
            model=model,
            tag=tag,
            process_group=process_group,
        )
        self._max_norm, self._threshold = max_norm, f"max_norm={max_norm}"
        self._clipped_last = False
        self._surely_within = min(max_norm / _ROUNDING - EPSILON, float_info.max)

    def _clip(self, engine: Engine) -> None:
        # What was clipped is likely to be again, and unless it is folded by the very factor that torch would take.
        if (
            (self._clipped_last and not (self._gradients.worth_folding and self._folds(engine)))
            or self._norm_type != 2.0
            or self._has_peers
            or not self._clip_on_host(engine)
        ):
            super()._clip(engine)

    def _clip_on_host(self, engine: Engine) -> bool:
        """Do all that is to do with a cheaper norm, where it serves; return whether it did."""
        norms = self._gradients.norms_on_host()
        if norms is None:
            return False
        norm = norms[0] if len(norms) == 1 else hypot(*norms)
        factor = 1.0
        if not all(one <= self._surely_within for one in norms):  # NaN is not
            is_foldable = isfinite(norm) and norm <= self._max_norm * LARGEST_DIVISOR
            if len(norms) > 1 or not is_foldable or not self._folds(engine):
                return False
            factor = min(1.0, self._max_norm / (norm + EPSILON))
            current_step(engine).fold(grad_scale=torch.tensor(1 / factor, dtype=torch.float32, device="cpu"))
        metrics = engine.state.metrics
        metrics[self._norm_name], metrics[self._coefficient_name] = norm, factor
        return True

    def _shrink(
        self, engine: Engine, gradients: list[list[Tensor]], norms: list[Tensor], norm: Tensor | float
    ) -> Tensor | float:
        factor: Tensor | float
        if len(norms) == 1:
            factor = self._scale(engine, gradients[0], norms[0], self._max_norm, whole=True)
        else:
            factors = [
                self._scale(engine, listed, one, self._max_norm, whole=False)
                for listed, one in zip(gradients, norms, strict=True)
            ]
            factor = min_factor(factors)
        self._clipped_last = self._gradients.on_host and bool(factor != 1.0)
        return factor


class GradientValueClipper(GradientClipper):
    """Bring every value of the gradients to within ±``clip_value``.

    Acts on ``OptimizerEvents.STEP_STARTED``: there the gradients are final. ``"grad_norm"`` is their 2-norm before;
    ``"grad_clip_coef"`` the factor of the value that was clipped most. No clipping is done in vain on the CPU.

    Args:
        optimizer: the one whose gradients are clipped, of real parameters.
        clip_value: > 0, finite.
        on_nonfinite, model, tag, process_group: as for ``GradientNormClipper``; "propagate" keeps a NaN, as torch does,
            and makes of an infinite value ±``clip_value``.

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
        on_nonfinite: str = "raise",
        model: nn.Module | None = None,
        tag: str | None = None,
        process_group: Any = None,
    ) -> None:
        check_number("clip_value", clip_value, gt=0, lt=inf)
        super().__init__(optimizer, on_nonfinite=on_nonfinite, model=model, tag=tag, process_group=process_group)
        for parameter in chain.from_iterable(group["params"] for group in optimizer.param_groups):
            if parameter.is_complex():
                raise TypeError(
                    f"optimizer must have real parameters to clip each value of, got one of {parameter.dtype}; "
                    "clip their norm with GradientNormClipper"
                )
        self._clip_value, self._threshold = clip_value, f"clip_value={clip_value}"

    def _shrink(
        self, engine: Engine, gradients: list[list[Tensor]], norms: list[Tensor], norm: Tensor | float
    ) -> Tensor | float:
        on_host = self._gradients.on_host
        if on_host and norm * _ROUNDING <= self._clip_value:  # no value is larger than the norm
            return 1.0
        largest = largest_magnitude(gradients[0], uniform=self._gradients.uniform)
        factor = (self._clip_value / largest).clamp_(max=1.0)
        if on_host and factor.item() >= 1:
            return 1.0
        clamp_gradients(gradients[0], self._clip_value)
        return factor.item() if on_host else factor
