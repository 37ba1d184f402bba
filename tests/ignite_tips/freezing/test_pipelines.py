"""Freezing in a pipeline, in which most patterns match on one rank only."""

import tempfile
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from ignite.engine import Engine, Events
from ignite.handlers import TensorboardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor, nn
from torch.distributed.pipelining import ScheduleGPipe

from ignite_tips import GradualUnfreezer, ParameterFreezer, RunAnnotator, freeze_parameters
from tests.ignite_tips.freezing.test_wrapped_models import count_global_hooks
from tests.oracles import TRAINED_IN_DOUBLE
from tests.strategies import STRATEGIES, Network, Parallel, loss_of, make_batches, make_schedule, make_sgd
from tests.support import run_distributed

pytestmark = pytest.mark.distributed
EPOCHS = 3
# The pipeline's first rank has the stem, which stays frozen, and the body; the second one the others.
PARTS = ["head.*", "norm.*", "body.*"]
TRAINING = {1: ("head",), 2: ("head", "norm"), 3: ("head", "norm", "body")}


def unfreeze_gradually(parallel: Parallel, trainer: Engine) -> Any:
    return GradualUnfreezer(parallel.model, PARTS, pattern_group=parallel.stages).attach(trainer)


def freeze_then_unfreeze(parallel: Parallel, trainer: Engine) -> list[Any]:
    """Do the same by a ParameterFreezer for each part; the one of the norm gets a process group."""
    assert parallel.stages is not None
    groups = {"norm.*": parallel.stages.get_group(), "body.*": parallel.stages}  # type: ignore[union-attr]
    return [
        ParameterFreezer(parallel.model, part, pattern_group=group).attach(
            trainer, unfreeze=Events.EPOCH_STARTED(once=epoch)
        )
        for epoch, (part, group) in enumerate(groups.items(), 2)
    ]


def start(attach: Callable[[Parallel, Engine], Any]) -> tuple[Parallel, Engine, Any, torch.optim.Optimizer]:
    network = Network()
    freeze_parameters(network, "stem.*")
    parallel = STRATEGIES["pipeline 2, GPipe"].build(network)
    optimizer = make_sgd(list(parallel.model.parameters()))

    def update(engine: Engine, batch: Any) -> None:
        parallel.model.train()
        optimizer.zero_grad()
        parallel.backward(batch)
        optimizer.step()

    trainer = Engine(update)
    trainer.logger.disabled = True
    # Torch notes in a schedule's first step which stages pass on gradients, and a stage may start to train later.
    trainer.add_event_handler(Events.EPOCH_STARTED, lambda: renew_schedule(parallel))
    return parallel, trainer, attach(parallel, trainer), optimizer


def renew_schedule(parallel: Parallel) -> None:
    parallel.pipeline = make_schedule(parallel.model, ScheduleGPipe, parallel.stages)


def train(attach: Callable[[Parallel, Engine], Any]) -> tuple[dict[str, Tensor], list[float]]:
    """Return this rank's weights, and the share of the whole model that trains in each epoch."""
    parallel, trainer, _handlers, _ = start(attach)
    shares: list[float] = []
    trainer.add_event_handler(
        Events.EPOCH_COMPLETED, lambda engine: shares.append(engine.state.metrics["trainable_fraction"])
    )
    trainer.run(make_batches(2), max_epochs=EPOCHS)
    return {name: weight.detach().clone() for name, weight in parallel.model.named_parameters()}, shares


def message_of(make: Callable[..., Any], parallel: Parallel, patterns: Any) -> str:
    with pytest.raises(ValueError, match="matches no parameter") as caught:
        make(parallel.model, patterns, pattern_group=parallel.stages)
    return str(caught.value)


def resume() -> list[tuple[str, ...]]:
    """Return the names that are frozen after two epochs, and after a second handler has resumed them."""
    parallel, trainer, unfreezer, _ = start(unfreeze_gradually)
    trainer.run(make_batches(1), max_epochs=2)
    saved, frozen = unfreezer.state_dict(), unfreezer.frozen
    unfreezer.detach()
    unfreezer = unfreeze_gradually(parallel, trainer)
    unfreezer.load_state_dict(saved)
    trainer.add_event_handler(Events.STARTED, lambda: found.append(unfreezer.frozen))
    found: list[tuple[str, ...]] = [frozen]
    trainer.run(make_batches(1), max_epochs=3)
    return found


def count_hooks() -> int:
    """Return how many hooks on all modules are left after a run, in which each handler has parameters on one rank."""
    _, trainer, _handlers, _ = start(freeze_then_unfreeze)
    trainer.run(make_batches(1))
    return count_global_hooks()


