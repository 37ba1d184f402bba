"""A scheduler's state for checkpoints: plain and complete, loaded before or after the optimizer's."""

import copy
import dataclasses
import inspect
from typing import Any

import torch
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from ignite_tips._checks import check_choice, check_instance, check_keys, check_number
from ignite_tips._warnings import warn_user
from ignite_tips.schedules.torch_internals import parts_of

__all__ = ["check_scheduler_state", "load_scheduler", "save_scheduler"]

_KEYS = ("schedule", "scheduler", "options")
_SCHEDULED_OPTIONS = ("lr", "momentum", "betas")  # the options of a param group that torch's schedulers change


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
    before, built = copy.deepcopy(scheduler.state_dict()), _settings(scheduler)
    try:
        scheduler.load_state_dict(checked["scheduler"])
    except BaseException:
        scheduler.load_state_dict(before)
        raise
    _restore_options(groups, checked["options"])
    _warn_about_changes(built, _settings(scheduler))


def check_scheduler_state(scheduler: LRScheduler, state: object) -> dict[str, Any]:
    """Return ``state`` as a dict, or raise as ``load_scheduler`` does."""
    checked = dict(check_keys("the scheduler's state", state, _KEYS))
    _check_kind(scheduler, checked, len(scheduler.optimizer.param_groups))
    for options in checked["options"]:
        check_instance("options of a group in the scheduler's state", options, dict, "a dict")
        for key, value in options.items():
            check_choice("options of a group in the scheduler's state", key, _SCHEDULED_OPTIONS)
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


def _restore_options(groups: list[dict[str, Any]], saved: list[dict[str, Any]]) -> None:
    for group, options in zip(groups, saved, strict=True):
        for key, value in options.items():
            if isinstance(group.get(key), torch.Tensor):
                group[key].fill_(value)  # in place: a captured graph may use this very tensor
            else:
                group[key] = value


def _settings(scheduler: LRScheduler) -> dict[str, str]:
    """Return the constructor arguments that a scheduler and its parts keep, as text."""
    name = type(scheduler).__name__
    settings = {}
    for argument in inspect.signature(type(scheduler)).parameters.keys() - {"last_epoch"}:
        value = vars(scheduler).get(argument, vars(scheduler).get(f"_{argument}"))
        if isinstance(value, bool | int | float | str) or argument == "milestones":
            settings[f"{name}'s {argument}"] = repr(value)
    for index, function in enumerate(getattr(scheduler, "lr_lambdas", ())):
        if dataclasses.is_dataclass(function):
            settings[f"{name}'s lr_lambda {index}"] = repr(function)
    for index, part in enumerate(parts_of(scheduler)):
        settings |= {f"{key} (part {index})": value for key, value in _settings(part).items()}
    return settings


def _warn_about_changes(built: dict[str, str], loaded: dict[str, str]) -> None:
    changes = [
        f"{name} to {loaded[name]} from {value}" for name, value in sorted(built.items()) if loaded[name] != value
    ]
    if changes:
        warn_user(
            f"the scheduler's state sets {', '.join(changes)}: a checkpoint includes the scheduler's settings; to use "
            "others, set them after loading"
        )


def _describe(scheduler: LRScheduler) -> str:
    name = type(scheduler).__name__
    parts = [_describe(part) for part in parts_of(scheduler)]
    return f"{name}({', '.join(parts)})" if parts else name


def _scheduled_options(optimizer: Optimizer) -> list[dict[str, Any]]:
    return [{key: group[key] for key in _SCHEDULED_OPTIONS if key in group} for group in optimizer.param_groups]
