"""torch's elastic agent with the launcher's rules for signals, grace time and who failed first.

Only this file uses private attributes of torch elastic: the methods that Agent overrides, what ``_running_workers`` and
``_restarts_left`` read, and ``_bootstrap_store_info`` of a rendezvous handler. tests/ignite_launch/test_agent.py checks
that the installed torch has them.
"""

import contextlib
import functools
import os
import signal
import threading
import time
from dataclasses import replace
from typing import Any

from torch.distributed import TCPStore  # type: ignore[attr-defined]  # torch doesn't mark the re-export
from torch.distributed.elastic.agent.server.api import RunResult, WorkerGroup, WorkerSpec
from torch.distributed.elastic.agent.server.local_elastic_agent import LocalElasticAgent
from torch.distributed.elastic.multiprocessing.api import LogsSpecs, PContext, SubprocessContext

from .error_lines import ErrorLines
from .errors import NodeLostError, WorkerFailure, log
from .exit_order import ExitOrder, first_failure
from .heartbeat import Heartbeat, prepare_keys
from .nodes import STATIC
from .reaper import Reaper
from .rendezvous import host_store
from .signals import SignalHandler
from .worker import slurm_ranks, startup_variables

__all__ = ["Agent"]

# Keeps torch's own signal handlers out of the launcher; workers still see torchrun's value.
_SIGNALS_VARIABLE = "TORCHELASTIC_SIGNALS_TO_HANDLE"
_TORCHRUN_SIGNALS = "SIGTERM,SIGINT,SIGHUP,SIGQUIT"
_KILL_TIMEOUT = 5.0  # seconds to wait for a worker that was killed
_STORE_TIMEOUT = 10.0  # seconds to wait for other nodes at the end; workers get --grace


