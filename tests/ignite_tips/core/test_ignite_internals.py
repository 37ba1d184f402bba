"""Ignite's private attributes that the package needs."""

import functools

import pytest
from ignite.engine import CallableEventWithFilter, Engine, Events
from ignite.handlers import TensorboardLogger
from ignite.handlers.base_logger import BaseLogger

from ignite_tips.core.ignite_internals import counts_of_once, depends_on_count_alone, event_handlers, run_generator

ENGINE = Engine(lambda engine, batch: None)


@pytest.mark.parametrize(
    ("owner", "name"),
    [
        (ENGINE, "_event_handlers"),
        (ENGINE, "_fire_event"),
        (ENGINE, "_internal_run_generator"),
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


def test_a_run_that_raised_leaves_a_generator_without_a_frame() -> None:
    """A running one has a frame; before the first run there is no generator."""
    seen = []

    def update(engine: Engine, batch: int) -> None:
        seen.append(run_generator(engine).gi_frame is not None)
        raise KeyError

    engine = Engine(update)
    engine.logger.disabled = True
    assert run_generator(engine) is None
    with pytest.raises(KeyError):
        engine.run([0])
    assert seen == [True]
    assert run_generator(engine).gi_frame is None


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
