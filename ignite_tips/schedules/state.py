"""A scheduler's state for checkpoints: plain and complete, loaded before or after the optimizer's."""

import copy
import dataclasses
import inspect
import types
from collections import Counter
from typing import Any

import torch
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from ignite_tips._checks import check_choice, check_instance, check_integer, check_keys, check_number
from ignite_tips._warnings import warn_user
from ignite_tips.schedules.torch_internals import parts_of, saved_steps, with_parts

__all__ = [
    "SCHEDULED_OPTIONS",
    "check_scheduler_state",
    "load_scheduler",
    "restore_options",
    "save_scheduler",
    "settings_of",
    "steps_in",
    "warn_about_changes",
]

_KEYS = ("schedule", "scheduler", "options")
SCHEDULED_OPTIONS = ("lr", "momentum", "betas")  # the options of a param group that torch's schedulers change


def save_scheduler(scheduler: LRScheduler) -> dict[str, Any]:
    """Return a copy of the scheduler's state.

    It has ``scheduler.state_dict()``, the classes of the scheduler and its parts, and the learning rates and momenta of
    each param group.

    Example:
        >>> sgd = torch.optim.SGD([nn.Parameter(torch.ones(1))], lr=0.1)
        >>> state = save_scheduler(torch.optim.lr_scheduler.StepLR(sgd, 2))
        >>> state["schedule"], state["options"]
        ('StepLR', [{'lr': 0.1, 'momentum': 0}])
    """
    state = {
        "schedule": _describe(scheduler),
        "scheduler": scheduler.state_dict(),
        "options": _scheduled_options(scheduler.optimizer),
    }
    return copy.deepcopy(state)


def load_scheduler(scheduler: LRScheduler, state: object) -> None:
    """Restore what ``save_scheduler`` returned. If that fails, the scheduler does not change.

    This also restores the optimizer's learning rates. A scheduler's constructor sets them, so if it ran after the
    optimizer's state was loaded, they would be wrong.

    Raises:
        TypeError: if ``state`` is not a mapping.
        ValueError: if it has other keys, or belongs to another kind of scheduler or number of param groups.
    """
    checked = copy.deepcopy(check_scheduler_state(scheduler, state))
    groups = scheduler.optimizer.param_groups
    before = copy.deepcopy(scheduler.state_dict())
    try:
        scheduler.load_state_dict(checked["scheduler"])
    except BaseException:
        scheduler.load_state_dict(before)
        raise
    restore_options(groups, checked["options"])


def check_scheduler_state(scheduler: LRScheduler, state: object) -> dict[str, Any]:
    """Return ``state`` as a dict, or raise as ``load_scheduler`` does."""
    checked = dict(check_keys("the scheduler's state", state, _KEYS))
    _check_kind(scheduler, checked, len(scheduler.optimizer.param_groups))
    for options in checked["options"]:
        check_instance("options of a group in the scheduler's state", options, dict, "a dict")
        for key, value in options.items():
            check_choice("options of a group in the scheduler's state", key, SCHEDULED_OPTIONS)
            for number in value if isinstance(value, tuple | list) else [value]:
                if not isinstance(number, torch.Tensor):
                    check_number(f"{key} in the scheduler's state", number)
    return checked


def _check_kind(scheduler: LRScheduler, state: dict[str, Any], groups: int) -> None:
    if state["schedule"] != _describe(scheduler):
        raise ValueError(f"the scheduler's state must be of {_describe(scheduler)}, got {state['schedule']}")
    check_instance("options of the scheduler's state", state["options"], list, "a list with a dict for each group")
    if len(state["options"]) != groups:
        raise ValueError(
            f"the scheduler's state must be for {groups} param groups, got {len(state['options'])}; build the "
            "optimizer with the same groups as in the run that saved it"
        )
    check_instance("the scheduler's state_dict", state["scheduler"], dict, "a dict")
    missing = [key for key in scheduler.state_dict() if key not in state["scheduler"]]
    if missing:
        raise ValueError(
            f"the scheduler's state_dict must have all that {type(scheduler).__name__} saves, got none of: "
            f"{', '.join(missing)}; it may be of another version"
        )


def steps_in(state: object) -> int:
    """Return how many steps the scheduler of ``save_scheduler``'s state had made.

    Raises:
        TypeError: if ``state`` is not a mapping, or the number not an integer.
        ValueError: if it has other keys.
    """
    saved = check_keys("the scheduler's state", state, _KEYS)["scheduler"]
    check_instance("the scheduler's state_dict", saved, dict, "a dict")
    return check_integer("the number of steps in the scheduler's state_dict", saved_steps(saved), ge=0)


def restore_options(groups: list[dict[str, Any]], saved: list[dict[str, Any]]) -> None:
    """Set options of param groups to those saved."""
    for group, options in zip(groups, saved, strict=True):
        for key, value in options.items():
            if isinstance(group.get(key), torch.Tensor):
                group[key].fill_(value)  # in place: a captured graph may use this very tensor
            else:
                group[key] = value


def settings_of(scheduler: LRScheduler) -> list[tuple[str, str]]:
    """Return the constructor arguments that a scheduler and its parts keep: each one's name, and its value as text."""
    settings = []
    for part in with_parts(scheduler):
        name, kept = type(part).__name__, vars(part)
        # torch keeps max_lr as max_lrs, and CyclicLR's two step sizes as their sum.
        for argument in [*inspect.signature(type(part)).parameters, "total_size"]:
            key = next((key for key in (argument, f"_{argument}", f"{argument}s") if key in kept), None)
            if key and key != "last_epoch" and _is_plain(kept[key]):
                settings.append((f"{name}'s {argument}", repr(kept[key])))
        for index, function in enumerate(kept.get("lr_lambdas", ())):
            if not isinstance(function, types.FunctionType) and hasattr(function, "__dict__"):  # torch saves these
                settings.append((f"{name}'s lr_lambda {index}", _describe_object(function)))
    return settings


def _is_plain(value: object) -> bool:
    if isinstance(value, list | tuple | Counter):
        return all(_is_plain(item) for item in value)
    return isinstance(value, bool | int | float | str)


def _describe_object(function: Any) -> str:
    return repr(function) if dataclasses.is_dataclass(function) else f"{type(function).__name__} of {vars(function)}"


def warn_about_changes(built: list[tuple[str, str]], loaded: list[tuple[str, str]]) -> None:
    """Warn if a loaded state changed settings of a scheduler, as ``settings_of`` returns them."""
    changes = [
        f"{name} to {now} from {before}"
        for (name, before), (_, now) in zip(built, loaded, strict=True)
        if now != before
    ]
    if changes:
        warn_user(
            f"the scheduler's state sets {', '.join(changes)}: a checkpoint includes the scheduler's settings; to "
            "continue with those it was built with, use load_state_dict(state, keep_settings=True)"
        )


def _describe(scheduler: LRScheduler) -> str:
    name = type(scheduler).__name__
    parts = [_describe(part) for part in parts_of(scheduler)]
    return f"{name}({', '.join(parts)})" if parts else name


def _scheduled_options(optimizer: Optimizer) -> list[dict[str, Any]]:
    return [{key: group[key] for key in SCHEDULED_OPTIONS if key in group} for group in optimizer.param_groups]
