"""The rules that find a bound in a history of norms, against numpy and the formula."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ignite_tips.clipping.thresholds import PercentileRule, ZScoreRule

NORMS = st.lists(st.floats(0, 1e9, exclude_min=True), min_size=1, max_size=30)


@settings(max_examples=100)
@given(NORMS, st.floats(0.001, 100), st.integers(1, 12))
def test_percentile_is_numpys(norms: list[float], percentile: float, size: int) -> None:
    """The bound is numpy's percentile of the last norms, which are all that is kept."""
    rule = PercentileRule(percentile, size)
    for count, norm in enumerate(norms, 1):
        bound = rule.observe(norm)
        assert bound == pytest.approx(np.percentile(norms[max(0, count - size) : count], percentile), rel=1e-12)
    assert rule.state_dict()["norms"] == norms[-size:]


@settings(max_examples=50)
@given(NORMS, NORMS)
def test_rules_go_on_from_their_state(first: list[float], second: list[float]) -> None:
    """A rule that takes up another's state finds the same bounds, bit for bit."""
    for make in (lambda: PercentileRule(30, 5), lambda: ZScoreRule(0.9, 0.5, 3)):
        whole, half, resumed = make(), make(), make()
        for norm in first:
            assert whole.observe(norm) == half.observe(norm)
        resumed.load_state_dict(half.state_dict())
        assert [resumed.observe(norm) for norm in second] == [whole.observe(norm) for norm in second]


def test_outliers_are_bounded_by_their_z_score() -> None:
    """After the warm-up an outlier's bound is μ + z_t·σ / (z / z_t), and the bound enters the statistics."""
    rule = ZScoreRule(alpha=0.5, z_threshold=2.0, warmup_steps=2)
    assert [rule.observe(norm) for norm in (1.0, 3.0)] == [math.inf, math.inf]  # μ = 2, σ = 1
    z = (10.0 - 2.0) / (1.0 + 1e-6)
    bound = 2.0 + 2.0 * 1.0 / (z / 2.0)
    assert rule.observe(10.0) == bound
    mean = 0.5 * 2.0 + 0.5 * bound
    assert rule.state_dict() == {"warmup": [], "mean": mean, "variance": 0.5 * 1.0 + 0.5 * (bound - mean) ** 2}
    assert rule.observe(mean) == math.inf


def test_wrong_states_are_refused() -> None:
    """A state of another rule, or of wrong values, is refused and changes nothing."""
    rule = PercentileRule(50, 4)
    rule.observe(1.0)
    with pytest.raises(ValueError, match="the state's rule must have the keys norms, got mean"):
        rule.load_state_dict({"mean": 1})
    with pytest.raises(TypeError, match=r"the state's norms must be a list of norms, got 1.0$"):
        rule.load_state_dict({"norms": 1.0})
    assert rule.state_dict()["norms"] == [1.0]
    with pytest.raises(ValueError, match="the state's rule must have the keys warmup, mean, variance, got norms"):
        ZScoreRule(0.9, 1.0, 2).load_state_dict({"norms": 1})
