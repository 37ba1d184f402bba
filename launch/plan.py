"""Options and machine to a LaunchPlan, by a pure function: ``--dry-run`` shows all of it and changes nothing."""

from collections.abc import Mapping
from dataclasses import dataclass

from .errors import UsageError
from .gpu_selection import Selection, select_gpus
from .gpus import Gpu, Inventory
from .inherited import inherit_options
from .nodes import RendezvousPlan, plan_rendezvous
from .options import LaunchOptions

__all__ = ["LaunchPlan", "Machine", "make_plan"]

# Another launcher's variables, which a single process would take for its own, besides all that begin with PET_.
_TORCH_VARIABLES = (
    "RANK",
    "LOCAL_RANK",
    "WORLD_SIZE",
    "LOCAL_WORLD_SIZE",
    "GROUP_RANK",
    "GROUP_WORLD_SIZE",
    "MASTER_ADDR",
    "MASTER_PORT",
    "ROLE_RANK",
    "ROLE_NAME",
    "ROLE_WORLD_SIZE",
    "TORCHELASTIC_RUN_ID",
    "TORCHELASTIC_RESTART_COUNT",
    "TORCHELASTIC_MAX_RESTARTS",
    "TORCHELASTIC_USE_AGENT_STORE",
    "TORCHELASTIC_ERROR_FILE",
    "TORCHELASTIC_SIGNALS_TO_HANDLE",
)


@dataclass(frozen=True)
class Machine:
    """What a plan depends on besides the options.

    Attributes:
        inventory: the machine's GPUs.
        environ: inherited environment variables.
        cores: CPU cores that this process may use.
        python: path of the Python interpreter.
        terminal: whether stdout is a terminal.
    """

    inventory: Inventory
    environ: Mapping[str, str]
    cores: int
    python: str
    terminal: bool = False


@dataclass(frozen=True)
class LaunchPlan:
    """Everything that a launch will do.

    Attributes:
        strategy: ``single``, ``dp`` or ``ddp``.
        reason: what was chosen and why, in one line.
        gpus: ids for ``CUDA_VISIBLE_DEVICES`` in PCI order; empty for the CPU.
        processes: workers on this node.
        environment: names and values of the variables set for every worker.
        unset: inherited variables that are removed for every worker.
        command: what each worker executes.
        rendezvous: where the nodes meet.
        supervised: whether the launcher stays as the workers' parent; if not, it becomes the one process.
        max_restarts: how often failed workers are restarted.
        grace: seconds that workers get to exit after a signal.
        log_dir: folder for one log file a rank, or None.
    """

    strategy: str
    reason: str
    gpus: tuple[str, ...]
    processes: int
    environment: tuple[tuple[str, str], ...]
    unset: tuple[str, ...]
    command: tuple[str, ...]
    rendezvous: RendezvousPlan
    supervised: bool
    max_restarts: int
    grace: float
    log_dir: str | None


@dataclass(frozen=True)
class _Choice:
    """What this node runs.

    Attributes:
        strategy: ``single``, ``dp`` or ``ddp``.
        processes: workers on this node.
        gpus: GPUs that the workers see.
        why: why this strategy, in a few words.
        why_cpu: why no GPU is used; empty if one is.
    """

    strategy: str
    processes: int
    gpus: tuple[Gpu, ...]
    why: str
    why_cpu: str


def make_plan(options: LaunchOptions, machine: Machine) -> LaunchPlan:
    """Return what to do for ``options`` on this machine.

    Raises:
        UsageError: the options contradict each other or the machine.
    """
    options = inherit_options(options, machine.environ)
    rendezvous = plan_rendezvous(options)
    selection = select_gpus(options.gpus, machine.inventory, machine.environ)
    choice = _choose(options, selection, several_nodes=rendezvous.several_nodes)
    supervised = choice.strategy == "ddp" or bool(options.max_restarts) or options.log_dir is not None
    environment = _environment(choice, rendezvous, machine)
    return LaunchPlan(
        strategy=choice.strategy,
        reason=_reason(choice, rendezvous, environment["CUDA_VISIBLE_DEVICES"], machine.environ),
        gpus=tuple(gpu.id for gpu in choice.gpus),
        processes=choice.processes,
        environment=tuple(sorted(environment.items())),
        unset=tuple(name for name in machine.environ if name in _TORCH_VARIABLES or name.startswith("PET_")),
        command=_command(options, machine, supervised),
        rendezvous=rendezvous,
        supervised=supervised,
        max_restarts=options.max_restarts or 0,
        grace=options.grace,
        log_dir=options.log_dir,
    )


def _choose(options: LaunchOptions, selection: Selection, *, several_nodes: bool) -> _Choice:
    """Return what this node runs, for these options and GPUs."""
    strategy, why = options.strategy, options.inherited.get("strategy", f"--strategy {options.strategy}")
    if strategy == "auto":
        strategy, why = _auto(options, selection, several_nodes)
    elif strategy != "ddp":
        _check_one_process(options, several_nodes)
    rule = {"single": _single, "dp": _dp, "ddp": _ddp}[strategy]
    processes, gpus = rule(options, selection)
    slices = [gpu.uuid for gpu in gpus if gpu.mig]
    if slices and len(gpus) > 1:
        raise UsageError(
            f"{strategy} would use {', '.join(gpu.id for gpu in gpus)}, but CUDA gives a process one MIG slice and "
            f"NCCL can't connect slices; choose one of {', '.join(slices)}, or whole GPUs, with --gpus"
        )
    return _Choice(strategy, processes, gpus, why, selection.why_none)