def log_shares() -> list[float]:
    """Return the share of each update that RunAnnotator writes, on the first rank only."""
    parallel, trainer, _handlers, optimizer = start(freeze_then_unfreeze)
    with tempfile.TemporaryDirectory() as folder:
        with TensorboardLogger(folder) as tb_logger:
            RunAnnotator(parallel.model, optimizer).attach(trainer, tb_logger)
            trainer.run(make_batches(1), max_epochs=EPOCHS)
        tags = EventAccumulator(folder).Reload()
        points = tags.Scalars("trainable_fraction") if "trainable_fraction" in tags.Tags()["scalars"] else []
        return [point.value for point in points]


def work(rank: int, world_size: int) -> dict[str, Any]:
    warnings.filterwarnings("error", message=".* frozen already")
    parallel = start(lambda parallel, trainer: None)[0]
    return {
        "gradually": train(unfreeze_gradually),
        "at events": train(freeze_then_unfreeze),
        "typos": [
            message_of(GradualUnfreezer, parallel, ["heat.*", "body.*"]),
            message_of(ParameterFreezer, parallel, "bodi.*"),
        ],
        "resumed": resume(),
        "hooks": count_hooks(),
        "logged": log_shares(),
    }


@pytest.fixture(scope="module")
def results() -> list[dict[str, Any]]:
    return run_distributed(work, 2)


def train_by_hand() -> tuple[dict[str, Tensor], list[float]]:
    model, shares = Network(), []
    optimizer = make_sgd(list(model.parameters()))
    for epoch in range(1, EPOCHS + 1):
        for name, part in model.named_children():
            part.requires_grad_(name in TRAINING[epoch])
        for x, y in make_batches(2):
            model.train()
            model.stem.eval()
            optimizer.zero_grad()
            loss_of(model(x), y).backward()
            optimizer.step()
        shares.append(_count(p for p in model.parameters() if p.requires_grad) / _count(model.parameters()))
    return {name: weight.detach() for name, weight in model.named_parameters()}, shares


def _count(parameters: Any) -> int:
    return sum(parameter.numel() for parameter in parameters)


@pytest.mark.parametrize("way", ["gradually", "at events"])
def test_a_rank_without_a_part_has_nothing_to_do(results: list[dict[str, Any]], way: str) -> None:
    """The ranks train as one process does that unfreezes by hand, and know the share of the whole model that trains."""
    expected, shares = train_by_hand()
    scale = max(float(weight.abs().max()) for weight in expected.values())
    trained = {name: weight for result in results for name, weight in result[way][0].items()}
    assert trained.keys() == expected.keys()
    for name, weight in trained.items():
        torch.testing.assert_close(weight, expected[name], rtol=0, atol=TRAINED_IN_DOUBLE * scale)
    if way == "gradually":
        assert [result[way][1] for result in results] == [shares, shares]


def test_a_pattern_that_matches_on_no_rank_is_refused_on_all(results: list[dict[str, Any]]) -> None:
    """In one sentence, the same on all, which suggests a name of whatever rank."""
    first, second = (result["typos"] for result in results)
    assert first == second
    assert first[0].startswith(
        "pattern 'heat.*' matches no parameter; did you mean 'head.*'? Names start with: stem.0."
    )
    assert first[1].startswith("pattern 'bodi.*' matches no parameter; did you mean 'body.*'?")


def test_a_rank_without_a_part_watches_no_forward_pass(results: list[dict[str, Any]]) -> None:
    """No module there has the parameters, so a hook that waits for them would stay to the end of the run."""
    assert [result["hooks"] for result in results] == [0, 0]


def test_the_log_has_the_share_of_the_whole_model(results: list[dict[str, Any]]) -> None:
    """RunAnnotator, which writes on the first rank only, writes what the handlers of all stages know together."""
    _, shares = results[0]["at events"]
    assert len(set(shares)) == EPOCHS
    assert results[0]["logged"] == pytest.approx(shares, rel=1e-6)
    assert results[1]["logged"] == []


def test_a_resume_knows_what_is_frozen(results: list[dict[str, Any]]) -> None:
    """The state of each rank is of its own parameters, which may be none."""
    body = ("body.up.weight", "body.up.bias", "body.down.weight", "body.down.bias")
    assert [result["resumed"] for result in results] == [[body, body], [(), ()]]


def test_without_the_group_a_pattern_must_match_here() -> None:
    """One process is not asked about others."""
    with pytest.raises(ValueError, match=r"pattern 'head.*' matches no parameter"):
        GradualUnfreezer(nn.Sequential(nn.Linear(1, 1)), ["head.*"])
