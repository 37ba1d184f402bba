"""Which clippers one trainer has: what of two of them is likely a mistake is told, not refused, for it may be meant."""

import warnings
import weakref
from collections.abc import Callable
from dataclasses import dataclass

from torch.optim import Optimizer

__all__ = ["note_clipper", "warn_of_conflict"]


@dataclass(frozen=True, eq=False)
class _Note:
    """Weakly all of it: a clipper or an optimizer that is gone is in nobody's way."""

    clipper: weakref.ref[object]
    optimizer: weakref.ref[Optimizer]
    metric: str
    threshold: str


_notes: weakref.WeakKeyDictionary[object, list[_Note]] = weakref.WeakKeyDictionary()


def note_clipper(
    clipper: object, optimizer: Optimizer, trainer: object, *, metric: str, threshold: str
) -> Callable[[], None]:
    """Note what ``clipper`` clips while ``trainer`` runs, to which threshold; the function returned ends that."""
    notes = _notes.setdefault(trainer, [])
    note = _Note(weakref.ref(clipper), weakref.ref(optimizer), metric, threshold)
    notes.append(note)
    return lambda: notes.remove(note)


def warn_of_conflict(clipper: object, trainer: object) -> None:
    """Warn of what ``clipper`` does to one that was attached before it, unless tags of their own say that it is meant.

    Clippers of several classes may well act on one optimizer.
    """
    notes = _notes[trainer]
    own = next(note for note in notes if note.clipper() is clipper)
    for other in notes[: notes.index(own)]:
        conflict = _describe_conflict(own, other) if own.metric == other.metric else None
        if conflict is not None:
            warnings.warn(conflict, stacklevel=3)
            return


def _describe_conflict(own: _Note, other: _Note) -> str | None:
    name, first = (type(note.clipper()).__name__ for note in (own, other))
    kind = type(own.optimizer()).__name__
    if other.optimizer() is not own.optimizer():
        return (
            f"{name} of one {kind} writes the metric {own.metric!r} as another optimizer's {first}; give each a tag=..."
        )
    if type(other.clipper()) is not type(own.clipper()):
        return None
    bounds = f"with {other.threshold} and then with {own.threshold}, " if own.threshold else ""
    return (
        f"{name} clips the trainer's {kind} twice, {bounds}so that the smaller threshold wins; keep the handler that "
        "is to go and call its detach(), build the trainer anew, or give each a tag=... if both are meant"
    )
