"""Number of nodes, this node's rank and the rendezvous, from the options."""

from dataclasses import dataclass

from .arguments import parse_integer
from .errors import UsageError
from .options import LaunchOptions

__all__ = ["STATIC", "RendezvousPlan", "plan_rendezvous"]

_LOCAL, STATIC, _C10D = "local", "static", "c10d"


@dataclass(frozen=True)
class RendezvousPlan:
    """How the nodes find each other.

    Attributes:
        kind: ``local`` for one node, ``static`` for a fixed number, ``c10d`` for an elastic number.
        host: node that the others connect to.
        port: port on that node; 0 for any free one.
        min_nodes: fewest nodes to start with.
        max_nodes: most nodes.
        node_rank: this node's rank; None if the rendezvous assigns it.
        interface: network interface for gloo and NCCL, or None.
        source: whose variables the numbers come from, in words; empty for the command line.
    """

    kind: str = _LOCAL
    host: str = "127.0.0.1"
    port: int = 0
    min_nodes: int = 1
    max_nodes: int = 1
    node_rank: int | None = 0
    interface: str | None = None
    source: str = ""

    @property
    def several_nodes(self) -> bool:
        """Whether more than one node may take part."""
        return self.max_nodes > 1


def plan_rendezvous(options: LaunchOptions) -> RendezvousPlan:
    """Return how the nodes meet.

    Raises:
        UsageError: the node options contradict each other, or one is missing.
    """
    nnodes = options.nnodes or (1, 1)
    if nnodes == (1, 1):
        for name, value in (("--node-rank", options.node_rank), ("--rdzv-endpoint", options.endpoint)):
            if value is not None:
                raise UsageError(f"{name} {value} is for several nodes; give their number with --nnodes")
        return RendezvousPlan(interface=options.interface)
    if options.endpoint is None:
        why = f"; {options.variables} say that there are several" if "nnodes" in options.inherited else ""
        raise UsageError(f"several nodes need --rdzv-endpoint HOST:PORT, where HOST is node 0{why}")
    endpoint = _parse_endpoint(options.endpoint, options.inherited.get("endpoint", "--rdzv-endpoint"))
    if options.node_rank is not None and options.node_rank >= nnodes[1]:
        name = options.inherited.get("node_rank", "--node-rank")
        raise UsageError(f"{name} must be below the number of nodes, {nnodes[1]}, got {options.node_rank}")
    is_elastic = nnodes[0] < nnodes[1] or (options.node_rank is None and "nnodes" in options.inherited)
    if not is_elastic and options.node_rank is None:
        raise UsageError(f"--nnodes {nnodes[0]} needs --node-rank, this node's rank from 0 to {nnodes[0] - 1}")
    kind = _C10D if is_elastic else STATIC
    return RendezvousPlan(kind, *endpoint, *nnodes, options.node_rank, options.interface, options.variables)


def _parse_endpoint(text: str, name: str) -> tuple[str, int]:
    host, _, digits = text.rpartition(":")
    port = parse_integer(digits)
    if not host or port is None or not 0 < port < 65536:
        raise UsageError(f"{name} must be HOST:PORT with a port from 1 to 65535, got {text!r}")
    return host.removeprefix("[").removesuffix("]"), port
