"""Remedies that errors of freezing handlers name: each is followed and works."""

import copy
import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from ignite.engine import Engine, EventEnum, Events
from torch import nn

from ignite_tips import GradualUnfreezer, OptimizerEvents, ParameterFreezer, freeze_parameters, param_groups


class _OwnEvents(EventEnum):
    SAVED = "saved"


class _Scene:
    """A trainer of 2 iterations an epoch on three layers, and an optimizer of all."""

    def __init__(self) -> None:
        self.model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2), nn.Linear(2, 1))
        self.optimizer = torch.optim.SGD(param_groups(self.model, {"0.*": {}}, default={}), lr=0.1)
        self.trainer = Engine(self._update)
        self.trainer.logger.disabled = True

    def _update(self, engine: Engine, batch: Any) -> None:
        self.optimizer.zero_grad()
        self.model(torch.ones(3, 2)).sum().backward()
        self.optimizer.step()

    def run(self, epochs: int) -> list[bool]:
        """Train, and return whether the weights of the first two layers train then."""
        self.trainer.run([0, 1], max_epochs=epochs)
        return [bool(layer.weight.requires_grad) for layer in self.model[:2]]

    def resumed_from(self, other: "_Scene") -> None:
        self.trainer.load_state_dict(copy.deepcopy(other.trainer.state_dict()))


def _freezer(scene: _Scene, pattern: str = "0.*", **options: Any) -> ParameterFreezer:
    return ParameterFreezer(scene.model, pattern, **options)


def _overlap(follow: str) -> None:
    scene = _Scene()
    first = _freezer(scene).attach(scene.trainer)
    if follow == "detach":
        first.detach()
    _freezer(scene, "1.*" if follow == "patterns" else "0.*").attach(scene.trainer)
    assert scene.run(1) == [False, follow != "patterns"]


def _within_a_run(follow: str) -> None:
    scene = _Scene()
    freezer = _freezer(scene)
    if follow:
        freezer.attach(scene.trainer)
    else:
        scene.trainer.add_event_handler(Events.EPOCH_STARTED, lambda: freezer.attach(scene.trainer))
    assert scene.run(1) == [False, True]


def _no_group(follow: str) -> None:
    scene = _Scene()
    groups: Any = param_groups(scene.model, {"0.*": {}}, default={}) if follow else scene.model[1].parameters()
    optimizer = torch.optim.SGD(groups, lr=0.1)
    scene.optimizer = optimizer
    _freezer(scene, optimizer=optimizer).attach(scene.trainer, unfreeze=Events.EPOCH_STARTED(once=2))
    assert scene.run(2) == [True, True]


def _no_optimizer(follow: str) -> None:
    scene = _Scene()
    options = {"optimizer": scene.optimizer} if follow else {}
    _freezer(scene, **options).attach(scene.trainer, unfreeze=OptimizerEvents.STEP_COMPLETED(once=3))
    assert scene.run(2) == [True, True]


def _scripted(follow: str) -> None:
    scene = _Scene()
    if follow:
        freeze_parameters(scene.model, "0.*")
    model: Any = torch.jit.script(scene.model)
    if not follow:
        ParameterFreezer(model, "0.*").attach(scene.trainer)
        scene.run(1)
    assert [parameter.requires_grad for parameter in model.parameters()] == [False] * 2 + [True] * 4


def _unfreezer(scene: _Scene, stages: Any = ("1.*", "0.*"), every: int = 1) -> GradualUnfreezer:
    return GradualUnfreezer(scene.model, list(stages)).attach(scene.trainer, every)


def _other_stages(follow: str) -> None:
    saved, loaded = _Scene(), _Scene()
    state = _unfreezer(saved).state_dict()
    _unfreezer(loaded, ("1.*", "0.*") if follow else ("0.*", "1.*")).load_state_dict(state)
    assert loaded.run(2) == [True, True]


def _other_every(follow: str) -> None:
    saved, loaded = _Scene(), _Scene()
    unfreezer = _unfreezer(saved, every=2)
    saved.run(2)
    loaded.resumed_from(saved)
    _unfreezer(loaded, every=2 if follow else 1).load_state_dict(unfreezer.state_dict())
    assert loaded.run(3) == [True, True]


