"""DataParallel on a GPU, with every tip that acts on the model or its optimizer."""

import pytest
import torch
from ignite.engine import Engine, Events
from torch import nn
from torch.nn.parallel import DataParallel
from torch.optim.lr_scheduler import StepLR

from ignite_tips import GradientNormClipper, OptimizerEvents, ParameterFreezer, SchedulerStepper
from tests.gpu import DEVICE, HAS_GPU, needs_gpu
from tests.ignite_tips.clipping.support import make_batches, make_model, sgd

pytestmark = [pytest.mark.gpu, needs_gpu]


def _train(model: nn.Module, bare: nn.Module) -> list[torch.Tensor]:
    optimizer = sgd(bare)

    def update(engine: Engine, batch: tuple[torch.Tensor, torch.Tensor]) -> None:
        optimizer.zero_grad()
        x, y = (one.to(DEVICE) for one in batch)
        nn.functional.mse_loss(model(x), y).backward()
        optimizer.step()

    trainer = Engine(update)
    GradientNormClipper(optimizer, 0.3, model=model).attach(trainer)
    SchedulerStepper(StepLR(optimizer, 2)).attach(trainer, OptimizerEvents.STEP_COMPLETED)
    ParameterFreezer(model, "0.*", optimizer=optimizer).attach(
        trainer, freeze=Events.STARTED, unfreeze=Events.EPOCH_STARTED(once=2)
    )
    trainer.run(make_batches(), max_epochs=3)
    return [parameter.detach() for parameter in bare.parameters()]


def test_it_trains_like_the_bare_model() -> None:
    """Clipping, schedule and freezing work through the wrapper, whose names begin with "module."."""
    expected = make_model().to(DEVICE)
    wrapped = make_model().to(DEVICE)
    model = DataParallel(wrapped)
    assert model.device_ids == ([0] if HAS_GPU else [])
    for one, other in zip(_train(model, wrapped), _train(expected, expected), strict=True):
        assert torch.equal(one, other)
