"""Remedies that errors of clippers name: each is followed and works."""

import math
from typing import Any

import pytest
import torch
from ignite.engine import Engine
from torch import Tensor, nn

from ignite_tips import (
    AdaptiveGradientClipper,
    GradientNormClipper,
    GradientValueClipper,
    ZClipper,
    clip_gradient_norm,
)
from tests.ignite_tips.clipping.support import make_batches, make_model
from tests.remedies import says


def _run(model: nn.Linear, clipper: Any, gradients: list[Tensor], optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """Make one update with these gradients of weight and bias; return the metrics."""

    def update(engine: Engine, batch: int) -> None:
        model.weight.grad, model.bias.grad = gradients
        optimizer.step()

    trainer = Engine(update)
    trainer.logger.disabled = True
    clipper.attach(trainer)
    return trainer.run([0]).metrics


@pytest.mark.filterwarnings("ignore:Sparse invariant checks")
def test_gradients_that_are_sparse_within_rows() -> None:
    """AGC needs whole rows of them."""
    model = nn.Linear(2, 2)
    start = model.weight.detach().clone()
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)

    def gradients() -> list[Tensor]:
        return [torch.eye(2).to_sparse(), torch.ones(2)]

    with says("exclude its parameter, or clip the norm with GradientNormClipper"):
        _run(model, AdaptiveGradientClipper(optimizer), gradients(), optimizer)
    excluding = AdaptiveGradientClipper(optimizer, exclude="weight", model=model)
    metrics = _run(model, excluding, gradients(), optimizer)
    assert metrics["grad_clip_coef"] < 1
    assert torch.equal(model.weight, start - torch.eye(2))
    metrics = _run(model, GradientNormClipper(optimizer, 1.0), gradients(), optimizer)
    assert metrics["grad_clip_coef"] == pytest.approx(0.5)
    assert torch.allclose(model.weight, start - 1.5 * torch.eye(2))


def test_values_of_complex_parameters() -> None:
    """They have no order; their norm is clipped."""
    weight = nn.Parameter(torch.tensor([3.0 + 4.0j]))
    optimizer = torch.optim.SGD([weight], lr=1.0)

    def update(engine: Engine, batch: int) -> None:
        weight.grad = weight.detach().clone()
        optimizer.step()

    with says("clip their norm with GradientNormClipper"):
        GradientValueClipper(optimizer, 1.0)
    GradientNormClipper(optimizer, 2.5).attach(trainer := Engine(update))
    trainer.run([0])
    assert weight.item() == pytest.approx(1.5 + 2.0j)


def test_a_state_of_a_longer_warm_up() -> None:
    """It would never end."""
    optimizer = torch.optim.SGD(make_model().parameters(), lr=0.1)
    rule = {"warmup": [1.0, 2.0], "mean": None, "variance": 0.0}
    state = {"skipped_steps": 0, "rule": rule}
    with says("make the clipper with the warmup_steps of the run that saved it"):
        ZClipper(optimizer, warmup_steps=2).load_state_dict(state)
    clipper = ZClipper(optimizer, warmup_steps=3)
    clipper.load_state_dict(state)
    assert clipper.state_dict()["rule"] == rule


def test_lbfgs() -> None:
    """Only its closure knows when gradients are final; clipped there, each evaluation is."""
    model = make_model()
    optimizer = torch.optim.LBFGS(model.parameters(), lr=0.1, max_iter=3)
    with says("clip in its closure with clip_gradient_norm() instead"):
        GradientNormClipper(optimizer, 0.3)
    norms: list[float] = []

    def update(engine: Engine, batch: tuple[Tensor, Tensor]) -> None:
        def closure() -> Tensor:
            optimizer.zero_grad()
            loss = nn.functional.mse_loss(model(batch[0]), batch[1])
            loss.backward()
            clip_gradient_norm([parameter.grad for parameter in model.parameters()], 0.3)
            norms.append(math.sqrt(sum(float(parameter.grad.square().sum()) for parameter in model.parameters())))
            return loss

        optimizer.step(closure)

    Engine(update).run(make_batches(2))
    assert len(norms) > 2
    assert max(norms) == pytest.approx(0.3)
