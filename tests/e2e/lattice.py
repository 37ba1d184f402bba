"""One small training job, twice: as a hand-written loop of bare PyTorch, and by Ignite with every tip attached.

The network has BatchNorm, no bias in front of it (its gradient would be rounding noise), a body that is frozen for two
epochs, and two parts with rates of their own. One gradient is made infinite under GradScaler, so that an update is
skipped.
"""

import copy
import io
import itertools
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from ignite.engine import Engine, Events, create_supervised_evaluator, create_supervised_trainer
from ignite.handlers import Checkpoint
from ignite.metrics import Loss
from torch import nn
from torch.amp.grad_scaler import GradScaler
from torch.nn.parallel import DistributedDataParallel
from torch.optim.lr_scheduler import ReduceLROnPlateau, StepLR

import ignite_tips

EPOCHS, UNFREEZE, BATCHES, POISONED = 5, 3, 6, 8
MAX_NORM = 0.05


@dataclass(frozen=True)
class Point:
    """One combination of the lattice."""

    precision: str = "fp32"
    fused: bool = False
    accumulation: int = 1
    trainer: str = "supervised"
    resumed: bool = False
    world_size: int = 1

    def __str__(self) -> str:
        parts = [self.precision, "fused" if self.fused else "ordinary", f"accumulation {self.accumulation}"]
        return ", ".join([*parts, self.trainer, "resumed" if self.resumed else "whole"])


def points(world_size: int = 1) -> Iterator[Point]:
    """All combinations that exist: GradScaler needs an update function that uses it."""
    for precision, fused, accumulation, trainer, resumed in itertools.product(
        ("fp32", "bf16", "fp16"), (False, True), (1, 3), ("supervised", "custom", "two optimizers"), (False, True)
    ):
        if not (precision == "fp16" and trainer == "supervised"):
            yield Point(precision, fused, accumulation, trainer, resumed, world_size)


