"""Every scheduler of the installed torch, and hand-written loops that step it: the reference for all others.

The rows come from torch's module, so a new torch adds its own.
"""

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.amp.grad_scaler import GradScaler
from torch.optim import SGD, Optimizer, lr_scheduler
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from ignite_tips import warmup_stable_decay, with_warmup
from tests.settings import seeded

EPOCHS, LENGTH = 6, 6
ITERATIONS = range(1, EPOCHS * LENGTH + 1)
INPUTS = torch.randn(EPOCHS * LENGTH, 4, 3, generator=torch.Generator().manual_seed(seeded(5)))
METRICS = [3.0, 2.0, 2.5, 2.4, 2.2, 2.1]  # one per epoch, for ReduceLROnPlateau
OVERFLOWS = {1, 8, 18, 20, 27, 31}  # an iteration of each epoch in which GradScaler finds inf
# torch 2.13 leaves the momentum of a fused SGD uninitialized if its very first step is skipped.
FUSED_OVERFLOWS = OVERFLOWS - {1} | {2}
Options = list[tuple[float, float]]  # each group's learning rate and momentum


@dataclass(frozen=True)
class Mode:
    """When the scheduler is stepped, and what is between a batch and an update."""

    name: str
    per_update: bool = True
    accumulation: int = 1
    scaled: bool = False
    fused: bool = False

    @property
    def overflows(self) -> set[int]:
        """Return the iterations in which the scaled loss is inf."""
        return (FUSED_OVERFLOWS if self.fused else OVERFLOWS) if self.scaled else set()

    @property
    def steps(self) -> int:
        """Return how many steps the scheduler takes in the run."""
        updates = (len(ITERATIONS) - len(self.overflows)) // self.accumulation
        return updates if self.per_update else EPOCHS


MODES = [
    Mode("per epoch", per_update=False),
    Mode("per update"),
    Mode("per update of 3 batches", accumulation=3),
    Mode("GradScaler", scaled=True),
    Mode("GradScaler, fused", scaled=True, fused=True),
    Mode("GradScaler, per epoch", scaled=True, per_update=False),
]


def _arguments(optimizer: Optimizer, steps: int) -> dict[str, Any]:
    """Return a value for each argument of torch's schedulers, by name."""
    third = steps // 3
    return {
        "optimizer": optimizer,
        "lr_lambda": lambda step: 0.95 ** (step % 5),
        "step_size": max(1, third),
        "step_size_up": 3,
        "milestones": [third, 2 * third],
        "gamma": 0.9,
        "factor": 0.5,
        "patience": 0,
        "min_lr": 0.03,
        "T_max": steps,
        "T_0": 2,
        "total_steps": steps,
        "total_iters": steps,
        "base_lr": 0.01,
        "max_lr": [0.5, 0.25],
        "schedulers": lambda: [
            lr_scheduler.LinearLR(optimizer, total_iters=third),
            lr_scheduler.ExponentialLR(optimizer, 0.9),
            lr_scheduler.StepLR(optimizer, 2, gamma=0.5),
        ],
    }


def _build(kind: type[LRScheduler]) -> Callable[[Optimizer, int], LRScheduler]:
    def build(optimizer: Optimizer, steps: int) -> LRScheduler:
        values, given = _arguments(optimizer, steps), {}
        for name, parameter in inspect.signature(kind).parameters.items():
            if name in values:
                given[name] = values[name]() if name == "schedulers" else values[name]
            elif parameter.default is parameter.empty:
                raise LookupError(f"{kind.__name__} of torch {torch.__version__} needs a value for {name!r}")
        return kind(**given)

    return build


class _Recursive(LRScheduler):
    """A user-written scheduler: each learning rate from the last one, no closed form."""

    def get_lr(self) -> list[float | torch.Tensor]:
        return [group["lr"] * (0.9 if self.last_epoch else 1) for group in self.optimizer.param_groups]


class _Stepping(LRScheduler):
    """A user-written scheduler with only ``step()`` and its own state."""

    def __init__(self, optimizer: Optimizer, decay: float) -> None:
        self.decay = decay
        self.scale = 1.0
        super().__init__(optimizer)

    def step(self, epoch: int | None = None) -> None:
        self.last_epoch += 1
        for group, initial in zip(self.optimizer.param_groups, self.base_lrs, strict=True):
            group["lr"] = initial * self.scale
        self.scale *= self.decay
        self._last_lr = [group["lr"] for group in self.optimizer.param_groups]


