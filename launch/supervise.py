"""Several workers under one launcher, from the first process to the exit code."""

import logging
import os
import signal
import sys
import uuid
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

from . import worker
from .guard import Guard
from .plan import LaunchPlan
from .say import say

if TYPE_CHECKING:
    from torch.distributed.elastic.agent.server.api import RunResult

    from .engine import Engine

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
    from torch.distributed.elastic.rendezvous import RendezvousParameters
    from torch.distributed.elastic.rendezvous.registry import get_rendezvous_handler

    from .engine import Engine

    local = "127.0.0.1"
    parameters = RendezvousParameters(
        "c10d", f"{local}:0", uuid.uuid4().hex, min_nodes=1, max_nodes=1, local_addr=local, is_host=True
    )
    handler = get_rendezvous_handler(parameters)
    arguments = ("-I", "-S", str(Path(worker.__file__)), str(os.getpid()), *plan.command)
    spec = WorkerSpec(
        role="default",
        local_world_size=plan.processes,
        entrypoint=sys.executable,
        # torch fills templates in arguments; doubled, a dollar sign stays what it was.
        args=tuple(argument.replace("$", "$$") for argument in arguments),
        rdzv_handler=handler,
        max_restarts=plan.max_restarts,
        local_addr=local,
    )
    engine = Engine(spec, DefaultLogsSpecs(os.devnull), guard=guard, grace=plan.grace)
    try:
        result = engine.run()
    except SignalException as error:
        return 128 + error.sigval
    finally:
        handler.shutdown()
    return _tell_failure(result, engine) if result.is_failed() else 0


def _tell_failure(result: "RunResult", engine: "Engine") -> int:
    """Say which worker failed first and how, and return the launcher's exit code for it."""
    ranks = {failure.local_rank: rank for rank, failure in result.failures.items()}
    first = next((local_rank for local_rank in engine.deaths.order() if local_rank in ranks), min(ranks))
    failure = result.failures[ranks[first]]
    code = int(failure.exitcode)
    how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
    say(f"rank {ranks[first]} (pid {failure.pid}) {how}")
    return 128 - code if code < 0 else code
