"""torch's elastic agent, with the launcher's own rules for signals, for grace and for who failed first."""

import contextlib
import functools
import os
import signal
import threading
import time
from typing import Any

from torch._C._distributed_c10d import TCPStore
from torch.distributed.elastic.agent.server.api import RunResult, WorkerGroup, WorkerSpec
from torch.distributed.elastic.agent.server.local_elastic_agent import LocalElasticAgent
from torch.distributed.elastic.multiprocessing.api import LogsSpecs, PContext, SubprocessContext

from .deaths import DeathWatch
from .errors import LaunchError
from .failure import Failure, first_failure
from .guard import Guard
from .nodes import STATIC
from .pulse import Pulse
from .say import say
from .signals import Interruption

__all__ = ["Engine", "NodeLostError"]

# torch's own handlers stay out of the launcher; the workers are told of them as torchrun's are.
_SIGNALS_VARIABLE = "TORCHELASTIC_SIGNALS_TO_HANDLE"
_TORCHRUN_SIGNALS = "SIGTERM,SIGINT,SIGHUP,SIGQUIT"
_STUCK_SECONDS = 10.0


class NodeLostError(LaunchError):
    """Another node failed or fell silent; its exit code is the run's."""

    def __init__(self, words: str, exit_code: int) -> None:
        super().__init__(words)
        self.exit_code = exit_code


