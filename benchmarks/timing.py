"""Time functions side by side: in turn, within one process, so that a drift of the machine meets all alike."""

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
    """Return seconds per call, one figure a round, for each function.

    Args:
        functions: by name; each is called ``number`` times in every round, after one such call to warm up. One that
            returns a number of seconds has timed itself.
        rounds: how often all of them take their turn; every other round goes backwards.
        number: calls that are timed together.
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
    """What many rounds say: their median and quartiles."""

    middle: float
    low: float
    high: float


def spread(values: list[float]) -> Spread:
    low, _, high = quantiles(values, n=4, method="inclusive")
    return Spread(median(values), low, high)


def ratio(ours: list[float], theirs: list[float]) -> Spread:
    """Divide round by round, so that what slows the machine for a while divides out.

    What something adds is a difference, and noise can make it negative: such a round tells no ratio, and one round is
    not enough. Not a number where there is none.
    """
    ratios = [one / other for one, other in zip(ours, theirs, strict=True) if other > 0]
    return spread(ratios) if len(ratios) > 1 else Spread(nan, nan, nan)


def added(seconds: Times, pairs: dict[str, tuple[str, str]], steps: int) -> Times:
    """Return the microseconds that one step of a run takes more than another's, round by round.

    Args:
        seconds: of runs, as ``interleaved`` returns them.
        pairs: for each name of the result, which run has something in it, and which is the same without.
        steps: in a run.
    """
    return {
        name: [(one - bare) / steps * 1e6 for one, bare in zip(seconds[more], seconds[less], strict=True)]
        for name, (more, less) in pairs.items()
    }


def fitted_line(sizes: list[float], costs: list[float]) -> tuple[float, float]:
    """Return the fixed cost, and the cost of one more, of the line that least misses the costs in relation to them.

    Sizes are spaced by factors: without the relation the largest alone would decide. Costs of less than one, which are
    noise of microseconds, weigh no more than one.
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
