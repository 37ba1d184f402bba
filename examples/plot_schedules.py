"""Draw the common learning-rate schedules, each from its scheduler, in one picture.

python examples/plot_schedules.py [FILE]        by default docs/images/schedules.png
"""

import argparse
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path

import torch
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from torch.optim import SGD, lr_scheduler
from torch.optim.lr_scheduler import LRScheduler

from ignite_tips import plot_schedule, simulate_schedule, warmup_stable_decay, with_warmup

STEPS = 100
PLATEAU_METRICS = [1.0, 0.8, 0.7, 0.65, 0.64, *[0.66] * 6, 0.5, 0.45, *[0.46] * 8]


def optimizer(**lrs: float) -> SGD:
    """Return an optimizer with a named group for each learning rate."""
    groups = [{"params": [torch.nn.Parameter(torch.zeros(1))], "lr": lr, "name": name} for name, lr in lrs.items()]
    return SGD(groups, lr=1.0)


def simulated(build: Callable[[SGD], LRScheduler], **lrs: float) -> dict[str, list[float]]:
    return simulate_schedule(build(optimizer(**(lrs or {"all": 1.0}))), STEPS)


def decays() -> dict[str, list[float]]:
    """Return the three shapes of a warm-up, stable and decay schedule."""
    factors = {shape: warmup_stable_decay(10, 40, 50, shape=shape) for shape in ("linear", "cosine", "sqrt")}
    return {
        shape: simulated(partial(lr_scheduler.LambdaLR, lr_lambda=factor))["all"] for shape, factor in factors.items()
    }


def panels() -> Iterable[tuple[str, str, dict[str, list[float]]]]:
    """Yield title, unit of a step and learning rates of each panel."""
    yield "StepLR", "epoch", simulated(lambda sgd: lr_scheduler.StepLR(sgd, 25, gamma=0.4))
    yield "MultiStepLR", "epoch", simulated(lambda sgd: lr_scheduler.MultiStepLR(sgd, [50, 75], gamma=0.3))
    yield "ExponentialLR", "epoch", simulated(lambda sgd: lr_scheduler.ExponentialLR(sgd, 0.96))
    yield "PolynomialLR", "epoch", simulated(lambda sgd: lr_scheduler.PolynomialLR(sgd, STEPS, power=2))
    yield "CosineAnnealingLR", "epoch", simulated(lambda sgd: lr_scheduler.CosineAnnealingLR(sgd, STEPS))
    restarts = simulated(lambda sgd: lr_scheduler.CosineAnnealingWarmRestarts(sgd, 15, 2))
    yield "CosineAnnealingWarmRestarts", "epoch", restarts
    yield "CyclicLR", "update", simulated(lambda sgd: lr_scheduler.CyclicLR(sgd, 0.1, 1.0, 12, mode="triangular2"))
    yield "OneCycleLR", "update", simulated(lambda sgd: lr_scheduler.OneCycleLR(sgd, 1.0, total_steps=STEPS))
    warm = simulated(lambda sgd: with_warmup(lr_scheduler.CosineAnnealingLR(sgd, STEPS - 15), 15))
    yield "with_warmup(CosineAnnealingLR)", "update", warm
    yield "warmup_stable_decay", "update", decays()
    plateau = lr_scheduler.ReduceLROnPlateau(optimizer(all=1.0), factor=0.5, patience=2)
    yield "ReduceLROnPlateau", "epoch", simulate_schedule(plateau, metrics=PLATEAU_METRICS)
    groups = {"stem": 0.25, "body": 0.5, "head": 1.0}
    yield (
        "with_warmup(StepLR), by group",
        "epoch",
        simulated(lambda sgd: with_warmup(lr_scheduler.StepLR(sgd, 30, gamma=0.5), 10), **groups),
    )


def draw() -> Figure:
    figure = Figure(figsize=(13, 8.5), layout=ConstrainedLayoutEngine(h_pad=0.12), dpi=100)
    shown = list(panels())
    for index, (axes, (title, unit, lrs)) in enumerate(zip(figure.subplots(3, 4).flat, shown, strict=True)):
        plot_schedule(lrs, title=title, xlabel=unit, axes=axes)
        axes.set_ylim(0, 1.05)
        axes.set_title(title, fontsize=10.5, fontfamily="monospace")
        if index % 4:
            axes.set_ylabel("")
    return figure


def main() -> None:
    parser = argparse.ArgumentParser(description="Draw the common learning-rate schedules in one picture.")
    parser.add_argument("file", type=Path, nargs="?", default=Path("docs/images/schedules.png"), help="a .png or .svg")
    file = parser.parse_args().file
    file.parent.mkdir(parents=True, exist_ok=True)
    draw().savefig(file, metadata={"Software": None} if file.suffix == ".png" else None)
    print(f"wrote {file}")


if __name__ == "__main__":
    main()
