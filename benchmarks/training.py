"""A training loop with all tips on: ours against a hand-written loop, Ignite's own handlers, Lightning and Accelerate.

Every loop does the same work in each update: forward, backward, clipping by norm, an optimizer step, a step of the
learning-rate schedule, and the learning rates of three param groups written to TensorBoard. A run ends when everything
it logged is in the file, so no writer's thread runs on during the next. Two loops without tips show what the tips cost.
"""

import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from math import isnan
from statistics import median

import torch

from benchmarks.tables import Bar, Table
from benchmarks.timing import Times, added, interleaved, ratio
from benchmarks.training_loops import (
    Loop,
    Task,
    bare_by_hand,
    bare_ignite,
    by_hand,
    tasks,
    with_accelerate,
    with_ignites_handlers,
    with_lightning,
    with_our_handlers,
)

BARE, BARE_IGNITE = "hand-written PyTorch, no tips", "Ignite, no tips"
HAND, OURS = "hand-written PyTorch", "Ignite with our handlers"
LOOPS: dict[str, Callable[[Task, str, bool], Loop]] = {
    BARE: bare_by_hand,
    BARE_IGNITE: bare_ignite,
    HAND: by_hand,
    OURS: with_our_handlers,
    "Ignite with its own handlers": with_ignites_handlers,
    "Lightning with its callbacks": with_lightning,
    "Accelerate": with_accelerate,
}
# The bars for our time over that of Ignite with its own handlers, and over Lightning's.
AHEAD_OF = ("Ignite with its own handlers", "Lightning with its callbacks")
# The tips with Ignite's TensorboardLogger in place of ResumableTensorboardLogger.
OURS_IGNITES_LOGGER = f"{OURS}, Ignite's logger"
# The bars for our cost over the hand-written loop (including Ignite's own), relative to that of the tips by hand.
ADDED_BARS = {OURS: 0.4, OURS_IGNITES_LOGGER: 0.5}


def times(task: Task, fused: bool, rounds: int, loops: dict[str, Callable[[Task, str, bool], Loop]] = LOOPS) -> Times:
    with started(task, fused, loops) as runs:
        return interleaved(runs, rounds=rounds, number=1)


@contextmanager
def started(task: Task, fused: bool, loops: dict[str, Callable[[Task, str, bool], Loop]]) -> Iterator[dict[str, Loop]]:
    """Yield a run of each loop; it ends when the device is done."""
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        runs: dict[str, Loop] = {}
        for name, make in loops.items():
            torch.manual_seed(0)
            runs[name] = _waited_for(task, make(task, f"{folder}/{name}", fused))
        yield runs


def _waited_for(task: Task, run: Loop) -> Loop:
    return lambda: (run(), task.wait())


def loops_table() -> Table:
    """Return a table for ``add_loops``; the picture draws it."""
    columns = {"task": "", "AdamW": "", "loop": "", "µs an update": ",.0f", "÷ hand-written": ".2f"}
    return Table(
        "loops",
        columns | {"ours ÷ it": ".2f", "bar": ""},
        caption="All tips on, one update: forward, backward, clipping, the optimizer's step, a step of the schedule, "
        "and three groups' learning rates in TensorBoard.",
        note="Medians; the ratios, taken round by round, with their quartiles. The bar is for the ratio of ours to "
        "that loop's time.",
    )


def add_loops(table: Table, task: Task, kind: str, seconds: Times, bars: dict[str, float]) -> None:
    """Add a row for each loop; ``bars`` limit the ratio of ours to a loop."""
    for name, values in seconds.items():
        beside = ratio(seconds[OURS], values)
        bar = Bar(bars[name], beside.middle) if name in bars else None
        micro = median(values) / task.updates * 1e6
        ours_to_it = None if name == OURS else beside
        table.add(task.name, kind, name, micro, ratio(values, seconds[HAND]), ours_to_it, bar)


def tips_table(what: str) -> Table:
    """Return a table for ``add_tips``."""
    columns = {"task": "", "AdamW": "", "loop": "", "by hand add, µs": ",.0f", "ours add, µs": ",.0f"}
    return Table(
        "tips",
        columns | {"ratio": ".2f", "bar": ""},
        caption=f"The cost of the tips per update: by hand over the hand-written loop, ours over {what}.",
        note="Medians; the ratio, taken round by round, with its quartiles.",
    )


def add_tips(table: Table, task: Task, kind: str, seconds: Times, ours: str, base: str, bar: float) -> None:
    """Add a row: how much slower the loop ``ours`` is than ``base``, and the cost of the tips by hand."""
    cost = added(seconds, {"by hand": (HAND, BARE), "ours": (ours, base)}, task.updates)
    beside = ratio(cost["ours"], cost["by hand"])
    within = None if isnan(beside.middle) else Bar(bar, beside.middle)
    table.add(task.name, kind, ours, median(cost["by hand"]), median(cost["ours"]), beside, within)


def measure(quick: bool) -> list[Table]:
    torch.set_num_threads(1)  # a second thread only adds noise to updates this short
    loops, tips = loops_table(), tips_table("the same loop, Ignite's own cost included")
    for task in tasks():
        for fused in (False, True):
            kind = "fused" if fused else "ordinary"
            is_small = task.name == "small MLP"  # with larger models the tips' cost is lost in the noise
            more = {OURS_IGNITES_LOGGER: partial(with_our_handlers, ignites_logger=True)} if is_small else {}
            seconds = times(task, fused, 3 if quick else task.rounds, LOOPS | more)
            add_loops(loops, task, kind, {name: seconds[name] for name in LOOPS}, dict.fromkeys(AHEAD_OF, 1.0))
            for ours, bar in ADDED_BARS.items() if is_small else ():
                add_tips(tips, task, kind, seconds, ours, BARE, bar)
    return [loops, tips]