def _auto(options: LaunchOptions, selection: Selection, several_nodes: bool) -> tuple[str, str]:
    """Return the strategy and why: ddp if there is more than one process to run, else single."""
    if several_nodes:
        return "ddp", "auto: several nodes"
    if options.nproc is not None:
        return ("ddp" if options.nproc > 1 else "single"), f"auto: {options.say('nproc')}"
    if len(selection.gpus) > 1:
        return "ddp", f"auto: {len(selection.gpus)} GPUs"
    return "single", "auto: one GPU" if selection.gpus else "auto: no GPU"


def _check_one_process(options: LaunchOptions, several_nodes: bool) -> None:
    if several_nodes:
        raise UsageError(f"--strategy {options.strategy} runs on one node; several nodes need --strategy ddp")
    if options.nproc not in (None, 1):
        raise UsageError(
            f"--strategy {options.strategy} is one process, but --nproc is {options.nproc}; "
            "several processes need --strategy ddp"
        )


def _single(options: LaunchOptions, selection: Selection) -> tuple[int, tuple[Gpu, ...]]:
    if selection.explicit and len(selection.gpus) > 1:
        raise UsageError(
            f"single uses one GPU, but --gpus {options.gpus} names {len(selection.gpus)}; name one, or remove "
            f"{'--strategy single' if options.strategy == 'single' else '--nproc 1'}"
        )
    return 1, selection.gpus[:1]


def _dp(options: LaunchOptions, selection: Selection) -> tuple[int, tuple[Gpu, ...]]:
    if len(selection.gpus) < 2:
        found = "one GPU" if selection.gpus else f"no GPU ({selection.why_none})"
        raise UsageError(f"--strategy dp needs at least two GPUs, but there is {found}; use --strategy single")
    return 1, selection.gpus


def _ddp(options: LaunchOptions, selection: Selection) -> tuple[int, tuple[Gpu, ...]]:
    count = len(selection.gpus)
    if not count:
        if options.nproc is None:
            raise UsageError(f"ddp on the CPU needs --nproc, the number of processes ({selection.why_none})")
        return options.nproc, ()
    processes = count if options.nproc is None else options.nproc
    if processes > count:
        raise UsageError(
            f"{options.say('nproc')} is more processes than the {count} GPU{'s' * (count > 1)} "
            f"({', '.join(gpu.id for gpu in selection.gpus)}); --gpus none trains on the CPU"
        )
    if selection.explicit and processes < count:
        raise UsageError(
            f"--gpus {options.gpus} names {count} GPUs, but --nproc {processes} would leave some idle; remove --nproc"
        )
    return processes, selection.gpus[:processes]


def _environment(choice: _Choice, rendezvous: RendezvousPlan, machine: Machine) -> dict[str, str]:
    order = machine.environ.get("CUDA_DEVICE_ORDER", "PCI_BUS_ID")
    # A number means nvidia-smi's GPU in PCI order only; a UUID means the same in any order.
    ids = [gpu.id if order == "PCI_BUS_ID" else gpu.uuid for gpu in choice.gpus]
    environment = {
        "CUDA_DEVICE_ORDER": order,
        "CUDA_VISIBLE_DEVICES": ",".join(ids),
        "IGNITE_LAUNCH_STRATEGY": choice.strategy,
        "IGNITE_LAUNCH_BACKEND": "nccl" if choice.gpus else "gloo",
    }
    if choice.processes > 1 and "OMP_NUM_THREADS" not in machine.environ:
        environment["OMP_NUM_THREADS"] = str(max(1, machine.cores // choice.processes))
    if rendezvous.interface:
        environment |= dict.fromkeys(("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME"), rendezvous.interface)
    return environment


def _command(options: LaunchOptions, machine: Machine, supervised: bool) -> tuple[str, ...]:
    # On a terminal Python writes line by line. Elsewhere it buffers, and a worker that is killed would lose output.
    unbuffered = supervised and (not machine.terminal or options.log_dir is not None)
    target = ("-m", options.script) if options.module else (options.script,)
    return (machine.python, *(("-u",) if unbuffered else ()), *target, *options.arguments)


def _reason(choice: _Choice, rendezvous: RendezvousPlan, ids: str, environ: Mapping[str, str]) -> str:
    place = f"the CPU ({choice.why_cpu})"
    if choice.gpus:
        names = ", ".join(dict.fromkeys(gpu.name for gpu in choice.gpus))
        place = f"GPU{'s' * (len(choice.gpus) > 1)} {ids} ({names})"
        if "CUDA_VISIBLE_DEVICES" in environ:
            place += f", from CUDA_VISIBLE_DEVICES={environ['CUDA_VISIBLE_DEVICES']} in nvidia-smi's order"
    plural = "es" * (choice.processes > 1)
    text = f"{choice.strategy} ({choice.why}): {choice.processes} process{plural} on {place}"
    if rendezvous.several_nodes:
        least, most = rendezvous.min_nodes, rendezvous.max_nodes
        count = most if least == most else f"{least} to {most}"
        text += f", on each of {count} nodes, rendezvous at {rendezvous.host}:{rendezvous.port}"
        text += f", from {rendezvous.source}" if rendezvous.source else ""
    return text
