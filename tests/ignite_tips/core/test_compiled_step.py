"""A compiled optimizer.step(): torch.compile does not trace the events or their handlers into its graph."""

from typing import Any

import pytest
import torch
from ignite.engine import Engine
from torch import nn
from torch._dynamo.testing import CompileCounter
from torch.nn.utils import clip_grad_norm_
from torch.optim.lr_scheduler import StepLR

from ignite_tips import GradientNormClipper, OptimizerEvents, SchedulerStepper
from tests import device

device.start()

LARGE = 70_000  # enough values for the clipper to fold its factor into a fused kernel on the CPU too


def train(*, fused: bool, clip: Any) -> tuple[torch.Tensor, Engine, list[float]]:
    """Train with a compiled step; ``clip`` attaches a clipper, or None clips by hand."""
    torch.compiler.reset()
    weight = nn.Parameter(torch.ones(LARGE))
    optimizer = torch.optim.AdamW([weight], lr=torch.tensor(0.1) if fused else 0.1, fused=fused, foreach=not fused)
    step = torch.compile(lambda: optimizer.step(), backend="eager")
    seen: list[float] = []

    def update(engine: Engine, batch: int) -> None:
        weight.grad = torch.full_like(weight, float(batch))
        if by_hand:
            clip_grad_norm_([weight], 1.0)
        step()
        if by_hand:
            scheduler.step()

    trainer, by_hand, scheduler = Engine(update), clip is None, StepLR(optimizer, 2, gamma=0.5)
    if not by_hand:
        clip(optimizer).attach(trainer)
        SchedulerStepper(scheduler).attach(trainer, OptimizerEvents.STEP_COMPLETED)
        trainer.add_event_handler(
            OptimizerEvents.STEP_COMPLETED, lambda engine: seen.append(float(engine.state.metrics["grad_norm"]))
        )
    trainer.run([1, 2, 3, 4, 5, 6])
    return weight.detach(), trainer, seen


@pytest.mark.filterwarnings("ignore")  # torch warns about its own step while it traces it
@pytest.mark.parametrize("fused", [False, True])
def test_handlers_act_on_each_compiled_update(fused: bool) -> None:
    """Each update is clipped, counted and scheduled as by hand, to 1e-6 if the factor is folded into the kernel."""
    expected, _, _ = train(fused=fused, clip=None)
    weight, trainer, seen = train(fused=fused, clip=lambda optimizer: GradientNormClipper(optimizer, 1.0))
    assert trainer.state.optimizer_step == 6
    assert seen == pytest.approx([LARGE**0.5 * value for value in (1, 2, 3, 4, 5, 6)], rel=1e-6)
    torch.testing.assert_close(weight, expected, rtol=1e-6, atol=0)


@pytest.mark.filterwarnings("ignore")
def test_updates_do_not_trigger_recompiles() -> None:
    """After the first updates nothing is compiled again."""
    torch.compiler.reset()
    weight = nn.Parameter(torch.ones(4))
    optimizer = torch.optim.AdamW([weight], foreach=True)
    counter = CompileCounter()
    step = torch.compile(lambda: optimizer.step(), backend=counter)
    counts: list[int] = []

    def update(engine: Engine, batch: int) -> None:
        weight.grad = torch.ones_like(weight)
        step()
        counts.append(counter.frame_count)

    GradientNormClipper(optimizer, 1.0).attach(trainer := Engine(update))
    trainer.run(range(8))
    assert counts[3:] == counts[3:4] * 5


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("where", ["cpu", device.NAME])
def test_no_handler_is_traced(where: str) -> None:
    """A fused update, which the clipper lets the kernel skip or scale, is compiled without its handlers."""
    torch.compiler.reset()
    weight = nn.Parameter(torch.ones(8, device=where))
    optimizer = torch.optim.AdamW([weight], lr=torch.tensor(0.1), fused=True)
    step = torch.compile(lambda: optimizer.step(), backend="eager")
    traced: list[bool] = []
    norms: list[float] = []

    def update(engine: Engine, batch: int) -> None:
        weight.grad = torch.full_like(weight, float(batch))
        step()
        norms.append(float(engine.state.metrics["grad_norm"]))

    GradientNormClipper(optimizer, 1.0).attach(trainer := Engine(update))
    trainer.add_event_handler(
        OptimizerEvents.STEP_STARTED, lambda engine: traced.append(torch.compiler.is_dynamo_compiling())
    )
    trainer.run([1, 2, 3])
    assert traced == [False] * 3
    assert norms == pytest.approx([8**0.5 * batch for batch in (1, 2, 3)], rel=1e-6)
