"""Timing, ratios and fitted lines."""

import math

import pytest

from benchmarks.timing import Spread, added, fitted_line, interleaved, ratio, spread


def test_functions_take_turns_in_alternating_order() -> None:
    """Each function runs once to warm up; then every other round is in reverse order."""
    calls: list[str] = []
    functions = {name: (lambda name=name: calls.append(name)) for name in "ab"}
    seconds = interleaved(functions, rounds=3, number=2)
    assert "".join(calls) == "ab" + "aabb" + "bbaa" + "aabb"
    assert {name: len(values) for name, values in seconds.items()} == {"a": 3, "b": 3}


def test_a_function_that_returns_seconds_has_timed_itself() -> None:
    """The seconds that a function returns replace those of the call."""
    assert interleaved({"own": lambda: 0.25}, rounds=2, number=4) == {"own": [0.25, 0.25]}


def test_a_spread_is_median_and_quartiles() -> None:
    """The quartiles are within the measured values."""
    assert spread([5.0, 1.0, 2.0, 4.0, 3.0]) == Spread(3.0, 2.0, 4.0)
    assert spread([1.0, 2.0]) == Spread(1.5, 1.25, 1.75)


def test_ratios_are_taken_round_by_round() -> None:
    """A round in which everything takes ten times as long has the same ratio as the others."""
    assert ratio([1.0, 10.0, 1.0], [2.0, 20.0, 2.0]) == Spread(0.5, 0.5, 0.5)


def test_a_difference_that_noise_made_negative_gives_no_ratio() -> None:
    """Rounds whose divisor is not positive are left out, and fewer than two rounds give no ratio."""
    assert ratio([1.0, 1.0, 1.0], [-2.0, 2.0, 2.0]) == Spread(0.5, 0.5, 0.5)
    assert math.isnan(ratio([1.0, 1.0], [0.0, 2.0]).middle)


def test_the_cost_is_the_difference_of_two_runs_in_microseconds_per_step() -> None:
    """The runs of the same round are compared."""
    seconds = {"with": [3e-3, 5e-3], "without": [1e-3, 2e-3]}
    assert added(seconds, {"tip": ("with", "without")}, steps=100)["tip"] == pytest.approx([20.0, 30.0])


def test_a_line_is_fitted_by_relative_error() -> None:
    """A line is recovered, and one wrong cost at the largest size does not hide the fixed cost."""
    sizes = [10.0, 100.0, 1_000.0, 10_000.0]
    assert fitted_line(sizes, [5 + 2 * size for size in sizes]) == pytest.approx((5, 2))
    fixed, slope = fitted_line(sizes, [25.0, 205.0, 2_005.0, 26_000.0])
    assert fixed == pytest.approx(5, abs=2)
    assert slope == pytest.approx(2, rel=0.2)


def test_costs_that_are_all_noise_have_no_slope() -> None:
    """Fractions of a microsecond weigh no more than a microsecond."""
    fixed, slope = fitted_line([10.0, 100.0, 1_000.0], [0.5, -0.5, 1e-9])
    assert abs(slope) < 1e-3
    assert abs(fixed) < 0.5
