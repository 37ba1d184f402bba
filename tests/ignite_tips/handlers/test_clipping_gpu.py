"""What only a GPU can show: no update makes the host wait, and folding equals clip_grad_norm_ there too."""

import math
from collections.abc import Callable

import pytest
import torch
from ignite.engine import Engine, Events
from torch import nn
from torch.nn.utils import clip_grad_norm_

from tests.ignite_tips.handlers.clipping_support import CLIPPERS, KINDS, adamw, make_model, sgd

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU: a CPU has nothing to wait for"),
]


def train(model: nn.Module, optimizer: torch.optim.Optimizer, clip: Callable[[], object] | None = None) -> Engine:
    def update(engine: Engine, batch: float) -> None:
        optimizer.zero_grad()
        x = torch.full((4, 6), batch, device="cuda").cumsum(1)
        model(x).square().sum().backward()
        if clip is not None:
            clip()
        mode = torch.cuda.get_sync_debug_mode()
        if engine.state.iteration > 1:  # the first update allocates
            torch.cuda.set_sync_debug_mode("error")
        try:
            optimizer.step()
        finally:
            torch.cuda.set_sync_debug_mode(mode)

    return Engine(update)


@pytest.mark.parametrize("clipper", ["norm", "value", "agc"])
@pytest.mark.parametrize(
    ("kind", "on_nonfinite"), [("fused", "raise"), ("fused", "propagate"), ("foreach", "propagate")]
)
def test_no_update_waits_for_the_gpu(clipper: str, kind: str, on_nonfinite: str) -> None:
    """No update synchronises: with "propagate" under any optimizer, with "raise" under fused ones."""
    model = make_model().cuda()
    optimizer = adamw(model, **KINDS[kind])
    trainer = train(model, optimizer)
    CLIPPERS[clipper](optimizer, on_nonfinite=on_nonfinite).attach(trainer)
    state = trainer.run([0.1, 0.2, 0.3, 0.4])
    assert state.metrics["grad_norm"].is_cuda
    assert math.isfinite(float(state.metrics["grad_norm"]))


@pytest.mark.parametrize("make_optimizer", [sgd, adamw])
@pytest.mark.parametrize("kind", KINDS)
def test_equals_torch_on_the_gpu(kind: str, make_optimizer: Callable[..., torch.optim.Optimizer]) -> None:
    """On a GPU too training equals the loop with clip_grad_norm_, to 1e-6 where folded."""
    trained = []
    for by_hand in (True, False):
        model = make_model().cuda()
        optimizer = make_optimizer(model, **KINDS[kind])
        trainer = train(model, optimizer, (lambda m=model: clip_grad_norm_(m.parameters(), 0.3)) if by_hand else None)
        if not by_hand:
            CLIPPERS["norm"](optimizer, on_nonfinite="propagate").attach(trainer)
        trainer.run([0.1, 0.2, 0.3, 0.4])
        trained.append([parameter.detach() for parameter in model.parameters()])
    for one, other in zip(*trained, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-6 if kind == "fused" else 0, atol=1e-7 if kind == "fused" else 0)


@pytest.mark.parametrize("make_optimizer", [sgd, adamw])
def test_the_gpu_drops_the_update_and_the_next_one_speaks(make_optimizer: Callable[..., torch.optim.Optimizer]) -> None:
    """A NaN leaves parameters untouched on the GPU; the error names the update when the next begins."""
    model = make_model().cuda()
    optimizer = make_optimizer(model, fused=True)
    trainer = train(model, optimizer)
    CLIPPERS["norm"](optimizer, model=model).attach(trainer)
    kept: list[torch.Tensor] = []

    def keep() -> None:
        kept[:] = [parameter.detach().clone() for parameter in model.parameters()]

    trainer.add_event_handler(Events.ITERATION_STARTED(once=3), keep)
    with pytest.raises(RuntimeError, match=r"NaN or inf in 0.weight.* in update 3 of \w+ \(iteration 3, epoch 1\)"):
        trainer.run([0.1, 0.2, math.nan, 0.3])
    for parameter, before in zip(model.parameters(), kept, strict=True):
        assert torch.equal(parameter, before)
