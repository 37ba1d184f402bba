"""CUDA graphs: of forward and backward passes, with updates outside them."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from ignite.engine import Engine, Events
from torch import nn
from torch.nn.utils import clip_grad_norm_
from torch.optim.lr_scheduler import StepLR

from ignite_tips import (
    GradientNormClipper,
    OptimizerEvents,
    ParameterFreezer,
    SchedulerStepper,
    freeze_parameters,
    unfreeze_parameters,
)
from tests.gpu import HAS_GPU
from tests.ignite_tips.clipping.support import KINDS, adamw, make_batches, sgd

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not HAS_GPU, reason="needs an NVIDIA GPU"),
    pytest.mark.timeout(240),
    pytest.mark.filterwarnings("ignore"),  # torch's, about its own compiled code
]
Batch = tuple[torch.Tensor, torch.Tensor]
Pass = Callable[[Batch], None]  # forward and backward
BATCHES, EPOCHS = 4, 3  # the stem is frozen for the second epoch


def make_network() -> nn.Sequential:
    torch.manual_seed(1)
    stem = nn.Sequential(nn.Linear(6, 8, bias=False), nn.BatchNorm1d(8))
    return nn.Sequential(stem, nn.Tanh(), nn.Linear(8, 1)).cuda()


def batches() -> list[Batch]:
    return [(x.cuda(), y.cuda()) for x, y in make_batches(BATCHES)]


def eager(network: nn.Module) -> Pass:
    return lambda batch: nn.functional.mse_loss(network(batch[0]), batch[1]).backward()


def reduced_overhead(network: nn.Module) -> Pass:
    """Compile the model such that inductor makes graphs of it."""
    torch.compiler.reset()
    return eager(torch.compile(network, mode="reduce-overhead"))


def graphed_callables(network: nn.Module) -> Pass:
    """Capture a graph of each pass."""
    before = copy.deepcopy(network.state_dict())
    make: Any = torch.cuda.make_graphed_callables
    graphed = make(network, (batches()[0][0].clone(),))
    network.load_state_dict(before)  # warming up has changed the statistics
    return eager(graphed)


def whole_graph(network: nn.Module) -> Pass:
    """Capture both passes and the loss in one graph: each replay writes to the same gradients."""
    before, compute = copy.deepcopy(network.state_dict()), eager(network)
    x, y = (one.clone() for one in batches()[0])
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            network.zero_grad()
            compute((x, y))
    torch.cuda.current_stream().wait_stream(stream)
    network.load_state_dict(before)
    network.zero_grad()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        compute((x, y))

    def replay(batch: Batch) -> None:
        x.copy_(batch[0])
        y.copy_(batch[1])
        graph.replay()

    return replay


class Training:
    """A network that trains by hand or with tips."""

    def __init__(self, way: Callable[[nn.Module], Pass], make: Any, options: dict[str, Any]) -> None:
        self.network = make_network()
        self.way, self.compute = way, way(self.network)
        self.optimizer = make(self.network, **options)
        self.scheduler = StepLR(self.optimizer, 5, gamma=0.5)
        self.seen: list[dict[str, torch.Tensor]] = []  # the network's state after each epoch

    def pass_both_ways(self, batch: Batch) -> None:
        if self.way is not whole_graph:  # which writes to its gradients
            self.optimizer.zero_grad()
        self.compute(batch)

    def see(self) -> None:
        self.seen.append(copy.deepcopy(self.network.state_dict()))

    def by_hand(self, *, freezes: bool) -> None:
        for epoch in range(1, EPOCHS + 1):
            frozen = freeze_parameters(self.network, "0.*") if freezes and epoch == 2 else None
            for batch in batches():
                self.pass_both_ways(batch)
                clip_grad_norm_(self.network.parameters(), 0.1)
                self.optimizer.step()
                self.scheduler.step()
            if frozen is not None:
                unfreeze_parameters(frozen)
            self.see()

    def capture(self) -> None:
        self.compute = self.way(self.network)

    def with_tips(self, *, freezes: bool, captures_again: bool = False) -> Engine:
        def update(engine: Engine, batch: Batch) -> None:
            self.pass_both_ways(batch)
            self.optimizer.step()

        trainer = Engine(update)
        GradientNormClipper(self.optimizer, 0.1, model=self.network).attach(trainer)
        SchedulerStepper(self.scheduler).attach(trainer, OptimizerEvents.STEP_COMPLETED)
        if freezes:
            ParameterFreezer(self.network, "0.*", optimizer=self.optimizer).attach(
                trainer, freeze=Events.EPOCH_STARTED(once=2), unfreeze=Events.EPOCH_STARTED(once=3)
            )
        if captures_again:
            trainer.add_event_handler(Events.EPOCH_STARTED, self.capture)
        trainer.add_event_handler(Events.EPOCH_COMPLETED, self.see)
        trainer.run(batches(), max_epochs=EPOCHS)
        return trainer


def assert_equal(training: Training, expected: Training) -> None:
    now, then = (one.network.state_dict() for one in (training, expected))
    for name, value in then.items():
        torch.testing.assert_close(
            now[name], value, rtol=1e-4, atol=1e-5, msg=lambda text, name=name: f"{name}: {text}"
        )


both_optimizers = pytest.mark.parametrize("make", [sgd, adamw])
both_kinds = pytest.mark.parametrize("kind", ["foreach", "fused"])


@both_optimizers
@both_kinds
@pytest.mark.parametrize("way", [graphed_callables, reduced_overhead, whole_graph])
def test_tips_act_on_gradients_of_a_graph(way: Any, kind: str, make: Any) -> None:
    """Parameters and statistics end as by hand without a graph."""
    expected, training = Training(eager, make, KINDS[kind]), Training(way, make, KINDS[kind])
    expected.by_hand(freezes=False)
    trainer = training.with_tips(freezes=False)
    assert trainer.state.optimizer_step == BATCHES * EPOCHS
    assert_equal(training, expected)


@both_optimizers
@both_kinds
def test_graphs_of_inductor_follow_a_freeze(kind: str, make: Any) -> None:
    """It ends as by hand without a graph."""
    expected, training = Training(eager, make, KINDS[kind]), Training(reduced_overhead, make, KINDS[kind])
    expected.by_hand(freezes=True)
    training.with_tips(freezes=True)
    assert_equal(training, expected)


@both_optimizers
def test_graphed_callables_keep_what_is_frozen(make: Any) -> None:
    """Parameters and statistics of the stem are kept for the second epoch; the head trains, and then all do."""
    training = Training(graphed_callables, make, {})
    training.with_tips(freezes=True)
    for epoch, before, after in zip((2, 3), training.seen, training.seen[1:], strict=False):
        kept = [name for name, value in after.items() if torch.equal(value, before[name])]
        stem = [name for name in after if name.startswith("0.")]
        assert kept == (stem if epoch == 2 else [])


@both_optimizers
def test_a_graph_of_the_backward_pass_is_captured_again(make: Any) -> None:
    """Forgotten, there is a warning; done after the freeze and after the unfreeze, the stem trains on."""
    training = Training(whole_graph, make, {})
    training.with_tips(freezes=True)
    assert torch.equal(training.seen[0]["0.0.weight"], training.seen[2]["0.0.weight"])

    expected, training = Training(eager, make, {}), Training(whole_graph, make, {})
    expected.by_hand(freezes=True)
    training.with_tips(freezes=True, captures_again=True)
    assert_equal(training, expected)


@both_optimizers
def test_a_captured_step_is_refused(make: Any) -> None:
    """The capture ends with our sentence, and the next update outside it is made."""
    network = make_network()
    optimizer = make(network, **({"capturable": True} if make is adamw else {}))
    compute = eager(network)

    def update(engine: Engine, batch: Batch) -> None:
        optimizer.zero_grad()
        compute(batch)
        if engine.state.iteration == 2:
            sentence = r"^\w+ must be stepped outside a CUDA graph, whose replays call no handlers; capture forward and"
            with pytest.raises(RuntimeError, match=sentence), torch.cuda.graph(torch.cuda.CUDAGraph()):
                optimizer.step()
        else:
            optimizer.step()

    trainer = Engine(update)
    GradientNormClipper(optimizer, 0.1).attach(trainer)
    trainer.run(batches())
    assert trainer.state.optimizer_step == BATCHES - 1
