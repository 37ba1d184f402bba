"""torch's elastic agent, with the launcher's own rules for signals, for grace and for who failed first."""

import contextlib
import functools
import os
import signal
from collections.abc import Iterator
from typing import Any

from torch.distributed.elastic.agent.server.api import RunResult, WorkerGroup, WorkerSpec
from torch.distributed.elastic.agent.server.local_elastic_agent import LocalElasticAgent
from torch.distributed.elastic.multiprocessing.api import LogsSpecs, PContext, SignalException, SubprocessContext

from .deaths import DeathWatch
from .failure import first_failure
from .guard import Guard
from .say import say
from .signals import Interruption

__all__ = ["Engine"]

# torch's own handlers stay out of the launcher; the workers are told of them as torchrun's are.
_SIGNALS_VARIABLE = "TORCHELASTIC_SIGNALS_TO_HANDLE"
_TORCHRUN_SIGNALS = "SIGTERM,SIGINT,SIGHUP,SIGQUIT"


class Engine(LocalElasticAgent):
    """Runs one node's workers.

    Attributes:
        deaths: the order in which the workers died.
    """

    def __init__(self, spec: WorkerSpec, logs_specs: LogsSpecs, *, guard: Guard, grace: float) -> None:
        super().__init__(spec, logs_specs)
        self.deaths = DeathWatch()
        self._guard = guard
        self._grace = grace
        self._interruption = Interruption(
            self._kill_workers, lambda number: SignalException(f"got {number.name}", number)
        )
        self._interruption.install()
        os.environ[_SIGNALS_VARIABLE] = ""

    def _kill_workers(self) -> None:
        if isinstance(self._pcontext, SubprocessContext):
            for handler in self._pcontext.subprocess_handlers.values():
                if handler.proc.poll() is None:
                    with contextlib.suppress(ProcessLookupError):
                        os.killpg(handler.proc.pid, signal.SIGKILL)

    @contextlib.contextmanager
    def _waiting(self) -> Iterator[None]:
        """A wait for other nodes, in which nothing looks whether a signal came."""
        self._interruption.check()
        self._interruption.may_raise = True
        try:
            yield
        finally:
            self._interruption.may_raise = False

    def _rendezvous(self, worker_group: WorkerGroup) -> None:
        with self._waiting():
            super()._rendezvous(worker_group)

    def _exit_barrier(self) -> None:
        with self._waiting():
            super()._exit_barrier()  # type: ignore[no-untyped-call]

    def _set_local_rank_env(self, worker_env: dict[str, str | None], local_rank: int, spec: WorkerSpec) -> None:
        super()._set_local_rank_env(worker_env, local_rank, spec)
        worker_env.update(self._guard.environment)
        worker_env[_SIGNALS_VARIABLE] = _TORCHRUN_SIGNALS

    def _start_workers(self, worker_group: WorkerGroup) -> dict[int, Any]:
        self._guard.sweep()  # what failed workers left would hold their memory and their ports
        pids: dict[int, Any] = super()._start_workers(worker_group)
        self._guard.watch(pids.values())
        self.deaths.watch(pids)
        if self._pcontext is not None:
            # When one worker fails torch gives the others 30 seconds, whatever it was told.
            close = functools.partial(_close_with, self._pcontext, self._grace)
            self._pcontext.close = close  # type: ignore[method-assign]
        return pids

    def _monitor_workers(self, worker_group: WorkerGroup) -> RunResult:
        self._interruption.check()
        result: RunResult = super()._monitor_workers(worker_group)
        if result.is_failed() and self._remaining_restarts > 0:
            total = worker_group.spec.max_restarts
            failure = first_failure(result, self.deaths.order())
            say(f"{failure}; starting again, {total - self._remaining_restarts + 1} of {total}")
        return result

    def _shutdown(self, death_sig: signal.Signals = signal.SIGTERM, timeout: float = 0) -> None:
        received = self._interruption.received
        if received is not None:
            say(f"{received.name}: the workers have {self._grace:g} s to end; once more ends them now")
        super()._shutdown(death_sig, self._grace)  # type: ignore[arg-type]  # any real number will do


def _close_with(context: PContext, grace: float, death_sig: signal.Signals | None = None, timeout: float = 0) -> None:
    type(context).close(context, death_sig, grace)  # type: ignore[arg-type]  # any real number will do
