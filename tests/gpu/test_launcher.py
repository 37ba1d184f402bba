"""The launcher with the machine's own driver and GPU."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.gpu import HAS_GPU
from tests.ignite_launch.support import environment, launch

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not HAS_GPU, reason="needs an NVIDIA GPU and its driver")]
SEEN = """
import os
import torch
from torch import nn
from ignite_tips import process_group, wrap_model
with process_group() as strategy:
    model = wrap_model(nn.Linear(2, 2))
    model(torch.ones(2, 2, device="cuda")).sum().backward()
    device = next(model.parameters()).device
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    print(visible, torch.cuda.device_count(), strategy.name, device, type(model).__name__)
"""


@pytest.fixture
def script(tmp_path: Path) -> str:
    (tmp_path / "s.py").write_text(SEEN)
    return "s.py"


def test_list_gpus_agrees_with_torch(tmp_path: Path) -> None:
    """One row per GPU, with torch's name and UUID, numbered as in nvidia-smi."""
    result = launch(tmp_path, "--list-gpus")
    assert (result.code, result.err) == (0, "")
    header, *rows = result.out.splitlines()
    assert header.split() == ["GPU", "name", "free", "total", "processes", "UUID"]
    assert len(rows) == torch.cuda.device_count()
    assert rows[0].startswith("0 ")
    assert torch.cuda.get_device_name(0) in rows[0]
    assert str(torch.cuda.get_device_properties(0).uuid) in rows[0]


@pytest.mark.parametrize("gpus", ["0", "all", "free:1"])
def test_the_script_trains_on_the_requested_gpu(tmp_path: Path, script: str, gpus: str) -> None:
    """It sees one GPU and trains on it in one process, without a wrapper."""
    if gpus == "free:1" and _has_processes(tmp_path):
        pytest.skip("the GPU is not free: it has processes")
    result = launch(tmp_path, "--gpus", gpus, script)
    assert (result.code, result.out) == (0, "0 1 single cuda:0 Linear\n"), result.err


def test_a_gpu_can_be_named_by_its_uuid(tmp_path: Path, script: str) -> None:
    """By the UUID that --list-gpus prints."""
    uuid = re.search(r"GPU-[0-9a-f-]+", launch(tmp_path, "--list-gpus").out)
    assert uuid is not None
    result = launch(tmp_path, "--gpus", uuid.group(), script)
    assert result.code == 0, result.err
    assert result.out.split()[1:] == ["1", "single", "cuda:0", "Linear"]


def test_ddp_of_one_gpu_is_kept(tmp_path: Path, script: str) -> None:
    """It was requested, and trains over nccl."""
    result = launch(tmp_path, "--gpus", "0", "--strategy", "ddp", script)
    assert (result.code, result.out) == (0, "0 1 ddp cuda:0 DistributedDataParallel\n"), result.err


def test_only_the_launcher_refuses_data_parallel_of_one_gpu(tmp_path: Path, script: str) -> None:
    """DataParallel needs two; a script started with its environment variables trains on the one GPU."""
    refused = launch(tmp_path, "--gpus", "0", "--strategy", "dp", script)
    assert (refused.code, refused.out) == (2, "")
    assert refused.err.startswith("ignite-launch: error: --strategy dp needs at least two GPUs, but there is one GPU")
    variables = environment(tmp_path, CUDA_VISIBLE_DEVICES="0", IGNITE_LAUNCH_STRATEGY="dp")
    command = [sys.executable, script]
    told = subprocess.run(command, cwd=tmp_path, env=variables, capture_output=True, text=True, timeout=60)
    assert told.stdout == "0 1 dp cuda:0 DataParallel\n", told.stderr


def test_a_missing_gpu_is_refused(tmp_path: Path, script: str) -> None:
    """One sentence, before the script starts."""
    result = launch(tmp_path, "--gpus", "0,7", script)
    assert (result.code, result.out) == (2, "")
    assert re.fullmatch(r"ignite-launch: error: .*7.*\n", result.err)


@pytest.mark.parametrize("visible", ["7", "0,0", "0;1", "GPU-nonsense"])
def test_a_wrong_cuda_visible_devices_is_refused(tmp_path: Path, script: str, visible: str) -> None:
    """CUDA would silently read it as fewer GPUs, or none."""
    result = launch(tmp_path, script, CUDA_VISIBLE_DEVICES=visible)
    assert (result.code, result.out) == (2, "")
    assert re.fullmatch(r"ignite-launch: error: .*CUDA_VISIBLE_DEVICES.*\n", result.err)


def _has_processes(tmp_path: Path) -> bool:
    row = launch(tmp_path, "--list-gpus").out.splitlines()[1].split()
    return row[-2] not in ("0", "?")
