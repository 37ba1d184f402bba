"""GradualUnfreezer: one stage more every few epochs, at any point of a resumed run."""

from typing import Any

import pytest
import torch
from ignite.engine import Engine, Events, create_supervised_trainer
from ignite.handlers import Checkpoint
from torch import nn

from ignite_tips.core.wiring import on_annotation
from ignite_tips.freezing.gradual_unfreezer import GradualUnfreezer
from ignite_tips.freezing.parameter_freezer import ParameterFreezer
from tests.settings import seeded

STAGES = ["3.*", ["1.*", "2.*"], "0.*"]


def make_net() -> nn.Sequential:
    torch.manual_seed(seeded())
    return nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))


def idle_trainer() -> Engine:
    return Engine(lambda engine, batch: None)


def train(epochs: range, state: dict[str, Any] | None = None, every: int = 2) -> dict[str, Any]:
    net = make_net()
    optimizer = torch.optim.AdamW(net.parameters(), lr=0.01)
    trainer = create_supervised_trainer(net, optimizer, nn.functional.mse_loss)
    unfreezer = GradualUnfreezer(net, STAGES, optimizer=optimizer)
    unfreezer.attach(trainer, every=every)
    objects = {"net": net, "optimizer": optimizer, "trainer": trainer, "unfreezer": unfreezer}
    if state is not None:
        Checkpoint.load_objects(objects, state)
    generator = torch.Generator().manual_seed(seeded(1))
    data = [(torch.randn(8, 4, generator=generator), torch.randn(8, 2, generator=generator)) for _ in range(3)]
    trainer.run(data, max_epochs=epochs.stop - 1)
    return {name: thing.state_dict() for name, thing in objects.items()}


