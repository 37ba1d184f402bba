"""The launcher's side of the reaper process."""

import os
import secrets
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import Self

from . import reaper_process

__all__ = ["Reaper"]

_EXIT_TIMEOUT = 15.0


class Reaper:
    """Context manager: no process of the run outlives the launcher. Linux only, since it needs /proc.

    Attributes:
        environment: variables that mark a worker as part of the run.
    """

    def __init__(self) -> None:
        self._run_id = secrets.token_hex(8)
        outer = os.environ.get(reaper_process.RUN_ID_VARIABLE)
        self.environment = {reaper_process.RUN_ID_VARIABLE: f"{outer}:{self._run_id}" if outer else self._run_id}
        self._process: subprocess.Popen[str] | None = None
        self._sessions: dict[int, str] = {}

    def __enter__(self) -> Self:
        if sys.platform == "linux":
            self._process = subprocess.Popen(
                [sys.executable, "-I", "-S", str(Path(reaper_process.__file__)), self._run_id],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
                text=True,
            )
        return self

    def watch(self, pids: Iterable[int]) -> None:
        """Tell the reaper process about the workers of a start, each of which leads a session."""
        self._sessions = {pid: reaper_process.start_time(pid) for pid in pids}
        if self._process is not None and self._process.stdin is not None:
            try:
                print(*self._sessions, file=self._process.stdin, flush=True)
            except BrokenPipeError:  # someone killed it, and the launcher sweeps at its end
                self._process = None

    def sweep(self) -> None:
        """Kill what the workers have left behind so far."""
        if self._sessions and sys.platform == "linux":
            reaper_process.sweep(self._run_id, self._sessions)
            self._sessions = {}

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Let the reaper process kill what the workers left behind, and wait for it."""
        if self._process is not None and self._process.stdin is not None:
            self._process.stdin.close()
            try:
                self._process.wait(_EXIT_TIMEOUT)
            except subprocess.TimeoutExpired:
                self._process.kill()
        if self._process is None or self._process.returncode:  # someone killed it
            self.sweep()
