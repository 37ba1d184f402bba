"""A short training run that logs everything a run can show; also used for the screenshots.

python -m tests.e2e.demo_run FOLDER
"""

from pathlib import Path

import torch
from ignite.engine import Events, create_supervised_evaluator, create_supervised_trainer
from ignite.handlers import global_step_from_engine
from ignite.metrics import Accuracy, Loss
from sklearn.datasets import load_digits
from torch import nn
from torch.optim.lr_scheduler import CosineAnnealingLR, ReduceLROnPlateau

from ignite_tips import (
    GradientNormClipper,
    LearningRateLogger,
    ModelSummarizer,
    ParameterFreezer,
    PlateauStepper,
    ResumableTensorboardLogger,
    RunAnnotator,
    SchedulerStepper,
    param_groups,
    with_warmup,
)
from tests.settings import seeded

GROUPS = {
    "stem.*": {"lr": 0.05, "name": "stem"},
    "body.*": {"lr": 0.1, "name": "body"},
    "head.*": {"lr": 0.2, "name": "head"},
}


def build_network() -> nn.Module:
    network = nn.Sequential()
    network.stem = nn.Sequential(nn.Conv2d(1, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU())
    network.body = nn.Sequential(nn.Conv2d(16, 32, 3, padding=1, bias=False), nn.BatchNorm2d(32), nn.ReLU())
    network.head = nn.Sequential(nn.MaxPool2d(2), nn.Flatten(), nn.Linear(512, 10))
    return network


def train(folder: Path, *, epochs: int = 8, seed: int = 0, run_per_group: bool = False) -> None:
    """Train on scikit-learn's digits: the body frozen at first, a warm-up, a cosine, and a plateau on top."""
    torch.manual_seed(seeded(seed))
    digits = load_digits()
    images = torch.tensor(digits.images, dtype=torch.float32).unsqueeze(1) / 16
    data = list(zip(images.split(48), torch.tensor(digits.target).split(48), strict=True))
    training, validation = data[:30], data[30:]
    network = build_network()
    optimizer = torch.optim.SGD(param_groups(network, GROUPS), momentum=0.9)
    loss_fn = nn.CrossEntropyLoss()
    trainer = create_supervised_trainer(network, optimizer, loss_fn)
    evaluator = create_supervised_evaluator(network, {"accuracy": Accuracy(), "loss": Loss(loss_fn)})
    updates = epochs * len(training)
    with ResumableTensorboardLogger(folder, trainer) as tb_logger:
        ModelSummarizer(network, optimizer=optimizer, output=lambda text: None).attach(trainer, tb_logger)
        LearningRateLogger(optimizer, run_per_group=run_per_group).attach(trainer, tb_logger)
        RunAnnotator(network, optimizer).attach(trainer, tb_logger)
        GradientNormClipper(optimizer, max_norm=1.0).attach(trainer)
        ParameterFreezer(network, "body.*", optimizer=optimizer).attach(
            trainer, freeze=Events.STARTED, unfreeze=Events.EPOCH_STARTED(once=3)
        )
        cosine = with_warmup(CosineAnnealingLR(optimizer, updates, eta_min=0.001), updates // 8)
        SchedulerStepper(cosine).attach(trainer, Events.ITERATION_COMPLETED)
        tb_logger.attach_output_handler(
            trainer, Events.ITERATION_COMPLETED, tag="train", output_transform=lambda loss: {"loss": loss}
        )
        tb_logger.attach_output_handler(
            evaluator,
            Events.EPOCH_COMPLETED,
            tag="validation",
            metric_names=["loss", "accuracy"],
            global_step_transform=global_step_from_engine(trainer),
        )
        trainer.add_event_handler(Events.EPOCH_COMPLETED, lambda: evaluator.run(validation))
        plateau = ReduceLROnPlateau(optimizer, factor=0.5, patience=0, threshold=0.2)
        PlateauStepper(plateau, metric="loss").attach(trainer, evaluator)
        trainer.run(training, max_epochs=epochs)
