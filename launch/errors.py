"""Errors that end a launch, each with an exit code, and the launcher's own lines on stderr."""

import contextlib
import signal
import sys
from dataclasses import dataclass

__all__ = ["LaunchError", "NodeLostError", "UsageError", "WorkerFailure", "log", "log_error", "signal_name"]


class LaunchError(Exception):
    """The launch can't go on, although the command line is right. The message is one sentence."""

    exit_code = 1


class UsageError(LaunchError):
    """The command line contradicts itself or names something that doesn't exist."""

    exit_code = 2


class NodeLostError(LaunchError):
    """Another node failed or stopped responding. Its exit code is the run's."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code


@dataclass(frozen=True)
class WorkerFailure:
    """How a worker failed; as text, one line for the user.

    Attributes:
        rank: global rank.
        local_rank: rank on this node.
        pid: process id.
        status: exit code, or -n if signal n killed the worker.
        error: the exception that ended it, if one did.
    """

    rank: int
    local_rank: int
    pid: int
    status: int
    error: str = ""

    @property
    def exit_code(self) -> int:
        """Exit code that a shell would report."""
        return self.status if self.status >= 0 else 128 - self.status

    def __str__(self) -> str:
        if self.status >= 0:
            how = f"exited with code {self.status}" + (f": {self.error}" if self.error else "")
        else:
            how = f"was killed by {signal_name(-self.status)}"
            if self.status == -signal.SIGKILL:
                how += ", which is also how the kernel ends a process when memory runs out"
        return f"rank {self.rank} (pid {self.pid}) {how}"


def log(message: str) -> None:
    """Print one line to stderr, which keeps stdout free for the script; ignore a console that is gone."""
    # The terminal hung up, or the reader closed the pipe; or a signal came while a line was printed.
    with contextlib.suppress(OSError, RuntimeError):
        print(f"ignite-launch: {message}", file=sys.stderr, flush=True)


def log_error(error: LaunchError) -> int:
    """Print the error and return its exit code."""
    log(f"error: {error}")
    return error.exit_code


def signal_name(number: int) -> str:
    """Return a signal's name, ``signal 34`` for a real-time one."""
    try:
        return signal.Signals(number).name
    except ValueError:  # a real-time signal
        return f"signal {number}"