def _nested(optimizer: Optimizer, steps: int) -> LRScheduler:
    chain = lr_scheduler.ChainedScheduler(
        [lr_scheduler.ConstantLR(optimizer, 0.5, steps // 2), lr_scheduler.ExponentialLR(optimizer, 0.95)]
    )
    return lr_scheduler.ChainedScheduler([chain, lr_scheduler.StepLR(optimizer, max(1, steps // 3))])


def _chain_of_sequence(optimizer: Optimizer, steps: int) -> LRScheduler:
    parts = [lr_scheduler.LinearLR(optimizer, total_iters=steps // 3), lr_scheduler.ExponentialLR(optimizer, 0.9)]
    sequence = lr_scheduler.SequentialLR(optimizer, parts, [steps // 3])
    return lr_scheduler.ChainedScheduler([sequence, lr_scheduler.MultiplicativeLR(optimizer, lambda step: 0.99)])


def _is_scheduler(thing: object) -> bool:
    return isinstance(thing, type) and issubclass(thing, LRScheduler) and thing.__module__ == lr_scheduler.__name__


KINDS = {kind.__name__: kind for kind in vars(lr_scheduler).values() if _is_scheduler(kind)}
ROWS: dict[str, Callable[[Optimizer, int], LRScheduler]] = {
    **{name: _build(kind) for name, kind in KINDS.items() if name not in ("LRScheduler", "_LRScheduler")},
    "CyclicLR of a function": lambda optimizer, steps: lr_scheduler.CyclicLR(
        optimizer, 0.01, 0.5, 3, scale_fn=lambda x: 0.9**x, scale_mode="iterations"
    ),
    "OneCycleLR of three phases": lambda optimizer, steps: lr_scheduler.OneCycleLR(
        optimizer, 0.5, total_steps=steps, three_phase=True, anneal_strategy="linear"
    ),
    "CosineAnnealingWarmRestarts, doubling": lambda optimizer, steps: lr_scheduler.CosineAnnealingWarmRestarts(
        optimizer, 1, 2
    ),
    "LambdaLR by group": lambda optimizer, steps: lr_scheduler.LambdaLR(
        optimizer, [lambda step: 0.9**step, warmup_stable_decay(1, 1, steps - 2)]
    ),
    "a chain in a chain": _nested,
    "a sequence in a chain": _chain_of_sequence,
    "with_warmup": lambda optimizer, steps: with_warmup(
        lr_scheduler.CosineAnnealingLR(optimizer, steps - steps // 4), steps // 4
    ),
    "with_warmup of a chain": lambda optimizer, steps: with_warmup(_nested(optimizer, steps), steps // 4),
    "a user's, recursive": lambda optimizer, steps: _Recursive(optimizer),
    "a user's, step() alone": lambda optimizer, steps: _Stepping(optimizer, 0.9),
}


class Setup:
    """A small network with two groups, its optimizer and its scheduler."""

    def __init__(self, row: str, mode: Mode) -> None:
        torch.manual_seed(seeded())
        self.model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1))
        groups = [{"params": self.model[0].parameters(), "lr": 0.1}, {"params": self.model[2].parameters(), "lr": 0.02}]
        self.optimizer = SGD(groups, momentum=0.9, fused=mode.fused)
        self.scheduler = ROWS[row](self.optimizer, mode.steps)
        self.scaler = GradScaler("cpu", enabled=mode.scaled, init_scale=2.0**10)

    def options(self) -> Options:
        return [(group["lr"], group["momentum"]) for group in self.optimizer.param_groups]

    def backward(self, iteration: int, mode: Mode) -> None:
        loss = self.model(INPUTS[iteration - 1]).square().mean() / mode.accumulation
        if iteration in mode.overflows:
            loss = loss * float("inf")
        self.scaler.scale(loss).backward()

    def weights(self) -> torch.Tensor:
        return torch.cat([parameter.detach().flatten() for parameter in self.model.parameters()])


def native_loop(row: str, mode: Mode) -> tuple[list[Options], torch.Tensor]:
    """The hand-written loop: the options at the start of each iteration, and the final weights."""
    setup, used = Setup(row, mode), []
    for iteration in ITERATIONS:
        used.append(setup.options())
        setup.backward(iteration, mode)
        if iteration % mode.accumulation == 0:
            scale = setup.scaler.get_scale()
            setup.scaler.step(setup.optimizer)
            setup.scaler.update()
            setup.optimizer.zero_grad()
            is_skipped = setup.scaler.get_scale() < scale
            if mode.per_update and not is_skipped and not isinstance(setup.scheduler, ReduceLROnPlateau):
                setup.scheduler.step()
        if iteration % LENGTH == 0:
            if isinstance(setup.scheduler, ReduceLROnPlateau):
                setup.scheduler.step(METRICS[iteration // LENGTH - 1])
            elif not mode.per_update:
                setup.scheduler.step()
    used.append(setup.options())
    return used, setup.weights()
