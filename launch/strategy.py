"""Which strategy, how many processes, on which of the selected devices; and why."""

from dataclasses import dataclass

from .devices import Device
from .errors import UsageError
from .options import LaunchOptions
from .selection import Selection

__all__ = ["Decision", "decide"]


@dataclass(frozen=True)
class Decision:
    """What one node runs.

    Attributes:
        strategy: ``single``, ``dp`` or ``ddp``.
        processes: workers on this node.
        devices: those that the workers see.
        why: the ground for the strategy, a few words.
        why_cpu: the ground for using no GPU; empty if one is used.
    """

    strategy: str
    processes: int
    devices: tuple[Device, ...]
    why: str
    why_cpu: str


def decide(options: LaunchOptions, selection: Selection, *, several_nodes: bool) -> Decision:
    """Return what to run on this node for these options and devices.

    Raises:
        UsageError: the options contradict each other or the devices.
    """
    strategy, why = options.strategy, f"--strategy {options.strategy}"
    if strategy == "auto":
        strategy, why = _choose(options, selection, several_nodes)
    elif strategy != "ddp":
        _check_one_process(options, several_nodes)
    rule = {"single": _single, "dp": _dp, "ddp": _ddp}[strategy]
    processes, devices = rule(options, selection)
    slices = [device.uuid for device in devices if device.mig]
    if slices and len(devices) > 1:
        ids = ", ".join(device.id for device in devices)
        raise UsageError(
            f"{strategy} would use {ids}, but CUDA gives a process one MIG slice and NCCL connects none: "
            f"name one of {', '.join(slices)}, or whole GPUs, with --gpus"
        )
    return Decision(strategy, processes, devices, why, selection.why_none)


def _choose(options: LaunchOptions, selection: Selection, several_nodes: bool) -> tuple[str, str]:
    """Return what ``auto`` means here: ddp wherever there is more than one process to run."""
    if several_nodes:
        return "ddp", "auto: several nodes"
    if options.nproc is not None:
        return ("ddp" if options.nproc > 1 else "single"), f"auto: --nproc {options.nproc}"
    if len(selection.devices) > 1:
        return "ddp", f"auto: {len(selection.devices)} GPUs"
    return "single", "auto: one GPU" if selection.devices else "auto: no GPU"


def _check_one_process(options: LaunchOptions, several_nodes: bool) -> None:
    if several_nodes:
        raise UsageError(f"--strategy {options.strategy} runs on one node; several nodes need --strategy ddp")
    if options.nproc not in (None, 1):
        raise UsageError(
            f"--strategy {options.strategy} is one process, but --nproc is {options.nproc}; "
            "several processes need --strategy ddp"
        )


def _single(options: LaunchOptions, selection: Selection) -> tuple[int, tuple[Device, ...]]:
    if selection.explicit and len(selection.devices) > 1:
        raise UsageError(
            f"single uses one GPU, but --gpus {options.gpus} names {len(selection.devices)}; name one, or leave out "
            "--strategy"
        )
    return 1, selection.devices[:1]


def _dp(options: LaunchOptions, selection: Selection) -> tuple[int, tuple[Device, ...]]:
    if len(selection.devices) < 2:
        there = "one GPU" if selection.devices else f"no GPU ({selection.why_none})"
        raise UsageError(f"--strategy dp needs at least two GPUs, but there is {there}; use --strategy single")
    return 1, selection.devices


def _ddp(options: LaunchOptions, selection: Selection) -> tuple[int, tuple[Device, ...]]:
    gpus = len(selection.devices)
    if not gpus:
        if options.nproc is None:
            raise UsageError(f"ddp on the CPU needs --nproc, the number of processes ({selection.why_none})")
        return options.nproc, ()
    processes = gpus if options.nproc is None else options.nproc
    if processes > gpus:
        raise UsageError(
            f"--nproc {processes} is more processes than the {gpus} GPU{'s' * (gpus > 1)} "
            f"({', '.join(device.id for device in selection.devices)}); --gpus none trains on the CPU"
        )
    if selection.explicit and processes < gpus:
        raise UsageError(
            f"--gpus {options.gpus} names {gpus} GPUs, but --nproc {processes} would leave some idle; leave out --nproc"
        )
    return processes, selection.devices[:processes]
