"""Triggers: which events count, and that every rank decides alike."""

from typing import Any

import pytest
from ignite.engine import CallableEventWithFilter, Engine, EventEnum, Events

from ignite_tips.core.wiring import Attachment
from ignite_tips.freezing.resumable_event import make_resumable_events
from tests.support import run_distributed


class OwnEvents(EventEnum):
    """An event of the user's, which Ignite does not count."""

    SOMETHING = "something"


def act(event: Any, epochs: int = 3) -> list[tuple[int, int]]:
    """Return the epochs and iterations at which a trigger acts in a run of two iterations an epoch."""
    acted: list[tuple[int, int]] = []
    trainer = Engine(lambda engine, batch: None)
    attachment = Attachment()
    for trigger in make_resumable_events(
        "when", event, trainer, None, lambda e: acted.append((e.state.epoch, e.state.iteration))
    ):
        trigger.attach(attachment, trainer)
    trainer.run(range(2), max_epochs=epochs)
    return acted


@pytest.mark.parametrize(
    ("event", "expected"),
    [
        (Events.STARTED, [(0, 0)]),
        (Events.EPOCH_STARTED(once=2), [(2, 2)]),
        (Events.EPOCH_COMPLETED(every=2), [(2, 4)]),
        (Events.ITERATION_STARTED(after=4), [(3, 5), (3, 6)]),
        (Events.ITERATION_COMPLETED(event_filter=lambda _, k: k in (1, 6)), [(1, 1), (3, 6)]),
        (Events.EPOCH_STARTED(once=3) | Events.ITERATION_COMPLETED(once=[1, 2]), [(1, 1), (1, 2), (3, 4)]),
        (Events.COMPLETED, [(3, 6)]),
    ],
)
def test_a_trigger_acts_when_the_event_does(event: Any, expected: list[tuple[int, int]]) -> None:
    """Filters and lists of events mean what they mean in Ignite."""
    assert act(event) == expected


def test_an_event_of_the_users_counts_its_own_firings() -> None:
    """An event without a count in the engine's state acts each time."""
    acted: list[int] = []
    trainer = Engine(lambda engine, batch: engine.fire_event(OwnEvents.SOMETHING))
    trainer.register_events(*OwnEvents)
    (trigger,) = make_resumable_events(
        "when", OwnEvents.SOMETHING, trainer, None, lambda e: acted.append(e.state.iteration)
    )
    trigger.attach(Attachment(), trainer)
    trainer.run(range(3))
    assert acted == [1, 2, 3]
    assert trigger.seen == 3


def _decide(rank: int, world_size: int) -> list[str]:
    own: CallableEventWithFilter = Events.EPOCH_STARTED(event_filter=lambda _, k: k == 2 and rank == 0)
    shared: CallableEventWithFilter = Events.EPOCH_STARTED(event_filter=lambda engine, k: engine.state.iteration == 2)
    answers = []
    for event in (own, shared):
        try:
            answers.append(str(act(event)))
        except RuntimeError as error:
            answers.append(str(error))
    return answers


@pytest.mark.distributed
def test_a_filter_that_differs_between_ranks_is_an_error_on_all() -> None:
    """Where ranks would part, each is told at once instead of waiting for the other. The remedy works on all."""
    for answers, words in zip(run_distributed(_decide, 2), ("True here and False", "False here and True"), strict=True):
        assert f"its filter says {words} on another rank, at count 2; let it depend on what all ranks " in answers[0]
        assert answers[1] == "[(2, 2)]"
