"""A rendezvous carried out: torch's handler for it, with every wait where a signal can end it."""

import time
from dataclasses import dataclass
from datetime import timedelta

from torch._C._distributed_c10d import PrefixStore, TCPStore
from torch.distributed.elastic.rendezvous import (
    RendezvousHandler,
    RendezvousInfo,
    RendezvousParameters,
    RendezvousStoreInfo,
)
from torch.distributed.elastic.rendezvous.registry import get_rendezvous_handler
from torch.distributed.elastic.rendezvous.static_tcp_rendezvous import StaticTCPRendezvous

from .errors import LaunchError, UsageError
from .network import check_own_name, check_port_is_free, is_own, own_address, wait_for_port
from .nodes import STATIC, Rendezvous

__all__ = ["Meeting", "meet"]

# Every launch that names the same endpoint is the same one.
_RUN_ID = "ignite-launch"
_PATIENCE = 900


@dataclass(frozen=True)
class Meeting:
    """A place to meet.

    Attributes:
        handler: torch's, which waits there for the others.
        address: at which the others reach this node.
        hosts_store: whether the others connect to this node.
    """

    handler: RendezvousHandler
    address: str
    hosts_store: bool


def meet(rendezvous: Rendezvous) -> Meeting:
    """Return where this node waits for the others.

    Raises:
        LaunchError: the nodes cannot meet there.
    """
    if not rendezvous.several_nodes:
        return _meet_here()
    host, port = rendezvous.host, rendezvous.port
    address = own_address(host, port, rendezvous.interface)
    check_own_name(address, rendezvous.interface)
    hosts_store = rendezvous.node_rank == 0 if rendezvous.node_rank is not None else is_own(host, port)
    if hosts_store:
        check_port_is_free(host, port)
    else:
        wait_for_port(host, port, _PATIENCE)
    if rendezvous.kind == STATIC:
        rank = rendezvous.node_rank or 0
        return Meeting(_Static(host, port, rank, rendezvous.max_nodes, _RUN_ID, _PATIENCE), address, hosts_store)
    parameters = RendezvousParameters(
        "c10d",
        f"[{host}]:{port}" if ":" in host else f"{host}:{port}",
        _RUN_ID,
        rendezvous.min_nodes,
        rendezvous.max_nodes,
        local_addr=address,
        is_host=hosts_store,
        timeout=_PATIENCE,
    )
    return Meeting(get_rendezvous_handler(parameters), address, hosts_store)


def _meet_here() -> Meeting:
    # By address, since a container's own name may not resolve; on a port that the kernel finds free.
    address = "127.0.0.1"
    return Meeting(_Static(address, 0, 0, 1, _RUN_ID, _PATIENCE), address, hosts_store=True)


class _Static(StaticTCPRendezvous):
    """torch's static rendezvous, but that it waits for the other nodes in Python: in C++ no signal ends the wait."""

    def next_rendezvous(self) -> RendezvousInfo:
        if self._store is None:
            store = TCPStore(
                self.master_addr,
                self.master_port,
                is_master=self.rank == 0,
                timeout=timedelta(seconds=60),
                wait_for_workers=False,
                multi_tenant=True,
            )
            self._join(PrefixStore("ignite-launch/join", store))
            self._store = store
        return RendezvousInfo(
            PrefixStore(self.run_id, self._store),
            self.rank,
            self.world_size,
            RendezvousStoreInfo(self.master_addr, self.master_port),
        )

    def _join(self, store: PrefixStore) -> None:
        if store.add(f"node {self.rank}", 1) > 1:
            raise UsageError(f"--node-rank {self.rank} was given to two nodes")
        deadline = time.monotonic() + _PATIENCE
        while missing := [node for node in range(self.world_size) if not store.add(f"node {node}", 0)]:
            if time.monotonic() > deadline:
                nodes = ", ".join(map(str, missing))
                raise LaunchError(f"nodes did not come to {self.master_addr}:{self.master_port}: {nodes}")
            time.sleep(0.1)
