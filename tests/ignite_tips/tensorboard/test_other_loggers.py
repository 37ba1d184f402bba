"""What LearningRateLogger gives to Ignite's loggers is in each one's own store, under names and steps that it takes."""

import re
import sys
import types
from pathlib import Path
from typing import Any

import pytest
import torch
from ignite.engine import Engine, Events
from ignite.handlers import TensorboardLogger, WandBLogger
from ignite.handlers.base_logger import BaseLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import nn
from torch.optim import SGD, Optimizer

from ignite_tips import LearningRateLogger, OptimizerEvents, layerwise_lr_groups, param_groups

NAMES = ["0", "0-no_decay", "default-no_decay", "a_", "a__", "K_pfe _1_"]
PORTABLE = re.compile(r"[A-Za-z0-9_./ -]+")


def make_optimizer() -> Optimizer:
    """An optimizer with groups that we named, and with names of a user's that not every logger takes."""
    model = nn.Sequential(nn.Linear(2, 2), nn.LayerNorm(2))
    groups = param_groups(model, {"0.*": {}}, default={}, no_decay=("biases", "norms"))
    for name in ("a*", "a?", "Köpfe [1]"):
        groups.append({"params": [nn.Parameter(torch.ones(1))], "param_names": [name], "name": name})
    return SGD(groups, lr=0.5)


def train(logger: BaseLogger, optimizers: list[Optimizer], accumulation: int, **options: Any) -> Engine:
    """Log the loss of each of 4 iterations, and the learning rates in use; each optimizer updates in turn."""

    def update(engine: Engine, batch: int) -> float:
        if batch % accumulation == 0:
            for optimizer in optimizers:
                optimizer.step()
        return float(batch)

    trainer = Engine(update)
    logger.attach_output_handler(
        trainer, Events.ITERATION_COMPLETED, tag="train", output_transform=lambda output: {"loss": output}
    )
    for index, optimizer in enumerate(optimizers):
        LearningRateLogger(optimizer, tag=str(index) if index else None).attach(trainer, logger, **options)
    trainer.run(range(1, 5))
    return trainer


def test_our_own_names_are_portable() -> None:
    """Every logger takes the names that param_groups and layerwise_lr_groups choose."""
    model = nn.Sequential(nn.Linear(2, 2), nn.LayerNorm(2), nn.Linear(2, 1))
    groups = param_groups(model, {"0.*": {}}, default={}, no_decay=("biases", "norms"))
    groups += layerwise_lr_groups(model, [["0.*", "1.*"]], lr=0.1, decay=0.5, no_decay="biases")
    assert all(PORTABLE.fullmatch(group["name"]) for group in groups)


def test_tensorboard(tmp_path: Path) -> None:
    """Names as given; at each update the learning rate, at each iteration the loss."""
    with TensorboardLogger(log_dir=str(tmp_path)) as logger:
        train(logger, [make_optimizer()], accumulation=2)
    reader = EventAccumulator(str(tmp_path)).Reload()
    assert [point.step for point in reader.Scalars("train/loss")] == [1, 2, 3, 4]
    for name in ("0", "0-no_decay", "default-no_decay"):
        assert [(point.step, point.value) for point in reader.Scalars(f"lr/{name}")] == [(1, 0.5), (2, 0.5)]
    # torch writes any name; tensorboardX, which Ignite prefers if it is installed, replaces characters
    assert len([tag for tag in reader.Tags()["scalars"] if tag.startswith("lr/")]) in (5, 6)


class _WandB(types.ModuleType):
    """What WandB does with rows: one axis; a smaller step is dropped, values of the same step are one row."""

    def __init__(self) -> None:
        super().__init__("wandb")
        self.rows: dict[int, dict[str, float]] = {}
        self.axes: dict[str, str] = {}

    def init(self, *args: Any, **kwargs: Any) -> None:
        """Accept anything."""

    def finish(self) -> None:
        """Do nothing."""

    def define_metric(self, name: str, step_metric: str) -> None:
        self.axes[name] = step_metric

    def log(self, row: dict[str, float], step: int, **options: Any) -> None:  # Ignite 0.5.3 passes sync
        if step >= max(self.rows, default=0):
            self.rows.setdefault(step, {}).update(row)

    def curve(self, name: str) -> list[tuple[float, float]]:
        return [(row[self.axes.get(name, "")], row[name]) for row in self.rows.values() if name in row]


@pytest.fixture
def wandb(monkeypatch: pytest.MonkeyPatch) -> _WandB:
    """A stand-in: the real one writes a binary file of its own."""
    module = _WandB()
    monkeypatch.setitem(sys.modules, "wandb", module)
    return module


@pytest.mark.parametrize(
    ("event", "axis", "steps"),
    [
        (OptimizerEvents.STEP_STARTED, "optimizer_step", [1, 2]),
        (OptimizerEvents.STEP_COMPLETED(every=2), "optimizer_step", [2]),
        (Events.ITERATION_COMPLETED, "iteration", [2, 3, 4]),
        (Events.EPOCH_COMPLETED, "epoch", [1]),
    ],
    ids=["update", "every other update", "iteration", "epoch"],
)
def test_wandb_under_accumulation(wandb: _WandB, event: Any, axis: str, steps: list[int]) -> None:
    """No row is out of order, and the learning rate's x axis is the event's counter."""
    train(WandBLogger(), [make_optimizer()], accumulation=2, event=event)
    assert [row["train/loss"] for row in wandb.rows.values()] == [1.0, 2.0, 3.0, 4.0]
    assert wandb.axes == {f"lr/{name}": axis for name in NAMES}
    for name in NAMES:
        assert wandb.curve(f"lr/{name}") == [(step, 0.5) for step in steps]


def test_wandb_with_two_optimizers(wandb: _WandB) -> None:
    """The second optimizer's updates count too, and drop no row of the user's."""
    train(WandBLogger(), [make_optimizer(), make_optimizer()], accumulation=1)
    assert [row["train/loss"] for row in wandb.rows.values()] == [1.0, 2.0, 3.0, 4.0]
    assert all(row["lr/0"] == row["1/lr/0"] == 0.5 for row in wandb.rows.values())


def test_wandb_with_an_axis_of_the_users(wandb: _WandB) -> None:
    """A global_step_transform gives WandB's step itself."""
    optimizer = make_optimizer()
    trainer = Engine(lambda engine, batch: optimizer.step())
    handler = LearningRateLogger(optimizer, global_step_transform=lambda engine, event: 10 * engine.state.iteration)
    handler.attach(trainer, WandBLogger())
    trainer.run(range(2))
    assert list(wandb.rows) == [10, 20]
    assert wandb.axes == {}
