"""Choice of GPUs: ``--gpus``, within the GPUs that ``CUDA_VISIBLE_DEVICES`` allows."""

from collections.abc import Mapping
from dataclasses import dataclass

from .arguments import parse_integer
from .errors import UsageError
from .gpus import Gpu, Inventory, format_memory

__all__ = ["Selection", "select_gpus"]

_PCI = "PCI_BUS_ID"


@dataclass(frozen=True)
class Selection:
    """The GPUs that a launch may use.

    Attributes:
        gpus: in the order in which CUDA will number them.
        explicit: whether the user named each of them, or how many; then none may be left idle.
        why_none: why there is none; empty if there are any.
    """

    gpus: tuple[Gpu, ...]
    explicit: bool
    why_none: str = ""


@dataclass(frozen=True)
class _Available:
    """The GPUs to choose from.

    Attributes:
        gpus: all that the machine has, or that ``setting`` allows.
        why_none: why there is none.
        setting: the ``CUDA_VISIBLE_DEVICES`` that limits them, or empty.
    """

    gpus: tuple[Gpu, ...]
    why_none: str
    setting: str = ""

    def __str__(self) -> str:
        if not self.gpus:
            return f"no GPU is available: {self.why_none}"
        return (f"{self.setting} allows: " if self.setting else "available: ") + ", ".join(
            f"{gpu.id} ({gpu.name}, {format_memory(gpu.memory_free)} free, "
            f"{'?' if gpu.processes is None else gpu.processes} processes)"
            for gpu in self.gpus
        )


def select_gpus(text: str | None, inventory: Inventory, environ: Mapping[str, str]) -> Selection:
    """Return the GPUs that ``text``, the value of ``--gpus``, selects; None means ``all``.

    Raises:
        UsageError: an id is unknown, hidden, given twice or ambiguous, or numbers are mixed with UUIDs.
    """
    text = None if text is None else text.strip()
    if text == "none":
        return Selection((), True, "--gpus none")
    available = _find_available(inventory, environ)
    if text is None or text == "all":
        if text == "all" and not available.gpus:
            raise UsageError(f"--gpus all: {available}")
        return Selection(available.gpus, False, available.why_none)
    if text == "free" or text.startswith("free:"):
        return Selection(_select_free(text, available), True)
    return Selection(_select_named(f"--gpus {text}", text, available), True)


def _find_available(inventory: Inventory, environ: Mapping[str, str]) -> _Available:
    """Return the machine's GPUs that an inherited ``CUDA_VISIBLE_DEVICES`` allows."""
    visible = environ.get("CUDA_VISIBLE_DEVICES")
    machine = _Available(inventory.gpus, inventory.why_none)
    if visible is None or not inventory.gpus:
        return machine
    setting = f"CUDA_VISIBLE_DEVICES={visible}"
    if visible.strip() in ("", "-1", "NoDevFiles"):
        return _Available((), f"{setting} hides every GPU")
    order = environ.get("CUDA_DEVICE_ORDER", _PCI)
    if order != _PCI and any(entry.strip().isdecimal() for entry in visible.split(",")):
        raise UsageError(
            f"{setting} uses numbers in CUDA_DEVICE_ORDER={order}, an order that only CUDA knows; "
            f"name the GPUs by UUID, or set CUDA_DEVICE_ORDER={_PCI}"
        )
    return _Available(_select_named(setting, visible, machine), "", setting)


def _select_named(setting: str, text: str, available: _Available) -> tuple[Gpu, ...]:
    chosen: list[Gpu] = []
    kinds: set[str] = set()
    for entry in (part.strip() for part in text.split(",")):
        gpu, kind = _find(setting, entry, available)
        if gpu in chosen:
            raise UsageError(f"{setting} names GPU {gpu.id} twice; {available}")
        chosen.append(gpu)
        kinds.add(kind)
    if len(kinds) > 1:
        mixed = " and ".join(sorted(kinds))
        raise UsageError(f"{setting} mixes {mixed}, and CUDA would ignore some of them; {available}")
    return tuple(chosen)


def _find(setting: str, entry: str, available: _Available) -> tuple[Gpu, str]:
    """Return the one GPU that ``entry`` names, and what kind of name it is."""
    if (index := parse_integer(entry)) is not None:
        found, kind = _find_index(setting, index, available), "numbers"
    elif entry.startswith(("GPU-", "MIG-")) and len(entry) > 4:
        found = _find_uuid(setting, entry, available)
        kind = "MIG slices" if entry.startswith("MIG-") else "GPU UUIDs"
    else:
        raise UsageError(f"{setting}: {entry!r} is not a GPU number or a GPU-… or MIG-… UUID; {available}")
    if not found:
        raise UsageError(f"{setting}: there is no GPU {entry}; {available}")
    return found[0], kind


def _find_index(setting: str, index: int, available: _Available) -> list[Gpu]:
    found = [gpu for gpu in available.gpus if gpu.index == index]
    slices = [gpu.uuid for gpu in found if gpu.mig]
    if slices:
        raise UsageError(f"{setting}: GPU {index} is split into MIG slices; name one of {', '.join(slices)}")
    return found


def _find_uuid(setting: str, entry: str, available: _Available) -> list[Gpu]:
    """Return the GPU with this UUID, or the one whose UUID starts so: CUDA accepts a unique prefix."""
    found = [gpu for gpu in available.gpus if gpu.uuid == entry] or [
        gpu for gpu in available.gpus if gpu.uuid.startswith(entry)
    ]
    if len(found) > 1:
        matches = ", ".join(gpu.uuid for gpu in found)
        raise UsageError(f"{setting}: {entry!r} is the start of more than one UUID: {matches}")
    return found


def _select_free(text: str, available: _Available) -> tuple[Gpu, ...]:
    """Return the N GPUs with the most free memory among those without a process, in nvidia-smi's order."""
    number = text.partition(":")[2]
    count = parse_integer(number)
    if not count:
        raise UsageError(f"--gpus {text}: free: needs a number > 0, as in free:2")
    idle = [gpu for gpu in available.gpus if gpu.processes == 0]
    if len(idle) < count:
        raise UsageError(
            f"--gpus {text} needs {number} idle GPUs, but {len(idle)} of {len(available.gpus)} have no process on "
            f"them; {available}"
        )
    best = sorted(idle, key=lambda gpu: -(gpu.memory_free or 0))[:count]
    return tuple(gpu for gpu in available.gpus if gpu in best)
