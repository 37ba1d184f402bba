"""When a run is killed, and which of its processes."""

import random
from dataclasses import dataclass

__all__ = ["KINDS", "TARGETS", "Kill", "draw"]

TARGETS = ("worker 0", "worker 1", "launcher", "all")
# How often each kind of moment is drawn. "trimming": while a resumed run removes from the event files what was written
# after its checkpoint; "ending": after the last checkpoint; "any time": over the whole length of a run.
KINDS = {"starting": 12, "any time": 20, "checkpoint": 28, "events": 24, "trimming": 10, "ending": 6}


@dataclass(frozen=True)
class Kill:
    """One kill.

    Attributes:
        kind: one of KINDS.
        target: one of TARGETS.
        stop: the operation on the run's files within which pause.c stops it for the kill; or None.
        seconds: how long after the run's start, or after that operation, it is killed.
    """

    kind: str
    target: str
    stop: str | None
    seconds: float

    def __str__(self) -> str:
        when = f"{self.seconds:.3f} s after " + (f"'{self.stop}'" if self.stop else "its start")
        return f"{self.target}, {self.kind}: {when}"


def draw(source: random.Random, *, epochs_left: int, per_epoch: dict[str, int], may_trim: bool, seconds: float) -> Kill:
    """Draw a kill for a run that has ``epochs_left`` and takes ``seconds`` to start.

    ``per_epoch`` has the number of operations per epoch on each kind of file.
    """
    kinds = {kind: weight for kind, weight in KINDS.items() if may_trim or kind != "trimming"}
    kind = source.choices(list(kinds), list(kinds.values()))[0]
    target = source.choice(TARGETS)
    if kind == "starting":
        return Kill(kind, target, None, source.uniform(0, seconds))
    if kind == "any time":
        return Kill(kind, target, None, source.uniform(0, 1.5 * seconds))
    if kind == "ending":
        return Kill(kind, target, f"checkpoint rename {epochs_left} 1", source.uniform(0, 0.7))
    operations = 3 if kind == "trimming" else per_epoch[kind] * min(3, epochs_left)
    share = source.choice([0.0, source.random(), source.random(), 1.0])
    return Kill(kind, target, f"{kind} any {source.randint(1, operations)} {share:.3f}", 0.0)