class Engine(LocalElasticAgent):
    """Runs one node's workers.

    Attributes:
        pulse: the beats between several nodes, or None.
    """

    def __init__(
        self,
        spec: WorkerSpec,
        logs_specs: LogsSpecs,
        *,
        guard: Guard,
        grace: float,
        interruption: Interruption,
        hosts_store: bool,
    ) -> None:
        super().__init__(spec, logs_specs)
        self.pulse: Pulse | None = None
        self._deaths = DeathWatch()
        self._guard = guard
        self._grace = grace
        self._address = spec.local_addr or "127.0.0.1"
        self._workers_store: TCPStore | None = None
        self._interruption = interruption
        self._hosts_store = hosts_store
        self._killing = False
        self._lost: NodeLostError | None = None
        self._leaving = threading.Timer(0, lambda: None)
        interruption.kill_workers = self._kill_workers
        os.environ[_SIGNALS_VARIABLE] = ""

    def first_failure(self, result: RunResult) -> Failure:
        """Return the failure of this node's worker that died first."""
        return first_failure(result, self._deaths.order())

    def _kill_workers(self) -> None:
        self._killing = True
        if isinstance(self._pcontext, SubprocessContext):
            for handler in self._pcontext.subprocess_handlers.values():
                if handler.proc.poll() is None:
                    with contextlib.suppress(ProcessLookupError):
                        os.killpg(handler.proc.pid, signal.SIGKILL)

    def _rendezvous(self, worker_group: WorkerGroup) -> None:
        start = worker_group.spec.max_restarts - self._remaining_restarts
        if self.pulse is not None:
            self.pulse.announce(start)
            self.pulse.stop()
        self._interruption.check()
        self._interruption.may_raise = True  # it is a wait for others, in which nothing else would look
        super()._rendezvous(worker_group)
        self._renew_workers_store(worker_group, start)
        rank, nodes = worker_group.group_rank or 0, worker_group.group_world_size or 1
        store = worker_group.store
        self.pulse = Pulse(store, rank, nodes, start, self._miss, self._follow) if nodes > 1 else None

    def _renew_workers_store(self, worker_group: WorkerGroup, start: int) -> None:
        """Give the workers a store of their own for each start.

        torch hands them the same one again, and a worker may then find the address of a peer that died.
        """
        group: Any = worker_group
        meeting = group.store
        key = f"workers/{start}"
        if group.group_rank == 0:
            self._workers_store = TCPStore(self._address, 0, is_master=True, wait_for_workers=False)
            meeting.set(key, f"{self._workers_store.port} {self._address}")
        while not meeting.check([key]):
            time.sleep(0.05)
        port, _, group.master_addr = meeting.get(key).decode().partition(" ")
        group.master_port = int(port)

    def _miss(self, words: str, exit_code: int) -> None:
        """Another node is lost: end the workers, and the launcher too if it hangs on that node's store."""
        self._leaving = threading.Timer(_STUCK_SECONDS, self._leave, (words, exit_code))
        self._leaving.daemon = True
        self._leaving.start()
        self._lost = NodeLostError(words, exit_code)
        self._kill_workers()

    def _follow(self) -> None:
        say("another node starts its workers again, and so does this one")
        self._kill_workers()

    @staticmethod
    def _leave(words: str, exit_code: int) -> None:
        say(f"error: {words}")
        os._exit(exit_code)  # the watchdog sweeps up

    def _check_nodes(self) -> None:
        """Raise NodeLostError if another node is lost, unless the others may go on without it."""
        lost, self._lost = self._lost, None
        if lost is not None:
            self._leaving.cancel()
            if not self._remaining_restarts or self._rdzv_handler.get_backend() == STATIC:
                raise lost
            say(str(lost))

    def _set_local_rank_env(self, worker_env: dict[str, str | None], local_rank: int, spec: WorkerSpec) -> None:
        super()._set_local_rank_env(worker_env, local_rank, spec)
        worker_env.update(self._guard.environment)
        worker_env[_SIGNALS_VARIABLE] = _TORCHRUN_SIGNALS

    def _start_workers(self, worker_group: WorkerGroup) -> dict[int, Any]:
        self._interruption.may_raise = False
        self._interruption.check()
        self._guard.sweep()  # what failed workers left would hold their memory and their ports
        self._killing = False
        pids: dict[int, Any] = super()._start_workers(worker_group)
        self._guard.watch(pids.values())
        self._deaths.watch(pids)
        if self._pcontext is not None:
            # When one worker fails torch gives the others 30 seconds, whatever it was told.
            close = functools.partial(_close_with, self._pcontext, self._grace)
            self._pcontext.close = close  # type: ignore[method-assign]  # torch has no setting for it
        return pids

    def _monitor_workers(self, worker_group: WorkerGroup) -> RunResult:
        self._interruption.check()
        self._check_nodes()
        result: RunResult = super()._monitor_workers(worker_group)
        if result.is_failed() and self._remaining_restarts > 0 and not self._killing:
            total = worker_group.spec.max_restarts
            failure = self.first_failure(result)
            say(f"{failure}; starting again, {total - self._remaining_restarts + 1} of {total}")
        return result

    def _exit_barrier(self) -> None:
        """Wait until the workers of all nodes are done; the node that hosts the store leaves last."""
        if self.pulse is None:
            return
        self._interruption.may_raise = True
        store: Any = self._worker_group.store
        nodes = self._worker_group.group_world_size or 1
        store.add("done", 1)
        while store.add("done", 0) < nodes:
            self._check_nodes()
            time.sleep(0.1)
        self.pulse.stop()
        store.add("left", 1)
        deadline = time.monotonic() + _STUCK_SECONDS
        while self._hosts_store and store.add("left", 0) < nodes and time.monotonic() < deadline:
            time.sleep(0.1)

    def _shutdown(self, death_sig: signal.Signals = signal.SIGTERM, timeout: float = 0) -> None:
        received = self._interruption.received
        self._interruption.may_raise = False
        if received is not None and self._pcontext is not None:
            say(f"{received.name}: the workers have {self._grace:g} s to end; once more ends them now")
        super()._shutdown(received or death_sig)  # in its own time: _close_with


def _close_with(context: PContext, grace: float, death_sig: signal.Signals | None = None, timeout: float = 0) -> None:
    type(context).close(context, death_sig, grace)  # type: ignore[arg-type]  # any real number will do
