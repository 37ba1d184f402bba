"""Several workers under one launcher, from the first process to the exit code."""

import logging
import os
import sys
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

from . import worker
from .errors import UsageError
from .guard import Guard
from .plan import LaunchPlan
from .say import say

if TYPE_CHECKING:
    from .logs import RankLogs

__all__ = ["supervise"]


def supervise(plan: LaunchPlan) -> int:
    """Run the plan's workers to their end and return the launcher's exit code.

    Raises:
        LaunchError: the workers cannot be started.
    """
    with Guard() as guard:
        _import_torch_quietly()
        return _run_engine(plan, guard)


def _import_torch_quietly() -> None:
    """Import torch with its notices to operators turned off in this process, and in this process alone."""
    if "LOGLEVEL" not in os.environ:
        logging.disable(logging.CRITICAL)
    warnings.simplefilter("ignore")
    inherited = os.environ.get("TORCH_CPP_LOG_LEVEL")
    os.environ["TORCH_CPP_LOG_LEVEL"] = inherited or "ERROR"
    import torch  # noqa: F401

    if inherited is None:
        del os.environ["TORCH_CPP_LOG_LEVEL"]


def _run_engine(plan: LaunchPlan, guard: Guard) -> int:
    from torch.distributed.elastic.agent.server.api import WorkerSpec
    from torch.distributed.elastic.multiprocessing.api import DefaultLogsSpecs, SignalException

    from .engine import Engine
    from .failure import first_failure
    from .meeting import meet

    handler, local_addr = meet(plan.rendezvous)
    arguments = ("-I", "-S", str(Path(worker.__file__)), str(os.getpid()), *plan.command)
    spec = WorkerSpec(
        role="default",
        local_world_size=plan.processes,
        entrypoint=sys.executable,
        # torch fills templates in arguments; doubled, a dollar sign stays what it was.
        args=tuple(argument.replace("$", "$$") for argument in arguments),
        rdzv_handler=handler,
        max_restarts=plan.max_restarts,
        local_addr=local_addr,
    )
    logs = None if plan.log_dir is None else _open_logs(plan.log_dir)
    engine = Engine(spec, logs or DefaultLogsSpecs(os.devnull), guard=guard, grace=plan.grace)
    try:
        result = engine.run()
    except SignalException as error:
        return 128 + error.sigval
    finally:
        handler.shutdown()
        if logs is not None:
            logs.finish()
    if not result.is_failed():
        return 0
    failure = first_failure(result, engine.deaths.order())
    words = "" if logs is None else logs.last_words(failure.local_rank)
    say(f"{failure}:\n{words}" if words else str(failure))
    return failure.exit_code


def _open_logs(folder: str) -> "RankLogs":
    from .logs import RankLogs

    try:
        return RankLogs(Path(folder))
    except OSError as error:
        raise UsageError(f"--log-dir {folder} cannot be a folder for logs: {error.strerror}") from error
