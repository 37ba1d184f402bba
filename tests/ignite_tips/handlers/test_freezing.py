"""ParameterFreezer against hand-written loops: frozen is bit-equal, unfrozen is as it was, resumed is as never left."""

import io
from collections.abc import Callable
from typing import Any

import pytest
import torch
from ignite.engine import Engine, Events, create_supervised_trainer
from ignite.handlers import Checkpoint
from torch import nn

from ignite_tips.events import OptimizerEvents
from ignite_tips.handlers.freezing import ParameterFreezer

OPTIMIZERS: dict[str, Callable[[Any], torch.optim.Optimizer]] = {
    "sgd": lambda groups: torch.optim.SGD(groups, lr=0.1, momentum=0.9, weight_decay=0.1),
    "fused sgd": lambda groups: torch.optim.SGD(groups, lr=0.1, momentum=0.9, weight_decay=0.1, fused=True),
    "adamw": lambda groups: torch.optim.AdamW(groups, lr=0.01, weight_decay=0.1),
    "fused adamw": lambda groups: torch.optim.AdamW(groups, lr=0.01, weight_decay=0.1, fused=True),
}
STATE_KEYS = ("model", "optimizer", "trainer", "freezer")


def make_net(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    body = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 6), nn.BatchNorm1d(6))
    return nn.Sequential(body, nn.ReLU(), nn.Linear(6, 2))


