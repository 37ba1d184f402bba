"""Remedies that errors and warnings of freezing name: each is followed and works."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from ignite.engine import Engine, EventEnum, Events
from torch import nn

from ignite_tips import GradualUnfreezer, OptimizerEvents, ParameterFreezer, describe_trainer, param_groups
from tests.remedies import says


class _Own(EventEnum):
    REACHED = "reached"


THIRD = Events.EPOCH_STARTED(once=3)
SECOND = Events.EPOCH_COMPLETED(event_filter=lambda engine, count: count == 2)


class _Job:
    """A trainer of two iterations an epoch, that fires an event of its own at the end of each."""

    def __init__(self) -> None:
        self.model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2), nn.Linear(2, 1))
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.1)
        self.trainer = Engine(lambda engine, batch: self.optimizer.step())
        self.trainer.logger.disabled = True
        self.trainer.register_events(*_Own)
        self.trainer.add_event_handler(Events.EPOCH_COMPLETED, lambda engine: engine.fire_event(_Own.REACHED))
        self.trained: list[bool] = []  # whether the first layer trains, at the end of each iteration
        self.trainer.add_event_handler(Events.ITERATION_COMPLETED, self._look)
        self.saved: dict[str, Any] = {}

    def _look(self) -> None:
        self.trained.append(self.model[0].weight.requires_grad)

    def freezer(self, patterns: str = "0.*") -> ParameterFreezer:
        return ParameterFreezer(self.model, patterns, optimizer=self.optimizer)

    def unfreezer(self, stages: tuple[str, ...] = ("2.*", "0.*"), every: int = 2) -> GradualUnfreezer:
        return GradualUnfreezer(self.model, stages, optimizer=self.optimizer).attach(self.trainer, every)

    def run(self, epochs: int = 4) -> list[bool]:
        if self.trainer.run(range(2), max_epochs=epochs) is None:  # as Ignite does after a run that raised
            self.trainer.run(range(2), max_epochs=epochs)
        return self.trained

    def save(self, handler: Any) -> None:
        self.saved = {"trainer": self.trainer.state_dict(), "handler": copy.deepcopy(handler.state_dict())}


def test_attached_within_a_run() -> None:
    """Attached before the next one, it acts."""
    job = _Job()
    freezer = job.freezer()
    job.trainer.add_event_handler(Events.EPOCH_STARTED(once=2), lambda: freezer.attach(job.trainer))
    with says("attach, then call run()"):
        job.run()
    job = _Job()
    job.freezer().attach(job.trainer)
    assert job.run() == [False] * 8


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated")
def test_a_scripted_model() -> None:
    """Its parameters and buffers are those of the module that was scripted, which is frozen in its stead."""
    job = _Job()
    scripted = torch.jit.script(job.model)

    def update(engine: Engine, batch: int) -> None:
        scripted(torch.randn(4, 2)).square().sum().backward()
        job.optimizer.step()
        job.optimizer.zero_grad()

    trainer = Engine(update)
    with says("give the module that was scripted, whose parameters it shares"):
        ParameterFreezer(scripted, "[01].*").attach(trainer)
    ParameterFreezer(job.model, "[01].*").attach(trainer, unfreeze=Events.EPOCH_STARTED(once=3))
    states: list[list[torch.Tensor]] = [[*copy.deepcopy(scripted.state_dict()).values()]]
    trainer.add_event_handler(
        Events.EPOCH_COMPLETED, lambda: states.append([*copy.deepcopy(scripted.state_dict()).values()])
    )
    trainer.run(range(2), max_epochs=3)
    same = [[torch.equal(one, other) for one, other in zip(states[0], state, strict=True)] for state in states]
    assert same[2] == [True] * 7 + [False] * 2
    assert same[3][:7] == [False, same[3][1], False, False, False, False, False]  # a bias before a norm has no effect


@pytest.mark.parametrize("after", [4, 2])
@pytest.mark.parametrize("attach", [lambda job: job.freezer().attach(job.trainer, unfreeze=THIRD), _Job.unfreezer])
def test_a_part_that_was_frozen_by_hand(attach: Callable[[_Job], Any], after: int) -> None:
    """It trains from the third epoch of the next run on, wherever the one before has ended."""
    job = _Job()
    job.model[0].requires_grad_(False)
    attach(job)
    remedy = "call requires_grad_(True) on "
    with says(f"leave the freezing to this handler, and {remedy}them before the run"):
        job.run()
    with pytest.warns(UserWarning, match="frozen already"):
        job.run(after)
    assert f"{remedy}it before the run" in _findings(job)
    job.model[0].requires_grad_(True)
    job.trainer.state.max_epochs = None
    job.trained.clear()
    assert job.run() == [False] * 4 + [True] * 4
    assert _findings(job) == ""


def _findings(job: _Job, epochs: int = 4) -> str:
    found = describe_trainer(job.trainer, max_epochs=epochs).findings
    return "\n".join(finding.text for finding in found if finding.kind == "never unfrozen")


def test_a_part_that_is_unfrozen_after_the_end() -> None:
    """An earlier event or a longer run lets it train."""
    job = _Job()
    freezer = job.freezer().attach(job.trainer, unfreeze=Events.EPOCH_STARTED(once=6))
    assert "unfreeze it earlier, or train for longer" in _findings(job)
    assert _findings(job, epochs=6) == ""
    assert job.run(6) == [False] * 10 + [True] * 2
    freezer.attach(job.trainer, unfreeze=THIRD)
    job.trainer.state.max_epochs = None
    assert _findings(job) == ""


def test_an_optimizer_that_nothing_needs() -> None:
    """The freezer needs one for an event that unfreezes; or it is left out."""
    job = _Job()
    freezer = job.freezer().attach(job.trainer)
    assert "give attach() unfreeze=..., or leave out optimizer=..." in _findings(job)
    freezer.attach(job.trainer, unfreeze=THIRD)
    assert _findings(job) == ""
    freezer.detach()
    ParameterFreezer(job.model, "0.*").attach(job.trainer)
    assert _findings(job) == ""


def test_parameters_without_a_group() -> None:
    """Groups of all parameters, made up front, have them."""
    job = _Job()
    job.optimizer = torch.optim.SGD(job.model[2].parameters(), lr=0.1)
    with says("make every group up front, as param_groups(model, ...) does"):
        job.unfreezer()
    job.optimizer = torch.optim.SGD(param_groups(job.model, {"2.*": {"lr": 0.2}}, default={}), lr=0.1)
    job.unfreezer()
    assert job.run() == [False] * 4 + [True] * 4


def test_an_event_of_updates_without_an_optimizer() -> None:
    """The freezer has to know whose updates."""
    job = _Job()
    event = OptimizerEvents.STEP_COMPLETED(once=3)
    with says("give ParameterFreezer its optimizer"):
        ParameterFreezer(job.model, "0.*").attach(job.trainer, freeze=event)
    job.freezer().attach(job.trainer, freeze=event)
    assert job.run() == [True, True] + [False] * 6


# States that do not fit, and a resume after two of four epochs.


def _saved(attach: Callable[[_Job], Any]) -> dict[str, Any]:
    job = _Job()
    handler = attach(job)
    job.run(2)
    if not job.saved:
        job.save(handler)
    return job.saved


def _resume(saved: dict[str, Any], attach: Callable[[_Job], Any]) -> list[bool]:
    """Load the states that there are in new objects, and train to the end."""
    job = _Job()
    handler = attach(job)
    for name, loaded in (("trainer", job.trainer), ("handler", handler)):
        if name in saved:
            loaded.load_state_dict(saved[name])
    return job.run()


FREEZE: Callable[[_Job], Any] = lambda job: job.freezer().attach(job.trainer, unfreeze=THIRD)  # noqa: E731
REMEDY = {
    "stages": "build it with the stages of the run that saved it",
    "pace": "attach as in the run that saved it",
    "events": "attach to the events of the run that saved it",
}


@pytest.mark.parametrize(
    ("right", "wrong", "remedy"),
    [
        (_Job.unfreezer, lambda job: job.unfreezer(("2.*",)), REMEDY["stages"]),
        (_Job.unfreezer, lambda job: job.unfreezer(("1.*", "2.*", "0.*")), REMEDY["stages"]),
        (_Job.unfreezer, lambda job: job.unfreezer(every=1), REMEDY["pace"]),
        (FREEZE, lambda job: job.freezer().attach(job.trainer), REMEDY["events"]),
    ],
)
def test_a_state_of_another_handler(right: Callable[[_Job], Any], wrong: Callable[[_Job], Any], remedy: str) -> None:
    """Built and attached as in the run that saved it, the handler goes on."""
    saved = _saved(right)
    with says(remedy):
        _resume(saved, wrong)
    assert _resume(saved, right) == [True] * 4


@pytest.mark.parametrize("attach", [FREEZE, _Job.unfreezer])
def test_a_handlers_state_without_the_trainers(attach: Callable[[_Job], Any]) -> None:
    """Both resume the run; neither begins another."""
    saved = _saved(attach)
    with says("load the states that were saved together, or none for a new run"):
        _resume({"handler": saved["handler"]}, attach)
    assert _resume(saved, attach) == [True] * 4
    assert _resume({}, attach) == [False] * 4 + [True] * 4


@pytest.mark.parametrize(
    ("freeze", "unfreeze"),
    [
        (_Own.REACHED, _Own.REACHED(once=4)),
        (SECOND, Events.EPOCH_COMPLETED(once=3)),
        (Events.ITERATION_STARTED(once=2), OptimizerEvents.STEP_COMPLETED(once=1)),
    ],
    ids=["no count", "a filter", "two axes"],
)
def test_a_resume_of_which_the_counts_do_not_say_enough(freeze: Any, unfreeze: Any) -> None:
    """With the handler's saved state it is the run that was never left."""

    def attach(job: _Job) -> Any:
        return job.freezer().attach(job.trainer, freeze=freeze, unfreeze=unfreeze)

    whole = _Job()
    attach(whole)
    saved = _saved(attach)
    with says("resume with the handler's saved state"):
        _resume({"trainer": saved["trainer"]}, attach)
    assert _resume(saved, attach) == whole.run()[4:]


def _save_first(job: _Job) -> ParameterFreezer:
    freezer = job.freezer()
    job.trainer.add_event_handler(Events.EPOCH_COMPLETED, job.save, freezer)
    return freezer.attach(job.trainer, freeze=SECOND)


def _save_last(job: _Job) -> ParameterFreezer:
    freezer = job.freezer().attach(job.trainer, freeze=SECOND)
    job.trainer.add_event_handler(Events.EPOCH_COMPLETED, job.save, freezer)
    return freezer


def test_a_checkpoint_before_the_freezer() -> None:
    """At the same event it saves a state from before the freeze."""
    with says("and attach the handler before the Checkpoint that saves it"):
        _resume(_saved(_save_first), _save_last)
    assert _resume(_saved(_save_last), _save_last) == [False] * 4
