"""Compiled training code with tips, against the same code by hand: the same numbers, and one break for the hooks."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from ignite.engine import Engine
from torch import nn
from torch._dynamo import compiled_autograd
from torch._dynamo.utils import counters
from torch.nn.utils import clip_grad_norm_
from torch.optim.lr_scheduler import StepLR

from ignite_tips import GradientNormClipper, OptimizerEvents, SchedulerStepper, attach_optimizer_events
from tests import device
from tests.ignite_tips.clipping.support import Batch, make_batches, make_model, sgd

device.start()

# torch warns about its own step while it traces it.
pytestmark = pytest.mark.filterwarnings("ignore")
WAYS = ("training step", "compiled autograd", "step")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Leave out the step alone where compilers cost nothing: test_compiled_step.py has it."""
    if "way" in metafunc.fixturenames:
        is_eager = metafunc.config.getoption("--compiler") == "eager"
        metafunc.parametrize("way", WAYS[:2] if is_eager else WAYS)


class Training:
    """A small training with a compiled part, by hand or with tips."""

    def __init__(self, way: str, compiler: str, *, by_hand: bool) -> None:
        torch.compiler.reset()
        counters.clear()
        self.model = make_model()
        self.optimizer = sgd(self.model)
        self.by_hand = by_hand
        self.compiler = compiler
        parts: dict[str, Callable[[Batch], None]] = {
            "step": self._compiled_step,
            "training step": torch.compile(self._train, backend=compiler),
            "compiled autograd": self._compiled_autograd,
        }
        self._step = torch.compile(lambda: self.optimizer.step(), backend=compiler)
        self.trainer = Engine(lambda engine, batch: parts[way](batch))
        if not by_hand:
            GradientNormClipper(self.optimizer, 0.1).attach(self.trainer)
        self.trainer.run(make_batches(3))

    def _backward(self, batch: Batch) -> None:
        self.optimizer.zero_grad()
        nn.functional.mse_loss(self.model(batch[0]), batch[1]).backward()
        if self.by_hand:
            clip_grad_norm_(self.model.parameters(), 0.1)

    def _train(self, batch: Batch) -> None:
        self._backward(batch)
        self.optimizer.step()

    def _compiled_step(self, batch: Batch) -> None:
        self._backward(batch)
        self._step()

    def _compiled_autograd(self, batch: Batch) -> None:
        with compiled_autograd._enable(torch.compile(backend=self.compiler)):
            self._train(batch)


def test_compiled_training_is_that_by_hand(way: str, request: pytest.FixtureRequest) -> None:
    """The same weights bit for bit, from no more graphs; the only break of ours, if any, is the hook before it."""
    compiler = request.config.getoption("--compiler")
    expected = Training(way, compiler, by_hand=True)
    graphs = counters["stats"]["unique_graphs"]
    training = Training(way, compiler, by_hand=False)
    assert counters["stats"]["unique_graphs"] <= graphs
    assert all(map(torch.equal, training.model.parameters(), expected.model.parameters()))
    assert training.trainer.state.metrics["grad_clip_coef"] < 1
    ours = {reason: count for reason, count in counters["graph_break"].items() if "StepHooks" in reason}
    assert all("function `<function StepHooks._before_step" in reason for reason in ours)
    assert sum(ours.values()) <= (0 if way == "compiled autograd" else 1)


def _train_capturable(*, by_hand: bool, compiler: str | None) -> list[torch.Tensor]:
    torch.compiler.reset()
    weight = nn.Parameter(torch.ones(8, device=device.NAME))
    lr = torch.tensor(0.1, device=device.NAME)
    optimizer: Any = torch.optim.AdamW([weight], lr=lr, capturable=True, foreach=False)
    schedule = StepLR(optimizer, 1, gamma=0.5)
    step = optimizer.step if compiler is None else torch.compile(lambda: optimizer.step(), backend=compiler)

    def update(engine: Engine, factor: float) -> None:
        weight.grad = torch.full_like(weight, factor)
        if by_hand:
            clip_grad_norm_([weight], 0.1)
        step()
        if by_hand:
            schedule.step()

    trainer = Engine(update)
    if not by_hand:
        GradientNormClipper(optimizer, 0.1).attach(trainer)
        SchedulerStepper(schedule).attach(trainer, OptimizerEvents.STEP_COMPLETED)
    trainer.run([1.0, 2.0, 3.0])
    return [weight.detach(), lr, optimizer.state[weight]["step"]]


@pytest.mark.parametrize("compiled", [False, True])
def test_capturable_optimizers_keep_all_on_the_device(compiled: bool) -> None:
    """Learning rate and step count are tensors there; both are those of the loop by hand."""
    compiler = "eager" if compiled else None
    mine, expected = (_train_capturable(by_hand=by_hand, compiler=compiler) for by_hand in (False, True))
    assert all(tensor.device.type == device.NAME for tensor in mine)
    assert all(map(torch.equal, mine, expected))


def test_a_step_in_a_cuda_graph_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """A replay would call no handler. A step after the capture of a backward pass is made."""
    capturing = [False]
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: capturing[0])
    weight = nn.Parameter(torch.ones(1))
    optimizer = torch.optim.SGD([weight], lr=0.1)

    def update(engine: Engine, captured: bool) -> None:
        weight.grad = torch.ones(1)
        capturing[0] = captured
        optimizer.step()

    trainer = Engine(update)
    trainer.logger.disabled = True
    attach_optimizer_events(trainer, optimizer)
    assert trainer.run([False]).optimizer_step == 1
    with pytest.raises(
        RuntimeError, match=r"^SGD must be stepped outside a CUDA graph, whose replays call no handlers; "
    ):
        trainer.run([True])
