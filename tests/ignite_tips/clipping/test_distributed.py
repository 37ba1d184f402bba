"""Every clipper on two ranks: DDP, fully_shard, and a NaN that one rank has alone."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from ignite.engine import Engine, Events
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FullyShardedDataParallel, fully_shard
from torch.nn.parallel import DistributedDataParallel
from torch.nn.utils import clip_grad_norm_

from ignite_tips import (
    AdaptiveGradientClipper,
    AutoClipper,
    GradientNormClipper,
    GradientValueClipper,
    ParameterFreezer,
    ZClipper,
    summarize_model,
)
from ignite_tips.clipping.gradient_clipper import GradientClipper
from tests.ignite_tips.clipping.support import Training, adamw, make_batches, make_model, sgd
from tests.oracles import TRAINED_IN_DOUBLE
from tests.support import run_distributed

pytestmark = pytest.mark.distributed

CLIPPERS: dict[str, Callable[..., GradientClipper]] = {
    "norm": lambda optimizer, model, **options: GradientNormClipper(optimizer, 0.3, **options),
    "largest": lambda optimizer, model, **options: GradientNormClipper(optimizer, 0.05, norm_type=math.inf, **options),
    "value": lambda optimizer, model, **options: GradientValueClipper(optimizer, 0.05, **options),
    "agc": lambda optimizer, model, **options: AdaptiveGradientClipper(
        optimizer, 0.02, exclude="2.*", model=model, **options
    ),
    "auto": lambda optimizer, model, **options: AutoClipper(optimizer, 30, **options),
    "z": lambda optimizer, model, **options: ZClipper(optimizer, max_norm=0.6, warmup_steps=2, **options),
}
OPTIMIZERS = {"sgd": (sgd, {"foreach": True}), "fused": (adamw, {"fused": True})}


def parallelize(model: nn.Module, strategy: str, world_size: int) -> nn.Module:
    if strategy == "ddp":
        return DistributedDataParallel(model)
    mesh = init_device_mesh("cpu", (world_size,))
    fully_shard(model[0], mesh=mesh)
    fully_shard(model, mesh=mesh)
    return model


def whole(tensor: Tensor) -> Tensor:
    return tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor


def make_trainer(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    share: slice,
    *,
    scaler: Any = None,
    before_step: Callable[[int], object] = lambda iteration: None,
) -> Engine:
    scaler = scaler or torch.amp.GradScaler("cpu", enabled=False)

    def update(engine: Engine, batch: tuple[Tensor, Tensor]) -> None:
        scaler.scale(nn.functional.mse_loss(model(batch[0][share]), batch[1][share])).backward()
        before_step(engine.state.iteration)
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad()

    return Engine(update)


def _note_coefficient(engine: Engine, coefficients: list[Any]) -> None:
    coefficients.append(engine.state.metrics.get("grad_clip_coef"))


def train(rank: int, world_size: int, strategy: str, dtype: torch.dtype) -> dict[Any, Any]:
    """Train with every clipper on this rank's share, and with clip_grad_norm_; return parameters and coefficients."""
    results: dict[Any, Any] = {}
    share = slice(rank, None, world_size)
    for name, (make_optimizer, options) in OPTIMIZERS.items():
        for kind in (*CLIPPERS, "torch", "scaled"):
            inner = make_model().to(dtype)
            model = parallelize(inner, strategy, world_size)
            optimizer = make_optimizer(inner, **options)
            scaler = torch.amp.GradScaler("cpu", init_scale=128.0) if kind == "scaled" else None
            clip = (lambda _, inner=inner: clip_grad_norm_(inner.parameters(), 0.3)) if kind == "torch" else None
            trainer = make_trainer(model, optimizer, share, scaler=scaler, before_step=clip or (lambda _: None))
            if clip is None:
                CLIPPERS.get(kind, CLIPPERS["norm"])(optimizer, inner).attach(trainer)
            coefficients: list[Any] = []
            trainer.add_event_handler(Events.ITERATION_COMPLETED, _note_coefficient, coefficients)
            trainer.run(make_batches(5, dtype))
            results[name, kind] = [whole(p).detach() for p in inner.parameters()], coefficients
    return results


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_ranks_train_as_one(strategy: str, dtype: torch.dtype) -> None:
    """Two ranks of DDP or fully_shard clip by one coefficient and end with one set of parameters.

    With the norm the parameters equal those of clip_grad_norm_ on two ranks, bit for bit; under GradScaler as well. In
    double precision all equal those of one process, which adds in another order.
    """
    first, second = run_distributed(train, 2, strategy, dtype)
    for name, (make_optimizer, options) in OPTIMIZERS.items():
        for kind in (*CLIPPERS, "scaled"):
            (parameters, coefficients), (others, other_coefficients) = first[name, kind], second[name, kind]
            assert coefficients == other_coefficients
            assert min(coefficients) < 1
            assert all(map(torch.equal, parameters, others)), kind
            if dtype == torch.float64:
                alone = Training(make_optimizer, dtype=dtype, **options)
                trainer = alone.trainer()
                CLIPPERS.get(kind, CLIPPERS["norm"])(alone.optimizer, alone.model).attach(trainer)
                trainer.run(make_batches(5, dtype))
                for one, expected in zip(parameters, alone.model.parameters(), strict=True):
                    close = {"rtol": TRAINED_IN_DOUBLE, "atol": TRAINED_IN_DOUBLE}
                    torch.testing.assert_close(one, expected.detach(), **close)
        for kind in ("norm", "scaled"):
            assert all(map(torch.equal, first[name, kind][0], first[name, "torch"][0])), kind


