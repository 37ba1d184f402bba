"""Ignite's private attributes that the package needs."""

import contextlib
import functools
import inspect
from typing import Any

import pytest
from ignite.engine import CallableEventWithFilter, Engine, Events, EventsList, State, create_supervised_trainer
from ignite.handlers import TensorboardLogger
from ignite.handlers.base_logger import BaseLogger
from torch import nn
from torch.amp.grad_scaler import GradScaler
from torch.optim import SGD

from ignite_tips.core.ignite_internals import (
    accumulation_steps,
    count_passing,
    counts_of_once,
    depends_on_count_alone,
    event_handlers,
    is_running,
    max_iters,
    remove_handler,
)

ENGINE = Engine(lambda engine, batch: None)


@pytest.mark.parametrize(
    ("owner", "name"),
    [
        (ENGINE, "_event_handlers"),
        (ENGINE, "_fire_event"),
        (ENGINE, "_internal_run_generator"),
        (ENGINE, "_internal_run_legacy"),
        (ENGINE, "_process_function"),
        (BaseLogger, "_create_output_handler"),
        (TensorboardLogger, "_create_output_handler"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_ignite_has_the_attribute(owner: object, name: str) -> None:
    """Each private attribute that core/ignite_internals.py reads exists."""
    of = owner.__name__ if isinstance(owner, type) else type(owner).__name__
    assert hasattr(owner, name), f"Ignite's {of} has no {name} any more; core/ignite_internals.py needs another way"


def test_handlers_are_listed_by_event_with_the_function_first() -> None:
    """In the order of attachment; removing a handler binds a new list."""
    engine = Engine(lambda engine, batch: None)

    def first() -> None: ...

    def second() -> None: ...

    handles = [engine.add_event_handler(Events.STARTED, function) for function in (first, second)]
    before = event_handlers(engine)[Events.STARTED]
    assert [entry[0] for entry in before] == [first, second]
    handles[0].remove()
    assert [entry[0] for entry in event_handlers(engine)[Events.STARTED]] == [second]
    assert len(before) == 2


LAST_EVENTS: dict[str, list[str]] = {
    "completed": ["COMPLETED"],
    "terminated": ["TERMINATE", "COMPLETED"],
    "terminated without COMPLETED": ["TERMINATE"],
    "raised": [],
    "raised and handled": ["COMPLETED"],
    "interrupted": [],
}


@pytest.mark.parametrize(
    ("end", "with_generator"),
    [(end, True) for end in LAST_EVENTS] + [(end, False) for end in LAST_EVENTS if end != "interrupted"],
)
def test_a_run_is_under_way_until_its_last_events(
    end: str, with_generator: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However it ends, and whatever a handler of its last events fires, as Checkpoint does."""
    monkeypatch.setattr(Engine, "interrupt_resume_enabled", with_generator)
    seen: list[tuple[str, bool]] = []

    def update(engine: Engine, batch: int) -> None:
        seen.append(("update", is_running(engine)))
        if end.startswith("terminated"):
            engine.terminate(skip_completed="without" in end)
        elif end == "interrupted":
            engine.interrupt()
        elif end.startswith("raised"):
            raise KeyError

    engine = Engine(update)
    engine.register_events("saved")
    engine.logger.disabled = True
    for event in (Events.STARTED, Events.EPOCH_STARTED, Events.EPOCH_COMPLETED, Events.TERMINATE, Events.COMPLETED):
        engine.add_event_handler(event, lambda: engine.fire_event("saved"))
        engine.add_event_handler(event, lambda engine, name=event.name: seen.append((name, is_running(engine))))
    if end.endswith("handled"):
        engine.add_event_handler(Events.EXCEPTION_RAISED, lambda error: None)
    assert not is_running(engine)
    with pytest.raises(KeyError) if end == "raised" else contextlib.nullcontext():
        engine.run([0])
    assert not is_running(engine)
    last = [(name, False) for name in LAST_EVENTS[end]]
    before = [(name, True) for name in ("STARTED", "EPOCH_STARTED", "update", "EPOCH_COMPLETED")]
    assert seen == before[: 4 if end in ("completed", "raised and handled") else 3] + last


def test_a_run_within_another_is_under_way_alone() -> None:
    """A run that a handler of COMPLETED starts is another engine's: the first is about to end."""
    first, second = Engine(lambda engine, batch: None), Engine(lambda engine, batch: None)
    seen: list[tuple[bool, bool]] = []
    second.add_event_handler(Events.STARTED, lambda: seen.append((is_running(first), is_running(second))))
    for event in (Events.EPOCH_COMPLETED, Events.COMPLETED):
        first.add_event_handler(event, lambda: second.run([0]))
    first.run([0])
    assert seen == [(True, True), (False, True)]


@pytest.mark.parametrize("event", [Events.STARTED, Events.EPOCH_COMPLETED(every=2), Events.STARTED | Events.COMPLETED])
@pytest.mark.parametrize("wraps", [0, 1, 2])
def test_a_handler_is_removed_whatever_has_wrapped_it(event: Any, wraps: int) -> None:
    """But no other one."""
    engine = Engine(lambda engine, batch: None)

    def own(engine: Engine) -> None: ...

    def other(engine: Engine) -> None: ...

    engine.add_event_handler(event, own)
    engine.add_event_handler(event, other)
    for entries in event_handlers(engine).values():
        for index, (function, *rest) in enumerate(entries):
            for _ in range(wraps):
                function = functools.wraps(function)(lambda *args, function=function: function(*args))
            entries[index] = (function, *rest)
    remove_handler(engine, event, own)
    left = [inspect.unwrap(entry[0]) for entries in event_handlers(engine).values() for entry in entries]
    assert left == [other] * (2 if isinstance(event, EventsList) else 1)


@functools.wraps(Events.EPOCH_STARTED(once=3).filter)
def _both(engine: Engine, count: int) -> bool:
    """A user's filter around one of Ignite's, whose ``__module__`` and name it has."""
    return count > 1 and engine.state.output is not None


def _any_count(least: int, engine: Engine, count: int) -> bool:
    return count > least


class _Filter:
    __module__ = "ignite.engine.events"

    def __call__(self, engine: Engine, count: int) -> bool:
        return count > 1


@pytest.mark.parametrize(
    ("event", "is_pure", "counts"),
    [
        (Events.EPOCH_STARTED, True, []),
        (Events.EPOCH_STARTED(every=2), True, []),
        (Events.EPOCH_STARTED(before=3), True, []),
        (Events.EPOCH_STARTED(once=3), True, [3]),
        (Events.EPOCH_STARTED(once=[3, 5]), True, [3, 5]),
        (Events.EPOCH_STARTED(every=2, before=9, after=3), True, []),
        (Events.EPOCH_STARTED(event_filter=lambda engine, count: True), False, []),
        (Events.EPOCH_STARTED(event_filter=_both), False, []),
        (Events.EPOCH_STARTED(event_filter=functools.partial(_any_count, 3)), False, []),
        (Events.EPOCH_STARTED(event_filter=_Filter()), False, []),
    ],
    ids=["bare", "every", "before", "once", "once several", "all", "a user's", "wrapped", "partial", "object"],
)
def test_ignites_own_filters_are_known(event: CallableEventWithFilter, is_pure: bool, counts: list[int]) -> None:
    """They depend on the count alone; for ``once`` the counts are known too."""
    assert depends_on_count_alone(event) == is_pure
    assert counts_of_once(event) == counts


def test_the_length_of_a_run_in_iterations() -> None:
    """None if the run was given in epochs, also in a version of Ignite that knows no other."""
    assert max_iters(State(max_iters=5)) == 5
    state = State(max_epochs=2)
    vars(state).pop("max_iters", None)
    assert max_iters(state) is None


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, 1),
        ({"gradient_accumulation_steps": 3}, 3),
        ({"amp_mode": "amp", "gradient_accumulation_steps": 3}, 3),
        ({"amp_mode": "amp", "scaler": GradScaler("cpu"), "gradient_accumulation_steps": 3}, None),
    ],
    ids=["plain", "accumulation", "amp", "scaler"],
)
def test_the_accumulation_of_ignites_own_trainer(options: dict[str, Any], expected: int | None) -> None:
    """It is known of the optimizer that the update function steps, unless GradScaler may skip updates."""
    model = nn.Linear(1, 1)
    optimizer, other = SGD(model.parameters(), lr=0.1), SGD(model.parameters(), lr=0.1)
    trainer = create_supervised_trainer(model, optimizer, nn.MSELoss(), **options)
    assert accumulation_steps(trainer, optimizer) == expected
    assert accumulation_steps(trainer, other) is None


def _update(engine: Engine, batch: Any) -> None: ...


@pytest.mark.parametrize("update", [_update, functools.partial(_update)], ids=["function", "partial"])
def test_the_accumulation_of_a_users_update_function_is_not_known(update: Any) -> None:
    """It may make any number of updates."""
    assert accumulation_steps(Engine(update), SGD(nn.Linear(1, 1).parameters(), lr=0.1)) is None


def test_how_often_an_event_passes_its_filter() -> None:
    """Counted for Ignite's own filters, unless that takes long; a user's filter is not called."""
    event = Events.ITERATION_COMPLETED
    assert count_passing(event, range(3, 8)) == 5
    assert count_passing(event(every=4), range(3, 13)) == 3
    assert count_passing(event(once=[2, 5]), range(3, 13)) == 1
    assert count_passing(event(after=8), range(3, 13)) == 4
    assert count_passing(event(event_filter=_both), range(3, 13)) is None
    assert count_passing(event(every=4), range(10**9)) is None
