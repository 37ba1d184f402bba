"""A trainer in which everything is right, and on which a test makes one thing wrong."""

import warnings
from collections.abc import Callable
from typing import Any

import torch
from ignite.engine import Events, create_supervised_evaluator, create_supervised_trainer
from ignite.metrics import Loss
from torch import nn
from torch.optim.lr_scheduler import CosineAnnealingLR

import ignite_tips as tips
from tests.settings import seeded

__all__ = ["EPOCHS", "LENGTH", "Scene"]

EPOCHS, LENGTH = 6, 8


class Net(nn.Module):
    """A body with a normalisation layer, and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(4, 8, bias=False), nn.BatchNorm1d(8), nn.ReLU())
        self.head = nn.Linear(8, 2)
        self.factor = 1.0

    def forward(self, x: torch.Tensor) -> Any:
        return self.head(self.factor * self.body(x))


class Scene:
    """The parts of a training job. A test replaces or adds to them before ``build``, or attaches handlers after it."""

    def __init__(self) -> None:
        torch.manual_seed(seeded(7))
        self.data, self.validation = (
            [(torch.randn(8, 4), torch.randint(2, (8,))) for _ in range(LENGTH)] for _ in "12"
        )
        self.model: Any = Net()
        self.model(self.data[0][0])  # as if pretrained: the statistics of its body saw data
        self.loss_fn: Callable[..., Any] = nn.CrossEntropyLoss()
        self.head: torch.optim.Optimizer | None = None  # a second optimizer
        self.use(self.model.parameters())

    def use(self, params: Any, kind: Any = torch.optim.Adam, **options: Any) -> None:
        """Create the trainer and its optimizer anew."""
        self.optimizer = kind(params, **{"lr": 0.01} | options)
        self.trainer = create_supervised_trainer(self.model, self.optimizer, self._loss)
        self.evaluator = create_supervised_evaluator(self.model, {"loss": Loss(nn.CrossEntropyLoss())})

    def _loss(self, output: Any, target: Any) -> Any:
        return self.loss_fn(output, target)

    def schedule(self, scheduler: Any = None, event: Any = Events.EPOCH_COMPLETED) -> tips.SchedulerStepper:
        """Attach a schedule."""
        stepper = tips.SchedulerStepper(scheduler or CosineAnnealingLR(self.optimizer, T_max=EPOCHS))
        return stepper.attach(self.trainer, event)

    def clip(self, max_norm: float = 0.5, **options: Any) -> tips.GradientNormClipper:
        """Attach a clipper."""
        return tips.GradientNormClipper(self.optimizer, max_norm, **options).attach(self.trainer)

    def validate(self) -> None:
        """Run the evaluator after each epoch."""
        self.trainer.add_event_handler(Events.EPOCH_COMPLETED, lambda: self.evaluator.run(self.validation))

    def run(self, epochs: int = EPOCHS) -> None:
        """Train; what Ignite and the handlers warn about is not the subject."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self.trainer.run(self.data, max_epochs=epochs)

    def report(self, **options: Any) -> tips.TrainerReport:
        """Ask for a run of the usual length, as before it."""
        return tips.describe_trainer(
            self.trainer, **{"max_epochs": EPOCHS, "epoch_length": LENGTH, "model": self.model} | options
        )
