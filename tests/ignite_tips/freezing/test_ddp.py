"""Freezing under DistributedDataParallel: random scripts of freeze and unfreeze, with no difference between ranks."""

import random
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from ignite.engine import Engine, Events
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from ignite_tips.freezing.parameter_freezer import ParameterFreezer
from tests.oracles import TRAINED_IN_DOUBLE
from tests.settings import seeded
from tests.support import run_distributed

pytestmark = pytest.mark.distributed

PARTS = ("embedding.*", "first.*", "norm.*", "second.*")
EPOCHS, BATCHES, BATCH_SIZE = 5, 2, 16


class TiedNet(nn.Module):
    """A small network with BatchNorm, whose output layer shares the embedding's weight."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(7, 6)
        self.first = nn.Linear(6, 6)
        self.norm = nn.BatchNorm1d(6)
        self.second = nn.Linear(6, 6, bias=False)
        self.head = nn.Linear(6, 7)
        self.head.weight = self.embedding.weight

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return self.head(torch.relu(self.second(torch.relu(self.norm(self.first(self.embedding(tokens)))))))


@dataclass(frozen=True)
class Script:
    """Which parts are frozen and unfrozen at the start of which epochs."""

    freezes: dict[str, list[int]]
    unfreezes: dict[str, list[int]]
    accumulation: int
    options: dict[str, Any]

    @staticmethod
    def random(seed: int) -> "Script":
        draw = random.Random(seed)
        freezes, unfreezes = {}, {}
        for part in PARTS:
            epochs = [epoch for epoch in range(1, EPOCHS + 1) if draw.random() < 0.6]
            kinds = [draw.random() < 0.5 for _ in epochs]
            freezes[part] = [epoch for epoch, kind in zip(epochs, kinds, strict=True) if kind]
            unfreezes[part] = [epoch for epoch, kind in zip(epochs, kinds, strict=True) if not kind]
        accumulation = draw.choice([1, 2])
        options: list[dict[str, Any]] = [{}, {"gradient_as_bucket_view": True}]
        if accumulation == 1:  # a static graph's first iteration must not be under no_sync(): torch's own rule
            options.append({"static_graph": True})
        return Script(freezes, unfreezes, accumulation, draw.choice(options))

    def attach(self, model: nn.Module, trainer: Engine) -> None:
        never = 10**6
        for part in PARTS:
            ParameterFreezer(model, part).attach(
                trainer,
                freeze=Events.EPOCH_STARTED(once=self.freezes[part] or never),
                unfreeze=Events.EPOCH_STARTED(once=[*self.unfreezes[part], never + 1]),  # or it would have no use
            )


def make_optimizer(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=0.01)


def make_tokens(seed: int) -> torch.Tensor:
    return torch.randint(0, 7, (BATCHES, BATCH_SIZE), generator=torch.Generator().manual_seed(seed))


def run_script(seed: int, rank: int, world_size: int) -> list[torch.Tensor]:
    """Train as one of the ranks and return what the model is after every epoch."""
    script = Script.random(seed)
    torch.manual_seed(seed)
    model = DistributedDataParallel(TiedNet().double(), **script.options)
    optimizer = make_optimizer(model)

    def update(engine: Engine, tokens: torch.Tensor) -> None:
        model.train()
        last = engine.state.iteration % script.accumulation == 0
        share = tokens.chunk(world_size)[rank]
        with model.no_sync() if not last else torch.enable_grad():
            loss = nn.functional.cross_entropy(model(share), share.flip(0)) / script.accumulation
            if loss.requires_grad:
                loss.backward()
        if last:
            optimizer.step()
            optimizer.zero_grad()

    trainer = Engine(update)
    script.attach(model, trainer)
    history: list[torch.Tensor] = []

    def remember() -> None:
        # Between two forward passes DDP lets each rank's statistics differ, and takes rank 0's then.
        model._sync_buffers()
        history.append(flat(model))

    trainer.add_event_handler(Events.EPOCH_COMPLETED, remember)
    trainer.run(make_tokens(seed), max_epochs=EPOCHS)
    return history


def run_by_hand(seed: int, world_size: int) -> list[torch.Tensor]:
    """The same training in one process without toolkit and DDP: each rank's share in turn, gradients averaged."""
    script = Script.random(seed)
    torch.manual_seed(seed)
    model = TiedNet().double()
    optimizer = make_optimizer(model)
    parts = dict(zip(PARTS, (model.embedding, model.first, model.norm, model.second), strict=True))
    frozen: set[str] = set()
    history = []
    sums: list[dict[nn.Parameter, torch.Tensor]] = [{} for _ in range(world_size)]
    for epoch in range(1, EPOCHS + 1):
        for part, module in parts.items():
            if epoch in script.freezes[part]:
                frozen.add(part)
                for parameter in module.parameters():
                    for grads in sums:
                        grads.pop(parameter, None)
            if epoch in script.unfreezes[part]:
                frozen.discard(part)
            module.requires_grad_(part not in frozen)
        for number, tokens in enumerate(make_tokens(seed), start=1 + BATCHES * (epoch - 1)):
            model.train()
            model.norm.train("norm.*" not in frozen)
            buffers = [buffer.clone() for buffer in model.buffers()]
            for rank, share in enumerate(tokens.chunk(world_size)):
                trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
                loss = nn.functional.cross_entropy(model(share), share.flip(0)) / script.accumulation
                for parameter, grad in zip(trained, torch.autograd.grad(loss, trained), strict=True):
                    before = sums[rank].get(parameter)
                    sums[rank][parameter] = grad if before is None else before + grad
                if rank == 0:  # DDP hands rank 0's statistics to the others
                    kept = [buffer.clone() for buffer in model.buffers()]
                for buffer, value in zip(model.buffers(), buffers, strict=True):
                    buffer.copy_(value)
            for buffer, value in zip(model.buffers(), kept, strict=True):
                buffer.copy_(value)
            if number % script.accumulation == 0:
                for parameter in sums[0]:
                    parameter.grad = sum(grads[parameter] / world_size for grads in sums)
                optimizer.step()
                optimizer.zero_grad()
                sums = [{} for _ in range(world_size)]
        history.append(flat(model))
    return history


