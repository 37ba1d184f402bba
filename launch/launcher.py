"""Carries a plan out: one process by exec, several under torch's elastic agent.

Imports for several processes, above all torch, are inside functions: they would delay the start of a single process.
"""

import contextlib
import logging
import os
import sys
import traceback
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from .errors import LaunchError, log, log_error
from .plan import LaunchPlan
from .preflight import allow_open_files
from .signals import Interrupted, SignalHandler
from .worker import slurm_ranks

if TYPE_CHECKING:
    from torch.distributed.elastic.agent.server.api import RunResult, WorkerSpec

    from .agent import Agent
    from .rank_logs import RankLogs
    from .reaper import Reaper
    from .rendezvous import Rendezvous

__all__ = ["run"]


def run(plan: LaunchPlan) -> NoReturn:
    """Run the plan's command; this process becomes it, or exits with its exit code."""
    log(plan.reason)
    for name in plan.unset:
        del os.environ[name]
    os.environ.update(plan.environment)
    if not plan.supervised:
        os.environ.update(slurm_ranks(os.environ, {}))
        sys.stdout.flush()
        os.execv(plan.command[0], plan.command)
    try:
        code = _supervise(plan)
    except LaunchError as error:
        code = log_error(error)
    except Exception:  # an error of the launcher itself
        traceback.print_exc()
        code = 1
    # A normal exit would wait for threads that wait in C++ for another node's store.
    with contextlib.suppress(OSError):
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(code)


def _supervise(plan: LaunchPlan) -> int:
    """Run the plan's workers and return the launcher's exit code.

    Raises:
        LaunchError: the workers can't be started, or another node was lost.
    """
    from .reaper import Reaper

    signals = SignalHandler()
    try:
        signals.install()
        with Reaper() as reaper:
            signals.exits_at_once = True
            _import_torch_quietly()
            signals.exits_at_once = False
            return _run_agent(plan, reaper, signals)
    except Interrupted as interrupted:
        return 128 + interrupted.number


def _import_torch_quietly() -> None:
    """Import torch with its warnings and log lines turned off, in this process only."""
    if "LOGLEVEL" not in os.environ:
        logging.disable(logging.CRITICAL)
    warnings.simplefilter("ignore")
    inherited = os.environ.get("TORCH_CPP_LOG_LEVEL")
    os.environ["TORCH_CPP_LOG_LEVEL"] = inherited or "FATAL"
    from . import agent  # noqa: F401  # now, while what torch logs at import is turned off

    if inherited is None:
        del os.environ["TORCH_CPP_LOG_LEVEL"]


def _run_agent(plan: LaunchPlan, reaper: "Reaper", signals: SignalHandler) -> int:
    from .agent import Agent
    from .rank_logs import ConsoleLogs, RankLogs
    from .rendezvous import prepare_rendezvous

    logs = None if plan.log_dir is None else RankLogs(Path(plan.log_dir))
    rendezvous = prepare_rendezvous(plan.rendezvous)
    if rendezvous.is_host:
        allow_open_files(plan.rendezvous.max_nodes, plan.processes)
    spec = _worker_spec(plan, rendezvous)
    agent = Agent(
        spec, logs or ConsoleLogs(), reaper=reaper, grace=plan.grace, signals=signals, is_host=rendezvous.is_host
    )
    try:
        result = agent.run()
    finally:
        if logs is not None:
            logs.finish()
    if result.is_failed():
        return _report_failure(agent, result, logs)
    _report_missing_group(agent.processes_without_group())
    return 0


def _worker_spec(plan: LaunchPlan, rendezvous: "Rendezvous") -> "WorkerSpec":
    from torch.distributed.elastic.agent.server.api import WorkerSpec

    python, *arguments = plan.command
    return WorkerSpec(
        role="default",
        local_world_size=plan.processes,
        entrypoint=python,
        # torch treats arguments as templates, where $$ is a plain dollar sign.
        args=tuple(argument.replace("$", "$$") for argument in arguments),
        rdzv_handler=rendezvous.handler,
        max_restarts=plan.max_restarts,
        local_addr=rendezvous.address,
    )


def _report_missing_group(processes: int) -> None:
    if processes > 1:
        log(
            f"none of the {processes} processes created a process group, so each trained on its own: wrap the training "
            "in ignite_tips.process_group() and the model in ignite_tips.wrap_model(), or use idist.Parallel and "
            "idist.auto_model"
        )


def _report_failure(agent: "Agent", result: "RunResult", logs: "RankLogs | None") -> int:
    """Print which worker failed first and how; return the exit code of the first failure on any node."""
    failure = agent.first_failure(result)
    tail = "" if logs is None else logs.log_tail(failure.local_rank)
    if tail:
        log(f"rank {failure.rank}'s last lines:\n{tail}")
    log(str(failure))
    if agent.heartbeat is None:
        return failure.exit_code
    code, earlier = agent.heartbeat.report_failure(failure.exit_code, str(failure))
    if earlier:
        log(earlier)
    return code
