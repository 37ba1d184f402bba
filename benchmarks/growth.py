"""The cost of handlers per update as parameter tensors and param groups grow, compared with hand-written code.

The optimizer's update does nothing here (``loops.Still``): a real one takes a hundred times as long as some handlers,
and its noise would hide them. The cost is the difference of an engine's update with and without the handler. What a
handler does once when a run starts is not counted.
"""

import itertools
import tempfile
import time
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from math import inf
from pathlib import Path
from statistics import median
from typing import Any

import torch
from ignite.engine import Engine, Events
from torch import Tensor, nn
from torch.optim.lr_scheduler import StepLR
from torch.utils.tensorboard import SummaryWriter

from benchmarks.loops import Loop, Still, one_epoch
from benchmarks.tables import Bar, Table
from benchmarks.timing import Spread, added, fitted_line, interleaved, ratio
from ignite_tips import (
    AdaptiveGradientClipper,
    GradientNormClipper,
    GradientValueClipper,
    LearningRateLogger,
    OptimizerEvents,
    ParameterFreezer,
    ResumableTensorboardLogger,
    SchedulerStepper,
)

TENSORS = (10, 30, 100, 300, 1_000, 3_000, 10_000)
GROUPS = (1, 3, 10, 30, 100, 300, 1_000)
ROUNDS = 7
VALUES = 16  # in a tensor
WIDE = 1e6  # no gradient comes near: this measures the check, not the multiply
FIRST_STEP_BAR = 1.1
# The bars for the ratio of ours to by hand: of each tip, by what grows, the bar and the size from which on it holds.
BARS = {
    ("norm clipping", "tensors"): (0.6, 1),
    ("norm clipping", "groups"): (0.6, 1),
    ("value clipping", "tensors"): (1.0, 1),
    ("value clipping", "groups"): (1.0, 1),
    ("schedule", "groups"): (1.0, 10),
    ("learning-rate logging", "groups"): (0.05, 100),
}
Calls = list[Callable[[], object]]


@dataclass
class Run:
    """What a tip acts on: tensors that all have a gradient, and an optimizer of their groups."""

    model: nn.Module
    optimizer: torch.optim.Optimizer
    folder: Path
    writer: SummaryWriter | None = None  # of what is logged by hand

    @property
    def parameters(self) -> list[Tensor]:
        """The parameters of all groups."""
        return [parameter for group in self.optimizer.param_groups for parameter in group["params"]]


