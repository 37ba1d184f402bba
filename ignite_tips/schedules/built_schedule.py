"""Load a scheduler's state: all of it, or only where it stands, with the settings that the scheduler was built with."""

import copy
from typing import Any

import torch
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from ignite_tips._checks import check_instance
from ignite_tips.schedules.run_length import check_reaches, steps_done
from ignite_tips.schedules.state import (
    SCHEDULED_OPTIONS,
    check_scheduler_state,
    load_scheduler,
    restore_options,
    settings_of,
    steps_in,
    warn_about_changes,
)
from ignite_tips.schedules.torch_internals import initial_lrs, plateau_progress, restart, without_step_warnings

__all__ = ["BuiltSchedule"]


class BuiltSchedule:
    """A scheduler as it was built, from which a run can go on with other settings than the checkpoint's.

    Args:
        scheduler: a new scheduler. Its param groups are remembered at once: an optimizer's state that is loaded later
            overwrites what schedulers keep there, such as OneCycleLR's ``max_lr``.
    """

    def __init__(self, scheduler: LRScheduler) -> None:
        self._scheduler = scheduler
        self._options = _own_options(scheduler.optimizer)
        self._was_new = steps_done(scheduler) == 0
        self._state: dict[str, Any] = {}  # of the scheduler before the first load
        self._resumed: list[dict[str, Any]] = []

    def load(self, state: object, *, keep_settings: bool) -> None:
        """Restore what ``save_scheduler`` returned. If that fails, the scheduler does not change.

        With ``keep_settings`` the scheduler makes the saved number of steps again, from its start. Its learning rates
        are then those of a run that had these settings from the beginning. ReduceLROnPlateau takes over the saved
        learning rates and counts: its steps depend on metrics that are gone.

        Raises:
            TypeError: if ``state`` is not a mapping, or ``keep_settings`` not a bool.
            ValueError: if it has other keys; without ``keep_settings``, if it belongs to another kind of scheduler or
                number of param groups; with it, if the scheduler is not new or raises before the saved step.
        """
        check_instance("keep_settings", keep_settings, bool, "True or False")
        self._state = self._state or copy.deepcopy(self._scheduler.state_dict())
        self._resumed = []
        if not keep_settings:
            before = settings_of(self._scheduler)
            load_scheduler(self._scheduler, state)
            warn_about_changes(before, settings_of(self._scheduler))
        elif isinstance(self._scheduler, ReduceLROnPlateau):
            checked = check_scheduler_state(self._scheduler, state)
            checked["scheduler"] = self._state | plateau_progress(self._scheduler, checked["scheduler"])
            load_scheduler(self._scheduler, checked)
        else:
            self._replay(steps_in(state))

    def first_learning_rates(self) -> list[float | None]:
        """Return each group's first learning rate; None if the scheduler was not new, or the group was added later."""
        known = [float(options["lr"]) if self._was_new else None for options in self._options]
        return known + [None] * (len(self._scheduler.optimizer.param_groups) - len(known))

    def restore_learning_rates(self) -> None:
        """Set the learning rates of ``keep_settings`` again, if an optimizer's state was loaded after them."""
        if self._resumed:
            restore_options(self._scheduler.optimizer.param_groups, self._resumed)
            self._resumed = []

    def _replay(self, steps: int) -> None:
        scheduler, optimizer = self._scheduler, self._scheduler.optimizer
        before, options = copy.deepcopy(scheduler.state_dict()), _own_options(optimizer)
        try:
            scheduler.load_state_dict(copy.deepcopy(self._state))
            check_reaches(scheduler, steps)
            restore_options(optimizer.param_groups, self._options)
            # An optimizer that was in use when the scheduler was built had other learning rates than the initial ones.
            restore_options(optimizer.param_groups, [{"lr": lr} for lr in initial_lrs(scheduler)])
            restart(scheduler)
            with without_step_warnings():
                for _ in range(steps):
                    scheduler.step()
        except BaseException:
            scheduler.load_state_dict(before)
            restore_options(optimizer.param_groups, options)
            raise
        self._resumed = _own_options(optimizer)


def _own_options(optimizer: Optimizer) -> list[dict[str, Any]]:
    """Return a copy of the options that a schedule changes, or that it added to the param groups."""
    return [
        {
            key: value.clone() if isinstance(value, torch.Tensor) else value
            for key, value in group.items()
            if key in SCHEDULED_OPTIONS or key not in ("params", *optimizer.defaults)
        }
        for group in optimizer.param_groups
    ]