def make_batches(count: int = 5, seed: int = 1) -> list[tuple[torch.Tensor, torch.Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    return [(torch.randn(8, 4, generator=generator), torch.randn(8, 2, generator=generator)) for _ in range(count)]


def make_trainer(net: nn.Module, optimizer: torch.optim.Optimizer) -> Engine:
    return create_supervised_trainer(net, optimizer, nn.functional.mse_loss)


def snapshot(module: nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in module.state_dict().items()}


def same(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(first[name], second[name]) for name in first | second)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_frozen_weights_and_statistics_stay_bit_equal(name: str) -> None:
    """Neither momentum, weight decay nor model.train() in each iteration moves what is frozen."""
    net = make_net()
    optimizer = OPTIMIZERS[name](net.parameters())
    trainer = make_trainer(net, optimizer)
    freezer = ParameterFreezer(net, "0.*", optimizer=optimizer)
    freezer.attach(trainer, freeze=Events.EPOCH_STARTED(once=2), unfreeze=Events.EPOCH_STARTED(once=4))
    bodies, heads = [], []
    trainer.add_event_handler(Events.EPOCH_COMPLETED, lambda: bodies.append(snapshot(net[0])))
    trainer.add_event_handler(Events.EPOCH_COMPLETED, lambda: heads.append(snapshot(net[2])))
    trainer.run(make_batches(), max_epochs=4)
    assert same(bodies[0], bodies[1])
    assert same(bodies[1], bodies[2])
    assert not same(bodies[2], bodies[3])
    assert not same(heads[1], heads[2])


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_run_equals_the_hand_written_loop(name: str) -> None:
    """Events give the weights, statistics and optimizer state of the loop that does it by hand."""
    net, by_hand = make_net(), make_net()
    optimizer, hand_optimizer = OPTIMIZERS[name](net.parameters()), OPTIMIZERS[name](by_hand.parameters())
    trainer = make_trainer(net, optimizer)
    ParameterFreezer(net, "0.*").attach(trainer, Events.ITERATION_STARTED(once=4), Events.ITERATION_STARTED(once=9))
    trainer.run(make_batches(), max_epochs=3)
    batches = make_batches() * 3
    for number, (x, y) in enumerate(batches, start=1):
        by_hand.train()
        for parameter in by_hand[0].parameters():
            parameter.requires_grad_(not 4 <= number < 9)
        for module in by_hand[0]:
            if isinstance(module, nn.BatchNorm1d):
                module.train(not 4 <= number < 9)
        hand_optimizer.zero_grad()
        nn.functional.mse_loss(by_hand(x), y).backward()
        hand_optimizer.step()
    assert same(net.state_dict(), by_hand.state_dict())
    for mine, theirs in zip(optimizer.state.values(), hand_optimizer.state.values(), strict=True):
        assert all(torch.equal(torch.as_tensor(mine[key]), torch.as_tensor(theirs[key])) for key in mine)


class Run:
    """A training run that can be saved and resumed in new objects."""

    def __init__(self, freeze: Any, unfreeze: Any, checkpoint_first: bool = False, save_at: Any = None) -> None:
        self.net = make_net()
        self.optimizer = OPTIMIZERS["sgd"](self.net.parameters())
        self.trainer = make_trainer(self.net, self.optimizer)
        self.freezer = ParameterFreezer(self.net, "0.*", optimizer=self.optimizer)
        self.saved: dict[int, bytes] = {}
        if checkpoint_first and save_at is not None:
            self.trainer.add_event_handler(save_at, self.save)
        self.freezer.attach(self.trainer, freeze, unfreeze)
        if not checkpoint_first and save_at is not None:
            self.trainer.add_event_handler(save_at, self.save)

    def objects(self) -> dict[str, Any]:
        return dict(zip(STATE_KEYS, (self.net, self.optimizer, self.trainer, self.freezer), strict=True))

    def save(self) -> None:
        buffer = io.BytesIO()
        torch.save({name: thing.state_dict() for name, thing in self.objects().items()}, buffer)
        self.saved[self.trainer.state.iteration] = buffer.getvalue()

    def load(self, data: bytes) -> "Run":
        state = torch.load(io.BytesIO(data), weights_only=True)
        Checkpoint.load_objects(self.objects(), state)
        return self

    def run(self, max_epochs: int = 4) -> "Run":
        done = self.trainer.state.iteration % 5
        batches = make_batches()
        self.trainer.add_event_handler(Events.GET_BATCH_STARTED(once=self.trainer.state.iteration + 1), lambda: None)
        data = _Resumable(batches, done)
        self.trainer.run(data, max_epochs=max_epochs)
        return self


class _Resumable:
    """Batches whose first pass starts in the middle, as a resumed run's must."""

    def __init__(self, batches: list[Any], start: int) -> None:
        self.batches, self.start = batches, start

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Any:
        start, self.start = self.start, 0
        return iter(self.batches[start:])


EVENTS: dict[str, tuple[Any, Any]] = {
    "from the start": (Events.STARTED, Events.EPOCH_STARTED(once=3)),
    "at epoch ends": (Events.EPOCH_COMPLETED(once=1), Events.EPOCH_COMPLETED(once=3)),
    "at iterations": (Events.ITERATION_STARTED(once=7), Events.ITERATION_COMPLETED(once=12)),
    "often": (Events.EPOCH_STARTED(every=2), Events.EPOCH_STARTED(every=3) | Events.ITERATION_COMPLETED(once=8)),
    "crossing": (Events.ITERATION_STARTED(once=13), Events.EPOCH_STARTED(once=3)),
    "at updates": (OptimizerEvents.STEP_COMPLETED(once=6), OptimizerEvents.STEP_STARTED(once=12)),
}


@pytest.mark.parametrize("checkpoint_first", [False, True])
@pytest.mark.parametrize("save_at", [Events.ITERATION_COMPLETED, Events.EPOCH_COMPLETED])
@pytest.mark.parametrize("name", EVENTS)
def test_a_run_resumed_at_any_point_ends_as_if_never_left(name: str, save_at: Any, checkpoint_first: bool) -> None:
    """Whatever the point, and whether the Checkpoint came before or after the freezer, the end is the same."""
    freeze, unfreeze = EVENTS[name]
    whole = Run(freeze, unfreeze, checkpoint_first, save_at).run()
    assert whole.saved
    for iteration, data in whole.saved.items():
        if iteration < 20:
            resumed = Run(freeze, unfreeze).load(data).run()
            assert same(resumed.net.state_dict(), whole.net.state_dict()), iteration
            assert resumed.freezer.frozen == whole.freezer.frozen
