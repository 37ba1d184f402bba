"""One small network under each kind of parallelism, for tests that compare several ranks with one process.

It is in double precision. BatchNorm is in the stem, which stays frozen, because the statistics of a rank's rows are not
those of the whole batch.
"""

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import CPUOffloadPolicy, MixedPrecisionPolicy, fully_shard
from torch.distributed.optim import ZeroRedundancyOptimizer
from torch.distributed.pipelining import PipelineStage, Schedule1F1B, ScheduleGPipe
from torch.distributed.tensor import DTensor, Replicate, Shard
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, SequenceParallel, parallelize_module
from torch.nn.parallel import DistributedDataParallel

from tests.settings import seeded

Batch = tuple[Tensor, Tensor]
ROWS = 8  # of a global batch
MICROBATCHES = 2


class Network(nn.Module):
    """A stem, a body of two layers, a norm and a head; a pipeline's stage has only some of these parts."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(seeded(11))
        self.stem = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8))
        self.body = nn.Sequential(OrderedDict(up=nn.Linear(8, 16), act=nn.Tanh(), down=nn.Linear(16, 8)))
        self.norm = nn.LayerNorm(8)
        self.head = nn.Linear(8, 2)
        with torch.no_grad():
            self.stem[1].running_mean.uniform_(-1, 1)
            self.stem[1].running_var.uniform_(0.5, 2)
        self.double()

    def forward(self, x: Tensor) -> Tensor:
        for part in self.children():
            x = part(x)
        return x


def loss_of(output: Tensor, target: Tensor) -> Tensor:
    return nn.functional.mse_loss(output.double(), target)


def make_batches(count: int) -> list[Batch]:
    generator = torch.Generator().manual_seed(seeded(12))
    options: Any = {"generator": generator, "dtype": torch.float64}
    return [(torch.randn(ROWS, 6, **options), torch.randn(ROWS, 2, **options)) for _ in range(count)]


def make_sgd(groups: Any) -> torch.optim.Optimizer:
    return torch.optim.SGD(groups, lr=0.1, momentum=0.9)


@dataclass
class Parallel:
    """The network on this rank.

    Attributes:
        model: as handlers get it.
        rows: those of each global batch that this rank computes.
        make_optimizer: makes one of param groups.
        stages: the ranks that have the network's other parts.
        pipeline: the schedule; None without one.
        is_first: whether this rank has the first stage.
    """

    model: nn.Module
    rows: slice = field(default_factory=lambda: slice(None))
    make_optimizer: Callable[[Any], Any] = make_sgd
    stages: DeviceMesh | dist.ProcessGroup | None = None
    pipeline: Any = None
    is_first: bool = True

    def backward(self, batch: Batch) -> None:
        """Compute gradients of the mean loss of the global batch."""
        x, y = (each[self.rows].contiguous() for each in batch)  # as torch 2.10 wants them for a pipeline
        if self.pipeline is None:
            loss_of(self.model(x), y).backward()
        elif self.is_first:
            self.pipeline.step(x)
        else:
            self.pipeline.step(target=y)

    def whole(self, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return copies of tensors with the values of all ranks that share them."""
        return {name: whole(tensor).detach().clone() for name, tensor in tensors.items()}


def whole(tensor: Tensor) -> Tensor:
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def _rows_of(mesh: DeviceMesh) -> slice:
    return slice(mesh.get_local_rank(), None, mesh.size())


def _replicate(network: Network) -> Parallel:
    mesh = init_device_mesh("cpu", (2,))
    return Parallel(DistributedDataParallel(network), _rows_of(mesh))


def _zero(network: Network) -> Parallel:
    found = _replicate(network)
    found.make_optimizer = lambda groups: ZeroRedundancyOptimizer(
        groups, optimizer_class=torch.optim.SGD, lr=0.1, momentum=0.9
    )
    return found


def _shard_parts(network: Network, mesh: DeviceMesh, **options: Any) -> None:
    if hasattr(network, "body"):  # not every stage has it
        fully_shard(network.body, mesh=mesh, **options)
    fully_shard(network, mesh=mesh, **options)


def _shard(**options: Any) -> Callable[[Network], Parallel]:
    def build(network: Network) -> Parallel:
        mesh = init_device_mesh("cpu", (2,))
        _shard_parts(network, mesh, **options)
        return Parallel(network, _rows_of(mesh))

    return build


def _shard_in_float32(network: Network) -> Parallel:
    network.stem[1].running_mean, network.stem[1].running_var = (
        each.float() for each in network.stem[1].buffers() if each.dim()
    )
    policy = MixedPrecisionPolicy(param_dtype=torch.float32, reduce_dtype=torch.float64)
    return _shard(mp_policy=policy)(network)


