"""Rendezvous of the nodes: torch's handlers, set up so that a signal can end every wait."""

import contextlib
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

from torch.distributed import PrefixStore, TCPStore  # type: ignore[attr-defined]  # torch doesn't mark re-exports
from torch.distributed.elastic.rendezvous import (
    RendezvousError,
    RendezvousHandler,
    RendezvousInfo,
    RendezvousParameters,
    RendezvousStoreInfo,
)
from torch.distributed.elastic.rendezvous.c10d_rendezvous_backend import create_backend
from torch.distributed.elastic.rendezvous.dynamic_rendezvous import create_handler
from torch.distributed.elastic.rendezvous.static_tcp_rendezvous import StaticTCPRendezvous

from .errors import LaunchError, UsageError, log
from .nodes import STATIC, RendezvousPlan
from .preflight import check_host_name, check_interface, interface_addresses
from .rendezvous_state import CheckedBackend

__all__ = ["Rendezvous", "host_store", "prepare_rendezvous"]

# Launches with the same endpoint belong together.
_RUN_ID = "ignite-launch"
_TIMEOUT = 900
_ANSWER_TIMEOUT = 60
_T = TypeVar("_T")


@dataclass(frozen=True)
class Rendezvous:
    """A rendezvous that is ready to join.

    Attributes:
        handler: torch's handler, which waits for the other nodes.
        address: address at which the others reach this node.
        is_host: whether this node hosts the store that the others connect to.
    """

    handler: RendezvousHandler
    address: str
    is_host: bool


def host_store(address: str) -> TCPStore:
    """Return a new store that listens on a free port of this address alone."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    try:
        server = socket.create_server((address, 0), family=family)
        port = server.getsockname()[1]
        # Where the loopback interface is down, one can listen, but TCPStore would wait minutes for its own connection.
        socket.create_connection((address, port), timeout=_ANSWER_TIMEOUT).close()
    except OSError as error:
        raise LaunchError(f"cannot reach this host at {address}: {error.strerror}") from error
    return TCPStore(address, port, is_master=True, wait_for_workers=False, master_listen_fd=server.detach())


def prepare_rendezvous(plan: RendezvousPlan) -> Rendezvous:
    """Check that this node can reach the rendezvous, and return it.

    Raises:
        LaunchError: the port is taken, or the host can't be reached.
    """
    if not plan.several_nodes:
        # An address, since a container's own name may not resolve; port 0 lets the kernel pick a free one.
        return Rendezvous(_StaticRendezvous("127.0.0.1", 0, 0, 1, _RUN_ID, _TIMEOUT), "127.0.0.1", is_host=True)
    if plan.source:
        _wait_for_name(plan.host, plan.port)
    address = _own_address(plan.host, plan.port, plan.interface)
    check_host_name(address, plan.interface)
    is_host = plan.node_rank == 0 if plan.node_rank is not None else _is_own(plan.host, plan.port)
    if is_host:
        _check_port_is_free(plan.host, plan.port)
    else:
        _wait_for_port(plan.host, plan.port)
    if plan.kind == STATIC:
        rank = plan.node_rank or 0
        static = _StaticRendezvous(plan.host, plan.port, rank, plan.max_nodes, _RUN_ID, _TIMEOUT)
        return Rendezvous(static, address, is_host)
    handler = _call_in_thread(lambda: _c10d_handler(plan, address, is_host), plan.host, plan.port)
    with _told_if_host_ends(plan.host, plan.port):
        _check_node_counts(_connect(plan.host, plan.port), f"{plan.min_nodes}:{plan.max_nodes}", is_host=is_host)
    return Rendezvous(handler, address, is_host)


def _c10d_handler(plan: RendezvousPlan, address: str, is_host: bool) -> RendezvousHandler:
    parameters = RendezvousParameters(
        "c10d",
        f"[{plan.host}]:{plan.port}" if ":" in plan.host else f"{plan.host}:{plan.port}",
        _RUN_ID,
        plan.min_nodes,
        plan.max_nodes,
        local_addr=address,
        is_host=is_host,
        timeout=_TIMEOUT,
    )
    backend, store = create_backend(parameters)
    return create_handler(store, CheckedBackend(backend), parameters)


class _StaticRendezvous(StaticTCPRendezvous):
    """torch's static rendezvous, but waiting for the other nodes in Python: a signal can't end a wait in C++.

    Each round has its own keys in the store, as in torch's elastic rendezvous.
    """

    _joined: TCPStore | None = None
    _rounds = 0

    def next_rendezvous(self) -> RendezvousInfo:
        if self._joined is None:
            with _told_if_host_ends(self.master_addr, self.master_port):
                self._joined = self._join() if self.world_size > 1 else host_store(self.master_addr)
        self._rounds += 1
        return RendezvousInfo(
            PrefixStore(f"{self.run_id}/{self._rounds}", self._joined),
            self.rank,
            self.world_size,
            RendezvousStoreInfo(self.master_addr, self.master_port),
        )

    def _join(self) -> TCPStore:
        tcp_store = _connect(self.master_addr, self.master_port, is_host=self.rank == 0)
        _check_node_counts(tcp_store, str(self.world_size), is_host=self.rank == 0)
        store = PrefixStore("ignite-launch/join", tcp_store)
        if store.add(f"node {self.rank}", 1) > 1:
            raise UsageError(f"--node-rank {self.rank} was given to two nodes")
        store.add("joined", 1)
        deadline = time.monotonic() + _TIMEOUT
        while store.add("joined", 0) < self.world_size:
            if time.monotonic() > deadline:
                nodes = ", ".join(str(node) for node in range(self.world_size) if not store.add(f"node {node}", 0))
                raise LaunchError(
                    f"these nodes did not join at {self.master_addr}:{self.master_port} within {_TIMEOUT} s: {nodes}"
                )
            time.sleep(0.1)
        return tcp_store


def _connect(host: str, port: int, *, is_host: bool = False) -> TCPStore:
    """Return a connection to the rendezvous store, or the store itself on the node that hosts it."""

    def connect() -> TCPStore:
        timeout = timedelta(seconds=_ANSWER_TIMEOUT)
        return TCPStore(host, port, is_master=is_host, timeout=timeout, wait_for_workers=False, multi_tenant=True)

    return _call_in_thread(connect, host, port)


def _check_node_counts(store: TCPStore, nodes: str, *, is_host: bool) -> None:
    """Raise UsageError if the host of the store was given another ``--nnodes``: one of the two would wait."""
    key = "ignite-launch/nodes"
    if is_host:
        store.set(key, nodes)
        return
    deadline = time.monotonic() + _ANSWER_TIMEOUT
    while not store.check([key]):
        if time.monotonic() > deadline:
            raise LaunchError(_not_a_launcher(store.host, store.port))
        time.sleep(0.05)
    on_host = store.get(key).decode()
    if on_host != nodes:
        raise UsageError(f"--nnodes must be the same on all nodes, got {nodes} here and {on_host} on {store.host}")


@contextlib.contextmanager
def _told_if_host_ends(host: str, port: int) -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:  # what the store's client raises once its server is gone
        raise LaunchError(f"node 0, at {host}:{port}, ended before all nodes had joined") from error


def _not_a_launcher(host: str, port: int) -> str:
    return f"what listens at {host}:{port} does not answer as a launcher; choose a free port in --rdzv-endpoint"


def _call_in_thread(function: Callable[[], _T], host: str, port: int) -> _T:
    """Call what waits in C++ for an answer in a thread: in the main thread no signal could end the wait."""
    answer: Future[_T] = Future()

    def call() -> None:
        try:
            answer.set_result(function())
        except Exception as error:  # raised again by the caller
            answer.set_exception(error)

    threading.Thread(target=call, daemon=True).start()
    try:
        return answer.result(_ANSWER_TIMEOUT)
    except (RuntimeError, TimeoutError, RendezvousError) as error:
        raise LaunchError(_not_a_launcher(host, port)) from error


def _own_address(host: str, port: int, interface: str | None) -> str:
    """Return this host's address on the interface or, without one, on the route to ``host``."""
    if interface is not None:
        check_interface(interface)
        return interface_addresses()[interface]
    family, address = _resolve(host, port)
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(address)  # sends nothing: the kernel only looks up the route
        except OSError as error:
            raise LaunchError(f"no route to host {host}: {error.strerror}") from error
        return str(probe.getsockname()[0])


