"""What ``training`` measures: tasks, and their training loops by hand, in Ignite, in Lightning and with Accelerate."""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from ignite.engine import Engine, Events, create_supervised_trainer
from ignite.handlers import LRScheduler, TensorboardLogger
from torch import Tensor, nn
from torch.optim.lr_scheduler import StepLR
from torch.utils.data import DataLoader
from torch.utils.tensorboard import SummaryWriter

from ignite_tips import (
    GradientNormClipper,
    LearningRateLogger,
    OptimizerEvents,
    ResumableTensorboardLogger,
    SchedulerStepper,
)

__all__ = [
    "GROUPS",
    "Loop",
    "Task",
    "bare_by_hand",
    "bare_ignite",
    "by_hand",
    "mlp",
    "resnet",
    "tasks",
    "with_accelerate",
    "with_ignites_handlers",
    "with_lightning",
    "with_our_handlers",
]

MAX_NORM = 1.0
GROUPS = ("stem", "body", "head")
Batch = tuple[Tensor, Tensor]
Loop = Callable[[], object]


@dataclass(frozen=True)
class Task:
    """What is trained: three parts, a batch, and how many updates are timed at once."""

    name: str
    build: Callable[[], nn.Module]
    batch: Batch
    updates: int
    rounds: int
    device: str = "cpu"

    def model(self) -> nn.Module:
        """Return a new model on the device."""
        return self.build().to(self.device)

    def wait(self) -> None:
        """Wait until the device has finished its work."""
        if self.device != "cpu":
            torch.accelerator.synchronize()


def mlp() -> nn.Sequential:
    return _parts(
        nn.Sequential(nn.Linear(32, 64), nn.ReLU()), nn.Sequential(nn.Linear(64, 64), nn.ReLU()), nn.Linear(64, 10)
    )


