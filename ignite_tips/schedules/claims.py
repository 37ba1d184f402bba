"""Who schedules an optimizer, so that a plateau's reductions are not undone by another scheduler in silence."""

import weakref
from collections.abc import Callable

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
_FORGETFUL = (CosineAnnealingWarmRestarts, CyclicLR, LambdaLR, OneCycleLR)

# Weakly on both sides: a scheduler holds its optimizer.
_claims: weakref.WeakKeyDictionary[Optimizer, list[weakref.ref[LRScheduler]]] = weakref.WeakKeyDictionary()


def claim_optimizer(scheduler: LRScheduler) -> Callable[[], None]:
    """Note that ``scheduler`` will set its optimizer's rates; the function returned ends that.

    Raises:
        ValueError: if one scheduler of the optimizer is ReduceLROnPlateau and another would undo its reductions.
    """
    claims = _claims.setdefault(scheduler.optimizer, [])
    others = [other for claim in claims if (other := claim()) is not None]
    if any(isinstance(one, ReduceLROnPlateau) for one in (scheduler, *others)):
        for forgetful in filter(None, map(_find_forgetful, (scheduler, *others))):
            raise ValueError(
                "the schedulers of one optimizer must leave each other's rates, got ReduceLROnPlateau and "
                f"{forgetful}, which undoes the reductions in its next step; use one that goes on from the current "
                "rate (LinearLR, ExponentialLR, StepLR, CosineAnnealingLR), or end it by a filter on its event"
            )
    claim = weakref.ref(scheduler)
    claims.append(claim)
    return lambda: claims.remove(claim)


def _find_forgetful(scheduler: LRScheduler) -> str | None:
    if isinstance(scheduler, _FORGETFUL):
        return type(scheduler).__name__
    parts = (_find_forgetful(part) for part in getattr(scheduler, "_schedulers", ()))
    return next((part for part in parts if part is not None), None)
