"""Train a small convolutional network on real scanned digits, with every tip attached.

    python examples/digits.py                           one process
    ignite-launch --nproc 2 examples/digits.py          two processes, DistributedDataParallel
    torchrun --nproc-per-node 2 examples/digits.py      the same, without the launcher

The data are the 1,797 digits of 8 x 8 pixels that ship with scikit-learn. Each part of the network has its own learning
rate, and the head alone trains in the last epochs: there is no pretrained body here that could be frozen at the start,
as in `finetune.py`. `--resume` continues the newest run.
"""

import argparse
import os
import sys
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import NoReturn

import ignite.distributed as idist
import torch
from ignite.engine import Engine, Events, create_supervised_evaluator, create_supervised_trainer
from ignite.handlers import Checkpoint, DiskSaver, ProgressBar
from ignite.metrics import Accuracy, Loss
from sklearn.datasets import load_digits
from torch import nn
from torch.optim.lr_scheduler import ExponentialLR, ReduceLROnPlateau
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset, random_split

from ignite_tips import (
    GradientNormClipper,
    LearningRateLogger,
    ModelSummarizer,
    OptimizerEvents,
    ParameterFreezer,
    PlateauStepper,
    ResumableTensorboardLogger,
    RunAnnotator,
    SchedulerStepper,
    param_groups,
    process_group,
    wrap_model,
)

Batch = tuple[torch.Tensor, ...]


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Train on scikit-learn's digits with every tip attached.")
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--freeze-epoch", type=int, default=10, help="from this epoch on only the head trains")
    parser.add_argument("--batch-size", type=int, default=64, help="for all processes together")
    parser.add_argument("--accumulation", type=int, default=1, help="batches per update")
    parser.add_argument("--bf16", action="store_true", help="run the forward pass under bfloat16 autocast")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--runs", type=Path, default=Path("runs/digits"), help="the folder of all runs")
    parser.add_argument("--resume", action="store_true", help="continue the newest run instead of starting a new one")
    return parser.parse_args()


