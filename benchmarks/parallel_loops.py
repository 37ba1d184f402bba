"""What ``parallel`` measures: strategies, and a training loop under each by hand, with our handlers and in Fabric.

Every loop trains the same model on the same global batch: forward, backward, clipping by norm, SGD, and the norm on
the host for a log.
"""

from collections.abc import Callable
from dataclasses import dataclass
from math import isfinite
from typing import Any

import torch
import torch.distributed as dist
from ignite.engine import Engine, Events
from lightning.fabric import Fabric
from lightning.fabric.strategies import DDPStrategy, ModelParallelStrategy
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module
from torch.nn.parallel import DistributedDataParallel
from torch.nn.utils import clip_grads_with_norm_, get_total_norm

from ignite_tips import GradientNormClipper, ParameterFreezer

__all__ = ["FROZEN", "STRATEGIES", "Training", "by_hand", "with_fabric", "with_our_handlers"]

BLOCKS, WIDTH, ROWS = 4, 256, 64
FROZEN = BLOCKS // 2  # the first blocks
MAX_NORM, LEARNING_RATE = 1.0, 0.1  # the norm is about 7


@dataclass(frozen=True)
class Training:
    """A wrapped model, and a function that makes its next update."""

    model: nn.Module
    update: Callable[[], object]

    def weights(self) -> list[Tensor]:
        """Return all parameters, whole; every rank must call."""
        parameters = self.model.parameters()
        return [each.full_tensor() if isinstance(each, DTensor) else each.detach() for each in parameters]


def replicate(model: nn.Sequential, mesh: DeviceMesh) -> nn.Module:
    return DistributedDataParallel(model)


def shard(model: nn.Sequential, mesh: DeviceMesh) -> nn.Module:
    for block in model:
        fully_shard(block, mesh=mesh)
    return fully_shard(model, mesh=mesh)


def divide(model: nn.Sequential, mesh: DeviceMesh) -> nn.Module:
    for block in model:
        parallelize_module(block, mesh, {"0": ColwiseParallel(), "2": RowwiseParallel()})
    return model


STRATEGIES: dict[str, Callable[[nn.Sequential, DeviceMesh], nn.Module]] = {
    "DDP": replicate,
    "FSDP2": shard,
    "tensor parallel": divide,
}
FABRIC_STRATEGIES: dict[str, Callable[[int], Any]] = {
    "DDP": lambda ranks: DDPStrategy(),
    "FSDP2": lambda ranks: ModelParallelStrategy(lambda model, mesh: shard(model, mesh["data_parallel"]), ranks, 1),
    "tensor parallel": lambda ranks: ModelParallelStrategy(
        lambda model, mesh: divide(model, mesh["tensor_parallel"]), 1, ranks
    ),
}


def by_hand(strategy: str, frozen: bool) -> Training:
    model = STRATEGIES[strategy](_freeze(_make_model(), frozen), _mesh())
    sgd = torch.optim.SGD(model.parameters(), LEARNING_RATE)
    loss = _make_loss(strategy)

    def update() -> None:
        sgd.zero_grad()
        loss(model).backward()
        # clip_grad_norm_ in its two parts: the norm of shards is reduced once for both the clipping and the log.
        norm = _whole(get_total_norm([each.grad for each in model.parameters() if each.grad is not None]))
        if not isfinite(norm.item()):
            raise RuntimeError(f"gradients must be finite, got a norm of {norm.item()}")
        clip_grads_with_norm_(model.parameters(), MAX_NORM, norm)
        sgd.step()

    return Training(model, update)


def with_our_handlers(strategy: str, frozen: bool) -> Training:
    model = STRATEGIES[strategy](_make_model(), _mesh())
    sgd = torch.optim.SGD(model.parameters(), LEARNING_RATE)
    loss = _make_loss(strategy)

    def update(engine: Engine, index: int) -> None:
        sgd.zero_grad()
        loss(model).backward()
        sgd.step()

    trainer = Engine(update)
    GradientNormClipper(sgd, MAX_NORM).attach(trainer)
    if frozen:
        ParameterFreezer(model, [f"{block}.*" for block in range(FROZEN)]).attach(trainer)
    # One long run, interrupted and resumed (20 µs), because a run's start costs more than an update.
    trainer.add_event_handler(Events.ITERATION_COMPLETED, trainer.interrupt)
    trainer.logger.disabled = True  # it tells of a run that is never resumed
    return Training(model, lambda: trainer.run(range(1_000_000)))


def with_fabric(strategy: str, frozen: bool) -> Training:
    ranks = dist.get_world_size()
    fabric = Fabric(accelerator="cpu", devices=ranks, strategy=FABRIC_STRATEGIES[strategy](ranks))
    fabric.launch()
    model = fabric.setup_module(_freeze(_make_model(), frozen))
    sgd = fabric.setup_optimizers(torch.optim.SGD(model.parameters(), LEARNING_RATE))
    loss = _make_loss(strategy)

    def update() -> None:
        sgd.zero_grad()
        fabric.backward(loss(model))
        _whole(fabric.clip_gradients(model, sgd, max_norm=MAX_NORM)).item()
        sgd.step()

    return Training(model, update)


def _make_model() -> nn.Sequential:
    torch.manual_seed(0)
    blocks = (nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.Tanh(), nn.Linear(WIDTH, WIDTH)) for _ in range(BLOCKS))
    return nn.Sequential(*blocks)


def _freeze(model: nn.Sequential, frozen: bool) -> nn.Sequential:
    model[:FROZEN].requires_grad_(not frozen)
    return model


def _mesh() -> DeviceMesh:
    return init_device_mesh("cpu", (dist.get_world_size(),))


def _make_loss(strategy: str) -> Callable[[nn.Module], Tensor]:
    """Return the loss of a model on this rank's part of the batch: all of it under tensor parallelism."""
    inputs, targets = torch.randn(2, ROWS, WIDTH, generator=torch.Generator().manual_seed(0))
    if strategy != "tensor parallel":
        inputs, targets = (each.chunk(dist.get_world_size())[dist.get_rank()] for each in (inputs, targets))
    return lambda model: (model(inputs) - targets).square().sum(1).mean()


def _whole(norm: Any) -> Tensor:
    whole: Tensor = norm.full_tensor() if isinstance(norm, DTensor) else norm
    return whole
