"""Number of nodes, this node's rank and the rendezvous: from the command line, or from srun's variables."""

import re
from collections.abc import Mapping
from dataclasses import dataclass

from .arguments import LaunchOptions, parse_integer
from .errors import UsageError

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
        source: where the numbers come from, in words; empty for the command line.
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


# What the command line must give: no host, no rank.
_NOTHING_KNOWN = RendezvousPlan(host="", node_rank=None)


def plan_rendezvous(options: LaunchOptions, environ: Mapping[str, str]) -> RendezvousPlan:
    """Return how the nodes meet. What the command line doesn't say is taken from srun's variables.

    Raises:
        UsageError: the node options contradict each other, or one is missing.
    """
    is_told_all = None not in (options.nnodes, options.node_rank, options.endpoint)
    slurm = _NOTHING_KNOWN if is_told_all else _read_srun(environ)
    nnodes = options.nnodes or (slurm.min_nodes, slurm.max_nodes)
    if nnodes == (1, 1):
        for name, value in (("--node-rank", options.node_rank), ("--rdzv-endpoint", options.endpoint)):
            if value is not None:
                raise UsageError(f"{name} {value} is for several nodes; give their number with --nnodes")
        return RendezvousPlan(interface=options.interface)
    endpoint = _parse_endpoint(options.endpoint) if options.endpoint else (slurm.host, slurm.port)
    if not endpoint[0]:
        raise UsageError("several nodes need --rdzv-endpoint HOST:PORT, where HOST is node 0")
    kind = STATIC if nnodes[0] == nnodes[1] else _C10D
    node_rank = slurm.node_rank if options.node_rank is None else options.node_rank
    if kind == STATIC and node_rank is None:
        raise UsageError(f"--nnodes {nnodes[0]} needs --node-rank, this node's rank from 0 to {nnodes[0] - 1}")
    if node_rank is not None and node_rank >= nnodes[1]:
        source = "SLURM_NODEID" if options.node_rank is None else "--node-rank"
        raise UsageError(f"{source} must be below the number of nodes, {nnodes[1]}, got {node_rank}")
    return RendezvousPlan(kind, *endpoint, *nnodes, node_rank, options.interface, slurm.source)


def _parse_endpoint(text: str) -> tuple[str, int]:
    host, _, digits = text.rpartition(":")
    port = parse_integer(digits)
    if not host or port is None or not 0 < port < 65536:
        raise UsageError(f"--rdzv-endpoint must be HOST:PORT with a port from 1 to 65535, got {text!r}")
    return host.removeprefix("[").removesuffix("]"), port


def _read_srun(environ: Mapping[str, str]) -> RendezvousPlan:
    """Return what srun's variables say; outside srun, one node without a host.

    Raises:
        UsageError: srun started more than one launcher on a node, or a variable is missing.
    """
    # sbatch's own script has the job's variables too; only srun, which starts a task per node, sets the step's.
    if "SLURM_STEP_ID" not in environ:
        return _NOTHING_KNOWN
    try:
        return _read_step(environ)
    except ValueError as error:
        raise UsageError(
            f"cannot read srun's variables: {error}; give --nnodes, --node-rank and --rdzv-endpoint, or unset "
            "SLURM_STEP_ID"
        ) from error


def _read_step(environ: Mapping[str, str]) -> RendezvousPlan:
    nodes, tasks = (_read_integer(environ, f"SLURM_STEP_NUM_{what}", minimum=1) for what in ("NODES", "TASKS"))
    if tasks > nodes:
        raise UsageError(
            f"srun started {tasks} tasks on {nodes} nodes, but each launcher starts its node's processes itself; "
            "use srun --ntasks-per-node=1"
        )
    if nodes == 1:
        return _NOTHING_KNOWN
    host = _first_host(environ.get("SLURM_STEP_NODELIST", ""))
    port = 20_000 + _read_integer(environ, "SLURM_JOB_ID") % 20_000
    node = _read_integer(environ, "SLURM_NODEID")
    return RendezvousPlan(STATIC, host, port, nodes, nodes, node, None, "srun's variables")


def _read_integer(environ: Mapping[str, str], name: str, minimum: int = 0) -> int:
    text = environ.get(name, "")
    value = parse_integer(text)
    if value is None or value < minimum:
        raise ValueError(f"{name} must be an integer >= {minimum}, got {text!r}")
    return value


def _first_host(nodelist: str) -> str:
    """Return the first host of SLURM's compressed list.

    Example:
        >>> _first_host("gpu[007-009,12],login1"), _first_host("a-1,b-2")
        ('gpu007', 'a-1')
    """
    match = re.match(r"([^,\[]+)(?:\[(\d+)[^\]]*\]([^,]*))?", nodelist)
    if match is None:
        raise ValueError(f"SLURM_STEP_NODELIST must be a list of host names, got {nodelist!r}")
    return "".join(part or "" for part in match.groups())
