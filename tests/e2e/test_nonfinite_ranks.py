"""NaN and infinity on one rank of two: every rank skips the same updates, or all raise, and none hangs."""

import math
import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from ignite.engine import Engine, Events
from torch import Tensor, nn
from torch.distributed.fsdp.sharded_grad_scaler import ShardedGradScaler

from tests.ignite_tips.clipping.support import CLIPPERS, adamw, make_batches, make_model, sgd
from tests.ignite_tips.clipping.test_distributed import parallelize, whole
from tests.settings import seeded
from tests.support import run_distributed

pytestmark = pytest.mark.distributed

UPDATES = 4
VALUES = (math.nan, math.inf, -math.inf)
DTYPES = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}
OPTIMIZERS = {"sgd": (sgd, False), "fused sgd": (sgd, True), "adamw": (adamw, False), "fused adamw": (adamw, True)}


@dataclass(frozen=True)
class Fault:
    """A non-finite value in one rank's batch, or in one of its gradients after they are reduced."""

    rank: int
    where: str
    value: float
    place: int

    @property
    def parameter(self) -> str:
        """The parameter whose gradient is not finite then; under fully_shard every rank has a part of it."""
        return "0.bias" if self.where == "gradient" and self.place % 2 else "0.weight"


@dataclass(frozen=True)
class Case:
    """A training run on two ranks, and the updates at which it has a fault."""

    strategy: str
    clipper: str
    optimizer: str
    precision: str
    faults: dict[int, Fault]


def cases(strategy: str, seed: int, *precisions: str) -> Iterator[Case]:
    """Every clipper with every optimizer, with two drawn precisions each, and faults for each of these."""
    source = random.Random(seed)
    for clipper in CLIPPERS:
        for optimizer in OPTIMIZERS:
            if strategy == "fsdp" and optimizer == "fused sgd":
                continue  # torch has no fused SGD for DTensors
            for precision in source.sample(precisions, min(2, len(precisions))):
                # A fused optimizer's kernel uses each rank's own gradients, which DDP guarantees to be the same.
                alike = (strategy, precision, OPTIMIZERS[optimizer][1]) == ("ddp", "fp16", True)
                where = ["batch"] if alike else ["batch", "gradient"]
                values = [math.nan, math.inf, -math.inf]
                updates = source.sample(range(1, UPDATES + 1), source.randint(1, 3))
                faults = {
                    update: Fault(
                        source.randrange(2), source.choice(where), source.choice(values), source.randrange(48)
                    )
                    for update in updates
                }
                yield Case(strategy, clipper, optimizer, precision, faults)


class Training:
    """One rank's part of a case."""

    def __init__(self, case: Case, rank: int, world_size: int, on_nonfinite: str) -> None:
        self.case, self.rank = case, rank
        self.inner = make_model()
        self.model = parallelize(self.inner, case.strategy, world_size)
        make, fused = OPTIMIZERS[case.optimizer]
        self.optimizer = make(self.inner, fused=fused)
        # GradScaler decides for each rank; for DTensors it decides for all together.
        scaler = torch.amp.GradScaler if fused or case.strategy == "fsdp" else ShardedGradScaler
        self.scaler = scaler("cpu", init_scale=128.0, enabled=case.precision == "fp16")
        self.share = slice(rank, None, world_size)
        self.finite = True
        self.trainer = Engine(self.update)
        self.trainer.add_event_handler(Events.ITERATION_COMPLETED, self.look)
        CLIPPERS[case.clipper](self.optimizer, on_nonfinite=on_nonfinite, model=self.inner).attach(self.trainer)

    def update(self, engine: Engine, batch: tuple[Tensor, Tensor, Fault | None]) -> None:
        self.optimizer.zero_grad()
        x, y, fault = batch
        dtype = DTYPES[self.case.precision]
        with torch.autocast("cpu", dtype=dtype, enabled=dtype is not None):
            loss = nn.functional.mse_loss(self.model(x[self.share]).float(), y[self.share])
        self.scaler.scale(loss).backward()
        if fault is not None and (fault.where, fault.rank) == ("gradient", self.rank):
            gradient = self.inner.get_parameter(fault.parameter).grad
            local = gradient.to_local() if self.case.strategy == "fsdp" else gradient
            local.view(-1)[fault.place % local.numel()] = fault.value
        self.scaler.step(self.optimizer)
        self.scaler.update()

    def look(self) -> None:
        self.finite &= all(bool(tensor.isfinite().all()) for tensor in self.tensors())

    def tensors(self) -> list[Tensor]:
        state = self.optimizer.state_dict()["state"].values()
        kept = [value for slots in state for value in slots.values() if isinstance(value, Tensor)]
        return [whole(tensor).detach().clone() for tensor in [*self.inner.parameters(), *kept]]


