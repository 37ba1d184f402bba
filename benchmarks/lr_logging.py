"""What logging learning rates costs in each step: LearningRateLogger beside Ignite's OptimizerParamsHandler.

All are Ignite trainers whose update is ``optimizer.step()`` alone. A run's time ends when all that it logged is in the
file. "TensorboardLogger" is Ignite's with torch's SummaryWriter; ours adds ResumableTensorboardLogger.
"""

import tempfile
from collections.abc import Callable
from pathlib import Path
from statistics import median, quantiles

import torch
from ignite.engine import Engine, Events
from ignite.handlers import TensorboardLogger
from ignite.handlers.tensorboard_logger import OptimizerParamsHandler

from benchmarks.timing import interleaved
from ignite_tips import LearningRateLogger, ResumableTensorboardLogger

STEPS = {1: 400, 10: 200, 100: 40, 1000: 8}  # in a run, so that a run's start and end do not count
BARS = {1: 1.0, 10: 0.2, 100: 0.06, 1000: 0.03}
ROUNDS = 15


def main() -> None:
    torch.set_num_threads(1)
    print(
        "| groups | Ignite, µs a step | ours, same logger ÷ Ignite | ours, ResumableTensorboardLogger ÷ Ignite | bar |"
    )
    print("|---|---|---|---|---|")
    for groups, steps in STEPS.items():
        with tempfile.TemporaryDirectory() as folder:
            runs = {name: _run(groups, name, Path(folder, name)) for name in ("none", "ignite", "ours", "resumable")}
            times = interleaved(runs, rounds=ROUNDS, number=1)
        added = {
            name: [(with_log - bare) / steps * 1e6 for with_log, bare in zip(seconds, times["none"], strict=True)]
            for name, seconds in times.items()
        }
        ratios = [
            _spread([x / y for x, y in zip(added[name], added["ignite"], strict=True)])
            for name in ("ours", "resumable")
        ]
        print(f"| {groups} | {median(added['ignite']):,.0f} | {' | '.join(ratios)} | {BARS[groups]} |")
    print("\nWhat logging adds to a step, divided within each round: medians with the quartiles.")


def _spread(values: list[float]) -> str:
    low, middle, high = quantiles(values, n=4)
    return f"{middle:.3f} ({low:.3f} to {high:.3f})"


def _run(groups: int, name: str, folder: Path) -> Callable[[], object]:
    parameters = [torch.nn.Parameter(torch.ones(1)) for _ in range(groups)]
    named = [{"params": [parameter], "name": f"block{index}"} for index, parameter in enumerate(parameters)]
    optimizer = torch.optim.SGD(named, lr=0.1)
    trainer = Engine(lambda engine, batch: optimizer.step())
    logger = ResumableTensorboardLogger(folder, trainer) if name == "resumable" else TensorboardLogger(str(folder))
    if name == "ignite":
        logger.attach(trainer, OptimizerParamsHandler(optimizer), Events.ITERATION_STARTED)
    elif name != "none":
        LearningRateLogger(optimizer).attach(trainer, logger)

    def run() -> None:
        trainer.run(range(STEPS[groups]), max_epochs=1)
        logger.flush()

    return run


if __name__ == "__main__":
    main()
