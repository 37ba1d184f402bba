"""The record of what is attached, and complete removal from engines and optimizers."""

import copy
import gc
import inspect
import pickle
import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch
from ignite.engine import Engine, Events
from torch import nn
from torch.optim import SGD
from torch.optim.lr_scheduler import ReduceLROnPlateau, StepLR

from ignite_tips import GradientNormClipper, LearningRateLogger, PlateauStepper, SchedulerStepper, current_step
from ignite_tips.core.events import OptimizerEvents
from ignite_tips.core.roles import SetsLearningRates
from ignite_tips.core.wiring import Annotation, Attachment, annotate, on_annotation, owner_of, roles_of


class _Counter:
    def __init__(self) -> None:
        self.count = 0

    def add(self, engine: Engine) -> None:
        self.count += 1


def _engine() -> Engine:
    return Engine(lambda engine, batch: None)


EVENTS = [
    Events.ITERATION_COMPLETED,
    Events.ITERATION_COMPLETED(every=2),
    Events.ITERATION_COMPLETED(every=2) | Events.EPOCH_COMPLETED,
]


@pytest.mark.parametrize("event", EVENTS, ids=["plain", "filtered", "list"])
def test_a_bound_method_can_be_removed(event: object) -> None:
    """clear() removes a bound method at any kind of event."""
    engine, counter, attachment = _engine(), _Counter(), Attachment()
    attachment.add_handler(engine, event, counter.add)
    engine.run(range(2))
    assert counter.count > 0
    attachment.clear()
    counter.count = 0
    engine.run(range(2))
    assert counter.count == 0
    assert not attachment


def test_ignites_own_handle_also_removes_an_equal_handler() -> None:
    """The reason for Attachment: Ignite's handle of one registration also removes an equal one."""
    engine, counter, attachment = _engine(), _Counter(), Attachment()
    engine.add_event_handler(Events.ITERATION_COMPLETED, counter.add)
    engine.add_event_handler(Events.ITERATION_COMPLETED, counter.add).remove()
    engine.run(range(2))
    assert counter.count == 0

    engine.add_event_handler(Events.ITERATION_COMPLETED, counter.add)
    attachment.add_handler(engine, Events.ITERATION_COMPLETED, counter.add)
    attachment.clear()
    engine.run(range(2))
    assert counter.count == 2


@pytest.mark.parametrize("duplicate", [copy.deepcopy, pickle.dumps])
def test_an_attached_handler_is_not_copied(duplicate: Callable[[object], object]) -> None:
    """Nor pickled: the copy's detach() would detach the original. A detached handler can be copied."""
    optimizer = torch.optim.SGD([nn.Parameter(torch.ones(1))], lr=0.1)
    for handler in (GradientNormClipper(optimizer, 1.0), LearningRateLogger(optimizer)):
        duplicate(handler)
        handler.attach(_engine())
        message = "must be detached to be copied or pickled, got an attached one; save its state_dict\\(\\), or call"
        with pytest.raises(TypeError, match=message):
            duplicate(handler)
        handler.detach()
        duplicate(handler)


def test_renewing_replaces() -> None:
    """A second renew() replaces the first, even for the same function at the same event."""
    engine, counter, attachment = _engine(), _Counter(), Attachment()
    for _ in range(2):
        with attachment.renew():
            attachment.add_handler(engine, Events.ITERATION_COMPLETED, counter.add)
    engine.run(range(3))
    assert counter.count == 3


def test_a_renewal_that_fails_changes_nothing() -> None:
    """If the block raises, what it added is removed and what was attached before stays."""
    engine, counter, attachment = _engine(), _Counter(), Attachment()
    attachment.add_handler(engine, Events.ITERATION_COMPLETED, counter.add)

    def renew_badly() -> None:
        with attachment.renew():
            attachment.add_handler(engine, Events.ITERATION_STARTED, counter.add)
            raise KeyError("no such thing")

    with pytest.raises(KeyError, match="no such thing"):
        renew_badly()
    engine.run(range(3))
    assert counter.count == 3


def test_renewing_in_the_middle_of_a_run_keeps_the_counts() -> None:
    """Attaching again while the trainer runs neither doubles an event nor resets optimizer_step."""
    weight = nn.Parameter(torch.ones(1))
    optimizer = torch.optim.SGD([weight], lr=0.1)
    trainer = Engine(lambda engine, batch: optimizer.step())
    counter, attachment = _Counter(), Attachment()

    def attach() -> None:
        with attachment.renew():
            attachment.add_step_handler(trainer, optimizer, OptimizerEvents.STEP_COMPLETED, counter.add)

    attach()
    trainer.add_event_handler(Events.ITERATION_COMPLETED(once=2), attach)
    trainer.run(range(4))
    assert trainer.state.optimizer_step == 4
    assert counter.count == 4


def test_an_annotation_carries_the_moment_of_the_run() -> None:
    """Listeners get kind, text, epoch and iteration, and nothing after they stop listening."""
    trainer, other = (Engine(lambda engine, batch: None) for _ in range(2))
    heard: list[Annotation] = []
    stop = on_annotation(trainer, lambda engine, annotation: heard.append(annotation))
    trainer.add_event_handler(Events.ITERATION_COMPLETED(once=3), lambda engine: annotate(engine, "freeze", "body"))
    trainer.run(range(2), max_epochs=2)
    annotate(other, "freeze", "not heard")
    stop()
    annotate(trainer, "freeze", "too late")
    assert heard == [Annotation("freeze", "body", epoch=2, iteration=3, optimizer_step=0)]


def test_listening_keeps_no_engine_alive() -> None:
    """An engine with a listener is still freed."""
    trainer = Engine(lambda engine, batch: None)
    on_annotation(trainer, lambda engine, annotation: None)
    gone = weakref.ref(trainer)
    del trainer
    gc.collect()
    assert gone() is None


