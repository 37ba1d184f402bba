"""Rules that take the norm of each update in turn, and return the threshold for it."""

from bisect import bisect_left, insort
from collections import deque
from collections.abc import Mapping
from math import floor, inf, sqrt
from typing import Any

from ignite_tips._checks import check_instance, check_keys, check_number

__all__ = ["PercentileRule", "ZScoreRule"]

_EPSILON = 1e-6  # of ZClip's z-score


class PercentileRule:
    """The percentile of the last norms, this one included, interpolated as numpy's default does."""

    def __init__(self, percentile: float, history_size: int) -> None:
        self._percentile = percentile
        self._history: deque[float] = deque(maxlen=history_size)
        self._sorted: list[float] = []

    def observe(self, norm: float) -> float:
        """Take the norm of an update; return the threshold for it."""
        if not 0 < norm < inf:  # leaves no trace: a history of zeros, as of a frozen model, would clip all to zero
            return inf
        if len(self._history) == self._history.maxlen:
            del self._sorted[bisect_left(self._sorted, self._history[0])]
        self._history.append(norm)
        insort(self._sorted, norm)
        place = self._percentile / 100 * (len(self._sorted) - 1)
        index = min(floor(place), len(self._sorted) - 1)
        low, high = self._sorted[index], self._sorted[min(index + 1, len(self._sorted) - 1)]
        share = place - index
        # From the nearer end, as numpy does: at 0 and at 1 it equals that end.
        return low + (high - low) * share if share < 0.5 else high - (high - low) * (1 - share)

    def state_dict(self) -> dict[str, Any]:
        """Return the norms, the oldest first.

        A list: torch.distributed.checkpoint loads a tensor only into one of the same size.
        """
        return {"norms": list(self._history)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take up a history; of one longer than ``history_size`` the last part."""
        norms = _check_norms("norms", check_keys("the state's rule", state, ("norms",))["norms"])
        self._history = deque(norms, maxlen=self._history.maxlen)
        self._sorted = sorted(self._history)


class ZScoreRule:
    """ZClip: a norm more than ``z_threshold`` standard deviations above a running mean is an outlier.

    After ``warmup_steps`` norms the mean μ and the variance σ² start as theirs; then for each norm x
    z = (x - μ) / (σ + 1e-6), and if z > z_t the threshold is μ + z_t·σ / (z / z_t). μ ← αμ + (1-α)x, then
    σ² ← ασ² + (1-α)(x - μ)², with the threshold in the place of an outlier.
    """

    def __init__(self, alpha: float, z_threshold: float, warmup_steps: int) -> None:
        self._alpha, self._z_threshold, self._warmup_steps = alpha, z_threshold, warmup_steps
        self._warmup: list[float] = []
        self._mean: float | None = None
        self._variance = 0.0

    def observe(self, norm: float) -> float:
        """Take the norm of an update; return the threshold for it, infinite unless it is an outlier."""
        if not 0 < norm < inf:  # leaves no trace
            return inf
        if self._mean is None:
            self._warmup.append(norm)
            if len(self._warmup) == self._warmup_steps:
                self._mean = sum(self._warmup) / len(self._warmup)
                self._variance = sum((x - self._mean) ** 2 for x in self._warmup) / len(self._warmup)
                self._warmup = []
            return inf
        deviation = sqrt(self._variance)
        z = (norm - self._mean) / (deviation + _EPSILON)
        is_outlier = z > self._z_threshold
        threshold = self._mean + self._z_threshold * deviation / (z / self._z_threshold) if is_outlier else inf
        counted = threshold if is_outlier else norm
        self._mean = self._alpha * self._mean + (1 - self._alpha) * counted
        self._variance = self._alpha * self._variance + (1 - self._alpha) * (counted - self._mean) ** 2
        return threshold

    def state_dict(self) -> dict[str, Any]:
        """Return the norms of an unfinished warm-up, the mean (None until its end) and the variance."""
        return {"warmup": list(self._warmup), "mean": self._mean, "variance": self._variance}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take up the statistics."""
        state = check_keys("the state's rule", state, ("warmup", "mean", "variance"))
        warmup, mean, variance = state["warmup"], state["mean"], state["variance"]
        warmup = _check_norms("warmup", warmup)
        if mean is not None:
            mean = check_number("the state's mean", mean, ge=0, lt=inf)
        elif len(warmup) >= self._warmup_steps:  # the end of the warm-up would never come
            raise ValueError(
                f"the state's warmup must be fewer norms than warmup_steps, {self._warmup_steps}, got {len(warmup)}; "
                "make the clipper with the warmup_steps of the run that saved it"
            )
        self._warmup, self._mean = warmup, mean
        self._variance = check_number("the state's variance", variance, ge=0, lt=inf)


def _check_norms(key: str, norms: Any) -> list[float]:
    check_instance(f"the state's {key}", norms, list, "a list of norms")
    return [check_number(f"each of the state's {key}", norm, gt=0, lt=inf) for norm in norms]
