"""LearningRateLogger: what TensorBoard's own reader finds in the files it leaves."""

from pathlib import Path
from typing import Any

import ignite.distributed as idist
import pytest
import torch
from ignite.engine import Engine, Events
from ignite.handlers import TensorboardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import nn

from ignite_tips import LearningRateLogger
from ignite_tips.events import OptimizerEvents, current_step
from tests.support import run_distributed


def _model() -> nn.Sequential:
    return nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 1))


def _optimizer(model: nn.Sequential) -> torch.optim.Optimizer:
    groups = [
        {"params": model[0].parameters(), "name": "backbone", "lr": 0.01},
        {"params": model[1].parameters(), "name": "head", "lr": 0.1},
    ]
    return torch.optim.AdamW(groups)


def _trainer(model: nn.Module, optimizer: torch.optim.Optimizer) -> Engine:
    def update(engine: Engine, batch: Any) -> None:
        optimizer.zero_grad()
        model(torch.ones(4, 2)).sum().backward()
        optimizer.step()

    return Engine(update)


def _series(folder: Path) -> dict[str, list[tuple[int, float]]]:
    reader = EventAccumulator(str(folder), size_guidance={"scalars": 0}).Reload()
    return {tag: [(point.step, point.value) for point in reader.Scalars(tag)] for tag in reader.Tags()["scalars"]}


def _float32(value: float) -> float:
    return float(torch.tensor(value, dtype=torch.float32))


@pytest.mark.parametrize("scheduler_first", [True, False])
def test_each_series_holds_the_rates_that_a_hand_written_loop_used(tmp_path: Path, scheduler_first: bool) -> None:
    """Step by step, under the group's name, whether the scheduler was attached before the logger or after it."""
    model = _model()
    optimizer = _optimizer(model)
    scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, gamma=0.9)
    trainer = _trainer(model, optimizer)
    with TensorboardLogger(log_dir=tmp_path) as tb_logger:
        if not scheduler_first:
            LearningRateLogger(optimizer).attach(trainer, tb_logger)
        trainer.add_event_handler(Events.ITERATION_COMPLETED, lambda: scheduler.step())
        if scheduler_first:
            LearningRateLogger(optimizer).attach(trainer, tb_logger)
        trainer.run(range(3), max_epochs=2)

    expected: dict[str, list[tuple[int, float]]] = {"lr/backbone": [], "lr/head": []}
    model = _model()
    optimizer = _optimizer(model)
    scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, gamma=0.9)
    for step in range(1, 7):
        for group in optimizer.param_groups:
            expected[f"lr/{group['name']}"].append((step, _float32(group["lr"])))
        optimizer.step()
        scheduler.step()
    assert _series(tmp_path) == expected


@pytest.mark.parametrize("clipper_first", [True, False])
def test_a_dropped_update_is_not_written(tmp_path: Path, clipper_first: bool) -> None:
    """Whether the handler that drops it was attached before the logger or after it."""
    model = _model()
    optimizer = _optimizer(model)
    trainer = _trainer(model, optimizer)
    logger = LearningRateLogger(optimizer)
    dropped = [2, 3]

    def drop(engine: Engine) -> None:
        if engine.state.iteration in dropped:
            current_step(engine).drop()

    with TensorboardLogger(log_dir=tmp_path) as tb_logger:
        if not clipper_first:
            logger.attach(trainer, tb_logger)
        trainer.state  # noqa: B018
        from ignite_tips.events import attach_optimizer_events

        attach_optimizer_events(trainer, optimizer)
        trainer.add_event_handler(OptimizerEvents.STEP_STARTED, drop)
        if clipper_first:
            logger.attach(trainer, tb_logger)
        trainer.run(range(5))
    assert [step for step, _ in _series(tmp_path)["lr/head"]] == [1, 2, 3]


def test_it_serves_as_one_of_ignites_log_handlers(tmp_path: Path) -> None:
    """Attached by the TensorboardLogger itself, at an event of the user's choice, it writes on that event's axis."""
    model = _model()
    optimizer = _optimizer(model)
    trainer = _trainer(model, optimizer)
    with TensorboardLogger(log_dir=tmp_path) as tb_logger:
        tb_logger.attach(trainer, LearningRateLogger(optimizer, tag="generator"), Events.EPOCH_STARTED)
        trainer.run(range(3), max_epochs=2)
    assert [step for step, _ in _series(tmp_path)["generator/lr/head"]] == [1, 2]


def _train_on_rank(rank: int, world_size: int, folder: Path) -> None:
    model = nn.parallel.DistributedDataParallel(_model())
    optimizer = _optimizer(model.module)
    trainer = _trainer(model, optimizer)
    with TensorboardLogger(log_dir=folder / str(rank)) as tb_logger:
        LearningRateLogger(optimizer).attach(trainer, tb_logger)
        trainer.run(range(3))
    assert idist.get_rank() == rank


@pytest.mark.distributed
def test_only_rank_zero_writes(tmp_path: Path) -> None:
    """Under DDP the other ranks' files hold no series, even where they have a logger."""
    run_distributed(_train_on_rank, 2, tmp_path)
    assert len(_series(tmp_path / "0")["lr/head"]) == 3
    assert _series(tmp_path / "1") == {}
