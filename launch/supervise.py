"""Several workers under one launcher, from the first process to the exit code."""

import logging
import os
import sys
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

from . import worker
from .guard import Guard
from .plan import LaunchPlan
from .say import say
from .signals import Interrupted, Interruption

if TYPE_CHECKING:
    from torch.distributed.elastic.agent.server.api import RunResult

    from .engine import Engine
    from .logs import RankLogs

__all__ = ["supervise"]


def supervise(plan: LaunchPlan) -> int:
    """Run the plan's workers to their end and return the launcher's exit code.

    Raises:
        LaunchError: the workers cannot be started, or another node was lost.
    """
    interruption = Interruption()
    interruption.install()
    try:
        with Guard() as guard:
            _import_torch_quietly()
            return _run_engine(plan, guard, interruption)
    except Interrupted as interrupted:
        return 128 + interrupted.number


def _import_torch_quietly() -> None:
    """Import torch with its notices to operators turned off in this process, and in this process alone."""
    if "LOGLEVEL" not in os.environ:
        logging.disable(logging.CRITICAL)
    warnings.simplefilter("ignore")
    inherited = os.environ.get("TORCH_CPP_LOG_LEVEL")
    os.environ["TORCH_CPP_LOG_LEVEL"] = inherited or "FATAL"
    import torch  # noqa: F401  # now, while what it logs at its import is silenced

    if inherited is None:
        del os.environ["TORCH_CPP_LOG_LEVEL"]


def _run_engine(plan: LaunchPlan, guard: Guard, interruption: Interruption) -> int:
    from torch.distributed.elastic.agent.server.api import WorkerSpec
    from torch.distributed.elastic.multiprocessing.api import DefaultLogsSpecs

    from .engine import Engine
    from .logs import RankLogs
    from .meeting import meet

    logs = None if plan.log_dir is None else RankLogs(Path(plan.log_dir))
    meeting = meet(plan.rendezvous)
    arguments = ("-I", "-S", str(Path(worker.__file__)), str(os.getpid()), *plan.command)
    spec = WorkerSpec(
        role="default",
        local_world_size=plan.processes,
        entrypoint=sys.executable,
        # torch fills templates in arguments; doubled, a dollar sign stays what it was.
        args=tuple(argument.replace("$", "$$") for argument in arguments),
        rdzv_handler=meeting.handler,
        max_restarts=plan.max_restarts,
        local_addr=meeting.address,
    )
    specs = logs or DefaultLogsSpecs(os.devnull)
    engine = Engine(
        spec, specs, guard=guard, grace=plan.grace, interruption=interruption, hosts_store=meeting.hosts_store
    )
    try:
        result = engine.run()
    finally:
        if logs is not None:
            logs.finish()
    return _tell(engine, result, logs) if result.is_failed() else 0


def _tell(engine: "Engine", result: "RunResult", logs: "RankLogs | None") -> int:
    """Say which worker failed first and how; return the exit code of the first to fail on any node."""
    failure = engine.first_failure(result)
    words = "" if logs is None else logs.last_words(failure.local_rank)
    say(f"{failure}:\n{words}" if words else str(failure))
    if engine.pulse is None:
        return failure.exit_code
    code, before = engine.pulse.report(failure.exit_code, str(failure))
    if before:
        say(before)
    return code
