"""GradientNormClipper against hand-written loops."""

import math

import pytest
import torch
from ignite.engine import Engine
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.nn.utils import clip_grad_norm_

from ignite_tips import GradientNormClipper
from tests.oracles import TRAINED_IN_DOUBLE, rounding_of_norm
from tests.settings import seeded
from tests.support import run_distributed


def make_model() -> nn.Module:
    torch.manual_seed(seeded(1))
    return nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 1))


def make_batches(count: int = 8) -> list[tuple[torch.Tensor, torch.Tensor]]:
    generator = torch.Generator().manual_seed(seeded(2))
    return [(torch.randn(4, 6, generator=generator), torch.randn(4, 1, generator=generator)) for _ in range(count)]


def make_optimizer(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=0.01)


def make_trainer(model: nn.Module, optimizer: torch.optim.Optimizer, accumulate: int = 1) -> Engine:
    def update(engine: Engine, batch: tuple[torch.Tensor, torch.Tensor]) -> float:
        loss = nn.functional.mse_loss(model(batch[0]), batch[1]) / accumulate
        loss.backward()
        if engine.state.iteration % accumulate == 0:
            optimizer.step()
            optimizer.zero_grad()
        return loss.item()

    return Engine(update)


def by_hand(
    max_norm: float, accumulate: int = 1, norm_type: float = 2.0, dtype: torch.dtype = torch.float32
) -> tuple[nn.Module, list[float]]:
    model, norms = make_model().to(dtype), []
    optimizer = make_optimizer(model)
    for index, (x, y) in enumerate(make_batches(), 1):
        (nn.functional.mse_loss(model(x.to(dtype)), y.to(dtype)) / accumulate).backward()
        if index % accumulate == 0:
            norms.append(clip_grad_norm_(model.parameters(), max_norm, norm_type).item())
            optimizer.step()
            optimizer.zero_grad()
    return model, norms


def assert_same(model: nn.Module, expected: nn.Module) -> None:
    for parameter, other in zip(model.parameters(), expected.parameters(), strict=True):
        assert torch.equal(parameter, other)


@pytest.mark.parametrize("accumulate", [1, 4])
@pytest.mark.parametrize("norm_type", [1.0, 2.0, 3.5, math.inf])
@pytest.mark.parametrize("max_norm", [0.05, 1e9])
def test_equals_torch(max_norm: float, norm_type: float, accumulate: int) -> None:
    """The trained parameters are those of the loop with clip_grad_norm_ bit for bit, also under accumulation."""
    expected, norms = by_hand(max_norm, accumulate, norm_type)
    model = make_model()
    optimizer = make_optimizer(model)
    trainer = make_trainer(model, optimizer, accumulate)
    GradientNormClipper(optimizer, max_norm, norm_type=norm_type).attach(trainer)
    state = trainer.run(make_batches())
    assert_same(model, expected)
    assert state.metrics["grad_norm"] == pytest.approx(norms[-1], rel=2 * rounding_of_norm(65, norm_type))
    assert (state.metrics["grad_clip_coef"] < 1) == (max_norm < 1)


def train_ddp(rank: int, world_size: int) -> tuple[list[torch.Tensor], float]:
    model = make_model().double()
    wrapped = DistributedDataParallel(model)
    optimizer = make_optimizer(model)
    trainer = make_trainer(wrapped, optimizer)
    GradientNormClipper(optimizer, 0.05).attach(trainer)
    halves = [(x[rank::world_size].double(), y[rank::world_size].double()) for x, y in make_batches()]
    state = trainer.run(halves)
    return [p.detach() for p in model.parameters()], state.metrics["grad_clip_coef"]


@pytest.mark.distributed
def test_ddp_ranks_stay_equal() -> None:
    """Under DDP every rank clips the reduced gradient by the same coefficient, as one process on all data does."""
    (first, first_coefficient), (second, second_coefficient) = run_distributed(train_ddp, 2)
    assert first_coefficient == second_coefficient < 1
    expected, _ = by_hand(0.05, dtype=torch.float64)
    for one, other, whole in zip(first, second, expected.parameters(), strict=True):
        assert torch.equal(one, other)
        torch.testing.assert_close(one, whole.detach(), rtol=TRAINED_IN_DOUBLE, atol=TRAINED_IN_DOUBLE)
