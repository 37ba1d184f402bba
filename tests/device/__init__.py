"""The accelerator that device tests run on: the machine's GPU, or a substitute if there is none.

A test module starts it at import, because torch's autograd counts the devices once, at the first backward pass.
"""

import ctypes
import fcntl
import functools
import hashlib
import os
import shutil
import subprocess
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

import pytest
import torch

__all__ = ["NAME", "start", "waits"]

NAME = "cuda" if torch.cuda.is_available() else "standin"


@functools.cache
def start() -> ctypes.CDLL | None:
    """Register the device with torch, for the rest of the process; return None if it is a GPU."""
    if NAME == "cuda":
        return None
    library = _build()
    torch.ops.load_library(library)
    device = ctypes.CDLL(str(library))
    device.start_device()
    torch.utils.rename_privateuse1_backend(NAME)
    torch._register_device_module(NAME, _Module(NAME))
    return device


@contextmanager
def waits() -> Iterator[list[str]]:
    """Yield a list of the operations in the block that make the host wait for the device; complete at its end."""
    found: list[str] = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        _warn_of_waits(True)
        try:
            yield found
        finally:
            _warn_of_waits(False)
    # CUDA also warns that its warnings are a prototype.
    told = (str(warning.message).splitlines()[0] for warning in caught)
    found += [message for message in told if "prototype" not in message]


class _Module(ModuleType):
    """The module ``torch.<device>`` that torch expects."""

    def is_available(self) -> bool:
        return False  # DataParallel would use it in all later tests

    def device_count(self) -> int:
        return 1

    def current_device(self) -> int:
        return 0

    def get_amp_supported_dtype(self) -> list[torch.dtype]:
        return [torch.float16, torch.bfloat16]

    def _is_in_bad_fork(self) -> bool:
        return False

    def manual_seed_all(self, seed: int) -> None:
        """The device uses the CPU's generator."""


def _warn_of_waits(warn: bool) -> None:
    device = start()
    if device is None:
        torch.cuda.set_sync_debug_mode("warn" if warn else "default")
    else:
        device.warn_of_waits(warn)


def _build() -> Path:
    """Compile device.cpp for this torch, once per version of both."""
    compiler = shutil.which("c++")
    if compiler is None:
        pytest.skip("there is no C++ compiler (c++) to build the device with", allow_module_level=True)
    source, home = Path(__file__).with_name("device.cpp"), Path(torch.__file__).parent
    version = hashlib.sha256(source.read_bytes() + f"{home} {torch.__version__}".encode()).hexdigest()[:16]
    target = Path(tempfile.gettempdir(), f"ignite_tips_tests_{os.getuid()}", f"device_{version}.so")
    if target.exists():
        return target
    target.parent.mkdir(mode=0o700, exist_ok=True)
    with open(target.with_suffix(".lock"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # another process of the same tests may be compiling it
        if not target.exists():
            _compile(compiler, source, target)
    return target


def _compile(compiler: str, source: Path, target: Path) -> None:
    home = Path(torch.__file__).parent
    headers = [f"-I{home / 'include'}", f"-I{home / 'include/torch/csrc/api/include'}"]
    libraries = [f"-L{home / 'lib'}", "-ltorch", "-ltorch_cpu", "-lc10"]
    unfinished = target.with_suffix(f".{os.getpid()}")
    command = [compiler, "-std=c++20", "-O1", "-shared", "-fPIC", *headers, source, "-o", unfinished, *libraries]
    subprocess.run(command, check=True)
    unfinished.rename(target)
