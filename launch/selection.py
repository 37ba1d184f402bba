"""From what the user names to devices: ``--gpus`` within what ``CUDA_VISIBLE_DEVICES`` leaves."""

from collections.abc import Mapping
from dataclasses import dataclass

from .devices import Device, Inventory, format_memory
from .digits import is_whole_number
from .errors import UsageError

__all__ = ["Selection", "select_devices"]

_PCI = "PCI_BUS_ID"


@dataclass(frozen=True)
class Selection:
    """The devices that a launch may use.

    Attributes:
        devices: in the order in which CUDA will number them.
        explicit: whether the user named each of them or how many, so that none may be left idle.
        why_none: why there is none; empty if there is one.
    """

    devices: tuple[Device, ...]
    explicit: bool
    why_none: str = ""


@dataclass(frozen=True)
class _Universe:
    devices: tuple[Device, ...]
    why_none: str
    setting: str = ""

    def listing(self) -> str:
        if not self.devices:
            return f"there is no GPU: {self.why_none}"
        return (f"{self.setting} leaves: " if self.setting else "there are: ") + ", ".join(
            f"{device.id} ({device.name}, {format_memory(device.memory_free)} free, "
            f"{'?' if device.processes is None else device.processes} processes)"
            for device in self.devices
        )


def select_devices(text: str | None, inventory: Inventory, environ: Mapping[str, str]) -> Selection:
    """Return the devices that ``text``, the value of ``--gpus``, selects; None is ``all``.

    Raises:
        UsageError: an id is unknown, hidden, given twice or ambiguous, or kinds are mixed.
    """
    text = None if text is None else text.strip()
    if text == "none":
        return Selection((), True, "--gpus none")
    universe = _universe(inventory, environ)
    if text is None or text == "all":
        if text == "all" and not universe.devices:
            raise UsageError(f"--gpus all: {universe.listing()}")
        return Selection(universe.devices, False, universe.why_none)
    if text == "free" or text.startswith("free:"):
        return Selection(_most_free(text, universe), True)
    return Selection(_named(f"--gpus {text}", text, universe), True)


def _universe(inventory: Inventory, environ: Mapping[str, str]) -> _Universe:
    """Return what an inherited ``CUDA_VISIBLE_DEVICES`` leaves of the machine's devices."""
    visible = environ.get("CUDA_VISIBLE_DEVICES")
    whole = _Universe(inventory.devices, inventory.absence)
    if visible is None or not inventory.devices:
        return whole
    setting = f"CUDA_VISIBLE_DEVICES={visible}"
    if visible.strip() in ("", "-1", "NoDevFiles"):
        return _Universe((), f"{setting} hides every GPU")
    order = environ.get("CUDA_DEVICE_ORDER", _PCI)
    if order != _PCI and any(entry.strip().isdecimal() for entry in visible.split(",")):
        raise UsageError(
            f"{setting} counts in CUDA_DEVICE_ORDER={order}, which only CUDA knows; "
            f"name the GPUs by UUID, or set CUDA_DEVICE_ORDER={_PCI}"
        )
    return _Universe(_named(setting, visible, whole), "", setting)


def _named(setting: str, text: str, universe: _Universe) -> tuple[Device, ...]:
    chosen: list[Device] = []
    kinds: set[str] = set()
    for entry in (part.strip() for part in text.split(",")):
        device, kind = _find(setting, entry, universe)
        if device in chosen:
            raise UsageError(f"{setting} names GPU {device.id} twice; {universe.listing()}")
        chosen.append(device)
        kinds.add(kind)
    if len(kinds) > 1:
        raise UsageError(
            f"{setting} mixes {' and '.join(sorted(kinds))}, of which CUDA would drop some; {universe.listing()}"
        )
    return tuple(chosen)


def _find(setting: str, entry: str, universe: _Universe) -> tuple[Device, str]:
    """Return the one device that ``entry`` names, and the kind of name it is."""
    if is_whole_number(entry):
        found = [device for device in universe.devices if device.index == int(entry)]
        slices = [device.uuid for device in found if device.mig]
        if slices:
            raise UsageError(f"{setting}: GPU {int(entry)} is split into MIG slices; name one of {', '.join(slices)}")
        kind = "numbers"
    elif entry.startswith(("GPU-", "MIG-")) and len(entry) > 4:
        # CUDA takes the start of a UUID for the whole where only one device has it.
        found = [device for device in universe.devices if device.uuid == entry] or [
            device for device in universe.devices if device.uuid.startswith(entry)
        ]
        if len(found) > 1:
            matches = ", ".join(device.uuid for device in found)
            raise UsageError(f"{setting}: {entry!r} is the start of more than one UUID: {matches}")
        kind = "MIG slices" if entry.startswith("MIG-") else "GPU UUIDs"
    else:
        raise UsageError(f"{setting}: {entry!r} is no GPU number, GPU-… or MIG-… UUID; {universe.listing()}")
    if not found:
        raise UsageError(f"{setting}: there is no GPU {entry}; {universe.listing()}")
    return found[0], kind


def _most_free(text: str, universe: _Universe) -> tuple[Device, ...]:
    """Return the N devices with the most free memory among those that no process uses, in nvidia-smi's order."""
    _, _, number = text.partition(":")
    if not (is_whole_number(number) and int(number) > 0):
        raise UsageError(f"--gpus {text}: after 'free:' must stand a number > 0, as in free:2")
    idle = [device for device in universe.devices if device.processes == 0]
    if len(idle) < int(number):
        raise UsageError(
            f"--gpus {text} needs {number} idle GPUs, but {len(idle)} of {len(universe.devices)} have no process on "
            f"them; {universe.listing()}"
        )
    best = sorted(idle, key=lambda device: -(device.memory_free or 0))[: int(number)]
    return tuple(device for device in universe.devices if device in best)