class Network(nn.Module):
    """A body with BatchNorm and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(6, 12, bias=False), nn.BatchNorm1d(12), nn.ReLU())
        self.head = nn.Linear(12, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.body(x))


def _network() -> Network:
    torch.manual_seed(7)
    return Network()


def _batches(seed: int, rank: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
    generator = torch.Generator().manual_seed(seed + 1000 * rank)
    return [(torch.randn(8, 6, generator=generator), torch.randn(8, 3, generator=generator)) for _ in range(BATCHES)]


def _autocast(point: Point) -> AbstractContextManager[Any]:
    dtypes = {"bf16": torch.bfloat16, "fp16": torch.float16}
    return torch.autocast("cpu", dtypes[point.precision]) if point.precision in dtypes else nullcontext()


def _sgd(point: Point, groups: list[dict[str, Any]]) -> torch.optim.SGD:
    return torch.optim.SGD(groups, lr=0.1, momentum=0.9, weight_decay=0.01, fused=point.fused or None)


def _loss(point: Point, model: nn.Module, batch: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
    with _autocast(point):
        output = model(batch[0])
    return nn.functional.mse_loss(output.float(), batch[1])


def _outcome(model: nn.Module, optimizers: list[torch.optim.Optimizer], rates: list[list[float]]) -> dict[str, Any]:
    state = [optimizer.state_dict()["state"] for optimizer in optimizers]
    return {"model": copy.deepcopy(model.state_dict()), "optimizers": copy.deepcopy(state), "rates": rates}


def train_by_hand(point: Point, rank: int = 0) -> dict[str, Any]:
    """The oracle."""
    network = _network()
    model: nn.Module = network
    body = {"params": list(network.body.parameters()), "lr": 0.05}
    head = {"params": list(network.head.parameters()), "lr": 0.1}
    groups = [[body], [head]] if point.trainer == "two optimizers" else [[body, head]]
    optimizers = [_sgd(point, group) for group in groups]
    decays = [StepLR(optimizer, 4, gamma=0.8) for optimizer in optimizers]
    plateaus = [ReduceLROnPlateau(optimizer, factor=0.5, patience=0, threshold=0.05) for optimizer in optimizers]
    scaler = GradScaler("cpu", init_scale=256.0, enabled=point.precision == "fp16")
    train, validation = _batches(1, rank), _batches(2, rank)
    rates: list[list[float]] = []
    iteration = 0
    for epoch in range(1, EPOCHS + 1):
        if epoch in (1, UNFREEZE):
            network.body.requires_grad_(epoch >= UNFREEZE)
            if point.world_size > 1:
                model = DistributedDataParallel(network)
        for batch in train:
            if iteration % point.accumulation == 0:
                for optimizer in optimizers:
                    optimizer.zero_grad()
            iteration += 1
            model.train()
            if epoch < UNFREEZE:
                network.body.eval()
            loss = _loss(point, model, batch) / point.accumulation
            if point.precision == "fp16" and iteration == POISONED:
                loss = loss * float("inf")
            scaler.scale(loss).backward()
            if iteration % point.accumulation == 0:
                for optimizer, decay in zip(optimizers, decays, strict=True):
                    if all(p.grad is None for group in optimizer.param_groups for p in group["params"]):
                        continue
                    scaler.unscale_(optimizer)
                    norm = nn.utils.clip_grad_norm_(
                        [p for group in optimizer.param_groups for p in group["params"]], MAX_NORM
                    )
                    if norm.isfinite():
                        rates.append([group["lr"] for group in optimizer.param_groups])
                    scaler.step(optimizer)
                    if norm.isfinite():
                        decay.step()
                scaler.update()
        model.eval()
        with torch.no_grad():
            losses = torch.stack([_loss(point, model, batch) for batch in validation]).double().mean()
        if point.world_size > 1:
            dist.all_reduce(losses)
        for plateau in plateaus:
            plateau.step((losses / point.world_size).item())
    return _outcome(network, optimizers, rates)


class Job:
    """The same job by Ignite, with every tip attached."""

    def __init__(self, point: Point, rank: int) -> None:
        self.point = point
        self.rates: list[list[float]] = []
        self.network = _network()
        self.model: nn.Module = self.network if point.world_size == 1 else DistributedDataParallel(self.network)
        rules = {"body.*": {"lr": 0.05}, "head.*": {"lr": 0.1}}
        groups = ignite_tips.param_groups(self.model, rules)
        parts = [[group] for group in groups] if point.trainer == "two optimizers" else [groups]
        self.optimizers = [_sgd(point, part) for part in parts]
        self.scaler = GradScaler("cpu", init_scale=256.0, enabled=point.precision == "fp16")
        self.train, self.validation = _batches(1, rank), _batches(2, rank)
        self.trainer = self._make_trainer()
        self.evaluator = create_supervised_evaluator(
            self.model, {"loss": Loss(nn.functional.mse_loss)}, model_fn=self._forward
        )
        self.to_save: dict[str, Any] = {"trainer": self.trainer, "model": self.model, "scaler": self.scaler}
        self._attach_tips()

    def _forward(self, model: nn.Module, x: torch.Tensor) -> torch.Tensor:
        with _autocast(self.point):
            return model(x).float()

    def _make_trainer(self) -> Engine:
        if self.point.trainer == "supervised":
            return create_supervised_trainer(
                self.model,
                self.optimizers[0],
                nn.MSELoss(),
                gradient_accumulation_steps=self.point.accumulation,
                model_fn=self._forward,
            )
        return Engine(self._update)

    def _update(self, engine: Engine, batch: tuple[torch.Tensor, torch.Tensor]) -> float:
        accumulation, iteration = self.point.accumulation, engine.state.iteration
        if (iteration - 1) % accumulation == 0:
            for optimizer in self.optimizers:
                optimizer.zero_grad()
        self.model.train()
        loss = _loss(self.point, self.model, batch) / accumulation
        if self.point.precision == "fp16" and iteration == POISONED:
            loss = loss * float("inf")
        self.scaler.scale(loss).backward()
        if iteration % accumulation == 0:
            for optimizer in self.optimizers:
                if any(p.grad is not None for group in optimizer.param_groups for p in group["params"]):
                    self.scaler.step(optimizer)
            self.scaler.update()
        return loss.item()

    def _attach_tips(self) -> None:
        trainer, evaluator = self.trainer, self.evaluator
        freezer = ignite_tips.ParameterFreezer(self.model, "body.*")
        freezer.attach(trainer, freeze=Events.STARTED, unfreeze=Events.EPOCH_STARTED(once=UNFREEZE))
        self.to_save["freezer"] = freezer
        ignite_tips.ModelSummarizer(self.model, input_size=(2, 6), output=_discard).attach(trainer)
        trainer.add_event_handler(Events.EPOCH_COMPLETED, lambda: evaluator.run(self.validation))
        for index, optimizer in enumerate(self.optimizers):
            tag = str(index)
            ignite_tips.GradientNormClipper(optimizer, MAX_NORM, tag=tag).attach(trainer)
            decay = ignite_tips.SchedulerStepper(StepLR(optimizer, 4, gamma=0.8))
            decay.attach(trainer, ignite_tips.OptimizerEvents.STEP_COMPLETED)
            plateau = ignite_tips.PlateauStepper(
                ReduceLROnPlateau(optimizer, factor=0.5, patience=0, threshold=0.05), metric="loss"
            )
            plateau.attach(trainer, evaluator)
            started = ignite_tips.for_optimizer(optimizer, ignite_tips.OptimizerEvents.STEP_STARTED)
            trainer.add_event_handler(started, self._note_rates, optimizer)
            self.to_save |= {f"optimizer {tag}": optimizer, f"decay {tag}": decay, f"plateau {tag}": plateau}

    def _note_rates(self, engine: Engine, optimizer: torch.optim.Optimizer) -> None:
        self.rates.append([group["lr"] for group in optimizer.param_groups])

    def run(self) -> None:
        self.trainer.run(self.train, max_epochs=EPOCHS)

    def saved(self) -> dict[str, Any]:
        """The states, through a file's bytes."""
        buffer = io.BytesIO()
        torch.save({name: thing.state_dict() for name, thing in _unwrapped(self.to_save).items()}, buffer)
        buffer.seek(0)
        return torch.load(buffer, weights_only=True)


def _unwrapped(to_save: dict[str, Any]) -> dict[str, Any]:
    """As Ignite's Checkpoint, which saves the module inside a wrapper."""
    return {
        name: thing.module if isinstance(thing, DistributedDataParallel) else thing for name, thing in to_save.items()
    }


def _discard(text: str) -> None:
    pass


def train_with_tips(point: Point, rank: int = 0) -> dict[str, Any]:
    """The same as ``train_by_hand``, by handlers; resumed after the second epoch where the point says so."""
    job = Job(point, rank)
    if point.resumed:
        states: list[dict[str, Any]] = []
        job.trainer.add_event_handler(Events.EPOCH_COMPLETED(once=2), lambda: states.append(job.saved()))
        job.trainer.add_event_handler(Events.EPOCH_COMPLETED(once=2), job.trainer.terminate)
        job.run()
        rates, job = job.rates, Job(point, rank)
        job.rates = rates
        Checkpoint.load_objects(job.to_save, states[0])
    job.run()
    assert job.trainer.state.metrics["0/grad_clip_coef"] < 1, "the bound must be felt"
    return _outcome(job.network, job.optimizers, job.rates)