def build(tensors: int, groups: int, folder: Path) -> Run:
    model = nn.Module()
    model.layers = nn.ParameterList(torch.full((4, VALUES // 4), 0.1) for _ in range(tensors))
    parameters = list(model.parameters())
    for parameter in parameters:
        parameter.grad = torch.full_like(parameter, 1e-6)
    each = tensors // groups
    named = [{"params": parameters[i * each : (i + 1) * each], "name": f"group{i}"} for i in range(groups)]
    return Run(model, Still(named), folder)


def clip_norm(run: Run) -> Calls:
    parameters = run.parameters
    return [lambda: nn.utils.clip_grad_norm_(parameters, WIDE)]


def clip_value(run: Run) -> Calls:
    parameters = run.parameters
    return [lambda: nn.utils.clip_grad_value_(parameters, WIDE)]


def clip_adaptively(run: Run) -> Calls:
    """Write the paper's equation as usual: unit-wise norms, one tensor after another."""
    parameters = run.parameters

    @torch.no_grad()
    def clip() -> None:
        for parameter in parameters:
            gradient = parameter.grad
            if gradient is not None:
                largest = parameter.norm(dim=1, keepdim=True).clamp_(min=1e-3).mul_(0.01)
                norm = gradient.norm(dim=1, keepdim=True)
                gradient.copy_(torch.where(norm > largest, gradient * (largest / norm.clamp(min=1e-6)), gradient))

    return [clip]


def schedule(run: Run) -> Calls:
    return [StepLR(run.optimizer, 10**9).step]


def log(run: Run) -> Calls:
    run.writer = writer = SummaryWriter(str(run.folder))
    steps = itertools.count(1)

    def write() -> None:
        step = next(steps)
        for group in run.optimizer.param_groups:
            writer.add_scalar(f"lr/{group['name']}", group["lr"], step)

    return [write]


def log_ours(run: Run, trainer: Engine) -> None:
    LearningRateLogger(run.optimizer).attach(trainer, ResumableTensorboardLogger(run.folder, trainer))


def schedule_ours(run: Run, trainer: Engine) -> None:
    SchedulerStepper(StepLR(run.optimizer, 10**9)).attach(trainer, OptimizerEvents.STEP_COMPLETED)


def freeze_ours(run: Run, trainer: Engine) -> None:
    ParameterFreezer(run.model, "layers.0*").attach(trainer, freeze=Events.EPOCH_STARTED(once=10**6))


# By hand a frozen parameter costs nothing in a step, so there is nothing to compare with.
BY_HAND: dict[str, Callable[[Run], Calls]] = {
    "norm clipping": clip_norm,
    "value clipping": clip_value,
    "adaptive clipping": clip_adaptively,
    "schedule": schedule,
    "learning-rate logging": log,
}
OURS: dict[str, Callable[[Run, Engine], object]] = {
    "norm clipping": lambda run, trainer: GradientNormClipper(run.optimizer, WIDE).attach(trainer),
    "value clipping": lambda run, trainer: GradientValueClipper(run.optimizer, WIDE).attach(trainer),
    "adaptive clipping": lambda run, trainer: AdaptiveGradientClipper(run.optimizer).attach(trainer),
    "schedule": schedule_ours,
    "learning-rate logging": log_ours,
    "freezing": freeze_ours,
}
TOGETHER = ("norm clipping", "schedule", "learning-rate logging", "freezing")


def all_by_hand(run: Run) -> Calls:
    return [call for name in TOGETHER if name in BY_HAND for call in BY_HAND[name](run)]


def all_ours(run: Run, trainer: Engine) -> None:
    for name in TOGETHER:
        OURS[name](run, trainer)


def tips() -> dict[str, tuple[Callable[[Run], Calls] | None, Callable[[Run, Engine], object]]]:
    """Return each tip by hand and ours; the last entry is all of them together."""
    pairs = {name: (BY_HAND.get(name), ours) for name, ours in OURS.items()}
    return pairs | {"all together": (all_by_hand, all_ours)}


def measure(quick: bool) -> list[Table]:
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")  # torch does not see the steps of our own optimizer
    tables = []
    for what, sizes in (("tensors", TENSORS), ("groups", GROUPS)):
        costs = Table(
            what,
            {"tip": "", what: ",", "by hand, µs": ",.1f", "ours, µs": ",.1f", "ours ÷ by hand": ".2f", "bar": ""},
            caption=f"The cost of a tip per update, by the number of {what}"
            + (", in one group." if what == "tensors" else " of ten tensors each."),
            note="Medians; the ratio, taken round by round, with its quartiles.",
        )
        for size in sizes[::3] if quick else sizes:
            _add_rows(costs, size, what, 3 if quick else ROUNDS)
        tables += [_slopes(costs, what), costs]
    return [*tables, _first_steps(3 if quick else ROUNDS)]


def _first_steps(rounds: int) -> Table:
    """Compare the first update of a run, with the attachment of all tips, with the same without tips and by hand."""
    columns = {"tensors": ",", "without, ms": ",.0f", "by hand, ms": ",.0f", "with all tips, ms": ",.0f"}
    table = Table(
        "first step",
        columns | {"÷ by hand": ".2f", "÷ without": ".2f", "bar": ""},
        caption="The first update of a run: forward, backward and a real SGD; with what tips do first.",
        note="Medians; the ratios, taken round by round, with their quartiles. By hand nothing is frozen.",
    )
    layers = TENSORS[-1] // 2
    with tempfile.TemporaryDirectory() as name:
        folders = (Path(name, str(index)) for index in itertools.count())
        runs = {
            "without": lambda: _first_step(layers, next(folders)),
            "by hand": lambda: _first_step(layers, next(folders), by_hand=True),
            "ours": lambda: _first_step(layers, next(folders), ours=True),
        }
        seconds = interleaved(runs, rounds=rounds, number=1)
    beside, without = (ratio(seconds["ours"], seconds[one]) for one in ("by hand", "without"))
    table.add(
        TENSORS[-1],
        *(median(taken) * 1e3 for taken in seconds.values()),
        beside,
        without,
        Bar(FIRST_STEP_BAR, without.middle),
    )
    return table


def _first_step(layers: int, folder: Path, *, by_hand: bool = False, ours: bool = False) -> float:
    model = nn.Module()
    model.layers = nn.Sequential(*(nn.Linear(4, 4) for _ in range(layers)))
    run = Run(model, torch.optim.SGD(model.parameters(), lr=0.1), folder)
    run.optimizer.param_groups[0]["name"] = "all"
    batch = torch.ones(1, 4)

    def update(engine: Engine, index: int) -> None:
        run.optimizer.zero_grad()
        model.layers(batch).sum().backward()
        for call in calls:
            call()
        run.optimizer.step()

    trainer = Engine(update)
    started = time.perf_counter()
    calls = all_by_hand(run) if by_hand else []
    if ours:
        all_ours(run, trainer)
    trainer.run(range(1))
    seconds = time.perf_counter() - started
    if run.writer is not None:
        run.writer.close()  # its thread would write after the folder is gone
    return seconds


def _add_rows(table: Table, size: int, what: str, rounds: int) -> None:
    tensors, groups = (size, 1) if what == "tensors" else (10 * size, size)
    for tip, (by_hand, ours) in tips().items():
        looks_at_tensors = "clipping" in tip or tip == "all together"
        steps = max(3, 1_000 // tensors) if looks_at_tensors else max(10, 300 // groups)
        with tempfile.TemporaryDirectory() as name:
            folders = (Path(name, str(index)) for index in itertools.count())
            make: Callable[[], Run] = lambda folders=folders: build(tensors, groups, next(folders))  # noqa: E731  # it binds this size
            seconds = interleaved(_loops(make, steps, by_hand, ours), rounds=rounds, number=1)
        cost = added(seconds, {one: (one, "without") for one in seconds if one != "without"}, steps)
        theirs = cost.get("by hand")
        beside = ratio(cost["ours"], theirs) if theirs else None
        table.add(
            tip, size, median(theirs) if theirs else None, median(cost["ours"]), beside, _bar(tip, what, size, beside)
        )


def _bar(tip: str, what: str, size: int, beside: Spread | None) -> Bar | None:
    most, smallest = BARS.get((tip, what), (0.0, inf))
    return Bar(most, beside.middle) if beside and size >= smallest else None


def _loops(
    make: Callable[[], Run],
    steps: int,
    by_hand: Callable[[Run], Iterable[Callable[[], object]]] | None,
    ours: Callable[[Run, Engine], object],
) -> dict[str, Loop]:
    run, other = make(), make()
    loops = {
        "without": one_epoch(make().optimizer, steps),
        "ours": one_epoch(run.optimizer, steps, attach=lambda trainer: ours(run, trainer)),
    }
    if by_hand is not None:
        loops["by hand"] = one_epoch(other.optimizer, steps, before=by_hand(other))
    return loops


def _slopes(costs: Table, what: str) -> Table:
    one = what.removesuffix("s")
    columns: dict[str, Any] = {"tip": ""}
    for who in ("by hand", "ours"):
        columns |= {f"{who}: fixed, µs": ",.1f", f"{who}: a further {one}, ns": ",.1f"}
    table = Table(f"slopes by {what}", columns, caption=f"Lines fitted to the cost of a tip per update, by {what}.")
    for tip in dict.fromkeys(row[0] for row in costs.rows):
        cells: list[float | None] = []
        for who in ("by hand", "ours"):
            records = [record for record in costs.records(tip=tip) if record[f"{who}, µs"] is not None]
            sizes, middles = ([record[column] for record in records] for column in (what, f"{who}, µs"))
            fixed, slope = fitted_line(sizes, middles) if records else (None, None)
            cells += [fixed, None if slope is None else slope * 1e3]
        table.add(tip, *cells)
    return table
