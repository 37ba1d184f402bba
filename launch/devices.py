"""The machine's GPUs, as NVML reports them, behind one small interface."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from .errors import LaunchError

__all__ = ["Device", "Inventory", "format_devices", "read_inventory"]


@dataclass(frozen=True)
class Device:
    """What CUDA can be pointed at: a whole GPU, or one MIG slice of a GPU.

    Attributes:
        index: the GPU's number in nvidia-smi's order, which is that of the PCI bus.
        uuid: ``GPU-…`` or ``MIG-…``.
        name: the product's name.
        memory_free: bytes.
        memory_total: bytes.
        processes: how many processes compute or draw on it.
        mig: whether it is a slice; its GPU then does not appear itself.
    """

    index: int
    uuid: str
    name: str
    memory_free: int
    memory_total: int
    processes: int
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
    try:
        current, _pending = pynvml.nvmlDeviceGetMigMode(gpu)
    except (pynvml.NVMLError_NotSupported, pynvml.NVMLError_FunctionNotFound):
        return False
    return bool(current == pynvml.NVML_DEVICE_MIG_ENABLE)


def _device(pynvml: Any, handle: Any, index: int, *, mig: bool) -> Device:
    memory = pynvml.nvmlDeviceGetMemoryInfo(handle)
    return Device(
        index=index,
        uuid=_text(pynvml.nvmlDeviceGetUUID(handle)),
        name=_text(pynvml.nvmlDeviceGetName(handle)),
        memory_free=int(memory.free),
        memory_total=int(memory.total),
        processes=_count_processes(pynvml, handle),
        mig=mig,
    )


def _count_processes(pynvml: Any, handle: Any) -> int:
    pids: set[int] = set()
    for query in (pynvml.nvmlDeviceGetComputeRunningProcesses, pynvml.nvmlDeviceGetGraphicsRunningProcesses):
        try:
            pids.update(process.pid for process in query(handle))
        except (pynvml.NVMLError_NotSupported, pynvml.NVMLError_FunctionNotFound):
            continue
    return len(pids)


def _text(value: str | bytes) -> str:
    return value.decode() if isinstance(value, bytes) else value


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
            f"{device.memory_free / 2**30:.1f} GiB",
            f"{device.memory_total / 2**30:.1f} GiB",
            str(device.processes),
            device.uuid,
        )
        for device in devices
    ]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )
