"""Who schedules an optimizer, so that one scheduler does not undo another's steps in silence."""

import weakref
from collections.abc import Callable
from dataclasses import dataclass

from torch.optim import Optimizer
from torch.optim.lr_scheduler import (
    CosineAnnealingWarmRestarts,
    CyclicLR,
    LambdaLR,
    LRScheduler,
    OneCycleLR,
    ReduceLROnPlateau,
)

__all__ = ["claim_optimizer"]

# These compute each rate from the initial one, whatever the rate is now; all others go on from the rate that there is.
_CLOSED_FORM = (CosineAnnealingWarmRestarts, CyclicLR, LambdaLR, OneCycleLR)


@dataclass(frozen=True, eq=False)
class _Claim:
    """Weakly all of it: a scheduler holds its optimizer, and a trainer that is gone is in nobody's way."""

    scheduler: weakref.ref[LRScheduler]
    owner: weakref.ref[object]
    trainer: weakref.ref[object]
    about: object


_claims: weakref.WeakKeyDictionary[Optimizer, list[_Claim]] = weakref.WeakKeyDictionary()


def claim_optimizer(scheduler: LRScheduler, owner: object, trainer: object, about: object = None) -> Callable[[], None]:
    """Note that ``owner`` will step ``scheduler`` while ``trainer`` runs; the function returned ends that.

    Args:
        scheduler: the one that is stepped.
        owner: the handler that steps it.
        trainer: the engine that it is attached to.
        about: what tells apart two schedulers of one class and optimizer that are both meant, such as their metrics.

    Raises:
        ValueError: if another handler steps the same scheduler in the same run, or another one of its class, optimizer
            and ``about``, or one of its optimizer's of which one undoes the other.
    """
    claims = _claims.setdefault(scheduler.optimizer, [])
    # A second trainer may go on with the optimizer where a first one ended.
    for other, its_about in _schedulers_of_others(claims, owner, trainer):
        if other is scheduler:
            raise ValueError(
                f"scheduler must be stepped by one handler, but another one attached to the trainer steps this "
                f"{type(scheduler).__name__} already; step it at several events by attach(trainer, one | other)"
            )
        if type(other) is type(scheduler) and its_about == about:  # of a notebook's cell that was run again
            raise ValueError(
                f"the schedulers of one optimizer must be of different kinds, but another {type(owner).__name__} "
                f"attached to the trainer has a {type(scheduler).__name__} already; detach that handler first, or "
                "build the trainer anew"
            )
        _check_pair(scheduler, other)
    claim = _Claim(weakref.ref(scheduler), weakref.ref(owner), weakref.ref(trainer), about)
    claims.append(claim)
    return lambda: claims.remove(claim)


def _schedulers_of_others(claims: list[_Claim], owner: object, trainer: object) -> list[tuple[LRScheduler, object]]:
    others = [claim for claim in claims if claim.trainer() is trainer and claim.owner() is not owner]
    return [(scheduler, claim.about) for claim in others if (scheduler := claim.scheduler()) is not None]


def _check_pair(one: LRScheduler, other: LRScheduler) -> None:
    forgetful, kept = _find_closed_form(one), other
    if forgetful is None:
        forgetful, kept = _find_closed_form(other), one
    if forgetful is not None:
        undone = "reductions" if isinstance(kept, ReduceLROnPlateau) else "steps"
        raise ValueError(
            f"the schedulers of one optimizer must leave each other's rates, got {type(kept).__name__} and "
            f"{forgetful}, which undoes the {undone} in its next step; use one that goes on from the current rate "
            "(LinearLR, ExponentialLR, StepLR, CosineAnnealingLR), or end it by a filter on its event"
        )


def _find_closed_form(scheduler: LRScheduler) -> str | None:
    if isinstance(scheduler, _CLOSED_FORM):
        return type(scheduler).__name__
    parts = (_find_closed_form(part) for part in getattr(scheduler, "_schedulers", ()))
    return next((part for part in parts if part is not None), None)
