"""The cost of logging learning rates: ours, Ignite's OptimizerParamsHandler, Lightning's LearningRateMonitor.

In the first table the update is ``optimizer.step()`` alone, and by hand means torch's ``add_scalar``. The second has
whole training steps: what ``run_per_group=True`` costs. A run ends when everything it logged is in the file.
"""

import tempfile
from collections.abc import Callable
from functools import partial
from itertools import count
from pathlib import Path
from statistics import median
from typing import Any

import torch
from ignite.engine import Engine, Events, create_supervised_trainer
from ignite.handlers import TensorboardLogger
from ignite.handlers.tensorboard_logger import OptimizerParamsHandler
from torch import nn
from torch.optim import SGD, AdamW
from torch.optim.lr_scheduler import StepLR
from torch.utils.tensorboard import SummaryWriter

from benchmarks.loops import Loop, groups_of, in_ignite, in_lightning
from benchmarks.peers import add_peers, peer_table
from benchmarks.tables import Bar, Table
from benchmarks.timing import added, interleaved, ratio
from ignite_tips import LearningRateLogger, ResumableTensorboardLogger

STEPS = {1: 400, 10: 200, 100: 40, 1000: 8}  # per run: enough to hide the run's start and end
BARS = {1: 1.0, 10: 0.2, 100: 0.06, 1000: 0.03}
ROUNDS = 15
PEERS = ("by hand", "Ignite", "Lightning")


def measure(quick: bool) -> list[Table]:
    torch.set_num_threads(1)
    columns = {"groups": ""} | {f"{name} adds, µs": ",.0f" for name in (*PEERS, "ours, same logger", "ours")}
    columns |= {"ours, same logger ÷ Ignite": ".3f", "ours ÷ Ignite": ".3f", "bar": ""}
    table = Table(
        "added",
        columns,
        note="The cost of logging per step: medians; the ratios, taken round by round, with their quartiles. The same "
        "logger is Ignite's TensorboardLogger; ours by itself is with ResumableTensorboardLogger.",
    )
    peers = peer_table()
    for groups, steps in STEPS.items():
        with tempfile.TemporaryDirectory() as folder:
            loops = _loops(groups, steps, Path(folder))
            seconds = interleaved(loops, rounds=3 if quick else ROUNDS, number=1)
        pairs = {name: (name, "without") for name in loops if "Lightning" not in name and name != "without"}
        pairs["Lightning"] = ("Lightning", "Lightning, without")
        cost = added(seconds, pairs, steps)
        medians = [median(cost[name]) for name in (*PEERS, "ours, same logger", "ours")]
        ratios = [ratio(cost[name], cost["Ignite"]) for name in ("ours, same logger", "ours")]
        table.add(groups, *medians, *ratios, Bar(BARS[groups], ratios[-1].middle))
        add_peers(peers, f"{groups} group{'s' * (groups > 1)}", {name: cost[name] for name in (*PEERS, "ours")})
    return [table, peers, _run_per_group(3 if quick else ROUNDS)]


def _loops(groups: int, steps: int, folder: Path) -> dict[str, Loop]:
    makers = {
        "without": lambda optimizer, path: in_ignite(optimizer, steps),
        "by hand": partial(_by_hand, steps),
        "Ignite": partial(_in_ignite, steps, _attach_ignites),
        "ours, same logger": partial(_in_ignite, steps, _attach_ours),
        "ours": partial(_in_ignite, steps, _attach_ours_resumable),
        "Lightning, without": partial(_in_lightning, steps, False),
        "Lightning": partial(_in_lightning, steps, True),
    }
    return {name: make(SGD(groups_of(groups), lr=0.1), str(folder / name)) for name, make in makers.items()}


