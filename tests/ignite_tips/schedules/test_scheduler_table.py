"""SchedulerStepper and PlateauStepper with every scheduler of the installed torch: all learning rates equal.

A resumed run is three processes. Each trains a third of the epochs and writes a checkpoint for the next.
"""

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from ignite.engine import Engine, Events
from torch.optim import lr_scheduler
from torch.optim.lr_scheduler import ReduceLROnPlateau

from ignite_tips import PlateauStepper, SchedulerStepper
from ignite_tips.core.events import OptimizerEvents
from tests.schedulers import EPOCHS, LENGTH, METRICS, MODES, ROWS, Mode, Options, Setup, native_loop
from tests.support import run_distributed

BY_NAME = {mode.name: mode for mode in MODES}


def _attached(setup: Setup, mode: Mode, used: list[Options]) -> tuple[Engine, Any]:
    def update(trainer: Engine, batch: Any) -> None:
        used.append(setup.options())
        setup.backward(trainer.state.iteration, mode)
        if trainer.state.iteration % mode.accumulation == 0:
            setup.scaler.step(setup.optimizer)
            setup.scaler.update()
            setup.optimizer.zero_grad()

    trainer = Engine(update)
    if isinstance(setup.scheduler, ReduceLROnPlateau):
        evaluator = Engine(lambda engine, batch: None)
        metric = METRICS.__getitem__
        plateau = PlateauStepper(setup.scheduler, lambda evaluator: metric(trainer.state.epoch - 1))
        plateau.attach(trainer, evaluator)
        trainer.add_event_handler(Events.EPOCH_COMPLETED, lambda: evaluator.run([0]))
        return trainer, plateau
    stepper = SchedulerStepper(setup.scheduler)
    stepper.attach(trainer, *([OptimizerEvents.STEP_COMPLETED] if mode.per_update else []))
    return trainer, stepper


def _train(row: str, mode: Mode, file: Path, epochs: range) -> tuple[list[Options], torch.Tensor]:
    """Train the epochs with our handler, from the checkpoint in ``file``, and save to it."""
    setup, used = Setup(row, mode), []
    trainer, stepper = _attached(setup, mode, used)
    parts = {name: getattr(setup, name) for name in ("model", "optimizer", "scaler")}
    parts |= {"trainer": trainer, "stepper": stepper}
    if epochs.start:
        for name, state in torch.load(file, weights_only=True).items():
            parts[name].load_state_dict(state)
    handler = trainer.add_event_handler(Events.EPOCH_COMPLETED(once=epochs.stop), trainer.terminate)
    trainer.run(range(LENGTH), max_epochs=EPOCHS, epoch_length=LENGTH)
    handler.remove()
    if epochs.stop < EPOCHS:
        torch.save({name: part.state_dict() for name, part in parts.items()}, file)
    else:
        used.append(setup.options())
    return used, setup.weights()


def _train_all(rank: int, world_size: int, folder: Path, epochs: range) -> dict[tuple[str, str], Any]:
    warnings.simplefilter("error")
    return {(row, mode.name): _train(row, mode, folder / _file(row, mode), epochs) for row in ROWS for mode in MODES}


def _file(row: str, mode: Mode) -> str:
    return f"{list(ROWS).index(row)}-{MODES.index(mode)}.pt"


@pytest.fixture(scope="module")
def resumed(tmp_path_factory: pytest.TempPathFactory) -> list[dict[tuple[str, str], Any]]:
    """All rows in all modes, trained in three consecutive processes."""
    folder = tmp_path_factory.mktemp("thirds")
    thirds = [range(0, 2), range(2, 4), range(4, 6)]
    return [run_distributed(_train_all, 1, folder, epochs)[0] for epochs in thirds]


def test_every_scheduler_of_torch_has_a_row() -> None:
    """The rows contain every class of torch's module except the base class."""
    offered = {name for name in lr_scheduler.__all__ if name != "LRScheduler"}
    assert offered <= set(ROWS)
    assert len(offered) >= 15


@pytest.mark.parametrize("mode", BY_NAME)
@pytest.mark.parametrize("row", ROWS)
def test_fresh(row: str, mode: str, tmp_path: Path) -> None:
    """Every group's learning rate and momentum in every iteration, and the final weights, equal the native loop's."""
    used, weights = _train(row, BY_NAME[mode], tmp_path / "unused", range(EPOCHS))
    expected, expected_weights = native_loop(row, BY_NAME[mode])
    assert used == expected
    assert torch.equal(weights, expected_weights)


@pytest.mark.parametrize("mode", BY_NAME)
@pytest.mark.parametrize("row", ROWS)
def test_resumed_at_each_third(row: str, mode: str, resumed: list[dict[tuple[str, str], Any]]) -> None:
    """The same with checkpoints read with ``weights_only``, and each third in its own process."""
    thirds = [third[row, mode] for third in resumed]
    expected, expected_weights = native_loop(row, BY_NAME[mode])
    assert [options for used, _ in thirds for options in used] == expected
    assert torch.equal(thirds[-1][1], expected_weights)
