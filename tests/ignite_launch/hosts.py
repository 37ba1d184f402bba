"""Two hosts on one machine: network namespaces with their own addresses, connected by a virtual cable."""

import ctypes
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.ignite_launch.support import Launch, wait_until

__all__ = ["WAIT", "Host", "NoHostsError", "make_hosts", "start_on", "start_on_both", "wait_ready_on_both"]

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

    def set_cable(self, state: str) -> None:
        """Cut the cable with ``down``, connect it with ``up``."""
        _ip(f"-n {self.namespace} link set {self.interface} {state}")


class NoHostsError(Exception):
    """This machine makes no network namespaces."""


@contextmanager
def make_hosts(number: int = 0) -> Iterator[tuple[Host, Host]]:
    """Yield two hosts that reach each other and nothing else; ``number`` tells those of one process apart."""
    if shutil.which("ip") is None or os.geteuid() != 0:
        raise NoHostsError("two network namespaces need root and the command ip")
    name = f"{os.getpid()}{'cdefghij'[number]}"
    first, second = (Host(f"ignite{name}{end}", f"v{name}{end}", f"10.91.0.{end}") for end in (1, 2))
    try:
        for host in (first, second):
            _ip(f"netns add {host.namespace}")
        ends = [f"{host.interface} netns {host.namespace}" for host in (first, second)]
        _ip(f"link add {ends[0]} type veth peer {ends[1]}")
        for host in (first, second):
            _ip(f"-n {host.namespace} link set lo up")
            _ip(f"-n {host.namespace} link set {host.interface} up")
            _ip(f"-n {host.namespace} addr add {host.address}/24 dev {host.interface}")
        yield first, second
    finally:
        for host in (first, second):
            subprocess.run(["ip", "netns", "del", host.namespace], capture_output=True, timeout=10)


def _ip(words: str) -> None:
    done = subprocess.run(["ip", *words.split()], capture_output=True, text=True, timeout=10)
    if done.returncode:
        raise NoHostsError(f"this machine makes no network namespaces: ip {words}: {done.stderr.strip()}")


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
