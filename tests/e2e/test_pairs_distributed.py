"""Pairs of a tip and a strategy that the combinations do not have, on two ranks, compared with hand-written loops."""

import re
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from ignite.engine import Events, create_supervised_trainer
from torch import nn
from torch.distributed.checkpoint import state_dict as torch_states
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.distributed.optim import ZeroRedundancyOptimizer
from torch.nn.parallel import DistributedDataParallel
from torch.optim.lr_scheduler import StepLR

import ignite_tips as tips
from tests.e2e.combinations import difference, outcome
from tests.settings import seeded
from tests.support import run_distributed

pytestmark = pytest.mark.distributed
PER_UPDATE = tips.OptimizerEvents.STEP_COMPLETED
EPOCHS = 4


class Net(nn.Module):
    """A body and a head; the head is in the root's shards."""

    def __init__(self, norm: Callable[[int], nn.Module]) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(4, 8, bias=False), norm(8), nn.ReLU())
        self.head = nn.Linear(8, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.body(x))


def _net(sharded: bool = False, norm: Callable[[int], nn.Module] = nn.BatchNorm1d, **options: Any) -> Net:
    torch.manual_seed(seeded(5))
    model = Net(norm)
    if sharded:
        mesh = init_device_mesh("cpu", (2,))
        fully_shard(model.body, mesh=mesh, **options)
        fully_shard(model, mesh=mesh, **options)
    return model


def _sgd(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)


def _batches(rank: int, count: int = 6) -> list[tuple[torch.Tensor, torch.Tensor]]:
    generator = torch.Generator().manual_seed(seeded(rank))
    return [(torch.randn(8, 4, generator=generator), torch.randn(8, 2, generator=generator)) for _ in range(count)]


def _zero(model: nn.Module) -> ZeroRedundancyOptimizer:
    return ZeroRedundancyOptimizer(model.parameters(), optimizer_class=torch.optim.SGD, lr=0.1, momentum=0.9)


@dataclass(frozen=True)
class Way:
    """How ranks train together."""

    wrap: Callable[[], nn.Module]
    make_optimizer: Callable[[nn.Module], Any] = _sgd
    accumulation: int = 1
    count: int = 6  # batches
    reduce_once: bool = False  # per accumulation, as with no_sync()

    def prepare(self, model: Any, iteration: int) -> None:
        if not self.reduce_once:
            return
        is_last = iteration % self.accumulation == 0
        if isinstance(model, DistributedDataParallel):
            model.require_backward_grad_sync = is_last
        else:
            model.set_requires_gradient_sync(is_last)


_BF16 = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32)
WAYS = {
    "accumulation across epochs": Way(lambda: DistributedDataParallel(_net()), accumulation=3, count=5),
    "accumulation across epochs, FSDP2": Way(lambda: _net(sharded=True), accumulation=3, count=5),
    "DDP, reduced once": Way(lambda: DistributedDataParallel(_net()), accumulation=3, reduce_once=True),
    "FSDP2, reduced once": Way(lambda: _net(sharded=True), accumulation=3, reduce_once=True),
    # The CPU has no BatchNorm with bfloat16 weights and float32 statistics.
    "FSDP2 in bfloat16": Way(lambda: _net(sharded=True, norm=nn.LayerNorm, mp_policy=_BF16)),
    "ZeRO": Way(lambda: DistributedDataParallel(_net()), _zero),
    "gradients as views": Way(lambda: DistributedDataParallel(_net(), gradient_as_bucket_view=True)),
}


def _train(way: Way, model: nn.Module, optimizer: Any, rank: int) -> None:
    trainer = create_supervised_trainer(model, optimizer, _loss, gradient_accumulation_steps=way.accumulation)
    trainer.add_event_handler(Events.ITERATION_STARTED, lambda: way.prepare(model, trainer.state.iteration))
    tips.GradientNormClipper(optimizer, 0.1).attach(trainer)
    tips.SchedulerStepper(StepLR(optimizer, 4)).attach(trainer, PER_UPDATE)
    freezer = tips.ParameterFreezer(model, "body.*")
    freezer.attach(trainer, freeze=Events.EPOCH_STARTED(once=2), unfreeze=Events.EPOCH_STARTED(once=3))
    trainer.run(_batches(rank, way.count), max_epochs=EPOCHS)


