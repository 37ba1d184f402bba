"""One run of the demo in two processes, from its start to its end."""

import contextlib
import os
import random
import signal
import subprocess
import time
from pathlib import Path

import psutil
from ignite_launch.cli import main

from tests.e2e.soak.moments import Kill
from tests.ignite_launch.support import environment, marked_processes, wait_until
from tests.support import Fork

__all__ = ["FREEZE", "ONE_THREAD", "SCRIPT", "Attempt", "build_pause"]

SCRIPT = Path(__file__).parents[3] / "examples" / "digits.py"
FREEZE = ("--freeze-epoch", "3")  # within the run, also a short one
ONE_THREAD = {"OMP_NUM_THREADS": "1"}  # the same sums on any number of cores
_SECONDS = 120.0  # time limit for everything


def build_pause(folder: Path) -> Path:
    """Compile pause.c; return the library."""
    library = folder / "pause.so"
    command = ["cc", "-shared", "-fPIC", "-O1", "-Wall", "-o", str(library), str(Path(__file__).with_name("pause.c"))]
    subprocess.run([*command, "-ldl"], check=True)
    return library


class Attempt:
    """A run of the demo.

    Attributes:
        output: what it has printed.
        launched: when it was started.
        killed: whether it was still running when it was to be killed.
        stopped: where pause.c had stopped it, such as "within a write"; "" if it had not.
        end_seconds: how long after the kill its last process ended.
    """

    def __init__(self, runs: Path, scratch: Path, pause: Path, stop: str | None, *arguments: str) -> None:
        self._scratch = scratch
        self._paused = scratch / "paused"
        self._paused.unlink(missing_ok=True)
        self._output = scratch / "output"
        self.killed = False
        self.end_seconds = 0.0
        self.stopped = ""
        self.launched = time.monotonic()
        variables = {"LD_PRELOAD": str(pause), "SOAK_FOLDER": f"{runs}/", "SOAK_PAUSED": str(self._paused)} | ONE_THREAD
        variables |= {"SOAK_STOP": stop} if stop else {"SOAK_LOG": str(scratch / "operations")}
        command = ["--nproc", "2", str(SCRIPT), "--runs", str(runs), *FREEZE, *arguments]
        self.process = Fork(
            main, command, environment=environment(scratch, **variables), folder=scratch, outputs=[self._output] * 2
        )

    @property
    def output(self) -> str:
        return self._output.read_text()

    def wait(self) -> int:
        """Wait for the end of the launcher and all its processes; return its exit code."""
        code = self.process.wait(_SECONDS)
        wait_until(lambda: not marked_processes(self._scratch), "the end of every process of the run", 20)
        return code

    def kill(self, kill: Kill) -> int:
        """Kill the drawn target at the drawn moment, unless the run ends before; wait until all processes end."""
        try:
            if kill.stop is not None:
                wait_until(lambda: self._paused.exists() or self._has_ended(), kill.stop, _SECONDS)
                self.stopped = self._paused.read_text() if self._paused.exists() else ""
                if kill.seconds:
                    self._paused.unlink(missing_ok=True)
            with contextlib.suppress(TimeoutError):
                self.process.wait(kill.seconds)
            self._kill(kill.target)
            killed = time.monotonic()
            if kill.target == "worker 1":  # worker 0 continues until told; otherwise it must die in that write
                self._paused.unlink(missing_ok=True)
            code = self.wait()
            self.end_seconds = time.monotonic() - killed if self.killed else 0.0
            return code
        finally:
            for pid in marked_processes(self._scratch):
                _send(pid)

    def _has_ended(self) -> bool:
        return self.process.poll() is not None

    def _kill(self, target: str) -> None:
        if target == "all":
            victims = [self.process.pid, *marked_processes(self._scratch)]
            random.shuffle(victims)
        elif target == "launcher":
            victims = [self.process.pid]
        else:
            rank = int(target[-1])
            # In the first second the launcher has no workers yet.
            wait_until(lambda: self._has_ended() or self._worker(rank), "the worker's start", _SECONDS)
            victims = [pid for pid in [self._worker(rank)] if pid]
        if self.process.poll() is None:
            self.killed = [_send(pid) for pid in victims].count(True) > 0

    def _worker(self, rank: int) -> int | None:
        with contextlib.suppress(psutil.NoSuchProcess):
            for child in psutil.Process(self.process.pid).children():
                with contextlib.suppress(psutil.Error):
                    if child.environ().get("RANK") == str(rank):
                        return child.pid
        return None


def _send(pid: int) -> bool:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return False
    return True
