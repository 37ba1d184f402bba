"""Gradient clipping to thresholds that follow from the norms so far."""

from collections.abc import Mapping
from math import inf
from typing import Any, Literal

from torch import Tensor, nn
from torch.optim import Optimizer

from ignite_tips._checks import check_integer, check_number
from ignite_tips.clipping.gradient_clipper import GradientClipper, Update
from ignite_tips.clipping.norm_clippers import NormScaling
from ignite_tips.clipping.thresholds import PercentileRule, ZScoreRule

__all__ = ["AutoClipper", "HistoryScaling", "ZClipper"]


class HistoryScaling(NormScaling):
    """Scale to a threshold that a rule finds in the norms so far, or to ``max_norm`` if that is less."""

    reads_norm = True

    def __init__(self, settings: str, rule: PercentileRule | ZScoreRule, max_norm: float = inf) -> None:
        super().__init__(settings, max_norm)
        self.limit = inf  # the rule's thresholds follow the norms
        self._rule = rule

    def threshold(self, norm: Tensor | float) -> float:
        """Return the threshold for the norm of this update."""
        return min(self._rule.observe(float(norm)), self._max_norm)

    def clip_quickly(self, update: Update) -> None:
        """Return None: there is no cheaper way, because the rule needs the norm."""
        return None

    def state_dict(self) -> dict[str, Any]:
        """Return the rule's history."""
        return {"rule": self._rule.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take up a history."""
        self._rule.load_state_dict(state["rule"])


class AutoClipper(GradientClipper):
    """Clip the gradients' 2-norm to the ``percentile`` of the last ``history_size`` norms, this one included.

    Norms that are 0 or not finite do not count.

    Acts on ``OptimizerEvents.STEP_STARTED``, where gradients are final. The metrics are those of
    ``GradientNormClipper``. The threshold is found on the host, which waits for a GPU once an update, in every mode.

    Args:
        optimizer: the one whose gradients are clipped.
        percentile: in (0, 100]; between two norms it is interpolated, as in ``numpy.percentile``.
        history_size: ≥ 1, the number of norms kept, 9 bytes each in a checkpoint.
        on_nonfinite, model, tag, process_group, norm_group: as for ``GradientNormClipper``.

    Raises:
        TypeError, ValueError: if an argument is not as above; if the optimizer has no parameter.

    State saved: the norms, the number of skipped updates.

    Example:
        >>> model = nn.Linear(4, 1)
        >>> sgd = torch.optim.SGD(model.parameters(), lr=0.1)
        >>> trainer = Engine(lambda engine, batch: sgd.step())
        >>> clipper = AutoClipper(sgd, percentile=10).attach(trainer)

    References:
        Seetharaman, Wichern, Pardo, Le Roux, "AutoClip: Adaptive Gradient Clipping for Source Separation Networks",
        2020, arXiv 2007.14469, section 3.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        percentile: float = 10.0,
        *,
        history_size: int = 10_000,
        on_nonfinite: Literal["raise", "skip", "propagate"] = "raise",
        model: nn.Module | None = None,
        tag: str | None = None,
        process_group: Any = None,
        norm_group: Any = None,
    ) -> None:
        percentile = check_number("percentile", percentile, gt=0, le=100)
        history_size = check_integer("history_size", history_size, ge=1)
        method = HistoryScaling(f"percentile={percentile}", PercentileRule(percentile, history_size))
        super().__init__(
            optimizer,
            method,
            on_nonfinite=on_nonfinite,
            model=model,
            tag=tag,
            process_group=process_group,
            norm_group=norm_group,
        )


class ZClipper(GradientClipper):
    """Clip a 2-norm whose z-score over the running mean and deviation of norms is above ``z_threshold``.

    For ``warmup_steps`` updates norms are collected, and ``max_norm`` is the only threshold. Later an outlier is
    clipped to μ + z_t·σ / (z / z_t), and everything to ``max_norm``. Norms that are 0 or not finite do not count.

    Acts on ``OptimizerEvents.STEP_STARTED``, where gradients are final. The metrics are those of
    ``GradientNormClipper``. The threshold is found on the host, which waits for a GPU once an update, in every mode.

    Args:
        optimizer: the one whose gradients are clipped.
        alpha: in (0, 1), the decay of the running mean and variance: the larger, the slower they change.
        z_threshold: > 0, finite, in standard deviations.
        max_norm: > 0, the largest threshold of any update; ``math.inf`` for none.
        warmup_steps: ≥ 1, updates before the first z-score.
        on_nonfinite, model, tag, process_group, norm_group: as for ``GradientNormClipper``.

    Raises:
        TypeError, ValueError: if an argument is not as above; if the optimizer has no parameter.

    State saved: mean, variance, the norms of an unfinished warm-up, the number of skipped updates.

    Example:
        >>> model = nn.Linear(4, 1)
        >>> sgd = torch.optim.SGD(model.parameters(), lr=0.1)
        >>> trainer = Engine(lambda engine, batch: sgd.step())
        >>> clipper = ZClipper(sgd, warmup_steps=10).attach(trainer)

    References:
        Kumar, Owen, Chowdhury, Güra, "ZClip: Adaptive Spike Mitigation for LLM Pre-Training", 2025,
        arXiv 2504.02507, section 3.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        *,
        alpha: float = 0.97,
        z_threshold: float = 2.5,
        max_norm: float = 1.0,
        warmup_steps: int = 25,
        on_nonfinite: Literal["raise", "skip", "propagate"] = "raise",
        model: nn.Module | None = None,
        tag: str | None = None,
        process_group: Any = None,
        norm_group: Any = None,
    ) -> None:
        alpha = check_number("alpha", alpha, gt=0, lt=1)
        z_threshold = check_number("z_threshold", z_threshold, gt=0, lt=inf)
        max_norm = check_number("max_norm", max_norm, gt=0)
        warmup_steps = check_integer("warmup_steps", warmup_steps, ge=1)
        settings = f"z_threshold={z_threshold}, max_norm={max_norm}"
        method = HistoryScaling(settings, ZScoreRule(alpha, z_threshold, warmup_steps), max_norm)
        super().__init__(
            optimizer,
            method,
            on_nonfinite=on_nonfinite,
            model=model,
            tag=tag,
            process_group=process_group,
            norm_group=norm_group,
        )
