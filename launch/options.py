"""The options of a launch, as the rest of the launcher reads them."""

from collections.abc import Mapping
from dataclasses import dataclass, field

__all__ = ["LaunchOptions"]


@dataclass(frozen=True)
class LaunchOptions:
    """The parsed command line, not yet checked against the machine.

    Attributes:
        script: path of the script, or name of the module if ``module`` is true.
        arguments: what follows the script, unchanged.
        module: whether ``script`` is a module, as with ``python -m``.
        gpus: text of ``--gpus``; None for all GPUs.
        strategy: ``auto``, ``single``, ``dp`` or ``ddp``.
        nproc: processes on this node; None lets the plan choose.
        nnodes: least and most nodes; None for one.
        node_rank: this node's rank, or None. Node 0 is the one that the others connect to.
        endpoint: ``HOST:PORT`` of the rendezvous, or None.
        interface: network interface for gloo and NCCL; None lets them choose.
        max_restarts: how often failed workers are restarted; None for never.
        grace: seconds that workers get to exit after a signal.
        log_dir: folder for one log file a rank; None for the console alone.
        inherited: where options come from that were not given: a variable, or ``--check``, by the option's name.
        variables: whose variables these are, in words.
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
    max_restarts: int | None = None
    grace: float = 30.0
    log_dir: str | None = None
    inherited: Mapping[str, str] = field(default_factory=dict)
    variables: str = ""

    def say(self, name: str) -> str:
        """Return where an option comes from and its value, as a message names it: ``--nproc 2``."""
        return f"{self.inherited.get(name, '--' + name.replace('_', '-'))} {getattr(self, name)}"
