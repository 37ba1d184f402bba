"""--dry-run: the plan as JSON, and the equivalent shell command."""

import json
import subprocess
from pathlib import Path

import pytest

from tests.ignite_launch.nvml import fake_nvml, gpu
from tests.ignite_launch.support import environment, launch

_ECHO = """
import json, os, sys
names = "CUDA_VISIBLE_DEVICES CUDA_DEVICE_ORDER IGNITE_LAUNCH_STRATEGY IGNITE_LAUNCH_BACKEND OMP_NUM_THREADS RANK"
names += " WORLD_SIZE LOCAL_RANK LOCAL_WORLD_SIZE GROUP_RANK"
line = json.dumps([sys.argv, {name: os.environ.get(name) for name in names.split()}])
os.write(1, f"{line}\\n".encode())  # in one piece, which print() does not: the ranks write at once
"""


@pytest.mark.parametrize("options", [["--strategy", "dp"], ["--gpus", "1,0"]])
def test_the_shell_command_is_equivalent(tmp_path: Path, options: list[str]) -> None:
    """Run by a shell, the command gives the script the same arguments and variables as the launcher."""
    (tmp_path / "echo me.py").write_text(_ECHO)
    machine = fake_nvml(gpu("GPU-aa"), gpu("GPU-bb")) | {"RANK": "5"}
    command = [*options, "echo me.py", "a b", "$HOME ${local_rank}", "--", "'"]
    dry = launch(tmp_path, "--dry-run", *command, **machine)
    (tmp_path / "hand").mkdir()  # torchrun leaves a folder in the temporary directory
    by_hand = subprocess.run(
        dry.err.splitlines()[-1],
        shell=True,
        cwd=tmp_path,
        env=environment(tmp_path, **machine, TMPDIR=str(tmp_path / "hand")),
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert sorted(by_hand.stdout.splitlines()) == sorted(launch(tmp_path, *command, **machine).out.splitlines())


def test_a_dry_run_prints_json_and_touches_nothing(tmp_path: Path) -> None:
    """Stdout is one JSON object, no script runs, no folder is created and torch is not imported."""
    (tmp_path / "s.py").write_text("open('ran', 'w')")
    options = ["--nproc", "2", "--log-dir", "logs", "--max-restarts", "3", "--grace", "2.5"]
    (tmp_path / "no").mkdir()
    (tmp_path / "no" / "torch.py").write_text("raise ImportError('the launcher imports torch')")
    before = sorted(path.name for path in tmp_path.iterdir())
    result = launch(tmp_path, "--dry-run", *options, "s.py", "é", PYTHONPATH=str(tmp_path / "no"))
    assert result.code == 0, result.err
    plan = json.loads(result.out)
    assert plan["command"][1:] == ["-u", "s.py", "é"]
    assert (plan["processes"], plan["log_dir"], plan["max_restarts"], plan["grace"]) == (2, "logs", 3, 2.5)
    left = {path.name for path in tmp_path.iterdir()} - {"launch.out", "launch.err", "tmp"}
    assert sorted(left) == before