def batches(case: Case, *, faulty: bool) -> list[tuple[Tensor, Tensor, Fault | None]]:
    made: list[tuple[Tensor, Tensor, Fault | None]] = []
    for number, (x, y) in enumerate(make_batches(UPDATES), 1):
        fault = case.faults.get(number)
        if fault is None:
            made.append((x, y, None))
        elif faulty:
            if fault.where == "batch":
                x[fault.rank, fault.place % 6] = fault.value
            made.append((x, y, fault))
    return made


def same(one: list[Tensor], other: list[Tensor]) -> bool:
    return len(one) == len(other) and all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def skip(rank: int, world_size: int, strategy: str, seed: int) -> list[tuple[str, Any]]:
    results: list[tuple[str, Any]] = []
    for case in cases(strategy, seed, *DTYPES):
        training, expected = (Training(case, rank, world_size, "skip") for _ in range(2))
        state = training.trainer.run(batches(case, faulty=True))
        expected.trainer.run(batches(case, faulty=False))
        made, skipped = UPDATES - len(case.faults), 0 if case.precision == "fp16" else len(case.faults)
        if (state.optimizer_step, state.metrics["skipped_steps"]) != (made, skipped):
            results.append((str(case), f"{state.optimizer_step} updates, {state.metrics['skipped_steps']} skipped"))
        if not training.finite:
            results.append((str(case), "not finite"))
        if not same(training.tensors(), expected.tensors()):
            results.append((str(case), "not as without the faults"))
    return results


@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_every_rank_skips_the_same_updates(strategy: str) -> None:
    """With all clippers, optimizers and precisions, each rank ends like a run without the faults."""
    assert run_distributed(skip, 2, strategy, seeded(3)) == [[], []]


def refuse(rank: int, world_size: int, strategy: str, seed: int) -> list[tuple[str, Any]]:
    results: list[tuple[str, Any]] = []
    for case in cases(strategy, seed, "fp32"):  # GradScaler would skip, and nothing would raise
        first = min(case.faults)
        training, expected = (Training(case, rank, world_size, "raise") for _ in range(2))
        if first > 1:
            expected.trainer.run(batches(case, faulty=True)[: first - 1])
        message = "no error"
        try:
            training.trainer.run(batches(case, faulty=True))
        except RuntimeError as error:
            message = str(error)
        name = type(training.optimizer).__name__
        if f"in update {first} of {name} (iteration {first}, epoch 1)" not in message:
            results.append((str(case), message))
        fault = case.faults[first]
        elsewhere = fault.where == "gradient" and strategy == "ddp" and rank != fault.rank
        if ("or some on another rank" if elsewhere else f"in {fault.parameter}") not in message:
            results.append((str(case), message))
        if not same(training.tensors(), expected.tensors()):
            results.append((str(case), "not as it was"))
    return results


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_every_rank_raises_and_changes_nothing(strategy: str) -> None:
    """Each rank's error names the same update and what is not finite there; nothing has changed."""
    assert run_distributed(refuse, 2, strategy, seeded(4)) == [[], []]