def _is_own(host: str, port: int) -> bool:
    """Whether ``host`` is an address of this host."""
    family, address = _resolve(host, port)
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        try:
            probe.bind((address[0], 0, *address[2:]))
        except OSError:
            return False
    return True


def _check_port_is_free(host: str, port: int) -> None:
    family, _address = _resolve(host, port)
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("", port))
        except OSError as error:
            raise LaunchError(
                f"port {port} on {host} is taken ({error.strerror}); choose another in --rdzv-endpoint"
            ) from error


def _wait_for_name(host: str, port: int) -> None:
    """Return once the host's name resolves: Kubernetes publishes a pod's name only after the pod was scheduled."""
    deadline = time.monotonic() + _TIMEOUT
    is_told = False
    while True:
        try:
            _resolve(host, port)
            return
        except LaunchError:
            if time.monotonic() > deadline:
                raise
        if not is_told:
            log(f"waiting until the name of node 0, {host}, resolves")
            is_told = True
        time.sleep(0.2)


def _wait_for_port(host: str, port: int) -> None:
    """Return once something listens on the port; raise LaunchError after the timeout."""
    deadline = time.monotonic() + _TIMEOUT
    while True:
        try:
            with socket.create_connection((host, port), timeout=5.0):
                return
        except OSError as error:
            if time.monotonic() > deadline:
                raise LaunchError(f"node 0 did not answer at {host}:{port} within {_TIMEOUT} s: {error}") from error
        time.sleep(0.2)


def _resolve(host: str, port: int) -> tuple[int, Any]:
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM)[0]
    except OSError as error:
        raise LaunchError(f"cannot resolve node 0's name, {host!r}: {error.strerror}; see --rdzv-endpoint") from error
    return family, address
