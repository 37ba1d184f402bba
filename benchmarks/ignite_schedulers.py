"""Which of torch's schedulers Ignite's own wrappers and ours get wrong, compared with the hand-written loop.

This does not measure time: for each scheduler the table shows the first iteration with another learning rate than the
hand-written loop. The rows, the loop and the ways of updating are those of the tests.
"""

import warnings
from collections.abc import Callable
from typing import Any

from ignite.engine import Engine, Events
from ignite.handlers.param_scheduler import LRScheduler as IgniteLRScheduler
from ignite.handlers.param_scheduler import ReduceLROnPlateauScheduler
from torch.optim.lr_scheduler import ReduceLROnPlateau

from benchmarks.tables import Table
from ignite_tips import PlateauStepper, SchedulerStepper
from ignite_tips.core.events import OptimizerEvents
from tests.schedulers import EPOCHS, LENGTH, METRICS, MODES, ROWS, Mode, Options, Setup, native_loop

MODES_SHOWN = [mode for mode in MODES if mode.name != "GradScaler, fused"]
Attach = Callable[[Setup, Mode, Engine, Engine], None]


def measure(quick: bool) -> list[Table]:
    warnings.simplefilter("ignore")  # torch warns about the order of Ignite's step calls
    names = [mode.name for mode in MODES_SHOWN]
    table = Table(
        "first wrong learning rate",
        dict.fromkeys(["scheduler", *names, "SchedulerStepper, PlateauStepper"], ""),
        caption="Ignite's LRScheduler and ReduceLROnPlateauScheduler against the hand-written loop, in five ways of "
        "updating; ours in the last column, all five together. A wrong cell shows "
        "the first iteration with a wrong learning rate.",
    )
    right = dict.fromkeys([*names, "ours"], 0)
    for row in list(ROWS)[:2] if quick else ROWS:
        cells = [_compare(row, mode, _attach_ignite) for mode in MODES_SHOWN]
        ours = [_compare(row, mode, _attach_ours) for mode in MODES_SHOWN]
        for name, cell in zip(names, cells, strict=True):
            right[name] += cell == "equal"
        right["ours"] += set(ours) == {"equal"}
        table.add(row, *cells, f"equal in all {len(ours)}" if set(ours) == {"equal"} else "; ".join(ours))
    table.add(f"**equal, of {len(table.rows)}**", *right.values())
    return [table]


def _compare(row: str, mode: Mode, attach: Attach) -> str:
    """Return "equal", or where the learning rates first differ, or what was raised."""
    expected, _ = native_loop(row, mode)
    try:
        used = _train(Setup(row, mode), mode, attach)
    except Exception as error:  # Ignite's error is a cell of the table
        return type(error).__name__
    for iteration, (mine, theirs) in enumerate(zip(used, expected[:-1], strict=True), start=1):
        for (lr, momentum), (expected_lr, expected_momentum) in zip(mine, theirs, strict=True):
            if lr != expected_lr:
                return f"{iteration}: {lr:.4g}, not {expected_lr:.4g}"
            if momentum != expected_momentum:
                return f"{iteration}: momentum {momentum:.4g}, not {expected_momentum:.4g}"
    return "equal"


def _train(setup: Setup, mode: Mode, attach: Attach) -> list[Options]:
    used: list[Options] = []

    def update(trainer: Engine, batch: Any) -> None:
        used.append(setup.options())
        setup.backward(trainer.state.iteration, mode)
        if trainer.state.iteration % mode.accumulation == 0:
            setup.scaler.step(setup.optimizer)
            setup.scaler.update()
            setup.optimizer.zero_grad()

    trainer = Engine(update)
    evaluator = Engine(lambda engine, batch: engine.state.metrics.update(loss=METRICS[trainer.state.epoch - 1]))
    attach(setup, mode, trainer, evaluator)
    trainer.add_event_handler(Events.EPOCH_COMPLETED, lambda: evaluator.run([0]))
    trainer.logger.disabled = True  # errors are shown in the table
    trainer.run(range(LENGTH), max_epochs=EPOCHS)
    return used


def _attach_ignite(setup: Setup, mode: Mode, trainer: Engine, evaluator: Engine) -> None:
    """Attach them as in Ignite's documentation."""
    scheduler = setup.scheduler
    if isinstance(scheduler, ReduceLROnPlateau):
        options = {"factor": scheduler.factor, "patience": scheduler.patience, "min_lr": scheduler.default_min_lr}
        evaluator.add_event_handler(Events.COMPLETED, ReduceLROnPlateauScheduler(setup.optimizer, "loss", **options))
    else:
        event = Events.ITERATION_STARTED if mode.per_update else Events.EPOCH_STARTED
        trainer.add_event_handler(event, IgniteLRScheduler(scheduler))


def _attach_ours(setup: Setup, mode: Mode, trainer: Engine, evaluator: Engine) -> None:
    if isinstance(setup.scheduler, ReduceLROnPlateau):
        PlateauStepper(setup.scheduler).attach(trainer, evaluator)
    else:
        event = OptimizerEvents.STEP_COMPLETED if mode.per_update else Events.EPOCH_COMPLETED
        SchedulerStepper(setup.scheduler).attach(trainer, event)
