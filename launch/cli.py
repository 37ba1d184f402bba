"""Command line to a running plan; every error is one sentence and an exit code."""

import os
import signal
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from importlib.metadata import version

from .arguments import format_help, options_among, parse
from .diagnosis import describe_environment
from .dry_run import plan_as_json, plan_as_shell
from .errors import LaunchError, log, log_error
from .gpus import Inventory, format_gpus, read_inventory
from .launcher import run
from .options import LaunchOptions
from .plan import LaunchPlan, Machine, make_plan
from .preflight import check_interface, check_log_level, check_target, make_log_dir
from .templates import read_template

__all__ = ["main"]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code: the worker's, 128 + n for signal n, or 2 for wrong usage."""
    _open_closed_streams()
    try:
        code = _main(sys.argv[1:] if argv is None else argv)
        sys.stdout.flush()
        return code
    except LaunchError as error:
        return log_error(error)
    except KeyboardInterrupt:  # before any worker was started
        return 130
    except BrokenPipeError:  # the reader of what is printed has gone, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python would complain when it exits
        return 128 + signal.SIGPIPE


def _open_closed_streams() -> None:
    """Open the standard streams that this process was started without: files opened later would take their numbers."""
    for number, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        if getattr(sys, name) is None:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # the lowest free number is this one
            setattr(sys, name, open(number, mode, closefd=False))  # noqa: SIM115  # open to the end


def _main(argv: Sequence[str]) -> int:
    request = parse(argv)
    if request.options is None:
        print(read_template(request.template) if request.template else _SHOW[request.show]())
        return 0
    machine = _read_machine(request.options)
    options = _options_of_check(request.options, machine) if request.check else request.options
    check_target(options)
    plan = make_plan(options, machine)
    if request.dry_run:
        return _show(plan)
    if options.interface is not None:
        check_interface(options.interface)
    if plan.supervised:
        check_log_level()
    make_log_dir(plan.log_dir)
    for word in options_among(options.arguments):
        log(f"{word} goes to {options.script}; the launcher's own options stand before the script")
    run(plan)


def _options_of_check(options: LaunchOptions, machine: Machine) -> LaunchOptions:
    """Return the options of ``--check``: as ddp and, unless told otherwise, two processes if there are no two GPUs."""
    if options.strategy == "auto":
        options = replace(options, strategy="ddp", inherited={"strategy": "--check"})
    if options.gpus in (None, "none") and options.nproc is None and len(machine.inventory.gpus) < 2:
        options = replace(options, nproc=2, gpus="none")
    return options


def _list_gpus() -> str:
    inventory = read_inventory()
    return format_gpus(inventory.gpus) if inventory.gpus else f"no GPU: {inventory.why_none}"


def _read_machine(options: LaunchOptions) -> Machine:
    # Without --gpus none, a driver that returns an error stops the launch.
    inventory = Inventory((), "--gpus none") if options.gpus == "none" else read_inventory()
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return Machine(inventory, os.environ, cores, sys.executable, sys.stdout.isatty())


_SHOW: dict[str, Callable[[], str]] = {
    "help": format_help,
    "version": lambda: f"ignite-launch {version('ignite-tips')}",
    "list_gpus": _list_gpus,
    "env": lambda: describe_environment(os.environ, read_inventory()),
}


def _show(plan: LaunchPlan) -> int:
    log(plan.reason)
    log(f"equivalent shell command:\n{plan_as_shell(plan)}")
    print(plan_as_json(plan), flush=True)
    return 0
