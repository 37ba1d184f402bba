"""The machine's GPUs as NVML reports them."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from .errors import LaunchError

__all__ = ["Gpu", "Inventory", "format_gpus", "format_memory", "read_driver_version", "read_inventory"]


@dataclass(frozen=True)
class Gpu:
    """A whole GPU, or one MIG slice of a GPU: what CUDA calls a device.

    Attributes:
        index: the GPU's number in nvidia-smi, which counts in PCI bus order.
        uuid: ``GPU-…`` or ``MIG-…``.
        name: product name.
        memory_free: bytes, or None if the driver doesn't report it, as for memory shared with the CPU.
        memory_total: bytes, or None.
        processes: number of compute and graphics processes on it, or None if the driver doesn't report it.
        mig: whether it is a MIG slice; the GPU it is part of is not listed then.
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
        """Its name in ``CUDA_VISIBLE_DEVICES`` in PCI order: a number, or the UUID of a slice."""
        return self.uuid if self.mig else str(self.index)


@dataclass(frozen=True)
class Inventory:
    """The machine's GPUs in nvidia-smi's order.

    Attributes:
        gpus: all of them.
        why_none: why there is none; empty if there are any.
    """

    gpus: tuple[Gpu, ...]
    why_none: str = ""


def read_inventory() -> Inventory:
    """Ask NVML for the machine's GPUs; without a driver there are none.

    Raises:
        LaunchError: there is a driver, but it returns an error.
    """
    import pynvml

    try:
        with _nvml(pynvml):
            count = pynvml.nvmlDeviceGetCount()
            gpus = tuple(gpu for index in range(count) for gpu in _gpu_or_slices(pynvml, index))
    except (pynvml.NVMLError_LibraryNotFound, pynvml.NVMLError_DriverNotLoaded):
        return Inventory((), "no NVIDIA driver found")
    except pynvml.NVMLError as error:
        raise LaunchError(
            f"cannot read the GPUs: NVML returned {str(error)!r}; --gpus none trains on the CPU"
        ) from error
    return Inventory(gpus, "" if gpus else "the NVIDIA driver reports no GPU")


def read_driver_version() -> str:
    """Return the NVIDIA driver's version; "" without a driver, or if it returns an error."""
    import pynvml

    try:
        with _nvml(pynvml):
            return _decode(pynvml.nvmlSystemGetDriverVersion())
    except pynvml.NVMLError:
        return ""


@contextmanager
def _nvml(pynvml: Any) -> Iterator[None]:
    pynvml.nvmlInit()
    try:
        yield
    finally:
        pynvml.nvmlShutdown()


def _gpu_or_slices(pynvml: Any, index: int) -> Iterator[Gpu]:
    """Yield GPU ``index``, or its slices if it is in MIG mode."""
    handle = pynvml.nvmlDeviceGetHandleByIndex(index)
    if not _mig_enabled(pynvml, handle):
        yield _read_gpu(pynvml, handle, index, mig=False)
        return
    for position in range(pynvml.nvmlDeviceGetMaxMigDeviceCount(handle)):
        try:
            mig_slice = pynvml.nvmlDeviceGetMigDeviceHandleByIndex(handle, position)
        except pynvml.NVMLError_NotFound:
            continue
        yield _read_gpu(pynvml, mig_slice, index, mig=True)


def _mig_enabled(pynvml: Any, handle: Any) -> bool:
    modes = _ask(pynvml, pynvml.nvmlDeviceGetMigMode, handle)
    return modes is not None and bool(modes[0] == pynvml.NVML_DEVICE_MIG_ENABLE)


def _read_gpu(pynvml: Any, handle: Any, index: int, *, mig: bool) -> Gpu:
    memory = _ask(pynvml, pynvml.nvmlDeviceGetMemoryInfo, handle)
    return Gpu(
        index=index,
        uuid=_decode(pynvml.nvmlDeviceGetUUID(handle)),
        name=_decode(pynvml.nvmlDeviceGetName(handle)),
        memory_free=memory and int(memory.free),
        memory_total=memory and int(memory.total),
        processes=_count_processes(pynvml, handle),
        mig=mig,
    )


def _count_processes(pynvml: Any, handle: Any) -> int | None:
    compute = _ask(pynvml, pynvml.nvmlDeviceGetComputeRunningProcesses, handle)
    if compute is None:  # a driver older than 510
        compute = _ask(pynvml, pynvml.nvmlDeviceGetComputeRunningProcesses_v2, handle)
    if compute is None:
        return None
    graphics = _ask(pynvml, pynvml.nvmlDeviceGetGraphicsRunningProcesses, handle) or []
    return len({process.pid for process in (*compute, *graphics)})


def _ask(pynvml: Any, query: Callable[[Any], Any], handle: Any) -> Any:
    """Return NVML's answer, or None if the driver or device doesn't support the query or the user may not ask."""
    try:
        return query(handle)
    except (pynvml.NVMLError_NotSupported, pynvml.NVMLError_FunctionNotFound, pynvml.NVMLError_NoPermission):
        return None


def _decode(value: str | bytes) -> str:
    return value.decode() if isinstance(value, bytes) else value


def format_memory(size: int | None) -> str:
    """Return a size in bytes as GiB, or "?" if it is unknown."""
    return "?" if size is None else f"{size / 2**30:.1f} GiB"


def format_gpus(gpus: tuple[Gpu, ...]) -> str:
    """Return a table of the GPUs: number, name, free and total memory, processes, UUID.

    Example:
        >>> print(format_gpus((Gpu(0, "GPU-4f", "NVIDIA L4", 20 * 2**30, 23 * 2**30, 0),)))
        GPU  name       free      total     processes  UUID
        0    NVIDIA L4  20.0 GiB  23.0 GiB  0          GPU-4f
    """
    rows = [("GPU", "name", "free", "total", "processes", "UUID")]
    for gpu in gpus:
        memory = format_memory(gpu.memory_free), format_memory(gpu.memory_total)
        processes = "?" if gpu.processes is None else str(gpu.processes)
        rows.append((str(gpu.index), gpu.name, *memory, processes, gpu.uuid))
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows)
    return "\n".join(line.rstrip() for line in lines)
