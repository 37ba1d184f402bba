"""torch.compile of the model, with its backward pass, and of the optimizer's step."""

from itertools import pairwise
from typing import Any

import pytest
import torch
from ignite.engine import Engine
from torch import nn
from torch.nn.utils import clip_grad_norm_
from torch.optim.lr_scheduler import StepLR

from ignite_tips import GradientNormClipper, OptimizerEvents, ParameterFreezer, SchedulerStepper
from tests.gpu import DEVICE, HAS_GPU, needs_gpu
from tests.ignite_tips.clipping.support import adamw, make_batches, make_model, sgd

pytestmark = [pytest.mark.gpu, needs_gpu, pytest.mark.timeout(240)]
COMPILER = "inductor" if HAS_GPU else "eager"  # "eager" still traces, and is fast on a CPU
KINDS: dict[str, dict[str, Any]] = {"foreach": {"foreach": True}, "fused": {"fused": True}}


class Run:
    """A model and an optimizer, one or both compiled; trained by hand or by a trainer with tips."""

    def __init__(self, make_optimizer: Any, compiled: str, **options: Any) -> None:
        torch.compiler.reset()
        self.plain = make_model().to(DEVICE)
        self.model: Any = torch.compile(self.plain, backend=COMPILER) if "model" in compiled else self.plain
        self.optimizer = make_optimizer(self.plain, **options)
        self.step = self.optimizer.step
        if "step" in compiled:
            self.step = torch.compile(self._step, backend=COMPILER)
        self.scheduler = StepLR(self.optimizer, 2, gamma=0.5)

    def _step(self) -> None:
        self.optimizer.step()

    def backward(self, batch: Any) -> None:
        self.optimizer.zero_grad()
        x, y = (one.to(DEVICE) for one in batch)
        nn.functional.mse_loss(self.model(x), y).backward()

    def by_hand(self) -> None:
        for batch in make_batches():
            self.backward(batch)
            clip_grad_norm_(self.plain.parameters(), 0.3)
            self.step()
            self.scheduler.step()

    def with_tips(self) -> Engine:
        def update(engine: Engine, batch: Any) -> None:
            self.backward(batch)
            self.step()

        trainer = Engine(update)
        GradientNormClipper(self.optimizer, 0.3, model=self.model).attach(trainer)
        SchedulerStepper(self.scheduler).attach(trainer, OptimizerEvents.STEP_COMPLETED)
        trainer.run(make_batches())
        return trainer


# torch warns about its own scheduler and optimizer while it traces them.
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("make_optimizer", [sgd, adamw])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("compiled", ["model", "step", "model and step"])
def test_tips_act_on_compiled_code(compiled: str, kind: str, make_optimizer: Any) -> None:
    """Every update is clipped, counted and scheduled as by hand with the same parts compiled, to 1e-5."""
    expected, run = (Run(make_optimizer, compiled, **KINDS[kind]) for _ in range(2))
    expected.by_hand()
    trainer = run.with_tips()
    assert trainer.state.optimizer_step == 8
    assert run.scheduler.get_last_lr() == expected.scheduler.get_last_lr()
    for one, other in zip(run.plain.parameters(), expected.plain.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)


@pytest.mark.filterwarnings("ignore")
def test_a_compiled_model_follows_freezing() -> None:
    """Frozen parameters do not change and unfrozen ones train again, without a new wrapper."""
    run = Run(sgd, "model")
    trainer = Engine(lambda engine, batch: (run.backward(batch), run.step()))
    ParameterFreezer(run.model, "0.*", optimizer=run.optimizer).attach(
        trainer,
        freeze=OptimizerEvents.STEP_COMPLETED(once=2),
        unfreeze=OptimizerEvents.STEP_COMPLETED(once=4),
    )
    seen: list[torch.Tensor] = []
    trainer.add_event_handler(OptimizerEvents.STEP_COMPLETED, lambda: seen.append(run.plain[0].weight.detach().clone()))
    trainer.run(make_batches())
    moved = [not torch.equal(one, other) for one, other in pairwise(seen)]
    assert moved == [True, False, False, True, True, True, True]