def poison(rank: int, world_size: int, strategy: str, on_nonfinite: str) -> dict[str, Any]:
    """Put a NaN into one gradient of rank 1 alone, after it was reduced, in update 3."""
    results: dict[str, Any] = {}
    for kind in CLIPPERS:
        inner = make_model()
        model = parallelize(inner, strategy, world_size)
        optimizer = sgd(inner)
        before: list[Tensor] = []

        def spoil(
            iteration: int, inner: nn.Module = inner, before: list[Tensor] = before, optimizer: Any = optimizer
        ) -> None:
            if iteration == 3:
                before.extend(whole(p).detach().clone() for p in inner.parameters())
                if rank == 1:
                    gradient = inner[0].weight.grad
                    (gradient.to_local() if strategy == "fsdp" else gradient).fill_(math.nan)

        trainer = make_trainer(model, optimizer, slice(rank, None, world_size), before_step=spoil)
        CLIPPERS[kind](optimizer, inner, on_nonfinite=on_nonfinite).attach(trainer)
        message = None
        try:
            trainer.run(make_batches()[: 3 if on_nonfinite == "skip" else 5])
        except RuntimeError as error:
            message = str(error)
        untouched = all(torch.equal(whole(p), b) for p, b in zip(inner.parameters(), before, strict=True))
        results[kind] = (untouched, message, trainer.state.optimizer_step, trainer.state.metrics["skipped_steps"])
    return results


@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
@pytest.mark.parametrize("on_nonfinite", ["raise", "skip"])
def test_no_rank_goes_on_alone(on_nonfinite: str, strategy: str) -> None:
    """When one rank alone has a NaN, all ranks raise, or all drop the update; nobody's parameters are touched."""
    for results in run_distributed(poison, 2, strategy, on_nonfinite):
        for untouched, message, updates, skipped in results.values():
            assert untouched
            assert (updates, skipped) == (2, int(on_nonfinite == "skip"))
            assert (message is None) == (on_nonfinite == "skip")
            assert message is None or "in update 3 of SGD (iteration 3, epoch 1)" in message


def poison_propagated(rank: int, world_size: int) -> bool:
    model = make_model()
    wrapped = DistributedDataParallel(model)
    optimizer = sgd(model)
    batches = make_batches()[:3]
    batches[2][0][1, 0] = math.nan  # in the share of rank 1
    trainer = make_trainer(wrapped, optimizer, slice(rank, None, world_size))
    GradientNormClipper(optimizer, 0.3, on_nonfinite="propagate").attach(trainer)
    trainer.run(batches)
    return all(bool(parameter.isnan().all()) for parameter in model.parameters())


def test_propagate_agrees_where_gradients_do() -> None:
    """With "propagate" a NaN that DDP has reduced is used on every rank."""
    assert run_distributed(poison_propagated, 2) == [True, True]


def refusals(model: nn.Module) -> list[str]:
    told = []
    for make in (
        lambda: GradientNormClipper(sgd(model), 1.0),
        lambda: ParameterFreezer(model, "*").attach(Engine(lambda engine, batch: None)),
        lambda: summarize_model(model, input_size=(2, 6)),
    ):
        try:
            make()
        except TypeError as error:
            told.append(str(error))
    return told


def refuse(rank: int, world_size: int) -> list[list[str]]:
    old = FullyShardedDataParallel(make_model(), device_id=torch.device("cpu"), use_orig_params=True)
    models = [old, *(parallelize(make_model(), strategy, world_size) for strategy in ("fsdp", "ddp"))]
    return [refusals(model) for model in models]


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_old_fsdp_is_refused() -> None:
    """Its shards do not say that they are shards: an error, not a wrong norm or count. What the errors name works."""
    for (clipper, freezer, summary), *followed in run_distributed(refuse, 2):
        assert clipper.startswith("optimizer must have whole parameters or DTensors, got ")
        assert clipper.endswith("use torch.distributed.fsdp.fully_shard, whose parameters say what they are shards of")
        assert freezer.startswith("model must not be wrapped in FullyShardedDataParallel, which makes one tensor of ")
        assert freezer.endswith("; shard it by fully_shard, or wrap it in DistributedDataParallel")
        assert summary == freezer
        assert followed == [[], []]


def one_rank_of_its_own(rank: int, world_size: int) -> int:
    if rank == 1:
        return 0
    alone = [torch.distributed.new_group([0], use_local_synchronization=True)]
    training = Training(sgd)
    GradientNormClipper(training.optimizer, 0.3, process_group=alone[0]).attach(trainer := training.trainer())
    return trainer.run(make_batches()).optimizer_step


def test_a_rank_of_a_group_of_its_own_asks_nobody() -> None:
    """With ``process_group`` a rank can train while others do something else."""
    assert run_distributed(one_rank_of_its_own, 2) == [8, 0]