def build_network() -> nn.Module:
    network = nn.Sequential()
    network.stem = nn.Sequential(nn.Conv2d(1, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU())
    network.body = nn.Sequential(
        nn.Conv2d(16, 32, 3, padding=1, bias=False),
        nn.BatchNorm2d(32),
        nn.ReLU(),
        nn.Conv2d(32, 32, 3, padding=1, bias=False),
        nn.BatchNorm2d(32),
        nn.ReLU(),
        nn.MaxPool2d(2),
    )
    network.head = nn.Sequential(nn.Flatten(), nn.Linear(512, 64), nn.ReLU(), nn.Linear(64, 10))
    return network


def build_loaders(batch_size: int, seed: int) -> tuple[DataLoader[Batch], DataLoader[Batch]]:
    """Return loaders of training and validation data; each process reads its own part of both."""
    digits = load_digits()
    images = torch.tensor(digits.images, dtype=torch.float32).unsqueeze(1) / 16
    dataset = TensorDataset(images, torch.tensor(digits.target))
    parts = random_split(dataset, [1437, 360], generator=torch.Generator().manual_seed(seed))
    loaders = []
    for part, shuffle in zip(parts, (True, False), strict=True):
        sampler = DistributedSampler[Batch](
            part, idist.get_world_size(), idist.get_rank(), shuffle=shuffle, seed=seed, drop_last=shuffle
        )
        loaders.append(DataLoader(part, batch_size // idist.get_world_size(), sampler=sampler, drop_last=shuffle))
    return loaders[0], loaders[1]


def forward(model: nn.Module, images: torch.Tensor, *, bf16: bool) -> torch.Tensor:
    with torch.autocast(images.device.type, torch.bfloat16, enabled=bf16):
        logits: torch.Tensor = model(images)
        return logits.float()


def newest_checkpoint(arguments: argparse.Namespace) -> Path | None:
    """Return the checkpoint to resume from, with --resume or when a launcher restarts failed workers."""
    is_restarted = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") != "0"
    if not (arguments.resume or is_restarted):
        return None
    newest_run = max(arguments.runs.glob("*/"), default=arguments.runs)  # the names are times
    checkpoints = checkpoints_of(newest_run)
    if not checkpoints and arguments.resume:
        stop(f"--resume needs a run with a checkpoint, but {newest_run} has none")
    return checkpoints[-1] if checkpoints else None


def stop(sentence: str) -> NoReturn:
    """End all processes with one message. None ends before it is printed: the launcher would kill the others."""
    if idist.get_rank() == 0:
        print(sentence, file=sys.stderr, flush=True)
    idist.barrier()
    raise SystemExit(1)


def checkpoints_of(run: Path) -> list[Path]:
    return sorted(run.glob("checkpoint_*.pt"), key=lambda path: int(path.stem.removeprefix("checkpoint_")))


def tidy(run: Path) -> None:
    """Keep the two newest checkpoints, and remove files that a killed process left incomplete."""
    for path in [*checkpoints_of(run)[:-2], *run.glob("tmp*")]:
        path.unlink()


def new_run(runs: Path) -> Path:
    """Create the folder of a new run; every process gets the same one."""
    name = datetime.now().strftime("%Y-%m-%d_%H-%M-%S")
    run = runs / str(idist.broadcast(name, safe_mode=True))
    run.mkdir(parents=True, exist_ok=True)
    return run


def train(arguments: argparse.Namespace) -> None:
    newest = newest_checkpoint(arguments)
    run = newest.parent if newest else new_run(arguments.runs)
    torch.manual_seed(arguments.seed)
    device = idist.device()
    train_loader, validation_loader = build_loaders(arguments.batch_size, arguments.seed)
    model = wrap_model(build_network())
    groups = {"stem.*": {"lr": 0.02}, "body.*": {"lr": 0.04}, "head.*": {"lr": 0.08}}
    optimizer = torch.optim.SGD(param_groups(model, groups), momentum=0.9, weight_decay=1e-4)
    loss_fn = nn.CrossEntropyLoss()
    model_fn = partial(forward, bf16=arguments.bf16)

    trainer = create_supervised_trainer(
        model, optimizer, loss_fn, device, gradient_accumulation_steps=arguments.accumulation, model_fn=model_fn
    )
    metrics = {"accuracy": Accuracy(device=device), "loss": Loss(loss_fn, device=device)}
    evaluator = create_supervised_evaluator(model, metrics, device, model_fn=model_fn)
    sampler = train_loader.sampler
    assert isinstance(sampler, DistributedSampler)
    trainer.add_event_handler(Events.EPOCH_STARTED, lambda engine: sampler.set_epoch(engine.state.epoch))

    # The tips: one line each, and the update function does not change.
    summarizer = ModelSummarizer(model, input_size=(1, 1, 8, 8), optimizer=optimizer)
    clipper = GradientNormClipper(optimizer, max_norm=1.0)
    freezer = ParameterFreezer(model, ["stem.*", "body.*"])
    decay = SchedulerStepper(ExponentialLR(optimizer, gamma=0.93))
    plateau = PlateauStepper(ReduceLROnPlateau(optimizer, factor=0.5, patience=1), metric="loss")

    clipper.attach(trainer)
    freezer.attach(trainer, freeze=Events.EPOCH_STARTED(once=arguments.freeze_epoch))
    decay.attach(trainer)
    trainer.add_event_handler(Events.EPOCH_COMPLETED, lambda: evaluator.run(validation_loader))
    plateau.attach(trainer, evaluator)

    to_save = {
        "trainer": trainer,
        "model": model,
        "optimizer": optimizer,
        "clipper": clipper,
        "freezer": freezer,
        "decay": decay,
        "plateau": plateau,
    }
    if newest:
        Checkpoint.load_objects(to_save, torch.load(newest, map_location=device, weights_only=True))
        if trainer.state.epoch >= arguments.epochs:
            stop(f"{run} has already run for {trainer.state.epoch} epochs; to train longer, raise --epochs")
    checkpoint = Checkpoint(to_save, DiskSaver(str(run), require_empty=False), n_saved=None)

    with ResumableTensorboardLogger(run, trainer) as tb_logger:
        LearningRateLogger(optimizer).attach(trainer, tb_logger)
        RunAnnotator(model, optimizer).attach(trainer, tb_logger)
        summarizer.attach(trainer, tb_logger)
        log_metrics(trainer, evaluator, tb_logger, arguments.accumulation)
        if idist.get_rank() == 0:
            show_progress(trainer, evaluator, optimizer)
        # Last at the end of an epoch, after schedulers and validation.
        trainer.add_event_handler(Events.EPOCH_COMPLETED, checkpoint)
        if idist.get_rank() == 0:
            trainer.add_event_handler(Events.STARTED | Events.EPOCH_COMPLETED, lambda: tidy(run))
        trainer.run(train_loader, max_epochs=arguments.epochs)

    if idist.get_rank() == 0:
        accuracy = evaluator.state.metrics["accuracy"]
        print(f"\nvalidation accuracy {accuracy:.4f} after {trainer.state.epoch} epochs")
        print(f"logs and checkpoints are in {run}; look at all runs with\n    tensorboard --logdir {arguments.runs}")


def log_metrics(trainer: Engine, evaluator: Engine, tb_logger: ResumableTensorboardLogger, accumulation: int) -> None:
    """Write the losses and the accuracy to TensorBoard; the x axis is the number of updates, as for all curves."""
    steps = {"global_step_transform": lambda *_: trainer.state.get_event_attrib_value(OptimizerEvents.STEP_COMPLETED)}
    updated = Events.ITERATION_COMPLETED(every=accumulation)  # the loss is known when the iteration is completed
    tb_logger.attach_output_handler(
        trainer, updated, tag="training", output_transform=lambda loss: {"loss": loss}, **steps
    )
    tb_logger.attach_output_handler(
        evaluator, Events.EPOCH_COMPLETED, tag="validation", metric_names=["accuracy", "loss"], **steps
    )


def show_progress(trainer: Engine, evaluator: Engine, optimizer: torch.optim.Optimizer) -> None:
    """Show a progress bar per epoch in a terminal, and a line after each epoch."""
    bar = ProgressBar(disable=None)  # no bar if the output is not a terminal
    bar.attach(trainer, ["grad_norm"], output_transform=lambda loss: {"loss": loss})

    @evaluator.on(Events.EPOCH_COMPLETED)
    def print_epoch() -> None:
        state, metrics = trainer.state, evaluator.state.metrics
        lrs = "  ".join(f"{group['name']} {group['lr']:.4f}" for group in optimizer.param_groups)
        bar.log_message(
            f"epoch {state.epoch:2d}/{state.max_epochs}  validation loss {metrics['loss']:.4f}"
            f"  accuracy {metrics['accuracy']:.4f}  next lr: {lrs}"
        )


if __name__ == "__main__":
    with process_group():
        try:
            train(parse_arguments())
        except KeyboardInterrupt:
            if idist.get_rank() == 0:
                print("\ninterrupted; --resume continues after the last complete epoch", file=sys.stderr)
            sys.exit(130)  # the exit code that shells use for Ctrl-C
