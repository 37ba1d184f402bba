"""How often the host waits for the device in an update: without tips, with clip_grad_norm_ by hand, with each handler.

The count covers a whole iteration: forward and backward, GradScaler if used, the optimizer's step, and the handlers at
the iteration's end.
"""

import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from ignite.engine import Engine, Events
from torch import nn
from torch.nn.utils import clip_grad_norm_
from torch.optim.lr_scheduler import StepLR

from benchmarks.tables import Table
from ignite_tips import (
    AdaptiveGradientClipper,
    AutoClipper,
    GradientNormClipper,
    GradientValueClipper,
    LearningRateLogger,
    OptimizerEvents,
    ParameterFreezer,
    ResumableTensorboardLogger,
    SchedulerStepper,
    ZClipper,
    attach_optimizer_events,
)
from tests import device

Attach = Callable[[Engine, Any, nn.Module], object]
KINDS: dict[str, dict[str, Any]] = {
    "ordinary": {"foreach": False},
    "foreach": {"foreach": True},
    "fused": {"fused": True},
}
COLUMNS = [(precision, kind) for precision in ("fp32", "bf16", "fp16") for kind in KINDS]
ITERATIONS = 6


def measure(quick: bool) -> Iterator[list[Table]]:
    warnings.simplefilter("ignore")
    device.start()
    table = Table(
        "waits",
        {"in an iteration": ""} | {f"{precision} {kind}": "" for precision, kind in COLUMNS},
        caption="How often the host waits for the device per iteration, after the first two. fp16 is with "
        "GradScaler, which itself waits once unless the optimizer is fused.",
    )
    table.add(
        "clip_grad_norm_ by hand",
        *(_waits(None, precision, KINDS[kind], by_hand=True) for precision, kind in COLUMNS),
    )
    for name, attach in _tips().items():
        table.add(name, *(_waits(attach, precision, KINDS[kind]) for precision, kind in COLUMNS))
        yield [table]


def _tips() -> dict[str, Attach]:
    clippers: dict[str, Callable[..., Any]] = {
        "GradientNormClipper": lambda optimizer, **options: GradientNormClipper(optimizer, 0.3, **options),
        "GradientValueClipper": lambda optimizer, **options: GradientValueClipper(optimizer, 0.05, **options),
        "AdaptiveGradientClipper": AdaptiveGradientClipper,
        "AutoClipper": AutoClipper,
        "ZClipper": lambda optimizer, **options: ZClipper(optimizer, warmup_steps=2, **options),
    }
    tips: dict[str, Attach] = {"nothing": lambda *_: None, "OptimizerEvents alone": _events}
    for name, make in clippers.items():
        for mode in ("propagate", "raise", "skip"):
            tips[f"{name}, {mode}"] = lambda trainer, optimizer, model, make=make, mode=mode: make(
                optimizer, on_nonfinite=mode
            ).attach(trainer)
    tips["SchedulerStepper, each update"] = _scheduler
    tips["LearningRateLogger"] = _logger
    tips["ParameterFreezer, frozen"] = lambda trainer, optimizer, model: ParameterFreezer(
        model, "0.*", optimizer=optimizer
    ).attach(trainer, freeze=Events.STARTED)
    return tips


def _events(trainer: Engine, optimizer: Any, model: nn.Module) -> None:
    attach_optimizer_events(trainer, optimizer)
    trainer.add_event_handler(OptimizerEvents.STEP_STARTED, lambda engine: None)
    trainer.add_event_handler(OptimizerEvents.STEP_COMPLETED, lambda engine: None)


def _scheduler(trainer: Engine, optimizer: Any, model: nn.Module) -> None:
    SchedulerStepper(StepLR(optimizer, 1000)).attach(trainer, OptimizerEvents.STEP_COMPLETED)


def _logger(trainer: Engine, optimizer: Any, model: nn.Module) -> None:
    folder = tempfile.TemporaryDirectory()
    trainer.add_event_handler(Events.COMPLETED, folder.cleanup)
    LearningRateLogger(optimizer).attach(trainer, ResumableTensorboardLogger(folder.name, trainer))


def _waits(attach: Attach | None, precision: str, options: dict[str, Any], *, by_hand: bool = False) -> str:
    """Return the number of waits per iteration after the second: one number if all are the same."""
    model = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 1)).to(device.NAME)
    optimizer = torch.optim.AdamW(model.parameters(), **options)
    scaler = torch.amp.GradScaler(device.NAME, init_scale=2.0**7, enabled=precision == "fp16")
    dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(precision)
    counts: list[int] = []

    def update(engine: Engine, batch: torch.Tensor) -> None:
        optimizer.zero_grad()
        with torch.autocast(device.NAME, dtype=dtype, enabled=dtype is not None):
            loss = model(batch).float().square().mean()
        scaler.scale(loss).backward()
        if by_hand:
            scaler.unscale_(optimizer)
            clip_grad_norm_(model.parameters(), 0.3)
        scaler.step(optimizer)
        scaler.update()

    trainer = Engine(update)
    if attach is not None:
        attach(trainer, optimizer, model)
    with _counted(trainer, counts):
        trainer.run([torch.ones(4, 6, device=device.NAME)] * ITERATIONS)
    steady = sorted(set(counts[2:]))
    return " to ".join(str(count) for count in (steady if len(steady) < 2 else (steady[0], steady[-1])))


@contextmanager
def _counted(trainer: Engine, counts: list[int]) -> Iterator[None]:
    """Count the waits from each iteration's start to the end of its last handler."""
    under_way: list[Any] = []

    def start() -> None:
        under_way.append(device.waits())
        under_way.append(under_way[0].__enter__())

    def stop() -> None:
        block, found = under_way
        block.__exit__(None, None, None)
        counts.append(len(found))
        under_way.clear()

    trainer.add_event_handler(Events.ITERATION_STARTED, start)
    trainer.add_event_handler(Events.ITERATION_COMPLETED, stop)
    yield