def _shard_and_replicate(network: Network) -> Parallel:
    mesh = init_device_mesh("cpu", (2, 2), mesh_dim_names=("replicate", "shard"))
    _shard_parts(network, mesh)
    return Parallel(network, slice(dist.get_rank(), None, 4))


def _shard_a_part(network: Network) -> Parallel:
    mesh = init_device_mesh("cpu", (2,))
    fully_shard(network.body, mesh=mesh)
    for parameter in network.parameters():
        if parameter.requires_grad and not isinstance(parameter, DTensor):
            parameter.register_post_accumulate_grad_hook(_average)
    return Parallel(network, _rows_of(mesh))


def _average(parameter: Tensor) -> None:
    assert parameter.grad is not None
    dist.all_reduce(parameter.grad)
    parameter.grad /= dist.get_world_size()


def _divide_layers(network: Network, mesh: DeviceMesh) -> None:
    parallelize_module(network.body, mesh, {"up": ColwiseParallel(), "down": RowwiseParallel()})


def _divide(network: Network) -> Parallel:
    _divide_layers(network, init_device_mesh("cpu", (2,)))
    return Parallel(network)


def _divide_rows_too(network: Network) -> Parallel:
    """Rows stand for a sequence; gradients of the norm between are terms of a sum."""
    plan = {
        "body.up": ColwiseParallel(),
        "body.down": RowwiseParallel(output_layouts=Shard(0)),
        "norm": SequenceParallel(sequence_dim=0),
        "head": ColwiseParallel(input_layouts=Shard(0), output_layouts=Replicate()),
    }
    parallelize_module(network, init_device_mesh("cpu", (2,)), plan)
    return Parallel(network)


def _shard_and_divide(network: Network) -> Parallel:
    mesh = init_device_mesh("cpu", (2, 2), mesh_dim_names=("dp", "tp"))
    _divide_layers(network, mesh["tp"])
    _shard_parts(network, mesh["dp"])
    return Parallel(network, _rows_of(mesh["dp"]))


def _cut(network: Network, stage: int) -> None:
    for name in (("norm", "head"), ("stem", "body"))[stage]:
        delattr(network, name)


def _pipeline(schedule: Any) -> Callable[[Network], Parallel]:
    def build(network: Network) -> Parallel:
        mesh = init_device_mesh("cpu", (2,), mesh_dim_names=("pp",))
        _cut(network, dist.get_rank())
        return _staged(network, schedule, mesh)

    return build


def make_schedule(network: nn.Module, schedule: Any, mesh: DeviceMesh) -> Any:
    """Return a schedule of this rank's stage."""
    stage = PipelineStage(network, mesh.get_local_rank(), 2, torch.device("cpu"), group=mesh.get_group())
    return schedule(stage, n_microbatches=MICROBATCHES, loss_fn=loss_of)


def _staged(network: Network, schedule: Any, mesh: DeviceMesh, rows: slice = slice(None)) -> Parallel:
    pipeline = make_schedule(network, schedule, mesh)
    return Parallel(network, rows, stages=mesh, pipeline=pipeline, is_first=mesh.get_local_rank() == 0)


def _pipeline_of_shards(network: Network) -> Parallel:
    mesh = init_device_mesh("cpu", (2, 2), mesh_dim_names=("pp", "dp"))
    _cut(network, mesh["pp"].get_local_rank())
    _shard_parts(network, mesh["dp"])
    return _staged(network, ScheduleGPipe, mesh["pp"], _rows_of(mesh["dp"]))


@dataclass(frozen=True)
class Strategy:
    """A kind of parallelism: on how many ranks, and how the network gets there."""

    ranks: int
    build: Callable[[Network], Parallel]


STRATEGIES = {
    "DDP 2": Strategy(2, _replicate),
    "FSDP2 2": Strategy(2, _shard()),
    "HSDP 2 x 2": Strategy(4, _shard_and_replicate),
    "tensor parallel 2": Strategy(2, _divide),
    "tensor and sequence parallel 2": Strategy(2, _divide_rows_too),
    "FSDP2 x tensor parallel 2 x 2": Strategy(4, _shard_and_divide),
    "partly FSDP2 2": Strategy(2, _shard_a_part),
    "FSDP2 2, CPU offload": Strategy(2, _shard(offload_policy=CPUOffloadPolicy(pin_memory=False))),
    "FSDP2 2, mixed precision": Strategy(2, _shard_in_float32),
    "FSDP2 2, not resharded after forward": Strategy(2, _shard(reshard_after_forward=False)),
    "pipeline 2, GPipe": Strategy(2, _pipeline(ScheduleGPipe)),
    "pipeline 2, 1F1B": Strategy(2, _pipeline(Schedule1F1B)),
    "pipeline x FSDP2 2 x 2": Strategy(4, _pipeline_of_shards),
    "ZeRO 2": Strategy(2, _zero),
}
