"""The combinations' job in Ignite, with every tip attached, and a checkpoint by Ignite after the second epoch."""

from pathlib import Path
from typing import Any

import torch
from ignite.engine import Engine, Events, create_supervised_evaluator, create_supervised_trainer
from ignite.handlers import Checkpoint, DiskSaver
from ignite.metrics import Loss
from torch import nn
from torch.amp.grad_scaler import GradScaler
from torch.nn.parallel import DistributedDataParallel
from torch.optim.lr_scheduler import ReduceLROnPlateau, StepLR

import ignite_tips
from tests.e2e.combinations import (
    EPOCHS,
    MAX_NORM,
    SAVED,
    UNFREEZE,
    Batch,
    Point,
    autocast,
    loss_of,
    make_batches,
    make_network,
    make_optimizer,
    outcome,
)


class Job:
    """Model, optimizers, trainer, evaluator and tips of one point on one rank."""

    def __init__(self, point: Point, rank: int) -> None:
        self.point, self.rank = point, rank
        self.lrs: list[list[float]] = []
        self.network = make_network(point)
        self.model: nn.Module = DistributedDataParallel(self.network) if point.strategy == "DDP" else self.network
        rules = {"body.*": {"lr": 0.05}, "head.*": {"lr": 0.1}}
        groups = ignite_tips.param_groups(self.model, rules)
        parts = [[group] for group in groups] if point.trainer == "two optimizers" else [groups]
        self.optimizers = [make_optimizer(point, part) for part in parts]
        self.scaler = GradScaler(point.device, init_scale=256.0, enabled=point.precision == "fp16")
        self.train, self.validation = make_batches(point, 1, rank), make_batches(point, 2, rank, count=2)
        self.trainer = self._make_trainer()
        self.evaluator = create_supervised_evaluator(
            self.model,
            {"loss": Loss(nn.functional.mse_loss, device=point.device)},
            device=point.device,
            model_fn=self._forward,
        )
        self.to_save: dict[str, Any] = {"trainer": self.trainer, "model": self.model, "scaler": self.scaler}
        self._attach_tips()

    def _forward(self, model: nn.Module, x: torch.Tensor) -> torch.Tensor:
        with autocast(self.point):
            return model(x).float()

    def _make_trainer(self) -> Engine:
        if self.point.trainer != "supervised":
            return Engine(self._update)
        amp = {"amp_mode": "amp", "scaler": self.scaler} if self.point.precision == "fp16" else {}
        return create_supervised_trainer(
            self.model,
            self.optimizers[0],
            lambda output, target: loss_of(self.point, output, target, self.trainer.state.iteration),
            gradient_accumulation_steps=self.point.accumulation,
            model_fn=self._forward,
            device=self.point.device,
            **amp,  # Ignite's own autocast is for CUDA only; the CPU's is in model_fn
        )

    def _update(self, engine: Engine, batch: Batch) -> float:
        accumulation, iteration = self.point.accumulation, engine.state.iteration
        if (iteration - 1) % accumulation == 0:
            for optimizer in self.optimizers:
                optimizer.zero_grad()
        self.model.train()
        loss = loss_of(self.point, self._forward(self.model, batch[0]), batch[1], iteration) / accumulation
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
            decay = ignite_tips.SchedulerStepper(StepLR(optimizer, 5, gamma=0.8))
            decay.attach(trainer, ignite_tips.OptimizerEvents.STEP_COMPLETED)
            plateau = ignite_tips.PlateauStepper(
                ReduceLROnPlateau(optimizer, factor=0.5, patience=0, threshold=0.05), metric="loss"
            )
            plateau.attach(trainer, evaluator)
            started = ignite_tips.for_optimizer(optimizer, ignite_tips.OptimizerEvents.STEP_STARTED)
            trainer.add_event_handler(started, self._note_rates, optimizer)
            self.to_save |= {f"optimizer {tag}": optimizer, f"decay {tag}": decay, f"plateau {tag}": plateau}

    def _note_rates(self, engine: Engine, optimizer: torch.optim.Optimizer) -> None:
        self.lrs.append([group["lr"] for group in optimizer.param_groups])

    def save(self, folder: Path) -> None:
        """Let Ignite save everything after the second epoch of the next run.

        With fully_shard the ranks share only gradients: each has its own shards and BatchNorm statistics, and so its
        own file. With DDP all ranks use rank 0's file.
        """
        rank = self.rank if self.point.strategy == "FSDP2" else 0
        saver = DiskSaver(checkpoint_folder(folder, self.point, rank), save_on_rank=rank)
        checkpoint = Checkpoint(self.to_save, saver, save_on_rank=rank)
        self.trainer.add_event_handler(Events.EPOCH_COMPLETED(once=SAVED), checkpoint)

    def load(self, folder: Path) -> None:
        """Load what a job in another process saved."""
        (path,) = checkpoint_folder(folder, self.point, self.rank if self.point.strategy == "FSDP2" else 0).iterdir()
        Checkpoint.load_objects(self.to_save, torch.load(path, weights_only=True))

    def run(self) -> dict[str, Any]:
        """Train to the end; return the result on this rank."""
        self.trainer.run(self.train, max_epochs=EPOCHS)
        assert self.trainer.state.metrics["0/grad_clip_coef"] < 1, "the threshold must take effect"
        return outcome(self.network, self.optimizers, self.lrs) | {"scaler": self.scaler.state_dict()}


def checkpoint_folder(folder: Path, point: Point, rank: int) -> Path:
    return folder / str(point) / str(rank)


def _discard(text: str) -> None:
    pass
