"""Options that the command line leaves open, from the variables of what starts a launcher on each node.

srun, mpirun and Kubernetes say in variables what a person says in options. To support another program, add a row to
``_STARTERS`` and a function that returns its values as options.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from .arguments import parse_integer, parse_node_counts
from .errors import UsageError
from .options import LaunchOptions

__all__ = ["inherit_options"]

# An option's value, and the variable that says so.
_Inherited = dict[str, tuple[Any, str]]


@dataclass(frozen=True)
class _Starter:
    """A program that starts one launcher on each node.

    Attributes:
        variables: whose variables these are, in words.
        sign: a variable that only this program sets, and always.
        read: returns the options that the variables stand for; ValueError if one can't be read.
    """

    variables: str
    sign: str
    read: Callable[[Mapping[str, str]], _Inherited]


def inherit_options(options: LaunchOptions, environ: Mapping[str, str]) -> LaunchOptions:
    """Return the options, with those that were not given as the variables say.

    Raises:
        UsageError: a variable can't be read, or several launchers were started on one node.
    """
    starter = next((starter for starter in _STARTERS if starter.sign in environ), None)
    if starter is None or None not in (options.nnodes, options.node_rank, options.endpoint):
        return options
    try:
        inherited = starter.read(environ)
    except ValueError as error:
        raise UsageError(
            f"cannot read {starter.variables}: {error}; give --nnodes, --node-rank and --rdzv-endpoint, or unset "
            f"{starter.sign}"
        ) from error
    open_options = {name for name in inherited if getattr(options, name) is None}
    if (options.nnodes or inherited.get("nnodes", ((1, 1),))[0]) == (1, 1):
        open_options -= {"node_rank", "endpoint"}
    if options.gpus not in (None, "none") or options.strategy in ("single", "dp"):
        open_options -= {"nproc"}  # the command line says how many processes there are
    return replace(
        options,
        **{name: inherited[name][0] for name in open_options},
        variables=starter.variables if open_options else "",
        inherited={**options.inherited, **{name: inherited[name][1] for name in open_options}},
    )


def _read_srun(environ: Mapping[str, str]) -> _Inherited:
    nodes, tasks = (_read_integer(environ, f"SLURM_STEP_NUM_{what}", minimum=1) for what in ("NODES", "TASKS"))
    if tasks > nodes:
        raise _several_launchers(f"srun started {tasks} tasks on {nodes} nodes", "srun --ntasks-per-node=1")
    if nodes == 1:
        return {}
    host = _first_host(environ.get("SLURM_STEP_NODELIST", ""))
    port = 20_000 + _read_integer(environ, "SLURM_JOB_ID") % 20_000
    return {
        "nnodes": ((nodes, nodes), "SLURM_STEP_NUM_NODES"),
        "node_rank": (_read_integer(environ, "SLURM_NODEID"), "SLURM_NODEID"),
        "endpoint": (f"{host}:{port}", "SLURM_STEP_NODELIST"),
    }


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


def _read_mpirun(environ: Mapping[str, str], *, size: str, rank: str, local_size: str, one_per_node: str) -> _Inherited:
    tasks, here = (_read_integer(environ, name, minimum=1) for name in (size, local_size))
    if here > 1:
        raise _several_launchers(f"mpirun started {here} tasks on this node", one_per_node)
    if tasks == 1:
        return {}
    inherited: _Inherited = {"nnodes": ((tasks, tasks), size), "node_rank": (_read_integer(environ, rank), rank)}
    # mpirun does not name its first host, but its users pass these two on with -x or -genv.
    return inherited | _read_endpoint(environ, "MASTER_ADDR", "MASTER_PORT")


def _read_torchrun(environ: Mapping[str, str]) -> _Inherited:
    """Read torchrun's options as variables, which is how Kubeflow's operators and others hand them to a pod."""
    nodes = parse_node_counts(environ["PET_NNODES"])
    if nodes is None:
        raise ValueError(f"PET_NNODES must be N or MIN:MAX, got {environ['PET_NNODES']!r}")
    inherited: _Inherited = {"nnodes": (nodes, "PET_NNODES")}
    if "PET_RDZV_ENDPOINT" in environ:
        inherited["endpoint"] = environ["PET_RDZV_ENDPOINT"], "PET_RDZV_ENDPOINT"
    else:
        inherited |= _read_endpoint(environ, "PET_MASTER_ADDR", "PET_MASTER_PORT")
    numbers = {"max_restarts": "PET_MAX_RESTARTS"}
    if environ.get("PET_RDZV_BACKEND", "static") == "static":  # others assign the ranks
        numbers["node_rank"] = "PET_NODE_RANK"
    if environ.get("PET_NPROC_PER_NODE") not in ("auto", "gpu"):  # what the plan chooses anyway
        numbers["nproc"] = "PET_NPROC_PER_NODE"
    for option, name in numbers.items():
        if name in environ:
            inherited[option] = _read_integer(environ, name, minimum=1 if option == "nproc" else 0), name
    return inherited


def _read_endpoint(environ: Mapping[str, str], host: str, port: str) -> _Inherited:
    if host not in environ:
        return {}
    return {"endpoint": (f"{environ[host]}:{_read_integer(environ, port)}", f"{host}:{port}")}


def _read_integer(environ: Mapping[str, str], name: str, minimum: int = 0) -> int:
    text = environ.get(name, "")
    value = parse_integer(text)
    if value is None or value < minimum:
        raise ValueError(f"{name} must be an integer >= {minimum}, got {text!r}")
    return value


def _several_launchers(what: str, remedy: str) -> UsageError:
    return UsageError(f"{what}, but each launcher starts its node's processes itself; use {remedy}")


_read_open_mpi = partial(
    _read_mpirun,
    size="OMPI_COMM_WORLD_SIZE",
    rank="OMPI_COMM_WORLD_RANK",
    local_size="OMPI_COMM_WORLD_LOCAL_SIZE",
    one_per_node="mpirun --map-by ppr:1:node --bind-to none",
)
_read_hydra = partial(
    _read_mpirun, size="PMI_SIZE", rank="PMI_RANK", local_size="MPI_LOCALNRANKS", one_per_node="mpirun -ppn 1"
)
# The first whose sign is there. mpirun may itself use srun, and PET_ variables are set on purpose.
_STARTERS = (
    _Starter("the PET_ variables", "PET_NNODES", _read_torchrun),
    _Starter("mpirun's variables", "OMPI_COMM_WORLD_SIZE", _read_open_mpi),
    # Of MPICH and Intel MPI. srun --mpi=pmi2 sets PMI_SIZE too, but not this one.
    _Starter("mpirun's variables", "MPI_LOCALNRANKS", _read_hydra),
    # sbatch's own script has the job's variables too; only srun, which starts a task per node, sets the step's.
    _Starter("srun's variables", "SLURM_STEP_ID", _read_srun),
)
