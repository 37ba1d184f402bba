"""What an attached scheduler costs in each step, beside the hand-written ``scheduler.step()`` and Ignite's LRScheduler.

All rows are Ignite trainers whose update is ``optimizer.step()`` alone, so that what remains is the scheduling.
"""

from collections.abc import Callable
from statistics import median, quantiles
from typing import Any

import torch
from ignite.engine import Engine, Events
from ignite.handlers.param_scheduler import LRScheduler as IgniteLRScheduler
from torch.optim import SGD
from torch.optim.lr_scheduler import LRScheduler, StepLR

from benchmarks.timing import interleaved
from ignite_tips import SchedulerStepper
from ignite_tips.events import OptimizerEvents

STEPS = 200  # in a run, so that a run's start and end do not count
ROUNDS = 40


def main() -> None:
    columns = ["groups", "no scheduler", "hand-written", "ours, per update", "Ignite's", "ours, per epoch", "more"]
    print(f"| {' | '.join(columns)} |\n|{'---|' * len(columns)}")
    for groups in (1, 10, 100):
        runs = {"none": _run(groups, _bare), "native": _run(groups, _native), "ours": _run(groups, _per_update)}
        runs |= {"ignite": _run(groups, _ignite), "per epoch": _run(groups, _per_epoch)}
        times = interleaved(runs, rounds=ROUNDS, number=1)
        micro = {name: [seconds / STEPS * 1e6 for seconds in times[name]] for name in times}
        cells = [_added(micro, name) for name in ("native", "ours", "ignite", "per epoch")]
        more = [ours - native for ours, native in zip(micro["ours"], micro["native"], strict=True)]
        print(f"| {groups} | {median(micro['none']):.1f} | {' | '.join(cells)} | {_spread(more)} |")
    print("\nMicroseconds a step, medians with the quartiles: of a trainer without a scheduler; what each way of")
    print("stepping adds to it; and what ours, per update, costs more than the hand-written loop.")


def _added(micro: dict[str, list[float]], name: str) -> str:
    return _spread([time - bare for time, bare in zip(micro[name], micro["none"], strict=True)])


def _spread(values: list[float]) -> str:
    low, middle, high = quantiles(values, n=4)
    return f"{middle:.1f} ({low:.1f} to {high:.1f})"


def _run(groups: int, attach: Callable[[Engine, LRScheduler], Callable[[], None] | None]) -> Callable[[], object]:
    parameters = [torch.nn.Parameter(torch.ones(1)) for _ in range(groups)]
    optimizer = SGD([{"params": [parameter]} for parameter in parameters], lr=0.1)
    extra: list[Callable[[], None]] = []

    def update(trainer: Engine, batch: Any) -> None:
        optimizer.step()
        for call in extra:
            call()

    trainer = Engine(update)
    if (call := attach(trainer, StepLR(optimizer, 10**9))) is not None:
        extra.append(call)
    return lambda: trainer.run(range(STEPS))


def _bare(trainer: Engine, scheduler: LRScheduler) -> None:
    return None


def _native(trainer: Engine, scheduler: LRScheduler) -> Callable[[], None]:
    return scheduler.step


def _per_update(trainer: Engine, scheduler: LRScheduler) -> None:
    SchedulerStepper(scheduler).attach(trainer, OptimizerEvents.STEP_COMPLETED)


def _per_epoch(trainer: Engine, scheduler: LRScheduler) -> None:
    SchedulerStepper(scheduler).attach(trainer)


def _ignite(trainer: Engine, scheduler: LRScheduler) -> None:
    trainer.add_event_handler(Events.ITERATION_STARTED, IgniteLRScheduler(scheduler))


if __name__ == "__main__":
    main()
