"""Where the workers of a launch meet: on this node, or over several, by hand or from SLURM's variables."""

import re
from collections.abc import Mapping
from dataclasses import dataclass

from .digits import is_whole_number
from .errors import UsageError
from .options import LaunchOptions

__all__ = ["Rendezvous", "plan_rendezvous"]

LOCAL, STATIC, C10D = "local", "static", "c10d"


@dataclass(frozen=True)
class Rendezvous:
    """How the nodes find each other.

    Attributes:
        kind: ``local`` for one node, ``static`` for a fixed number, ``c10d`` for an elastic one.
        host: the node that the others connect to.
        port: on that node; 0 takes a free one.
        min_nodes: the fewest nodes to start with.
        max_nodes: the most.
        node_rank: this node's number; None where the rendezvous gives it out.
        interface: the network interface for gloo and NCCL, or None.
        source: what the numbers were taken from, in words; empty for the command line.
    """

    kind: str = LOCAL
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


def plan_rendezvous(options: LaunchOptions, environ: Mapping[str, str]) -> Rendezvous:
    """Return where the workers meet; what the command line leaves open comes from srun's variables.

    Raises:
        UsageError: the node options contradict each other, or one is missing.
    """
    slurm = _slurm_step(environ)
    nnodes = options.nnodes or (slurm.min_nodes, slurm.max_nodes)
    if nnodes == (1, 1):
        for name, value in (("--node-rank", options.node_rank), ("--rdzv-endpoint", options.endpoint)):
            if value is not None:
                raise UsageError(f"{name} {value} is for several nodes; give their number with --nnodes")
        return Rendezvous(interface=options.interface)
    endpoint = _parse_endpoint(options.endpoint) if options.endpoint else (slurm.host, slurm.port)
    if not endpoint[0]:
        raise UsageError("several nodes need --rdzv-endpoint HOST:PORT, where HOST is node 0")
    kind = STATIC if nnodes[0] == nnodes[1] else C10D
    node_rank = slurm.node_rank if options.node_rank is None else options.node_rank
    if kind == STATIC and node_rank is None:
        raise UsageError(f"--nnodes {nnodes[0]} needs --node-rank, this node's number from 0 to {nnodes[0] - 1}")
    if node_rank is not None and node_rank >= nnodes[1]:
        source = "SLURM_NODEID" if options.node_rank is None else "--node-rank"
        raise UsageError(f"{source} must be below the number of nodes, {nnodes[1]}, got {node_rank}")
    return Rendezvous(kind, *endpoint, *nnodes, node_rank, options.interface, slurm.source)


def _parse_endpoint(text: str) -> tuple[str, int]:
    host, colon, port = text.rpartition(":")
    if not (colon and host and is_whole_number(port) and 0 < int(port) < 65536):
        raise UsageError(f"--rdzv-endpoint must be HOST:PORT with a port from 1 to 65535, got {text!r}")
    return host.removeprefix("[").removesuffix("]"), int(port)


def _slurm_step(environ: Mapping[str, str]) -> Rendezvous:
    """Return what srun's variables say; where there are none, one node without a host.

    Raises:
        UsageError: srun started more than one launcher on a node.
    """
    nowhere = Rendezvous(host="", node_rank=None)
    # sbatch's own script has the job's variables too; only srun, which starts a task per node, sets the step's.
    if "SLURM_STEP_ID" not in environ:
        return nowhere
    try:
        nodes, tasks = (_number(environ, f"SLURM_STEP_NUM_{what}", least=1) for what in ("NODES", "TASKS"))
        if tasks > nodes:
            raise UsageError(
                f"srun started {tasks} tasks on {nodes} nodes, but each launcher starts its node's processes itself; "
                "use srun --ntasks-per-node=1"
            )
        if nodes == 1:
            return nowhere
        host = _first_host(environ.get("SLURM_STEP_NODELIST", ""))
        port = 20_000 + _number(environ, "SLURM_JOB_ID") % 20_000
        node = _number(environ, "SLURM_NODEID")
    except ValueError as error:
        raise UsageError(
            f"cannot read srun's variables: {error}; give --nnodes, --node-rank and --rdzv-endpoint, or unset "
            "SLURM_STEP_ID"
        ) from error
    return Rendezvous(STATIC, host, port, nodes, nodes, node, None, "srun's variables")


def _number(environ: Mapping[str, str], name: str, least: int = 0) -> int:
    text = environ.get(name, "")
    if not is_whole_number(text) or int(text) < least:
        raise ValueError(f"{name} must be an integer >= {least}, got {text!r}")
    return int(text)


def _first_host(nodelist: str) -> str:
    """Return the first host of SLURM's compressed list.

    Example:
        >>> _first_host("gpu[007-009,12],login1"), _first_host("a-1,b-2")
        ('gpu007', 'a-1')
    """
    match = re.match(r"([^,\[]+)(?:\[(\d+)[^\]]*\]([^,]*))?", nodelist)
    if match is None:
        raise ValueError(f"SLURM_STEP_NODELIST must be names of hosts, got {nodelist!r}")
    return "".join(part or "" for part in match.groups())
