"""Carries a plan out: exec for one process, torch's elastic engine for several."""

import os
import sys
from typing import NoReturn

from .plan import LaunchPlan
from .say import say

__all__ = ["run"]


def run(plan: LaunchPlan) -> int:
    """Run the plan's command and return its exit code; a plan for one process never returns.

    Raises:
        LaunchError: the workers cannot be started.
    """
    say(plan.reason)
    for name in plan.unset:
        del os.environ[name]
    os.environ.update(plan.environment)
    if not plan.supervised:
        _become(plan.command)
    from .supervise import supervise  # it imports torch, which one process leaves to the script

    return supervise(plan)


def _become(command: tuple[str, ...]) -> NoReturn:
    sys.stdout.flush()
    os.execv(command[0], command)
