"""How many collectives a clipper makes in an update, and what torch says meanwhile."""

import contextlib
import logging
import warnings
from collections.abc import Iterator
from math import inf
from typing import Any

from ignite.engine import Engine
from torch.distributed.tensor import DTensor
from torch.distributed.tensor.debug import CommDebugMode
from torch.nn.utils import clip_grad_norm_

import ignite_tips as tips
from tests.strategies import STRATEGIES, Network, Parallel, make_batches

# What clips, and how: torch's own function, or a clipper.
CLIPS: dict[str, Any] = {
    "torch": 2.0,
    "torch, largest": inf,
    "norm": lambda sgd, mode, **stages: tips.GradientNormClipper(sgd, 0.1, on_nonfinite=mode, **stages),
    "largest": lambda sgd, mode, **stages: tips.GradientNormClipper(
        sgd, 0.1, norm_type=inf, on_nonfinite=mode, **stages
    ),
    "AGC": lambda sgd, mode, **stages: tips.AdaptiveGradientClipper(sgd, 0.01, on_nonfinite=mode, **stages),
}
Counts = dict[str, int | None]


def count_collectives(strategy: str) -> tuple[Counts, list[str]]:
    """Return for each clip and mode the collectives of one update on this rank; None where torch refuses.

    And return the warnings of torch meanwhile.
    """
    counts: Counts = {}
    told: list[str] = []
    parallel = STRATEGIES[strategy].build(_network())
    sgd = parallel.make_optimizer([{"params": list(parallel.model.parameters())}])
    for name, make in CLIPS.items():
        if name.startswith("torch"):
            counts[name] = _count_torchs(parallel, make)
            continue
        for mode in ("propagate", "raise"):
            stages = {} if parallel.stages is None else {"norm_group": parallel.stages}
            counts[f"{name}, {mode}"] = _count_ours(parallel, sgd, make(sgd, mode, **stages), told)
    return counts, told


def count_all(rank: int, world_size: int) -> dict[str, Counts]:
    """Return the counts of each strategy on so many ranks."""
    return {name: count_collectives(name)[0] for name, each in STRATEGIES.items() if each.ranks == world_size}


def _network() -> Network:
    network = Network()
    network.stem.requires_grad_(False)
    return network


def _count_torchs(parallel: Parallel, norm_type: float) -> int | None:
    parallel.model.zero_grad()
    parallel.backward(make_batches(1)[0])
    with CommDebugMode() as counter:
        try:
            norm: Any = clip_grad_norm_(parallel.model.parameters(), 0.1, norm_type)
        except RuntimeError:
            return None
        if isinstance(norm, DTensor):
            norm.full_tensor()
    return counter.get_total_counts()


def _count_ours(parallel: Parallel, sgd: Any, clipper: Any, told: list[str]) -> int:
    counts: set[int] = set()
    stack = contextlib.ExitStack()

    def update(engine: Engine, batch: Any) -> None:
        sgd.zero_grad()
        parallel.backward(batch)
        sgd.step()

    def start() -> None:
        stack.enter_context(_listening(told))
        counter = stack.enter_context(CommDebugMode())
        stack.callback(lambda: counts.add(counter.get_total_counts()))

    trainer = Engine(update)
    tips.attach_optimizer_events(trainer, sgd)
    trainer.add_event_handler(tips.OptimizerEvents.STEP_STARTED, start)
    clipper.attach(trainer)
    trainer.add_event_handler(tips.OptimizerEvents.STEP_STARTED, stack.close)
    trainer.run(make_batches(2))
    clipper.detach()
    (count,) = counts  # each update makes the same number
    return count


@contextlib.contextmanager
def _listening(told: list[str]) -> Iterator[None]:
    """Take down torch's warnings, from its loggers too."""
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: told.append(record.getMessage())  # type: ignore[method-assign]
    loggers = [logging.getLogger(name) for name in logging.root.manager.loggerDict if name.split(".")[0] == "torch"]
    for logger in loggers:
        logger.addHandler(handler)
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            yield
    finally:
        for logger in loggers:
            logger.removeHandler(handler)
    told.extend(str(warning.message) for warning in caught)