class Agent(LocalElasticAgent):
    """Runs one node's workers.

    Args:
        spec: what to run.
        logs_specs: where the workers' output goes.
        reaper: kills what workers leave behind.
        grace: seconds that workers get to exit.
        signals: the launcher's signal handler.
        is_host: whether this node hosts the rendezvous store.

    Attributes:
        heartbeat: heartbeats between several nodes, or None.
    """

    def __init__(
        self,
        spec: WorkerSpec,
        logs_specs: LogsSpecs,
        *,
        reaper: Reaper,
        grace: float,
        signals: SignalHandler,
        is_host: bool,
    ) -> None:
        super().__init__(spec, logs_specs)
        self.heartbeat: Heartbeat | None = None
        self._exit_order = ExitOrder()
        self._error_lines = ErrorLines()
        self._reaper = reaper
        self._grace = grace
        self._address = spec.local_addr or "127.0.0.1"
        self._workers_store: TCPStore | None = None
        self._signals = signals
        self._is_host = is_host
        self._killing = False
        self._lost_node: NodeLostError | None = None
        self._exit_timer = threading.Timer(0, lambda: None)
        signals.kill_workers = self._kill_workers
        signals.pass_on = self._pass_on
        os.environ[_SIGNALS_VARIABLE] = ""

    def first_failure(self, result: RunResult) -> WorkerFailure:
        """Return the failure of this node's worker that exited first."""
        failure = first_failure(result, self._exit_order.ranks())
        return replace(failure, error=self._error_lines.of_rank(failure.rank))

    def processes_without_group(self) -> int:
        """Return how many processes the run has if none of them created a process group, else 0.

        A process group leaves keys in the workers' store, which node 0 hosts; the other nodes return 0.
        """
        group: Any = self.get_worker_group()
        if self._workers_store is None or group.group_rank != 0 or self._workers_store.num_keys():
            return 0
        processes: int = group.workers[0].world_size
        return processes

    def _running_workers(self) -> PContext | None:
        return self._pcontext

    def _restarts_left(self) -> int:
        return self._remaining_restarts

    def _live_pids(self) -> list[int]:
        workers = self._running_workers()
        handlers = workers.subprocess_handlers.values() if isinstance(workers, SubprocessContext) else ()
        # Not poll(), which reaps: torch may be about to kill the process, and would find none.
        return [handler.proc.pid for handler in handlers if handler.proc.returncode is None]

    def _kill_workers(self) -> None:
        self._killing = True
        self._pass_on(signal.SIGKILL)  # the reaper kills their children, after a moment to clean up

    def _pass_on(self, number: int) -> int:
        """Send a signal to the workers, but not to the processes that they started."""
        pids = self._live_pids()
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)
        return len(pids)

    def _rendezvous(self, worker_group: WorkerGroup) -> None:
        if self.heartbeat is not None:
            self.heartbeat.announce_restart()
            self.heartbeat.stop()
        self._signals.check()
        self._signals.may_raise = True  # this waits for other nodes, and nothing else would notice a signal
        handler: Any = worker_group.spec.rdzv_handler
        handler._bootstrap_store_info = None  # torch would keep the first round's, which later nodes never see
        super()._rendezvous(worker_group)
        rank, nodes = worker_group.group_rank or 0, worker_group.group_world_size or 1
        if rank == 0:
            prepare_keys(worker_group.store, nodes)
        self._renew_workers_store(worker_group)
        callbacks = self._on_node_lost, self._on_restart
        self.heartbeat = Heartbeat(worker_group.store, rank, nodes, *callbacks) if nodes > 1 else None

    def _renew_workers_store(self, worker_group: WorkerGroup) -> None:
        """Give the workers a new store in each round.

        torch passes the same store again, where a worker may find the address of a dead peer.
        """
        group: Any = worker_group
        rendezvous_store = group.store
        if group.group_rank == 0:
            self._workers_store = host_store(self._address)
            rendezvous_store.set("workers", f"{self._workers_store.port} {self._address}")
        while not rendezvous_store.check(["workers"]):
            time.sleep(0.05)
        port, _, group.master_addr = rendezvous_store.get("workers").decode().partition(" ")
        group.master_port = int(port)

    def _on_node_lost(self, message: str, exit_code: int) -> None:
        """Kill the workers, and exit the launcher too if it stays stuck in a call to the lost node's store."""
        self._exit_timer = threading.Timer(_STORE_TIMEOUT, self._exit_now, (message, exit_code))
        self._exit_timer.daemon = True
        self._exit_timer.start()
        self._kill_workers()
        self._lost_node = NodeLostError(message, exit_code)  # last: the main thread then closes the workers

    def _on_restart(self) -> None:
        log("another node restarts its workers, so this node does too")
        self._kill_workers()

    @staticmethod
    def _exit_now(message: str, exit_code: int) -> None:
        log(f"error: {message}")
        os._exit(exit_code)  # the reaper process cleans up

    def _check_nodes(self) -> None:
        """Raise NodeLostError if another node is lost, unless the others can go on without it."""
        lost, self._lost_node = self._lost_node, None
        if lost is not None:
            self._exit_timer.cancel()
            spec = self.get_worker_group().spec
            if not self._restarts_left() or spec.rdzv_handler.get_backend() == STATIC:
                raise lost
            log(str(lost))

    def _set_local_rank_env(self, worker_env: dict[str, str | None], local_rank: int, spec: WorkerSpec) -> None:
        super()._set_local_rank_env(worker_env, local_rank, spec)
        worker_env.update(self._reaper.environment | self._error_lines.environment | startup_variables(os.environ))
        worker_env.update(slurm_ranks(os.environ, worker_env))
        worker_env[_SIGNALS_VARIABLE] = _TORCHRUN_SIGNALS

    def _start_workers(self, worker_group: WorkerGroup) -> dict[int, Any]:
        self._signals.may_raise = False
        self._signals.check()
        self._reaper.sweep()  # what failed workers left behind would hold their memory and ports
        self._error_lines.clear()
        self._killing = False
        pids: dict[int, Any] = super()._start_workers(worker_group)
        if self._killing:  # a second signal came while they started
            self._kill_workers()
        self._reaper.watch(pids.values())
        self._exit_order.watch(pids)
        workers = self._running_workers()
        if workers is not None:
            workers.close = functools.partial(self._close, workers)  # type: ignore[method-assign]  # for these only
        return pids

    def _close(self, workers: PContext, death_sig: signal.Signals | None = None, timeout: float = 0) -> None:
        """Call torch's ``close``, but kill workers after ``--grace``, and not their children.

        torch gives them 30 seconds, has no setting for it, and kills children that remove shared memory.
        """
        killer = threading.Timer(self._grace, self._pass_on, (signal.SIGKILL,))
        killer.daemon = True
        killer.start()
        try:
            type(workers).close(workers, death_sig, self._grace + _KILL_TIMEOUT)  # type: ignore[arg-type]  # takes floats
        finally:
            killer.cancel()

    def _monitor_workers(self, worker_group: WorkerGroup) -> RunResult:
        self._signals.check()
        self._check_nodes()
        result: RunResult = super()._monitor_workers(worker_group)
        if result.is_failed() and self._restarts_left() > 0 and not self._killing:
            total = worker_group.spec.max_restarts
            log(f"{self.first_failure(result)}; restart {total - self._restarts_left() + 1} of {total}")
        return result

    def _exit_barrier(self) -> None:
        """Wait until the workers of all nodes are done; the host of the store leaves last."""
        if self.heartbeat is None:
            return
        self._signals.may_raise = True
        group = self.get_worker_group()
        store: Any = group.store
        nodes = group.group_world_size or 1
        store.add("done", 1)
        while store.add("done", 0) < nodes:
            self._check_nodes()
            time.sleep(0.1)
        self.heartbeat.stop()
        store.add("left", 1)
        deadline = time.monotonic() + _STORE_TIMEOUT
        while self._is_host and store.add("left", 0) < nodes and time.monotonic() < deadline:
            time.sleep(0.1)

    def _shutdown(self, death_sig: signal.Signals = signal.SIGTERM, timeout: float = 0) -> None:
        received = self._signals.received
        self._signals.may_raise = False
        if received is not None and self._running_workers() is not None:
            log(f"{received.name}: workers get {self._grace:g} s to exit; a second signal kills them")
        super()._shutdown(received or death_sig)  # _close sets the time
