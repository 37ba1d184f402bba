"""The order in which workers exit: the first failure is the cause, later ones often follow from it."""

import contextlib
import os
import select
import threading
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from .errors import WorkerFailure

if TYPE_CHECKING:
    from torch.distributed.elastic.agent.server.api import RunResult

__all__ = ["ExitOrder", "first_failure"]

_TIMEOUT = 2.0


class ExitOrder:
    """Records the order in which workers exit.

    The kernel reports the exact order. torch's agent polls ten times a second and lists failures by rank.
    """

    def __init__(self) -> None:
        self._ranks: list[int] = []
        self._thread: threading.Thread | None = None

    def watch(self, pids: Mapping[int, int]) -> None:
        """Watch a new group of workers: process ids by local rank."""
        self._ranks = []
        self._thread = None
        pidfds: dict[int, int] = {}
        with contextlib.suppress(AttributeError, OSError):  # before Linux 5.3: fall back to torch's order
            # Registered here, not in the thread: those that exit before it runs would count as registered.
            exits = select.epoll()
            for rank, pid in pids.items():
                pidfds[pidfd := os.pidfd_open(pid)] = rank
                exits.register(pidfd, select.EPOLLIN)
        if pidfds:
            self._thread = threading.Thread(target=self._record, args=(exits, pidfds, self._ranks), daemon=True)
            self._thread.start()

    def ranks(self) -> list[int]:
        """Return the local ranks in the order of exit, once all workers have exited."""
        if self._thread is not None:
            self._thread.join(_TIMEOUT)
        return list(self._ranks)

    @staticmethod
    def _record(exits: select.epoll, pidfds: dict[int, int], ranks: list[int]) -> None:
        # epoll returns descriptors in the order in which they became ready; poll returns them as registered.
        with exits:
            while pidfds:
                for pidfd, _event in exits.poll(maxevents=1):
                    ranks.append(pidfds.pop(pidfd))
                    exits.unregister(pidfd)
                    os.close(pidfd)


def first_failure(result: "RunResult", exited: Sequence[int]) -> WorkerFailure:
    """Return the failure of the worker that exited first; ``exited`` lists local ranks in the order of exit."""
    failures = {
        failure.local_rank: WorkerFailure(rank, failure.local_rank, failure.pid, failure.exitcode)
        for rank, failure in result.failures.items()
    }
    return next((failures[rank] for rank in exited if rank in failures), failures[min(failures)])
