"""What torch's schedulers do not tell in public: their parts, milestones, and how they find a learning rate.

A release of torch without one of these attributes fails in this folder's tests, which name it.
"""

from collections.abc import Iterator, Sequence

from torch.optim.lr_scheduler import (
    ChainedScheduler,
    CosineAnnealingWarmRestarts,
    CyclicLR,
    LambdaLR,
    LRScheduler,
    OneCycleLR,
    SequentialLR,
)

__all__ = ["closed_form_in", "milestones_of", "parts_of", "start_anew", "with_parts"]

# These compute each learning rate from the initial one, whatever it is now; all others go on from the current one.
_CLOSED_FORM = (CosineAnnealingWarmRestarts, CyclicLR, LambdaLR, OneCycleLR)


def parts_of(scheduler: LRScheduler) -> list[LRScheduler]:
    """Return the schedulers that a SequentialLR or ChainedScheduler is made of; none of any other.

    Example:
        >>> sgd = torch.optim.SGD([nn.Parameter(torch.ones(1))], lr=0.1)
        >>> parts_of(torch.optim.lr_scheduler.StepLR(sgd, 2))
        []
    """
    return list(getattr(scheduler, "_schedulers", ()))


def with_parts(scheduler: LRScheduler) -> Iterator[LRScheduler]:
    """Return a scheduler, its parts, their parts, and so on."""
    yield scheduler
    for part in parts_of(scheduler):
        yield from with_parts(part)


def milestones_of(scheduler: SequentialLR) -> list[int]:
    """Return the steps at which each part but the first begins."""
    return list(scheduler._milestones)


def start_anew(scheduler: ChainedScheduler, parts: Sequence[LRScheduler]) -> None:
    """Let the parts of a scheduler do what their constructors did, once the initial learning rates are set."""
    for part in parts:
        part._initial_step()
    scheduler._last_lr = parts[-1].get_last_lr()


def closed_form_in(scheduler: LRScheduler) -> str | None:
    """Return the class of the scheduler, or of a part, that ignores the current learning rate; None if there is none.

    Example:
        >>> sgd = torch.optim.SGD([nn.Parameter(torch.ones(1))], lr=0.1)
        >>> closed_form_in(torch.optim.lr_scheduler.LambdaLR(sgd, lambda step: 1.0))
        'LambdaLR'
    """
    return next((type(part).__name__ for part in with_parts(scheduler) if isinstance(part, _CLOSED_FORM)), None)