def _state_without_trainer(follow: str, attach: Callable[[_Scene], Any]) -> None:
    saved, loaded = _Scene(), _Scene()
    handler = attach(saved)
    saved.run(2)
    if follow == "together":
        loaded.resumed_from(saved)
    again = attach(loaded)
    if follow != "none":
        again.load_state_dict(handler.state_dict())
    assert loaded.run(3) == [True, True]


def _unfreezer_state(follow: str) -> None:
    _state_without_trainer(follow, _unfreezer)


def _attach_freezer(scene: _Scene) -> ParameterFreezer:
    return _freezer(scene).attach(scene.trainer, unfreeze=Events.EPOCH_STARTED(once=2))


def _freezer_state(follow: str) -> None:
    _state_without_trainer(follow, _attach_freezer)


def _other_events(follow: str) -> None:
    saved, loaded = _Scene(), _Scene()
    freezer = _attach_freezer(saved)
    saved.run(1)
    loaded.resumed_from(saved)
    event = Events.EPOCH_STARTED(once=2) if follow else Events.ITERATION_STARTED(once=3)
    again = _freezer(loaded).attach(loaded.trainer, unfreeze=event)
    again.load_state_dict(freezer.state_dict())
    assert loaded.run(2) == [True, True]


def _resumed(follow: str, event: Callable[[], Any], **options: Any) -> None:
    saved, loaded = _Scene(), _Scene()
    freezers = []
    for scene in (saved, loaded):
        scene.trainer.register_events(*_OwnEvents)
        scene.trainer.add_event_handler(
            Events.ITERATION_COMPLETED(once=2), lambda engine: engine.fire_event(_OwnEvents.SAVED)
        )
        own = dict.fromkeys(options, scene.optimizer)
        freezers.append(_freezer(scene, **own).attach(scene.trainer, unfreeze=event()))
    saved.run(2)
    loaded.resumed_from(saved)
    if follow:
        freezers[1].load_state_dict(freezers[0].state_dict())
    assert loaded.run(3) == [True, True]


def _own_filter(follow: str) -> None:
    _resumed(follow, lambda: Events.EPOCH_STARTED(event_filter=lambda engine, count: count == 2))


def _own_event(follow: str) -> None:
    _resumed(follow, lambda: _OwnEvents.SAVED)


REMEDIES: dict[str, tuple[Callable[[str], None], str, str]] = {
    "overlap: patterns": (_overlap, "patterns", "use patterns that do not overlap"),
    "overlap: detach": (_overlap, "detach", "or detach that handler"),
    "within a run": (_within_a_run, "before", "attach, then call run()"),
    "no group": (_no_group, "groups", "make every group up front, as param_groups(model, ...) does"),
    "no optimizer": (_no_optimizer, "give", "give ParameterFreezer its optimizer"),
    "scripted": (_scripted, "before", "freeze before scripting"),
    "other stages": (_other_stages, "same", "build it with the stages of the run that saved it"),
    "other every": (_other_every, "same", "attach as in the run that saved it"),
    "unfreezer: together": (_unfreezer_state, "together", "load the states that were saved together"),
    "unfreezer: none": (_unfreezer_state, "none", "or none for a new run"),
    "freezer: together": (_freezer_state, "together", "load the states that were saved together"),
    "freezer: none": (_freezer_state, "none", "or none for a new run"),
    "other events": (_other_events, "same", "attach to the events of the run that saved it"),
    "a user's filter": (_own_filter, "state", "resume with the handler's saved state"),
    "a user's event": (_own_event, "state", "resume with the handler's saved state"),
}


@pytest.mark.parametrize("case", REMEDIES)
def test_the_remedy_works(case: str) -> None:
    """The scenario fails with the remedy, and succeeds without a warning once the remedy is followed."""
    scenario, how, remedy = REMEDIES[case]
    with pytest.raises((TypeError, ValueError, RuntimeError, UserWarning), match=re.escape(remedy)):
        scenario("")
    scenario(how)
