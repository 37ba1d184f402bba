"""GradientNormClipper on tensors so large that it measures them by dot products."""

import math

import pytest
import torch
from ignite.engine import Engine
from torch import Tensor, nn

from ignite_tips import GradientNormClipper

SIZE = 40_000


def _train(max_norm: float, *, fused: bool, clip: bool, poison: bool = False) -> tuple[list[Tensor], Engine]:
    """Three updates on given gradients; ``clip`` attaches the clipper, otherwise clip_grad_norm_ is called by hand."""
    torch.manual_seed(2)
    parameters = [nn.Parameter(torch.randn(SIZE)) for _ in range(3)]
    gradients = [torch.randn(SIZE) for _ in parameters]
    if poison:
        gradients[1][7] = math.nan
    optimizer = torch.optim.AdamW(parameters, lr=0.1, fused=fused)

    def update(engine: Engine, batch: int) -> None:
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = gradient * batch
        if not clip:
            nn.utils.clip_grad_norm_(parameters, max_norm)
        optimizer.step()

    trainer = Engine(update)
    if clip:
        GradientNormClipper(optimizer, max_norm).attach(trainer)
    trainer.run([1, 3, 2])
    return [parameter.detach() for parameter in parameters], trainer


@pytest.mark.parametrize("fused", [False, True], ids=["ordinary", "fused"])
@pytest.mark.parametrize("bound", [math.inf, 700.0, 10.0], ids=["never", "once", "always"])
def test_it_equals_clip_grad_norm(bound: float, fused: bool) -> None:
    """Bit for bit where nothing is folded, within 1e-6 where it is; also when only one update is clipped."""
    ours, trainer = _train(bound, fused=fused, clip=True)
    theirs, _ = _train(bound, fused=fused, clip=False)
    for one, other in zip(ours, theirs, strict=True):
        if fused and bound != math.inf:
            torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-6)
        else:
            assert torch.equal(one, other)
    assert trainer.state.metrics["grad_norm"] == pytest.approx(2 * math.sqrt(3 * SIZE), rel=0.01)
    assert trainer.state.metrics["grad_clip_coef"] == pytest.approx(
        min(1.0, bound / (2 * math.sqrt(3 * SIZE))), rel=0.01
    )


@pytest.mark.parametrize("fused", [False, True], ids=["ordinary", "fused"])
def test_a_nan_is_still_found(fused: bool) -> None:
    """A NaN lies within no bound."""
    with pytest.raises(RuntimeError, match="gradients must be finite, got NaN in parameter 1"):
        _train(10.0, fused=fused, clip=True, poison=True)
