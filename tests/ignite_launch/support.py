"""Shared by the launcher's tests: real launches with a time limit, and a check that they leave nothing behind."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from ignite_launch.cli import main

from tests.support import Fork

__all__ = ["Launch", "Result", "clean_environment", "environment", "marked_processes", "wait_until"]

_MARK = "IGNITE_LAUNCH_TEST_MARK"


def clean_environment() -> dict[str, str]:
    """Return this environment without the variables that a launcher reads."""
    inherited = (
        "PYTHONUNBUFFERED",
        "CUDA_",
        "SLURM_",
        "IGNITE_LAUNCH_",
        "TORCHELASTIC_",
        "OMP_NUM_THREADS",
        "GLOO_",
        "MASTER_",
        "MPI_",
        "OMPI_",
        "PET_",
        "PMI_",
        "NCCL_",
    )
    return {name: value for name, value in os.environ.items() if not name.startswith(inherited)}


def environment(tmp_path: Path, **variables: str) -> dict[str, str]:
    """Return a clean environment with ``variables``, a mark and its own temporary folder.

    This machine's GPUs stay hidden if they are hidden from the tests; a fake NVML's are visible.
    """
    scratch = tmp_path / "tmp"
    scratch.mkdir(exist_ok=True)
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    hidden = {} if visible is None or "FAKE_NVML" in variables else {"CUDA_VISIBLE_DEVICES": visible}
    return clean_environment() | hidden | {"TMPDIR": str(scratch), _MARK: str(tmp_path)} | variables


def marked_processes(tmp_path: Path) -> list[int]:
    """Return the live processes that inherited ``environment(tmp_path)``, however indirectly."""
    return [pid for pid in _pids() if f"{_MARK}={tmp_path}".encode() in _environ(pid)]


def _pids() -> Iterator[int]:
    return (int(name) for name in os.listdir("/proc") if name.isdecimal())


def _environ(pid: int) -> list[bytes]:
    try:
        return Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:
        return []


def wait_until(condition: Callable[[], object], what: str, seconds: float = 30.0) -> None:
    """Return as soon as ``condition()`` holds; fail after ``seconds``."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what}: not within {seconds:g} s")
        time.sleep(0.01)


@dataclass(frozen=True)
class Result:
    """How a launch ended."""

    code: int
    out: str
    err: str
    seconds: float


def _main(first: Callable[[], object] | None, arguments: tuple[str, ...]) -> int:
    if first is not None:
        first()
    return main(arguments)


class Launch:
    """A running launcher in its own session, as in a terminal; at the end it and all it started are killed.

    Leaving the context checks that no process of the run is alive and that its temporary folder is empty. A launcher of
    several processes is a fork that has imported torch, which saves two seconds, unless a ``fresh`` interpreter is
    asked for. ``first`` is called in the fork before the launcher.
    """

    def __init__(
        self,
        tmp_path: Path,
        *arguments: str,
        first: Callable[[], object] | None = None,
        fresh: bool = False,
        **variables: str,
    ) -> None:
        self.tmp_path = tmp_path
        self._arguments = arguments
        self._first = first
        self._is_fresh = fresh or "--nproc" not in arguments
        self._environment = environment(tmp_path, **variables)

    def __enter__(self) -> "Launch":
        self._start = time.monotonic()
        outputs = [self.tmp_path / f"launch.{name}" for name in ("out", "err")]
        self.process: Fork | subprocess.Popen[bytes]
        if self._is_fresh:
            with open(outputs[0], "wb") as out, open(outputs[1], "wb") as err:
                self.process = subprocess.Popen(
                    [sys.executable, "-m", "ignite_launch", *self._arguments],
                    env=self._environment,
                    cwd=self.tmp_path,
                    stdout=out,
                    stderr=err,
                    start_new_session=True,
                )
        else:
            self.process = Fork(
                _main,
                self._first,
                self._arguments,
                environment=self._environment,
                folder=self.tmp_path,
                outputs=outputs,
            )
        return self

    def result(self, timeout: float = 60.0) -> Result:
        """Wait until the launcher exits."""
        code = self.process.wait(timeout)
        seconds = time.monotonic() - self._start
        return Result(
            code, (self.tmp_path / "launch.out").read_text(), (self.tmp_path / "launch.err").read_text(), seconds
        )

    def __exit__(self, kind: object, *_: object) -> None:
        try:
            if kind is None:
                wait_until(lambda: not marked_processes(self.tmp_path), "the end of every process", 10)
                # torch's compiler creates a folder as soon as a script makes an optimizer.
                left = [path.name for path in (self.tmp_path / "tmp").iterdir()]
                assert [name for name in left if not name.startswith("torchinductor_")] == []
        finally:
            self.process.poll() is None and self.process.kill()
            self.process.wait()
            for pid in marked_processes(self.tmp_path):
                os.kill(pid, signal.SIGKILL)


def launch(tmp_path: Path, *arguments: str, timeout: float = 60.0, fresh: bool = False, **variables: str) -> Result:
    """Run ``ignite-launch`` to its end."""
    with Launch(tmp_path, *arguments, fresh=fresh, **variables) as running:
        return running.result(timeout)
