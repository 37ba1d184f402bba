"""What handlers tell a report about a run."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from ignite.engine import State

__all__ = ["Finding", "HandlerReport", "counted", "first_few", "is_over", "iterations_in"]

_NAMED = 5  # things that a sentence names


@dataclass(frozen=True)
class Finding:
    """Something about a trainer that is very probably a mistake.

    Attributes:
        kind: what it is about, in one or two words: ``"schedule length"``.
        text: one sentence, with the remedy after a semicolon.
    """

    kind: str
    text: str


@dataclass(frozen=True)
class HandlerReport:
    """What a handler knows about a run.

    Attributes:
        facts: numbers and words by name, such as how often a clipper clipped.
        lrs: of a handler that sets learning rates, those of each param group at the start, in the middle and at the end
            of the run; None for one that is not known.
        findings: what is very probably wrong.
    """

    facts: dict[str, Any] = field(default_factory=dict)
    lrs: list[list[float | None]] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)


def counted(number: int, noun: str) -> str:
    """Return a number of things in words: "1 update", "2 updates"."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def first_few(names: Sequence[str]) -> str:
    """Return the first names, and how many more there are.

    Example:
        >>> first_few(list("abcdefg"))
        'a, b, c, d, e and 2 more'
    """
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + more


def iterations_in(plan: State) -> int | None:
    """Return how many iterations a whole run has, if its lengths are known."""
    if plan.max_iters is not None or plan.max_epochs is None or plan.epoch_length is None:
        return plan.max_iters
    return plan.max_epochs * plan.epoch_length


def is_over(plan: State) -> bool:
    """Whether a run of these lengths has come to its end. The next one may be longer."""
    iterations = iterations_in(plan)
    return iterations is not None and plan.iteration >= iterations