class _Block(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(width, width, 3, padding=1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            nn.Conv2d(width, width, 3, padding=1, bias=False),
            nn.BatchNorm2d(width),
        )

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(x + self.layers(x))


def resnet() -> nn.Sequential:
    """About 25 million parameters, most of them in the last stages, as in a ResNet."""
    stages: list[nn.Module] = []
    for narrow, wide, blocks in ((64, 128, 2), (128, 256, 3), (256, 512, 4)):
        stages += [nn.Conv2d(narrow, wide, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(wide), nn.ReLU()]
        stages += [_Block(wide) for _ in range(blocks)]
    stem = nn.Sequential(nn.Conv2d(3, 64, 3, padding=1, bias=False), nn.BatchNorm2d(64), nn.ReLU())
    head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(512, 10))
    return _parts(stem, nn.Sequential(*stages), head)


def transformer() -> nn.Sequential:
    layer = nn.TransformerEncoderLayer(256, 4, 1024, dropout=0.0, batch_first=True)
    head = nn.Sequential(nn.Flatten(), nn.Linear(256 * 16, 10))
    return _parts(nn.Linear(64, 256), layer, head)


def _parts(*parts: nn.Module) -> nn.Sequential:
    model = nn.Sequential()
    for name, part in zip(GROUPS, parts, strict=True):
        model.add_module(name, part)
    return model


def tasks() -> list[Task]:
    labels = torch.randint(10, (32,))
    return [
        Task("small MLP", mlp, (torch.randn(32, 32), labels), updates=200, rounds=15),
        Task("ResNet-like, 25 M parameters", resnet, (torch.randn(4, 3, 16, 16), labels[:4]), updates=2, rounds=5),
        Task("transformer block", transformer, (torch.randn(32, 16, 64), labels), updates=5, rounds=9),
    ]


def _parameters(model: nn.Module) -> list[dict[str, Any]]:
    return [
        {"params": list(model.get_submodule(name).parameters()), "name": name, "lr": 0.01 * (index + 1)}
        for index, name in enumerate(GROUPS)
    ]


def _optimizer(model: nn.Module, fused: bool) -> torch.optim.Optimizer:
    return torch.optim.AdamW(_parameters(model), lr=0.01, fused=fused)


def bare_by_hand(task: Task, folder: str, fused: bool) -> Loop:
    model, loss_fn = task.model(), nn.CrossEntropyLoss()
    optimizer = _optimizer(model, fused)

    def run() -> None:
        for _ in range(task.updates):
            model.train()
            optimizer.zero_grad()
            loss_fn(model(task.batch[0]), task.batch[1]).backward()
            optimizer.step()

    return run


def bare_ignite(task: Task, folder: str, fused: bool) -> Loop:
    model = task.model()
    optimizer = _optimizer(model, fused)
    trainer = create_supervised_trainer(model, optimizer, nn.CrossEntropyLoss(), output_transform=_nothing)
    data = [task.batch] * task.updates
    return lambda: trainer.run(data)


def by_hand(task: Task, folder: str, fused: bool, error_if_nonfinite: bool = False) -> Loop:
    model, loss_fn = task.model(), nn.CrossEntropyLoss()
    optimizer = _optimizer(model, fused)
    scheduler = StepLR(optimizer, 1000)
    writer = SummaryWriter(folder)
    step = 0

    def run() -> None:
        nonlocal step
        for _ in range(task.updates):
            model.train()
            optimizer.zero_grad()
            loss_fn(model(task.batch[0]), task.batch[1]).backward()
            nn.utils.clip_grad_norm_(model.parameters(), MAX_NORM, error_if_nonfinite=error_if_nonfinite)
            optimizer.step()
            step += 1
            for group in optimizer.param_groups:
                writer.add_scalar(f"lr/{group['name']}", group["lr"], step)
            scheduler.step()
        writer.flush()

    return run


def with_our_handlers(
    task: Task, folder: str, fused: bool, on_nonfinite: str = "raise", ignites_logger: bool = False
) -> Loop:
    model = task.model()
    optimizer = _optimizer(model, fused)
    trainer = create_supervised_trainer(model, optimizer, nn.CrossEntropyLoss(), output_transform=_nothing)
    GradientNormClipper(optimizer, MAX_NORM, on_nonfinite=on_nonfinite).attach(trainer)
    SchedulerStepper(StepLR(optimizer, 1000)).attach(trainer, OptimizerEvents.STEP_COMPLETED)
    logger = TensorboardLogger(folder) if ignites_logger else ResumableTensorboardLogger(folder, trainer)
    LearningRateLogger(optimizer).attach(trainer, logger)
    data = [task.batch] * task.updates
    return lambda: (trainer.run(data), logger.flush())


def with_ignites_handlers(task: Task, folder: str, fused: bool) -> Loop:
    model, loss_fn = task.model(), nn.CrossEntropyLoss()
    optimizer = _optimizer(model, fused)

    def update(engine: Engine, batch: Batch) -> None:
        model.train()
        optimizer.zero_grad()
        loss_fn(model(batch[0]), batch[1]).backward()
        nn.utils.clip_grad_norm_(model.parameters(), MAX_NORM)
        optimizer.step()

    trainer = Engine(update)
    tb_logger = TensorboardLogger(log_dir=folder)
    tb_logger.attach_opt_params_handler(trainer, Events.ITERATION_STARTED, optimizer=optimizer)
    trainer.add_event_handler(Events.ITERATION_COMPLETED, LRScheduler(StepLR(optimizer, 1000)))
    data = [task.batch] * task.updates
    return lambda: (trainer.run(data), tb_logger.writer.flush())


def with_lightning(task: Task, folder: str, fused: bool) -> Loop:
    import lightning.pytorch as pl
    from lightning.pytorch.callbacks import LearningRateMonitor
    from lightning.pytorch.loggers import TensorBoardLogger

    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)

    class Module(pl.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.model = task.model()

        def training_step(self, batch: Batch, index: int) -> Tensor:
            return nn.functional.cross_entropy(self.model(batch[0]), batch[1])

        def configure_optimizers(self) -> dict[str, Any]:
            optimizer = _optimizer(self.model, fused)
            return {
                "optimizer": optimizer,
                "lr_scheduler": {"scheduler": StepLR(optimizer, 1000), "interval": "step"},
            }

    trainer = pl.Trainer(
        accelerator="cpu" if task.device == "cpu" else "gpu",
        devices=1,
        max_epochs=0,
        gradient_clip_val=MAX_NORM,
        callbacks=[LearningRateMonitor("step")],
        logger=TensorBoardLogger(folder),
        log_every_n_steps=1,
        enable_progress_bar=False,
        enable_checkpointing=False,
        enable_model_summary=False,
    )
    module = Module()
    loader = DataLoader([task.batch] * task.updates, batch_size=None)

    def run() -> None:
        trainer.fit_loop.max_epochs += 1
        trainer.fit(module, loader)
        trainer.logger.experiment.flush()

    return run


def with_accelerate(task: Task, folder: str, fused: bool) -> Loop:
    from accelerate import Accelerator

    accelerator = Accelerator(cpu=task.device == "cpu", log_with="tensorboard", project_dir=folder)
    accelerator.init_trackers("run")
    model, loss_fn = task.model(), nn.CrossEntropyLoss()
    optimizer = _optimizer(model, fused)
    model, optimizer, scheduler = accelerator.prepare(model, optimizer, StepLR(optimizer, 1000))
    step = 0

    def run() -> None:
        nonlocal step
        for _ in range(task.updates):
            model.train()
            optimizer.zero_grad()
            accelerator.backward(loss_fn(model(task.batch[0]), task.batch[1]))
            accelerator.clip_grad_norm_(model.parameters(), MAX_NORM)
            optimizer.step()
            step += 1
            accelerator.log({f"lr/{group['name']}": group["lr"] for group in optimizer.param_groups}, step)
            scheduler.step()
        accelerator.get_tracker("tensorboard").writer.flush()

    return run


def _nothing(*_: object) -> None:
    return None
