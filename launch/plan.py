"""Options and devices to a LaunchPlan: a pure function, so that ``--dry-run`` tells all and touches nothing."""

from collections.abc import Mapping
from dataclasses import dataclass

from .devices import Inventory
from .nodes import Rendezvous, plan_rendezvous
from .options import LaunchOptions
from .selection import select_devices
from .strategy import Decision, decide

__all__ = ["LaunchPlan", "make_plan"]

# What another launcher may have left in the environment: a single process would take it for its own.
_TORCH: tuple[str, ...] = (
    "RANK",
    "LOCAL_RANK",
    "WORLD_SIZE",
    "LOCAL_WORLD_SIZE",
    "GROUP_RANK",
    "GROUP_WORLD_SIZE",
    "MASTER_ADDR",
)
_TORCH += ("MASTER_PORT", "ROLE_RANK", "ROLE_NAME", "ROLE_WORLD_SIZE", "TORCHELASTIC_RUN_ID")
_TORCH += ("TORCHELASTIC_RESTART_COUNT", "TORCHELASTIC_MAX_RESTARTS", "TORCHELASTIC_USE_AGENT_STORE")
_TORCH += ("TORCHELASTIC_ERROR_FILE", "TORCHELASTIC_SIGNALS_TO_HANDLE")


@dataclass(frozen=True)
class LaunchPlan:
    """Everything that a launch will do.

    Attributes:
        strategy: ``single``, ``dp`` or ``ddp``.
        reason: what was chosen and why, in one line.
        gpus: the ids that ``CUDA_VISIBLE_DEVICES`` will list; empty for the CPU.
        processes: workers on this node.
        environment: variables that every worker is given, by name.
        unset: inherited variables that no worker is given.
        command: what each worker executes.
        rendezvous: where the workers meet.
        supervised: whether the launcher stays as the workers' parent, rather than becoming the one process itself.
        max_restarts: how often a failed group of workers is started again.
        grace: seconds that workers have to end after a signal.
        log_dir: folder for a file of output per rank, or None.
    """

    strategy: str
    reason: str
    gpus: tuple[str, ...]
    processes: int
    environment: tuple[tuple[str, str], ...]
    unset: tuple[str, ...]
    command: tuple[str, ...]
    rendezvous: Rendezvous
    supervised: bool
    max_restarts: int
    grace: float
    log_dir: str | None


def make_plan(
    options: LaunchOptions,
    inventory: Inventory,
    environ: Mapping[str, str],
    *,
    cores: int,
    python: str,
    terminal: bool = False,
) -> LaunchPlan:
    """Return what to do for ``options`` on a machine with these devices, variables and cores.

    ``terminal`` says that the output goes to one.

    Raises:
        UsageError: the options contradict each other or the machine.
    """
    rendezvous = plan_rendezvous(options, environ)
    selection = select_devices(options.gpus, inventory, environ)
    decision = decide(options, selection, several_nodes=rendezvous.several_nodes)
    supervised = decision.strategy == "ddp" or options.max_restarts > 0 or options.log_dir is not None
    lines = terminal and options.log_dir is None
    environment = _environment(decision, rendezvous, environ, cores)
    target = ("-m", options.script) if options.module else (options.script,)
    return LaunchPlan(
        strategy=decision.strategy,
        reason=_reason(decision, rendezvous, dict(environment)["CUDA_VISIBLE_DEVICES"], environ),
        gpus=tuple(device.id for device in decision.devices),
        processes=decision.processes,
        environment=environment,
        unset=tuple(name for name in _TORCH if name in environ),
        # To a terminal python writes line by line. Elsewhere it would keep pages back, and lose them when it is killed.
        command=(python, *(("-u",) if supervised and not lines else ()), *target, *options.arguments),
        rendezvous=rendezvous,
        supervised=supervised,
        max_restarts=options.max_restarts,
        grace=options.grace,
        log_dir=options.log_dir,
    )


def _environment(
    decision: Decision, rendezvous: Rendezvous, environ: Mapping[str, str], cores: int
) -> tuple[tuple[str, str], ...]:
    order = environ.get("CUDA_DEVICE_ORDER", "PCI_BUS_ID")
    # A number means nvidia-smi's GPU only in PCI order; a UUID means the same in any.
    ids = [device.id if order == "PCI_BUS_ID" else device.uuid for device in decision.devices]
    values = {
        "CUDA_DEVICE_ORDER": order,
        "CUDA_VISIBLE_DEVICES": ",".join(ids),
        "IGNITE_LAUNCH_STRATEGY": decision.strategy,
        "IGNITE_LAUNCH_BACKEND": "nccl" if decision.devices else "gloo",
    }
    if decision.processes > 1 and "OMP_NUM_THREADS" not in environ:
        values["OMP_NUM_THREADS"] = str(max(1, cores // decision.processes))
    if rendezvous.interface:
        values |= {"GLOO_SOCKET_IFNAME": rendezvous.interface, "NCCL_SOCKET_IFNAME": rendezvous.interface}
    return tuple(sorted(values.items()))


def _reason(decision: Decision, rendezvous: Rendezvous, ids: str, environ: Mapping[str, str]) -> str:
    number, plural = decision.processes, "es" * (decision.processes > 1)
    if decision.devices:
        names = ", ".join(dict.fromkeys(device.name for device in decision.devices))
        place = f"GPU{'s' * (len(decision.devices) > 1)} {ids} ({names})"
        if "CUDA_VISIBLE_DEVICES" in environ:
            place += f", of CUDA_VISIBLE_DEVICES={environ['CUDA_VISIBLE_DEVICES']} read in nvidia-smi's order"
    else:
        place = f"the CPU ({decision.why_cpu})"
    text = f"{decision.strategy} ({decision.why}): {number} process{plural} on {place}"
    if rendezvous.several_nodes:
        count = "to ".join(dict.fromkeys((f"{rendezvous.min_nodes} ", f"{rendezvous.max_nodes} ")))
        text += f", on each of {count}nodes that meet at {rendezvous.host}:{rendezvous.port}"
        text += f", from {rendezvous.source}" if rendezvous.source else ""
    return text
