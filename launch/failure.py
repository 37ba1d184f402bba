"""Which worker failed first, and how: the cause of a run's failure, and the launcher's exit code."""

import signal
from collections.abc import Sequence
from dataclasses import dataclass

from torch.distributed.elastic.agent.server.api import RunResult

__all__ = ["Failure", "first_failure"]


@dataclass(frozen=True)
class Failure:
    """A worker that failed.

    Attributes:
        rank: among the workers of all nodes.
        local_rank: among those of this node.
        pid: its process id.
        status: its exit code, or -n if signal n killed it.
    """

    rank: int
    local_rank: int
    pid: int
    status: int

    @property
    def exit_code(self) -> int:
        """What a shell would report of it."""
        return self.status if self.status >= 0 else 128 - self.status

    def __str__(self) -> str:
        if self.status >= 0:
            how = f"ended with exit code {self.status}"
        else:
            how = f"was killed by {_signal_name(-self.status)}"
            if self.status == -signal.SIGKILL:
                how += ", as the kernel does when memory runs out"
        return f"rank {self.rank} (pid {self.pid}) {how}"


def first_failure(result: RunResult, deaths: Sequence[int]) -> Failure:
    """Return the failure of the worker that died first; ``deaths`` lists local ranks in the order of their deaths."""
    failures = {
        failure.local_rank: Failure(rank, failure.local_rank, failure.pid, failure.exitcode)
        for rank, failure in result.failures.items()
    }
    return next((failures[rank] for rank in deaths if rank in failures), failures[min(failures)])


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:  # a real-time signal
        return f"signal {number}"
