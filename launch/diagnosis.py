"""``--env``: what a bug report needs to know of this machine, as text."""

import os
import platform
import resource
import shutil
import socket
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from .gpus import Inventory, format_gpus, read_driver_version
from .preflight import interface_addresses

__all__ = ["describe_environment"]

_SHM = "/dev/shm"
_PACKAGES = ("ignite-tips", "pytorch-ignite", "torch", "nvidia-ml-py")
_VARIABLES = (
    *("CUDA_", "NCCL_", "GLOO_", "TORCH", "IGNITE_LAUNCH_", "SLURM_", "PET_", "OMPI_", "PMI", "OMP_", "MKL_"),
    *("MASTER_", "RANK", "LOCAL_", "WORLD_SIZE", "GROUP_", "LOGLEVEL", "LD_LIBRARY_PATH", "PYTHON", "NVIDIA_"),
)


def describe_environment(environ: Mapping[str, str], inventory: Inventory) -> str:
    """Return versions, GPUs, driver, NCCL, network interfaces, limits and the variables that matter, a line each."""
    import torch

    nccl: Any = torch.cuda.nccl
    has_nccl = torch.distributed.is_nccl_available()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    interfaces = ", ".join(f"{name} {address}" for name, address in interface_addresses().items())
    facts = {
        **{package: _version(package) for package in _PACKAGES},
        "CUDA of torch": torch.version.cuda or "none",
        "NCCL of torch": ".".join(map(str, nccl.version())) if has_nccl else "none",
        "Python": platform.python_version(),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "driver": read_driver_version() or "none found",
        "GPUs": f"\n{format_gpus(inventory.gpus)}" if inventory.gpus else f"none: {inventory.why_none}",
        "host": f"{socket.gethostname()}, which resolves to {_resolve_own_name()}",
        "interfaces": interfaces or "none with an address",
        "open files": f"{soft}, at most {hard}",
        "/dev/shm": f"{shutil.disk_usage('/dev/shm').free / 2**30:.1f} GiB free"
        if os.path.isdir("/dev/shm")
        else "none",
    }
    lines = [f"{name}: {fact}" for name, fact in facts.items()]
    return "\n".join(lines + [f"{name}={environ[name]}" for name in sorted(environ) if name.startswith(_VARIABLES)])


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def _resolve_own_name() -> str:
    try:
        return socket.gethostbyname(socket.gethostname())
    except OSError as error:
        return f"nothing ({error.strerror})"
