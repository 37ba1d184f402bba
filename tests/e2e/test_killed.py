"""A training run with every tip attached, killed at random updates and resumed each time in a new process."""

import multiprocessing
import os
import random
import signal
import traceback
from pathlib import Path
from typing import Any

import torch
import torch._dynamo  # the first update of each process would import it
import torch.utils.tensorboard
from ignite.engine import Engine, Events, create_supervised_evaluator, create_supervised_trainer
from ignite.handlers import Checkpoint, TensorboardLogger
from ignite.metrics import Loss
from torch import nn
from torch.optim.lr_scheduler import CosineAnnealingLR, ReduceLROnPlateau

from ignite_tips import (
    AdaptiveGradientClipper,
    AutoClipper,
    GradientNormClipper,
    GradualUnfreezer,
    LearningRateLogger,
    ModelSummarizer,
    OptimizerEvents,
    ParameterFreezer,
    PlateauStepper,
    SchedulerStepper,
    ZClipper,
    layerwise_lr_groups,
)
from tests.e2e.sameness import differences
from tests.settings import seeded, threads

EPOCHS, BATCHES, KILLS = 6, 10, 20
UPDATES = EPOCHS * BATCHES
CONTEXT = multiprocessing.get_context("forkserver")


def make_net() -> nn.Module:
    torch.manual_seed(seeded())
    net = nn.Sequential()
    net.stem = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU())
    net.body = nn.Sequential(nn.Linear(8, 8), nn.BatchNorm1d(8), nn.ReLU())
    net.neck = nn.Linear(8, 8)
    net.head = nn.Linear(8, 2)
    return net


class Data:
    """Batches in a different order each epoch; in a resumed run's first epoch only the remaining ones."""

    def __init__(self, trainer: Engine) -> None:
        self._trainer = trainer
        self._skip = trainer.state.iteration % BATCHES

    def __len__(self) -> int:
        return BATCHES

    def __iter__(self) -> Any:
        generator = torch.Generator().manual_seed(seeded(self._trainer.state.epoch))
        batches = [(torch.randn(8, 4, generator=generator), torch.randn(8, 2, generator=generator)) for _ in self.range]
        skip, self._skip = self._skip, 0
        return iter(batches[skip:])

    @property
    def range(self) -> range:
        return range(BATCHES)


def train(folder: Path, kill_at: int | None) -> None:
    """Train from the newest checkpoint, and die by SIGKILL within update ``kill_at``."""
    torch.set_num_threads(threads())
    net = make_net()
    layers = ["stem.*", "body.*", "neck.*"]
    groups = layerwise_lr_groups(net, layers, lr=0.05, decay=0.7, no_decay=("biases", "norms"), weight_decay=0.01)
    optimizer = torch.optim.AdamW(groups)
    trainer = create_supervised_trainer(net, optimizer, nn.functional.mse_loss)
    evaluator = create_supervised_evaluator(net, {"loss": Loss(nn.functional.mse_loss)})
    handlers: dict[str, Any] = {
        "norm": GradientNormClipper(optimizer, 1.0),
        "agc": AdaptiveGradientClipper(optimizer, 0.1, model=net, exclude=("head.*",)),
        "auto": AutoClipper(optimizer, 90.0),
        "z": ZClipper(optimizer, warmup_steps=5),
        "freezer": ParameterFreezer(net, "stem.*", optimizer=optimizer),
        "unfreezer": GradualUnfreezer(net, ["head.*", "neck.*", "body.*"], optimizer=optimizer),
        "cosine": SchedulerStepper(CosineAnnealingLR(optimizer, UPDATES)),
        "plateau": PlateauStepper(ReduceLROnPlateau(optimizer, factor=0.9, patience=0), metric="loss"),
    }
    ModelSummarizer(net, input_size=(1, 4), optimizer=optimizer).attach(trainer)
    for name in ("norm", "agc", "auto", "z", "unfreezer"):
        handlers[name].attach(trainer)
    handlers["freezer"].attach(
        trainer, freeze=Events.ITERATION_STARTED(once=17), unfreeze=OptimizerEvents.STEP_COMPLETED(once=33)
    )
    handlers["cosine"].attach(trainer, event=OptimizerEvents.STEP_COMPLETED)
    trainer.add_event_handler(Events.EPOCH_COMPLETED, lambda: evaluator.run(Data(Engine(lambda *_: None))))
    handlers["plateau"].attach(trainer, evaluator)
    objects = {"net": net, "optimizer": optimizer, "trainer": trainer, **handlers}

    newest = folder / "newest"

    def save() -> None:
        torch.save({name: thing.state_dict() for name, thing in objects.items()}, folder / "next")
        os.replace(folder / "next", newest)

    for event in (Events.ITERATION_COMPLETED(every=3), Events.EPOCH_COMPLETED):
        trainer.add_event_handler(event, save)
    if newest.exists():
        Checkpoint.load_objects(objects, torch.load(newest, weights_only=True))

    @trainer.on(OptimizerEvents.STEP_STARTED)
    def die(engine: Engine) -> None:
        if engine.state.iteration == kill_at:
            os.kill(os.getpid(), signal.SIGKILL)

    with TensorboardLogger(log_dir=str(folder / "logs")) as tb_logger:
        LearningRateLogger(optimizer).attach(trainer, tb_logger)
        trainer.run(Data(trainer), max_epochs=EPOCHS)
    torch.save({name: thing.state_dict() for name, thing in objects.items()}, folder / "end")


def train_in_new_process(folder: Path, kill_at: int | None) -> int:
    """Return how the process ended. The caller never computes, so forks of it are safe."""
    if (pid := os.fork()) == 0:
        try:
            with open(folder / "output", "a") as output:
                os.dup2(output.fileno(), 1)
                train(folder, kill_at)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def drive(whole: Path, killed: Path, kills: list[int]) -> None:
    assert train_in_new_process(whole, None) == 0
    for update in kills:
        assert train_in_new_process(killed, update) == -signal.SIGKILL
    assert train_in_new_process(killed, None) == 0


def test_a_run_killed_at_twenty_updates_ends_like_an_uninterrupted_one(tmp_path: Path) -> None:
    """Weights, optimizer state, learning rates and every handler's state are equal, bit for bit."""
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    whole.mkdir()
    killed.mkdir()
    kills = sorted(random.Random(seeded(5)).sample(range(1, UPDATES + 1), KILLS))
    process = CONTEXT.Process(target=drive, args=(whole, killed, kills))
    process.start()
    process.join(100)
    process.kill()
    assert process.exitcode == 0
    expected, ended = (torch.load(folder / "end", weights_only=True) for folder in (whole, killed))
    assert differences(expected, ended) == []