def _run_per_group(rounds: int) -> Table:
    columns = {"groups": "", "logger": "", "Ignite, µs": ",.0f", "one run, µs": ",.0f", "a run per group, µs": ",.0f"}
    table = Table(
        "run_per_group",
        columns | {"a run per group ÷ one run": ".2f", "a run per group ÷ Ignite": ".2f"},
        caption="Whole training steps with LearningRateLogger(run_per_group=True): forward, backward and AdamW of an "
        "MLP, with a layer of 32 by 32 in each group and a batch of 32.",
        note="Medians; the ratios, taken round by round, with their quartiles. Ignite is OptimizerParamsHandler with "
        "its TensorboardLogger.",
    )
    for groups, steps in ((3, 200), (10, 100), (100, 10)):
        for logger in (TensorboardLogger, ResumableTensorboardLogger):
            with tempfile.TemporaryDirectory() as folder:
                loops = {
                    "Ignite": _whole_steps(groups, steps, partial(_attach_ignites, folder=f"{folder}/ignite")),
                    **{
                        name: _whole_steps(groups, steps, partial(_attach_to, logger, f"{folder}/{name}", per_group))
                        for name, per_group in (("one run", False), ("a run per group", True))
                    },
                }
                seconds = interleaved(loops, rounds=rounds, number=1)
            micros = [median(values) / steps * 1e6 for values in seconds.values()]
            ratios = [ratio(seconds["a run per group"], seconds[other]) for other in ("one run", "Ignite")]
            table.add(groups, logger.__name__, *micros, *ratios)
    return table


def _whole_steps(groups: int, steps: int, attach: Callable[[Any, Engine], TensorboardLogger]) -> Loop:
    torch.manual_seed(0)
    model = nn.Sequential(*(nn.Linear(32, 32) for _ in range(groups)))
    named = [{"params": layer.parameters(), "name": f"block{name}"} for name, layer in model.named_children()]
    optimizer = AdamW(named, lr=1e-3)
    trainer = create_supervised_trainer(model, optimizer, nn.MSELoss(), output_transform=lambda *_: None)
    logger = attach(optimizer, trainer)
    data = [(torch.randn(32, 32), torch.randn(32, 32))] * steps
    return lambda: (trainer.run(data), logger.flush())


def _attach_to(kind: type, folder: str, run_per_group: bool, optimizer: Any, trainer: Engine) -> TensorboardLogger:
    logger = kind(folder, trainer) if kind is ResumableTensorboardLogger else kind(folder)
    LearningRateLogger(optimizer, run_per_group=run_per_group).attach(trainer, logger)
    return logger


def _by_hand(steps: int, optimizer: SGD, folder: str) -> Loop:
    writer, counts = SummaryWriter(folder), count(1)

    def log() -> None:
        step = next(counts)
        for group in optimizer.param_groups:
            writer.add_scalar(f"lr/{group['name']}", group["lr"], step)

    run = in_ignite(optimizer, steps, before=[log])
    return lambda: (run(), writer.flush())


def _in_ignite(steps: int, attach: Callable[[SGD, Engine, str], Any], optimizer: SGD, folder: str) -> Loop:
    loggers: list[TensorboardLogger] = []
    run = in_ignite(optimizer, steps, attach=lambda trainer: loggers.append(attach(optimizer, trainer, folder)))
    return lambda: (run(), loggers[0].flush())


def _attach_ignites(optimizer: SGD, trainer: Engine, folder: str) -> TensorboardLogger:
    logger = TensorboardLogger(folder)
    logger.attach(trainer, OptimizerParamsHandler(optimizer), Events.ITERATION_STARTED)
    return logger


def _attach_ours(optimizer: SGD, trainer: Engine, folder: str) -> TensorboardLogger:
    logger = TensorboardLogger(folder)
    LearningRateLogger(optimizer).attach(trainer, logger)
    return logger


def _attach_ours_resumable(optimizer: SGD, trainer: Engine, folder: str) -> TensorboardLogger:
    logger = ResumableTensorboardLogger(folder, trainer)
    LearningRateLogger(optimizer).attach(trainer, logger)
    return logger


def _in_lightning(steps: int, logs: bool, optimizer: SGD, folder: str) -> Loop:
    from lightning.pytorch.callbacks import LearningRateMonitor
    from lightning.pytorch.loggers import TensorBoardLogger

    logger = TensorBoardLogger(folder)
    callbacks = [LearningRateMonitor("step")] if logs else []
    scheduler = StepLR(optimizer, 10**9)  # the monitor logs only learning rates of schedulers
    run = in_lightning(optimizer, steps, scheduler=scheduler, logger=logger, callbacks=callbacks, log_every_n_steps=1)
    return lambda: (run(), logger.experiment.flush())
