"""Carries a plan out: exec for one process, torch's elastic engine for several."""

import contextlib
import os
import sys
from typing import NoReturn

from .errors import LaunchError
from .plan import LaunchPlan
from .say import say, say_error

__all__ = ["run"]


def run(plan: LaunchPlan) -> NoReturn:
    """Run the plan's command; this process becomes it, or ends with its exit code."""
    say(plan.reason)
    for name in plan.unset:
        del os.environ[name]
    os.environ.update(plan.environment)
    if not plan.supervised:
        _become(plan.command)
    from .supervise import supervise  # it imports torch, which one process leaves to the script

    try:
        code = supervise(plan)
    except LaunchError as error:
        code = say_error(error)
    # Threads that wait on another node's store in C++ would be torn down with the interpreter, and it with them.
    with contextlib.suppress(OSError):
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(code)


def _become(command: tuple[str, ...]) -> NoReturn:
    sys.stdout.flush()
    os.execv(command[0], command)
