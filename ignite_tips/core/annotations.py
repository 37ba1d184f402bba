"""What handlers did to a run, told to whoever logs it: a jump in a curve can then be explained.

Kinds in use: ``"freeze"``, ``"unfreeze"``, ``"plateau"``, ``"skipped_step"``.
"""

import weakref
from collections.abc import Callable
from dataclasses import dataclass

from ignite.engine import Engine

__all__ = ["Annotation", "annotate", "on_annotation"]


@dataclass(frozen=True)
class Annotation:
    """One thing that a handler did: its kind, a sentence about it, and when in the trainer's run."""

    kind: str
    text: str
    epoch: int
    iteration: int
    optimizer_step: int


_Listener = Callable[[Engine, Annotation], None]
_listeners: weakref.WeakKeyDictionary[Engine, list[_Listener]] = weakref.WeakKeyDictionary()


def annotate(engine: Engine, kind: str, text: str) -> None:
    """Tell the listeners of ``engine`` what was done to its run."""
    state = engine.state
    step = getattr(state, "optimizer_step", 0)
    for listener in tuple(_listeners.get(engine, ())):
        listener(engine, Annotation(kind, text, state.epoch, state.iteration, step))


def on_annotation(engine: Engine, listener: _Listener) -> Callable[[], None]:
    """Call ``listener(engine, annotation)`` for all that is announced; the function returned ends it."""
    listeners = _listeners.setdefault(engine, [])
    listeners.append(listener)
    return lambda: listeners.remove(listener)
