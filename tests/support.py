"""Shared by tests: several processes in one group, with a time limit, and none left behind.

They are forks of a server that has imported torch, which saves each of them the seconds of the import.
"""

import faulthandler
import multiprocessing
import os
import runpy
import signal
import socket
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from ignite.engine import State

from tests.settings import seeded, threads

needs_max_iters = pytest.mark.skipif(not hasattr(State(), "max_iters"), reason="Ignite before 0.5.5 has no max_iters")

# The fork server imports torch and Ignite once and never computes, so forks start immediately and are safe.
_CONTEXT = multiprocessing.get_context("forkserver")
_PRELOAD = ["ignite.engine", "ignite.handlers", "ignite.distributed", "tests.support"]
_PRELOAD += ["torch", "torch._dynamo"]  # an optimizer's first step imports this, which takes seconds
_PRELOAD += ["torch.distributed.checkpoint", "torch.distributed.pipelining", "torch.distributed.tensor.parallel"]
_PRELOAD += ["sklearn.datasets", "torch.utils.tensorboard", "pytest", "ignite_tips", "ignite_launch.agent"]
_CONTEXT.set_forkserver_preload(_PRELOAD)
_TO_END = 3.0  # seconds for the other ranks once one has failed


def run_distributed(
    worker: Callable[..., Any], world_size: int, *args: Any, timeout: float = 60.0, backend: str = "gloo"
) -> list[Any]:
    """Call ``worker(rank, world_size, *args)`` in processes of one group and return what each returned.

    ``worker`` is a top-level function of a test module; its result is saved with ``torch.save``.
    """
    with tempfile.TemporaryDirectory() as folder:
        processes = [
            _CONTEXT.Process(target=_work, args=(worker, rank, world_size, folder, args, timeout, backend))
            for rank in range(world_size)
        ]
        for process in processes:
            process.start()
        try:
            _wait(processes, timeout)
        finally:
            for process in processes:
                process.kill()
                process.join()
        failures = [text for path in sorted(Path(folder).glob("*.failure")) if (text := path.read_text())]
        if failures or any(process.exitcode for process in processes):
            codes = [process.exitcode for process in processes]
            raise RuntimeError(f"exit codes {codes} of ranks 0 to {world_size - 1}\n" + "\n".join(failures))
        return [torch.load(Path(folder, f"{rank}.result"), weights_only=False) for rank in range(world_size)]


def _wait(processes: list[Any], timeout: float) -> None:
    """Wait until all have ended; after a failure only for a moment, because the others may never end."""
    deadline, has_failed = time.monotonic() + timeout, False
    running = list(processes)
    while running and not (has_failed and time.monotonic() > deadline):
        if time.monotonic() > deadline:
            raise TimeoutError(f"{len(running)} of {len(processes)} processes did not end within {timeout} s")
        multiprocessing.connection.wait([process.sentinel for process in running], timeout=0.5)
        if not has_failed and any(process.exitcode for process in running):
            deadline, has_failed = time.monotonic() + _TO_END, True
        running = [process for process in running if process.exitcode is None]


@dataclass(frozen=True)
class Ended:
    """How a process of ``run_script`` ended, like a result of ``subprocess``."""

    code: int | None
    out: str
    err: str


def run_script(
    path: str | Path, *arguments: str, folder: Path, world_size: int = 1, timeout: float = 100.0, **variables: str
) -> list[Ended]:
    """Run a script, as ``python path arguments`` would, in one process, or in several as a launcher starts them.

    ``folder`` is their working folder. Do not use this if a launcher, a whole interpreter or a warning at import is
    tested.
    """
    if world_size > 1:
        with socket.create_server(("127.0.0.1", 0)) as server:
            port = server.getsockname()[1]
        variables |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
        variables |= {"WORLD_SIZE": str(world_size), "LOCAL_WORLD_SIZE": str(world_size)}
    with tempfile.TemporaryDirectory() as scratch:
        processes = []
        for rank in map(str, range(world_size)):
            own = variables | ({"RANK": rank, "LOCAL_RANK": rank} if world_size > 1 else {})
            outputs = [Path(scratch, f"{name}{rank}") for name in ("out", "err")]
            processes.append(
                _CONTEXT.Process(target=_run_script, args=(str(path), list(arguments), folder, own, outputs))
            )
        for process in processes:
            process.start()
        try:
            _wait(processes, timeout)
        finally:
            for process in processes:
                process.kill()
                process.join()
        return [
            Ended(process.exitcode, *(Path(scratch, f"{name}{rank}").read_text() for name in ("out", "err")))
            for rank, process in enumerate(processes)
        ]


class Fork:
    """A process that calls ``function(*args)`` in an environment, folder and session of its own, like a Popen object.

    It starts with torch imported, unlike a new interpreter.
    """

    def __init__(
        self, function: Callable[..., int], *args: Any, environment: dict[str, str], folder: Path, outputs: list[Path]
    ) -> None:
        for output in outputs:
            output.write_bytes(b"")
        self._process = _CONTEXT.Process(target=_call, args=(function, args, environment, folder, outputs))
        self._process.start()
        assert self._process.pid is not None
        self.pid = self._process.pid

    def poll(self) -> int | None:
        return self._process.exitcode

    def wait(self, timeout: float | None = None) -> int:
        self._process.join(timeout)
        code = self._process.exitcode
        if code is None:
            raise TimeoutError(f"the process did not end within {timeout} s")
        return code

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


def _call(
    function: Callable[..., int], args: Any, environment: dict[str, str], folder: Path, outputs: list[Path]
) -> None:
    os.setsid()
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    tempfile.tempdir = None  # read from the environment again
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for number, output in enumerate(outputs, 1):
        os.dup2(os.open(output, os.O_WRONLY | os.O_APPEND), number)
    sys.stdout, sys.stderr = (open(number, "w", buffering=1, closefd=False) for number in (1, 2))  # noqa: SIM115
    os._exit(function(*args))


def _run_script(path: str, arguments: list[str], folder: Path, variables: dict[str, str], outputs: list[Path]) -> None:
    for number, output in enumerate(outputs, 1):
        with open(output, "w") as file:
            os.dup2(file.fileno(), number)
    os.chdir(folder)
    os.environ.update(variables)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    torch.set_num_threads(threads())
    sys.argv = [path, *arguments]
    sys.path.insert(0, str(Path(path).parent))
    runpy.run_path(path, run_name="__main__")


def _work(
    worker: Callable[..., Any], rank: int, world_size: int, folder: str, args: Any, timeout: float, backend: str
) -> None:
    torch.set_num_threads(threads())
    torch.manual_seed(seeded())
    if backend == "nccl":
        torch.cuda.set_device(rank)
    failure = open(Path(folder, f"{rank}.failure"), "w")  # noqa: SIM115  # open to the process's end
    faulthandler.enable(failure)  # a crash of the process is told too
    try:
        store = dist.FileStore(str(Path(folder, "store")), world_size)
        dist.init_process_group(
            backend, store=store, rank=rank, world_size=world_size, timeout=timedelta(seconds=timeout)
        )
        torch.save(worker(rank, world_size, *args), Path(folder, f"{rank}.result"))
        # gloo's threads may abort a process that shuts down, so no rank does; each waits for those that need it.
        store.set(f"rank {rank} is done", "")
        store.wait([f"rank {other} is done" for other in range(world_size)])
        os._exit(0)
    except BaseException:
        failure.write(f"rank {rank}:\n{traceback.format_exc()}")
        failure.flush()
        raise SystemExit(1) from None
