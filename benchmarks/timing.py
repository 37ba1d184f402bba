"""Time functions side by side: in turn, within one process, so drifts of the machine affect all of them equally."""

import gc
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from math import nan
from statistics import median, quantiles

__all__ = ["Spread", "Times", "added", "fitted_line", "interleaved", "ratio", "run_process", "spread"]

Times = dict[str, list[float]]


def interleaved(functions: dict[str, Callable[[], object]], *, rounds: int, number: int) -> Times:
    """Return seconds per call for each function, one figure per round.

    Args:
        functions: by name; each is called ``number`` times per round, after one call to warm up. A function that
            returns a number of seconds has timed itself.
        rounds: how often all functions take their turn; every other round runs in reverse order.
        number: how many calls are timed together.
    """
    for function in functions.values():
        function()
    seconds: Times = {name: [] for name in functions}
    order = list(functions.items())
    gc.collect()
    gc.disable()
    try:
        for _ in range(rounds):
            for name, function in order:
                started = time.perf_counter()
                own = [function() for _ in range(number)]
                taken = time.perf_counter() - started
                itself = [value for value in own if isinstance(value, float)]
                seconds[name].append(sum(itself or [taken]) / number)
            order.reverse()
            gc.collect()
    finally:
        gc.enable()
    return seconds


def run_process(command: list[str], environment: dict[str, str] | None = None) -> Callable[[], object]:
    """Return a function that runs a command to its end."""
    return lambda: subprocess.run(command, env=environment, check=True, capture_output=True, timeout=120)


@dataclass(frozen=True)
class Spread:
    """The median and quartiles of many rounds."""

    middle: float
    low: float
    high: float


def spread(values: list[float]) -> Spread:
    low, _, high = quantiles(values, n=4, method="inclusive")
    return Spread(median(values), low, high)


def ratio(ours: list[float], theirs: list[float]) -> Spread:
    """Divide round by round: what slows the machine for a while cancels out.

    A cost is a difference, and noise can make it negative: such rounds are left out. If fewer than two rounds remain,
    the result is NaN.
    """
    ratios = [one / other for one, other in zip(ours, theirs, strict=True) if other > 0]
    return spread(ratios) if len(ratios) > 1 else Spread(nan, nan, nan)


def added(seconds: Times, pairs: dict[str, tuple[str, str]], steps: int) -> Times:
    """Return by how many microseconds a step of one run is slower than that of another, round by round.

    Args:
        seconds: times of runs, as ``interleaved`` returns them.
        pairs: for each name in the result, the run with something in it and the same run without.
        steps: the number of steps in a run.
    """
    return {
        name: [(one - bare) / steps * 1e6 for one, bare in zip(seconds[more], seconds[less], strict=True)]
        for name, (more, less) in pairs.items()
    }


def fitted_line(sizes: list[float], costs: list[float]) -> tuple[float, float]:
    """Return the fixed cost and the cost per item of the line with the least relative error.

    Sizes grow by factors, so with the absolute error the largest alone would decide. Costs below one microsecond are
    noise and weigh like one microsecond.
    """
    weights = [1 / max(cost, 1.0) ** 2 for cost in costs]
    total = sum(weights)
    mean_size = sum(w * x for w, x in zip(weights, sizes, strict=True)) / total
    mean_cost = sum(w * y for w, y in zip(weights, costs, strict=True)) / total
    rows = list(zip(weights, sizes, costs, strict=True))
    slope = sum(w * (x - mean_size) * (y - mean_cost) for w, x, y in rows) / sum(
        w * (x - mean_size) ** 2 for w, x, _ in rows
    )
    return mean_cost - slope * mean_size, slope
