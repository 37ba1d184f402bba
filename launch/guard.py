"""The launcher's side of the watchdog."""

import os
import secrets
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import Self

from . import watchdog

__all__ = ["Guard"]

_SWEEP_SECONDS = 15.0


class Guard:
    """A context in which no process of the run can outlive the launcher; on Linux, where /proc tells who they are.

    Attributes:
        environment: what each worker's environment must hold for the watchdog to know it.
    """

    def __init__(self) -> None:
        self._run_id = secrets.token_hex(8)
        outer = os.environ.get(watchdog.RUN_ID_VARIABLE)
        self.environment = {watchdog.RUN_ID_VARIABLE: f"{outer}:{self._run_id}" if outer else self._run_id}
        self._process: subprocess.Popen[str] | None = None
        self._sessions: dict[int, str] = {}

    def __enter__(self) -> Self:
        if sys.platform == "linux":
            self._process = subprocess.Popen(
                [sys.executable, "-I", "-S", str(Path(watchdog.__file__)), self._run_id],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
                text=True,
            )
        return self

    def watch(self, pids: Iterable[int]) -> None:
        """Tell the watchdog of workers that lead a session each."""
        self._sessions |= {pid: watchdog.start_time(pid) for pid in pids}
        if self._process is not None and self._process.stdin is not None:
            try:
                self._process.stdin.writelines(f"{pid}\n" for pid in self._sessions)
                self._process.stdin.flush()
            except BrokenPipeError:  # somebody killed it: the workers' parent-death signal is left
                self._process = None

    def sweep(self) -> None:
        """End what the workers left behind so far."""
        if self._sessions and sys.platform == "linux":
            watchdog.sweep(self._run_id, self._sessions)
            self._sessions.clear()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End what the workers left behind, and wait until that is done."""
        if self._process is not None and self._process.stdin is not None:
            self._process.stdin.close()
            try:
                self._process.wait(_SWEEP_SECONDS)
            except subprocess.TimeoutExpired:
                self._process.kill()
