"""Private attributes of torch's schedulers behind named functions: parts, milestones, how a learning rate is computed.

If a release of torch lacks one of them, a test of this folder fails and names it.
"""

import warnings
from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from torch.optim import Optimizer
from torch.optim.lr_scheduler import (
    ChainedScheduler,
    CosineAnnealingWarmRestarts,
    CyclicLR,
    LambdaLR,
    LRScheduler,
    OneCycleLR,
    ReduceLROnPlateau,
    SequentialLR,
)

from ignite_tips._checks import check_instance, describe

__all__ = [
    "check_scheduler",
    "closed_form_in",
    "depends_on_step_alone",
    "initial_lrs",
    "milestones_of",
    "parts_of",
    "plateau_progress",
    "restart",
    "restart_parts",
    "saved_steps",
    "with_parts",
    "without_step_warnings",
]

# These compute each learning rate from the initial one and ignore the current one; all others continue from it.
_CLOSED_FORM = (CosineAnnealingWarmRestarts, CyclicLR, LambdaLR, OneCycleLR)
_AS_LAMBDA = "write it as LambdaLR(optimizer, factor), where factor(step) is the learning rate over the initial one"


def check_scheduler(scheduler: object, remedy: str = _AS_LAMBDA) -> None:
    """Raise TypeError unless ``scheduler`` is one of torch's kind: only these are known to save, resume and copy.

    ``remedy`` is for a schedule of another kind, such as a user's own.
    """
    if not isinstance(scheduler, LRScheduler | Optimizer | type) and callable(getattr(scheduler, "step", None)):
        raise TypeError(
            "scheduler must be a subclass of torch's LRScheduler, whose step() needs no argument, got "
            f"{describe(scheduler)}; {remedy}"
        )
    check_instance("scheduler", scheduler, LRScheduler, "a torch learning-rate scheduler")


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


def restart(scheduler: LRScheduler) -> None:
    """Repeat what the constructors of a new scheduler and its parts did to the learning rates."""
    parts = parts_of(scheduler)
    if isinstance(scheduler, SequentialLR):
        parts = [parts[bisect_right(milestones_of(scheduler), 0)]]
    for part in parts:
        restart(part)
    if not parts and type(scheduler).step is LRScheduler.step:  # another step() may count for itself
        scheduler.last_epoch -= 1
        scheduler._initial_step()


def initial_lrs(scheduler: LRScheduler) -> list[Any]:
    """Return the learning rate of each param group from which the scheduler computes its own."""
    while parts := parts_of(scheduler):
        scheduler = parts[0]
    return list(scheduler.base_lrs)


def plateau_progress(scheduler: ReduceLROnPlateau, state: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a saved ReduceLROnPlateau had counted, without its settings.

    Raises:
        ValueError: if its best metric means nothing to ``scheduler``, which has another mode.
    """
    if state["mode"] != scheduler.mode:
        raise ValueError(
            f"the scheduler's state must be of a ReduceLROnPlateau of mode {scheduler.mode!r}, got {state['mode']!r}"
        )
    return {key: state[key] for key in ("best", "cooldown_counter", "last_epoch", "num_bad_epochs", "_last_lr")}


def saved_steps(state: Mapping[str, Any]) -> Any:
    """Return how many steps a scheduler had made when it returned this ``state_dict()``; None if it does not say.

    Example:
        >>> sgd = torch.optim.SGD([nn.Parameter(torch.ones(1))], lr=0.1)
        >>> saved_steps(torch.optim.lr_scheduler.StepLR(sgd, 2).state_dict())
        0
    """
    while "last_epoch" not in state and state.get("_schedulers"):  # a ChainedScheduler, whose parts count
        state = state["_schedulers"][0]
    return state.get("last_epoch")


@contextmanager
def without_step_warnings() -> Iterator[None]:
    """Silence torch's warnings about steps of a scheduler without updates of its optimizer: they are intended."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", r"(?s).*`?optimizer\.step\(\)`?", UserWarning)
        yield


def depends_on_step_alone(scheduler: LRScheduler) -> bool:
    """Whether all code of the scheduler and its parts is torch's: a user's may read parameters, which copies lack.

    Example:
        >>> sgd = torch.optim.SGD([nn.Parameter(torch.ones(1))], lr=0.1)
        >>> depends_on_step_alone(torch.optim.lr_scheduler.StepLR(sgd, 2))
        True
    """
    methods = [method for part in with_parts(scheduler) for method in (type(part).get_lr, type(part).step)]
    return all(method.__module__ == LRScheduler.__module__ for method in methods)


def closed_form_in(scheduler: LRScheduler) -> str | None:
    """Return the class of the scheduler, or of a part, that ignores the current learning rate; None if none does.

    Example:
        >>> sgd = torch.optim.SGD([nn.Parameter(torch.ones(1))], lr=0.1)
        >>> closed_form_in(torch.optim.lr_scheduler.LambdaLR(sgd, lambda step: 1.0))
        'LambdaLR'
    """
    return next((type(part).__name__ for part in with_parts(scheduler) if isinstance(part, _CLOSED_FORM)), None)