def flat(model: nn.Module) -> torch.Tensor:
    return torch.cat([tensor.double().flatten() for tensor in model.state_dict().values()])


def _run_scripts(rank: int, world_size: int, seeds: list[int]) -> list[list[torch.Tensor]]:
    return [run_script(seed, rank, world_size) for seed in seeds]


@pytest.mark.parametrize("world_size", [2, 4])
def test_random_scripts_keep_the_ranks_equal(world_size: int) -> None:
    """Over 50 random scripts, the ranks differ by exactly 0 after every epoch, and equal the loop by hand.

    Of four ranks, which are four times the work, over 20.
    """
    seeds = [seeded(number) for number in range(50 if world_size == 2 else 20)]
    by_rank = run_distributed(_run_scripts, world_size, seeds, timeout=100)
    for seed, *histories in zip(seeds, *by_rank, strict=True):
        by_hand = run_by_hand(seed, world_size)
        for expected, first, *others in zip(by_hand, *histories, strict=True):
            for other in others:
                assert (first - other).abs().max() == 0
            if world_size == 2:
                assert torch.equal(first, expected)
            else:  # gloo adds four ranks' gradients in an order of its own
                assert torch.allclose(first, expected, rtol=0, atol=TRAINED_IN_DOUBLE)


def _train_after_a_frozen_run(rank: int, world_size: int) -> torch.Tensor:
    torch.manual_seed(seeded())
    model = DistributedDataParallel(TiedNet())
    optimizer = make_optimizer(model)

    def update(engine: Engine, batch: torch.Tensor) -> None:
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(batch), batch).backward()
        optimizer.step()

    for freeze in (Events.STARTED, Events.EPOCH_STARTED(once=3)):
        trainer = Engine(update)
        ParameterFreezer(model, "first.*").attach(trainer, freeze=freeze)
        trainer.run(make_tokens(rank), max_epochs=2)
    return torch.cat([parameter.detach().flatten() for parameter in model.parameters()])


def test_what_an_earlier_trainer_left_frozen_trains_alike_on_all_ranks() -> None:
    """The freezer of a new trainer that freezes later unfreezes it, and the wrapper averages its gradients."""
    first, second = run_distributed(_train_after_a_frozen_run, 2)
    assert torch.equal(first, second)
