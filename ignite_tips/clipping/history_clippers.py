"""Gradient clipping to bounds that follow from the norms so far."""

from collections.abc import Mapping
from math import inf
from typing import Any

from ignite.engine import Engine
from torch import Tensor, nn
from torch.optim import Optimizer

from ignite_tips._checks import check_integer, check_keys, check_number
from ignite_tips.clipping.gradient_clipper import GradientClipper
from ignite_tips.clipping.thresholds import PercentileRule, ZScoreRule

__all__ = ["AutoClipper", "ZClipper"]


class _HistoryClipper(GradientClipper):
    """Clips to the bound that a rule finds; the rule's history is part of the state."""

    _rule: PercentileRule | ZScoreRule
    _max_norm = inf
    _reads_norms = True

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "rule": self._rule.state_dict()}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        state = check_keys(f"{type(self).__name__} state", state_dict, ("skipped_steps", "rule"))
        check_integer("the state's skipped_steps", state["skipped_steps"], ge=0)
        self._rule.load_state_dict(state["rule"])
        self._load_skipped(state["skipped_steps"])

    def _shrink(
        self, engine: Engine, gradients: list[list[Tensor]], norms: list[Tensor], norm: Tensor | float
    ) -> Tensor | float:
        norm = float(norm)
        # What is not finite leaves no trace in the rule; nor does 0, as of a model that is frozen whole: a history of
        # zeros would bound all that follows to zero.
        threshold = self._rule.threshold(norm) if 0 < norm < inf else inf
        return self._scale(engine, gradients[0], norms[0], min(threshold, self._max_norm), whole=True)


class AutoClipper(_HistoryClipper):
    """Clip the gradients' 2-norm to the ``percentile`` of the last ``history_size`` norms, this one included.

    Norms of 0 and such as are not finite do not count.

    Acts on ``OptimizerEvents.STEP_STARTED``: there the gradients are final. The metrics are those of
    ``GradientNormClipper``. The bound is found on the host: a GPU is waited for once an update, in every mode.

    Args:
        optimizer: the one whose gradients are clipped.
        percentile: in (0, 100]; between two norms it is interpolated, as in ``numpy.percentile``.
        history_size: ≥ 1, the number of norms kept, 8 bytes each in a checkpoint.
        on_nonfinite, model, tag, process_group: as for ``GradientNormClipper``.

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
        on_nonfinite: str = "raise",
        model: nn.Module | None = None,
        tag: str | None = None,
        process_group: Any = None,
    ) -> None:
        check_number("percentile", percentile, gt=0, le=100)
        check_integer("history_size", history_size, ge=1)
        super().__init__(optimizer, on_nonfinite=on_nonfinite, model=model, tag=tag, process_group=process_group)
        self._rule, self._threshold = PercentileRule(percentile, history_size), f"percentile={percentile}"


class ZClipper(_HistoryClipper):
    """Clip a 2-norm whose z-score over the running mean and deviation of norms is above ``z_threshold``.

    For ``warmup_steps`` updates norms are collected and ``max_norm`` alone bounds them; norms of 0 and such as are not
    finite do not count. From then on an outlier
    is clipped to μ + z_t·σ / (z / z_t), and everything to ``max_norm``. Acts on ``OptimizerEvents.STEP_STARTED``: there
    the gradients are final. The metrics are those of ``GradientNormClipper``. The bound is found on the host: a GPU is
    waited for once an update, in every mode.

    Args:
        optimizer: the one whose gradients are clipped.
        alpha: in (0, 1), the share that mean and variance keep in each update.
        z_threshold: > 0, finite, in standard deviations.
        max_norm: > 0, the bound of every update; ``math.inf`` for none.
        warmup_steps: ≥ 1, updates before the first z-score.
        on_nonfinite, model, tag, process_group: as for ``GradientNormClipper``.

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
        on_nonfinite: str = "raise",
        model: nn.Module | None = None,
        tag: str | None = None,
        process_group: Any = None,
    ) -> None:
        check_number("alpha", alpha, gt=0, lt=1)
        check_number("z_threshold", z_threshold, gt=0, lt=inf)
        check_number("max_norm", max_norm, gt=0)
        check_integer("warmup_steps", warmup_steps, ge=1)
        super().__init__(optimizer, on_nonfinite=on_nonfinite, model=model, tag=tag, process_group=process_group)
        self._max_norm, self._threshold = max_norm, f"z_threshold={z_threshold}, max_norm={max_norm}"
        self._rule = ZScoreRule(alpha, z_threshold, warmup_steps)
