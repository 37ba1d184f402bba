"""Private attributes of torch's schedulers behind named functions: parts, milestones, how a learning rate is computed.

If a release of torch lacks one of them, a test of this folder fails and names it.
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

__all__ = ["closed_form_in", "milestones_of", "parts_of", "restart_parts", "with_parts"]

# These compute each learning rate from the initial one and ignore the current one; all others continue from it.
_CLOSED_FORM = (CosineAnnealingWarmRestarts, CyclicLR, LambdaLR, OneCycleLR)


def parts_of(scheduler: LRScheduler) -> list[LRScheduler]:
    """Return the parts of a SequentialLR or ChainedScheduler; an empty list for any other.

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
    """Return the step at which each part except the first begins."""
    return list(scheduler._milestones)


def restart_parts(scheduler: ChainedScheduler, parts: Sequence[LRScheduler]) -> None:
    """Repeat what the parts' constructors did, after the initial learning rates are set again."""
    for part in parts:
        part._initial_step()
    scheduler._last_lr = parts[-1].get_last_lr()


def closed_form_in(scheduler: LRScheduler) -> str | None:
    """Return the class of the scheduler, or of a part, that ignores the current learning rate; None if none does.

    Example:
        >>> sgd = torch.optim.SGD([nn.Parameter(torch.ones(1))], lr=0.1)
        >>> closed_form_in(torch.optim.lr_scheduler.LambdaLR(sgd, lambda step: 1.0))
        'LambdaLR'
    """
    return next((type(part).__name__ for part in with_parts(scheduler) if isinstance(part, _CLOSED_FORM)), None)