@pytest.mark.parametrize("every", [1, 2, 3])
def test_one_stage_more_trains_every_few_epochs(every: int) -> None:
    """In epoch e the first 1 + ⌊(e - 1) / every⌋ stages train, and the metric tells their share."""
    net, trainer, shares, opened = make_net(), idle_trainer(), [], []
    unfreezer = GradualUnfreezer(net, STAGES)
    unfreezer.attach(trainer, every=every)

    @trainer.on(Events.ITERATION_STARTED)
    def look(engine: Engine) -> None:
        opened.append(sum(any(p.requires_grad for p in net[index].parameters()) for index in (3, 1, 0)))
        shares.append(engine.state.metrics["trainable_fraction"])
        assert set(unfreezer.frozen) == {name for name, p in net.named_parameters() if not p.requires_grad}

    trainer.run(range(1), max_epochs=8)
    assert opened == [min(3, 1 + (epoch - 1) // every) for epoch in range(1, 9)]
    assert shares[0] == 10 / 58
    assert shares[-1] == 1.0


@pytest.mark.parametrize("stop", [1, 2, 3, 4, 5])
def test_a_resumed_run_ends_as_if_never_left(stop: int) -> None:
    """Six epochs equal some, saved and loaded in new objects, and the rest, bit for bit."""
    whole = train(range(1, 7))
    resumed = train(range(stop + 1, 7), train(range(1, stop + 1)))
    assert all(torch.equal(whole["net"][name], resumed["net"][name]) for name in whole["net"])


def test_a_resume_with_another_schedule_is_an_error() -> None:
    """The state notices other stages, another pace, and a trainer that starts anew."""
    state = train(range(1, 3))
    with pytest.raises(RuntimeError, match="of a run with every=2, but attached is every=1"):
        train(range(3, 7), state, every=1)
    unfreezer = GradualUnfreezer(make_net(), ["3.*"])
    with pytest.raises(ValueError, match="state must have 1 stages, got 3; build it"):
        unfreezer.load_state_dict(state["unfreezer"])
    with pytest.raises(ValueError, match="must have the keys epoch, every, stages, got none"):
        unfreezer.load_state_dict({})
    trainer = idle_trainer()
    unfreezer = GradualUnfreezer(make_net(), STAGES)
    unfreezer.attach(trainer, every=2)
    unfreezer.load_state_dict(state["unfreezer"])
    with pytest.raises(RuntimeError, match="is of epoch 2, but the trainer starts a new run"):
        trainer.run(range(1))


def test_each_stage_is_announced_once() -> None:
    """Listeners hear of the freeze at the start and of each stage that opens."""
    net, trainer, heard = make_net(), idle_trainer(), []
    GradualUnfreezer(net, STAGES).attach(trainer)
    on_annotation(trainer, lambda engine, notice: heard.append((notice.epoch, notice.kind, notice.text)))
    trainer.run(range(2), max_epochs=5)
    assert heard == [
        (0, "freeze", "1.*, 2.*, 0.*; 17.2% of the parameters train"),
        (2, "unfreeze", "1.*, 2.*; 65.5% of the parameters train"),
        (3, "unfreeze", "0.*; 100.0% of the parameters train"),
    ]


def test_a_resumed_run_announces_what_opens_after_it() -> None:
    """The freeze and the stages of the run that is resumed are not announced again."""
    net, trainer, heard = make_net(), idle_trainer(), []
    GradualUnfreezer(net, STAGES).attach(trainer)
    on_annotation(trainer, lambda engine, notice: heard.append((notice.epoch, notice.kind)))
    trainer.load_state_dict({"iteration": 4, "epoch_length": 2, "max_epochs": 2})
    trainer.run(range(2), max_epochs=5)
    assert heard == [(3, "unfreeze")]


def test_detach_puts_all_back_and_attaching_again_acts_once() -> None:
    """After detach all is as before; a second attach replaces the first."""
    net, trainer, heard = make_net(), idle_trainer(), []
    unfreezer = GradualUnfreezer(net, STAGES)
    unfreezer.attach(trainer, every=1)
    unfreezer.attach(trainer, every=5)
    on_annotation(trainer, lambda engine, notice: heard.append(notice.kind))
    trainer.run(range(1), max_epochs=3)
    assert heard == ["freeze"]
    assert len(unfreezer.frozen) == 6
    unfreezer.detach()
    assert unfreezer.frozen == ()
    assert all(parameter.requires_grad for parameter in net.parameters())
    assert net.train()[2].training
    trainer.run(range(1), max_epochs=4)
    assert heard == ["freeze"]


@pytest.mark.parametrize(
    ("stages", "error", "message"),
    [
        ([], ValueError, "stages must have at least one stage, got none"),
        ("3.*", TypeError, r"stages must be a list of patterns or of lists of patterns, got '3\.\*' \(str\)"),
        (["3.*", "*.bias"], ValueError, "parameter '3.bias' must be in one stage, got it in 0 and 1"),
        (["3.*", "hed.*"], ValueError, r"pattern 'hed\.\*' matches no parameter; names start with: 0.weight"),
        (["3.*", []], ValueError, "stages must have at least one pattern, got none"),
        ([3], TypeError, r"stages must be a string or several, got 3 \(int\)"),
    ],
)
def test_bad_stages_are_errors(stages: Any, error: type[Exception], message: str) -> None:
    """Stages that are none, overlap or match nothing are refused."""
    with pytest.raises(error, match=message):
        GradualUnfreezer(make_net(), stages)


def test_wrong_attachments_are_errors() -> None:
    """A bad pace, parameters of another handler or of no group, and attaching in mid-run are refused."""
    net, trainer = make_net(), idle_trainer()
    unfreezer = GradualUnfreezer(net, STAGES)
    with pytest.raises(ValueError, match="every must be >= 1, got 0"):
        unfreezer.attach(trainer, every=0)
    with pytest.raises(TypeError, match="optimizer must be a torch Optimizer, got 3"):
        GradualUnfreezer(net, STAGES, optimizer=3)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"but has none for: 1.weight, 1.bias, 2.weight, 2.bias, 0.weight, 0.bias"):
        GradualUnfreezer(net, STAGES, optimizer=torch.optim.SGD(net[3].parameters(), lr=0.1))
    freezer = ParameterFreezer(net, "0.weight")
    freezer.attach(trainer)
    with pytest.raises(ValueError, match=r"'0.weight' must be frozen by one handler, but an attached Param"):
        unfreezer.attach(trainer)
    freezer.detach()
    trainer.add_event_handler(Events.EPOCH_STARTED(once=2), lambda: unfreezer.attach(trainer))
    with pytest.raises(RuntimeError, match="must be attached before the run starts"):
        trainer.run(range(1), max_epochs=3)


def test_a_stage_frozen_by_hand_is_warned_about_and_trains_as_the_warning_says() -> None:
    """Unfreezing changes nothing of it; left to the handler after requires_grad_(True), it trains from its stage on."""
    net = make_net()
    net[1].requires_grad_(False)
    net[2].requires_grad_(False)
    unfreezer, trainer = GradualUnfreezer(net, STAGES), idle_trainer()
    unfreezer.attach(trainer)
    with pytest.warns(UserWarning, match=r"found 1\.\*, 2\.\* frozen already, .* call requires_grad_\(True\) on them"):
        trainer.run(range(1), max_epochs=3)
    assert [p.requires_grad for p in net.parameters()] == [True, True, False, False, False, False, True, True]
    net[1].requires_grad_(True)
    net[2].requires_grad_(True)
    fresh = idle_trainer()
    unfreezer.attach(fresh)
    fresh.run(range(1), max_epochs=3)  # no warning, which would be an error
    assert all(p.requires_grad for p in net.parameters())