def _job(step: Callable[[torch.optim.Optimizer], object] = lambda optimizer: optimizer.step()) -> tuple[Engine, SGD]:
    """Return a trainer and its optimizer, with a user's hook before ours and one after."""
    weight = nn.Parameter(torch.ones(1))
    optimizer = SGD([weight], lr=1.0)

    def update(engine: Engine, batch: float) -> None:
        weight.grad = torch.full((1,), batch)
        step(optimizer)

    return Engine(update), optimizer


@pytest.mark.parametrize("event", [*OptimizerEvents, Events.ITERATION_COMPLETED], ids=lambda event: event.name)
def test_a_handler_detached_within_its_event_stops_acting(event: Events) -> None:
    """Even in the current event, in which Ignite still calls a removed handler; nothing remains attached."""
    trainer, optimizer = _job()
    optimizer.register_step_pre_hook(lambda *_: None)
    optimizer.register_step_post_hook(lambda *_: None)
    counter, attachment, seen = _Counter(), Attachment(), _Counter()
    with attachment.renew():
        attachment.add_step_handler(trainer, optimizer, event, lambda engine: detach())
        attachment.add_step_handler(trainer, optimizer, event, counter.add)

    def detach() -> None:
        if trainer.state.iteration == 2:
            attachment.clear()

    optimizer.register_step_pre_hook(lambda *_: None)
    optimizer.register_step_post_hook(lambda *_: seen.add(trainer))
    trainer.run([1.0] * 4)
    assert (counter.count, seen.count) == (1, 4)
    assert len(optimizer._optimizer_step_pre_hooks) == len(optimizer._optimizer_step_post_hooks) == 2


@pytest.mark.parametrize("event", OptimizerEvents, ids=lambda event: event.name)
def test_a_handler_attached_again_within_an_update_keeps_the_counts(event: OptimizerEvents) -> None:
    """Nothing is lost between detach() and attach(): the current update is counted like all others."""
    trainer, optimizer = _job()
    counter, attachment = _Counter(), Attachment()

    def act(engine: Engine) -> None:
        counter.add(engine)
        attachment.clear()
        if engine.state.iteration < 3:
            attachment.add_step_handler(trainer, optimizer, event, act)

    attachment.add_step_handler(trainer, optimizer, event, act)
    steps = []
    trainer.add_event_handler(
        Events.ITERATION_COMPLETED(before=3), lambda engine: steps.append(engine.state.optimizer_step)
    )
    trainer.run([1.0] * 4)
    assert steps == [1, 2]
    assert counter.count == 3
    assert not optimizer._optimizer_step_pre_hooks


def test_an_update_in_which_everything_is_detached_restores_the_gradients() -> None:
    """A skipped update's gradients are restored, also if step() calls that of a base class."""

    class Nested(SGD):
        def step(self, closure: object = None) -> None:  # type: ignore[override]
            super().step()

    SGD([nn.Parameter(torch.ones(1))], lr=1.0)  # from now on torch runs the hooks in the base class's step() too
    weight = nn.Parameter(torch.ones(1))
    optimizer = Nested([weight], lr=1.0)
    attachment = Attachment()

    def skip(engine: Engine) -> None:
        attachment.clear()
        current_step(engine).skip()

    def update(engine: Engine, batch: float) -> None:
        weight.grad = torch.ones(1)
        optimizer.step()

    trainer = Engine(update)
    attachment.add_step_handler(trainer, optimizer, OptimizerEvents.STEP_STARTED, skip)
    trainer.run([1.0])
    assert torch.equal(weight, torch.ones(1))
    assert weight.grad is not None
    trainer.run([1.0])
    assert torch.equal(weight, torch.zeros(1))


def _attach_much() -> tuple[list[SetsLearningRates], list[weakref.ref[object]]]:
    trainer, optimizer = _job()
    event = OptimizerEvents.STEP_COMPLETED(event_filter=lambda engine, count: engine is trainer)
    stepper = SchedulerStepper(StepLR(optimizer, 2)).attach(trainer, event)
    PlateauStepper(ReduceLROnPlateau(optimizer), lambda engine: trainer.state.epoch).attach(trainer, _engine())
    LearningRateLogger(optimizer).attach(trainer, event=event)
    GradientNormClipper(optimizer, 1.0).attach(trainer)
    return roles_of(SetsLearningRates, trainer), [weakref.ref(trainer), weakref.ref(stepper), weakref.ref(optimizer)]


def test_the_record_of_what_is_attached_keeps_nothing_alive() -> None:
    """Neither an engine that an event's filter refers to, nor handlers and optimizers."""
    roles, references = _attach_much()
    assert [(role.events, role.is_filtered) for role in roles] == [(("STEP_COMPLETED",), True), (("COMPLETED",), False)]
    gc.collect()
    assert [reference() for reference in references] == [None, None, None]
    assert all(role.handler() is None and role.scheduler() is None for role in roles)


def test_a_registered_function_knows_its_handler_weakly() -> None:
    """Within renew(handler), also behind a filter; any other function has none."""
    engine, counter, attachment = _engine(), _Counter(), Attachment()
    owner: Any = _Counter()
    with attachment.renew(owner):
        attachment.add_handler(engine, Events.EPOCH_COMPLETED(every=2), counter.add)
    attachment.add_handler(engine, Events.EPOCH_COMPLETED, counter.add)
    functions = [inspect.unwrap(entry[0]) for entry in engine._event_handlers[Events.EPOCH_COMPLETED]]
    assert [owner_of(function) for function in functions] == [owner, None]
    assert owner_of(counter.add) is None
    del owner
    assert owner_of(functions[0]) is None
