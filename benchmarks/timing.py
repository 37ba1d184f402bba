"""Time functions side by side: in turn, within one process, so that a drift of the machine meets all alike."""

import gc
import time
from collections.abc import Callable

__all__ = ["interleaved"]


def interleaved(functions: dict[str, Callable[[], object]], *, rounds: int, number: int) -> dict[str, list[float]]:
    """Return seconds per call, one figure a round, for each function.

    Args:
        functions: by name; each is called ``number`` times in every round, after one such call to warm up.
        rounds: how often all of them take their turn; every other round goes backwards.
        number: calls that are timed together.
    """
    for function in functions.values():
        function()
    seconds: dict[str, list[float]] = {name: [] for name in functions}
    order = list(functions.items())
    gc.collect()
    gc.disable()
    try:
        for _ in range(rounds):
            for name, function in order:
                started = time.perf_counter()
                for _ in range(number):
                    function()
                seconds[name].append((time.perf_counter() - started) / number)
            order.reverse()
            gc.collect()
    finally:
        gc.enable()
    return seconds
