"""What one attach put on engines and optimizers comes off again, whole."""

import copy
import gc
import pickle
import weakref
from collections.abc import Callable

import pytest
import torch
from ignite.engine import Engine, Events
from torch import nn

from ignite_tips import GradientNormClipper, LearningRateLogger
from ignite_tips.core.events import OptimizerEvents
from ignite_tips.core.wiring import Annotation, Attachment, annotate, on_annotation


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
def test_a_bound_method_can_be_taken_off(event: object) -> None:
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


def test_ignites_own_handle_takes_off_the_equal_too() -> None:
    """The reason for Attachment: Ignite's handle of one registration removes an equal one with it."""
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
    """Nor pickled: the copy would not be attached, and its detach() would take off the first one's; detached it can."""
    optimizer = torch.optim.SGD([nn.Parameter(torch.ones(1))], lr=0.1)
    for handler in (GradientNormClipper(optimizer, 1.0), LearningRateLogger(optimizer)):
        duplicate(handler)
        handler.attach(_engine())
        message = (
            "must be detached to be copied or pickled, got an attached one; save its state_dict\\(\\), or call its"
        )
        with pytest.raises(TypeError, match=message):
            duplicate(handler)
        handler.detach()
        duplicate(handler)


def test_renewing_replaces() -> None:
    """What a second renew adds stands alone, though it is the same function at the same event."""
    engine, counter, attachment = _engine(), _Counter(), Attachment()
    for _ in range(2):
        with attachment.renew():
            attachment.add_handler(engine, Events.ITERATION_COMPLETED, counter.add)
    engine.run(range(3))
    assert counter.count == 3


def test_a_renewal_that_fails_changes_nothing() -> None:
    """If the block raises, what it added is gone and what was there before is there still."""
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
    """Listeners get kind, text, epoch and iteration, and nothing after they stopped listening."""
    trainer, other = (Engine(lambda engine, batch: None) for _ in range(2))
    heard: list[Annotation] = []
    stop = on_annotation(trainer, lambda engine, notice: heard.append(notice))
    trainer.add_event_handler(Events.ITERATION_COMPLETED(once=3), lambda engine: annotate(engine, "freeze", "body"))
    trainer.run(range(2), max_epochs=2)
    annotate(other, "freeze", "not heard")
    stop()
    annotate(trainer, "freeze", "too late")
    assert heard == [Annotation("freeze", "body", epoch=2, iteration=3, optimizer_step=0)]


def test_listening_keeps_no_engine_alive() -> None:
    """An engine goes although someone listens to it."""
    trainer = Engine(lambda engine, batch: None)
    on_annotation(trainer, lambda engine, notice: None)
    gone = weakref.ref(trainer)
    del trainer
    gc.collect()
    assert gone() is None
