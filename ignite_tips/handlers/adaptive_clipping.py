"""Adaptive gradient clipping: each unit's gradient bounded by its weights."""

from collections.abc import Iterable, Sequence
from math import inf
from typing import Any

import torch
from ignite.engine import Engine
from torch import Tensor, nn
from torch.optim import Optimizer

from ignite_tips._checks import check_instance, check_names, check_number
from ignite_tips.gradients.clipper import GradientClipper
from ignite_tips.gradients.norms import tensor_norms
from ignite_tips.gradients.unit_norms import clip_units, unit_norms, whole
from ignite_tips.parameters.selection import select_parameters

__all__ = ["AdaptiveGradientClipper"]


class AdaptiveGradientClipper(GradientClipper):
    """Scale down each unit's gradient G whose norm is over m = clipping · max(‖W‖, eps): G ← G · m / max(‖G‖, 1e-6).

    A unit is one index of the first dimension, such as an output channel; a tensor of less than two dimensions is one
    unit. Acts on ``OptimizerEvents.STEP_STARTED``, where gradients are final and weights not yet changed.

    ``"grad_norm"`` is the 2-norm of all gradients, excluded ones too; ``"grad_clip_coef"`` a unit's smallest factor.

    Args:
        optimizer: the one whose gradients are clipped.
        clipping: λ > 0, finite, the largest ratio of a unit's gradient norm to its weight norm.
        eps: > 0, finite, stands for a smaller weight norm, so that zero weights can grow.
        exclude: one shell glob or several over the model's parameter names that are left alone, none by default; the
            paper leaves out the classifier.
        model: the one that ``exclude`` names parameters of; it also gives names to messages.
        on_nonfinite, tag, process_group: as for ``GradientNormClipper``. A GPU is waited for once an update unless
            ``"propagate"``.

    Raises:
        TypeError, ValueError: if an argument is not as above, a pattern matches nothing or all is excluded.

    Example:
        >>> model = nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 2))
        >>> sgd = torch.optim.SGD(model.parameters(), lr=0.1)
        >>> trainer = Engine(lambda engine, batch: sgd.step())
        >>> clipper = AdaptiveGradientClipper(sgd, 0.01, exclude="1.*", model=model).attach(trainer)

    References:
        Brock, De, Smith, Simonyan, "High-Performance Large-Scale Image Recognition Without Normalization", 2021,
        arXiv 2102.06171, section 4.1, equation 3.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        clipping: float = 0.01,
        *,
        eps: float = 1e-3,
        exclude: str | Iterable[str] = (),
        model: nn.Module | None = None,
        on_nonfinite: str = "raise",
        tag: str | None = None,
        process_group: Any = None,
    ) -> None:
        check_number("clipping", clipping, gt=0, lt=inf)
        check_number("eps", eps, gt=0, lt=inf)
        patterns = check_names("exclude", exclude)
        super().__init__(optimizer, on_nonfinite=on_nonfinite, model=model, tag=tag, process_group=process_group)
        if patterns:
            check_instance("model", model, nn.Module, "the torch.nn.Module whose parameters exclude names")
        self._excluded = set(select_parameters(model, patterns).values()) if model and patterns else set()
        own = {parameter for group in optimizer.param_groups for parameter in group["params"]}
        if own <= self._excluded:
            raise ValueError(
                f"exclude must leave a parameter of the optimizer to clip, got {', '.join(patterns)} for all of them"
            )
        self._clipping, self._eps, self._bound = clipping, eps, f"clipping={clipping}"
        self._unit_norms: list[Tensor] = []

    @torch.no_grad()
    def _measure(self, gradients: list[list[Tensor]]) -> list[Sequence[Tensor]]:
        self._unit_norms = [unit_norms(gradient) for gradient in gradients[0]]
        return [tensor_norms([whole(norms) for norms in self._unit_norms])]

    @torch.no_grad()
    def _shrink(
        self, engine: Engine, gradients: list[list[Tensor]], norms: list[Tensor], norm: Tensor | float
    ) -> Tensor | float:
        owners = self._gradients.owners(len(gradients[0]))
        units = zip(owners, gradients[0], self._unit_norms, strict=True)
        kept = [(_weights(owner), *others) for owner, *others in units if owner not in self._excluded]
        self._unit_norms = []
        if not kept:
            return 1.0
        weights, clipped, of_units = zip(*kept, strict=True)
        return clip_units(weights, clipped, of_units, self._clipping, self._eps, on_host=self._gradients.on_host)


def _weights(parameter: Tensor) -> Tensor:
    """Return the weights that the gradient's values belong to: of a sparse gradient, the rows that it has."""
    gradient = parameter.grad
    if gradient is None or not gradient.is_sparse or parameter.dim() < 2:
        return parameter
    if gradient.sparse_dim() > 1:
        raise TypeError(
            f"AdaptiveGradientClipper must have sparse gradients of whole rows, got one of {gradient.sparse_dim()} "
            "sparse dimensions; exclude its parameter, or clip the norm with GradientNormClipper"
        )
    return parameter.detach()[tuple(gradient._indices())]
