"""What the user asked for, as plain values."""

from dataclasses import dataclass

__all__ = ["STRATEGIES", "LaunchOptions"]

STRATEGIES = ("auto", "single", "dp", "ddp")


@dataclass(frozen=True)
class LaunchOptions:
    """The command line, parsed but not yet judged against the machine.

    Attributes:
        script: path of the script, or the name of the module when ``module`` is true.
        arguments: what follows the script, untouched.
        module: whether ``script`` names a module, as in ``python -m``.
        gpus: the text of ``--gpus``; None stands for all there are.
        strategy: ``auto``, ``single``, ``dp`` or ``ddp``.
        nproc: processes on this node; None leaves it to the plan.
        nnodes: least and most nodes; None leaves it to SLURM, or is 1.
        node_rank: this node's number, 0 for the node that the others connect to; None if not given.
        endpoint: ``HOST:PORT`` where the nodes meet; None if not given.
        interface: network interface for gloo and NCCL; None leaves it to them.
        max_restarts: how often a failed group of workers is started again.
        grace: seconds that workers have to end after a signal.
        log_dir: folder for a file of output per rank; None writes to the console alone.
    """

    script: str
    arguments: tuple[str, ...] = ()
    module: bool = False
    gpus: str | None = None
    strategy: str = "auto"
    nproc: int | None = None
    nnodes: tuple[int, int] | None = None
    node_rank: int | None = None
    endpoint: str | None = None
    interface: str | None = None
    max_restarts: int = 0
    grace: float = 30.0
    log_dir: str | None = None
