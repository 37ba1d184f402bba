"""What handlers annotate reaches who listens, of the same engine, until he stops."""

import gc
import weakref

from ignite.engine import Engine, Events

from ignite_tips.core.annotations import Annotation, annotate, on_annotation


def test_a_notice_carries_the_moment_of_the_run() -> None:
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
