"""Combinations of tips and strategies, and their small training job, without the training loop.

The network has BatchNorm, no bias before it (its gradient would be rounding noise), a body that is frozen for two
epochs, and two parts with different learning rates. Under GradScaler one gradient is infinite, on one rank, and its
update is skipped. Neither Ignite nor our code is used here, because the reference loop shares this module.
"""

import copy
import itertools
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor

from tests.settings import seeded

EPOCHS, UNFREEZE, BATCHES, POISONED, SAVED = 4, 3, 3, 5, 2
MAX_NORM = 0.05
WORLD_SIZES = {"single": 1, "DDP": 2, "FSDP2": 2}
Batch = tuple[torch.Tensor, torch.Tensor]


@dataclass(frozen=True)
class Point:
    """One combination."""

    strategy: str = "single"
    precision: str = "fp32"
    optimizer: str = "SGD"
    accumulation: int = 1
    trainer: str = "supervised"
    device: str = "cpu"
    processes: int = 1

    def __str__(self) -> str:
        parts = [self.strategy, self.precision, self.optimizer, f"accumulation {self.accumulation}", self.trainer]
        return ", ".join(parts)

    @property
    def refusal(self) -> str | None:
        """A part of the sentence that refuses the point; None if it must train like the reference loop."""
        if self.strategy == "FSDP2" and self.optimizer == "fused SGD":
            return "_fused_sgd_"  # what is the same in the errors of all versions of torch
        return None


def points(strategy: str, device: str = "cpu", processes: int | None = None) -> Iterator[Point]:
    """All combinations with a strategy, each to be trained uninterrupted and resumed, or refused."""
    optimizers = ("SGD", "fused SGD", *(("fused AdamW",) if strategy == "FSDP2" else ()))
    trainers = ("supervised", "custom", "two optimizers")
    for axes in itertools.product(("fp32", "bf16", "fp16"), optimizers, (1, 3), trainers):
        yield Point(strategy, *axes, device, processes or WORLD_SIZES[strategy])


class Network(nn.Module):
    """A body with BatchNorm and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(6, 12, bias=False), nn.BatchNorm1d(12), nn.ReLU())
        self.head = nn.Linear(12, 3)  # the bias cannot be divided evenly over two ranks

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.body(x))


def make_network(point: Point) -> Network:
    torch.manual_seed(seeded(7))
    network = Network().to(point.device)
    if point.strategy == "FSDP2":
        mesh = init_device_mesh(point.device, (point.processes,))
        fully_shard(network.body, mesh=mesh)
        fully_shard(network, mesh=mesh)
    return network


def make_batches(point: Point, seed: int, rank: int, count: int = BATCHES) -> list[Batch]:
    generator = torch.Generator().manual_seed(seeded(seed + 1000 * rank))
    shapes = [[(8, 6), (8, 3)]] * count
    return [tuple(torch.randn(*one, generator=generator).to(point.device) for one in pair) for pair in shapes]


def make_optimizer(point: Point, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
    fused = point.optimizer.startswith("fused ") or None
    if point.optimizer == "fused AdamW":
        return torch.optim.AdamW(groups, lr=0.1, weight_decay=0.01, fused=fused)
    return torch.optim.SGD(groups, lr=0.1, momentum=0.9, weight_decay=0.01, fused=fused)


def autocast(point: Point) -> AbstractContextManager[Any]:
    dtypes = {"bf16": torch.bfloat16, "fp16": torch.float16}
    return torch.autocast(point.device, dtypes[point.precision]) if point.precision in dtypes else nullcontext()


def loss_of(point: Point, output: torch.Tensor, target: torch.Tensor, iteration: int) -> torch.Tensor:
    loss = nn.functional.mse_loss(output.float(), target)
    last_rank = point.processes == 1 or dist.get_rank() == 1
    return loss * float("inf") if point.precision == "fp16" and iteration == POISONED and last_rank else loss


def outcome(model: nn.Module, optimizers: list[torch.optim.Optimizer], lrs: list[list[float]]) -> dict[str, Any]:
    """The result of training on this rank."""
    state = [optimizer.state_dict()["state"] for optimizer in optimizers]
    return {"model": _own(dict(model.state_dict())), "optimizers": _own(state), "lrs": lrs}


def difference(path: str, left: Any, right: Any) -> list[str]:
    """Where two structures of dicts, lists and tensors differ, bit for bit."""
    if isinstance(left, dict) and isinstance(right, dict) and left.keys() == right.keys():
        return [found for key in left for found in difference(f"{path}.{key}", left[key], right[key])]
    if isinstance(left, list) and isinstance(right, list) and len(left) == len(right):
        pairs = enumerate(zip(left, right, strict=True))
        return [found for index, (one, other) in pairs for found in difference(f"{path}.{index}", one, other)]
    same = torch.equal(left, right) if isinstance(left, torch.Tensor) else left == right
    return [] if same else [f"{path}: {left} is not {right}"]


def _own(nest: Any) -> Any:
    """Return a copy in which each sharded tensor is replaced by this rank's part."""
    if isinstance(nest, dict):
        return {key: _own(value) for key, value in nest.items()}
    if isinstance(nest, list):
        return [_own(value) for value in nest]
    return nest.to_local().clone() if isinstance(nest, DTensor) else copy.deepcopy(nest)