def _loop(way: Way, model: Any, optimizer: Any, rank: int) -> None:
    """By hand, without Ignite and ignite_tips."""
    inner, scheduler, iteration = getattr(model, "module", model), StepLR(optimizer, 4), 0
    for epoch in range(1, EPOCHS + 1):
        if epoch in (2, 3):
            for parameter in inner.body.parameters():
                parameter.requires_grad_(epoch != 2)
                parameter.grad = parameter.grad if epoch != 2 else None
            model = DistributedDataParallel(inner) if isinstance(model, DistributedDataParallel) else model
        for x, y in _batches(rank, way.count):
            if iteration % way.accumulation == 0:
                optimizer.zero_grad()
            iteration += 1
            way.prepare(model, iteration)
            model.train()
            inner.body.train(epoch != 2)
            (_loss(model(x), y) / way.accumulation).backward()
            if iteration % way.accumulation == 0:
                nn.utils.clip_grad_norm_(inner.parameters(), 0.1)
                optimizer.step()
                scheduler.step()


def _loss(output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    return nn.functional.mse_loss(output.float(), target)


def _compare(rank: int, world_size: int) -> list[str]:
    found = []
    for name, way in WAYS.items():
        ends = []
        for train in (_train, _loop):
            model = way.wrap()
            optimizer = way.make_optimizer(model)
            train(way, model, optimizer, rank)
            optimizers = [] if name == "ZeRO" else [optimizer]  # each parameter's state is on one rank only
            ends.append(outcome(getattr(model, "module", model), optimizers, []))
        found += difference(name, *ends)
    return found


def test_equals_the_hand_written_loop() -> None:
    """Bit for bit on both ranks."""
    assert run_distributed(_compare, 2) == [[], []]


def _resume_whole(rank: int, world_size: int) -> str:
    """Resume with torch's helper for full states, from a run in which some parameters were never updated."""
    options = torch_states.StateDictOptions(full_state_dict=True, broadcast_from_rank0=True)
    model = _net(sharded=True)
    optimizer = torch.optim.AdamW(model.parameters())
    model.body.requires_grad_(False)
    model(_batches(rank)[0][0]).sum().backward()
    optimizer.step()
    saved = torch_states.get_optimizer_state_dict(model, optimizer, options=options)
    other = _net(sharded=True)
    try:
        torch_states.set_optimizer_state_dict(other, torch.optim.AdamW(other.parameters()), saved, options=options)
    except RuntimeError as error:
        return str(error)
    return "no error"


def test_torch_refuses_full_states_of_a_partly_frozen_run() -> None:
    """Its helper needs a state for every trainable parameter; with one file per rank, the combinations resume it."""
    for told in run_distributed(_resume_whole, 2):
        assert told.startswith("Missing optimizer state for parameter 'body.0.weight' in checkpoint.")


def _shard(rank: int, world_size: int, too_late: bool) -> list[str]:
    model = _net()
    optimizer = _sgd(model)
    fully_shard(model, mesh=init_device_mesh("cpu", (world_size,)))
    if not too_late:
        optimizer = _sgd(model)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        trainer = create_supervised_trainer(model, optimizer, _loss)
        tips.GradientNormClipper(optimizer, 0.1).attach(trainer)
        trainer.run(_batches(rank), max_epochs=2)
    told = [str(warning.message) for warning in caught if warning.category is UserWarning]
    return [text for text in told if "GradientNormClipper" in text]


def test_an_optimizer_created_before_sharding_warns() -> None:
    """Torch gives no warning: the optimizer updates the parameters that fully_shard has replaced.

    One that is created after it, as the warning says, has gradients.
    """
    for (told,) in run_distributed(_shard, 2, True):
        assert re.match(r"GradientNormClipper found no gradient for its SGD in \d+ iterations; if its ", told)
        assert told.endswith("create it from the model's parameters, after fully_shard, which replaces them")
    assert run_distributed(_shard, 2, False) == [[], []]
