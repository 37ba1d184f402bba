"""Remedies that errors and warnings of loggers name, besides those of tests/ignite_tips/test_remedies.py."""

from pathlib import Path

import pytest
import torch
from ignite.engine import Engine, Events
from ignite.handlers import TensorboardLogger
from ignite.handlers.tensorboard_logger import OutputHandler
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import nn
from torch.optim import LBFGS, SGD

from ignite_tips import LearningRateLogger, ParameterFreezer, ResumableTensorboardLogger, RunAnnotator
from tests.remedies import says


def _trainer(optimizer: SGD) -> Engine:
    trainer = Engine(lambda engine, batch: optimizer.step())
    trainer.logger.disabled = True
    return trainer


def _sgd() -> SGD:
    return SGD([nn.Parameter(torch.zeros(1))], lr=0.5)


def _scalars(folder: Path, name: str) -> list[tuple[int, float]]:
    return [(scalar.step, scalar.value) for scalar in EventAccumulator(str(folder)).Reload().Scalars(name)]


def test_a_logger_of_another_optimizer() -> None:
    """That of the one which the trainer steps logs."""
    optimizer = _sgd()
    trainer = _trainer(optimizer)
    other = LearningRateLogger(_sgd()).attach(trainer)
    with says("if the trainer steps another optimizer, log that"):
        trainer.run(range(2))
    other.detach()
    trainer = _trainer(optimizer)
    LearningRateLogger(optimizer).attach(trainer)
    assert trainer.run(range(2)).metrics == {"lr/0": 0.5}


@pytest.mark.parametrize("event", [None, Events.ITERATION_COMPLETED, Events.EPOCH_STARTED])
def test_an_event_without_a_counter(event: Events | None) -> None:
    """Of updates (the default), iterations and epochs each has one."""
    optimizer = _sgd()
    trainer = _trainer(optimizer)
    logger = LearningRateLogger(optimizer)
    with says("or use an event of updates, iterations or epochs"):
        logger.attach(trainer, event=Events.DATALOADER_STOP_ITERATION)
    logger.attach(trainer) if event is None else logger.attach(trainer, event=event)
    assert trainer.run(range(2), max_epochs=2).metrics == {"lr/0": 0.5}


def test_two_runs_in_one_folder(tmp_path: Path) -> None:
    """In a folder of its own the second is shown beside the first."""

    def run(folder: str) -> None:
        optimizer = _sgd()
        trainer = _trainer(optimizer)
        with ResumableTensorboardLogger(tmp_path / folder, trainer) as tb_logger:
            LearningRateLogger(optimizer).attach(trainer, tb_logger)
            trainer.run(range(2))

    run("one")
    with says("choose another folder to see both"):
        run("one")
    run("other")
    assert _scalars(tmp_path / "other", "lr/0") == [(1, 0.5), (2, 0.5)]


def test_the_metrics_of_lbfgs(tmp_path: Path) -> None:
    """Ignite's OutputHandler writes what an annotator cannot."""
    model = nn.Sequential(nn.Linear(1, 1), nn.Linear(1, 1))
    optimizer = LBFGS(model.parameters())
    with says("log trainer.state.metrics at an Ignite event with OutputHandler instead"):
        RunAnnotator(model, optimizer)
    trainer = Engine(lambda engine, batch: None)
    ParameterFreezer(model, "0.*").attach(trainer, unfreeze=Events.EPOCH_STARTED(once=2))
    with TensorboardLogger(log_dir=str(tmp_path)) as tb_logger:
        handler = OutputHandler("train", metric_names=["trainable_fraction"])
        tb_logger.attach(trainer, handler, Events.EPOCH_COMPLETED)
        trainer.run(range(2), max_epochs=2)
    assert _scalars(tmp_path, "train/trainable_fraction") == [(1, 0.5), (2, 1.0)]
