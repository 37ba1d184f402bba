"""The command: from words to a plan, and from errors to one sentence and an exit code."""

import os
import sys
from collections.abc import Sequence

from .arguments import HELP, parse
from .checks import check_log_level, check_target, make_log_dir
from .devices import Inventory, format_devices, read_inventory
from .errors import LaunchError
from .network import check_interface
from .options import LaunchOptions
from .plan import LaunchPlan, make_plan
from .run import run
from .say import say, say_error
from .show import plan_as_json, plan_as_shell

__all__ = ["main"]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code: the worker's, 128 + n for signal n, 2 for wrong usage."""
    try:
        return _main(sys.argv[1:] if argv is None else argv)
    except LaunchError as error:
        return say_error(error)
    except KeyboardInterrupt:  # before there was anything to supervise
        return 130


def _main(argv: Sequence[str]) -> int:
    request = parse(argv)
    if request.options is None:
        print(HELP.rstrip() if request.help else _gpus())
        return 0
    check_target(request.options)
    plan = _plan(request.options)
    if request.dry_run:
        return _show(plan)
    if request.options.interface is not None:
        check_interface(request.options.interface)
    if plan.supervised:
        check_log_level()
    make_log_dir(plan.log_dir)
    run(plan)


def _gpus() -> str:
    inventory = read_inventory()
    return format_devices(inventory.devices) if inventory.devices else f"no GPU: {inventory.absence}"


def _plan(options: LaunchOptions) -> LaunchPlan:
    # Without GPUs to choose, a driver that does not answer is no obstacle.
    inventory = Inventory((), "--gpus none") if options.gpus == "none" else read_inventory()
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    terminal = sys.stdout.isatty()
    return make_plan(options, inventory, os.environ, cores=cores, python=sys.executable, terminal=terminal)


def _show(plan: LaunchPlan) -> int:
    print(plan_as_json(plan), flush=True)
    say(plan.reason)
    say(f"the same by hand:\n{plan_as_shell(plan)}")
    return 0
