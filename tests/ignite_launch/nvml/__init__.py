"""NVML for machines without a GPU: the real bindings load a small C library, which the tests compile."""

import functools
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest

__all__ = ["fake_nvml", "gpu"]


def gpu(
    uuid: str, *, name: str = "NVIDIA L4", free: int | str = 20_480, processes: int | str = 0, kind: str = "gpu"
) -> str:
    """Return a device as nvml.c reads it; ``free`` of 24 GiB, in MiB."""
    return f"{uuid}|{name}|{free}|24576|{processes}|{kind}"


def fake_nvml(*devices: str) -> dict[str, str]:
    """Return the variables with which a process finds these devices, and a driver, instead of the machine's."""
    return {"LD_LIBRARY_PATH": str(_library().parent), "FAKE_NVML": ";".join(devices)}


@functools.cache
def _library() -> Path:
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("there is no C compiler (cc) to build the fake NVML with")
    target = Path(tempfile.mkdtemp(prefix="fake_nvml_"), "libnvidia-ml.so.1")
    source = Path(__file__).with_name("nvml.c")
    subprocess.run([compiler, "-Wall", "-Werror", "-shared", "-fPIC", "-o", target, source], check=True)
    return target
