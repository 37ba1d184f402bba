"""What tests share: several processes in one group, with a time limit and none left behind."""

import contextlib
import multiprocessing
import os
import tempfile
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

# The fork server imports torch and Ignite once and never computes, so that its forks start at once and are sound.
_CONTEXT = multiprocessing.get_context("forkserver")
_PRELOAD = ["ignite.engine", "ignite.handlers", "ignite.distributed", "tests.support"]
_PRELOAD += ["torch", "torch._dynamo"]  # an optimizer's first step imports the last, for seconds
_CONTEXT.set_forkserver_preload(_PRELOAD)


def run_distributed(
    worker: Callable[..., Any], world_size: int, *args: Any, timeout: float = 60.0, backend: str = "gloo"
) -> list[Any]:
    """Call ``worker(rank, world_size, *args)`` in processes of one group and return what each returned.

    ``worker`` is a function at the top of a test module; what it returns is saved with ``torch.save``.
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
        failures = [path.read_text() for path in sorted(Path(folder).glob("*.failure"))]
        if failures or any(process.exitcode for process in processes):
            codes = [process.exitcode for process in processes]
            raise RuntimeError(f"exit codes {codes} of ranks 0 to {world_size - 1}\n" + "\n".join(failures))
        return [torch.load(Path(folder, f"{rank}.result"), weights_only=False) for rank in range(world_size)]


def _wait(processes: list[Any], timeout: float) -> None:
    # A rank that failed leaves the others waiting for it: the first failure ends the wait.
    deadline = time.monotonic() + timeout
    running = list(processes)
    while running:
        if time.monotonic() > deadline:
            raise TimeoutError(f"{len(running)} of {len(processes)} processes did not end within {timeout} s")
        multiprocessing.connection.wait([process.sentinel for process in running], timeout=1.0)
        if any(process.exitcode for process in running):
            return
        running = [process for process in running if process.exitcode is None]


def _work(
    worker: Callable[..., Any], rank: int, world_size: int, folder: str, args: Any, timeout: float, backend: str
) -> None:
    import traceback

    torch.set_num_threads(1)
    torch.manual_seed(0)
    if backend == "nccl":
        torch.cuda.set_device(rank)
    try:
        store = dist.FileStore(str(Path(folder, "store")), world_size)
        dist.init_process_group(
            backend, store=store, rank=rank, world_size=world_size, timeout=timedelta(seconds=timeout)
        )
        result = worker(rank, world_size, *args)
        torch.save(result, Path(folder, f"{rank}.result"))
        dist.barrier()
        with contextlib.suppress(Exception):
            dist.destroy_process_group()
        os._exit(0)  # gloo's threads may abort a process that is being taken down; all that counts is saved
    except BaseException:
        Path(folder, f"{rank}.failure").write_text(f"rank {rank}:\n{traceback.format_exc()}")
        raise SystemExit(1) from None
