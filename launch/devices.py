"""The machine's GPUs, as NVML reports them, behind one small interface."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from .errors import LaunchError

__all__ = ["Device", "Inventory", "format_devices", "format_memory", "read_inventory"]


@dataclass(frozen=True)
class Device:
    """What CUDA can be pointed at: a whole GPU, or one MIG slice of a GPU.

    Attributes:
        index: the GPU's number in nvidia-smi's order, which is that of the PCI bus.
        uuid: ``GPU-…`` or ``MIG-…``.
        name: the product's name.
        memory_free: bytes; None where the driver does not say, as for memory shared with the CPU.
        memory_total: bytes, or None likewise.
        processes: how many processes compute or draw on it; None where the driver does not say.
        mig: whether it is a slice; its GPU then does not appear itself.
    """

    index: int
    uuid: str
    name: str
    memory_free: int | None
    memory_total: int | None
    processes: int | None
    mig: bool = False

    @property
    def id(self) -> str:
        """How ``CUDA_VISIBLE_DEVICES`` names it in PCI order: a slice has no number of its own."""
        return self.uuid if self.mig else str(self.index)


@dataclass(frozen=True)
class Inventory:
    """The devices in nvidia-smi's order and, where there are none, why."""

    devices: tuple[Device, ...]
    absence: str = ""


def read_inventory() -> Inventory:
    """Ask NVML for the machine's devices; a machine without a driver has none.

    Raises:
        LaunchError: there is a driver, and it answers with an error.
    """
    import pynvml

    try:
        with _nvml(pynvml):
            count = pynvml.nvmlDeviceGetCount()
            devices = tuple(device for index in range(count) for device in _devices_of(pynvml, index))
    except (pynvml.NVMLError_LibraryNotFound, pynvml.NVMLError_DriverNotLoaded):
        return Inventory((), "no NVIDIA driver was found")
    except pynvml.NVMLError as error:
        raise LaunchError(
            f"cannot read the GPUs: NVML answers {str(error)!r}; --gpus none trains on the CPU"
        ) from error
    return Inventory(devices, "" if devices else "the NVIDIA driver reports no GPU")


@contextmanager
def _nvml(pynvml: Any) -> Iterator[None]:
    pynvml.nvmlInit()
    try:
        yield
    finally:
        pynvml.nvmlShutdown()


def _devices_of(pynvml: Any, index: int) -> Iterator[Device]:
    """Yield GPU ``index``, or its slices when it is in MIG mode."""
    gpu = pynvml.nvmlDeviceGetHandleByIndex(index)
    if not _mig_enabled(pynvml, gpu):
        yield _device(pynvml, gpu, index, mig=False)
        return
    for position in range(pynvml.nvmlDeviceGetMaxMigDeviceCount(gpu)):
        try:
            mig_slice = pynvml.nvmlDeviceGetMigDeviceHandleByIndex(gpu, position)
        except pynvml.NVMLError_NotFound:
            continue
        yield _device(pynvml, mig_slice, index, mig=True)


def _mig_enabled(pynvml: Any, gpu: Any) -> bool:
    modes = _ask(pynvml, pynvml.nvmlDeviceGetMigMode, gpu)
    return modes is not None and bool(modes[0] == pynvml.NVML_DEVICE_MIG_ENABLE)


def _device(pynvml: Any, handle: Any, index: int, *, mig: bool) -> Device:
    memory = _ask(pynvml, pynvml.nvmlDeviceGetMemoryInfo, handle)
    return Device(
        index=index,
        uuid=_text(pynvml.nvmlDeviceGetUUID(handle)),
        name=_text(pynvml.nvmlDeviceGetName(handle)),
        memory_free=memory and int(memory.free),
        memory_total=memory and int(memory.total),
        processes=_count_processes(pynvml, handle),
        mig=mig,
    )


def _count_processes(pynvml: Any, handle: Any) -> int | None:
    computing = _ask(pynvml, pynvml.nvmlDeviceGetComputeRunningProcesses, handle)
    if computing is None:  # a driver older than 510
        computing = _ask(pynvml, pynvml.nvmlDeviceGetComputeRunningProcesses_v2, handle)
    if computing is None:
        return None
    drawing = _ask(pynvml, pynvml.nvmlDeviceGetGraphicsRunningProcesses, handle) or []
    return len({process.pid for process in (*computing, *drawing)})


def _ask(pynvml: Any, query: Callable[[Any], Any], handle: Any) -> Any:
    """Return NVML's answer, or None if this driver, device or user does not get one."""
    try:
        return query(handle)
    except (
        pynvml.NVMLError_NotSupported,
        pynvml.NVMLError_FunctionNotFound,
        pynvml.NVMLError_NoPermission,
    ):
        return None


def _text(value: str | bytes) -> str:
    return value.decode() if isinstance(value, bytes) else value


def format_memory(size: int | None) -> str:
    """Return a size in bytes as GiB, "?" if it is not known."""
    return "?" if size is None else f"{size / 2**30:.1f} GiB"


def format_devices(devices: tuple[Device, ...]) -> str:
    """Return a table of the devices: index, name, memory free and total, processes, UUID.

    Example:
        >>> print(format_devices((Device(0, "GPU-4f", "NVIDIA L4", 20 * 2**30, 23 * 2**30, 0),)))
        GPU  name       free      total     processes  UUID
        0    NVIDIA L4  20.0 GiB  23.0 GiB  0          GPU-4f
    """
    rows = [("GPU", "name", "free", "total", "processes", "UUID")]
    rows += [
        (
            str(device.index),
            device.name,
            format_memory(device.memory_free),
            format_memory(device.memory_total),
            "?" if device.processes is None else str(device.processes),
            device.uuid,
        )
        for device in devices
    ]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )
