"""Launches on the two hosts of the fixture ``hosts``."""

import ctypes
import os
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from tests.ignite_launch.support import Launch, wait_until

__all__ = ["WAIT", "Host", "start_on", "start_on_both", "wait_ready_on_both"]

WAIT = """
import os, pathlib, sys, time
pathlib.Path(f"ready{os.environ['LOCAL_RANK']}").touch()
while True: time.sleep(1)
"""


@dataclass(frozen=True)
class Host:
    """A network namespace."""

    namespace: str
    interface: str
    address: str

    def enter(self) -> None:
        """Move this process to the host."""
        namespace = os.open(f"/run/netns/{self.namespace}", os.O_RDONLY)
        if ctypes.CDLL(None, use_errno=True).setns(namespace, 0):  # os.setns() needs Python 3.12
            raise OSError(ctypes.get_errno(), f"cannot enter {self.namespace}")
        os.close(namespace)


def start_on_both(stack: ExitStack, tmp_path: Path, hosts: tuple[Host, Host], *arguments: str) -> list[Launch]:
    """Start a launcher with two processes on each host. Only rank and interface differ."""
    return [start_on(stack, tmp_path, hosts, rank, *arguments) for rank in range(len(hosts))]


def start_on(stack: ExitStack, tmp_path: Path, hosts: tuple[Host, Host], rank: int, *arguments: str) -> Launch:
    """Start a launcher on one of the hosts, with two processes unless the arguments say otherwise."""
    folder = tmp_path / f"host{rank}"
    folder.mkdir(exist_ok=True)
    own = ["--node-rank", f"{rank}", "--interface", hosts[rank].interface]
    two = () if "--nproc" in arguments else ("--nproc", "2")
    own += ["--rdzv-endpoint", f"{hosts[0].address}:29511"]
    return stack.enter_context(Launch(folder, *own, *two, *arguments, first=hosts[rank].enter))


def wait_ready_on_both(runs: list[Launch]) -> None:
    """Return once the four workers, which run ``WAIT``, have started."""
    files = [run.tmp_path / f"ready{rank}" for run in runs for rank in range(2)]
    wait_until(lambda: all(file.exists() for file in files), "the start of four workers", 60)
